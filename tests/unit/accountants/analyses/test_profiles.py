"""A profile bounds delta at every epsilon, as closely as a question of its own would."""

import pytest

from accountants import Laplace, Neighbouring, PoissonGaussian, delta
from accountants.analyses.profiles import Profile
from accountants.analyses.reduction import reduced

ADD = Neighbouring.ADD_REMOVE


def profile_of(events):
    return Profile.of(*reduced(events, ADD, 1).all_steps())


@pytest.mark.parametrize("epsilon", [0.0, 0.07, 0.6, 1.9, 3.3])
def test_it_is_as_close_as_a_question_of_its_own(epsilon):
    events = [PoissonGaussian(noise_multiplier=1.2, sample_rate=0.03, steps=300)]
    alone = delta(events, epsilon, ADD)
    assert alone.lower <= profile_of(events).delta(epsilon) <= alone.upper * (1 + 2e-3)


def test_both_directions_are_kept_where_they_differ():
    sampled = profile_of([PoissonGaussian(noise_multiplier=1.2, sample_rate=0.03, steps=9)])
    assert all(len(aim) == 2 for aim in sampled.aims)
    assert all(len(aim) == 1 for aim in profile_of([Laplace(noise_multiplier=4.0, steps=5)]).aims)


def test_what_has_no_grid_has_no_profile():
    assert profile_of([PoissonGaussian(noise_multiplier=0.01, sample_rate=0.5, steps=3)]) is None
