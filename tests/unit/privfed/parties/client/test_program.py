"""A client's program from the first `hello` to the last `closed`: what it answers, and to whom."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from accountants import Ledger, LedgerCorruptError, epsilon
from privfed import Plain
from privfed.identity.keys import Identity, Role
from privfed.methods.method import vector_digest
from privfed.parties.client.node import ClientNode
from privfed.parties.client.program import after_the_end
from privfed.parties.client.run import ClientRun
from privfed.protocol.envelopes import Envelope, statement_of
from privfed.protocol.kinds import (
    CLIENT,
    CLOSED,
    FETCH_STATE,
    FINISH,
    HELLO,
    LISTING,
    NEXT_BASE,
    OF,
    PROPOSAL,
    READY,
    REASON,
    REFUSAL,
    RELEASED,
    ROUNDS,
    START,
    STATE,
    SUM,
    TRAIN,
    opened_by,
)
from tests.unit.privfed.parties.apart import EARLIER, INITIAL, SIGMAS

ME = "client-1"
SECRET = "/srv/ward 7"


def one_ready(apart, run="", name=ME):
    return apart.read(apart.ready([name], run), run)[0]


class TestHello:
    def test_it_says_what_it_brings(self, apart):
        said = one_ready(apart)
        node = apart.programs[ME].node
        assert said.client == ME
        assert said.facts == apart.facts[ME]
        assert said.facts.noise_multiplier == SIGMAS[ME]
        assert said.anchor == node.ledger.anchor()
        (event,) = node.ledger.events()
        assert event.steps == EARLIER[ME]
        relation = apart.settings.privacy.neighbouring
        assert said.epsilon == epsilon([event], 2e-3, relation).upper > 0
        assert said.standing is None

    def test_its_number_is_fresh_each_time(self, apart):
        assert len({one_ready(apart).nonce for _ in range(9)}) == 9

    def test_other_settings_are_refused_by_both_their_names(self, apart):
        other = replace(apart.settings, title="other letters").proposal().digest()
        mine, apart.proposal = apart.proposal, other
        reason = apart.reason(ME, apart.message(HELLO))
        assert f"was given other settings (SHA-256 {mine}) than the run has ('{other}')" in reason

    def test_so_is_what_is_no_digest(self, apart):
        apart.proposal = ["x"] * 999
        assert len(apart.reason(ME, apart.message(HELLO))) < 400

    def test_a_client_or_a_stranger_is_refused(self, apart):
        stranger = Identity.generate("hub", Role.AGGREGATOR)
        assert "has the role" in apart.reason(ME, apart.message(HELLO, sender="client-2"))
        reason = apart.reason(ME, apart.message(HELLO, key=stranger))
        assert "'hub' must carry its signature" in reason

    @pytest.mark.parametrize("about", [{"stated": {"more": 1}}, {"blobs": {"more": b""}}], ids=str)
    def test_nothing_more_is_asked(self, apart, about):
        assert "in its 'hello'" in apart.reason(ME, apart.message(HELLO, **about))

    def test_of_a_new_run_no_round_is_over(self, apart):
        assert "round 1; expected" in apart.reason(ME, apart.message(HELLO, number=1))

    def test_a_run_that_is_not_open_is_refused(self, apart):
        message = apart.message(HELLO, run="0a1b")
        assert apart.reason(ME, message) == "MessageError: no run is open here"
        run, _ = apart.begun()
        assert f"the run {run} is open here, and no other" in apart.reason(ME, message)

    def test_a_new_one_is_while_another_has_begun(self, apart):
        run = apart.aggregator()
        run.begin()
        assert one_ready(apart).standing is None, "nothing was released"
        run.play_round()
        reason = apart.reason(ME, apart.message(HELLO))
        assert f"the run {run.record.run} is open here, and another cannot begin" in reason
        assert apart.standing(ME, run.record.run, 1).round == 1

    def test_all_are_after_the_one_that_was_allowed(self, apart):
        run = apart.aggregator()
        run.begin()
        apart.programs[ME].handle(apart.finish(run.record))
        for about in ("", run.record.run):
            reason = apart.reason(ME, apart.message(HELLO, run=about))
            assert "has played the run that its operator allowed" in reason

    def test_it_is_not_played_again_after_a_restart_until_its_operator_allows_it(self, apart):
        run = apart.aggregator()
        run.begin()
        apart.programs[ME].handle(apart.finish(run.record))
        for _ in range(2):
            apart.restart(ME)
            for message in (apart.message(HELLO), apart.message(START, run="0a1b")):
                assert "has played the run that its operator" in apart.reason(ME, message)
        apart.files[ME].allow_again(apart.proposal)
        assert one_ready(apart).standing is None
        again, _ = apart.begun()
        assert apart.programs[ME].membership.name == again != run.record.run

    def test_what_its_ledger_says_stays_with_it(self, apart, monkeypatch):
        def damaged(_):
            raise LedgerCorruptError(f"{SECRET} is damaged")

        monkeypatch.setattr(Ledger, "anchor", damaged)
        reply = apart.programs[ME].handle(apart.message(HELLO))
        assert SECRET.encode() not in reply
        assert apart.reason(ME, apart.message(HELLO)) == "LedgerCorruptError: see the client's log"
        log = apart.settings.state / "clients" / ME / "topics" / "client.log"
        assert SECRET in log.read_text()


class TestStanding:
    def test_at_the_beginning(self, apart):
        run, _ = apart.begun()
        standing = apart.standing(ME, run)
        assert (standing.round, standing.base) == (0, vector_digest(INITIAL))
        assert standing.before is None, "there is nothing to go back to"
        assert standing.epoch == apart.programs[ME].membership.starting.epoch
        assert (standing.next_status, standing.agreed, standing.given_up) == (None, None, None)

    def test_after_a_restart_it_has_no_key(self, apart):
        run, _ = apart.begun()
        apart.restart(ME)
        assert apart.standing(ME, run).epoch == ""

    @pytest.mark.parametrize("restarted", [False, True])
    def test_what_it_can_go_back_to(self, apart, restarted):
        run = apart.aggregator()
        run.begin()
        bases = [run.reached.base]
        for _ in range(2):
            run.play_round()
            bases.append(run.reached.base)
        if restarted:
            apart.restart(ME)
        standing = apart.standing(ME, run.record.run, 2)
        assert (standing.round, standing.base, standing.before) == (2, bases[2], bases[1])

    def test_it_is_asked_about_the_round_after_those_that_are_over(self, apart):
        """By what the aggregator knows, whatever this client has come to."""
        run = apart.aggregator()
        run.begin()
        run.play_round()
        first = apart.standing(ME, run.record.run, 0)
        assert (first.round, first.next_status) == (1, "committed")
        assert first.agreed == tuple(apart.names)
        second = apart.standing(ME, run.record.run, 1)
        assert (second.round, second.next_status, second.agreed) == (1, None, None)

    def test_whether_the_next_round_was_trained(self, apart, monkeypatch):
        run = apart.aggregator()
        run.begin()
        message = last_of(apart, run, LISTING)
        assert apart.standing(ME, run.record.run).next_status == "committed"
        assert apart.standing(ME, run.record.run).agreed is None
        apart.programs[ME].handle(message[ME])
        assert apart.standing(ME, run.record.run).agreed == tuple(apart.names)
        assert apart.standing("client-2", run.record.run).agreed is None, "it was not asked"

    def test_or_lost_while_it_was(self, apart, monkeypatch):
        run = apart.aggregator()
        run.begin()
        message = last_of(apart, run, TRAIN)
        monkeypatch.setattr(ClientNode, "update", lambda *_: 1 / 0)
        apart.programs[ME].handle(message[ME])
        assert apart.standing(ME, run.record.run).next_status == "reserved"

    def test_why_the_next_round_is_closed(self, apart):
        run, _ = apart.begun()
        why = {"reason": "too few", "missing": ["client-3"]}
        apart.memories[ME].resume(run).close(1, why)
        apart.memories[ME].resume(run).close(2, {"reason": "another"})
        assert apart.standing(ME, run).given_up == why
        assert apart.standing(ME, run, 1).given_up == {"reason": "another"}
        assert apart.standing(ME, run, 2).given_up is None

    def test_in_clear_nothing_is_remembered(self, make_apart):
        apart = make_apart(encryption=Plain())
        ready = apart.ready()
        apart.programs[ME].handle(apart.start(ready))
        standing = apart.standing(ME, apart.epoch(ready)[:32])
        assert (standing.agreed, standing.given_up) == (None, None)


def last_of(apart, run, kind):
    """The messages of this kind that a round would send; it ends there."""

    class Stopped(Exception):
        pass

    real, found = apart.exchange, []

    def exchange(messages):
        if statement_of(next(iter(messages.values()))).kind == kind:
            found.append(messages)
            raise Stopped
        return real(messages)

    run.presence.beginning = replace(run.presence.beginning, exchange=exchange)
    with pytest.raises(Stopped):
        run.play_round()
    return found[0]


class TestOtherMessages:
    @pytest.mark.parametrize("kind", [TRAIN, LISTING, SUM, "abandon", "update", "x"])
    def test_without_a_run_they_are_refused_in_known_words(self, apart, kind):
        reason = apart.reason(ME, apart.message(kind, run="0a1b", number=1))
        assert reason == "MessageError: no run is open here"

    @pytest.mark.parametrize("message", [b"", b"PRIVFED\x03", bytes(200)])
    def test_what_is_no_message_is_refused(self, apart, message):
        assert apart.ask(ME, message).statement.kind == REFUSAL

    @pytest.mark.parametrize("kind", [RuntimeError, KeyError, ZeroDivisionError, MemoryError])
    def test_what_nobody_foresaw_is_refused_without_its_words(self, apart, monkeypatch, kind):
        def fails(_):
            raise kind(SECRET)

        monkeypatch.setattr(Ledger, "anchor", fails)
        reply = apart.programs[ME].handle(apart.message(HELLO))
        assert Envelope.from_bytes(reply).statement.sender == ME
        assert SECRET.encode() not in reply
        reason = apart.reason(ME, apart.message(HELLO))
        assert reason == f"{kind.__name__}: see the client's log"
        log = (apart.settings.state / "clients" / ME / "topics" / "client.log").read_text()
        assert SECRET in log
        assert "Traceback" in log
        monkeypatch.undo()
        assert one_ready(apart).client == ME, "it goes on"

    def test_nor_is_it_of_a_round(self, apart, monkeypatch):
        run = apart.aggregator()
        run.begin()
        message = last_of(apart, run, SUM)[ME]

        def fails(*_):
            raise RuntimeError(SECRET)

        monkeypatch.setattr(ClientRun, "handle", fails)
        assert apart.reason(ME, message) == "RuntimeError: see the client's log"

    def test_in_a_run_they_go_to_it(self, apart):
        apart.begun()
        assert "a client cannot answer a 'x'" in apart.reason(ME, apart.message("x"))


class TestTheAdapterForWhoMissedARound:
    @pytest.fixture
    def late(self, apart):
        """A run whose second round `client-1` missed."""
        run = apart.aggregator()
        run.begin()
        run.play_round()
        apart.away = {ME}
        run.play_round()
        apart.away = set()
        return run

    def fetched(self, apart, run, *, to=ME, number=2, **about):
        return apart.message(
            FETCH_STATE, run=run.record.run, number=number, stated={CLIENT: to}, **about
        )

    def relayed(self, apart, run, *, number=2, opened=None, **about):
        held = apart.programs["client-2"].membership.progress.round
        sent = apart.programs["client-2"].handle(self.fetched(apart, run, number=held))
        statements = run.reached.opened if opened is None else opened
        blobs = {opened_by(name): one for name, one in statements.items()}
        return apart.message(
            STATE, run=run.record.run, number=number, blobs={**blobs, STATE: sent}, **about
        )

    def test_it_is_given_by_another_and_kept(self, apart, late):
        run, peer = late.record.run, apart.programs["client-2"].membership.progress
        message = self.relayed(apart, late)
        assert peer.state.adapter.tobytes() not in message
        before = apart.programs[ME].membership.progress.base
        said = apart.ask(ME, message).statement
        assert said.kind == READY
        assert said.manifest["standing"]["base"] == peer.base == late.reached.base != before
        assert said.manifest["standing"]["epoch"] == "", "it needs the key of a new epoch"
        apart.restart(ME)
        mine = apart.programs[ME].membership.progress.state
        assert np.array_equal(mine.adapter, peer.state.adapter)
        assert apart.standing(ME, run).round == 2

    def test_then_it_plays_on(self, apart, late):
        late.play_round()
        assert late.record.rounds[2].clients == tuple(apart.names)
        assert {one.membership.progress.base for one in apart.programs.values()} == {
            late.reached.base
        }

    def test_not_to_one_that_was_left_out(self, apart):
        run = apart.aggregator()
        run.begin()
        run.play_round()
        message = self.fetched(apart, run, to="client-3", number=1)
        assert apart.ask("client-2", message).statement.kind == STATE
        apart.left_out("client-3")
        for restarted in (False, True):
            if restarted:
                apart.restart("client-2")
            reason = apart.reason("client-2", message)
            assert "only a client of the run is given its adapter" in reason
        others = self.fetched(apart, run, number=1)
        assert apart.ask("client-2", others).statement.kind == STATE

    def test_nor_does_one_that_was_left_out_vouch_for_it(self, apart):
        run = apart.aggregator()
        run.begin()
        run.play_round()
        few = {name: one for name, one in run.reached.opened.items() if name != ME}
        message = self.relayed(apart, run, number=1, opened=few)
        apart.left_out("client-3")
        reason = apart.reason(ME, message)
        assert "at least 3 clients" in reason
        assert "['client-0', 'client-2'] did" in reason
        assert apart.ask(ME, self.relayed(apart, run, number=1)).statement.kind == READY

    def test_only_the_aggregator_has_it_sent(self, apart, late):
        for make, name in ((self.fetched, "client-2"), (self.relayed, ME)):
            assert "has the role" in apart.reason(name, make(apart, late, sender="client-3"))

    @pytest.mark.parametrize("to", ["other", "hub", "client-9", 7, None])
    def test_only_to_a_client_of_the_run(self, apart, late, to):
        reason = apart.reason("client-2", self.fetched(apart, late, to=to))
        assert "only a client of the run is given its adapter" in reason

    @pytest.mark.parametrize("number", [1, 3])
    def test_only_of_the_round_at_which_the_sender_is(self, apart, late, number):
        reason = apart.reason("client-2", self.fetched(apart, late, number=number))
        assert f"round {number}; expected a 'fetch-state'" in reason

    def test_not_without_a_run(self, apart):
        message = apart.message(FETCH_STATE, run="0a1b", stated={CLIENT: "client-2"})
        assert apart.reason(ME, message) == "MessageError: no run is open here"

    @pytest.mark.parametrize("number", [0, 4])
    def test_it_is_not_taken_for_a_round_that_is_over_or_was_never_planned(
        self, apart, late, number
    ):
        reason = apart.reason(ME, self.relayed(apart, late, number=number))
        assert "this client has come to the end of round 1" in reason

    def test_nor_with_too_few_statements(self, apart, late):
        """Three are needed, as for a sum."""
        few = dict(list(late.reached.opened.items())[:2])
        before = apart.programs[ME].membership.progress
        reason = apart.reason(ME, self.relayed(apart, late, opened=few))
        assert "at least 3 clients must have stated what round 2 came to" in reason
        assert apart.programs[ME].membership.progress is before

    def test_nor_by_who_it_was_not_wrapped_to(self, apart, late):
        message = self.relayed(apart, late)
        reason = apart.reason("client-3", message)
        assert reason.startswith("EncryptionError: ")


class TestFinish:
    @pytest.fixture
    def over(self, apart):
        run = apart.aggregator()
        run.begin()
        return run

    def test_what_it_said_it_says_again(self, apart, over):
        message = apart.finish(over.record)
        said = apart.programs[ME].handle(message)
        assert Envelope.from_bytes(said).statement.kind == CLOSED
        assert apart.programs[ME].handle(message) == said
        apart.restart(ME)
        assert apart.programs[ME].handle(message) == said
        assert self.after(apart, message) == said

    def after(self, apart, message, proposal=None):
        """What a client whose program is gone says."""
        me, store = apart.identities[ME], apart.files[ME]
        return after_the_end(message, store, me, apart.roster, proposal or apart.proposal)

    def refused_after(self, apart, message):
        said = Envelope.from_bytes(self.after(apart, message)).statement
        assert (said.kind, said.sender) == (REFUSAL, ME)
        assert said.manifest[OF] == hashlib.sha256(message).hexdigest()
        return said.manifest[REASON]

    def test_before_the_end_nothing_was_said(self, apart, over):
        message = apart.finish(over.record)
        hello = apart.message(HELLO)
        assert self.after(apart, message) is self.after(apart, hello) is None
        apart.programs[ME].handle(message)
        other = apart.finish(over.record, run="0a1b")
        for asked in (other, hello):
            assert "has played the run that its operator" in self.refused_after(apart, asked)

    def test_its_operator_may_allow_another(self, apart, over):
        message = apart.finish(over.record)
        apart.programs[ME].handle(message)
        assert self.after(apart, message, "00" * 32) is None, "those are other settings"
        apart.files[ME].allow_again(apart.proposal)
        assert self.after(apart, message) is None

    def test_only_the_aggregator_hears_it(self, apart, over):
        apart.programs[ME].handle(apart.finish(over.record))
        message = apart.finish(over.record, sender="client-2")
        assert "has the role" in apart.reason(ME, message)
        assert "has the role" in self.refused_after(apart, message)
        message = apart.finish(over.record, told={PROPOSAL: "00" * 32})
        assert "states proposal" in self.refused_after(apart, message)
        assert self.refused_after(apart, b"PRIVFED").startswith("MessageError: ")

    def test_that_of_another_run_is_refused(self, apart, over):
        reason = apart.reason(ME, apart.finish(over.record, run="0a1b"))
        assert f"the run {over.record.run} is open here, and no other" in reason

    def test_so_is_one_that_forgets_a_round(self, apart, over):
        message = apart.finish(over.record)
        over.play_round()
        assert "has come to the end of round 1" in apart.reason(ME, message)
        assert apart.programs[ME].membership.name == over.record.run

    def test_and_one_that_is_told_of_no_rounds(self, apart, over):
        message = apart.message(FINISH, run=over.record.run, stated={})
        wanted = "must state ['given_up', 'left_out', 'next_base', 'released', 'rounds']"
        assert wanted in apart.reason(ME, message)

    @pytest.mark.parametrize("key", [NEXT_BASE, RELEASED])
    @pytest.mark.parametrize("value", ["00" * 32, None, 7])
    def test_one_about_another_adapter_is_refused(self, apart, over, key, value):
        reason = apart.reason(ME, apart.finish(over.record, told={key: value}))
        assert "to another adapter than after round 0" in reason
        assert apart.programs[ME].membership.name == over.record.run, "it is not over"

    def test_so_who_missed_the_last_round_must_be_given_it_first(self, apart, over):
        apart.away = {ME}
        over.play_round()
        apart.away = set()
        message = apart.finish(over.record)
        assert "to another adapter than after round 1" in apart.reason(ME, message)
        assert apart.ask("client-2", message).statement.kind == CLOSED

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"clients": ["client-0", "client-1", "client-2"]}, "was the sum of ['client-0'"),
            ({"clients": ["client-0", "client-2", "other"]}, "was the sum of ['client-0'"),
            ({"absent": ["other"]}, "must be one of clients of the run"),
        ],
        ids=str,
    )
    def test_one_of_other_contributors_or_strangers(self, apart, over, changes, named):
        over.play_round()
        (row,) = over.record.rounds
        message = apart.finish(over.record, told={ROUNDS: [row.to_json() | changes]})
        assert named in apart.reason(ME, message)
        assert apart.programs[ME].membership.name == over.record.run, "it is not over"
        assert apart.ask(ME, apart.finish(over.record)).statement.kind == CLOSED

    @pytest.mark.parametrize(
        "clients", [["client-0", "client-1"], ["client-0", "client-2", "other"]], ids=str
    )
    def test_in_clear_a_round_is_one_of_enough_clients_too(self, make_apart, clients):
        """Where nothing is remembered of whose sum it was."""
        apart = make_apart(encryption=Plain())
        run = apart.aggregator()
        run.begin()
        run.play_round()
        (row,) = run.record.rounds
        told = {ROUNDS: [row.to_json() | {"clients": clients}]}
        reason = apart.reason(ME, apart.finish(run.record, told=told))
        assert "round 1 must be one of clients of the run" in reason

    def test_a_simulation_is_asked_nothing(self, apart, over):
        program = apart.programs[ME]
        program._outside = replace(program._outside, closing=None)
        reason = apart.reason(ME, apart.finish(over.record))
        assert reason == "MessageError: no run is open here"
