"""What an aggregator tells of the rounds is taken only as so many rounds of named clients."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import MessageError
from privfed.parties.client.told import Told
from privfed.protocol.kinds import GIVEN_UP, LEFT_OUT, NEXT_BASE, RELEASED, ROUNDS
from privfed.reports.round_record import Reason

COME_TO = {NEXT_BASE: "b4" * 32, RELEASED: "5e" * 32}


def played(number, **changes):
    return {
        "round": number,
        "clients": ["a", "b", "c"],
        "absent": ["d"],
        "accuracy": 0.5 + number / 16,
        "signal_to_noise": 1.0 + number / 8,
        "figures": {"share of a step": number / 16},
        "bytes_up": 900 + number,
        "bytes_down": 800 + number,
        "bytes_holder": 70,
        "seconds": 1.5,
        "seconds_aggregator": 0.25,
        "seconds_opening": 0.125,
        "epsilon": {"a": 1.0 + number, "b": 2.5},
        **changes,
    }


def given_up(number, **changes):
    return {"round": number, "reason": str(Reason.TOO_FEW), "missing": ["c"], **changes}


def told(over, *, rounds, abandoned=(), left_out=None):
    rows = {ROUNDS: list(rounds), GIVEN_UP: list(abandoned), LEFT_OUT: left_out or {}}
    return Told.read({**COME_TO, **rows}, over)


def test_three_rounds_of_which_one_was_given_up():
    found = told(3, rounds=[played(1), played(3)], abandoned=[given_up(2)], left_out={"d": 3})
    assert [row.to_json() for row in found.rounds] == [played(1), played(3)]
    assert [one.to_json() for one in found.abandoned] == [given_up(2)]
    assert found.left_out == {"d": 3}
    assert (found.base, found.released) == ("b4" * 32, "5e" * 32)


def test_before_the_first_round_there_is_none():
    nothing = Told(
        rounds=(), abandoned=(), left_out={}, base=COME_TO[NEXT_BASE], released=COME_TO[RELEASED]
    )
    assert told(0, rounds=[]) == nothing


@given(st.lists(st.booleans(), max_size=9), st.integers(0, 9))
def test_the_numbers_must_be_exactly_those_that_are_over(complete, over):
    rounds = [played(n) for n, one in enumerate(complete, 1) if one]
    abandoned = [given_up(n) for n, one in enumerate(complete, 1) if not one]
    if len(complete) == over:
        assert len(told(over, rounds=rounds, abandoned=abandoned).rounds) == sum(complete)
        return
    with pytest.raises(MessageError, match=f"^{over} rounds are over, told is of rounds"):
        told(over, rounds=rounds, abandoned=abandoned)


@pytest.mark.parametrize(
    ("rounds", "abandoned"),
    [
        ([1, 1], []),
        ([1], [1]),
        ([0, 1], []),
        ([2, 3], []),
        ([1, 3], []),
        ([], [2, 2]),
    ],
)
def test_none_twice_and_none_left_out(rounds, abandoned):
    with pytest.raises(MessageError, match="2 rounds are over, told is of"):
        told(2, rounds=map(played, rounds), abandoned=map(given_up, abandoned))


@pytest.mark.parametrize(
    "stated",
    [
        {ROUNDS: None},
        {ROUNDS: {"1": played(1)}},
        {ROUNDS: [7]},
        {ROUNDS: [played(1, clients=["../a path"])]},
        {ROUNDS: [played(1, absent=[7])]},
        {ROUNDS: [played(1, clients=7)]},
        {ROUNDS: [played(1, loss=2.0)]},
        {ROUNDS: [played(1) | {"the metric of\nward 7": 1.0}]},
        {ROUNDS: [{("a\nb" if key == "accuracy" else key): one for key, one in played(1).items()}]},
        {GIVEN_UP: {}},
        {GIVEN_UP: [given_up(1, reason="because of ward 7")], ROUNDS: []},
        {GIVEN_UP: [given_up(1, missing=["a\nb"])], ROUNDS: []},
        {GIVEN_UP: [{"round": 1}], ROUNDS: []},
        {LEFT_OUT: ["d"]},
        {LEFT_OUT: {"../d": 1}},
        {LEFT_OUT: {"d": "1"}},
        {LEFT_OUT: {"d": True}},
    ],
    ids=str,
)
def test_what_is_no_round_of_clients_is_refused(stated):
    one_round = {**COME_TO, ROUNDS: [played(1)], GIVEN_UP: [], LEFT_OUT: {}}
    assert Told.read(one_round, 1).rounds
    with pytest.raises(MessageError, match="must be told as privfed does"):
        Told.read({**one_round, **stated}, 1)


def test_signal_to_noise_may_be_unknown():
    found = told(2, rounds=[played(1, signal_to_noise=None), played(2)])
    assert [row.signal_to_noise for row in found.rounds] == [None, 1.25]


@pytest.mark.parametrize(
    "changes",
    [
        {"bytes_up": "<b>900</b>"},
        {"bytes_down": -1},
        {"bytes_holder": True},
        {"seconds": "long"},
        {"seconds_aggregator": None},
        {"seconds_opening": [0.125]},
        {"accuracy": "good"},
        {"signal_to_noise": "good"},
        {"signal_to_noise": -1.5},
        {"signal_to_noise": True},
        {"figures": None},
        {"figures": {"share": "good"}},
        {"figures": {"share": -0.5}},
        {"figures": {"share\n": 0.5}},
        {"figures": {f"share {number}": 0.5 for number in range(17)}},
        {"accuracy": {"of": "ward 7"}},
        {"round": True},
        {"round": "1"},
        {"clients": []},
    ],
    ids=str,
)
def test_what_is_no_number_is_refused(changes):
    """Whatever it is, it would stand in a report that the client signs."""
    assert told(1, rounds=[played(1)]).rounds
    with pytest.raises(MessageError, match="must be told as privfed does"):
        told(1, rounds=[played(1, **changes)])
