"""A client takes part in one run at a time, and after a restart knows what it brought to it."""

from dataclasses import replace

import numpy as np
import pytest

from accountants import PoissonGaussian
from privfed.errors import MessageError, RunFolderError
from privfed.methods.method import GlobalState
from privfed.parties.client.kept_run import RunFiles
from privfed.parties.client.round import Progress
from privfed.protocol.kinds import HELLO, NO_RUN
from tests.unit.privfed.parties.apart import INITIAL

ME = "client-1"


def membership(apart, name=ME):
    return apart.programs[name].membership


def reserve(apart, run, number=1, name=ME):
    event = PoissonGaussian(noise_multiplier=2.5, sample_rate=0.25, steps=2)
    apart.programs[name].node.ledger.reserve(run, number, [event], lambda *_: None)


def at(number):
    state = GlobalState(adapter=INITIAL + number)
    return Progress(
        round=number,
        state=state,
        base=state.digest(),
        public_range=0.5 / (number + 1),
    )


class TestWhoIsInNoRun:
    def test_has_nothing_to_go_on_with(self, apart):
        mine = membership(apart)
        assert (mine.name, mine.epoch, mine.before, mine.has_begun) == (None, "", None, False)
        for ask in (lambda: mine.run, lambda: mine.progress, lambda: mine.terms(0)):
            with pytest.raises(MessageError, match=NO_RUN):
                ask()
        with pytest.raises(MessageError, match=NO_RUN):
            mine.require("0a1b")

    def test_may_begin_any(self, apart):
        membership(apart).require_allowed("")
        membership(apart).require_allowed("0a1b")


class TestWhoIsInOne:
    def test_is_in_no_other(self, apart):
        run, _ = apart.begun()
        membership(apart).require(run)
        with pytest.raises(MessageError, match=f"the run {run} is open here, and no other"):
            membership(apart).require("0a1b")

    def test_states_it_outside_of_epochs(self, apart):
        run, _ = apart.begun()
        terms = membership(apart).terms(2)
        assert (terms.run, terms.round) == (run, 2)
        assert terms.manifest["proposal"] == apart.proposal

    def test_gives_way_while_nothing_was_released(self, apart):
        first, _ = apart.begun()
        assert not membership(apart).has_begun
        second, _ = apart.begun()
        assert membership(apart).name == second != first
        apart.restart(ME)
        assert membership(apart).name == second

    @pytest.mark.parametrize("restarted", [False, True])
    def test_not_once_a_round_was_reserved(self, apart, restarted):
        """Its numbers may have left, whatever is known of how the round went."""
        run, _ = apart.begun()
        reserve(apart, run)
        if restarted:
            apart.restart(ME)
        assert membership(apart).has_begun
        reason = apart.reason(ME, apart.message(HELLO))
        assert reason == f"MessageError: the run {run} is open here, and another cannot begin"
        ready = apart.ready([name for name in apart.names if name != ME])
        start = apart.start(ready, apart.key(ready, left_out=[ME]), left_out=[ME])
        assert "another cannot begin" in apart.reason(ME, start)
        membership(apart).require_allowed(run)

    @pytest.mark.parametrize("restarted", [False, True])
    def test_nor_once_a_round_is_over(self, apart, restarted):
        run, _ = apart.begun()
        membership(apart).keep(at(1))
        membership(apart).move_to(at(1))
        if restarted:
            apart.restart(ME)
        with pytest.raises(MessageError, match=f"the run {run} is open here, and another"):
            membership(apart).require_allowed("0a1b")

    def test_what_was_spent_in_another_run_is_no_hindrance(self, apart):
        apart.begun()
        reserve(apart, "0a1b")
        assert not membership(apart).has_begun


