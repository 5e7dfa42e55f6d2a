"""A run as its aggregator drives it: clients are lost in it, come back, or stay away."""

from dataclasses import replace

import pytest

from privfed import BFV, Plain
from privfed.encryption.ranges import RANGE
from privfed.errors import AwayError, MessageError, TooFewClientsError
from privfed.parties.aggregator import ending, presence, run
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import (
    ABANDON,
    ABSENT,
    FETCH_STATE,
    FINISH,
    HELLO,
    LEDGER,
    LISTING,
    MAKE_KEY,
    MISSING,
    NEXT_BASE,
    NOTE,
    OPENED,
    START,
    STATE,
    SUM,
    TRAIN,
)
from privfed.protocol.signing import refusal, signed_message
from privfed.reports.round_record import Abandoned, Reason
from tests.unit.privfed.parties.aggregator.speakers import Clock
from tests.unit.privfed.parties.separate import AFTER, BEFORE, WITHIN, Separate

NAMES = ["client-0", "client-1", "client-2", "client-3"]
PATIENCE = 5.0
BEGUN, ROUND = [HELLO, MAKE_KEY, START], [TRAIN, LISTING, SUM]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(presence, "time", clock)
    monkeypatch.setattr(run, "time", clock)
    return clock


@pytest.fixture
def separate(make_federation, tmp_path, clock):
    made = []

    def make(*, num_clients=4, encryption=None, rounds=4, begin=True, **following):
        federation = make_federation(
            num_clients=num_clients, encryption=encryption or BFV(), rounds=rounds
        )
        one = Separate(
            federation, tmp_path / "own", clock=clock, **{"patience_s": PATIENCE, **following}
        )
        made.append(one)
        if begin:
            one.aggregator.begin()
        return one

    yield make
    for one in made:
        one.close()


def back(parts, name, seconds):
    """A client is started again so many seconds from now."""
    parts.clock.after(seconds, lambda: parts.start(name))


def opened_as(parts, name, reply, **changes):
    """The statement of a client that opened, with something changed, signed by itself."""
    statement = statement_of(reply)
    assert statement.kind == OPENED
    terms = parts.aggregator.summing.terms_of_run(statement.round)
    own = {key: value for key, value in statement.manifest.items() if key not in terms.manifest}
    return signed_message(
        parts.programs[name].node.identity, terms, OPENED, manifest={**own, **changes}
    )


def says_absent(parts, name):
    def change(message, _):
        terms = parts.aggregator.summing.terms_of_run(statement_of(message).round)
        return signed_message(parts.programs[name].node.identity, terms, ABSENT)

    return change


class TestBeginning:
    def test_what_is_kept_before_the_first_round(self, separate):
        parts = separate()
        (kept,) = parts.kept
        record, epoch = kept.record, parts.aggregator.presence.epoch
        assert parts.kinds == BEGUN
        assert (record.run, record.over, record.baseline) == (epoch.run, 0, 0.625)
        assert record.public_range == record.first_range == epoch.public_range
        assert kept.base == parts.base("client-2")
        for name in NAMES:
            node, facts = parts.brought.nodes[name], parts.brought.facts[name]
            assert record.noise_multipliers[name] == node.config.noise_multiplier
            assert record.anchors[name] == node.ledger.anchor()
            assert (record.base_sha256, record.start_sha256) == (facts.base_weights, facts.start)
        assert len(set(record.noise_multipliers.values())) == 4

    def test_one_that_was_restarted_since_it_was_ready_is_waited_for(self, separate):
        """The start does not hold what it stated, since it states something new."""
        parts = separate(begin=False)

        def meanwhile(_, reply):
            parts.instead.clear()
            parts.start("client-2")
            return reply

        parts.instead[MAKE_KEY, "client-0"] = meanwhile
        parts.aggregator.begin()
        assert parts.kinds == [*BEGUN, *BEGUN]
        assert sorted(parts.aggregator.presence.epoch.ready) == NAMES
        assert len(parts.kept) == 1
        parts.aggregator.play_round()
        assert parts.record.rounds[0].clients == tuple(NAMES)

    def test_before_it_has_begun(self, separate):
        parts = separate()
        asked = replace(parts.aggregator, reached=None)
        assert asked.summing_or_none is None
        with pytest.raises(MessageError, match="the run has not begun"):
            _ = asked.record
        with pytest.raises(MessageError, match="the run has not begun"):
            asked.play_round()


