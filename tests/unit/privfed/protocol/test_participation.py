"""Who trains in which round is drawn evenly, known to all, and nobody's choice."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.protocol.participation import Participation

NAMES = ("east", "north", "south", "west", "ward 5")
DRAW = Participation(names=NAMES, per_round=3, rounds=7, seed="ab" * 32)
RECORDED = [["north", "south", "ward 5"], ["east", "ward 5", "west"], ["east", "north", "south"]]


def drawn(participation):
    return [participation.of(number) for number in range(1, participation.rounds + 1)]


@given(
    clients=st.integers(3, 12),
    per_round=st.integers(3, 12),
    rounds=st.integers(1, 20),
    seed=st.text(min_size=1, max_size=4),
)
def test_each_round_has_its_number_and_all_are_drawn_evenly(clients, per_round, rounds, seed):
    names = tuple(f"c{number}" for number in range(clients))
    participation = Participation(names=names, per_round=per_round, rounds=rounds, seed=seed)
    assert {len(there) for there in drawn(participation)} == {min(per_round, clients)}
    times = Counter(name for there in drawn(participation) for name in there)
    assert max(times.values()) - min(times[name] for name in names) <= 1
    for name in names:
        assert participation.rounds_of(name) == times[name]


def test_without_a_number_all_train():
    everybody = replace(DRAW, per_round=None)
    assert everybody.takes_all
    assert drawn(everybody) == [frozenset(NAMES)] * 7
    assert everybody.rounds_of("east") == 7


def test_all_parties_draw_the_same():
    """These names are in recorded runs: another order would break their resumption."""
    again = Participation(names=NAMES, per_round=3, rounds=7, seed="ab" * 32)
    assert drawn(again) == drawn(DRAW)
    assert [sorted(there) for there in drawn(DRAW)[:3]] == RECORDED


def test_another_seed_or_round_draws_others():
    others = {tuple(map(frozenset, drawn(replace(DRAW, seed=seed)))) for seed in "abcdef"}
    assert len(others) == 6
    assert len(set(drawn(DRAW))) > 3


def test_more_rounds_change_none_before():
    assert drawn(replace(DRAW, rounds=20))[:7] == drawn(DRAW)


def test_nobody_is_kept_out_once_all_rounds_are_over():
    assert DRAW.of(8) == frozenset(NAMES)


@pytest.mark.parametrize("per_round", [5, 6])
def test_a_number_that_takes_all(per_round):
    assert replace(DRAW, per_round=per_round).takes_all
