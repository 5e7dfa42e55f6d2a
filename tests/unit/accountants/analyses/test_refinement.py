"""The search over grid steps goes on while it pays, keeps the best of both bounds, and ends."""

import math

import pytest

from accountants import Neighbouring, PoissonGaussian, certified
from accountants.analyses import tilted
from accountants.analyses.refinement import Refinement


def search(**changes):
    return Refinement(**{"relative_gap": 1e-3, "step": 1.0, "points_left": 1, **changes})


def test_it_ends_where_the_bounds_are_close_enough():
    trial = search()
    assert not trial.refine((0.9995, 1.0))
    assert (trial.lower, trial.upper) == (0.9995, 1.0)


def test_a_grid_that_does_not_fit_is_followed_by_a_coarser_one_until_there_are_bounds():
    trial = search()
    assert trial.refine(None)
    assert trial.step > 1.0
    assert trial.refine((0.5, 1.0))
    assert not trial.refine(None)


def test_no_upper_bound_asks_for_a_finer_grid():
    trial = search()
    assert trial.refine((0.0, math.inf))
    assert trial.step < 1.0


def test_finer_steps_follow_while_they_pay_and_the_best_of_all_bounds_are_kept():
    trial, steps = search(), [1.0]
    for found in ((0.5, 1.0), (0.9, 1.01), (0.8, 0.95)):
        assert trial.refine(found)
        steps.append(trial.step)
    assert steps == sorted(steps, reverse=True)
    assert (trial.lower, trial.upper) == (0.9, 0.95)


def test_it_gives_up_after_trials_in_vain():
    trial = search()
    turns = 0
    while trial.refine((0.5, 1.0)):
        turns += 1
    assert turns == 3


def test_coarser_steps_follow_where_rounding_outweighs_the_grid():
    """The first finer grid raised the upper bound, so that the one to try lies the other way."""
    trial = search()
    assert trial.refine((0.9, 1.0))
    assert trial.refine((0.9, 1.1))
    assert trial.step > 1.0
    assert trial.refine((0.9, 0.95))
    assert trial.step > 3.0
    assert not trial.refine((0.8, 0.97))
    assert (trial.lower, trial.upper) == (0.9, 0.95)


@pytest.mark.parametrize(
    ("sigma", "q", "steps", "delta", "millions"),
    [
        # Few large losses make up delta: windows of the tilt in the middle would be long.
        (0.4623, 1.089e-4, 53, 5.697e-4, 2.0),
        (0.3096, 1.02e-4, 1030, 1.224e-12, 0.2),
        (0.4577, 1.301e-5, 5315, 6.9e-6, 4.0),
        # Rounding outweighs the grid.
        (12.97, 1.296e-5, 95079, 1.72e-7, 3.0),
    ],
)
def test_few_points_are_transformed_where_sampling_is_rare(
    monkeypatch, sigma, q, steps, delta, millions
):
    compose, lengths = tilted.compose, []

    def counted(*arguments):
        result = compose(*arguments)
        lengths.append(tilted.MOST_POINTS if result is None else len(result.masses))
        return result

    monkeypatch.setattr(tilted, "compose", counted)
    event = PoissonGaussian(noise_multiplier=sigma, sample_rate=q, steps=steps)
    certified._epsilon.cache_clear()
    bounds = certified.epsilon([event], delta, Neighbouring.ADD_REMOVE)
    assert 0 < sum(lengths) <= millions * 1e6
    assert bounds.lower >= 0.98 * bounds.upper