class TestRounds:
    def test_one_key_and_one_reservation_for_each(self, separate):
        told = []
        parts = separate(on_round=told.append)
        for _ in range(2):
            parts.aggregator.play_round()
        assert parts.kinds == [*BEGUN, *ROUND, *ROUND]
        assert [reached.record.over for reached in parts.kept] == [0, 1, 2]
        assert told == list(parts.record.rounds)
        assert [row.clients for row in told] == [tuple(NAMES)] * 2
        for name in NAMES:
            node = parts.brought.nodes[name]
            assert parts.reserved(name) == [1, 2]
            assert parts.record.anchors[name] == node.ledger.anchor()
            assert told[1].epsilon[name] == node.epsilon_spent() > told[0].epsilon[name]
            assert parts.base(name) == parts.aggregator.reached.base
        assert sorted(parts.aggregator.reached.opened) == NAMES

    def test_what_is_not_kept_is_not_over(self, separate):
        told, parts = [], None

        def keep(reached):
            if reached.record.over:
                raise OSError("no room")
            return reached

        parts = separate(keep=keep, on_round=told.append)
        with pytest.raises(OSError, match="no room"):
            parts.aggregator.play_round()
        assert (parts.record.over, told) == (0, [])

    def test_an_anchor_that_goes_back_is_not_taken_over(self, separate):
        """It would let an older copy of that ledger in."""
        parts = separate(encryption=Plain())
        parts.aggregator.play_round()
        known = dict(parts.record.anchors)
        short = {"length": known["client-1"].length - 1, "head": "0" * 64}
        parts.instead[SUM, "client-1"] = lambda _, reply: opened_as(
            parts, "client-1", reply, **{LEDGER: short}
        )
        parts.aggregator.play_round()
        after = parts.record.anchors
        assert after["client-1"] == known["client-1"]
        assert all(after[n].length > known[n].length for n in NAMES if n != "client-1")

    def test_epsilon_of_one_that_is_away_is_what_it_stated_last(self, separate):
        parts = separate(encryption=Plain())
        parts.aggregator.play_round()
        parts.down.add("client-2")
        parts.aggregator.play_round()
        first, second = (row.epsilon for row in parts.record.rounds)
        assert second["client-2"] == first["client-2"]
        assert second["client-1"] > first["client-1"]
        assert parts.record.rounds[1].absent == ("client-2",)

    def test_a_range_that_does_not_fit_is_noted_once(self, separate):
        parts, note = separate(encryption=Plain()), f"{RANGE} cuts off a part"
        for name in NAMES:
            parts.instead[SUM, name] = lambda _, reply, own=name: opened_as(
                parts, own, reply, **{NOTE: note}
            )
        before = parts.record.notes
        with pytest.warns(UserWarning, match="cuts off a part"):
            parts.aggregator.play_round()
        parts.aggregator.play_round()
        assert parts.record.notes == (*before, note)

    def test_one_that_came_to_something_else_is_given_the_adapter(self, separate):
        parts = separate(encryption=Plain())

        def differs(_, reply):
            mine = parts.programs["client-1"].membership.run
            mine.progress = replace(mine.progress, base="e" * 64)
            return opened_as(parts, "client-1", reply, **{NEXT_BASE: "e" * 64})

        parts.instead[SUM, "client-1"] = differs
        parts.aggregator.play_round()
        assert parts.aggregator.presence.lost == {"client-1"}
        parts.instead.clear()
        parts.aggregator.play_round()
        assert parts.record.rounds[1].clients == tuple(NAMES)


