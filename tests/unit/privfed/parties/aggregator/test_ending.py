"""The end of a run: every client is asked what it guarantees, until all have said it."""

from dataclasses import replace

import pytest

from privfed.parties.aggregator import ending, presence
from privfed.parties.aggregator.ending import closed_statements
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import (
    CLOSED,
    FETCH_STATE,
    FINISH,
    GIVEN_UP,
    HELLO,
    LEFT_OUT,
    NEXT_BASE,
    OPENED,
    PROPOSAL,
    RELEASED,
    ROUNDS,
    STATE,
)
from privfed.reports.round_record import RoundRecord
from tests.unit.privfed.parties.aggregator.speakers import (
    BASE,
    RELEASED_NOW,
    RUN,
    Clock,
    Speakers,
    standing,
)

MEMBERS = ["c1", "c2", "c4", "c5"]
ROW = RoundRecord(
    round=3,
    clients=("c1", "c2", "c4"),
    absent=("c5",),
    metric="accuracy",
    value=0.75,
    signal_to_noise=1.375,
    figures={},
    bytes_up=1,
    bytes_down=2,
    bytes_holder=0,
    seconds=3.5,
    seconds_aggregator=0.25,
    seconds_opening=0.125,
    epsilon={"c1": 1.25},
)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(ending, "time", clock)
    monkeypatch.setattr(presence, "time", clock)
    return clock


@pytest.fixture
def speakers():
    speakers = Speakers()
    speakers.go_on(3)
    return speakers


def reached_by(speakers):
    """Two rounds were given up, a third is complete, and one client left."""
    found = speakers.reached(2)
    return replace(found, record=replace(found.record, rounds=(ROW,), left_out={"c3": 2}))


def closed(speakers, patience_s=0.0):
    return closed_statements(speakers.presence(patience_s), reached_by(speakers), MEMBERS)


def to(speakers, kind):
    """To whom each message of this kind went."""
    return [names for one, names in speakers.asked if one == kind]


def test_all_who_take_part_say_it(speakers, clock):
    said = closed(speakers)
    assert speakers.asked == [(HELLO, MEMBERS), (FINISH, MEMBERS)]
    assert {n: statement_of(message).sender for n, message in said.items()} == {
        name: name for name in MEMBERS
    }
    assert clock.slept == []


def test_they_are_told_how_the_rounds_went(speakers):
    closed(speakers)
    told = statement_of(speakers.messages[-1]["c4"])
    assert (told.run, told.round, told.sender) == (RUN, 3, "aggregator")
    assert told.manifest[PROPOSAL] == speakers.proposal.digest()
    assert told.manifest[ROUNDS] == [ROW.to_json()]
    assert [row["round"] for row in told.manifest[GIVEN_UP]] == [1, 2]
    assert told.manifest[LEFT_OUT] == {"c3": 2}
    assert (told.manifest[NEXT_BASE], told.manifest[RELEASED]) == (BASE, RELEASED_NOW)


def test_who_is_away_is_asked_again_and_no_other(speakers, clock):
    speakers.instead = {(FINISH, "c2"): lambda *_: None}
    clock.after(0.9, speakers.instead.clear)
    assert sorted(closed(speakers, 2.0)) == MEMBERS
    assert speakers.asked == [(HELLO, MEMBERS), (FINISH, MEMBERS), *[(FINISH, ["c2"])] * 5]
    assert clock.passed == 1.0


def test_nobody_is_told_before_all_are_there(speakers, clock):
    speakers.gone = {"c2"}
    clock.after(0.9, speakers.gone.clear)
    assert sorted(closed(speakers, 2.0)) == MEMBERS
    assert speakers.asked == [*[(HELLO, MEMBERS)] * 6, (FINISH, MEMBERS)]
    assert clock.passed == 1.0


@pytest.mark.parametrize("patience_s", [0.0, 2.0])
def test_nobody_is_waited_for_for_ever(speakers, clock, patience_s):
    speakers.gone = {"c2"}
    assert sorted(closed(speakers, patience_s)) == ["c1", "c4", "c5"]
    assert clock.passed == 2 * patience_s, "before they are told, and after it"


def other_run(speakers, name, message):
    return speakers.says(name, replace(speakers.before(statement_of(message)), run="other"), CLOSED)


def other_kind(speakers, name, message):
    return speakers.says(name, speakers.before(statement_of(message)), OPENED)


def other_client(speakers, name, message):
    return speakers.answer("c5", message)


def refusal(speakers, name, message):
    return speakers.refuses(name, "ReportError: does not fit")(message, None)


@pytest.mark.parametrize("says", [other_run, other_kind, other_client, refusal, lambda *_: b"x"])
def test_what_is_no_such_statement_counts_as_none(speakers, clock, says):
    speakers.instead = {(FINISH, "c2"): lambda message, _: says(speakers, "c2", message)}
    assert sorted(closed(speakers, 0.5)) == ["c1", "c4", "c5"]
    assert speakers.asked[-1] == (FINISH, ["c2"])


def test_the_first_word_stands(speakers, clock):
    """It is not asked again, so that it cannot take it back."""
    speakers.gone = {"c2"}
    said = closed(speakers, 1.0)
    told, *again = to(speakers, FINISH)
    assert (told, again) == (MEMBERS, [["c2"]] * len(again))
    assert len(again) > 1
    assert statement_of(said["c1"]).kind == CLOSED


class TestOneThatMissedTheLastRound:
    @pytest.fixture
    def late(self, speakers):
        speakers.standings["c4"] = standing(2, "ee" * 32, "")
        return speakers

    def test_it_is_given_the_adapter_before_anybody_is_told(self, late, clock):
        assert sorted(closed(late)) == MEMBERS
        assert late.asked == [
            (HELLO, MEMBERS),
            (FETCH_STATE, ["c1"]),
            (STATE, ["c4"]),
            (HELLO, ["c4"]),
            (FINISH, MEMBERS),
        ]
        assert late.standings["c4"].base == BASE
        assert clock.slept == []

    def test_one_that_was_away_for_it_is_given_it_once_it_is_back(self, late, clock):
        late.gone = {"c4"}
        clock.after(0.9, late.gone.clear)
        assert sorted(closed(late, 2.0)) == MEMBERS
        assert late.standings["c4"].base == BASE
        assert to(late, FINISH) == [MEMBERS]

    def test_it_is_waited_for_no_longer_than_any_other(self, late, clock):
        """Nobody gives it the adapter; the others still say what they guarantee."""
        late.instead = {(FETCH_STATE, name): lambda *_: None for name in MEMBERS}
        late.instead[STATE, "c4"] = lambda *_: late.standings.update(c4=standing(2, "ee" * 32, ""))
        late.instead[FINISH, "c4"] = late.refuses("c4", "MessageError: to another adapter")
        assert sorted(closed(late, 1.0)) == ["c1", "c2", "c5"]
        assert clock.passed == 2.0


def test_one_that_closed_its_part_before_a_crash_is_not_waited_for(speakers, clock):
    """It is ready for nothing any more, and says once more what it said."""
    speakers.instead = {(HELLO, "c2"): speakers.refuses("c2", "MessageError: it has played")}
    assert sorted(closed(speakers, 2.0)) == MEMBERS
    assert speakers.asked == [(HELLO, MEMBERS), (FINISH, MEMBERS)]
    assert clock.slept == []
