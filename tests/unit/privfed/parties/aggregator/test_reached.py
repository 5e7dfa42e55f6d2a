"""Who can go on from where a run is."""

import pytest

from tests.unit.privfed.parties.aggregator.speakers import BASE, INITIAL, Speakers, standing

OTHER = "ee" * 32


@pytest.fixture
def reached():
    """Two rounds are over; the adapter is BASE."""
    return Speakers().reached(2)


@pytest.mark.parametrize(
    ("number", "base", "before", "at", "held"),
    [
        (2, BASE, None, True, True),
        (2, BASE, INITIAL, True, True),
        (1, BASE, None, True, True),
        (0, BASE, None, True, True),
        (2, INITIAL, None, False, False),
        (1, INITIAL, None, False, False),
        (3, INITIAL, BASE, True, False),
        (3, INITIAL, None, False, False),
        (3, INITIAL, OTHER, False, False),
        (3, BASE, None, True, True),
    ],
    ids=[
        "there",
        "there, by a round of its own",
        "since a round that was given up",
        "since all rounds were",
        "with another adapter",
        "one round behind",
        "one ahead, and goes back",
        "one ahead, and cannot go back",
        "one ahead of something else",
        "one ahead that changed nothing",
    ],
)
def test_a_client(reached, number, base, before, at, held):
    found = standing(number, base, "", before=before)
    assert reached.is_at(found) is at
    assert reached.is_held_by(found) is held


def test_one_that_is_in_no_run(reached):
    assert not reached.is_at(None)
    assert not reached.is_held_by(None)


def test_the_released_adapter_is_not_what_training_goes_on_from(reached):
    assert not reached.is_held_by(standing(2, reached.released, ""))