class TestAClientThatIsLostInARound:
    def test_it_comes_back_and_nobody_pays_twice(self, separate):
        """It died between its update and its agreement: the round is played with a new key."""
        parts = separate()
        parts.dies[LISTING, 1, "client-2"] = BEFORE
        back(parts, "client-2", 2.0)
        parts.aggregator.play_round()
        tried, again = [*BEGUN, TRAIN, LISTING], [HELLO, *BEGUN, *ROUND]
        assert [k for k in parts.kinds if k != HELLO] == [k for k in tried + again if k != HELLO]
        assert 2.0 <= parts.clock.passed < PATIENCE
        assert parts.record.abandoned == ()
        assert parts.record.rounds[0].clients == tuple(NAMES)
        assert {name: parts.reserved(name) for name in NAMES} == {name: [1] for name in NAMES}
        assert {parts.base(name) for name in NAMES} == {parts.aggregator.reached.base}

    def test_one_that_stays_away_costs_one_round(self, separate):
        told = []
        parts = separate(on_abandoned=told.append)
        parts.dies[LISTING, 1, "client-2"] = BEFORE
        parts.aggregator.play_round()
        assert PATIENCE <= parts.clock.passed < PATIENCE + 2 * presence.PAUSE_S
        assert told == [Abandoned(round=1, reason=Reason.AWAY, missing=("client-2",))]
        assert (parts.record.rounds, list(parts.record.abandoned)) == ((), told)
        assert [reached.record.over for reached in parts.kept] == [0, 1]
        parts.aggregator.play_round()
        assert parts.record.rounds[0].clients == ("client-0", "client-1", "client-3")
        assert parts.record.abandoned[0].round == 1
        assert parts.reserved("client-2") == [1]
        assert parts.reserved("client-3") == [1, 2]

    def test_who_is_lost_is_named_to_those_who_give_up(self, separate):
        """And not waited for, although the sum that was not opened lacked one of them alone."""
        parts = separate(patience_s=0.0)
        parts.down.add("client-1")
        parts.dies[LISTING, 1, "client-2"] = BEFORE
        parts.aggregator.play_round()
        message = parts.messages[parts.kinds.index(ABANDON)]["client-0"]
        assert statement_of(message).manifest[MISSING] == ["client-1", "client-2"]
        assert parts.record.abandoned[0].missing == ("client-2",)

    def test_two_rounds_in_a_row_stop_the_run(self, separate):
        parts = separate(patience_s=0.0)
        parts.instead[LISTING, "client-2"] = lambda *_: None
        parts.aggregator.play_round()
        with pytest.raises(AwayError, match="--resume --without client-2") as caught:
            parts.aggregator.play_round()
        assert caught.value.missing == ("client-2",)
        assert [one.round for one in parts.record.abandoned] == [1, 2]
        assert parts.kept[-1].record == parts.record, "the second is kept too"

    def test_two_apart_do_not(self, separate):
        parts = separate(patience_s=0.0)
        for number in (1, 3):
            parts.instead[LISTING, "client-2"] = lambda *_: None
            parts.aggregator.play_round()
            parts.instead.clear()
            if number == 1:
                parts.aggregator.play_round()
        assert [one.round for one in parts.record.abandoned] == [1, 3]
        assert [row.round for row in parts.record.rounds] == [2]

    def test_too_few_updates_stop_it_at_once_with_what_else_is_known(self, separate):
        parts = separate(patience_s=0.0, advise=lambda one: f"Known of round {one.round}.")
        for name in NAMES[1:3]:
            parts.instead[TRAIN, name] = says_absent(parts, name)
        with pytest.raises(TooFewClientsError, match=r"2 contribution.*\. Known of round 1\.$"):
            parts.aggregator.play_round()
        assert parts.record.abandoned[0].reason is Reason.TOO_FEW
        assert parts.record.abandoned[0].missing == ("client-1", "client-2")

    def test_a_sum_that_nobody_could_open_costs_one_round(self, separate):
        parts = separate(patience_s=0.0)
        words = "SpoiledSumError: not that of its contributions"
        for name in NAMES:
            identity = parts.programs[name].node.identity
            parts.instead[SUM, name] = lambda message, _, own=identity: refusal(own, message, words)
        parts.aggregator.play_round()
        assert [one.reason for one in parts.record.abandoned] == [Reason.SPOILED]
        parts.instead.clear()
        parts.aggregator.play_round()
        assert [row.round for row in parts.record.rounds] == [2]
        assert len({parts.base(name) for name in NAMES}) == 1, "who had opened it went back"


