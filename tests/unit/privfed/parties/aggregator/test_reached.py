"""Who can go on from where a run is."""

import pytest

from tests.unit.privfed.parties.aggregator.speakers import BASE, INITIAL, Speakers, standing


@pytest.fixture
def reached():
    """Two rounds are over; the adapter is BASE."""
    return Speakers().reached(2)


@pytest.mark.parametrize(
    ("number", "base", "at", "held"),
    [
        (2, BASE, True, True),
        (1, BASE, True, True),
        (0, BASE, True, True),
        (2, INITIAL, False, False),
        (1, INITIAL, False, False),
        (3, INITIAL, True, False),
        (3, BASE, True, False),
    ],
    ids=[
        "there",
        "since a round that was given up",
        "since all rounds were",
        "with another adapter",
        "one round behind",
        "one ahead, and goes back",
        "one ahead that changed nothing",
    ],
)
def test_a_client(reached, number, base, at, held):
    assert reached.is_at(standing(number, base, "")) is at
    assert reached.is_held_by(standing(number, base, "")) is held


def test_one_that_is_in_no_run(reached):
    assert not reached.is_at(None)
    assert not reached.is_held_by(None)


def test_the_released_adapter_is_not_what_training_goes_on_from(reached):
    assert not reached.is_held_by(standing(2, reached.released, ""))