class TestARestart:
    def test_all_but_the_key_is_known_again(self, apart):
        run, _ = apart.begun()
        before = membership(apart)
        apart.restart(ME)
        after = membership(apart)
        assert after.name == run
        assert after.starting == before.starting
        assert after.known == before.known == apart.facts
        assert np.array_equal(after.progress.state.adapter, INITIAL)
        assert (after.epoch, before.epoch) == ("", before.starting.epoch)
        with pytest.raises(MessageError, match=NO_RUN):
            _ = after.run

    def test_so_is_who_was_left_out_since(self, apart):
        apart.begun()
        apart.left_out("client-3")
        before = membership(apart).starting
        apart.restart(ME)
        after = membership(apart).starting
        assert list(after.facts) == apart.names[:3]
        assert (after.agreement, after.terms) == (before.agreement, before.terms)
        assert (after.scheme, after.largest_range) == (before.scheme, before.largest_range)
        assert set(membership(apart).known) == set(apart.names), "they brought it"

    @pytest.mark.parametrize(
        "change", [{"noise_multiplier": 2.0}, {"epsilon_before": 0.0}], ids=str
    )
    def test_who_brings_something_else_does_not_go_on(self, apart, change):
        apart.begun()
        with pytest.raises(MessageError, match=f"'{ME}' must bring to a run what it brought"):
            apart.restart(ME, **change)

    def test_nor_does_who_was_given_other_settings(self, apart):
        apart.begun()
        apart.settings = replace(apart.settings, title="other letters")
        with pytest.raises(MessageError, match="states proposal"):
            apart.restart(ME)

    def test_nor_from_what_is_damaged(self, apart):
        run, _ = apart.begun()
        folder = apart.settings.state / "clients" / ME / "topics" / "runs" / run
        (folder / "start").write_bytes(b"PRIVFED")
        with pytest.raises(MessageError):
            apart.restart(ME)
        apart.files[ME].release()
        (folder / "start").unlink()
        with pytest.raises(RunFolderError):
            apart.restart(ME)

    def test_who_was_stopped_before_its_first_checkpoint_gives_way(self, apart, monkeypatch):
        """It has not said that it began; so that run never did."""
        ready = apart.ready()
        start = apart.start(ready, apart.key(ready))

        def killed(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(RunFiles, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            apart.programs[ME].handle(start)
        monkeypatch.undo()
        apart.restart(ME)
        assert membership(apart).name == apart.epoch(ready)[:32]
        assert not membership(apart).has_begun
        assert apart.reason(ME, start) == f"MessageError: {NO_RUN}"
        reason = apart.reason(ME, apart.message(HELLO, run=membership(apart).name))
        assert "this client was stopped before it had begun" in reason
        again, _ = apart.begun()
        assert membership(apart).name == again

    def test_but_not_if_its_ledger_says_otherwise(self, apart):
        """Whoever removes the checkpoints does not make it begin another."""
        run, _ = apart.begun()
        reserve(apart, run)
        folder = apart.settings.state / "clients" / ME / "topics" / "runs" / run
        for path in folder.glob("round-*"):
            path.unlink()
        apart.restart(ME)
        with pytest.raises(MessageError, match="another cannot begin"):
            membership(apart).require_allowed("0a1b")


class TestMoving:
    def test_an_adapter_that_was_sent_is_kept(self, apart):
        run, _ = apart.begun()
        membership(apart).move_to(at(2))
        assert membership(apart).progress is not None
        assert (membership(apart).progress.round, membership(apart).before) == (2, None)
        assert membership(apart).epoch == "", "the key is that of an epoch before"
        with pytest.raises(MessageError, match=NO_RUN):
            _ = membership(apart).run
        apart.restart(ME)
        assert membership(apart).progress.base == at(2).base
        assert membership(apart).name == run


class TestWhoTakesPart:
    def test_nobody_where_there_is_no_run(self, apart):
        assert membership(apart).taking_part == frozenset()

    def test_all_but_those_left_out_though_they_are_known(self, apart):
        apart.begun()
        assert membership(apart).taking_part == set(apart.names)
        apart.left_out("client-3")
        assert membership(apart).taking_part == set(apart.names[:3])
        assert set(membership(apart).known) == set(apart.names)
        apart.restart(ME)
        assert membership(apart).taking_part == set(apart.names[:3])


class TestTheEnd:
    @pytest.mark.parametrize("restarted", [False, True])
    def test_it_is_over_for_good(self, apart, restarted):
        run, _ = apart.begun()
        membership(apart).close(b"what it said")
        if restarted:
            apart.restart(ME)
        mine = membership(apart)
        assert (mine.name, mine.said_at_the_end(run)) == (None, b"what it said")
        assert mine.said_at_the_end("0a1b") is None
        for other in ("", run, "0a1b"):
            with pytest.raises(MessageError, match="has played the run that its operator allowed"):
                mine.require_allowed(other)

    def test_its_operator_may_allow_another(self, apart):
        run, _ = apart.begun()
        membership(apart).close(b"what it said")
        apart.files[ME].allow_again(apart.proposal)
        apart.restart(ME)
        membership(apart).require_allowed("")
        again, _ = apart.begun()
        assert membership(apart).name == again != run

    def test_or_other_settings(self, apart):
        """What was said of the run before is still there, and that is not played again."""
        run, _ = apart.begun()
        membership(apart).close(b"what it said")
        apart.settings = replace(apart.settings, title="other letters")
        apart.proposal = apart.settings.proposal().digest()
        apart.restart(ME)
        membership(apart).require_allowed("")
        assert membership(apart).said_at_the_end(run) == b"what it said"
        with pytest.raises(MessageError, match="has played the run that its operator allowed"):
            membership(apart).require_allowed(run)