class TestARoundThatIsGivenUp:
    @pytest.mark.parametrize("when", [BEFORE, AFTER, None])
    def test_one_that_dies_meanwhile_does_not_stop_the_run(self, separate, when):
        """Before it has recorded it or after it has; or it was restarted before it was asked."""
        parts = separate(patience_s=0.0)

        def silent(*_):
            if when is None:
                parts.start("client-1")

        parts.instead[LISTING, "client-2"] = silent
        if when is not None:
            parts.dies[ABANDON, 1, "client-1"] = when
        parts.aggregator.play_round()
        assert parts.to(ABANDON) == [NAMES]
        assert parts.kept[-1].record.abandoned == (
            Abandoned(round=1, reason=Reason.AWAY, missing=("client-2",)),
        )
        parts.instead.clear()
        parts.start("client-1")
        parts.aggregator.presence.lost.add("client-1")
        parts.aggregator.play_round()
        assert parts.record.rounds[0].clients == tuple(NAMES)
        assert {name: parts.reserved(name) for name in NAMES} == {name: [1, 2] for name in NAMES}

    def test_after_a_kill_before_it_was_kept_it_is_given_up_again(self, separate):
        """All clients had recorded it; who would train for it now would pay for nothing."""
        kept = []

        def keep(reached):
            if reached.record.abandoned and len(kept) == 1:
                kept.append(None)
                raise OSError("killed")
            kept.append(reached)
            return reached

        parts = separate(patience_s=0.0, keep=keep)
        parts.instead[LISTING, "client-2"] = lambda *_: None
        with pytest.raises(OSError, match="killed"):
            parts.aggregator.play_round()
        assert parts.to(ABANDON) == [NAMES]
        parts.instead.clear()
        parts.asked.clear()
        parts.aggregator = replace(parts.aggregator, reached=kept[0], _openers={}, _agreed={})
        parts.aggregator.begin()
        parts.aggregator.play_round()
        assert parts.kinds == [*BEGUN, ABANDON]
        given_up = Abandoned(round=1, reason=Reason.AWAY, missing=("client-2",))
        assert kept[-1].record.abandoned == (given_up,)
        parts.aggregator.play_round()
        assert [row.round for row in parts.record.rounds] == [2]
        assert parts.record.rounds[0].clients == tuple(NAMES)
        assert {name: parts.reserved(name) for name in NAMES} == {name: [1, 2] for name in NAMES}
        assert {parts.base(name) for name in NAMES} == {parts.aggregator.reached.base}


class TestOneThatOpenedARoundAlone:
    """Of three, all are needed; two died before what ended the round reached them."""

    @pytest.fixture
    def parts(self, separate):
        parts = separate(num_clients=3)
        assert parts.settings.min_clients == len(parts.names)
        parts.first = parts.base("client-0")
        for name in NAMES[1:3]:
            parts.dies[SUM, 1, name] = BEFORE
        return parts

    @pytest.mark.parametrize("restarted", [False, True])
    def test_it_goes_back_and_plays_on(self, parts, restarted):
        """What it has on its disk is enough for that."""

        def back():
            assert parts.base("client-0") != parts.first, "it is ahead of the others"
            for name in NAMES[0 if restarted else 1 : 3]:
                parts.start(name)

        parts.clock.after(1.0, back)
        parts.aggregator.play_round()
        assert parts.record.abandoned == ()
        assert parts.record.rounds[0].clients == tuple(NAMES[:3])
        parts.aggregator.play_round()
        assert parts.record.rounds[1].clients == tuple(NAMES[:3])
        assert FETCH_STATE not in parts.kinds
        assert [parts.reserved(name) for name in NAMES[:3]] == [[1, 2]] * 3
        assert {parts.base(name) for name in NAMES[:3]} == {parts.aggregator.reached.base}

    @pytest.mark.parametrize("died", [False, True])
    def test_where_nobody_came_back_in_time_too(self, parts, died):
        """The round is given up; also by one that died after it had opened it."""
        if died:
            parts.dies[SUM, 1, "client-0"] = AFTER
        parts.aggregator.play_round()
        assert [one.round for one in parts.record.abandoned] == [1]
        for name in NAMES[0 if died else 1 : 3]:
            parts.start(name)
        assert (parts.base("client-0") != parts.first) is died
        parts.aggregator.play_round()
        assert [row.round for row in parts.record.rounds] == [2]
        assert parts.record.rounds[0].clients == tuple(NAMES[:3])
        assert {parts.base(name) for name in NAMES[:3]} == {parts.aggregator.reached.base}


class TestOneSumOfARound:
    def test_it_is_not_summed_without_one_that_was_in_it(self, separate):
        """After the repair one of the four has no update: what the others sent would show it."""
        parts = separate()
        parts.dies[LISTING, 1, "client-3"] = BEFORE

        def restart():
            parts.start("client-3")
            parts.instead[TRAIN, "client-3"] = says_absent(parts, "client-3")

        parts.clock.after(1.0, restart)
        parts.aggregator.play_round()
        assert parts.to(TRAIN) == [NAMES, NAMES]
        assert parts.to(LISTING) == [NAMES], "nobody is asked about another list"
        assert parts.kinds.count(SUM) == 0
        assert parts.record.abandoned[0].missing == ("client-3",)
        assert {name: parts.reserved(name) for name in NAMES} == {name: [1] for name in NAMES}

    def test_nor_with_one_that_was_not(self, separate):
        parts = separate()
        parts.dies[TRAIN, 1, "client-3"] = BEFORE
        parts.dies[LISTING, 1, "client-2"] = BEFORE
        back(parts, "client-3", 1.0)
        back(parts, "client-2", 2.0)
        parts.aggregator.play_round()
        assert parts.to(TRAIN)[0] == NAMES
        assert all(names == NAMES[:3] for names in parts.to(TRAIN)[1:])
        assert all(names == NAMES[:3] for names in parts.to(LISTING))
        assert parts.record.rounds[0].clients == tuple(NAMES[:3])
        assert parts.reserved("client-3") == [], "the round cost it nothing"
        parts.aggregator.play_round()
        assert parts.record.rounds[1].clients == tuple(NAMES)


class TestTooFewAreHere:
    def test_nobody_is_asked_to_train(self, separate):
        parts = separate()
        parts.aggregator.play_round()
        parts.asked.clear()
        parts.down.update(NAMES[:2])
        parts.aggregator.presence.lost.update(NAMES[:2])
        with pytest.raises(AwayError, match="before round 2, 2 are"):
            parts.aggregator.play_round()
        assert set(parts.kinds) == {HELLO}
        assert parts.reserved("client-3") == [1]
        assert parts.record.over == 1, "the round is still to be played"

    def test_until_enough_are(self, separate):
        parts = separate()
        parts.down.update(NAMES[:2])
        parts.aggregator.presence.lost.update(NAMES[:2])
        back(parts, "client-1", 3.0)
        parts.aggregator.play_round()
        assert 3.0 <= parts.clock.passed < PATIENCE
        assert parts.record.rounds[0].clients == ("client-1", "client-2", "client-3")
        first = parts.kinds.index(TRAIN)
        assert START in parts.kinds[3:first], "with a key that client-1 holds"

    def test_a_crash_that_lost_an_update_costs_the_others_no_second_one(self, separate):
        """Of three, one had reserved and not committed: there can be no sum any more."""
        parts = separate(num_clients=3)
        parts.dies[TRAIN, 1, "client-1"] = WITHIN
        back(parts, "client-1", 1.0)
        parts.aggregator.play_round()
        assert parts.kinds.count(TRAIN) == 1
        assert parts.record.abandoned == (
            Abandoned(round=1, reason=Reason.LOST, missing=("client-1",)),
        )
        parts.aggregator.play_round()
        assert parts.record.rounds[0].round == 2
        assert [parts.reserved(name) for name in NAMES[:3]] == [[1, 2]] * 3


class TestOneThatMissedARound:
    @pytest.mark.parametrize("when", [BEFORE, AFTER])
    def test_it_has_the_adapter_and_plays_the_next(self, separate, when):
        """Given by another, or opened by itself before it died."""
        parts = separate()
        parts.dies[SUM, 1, "client-3"] = when
        parts.aggregator.play_round()
        assert parts.aggregator.presence.lost == {"client-3"}
        assert parts.record.rounds[0].clients == tuple(NAMES)
        parts.asked.clear()
        parts.start("client-3")
        parts.aggregator.play_round()
        given = [FETCH_STATE, STATE, HELLO] if when == BEFORE else []
        assert parts.kinds == [HELLO, *given, MAKE_KEY, START, *ROUND]
        assert parts.record.rounds[1].clients == tuple(NAMES)
        assert parts.base("client-3") == parts.aggregator.reached.base
        assert parts.reserved("client-3") == [1, 2]


class TestTheEnd:
    @pytest.fixture
    def parts(self, separate, clock, monkeypatch):
        monkeypatch.setattr(ending, "time", clock)
        parts = separate(rounds=2)
        parts.aggregator.play_round()
        return parts

    def says_so(self, parts):
        """All four have come to the adapter that the run leaves, and say what they guarantee."""
        assert parts.record.over == 2
        assert sorted(parts.aggregator.finish()) == NAMES
        assert parts.clock.passed < 2 * PATIENCE, "nobody was waited for"

    def test_one_that_missed_the_last_round_is_caught_up_first(self, parts):
        parts.dies[SUM, 2, "client-3"] = BEFORE
        parts.aggregator.play_round()
        parts.start("client-3")
        parts.asked.clear()
        self.says_so(parts)
        assert parts.kinds == [HELLO, FETCH_STATE, STATE, HELLO, FINISH]

    def test_one_that_opened_the_last_round_and_missed_that_it_was_given_up(self, parts):
        """It died before it said that it had; too few others had opened it."""
        parts.dies[SUM, 2, "client-0"] = AFTER
        parts.dies[SUM, 2, "client-1"] = BEFORE
        parts.aggregator.play_round()
        assert [one.round for one in parts.record.abandoned] == [2]
        for name in NAMES[:2]:
            parts.start(name)
        assert parts.base("client-0") != parts.aggregator.reached.base
        self.says_so(parts)
