"""Where to look and how finely: moments by hand, tilts against closed forms, windows by sums."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from accountants.analyses import discretisation, gaussian
from accountants.analyses.cells import Sketch
from accountants.analyses.lattices import NormalStep
from accountants.analyses.pairs import MixturePair


def coin(loss):
    """Randomised response as two points."""
    logs = -np.logaddexp(0.0, [loss, -loss])
    return Sketch(logs, logs[::-1], np.array([-loss, loss]))


LOPSIDED = Sketch(np.log([0.1, 0.2, 0.7]), np.log([0.3, 0.6, 0.1]), np.array([-1.0, 0.25, 2.0]))


def shift_of(sigma, tail=1e-300):
    """A plain Gaussian release, whose loss is N(mu^2 / 2, mu^2) at mu = 1 / sigma."""
    return NormalStep(MixturePair((0.0, 1.0), sigma)).sketch(tail)


def moments(*parts, backward=False):
    sketches, counts = zip(*parts, strict=True)
    return discretisation.moments(sketches, counts, backward=backward)


# Moments


def test_the_moments_of_coins_by_hand():
    """E[e^(t L)] = (e^(a + t a) + e^(-t a)) / (1 + e^a); the mean at tilt t is a tanh."""
    found, a, t = moments((coin(0.8), 5)), 0.8, 1.5
    total = (math.exp(a + t * a) + math.exp(-t * a)) / (1 + math.exp(a))
    assert found.log_moment(t) == pytest.approx(5 * math.log(total), rel=1e-13)
    mean, deviation = found.mean_and_deviation(t)
    pull = math.tanh((t + 0.5) * a)
    assert mean == pytest.approx(5 * a * pull, rel=1e-13)
    assert deviation == pytest.approx(math.sqrt(5) * a / math.cosh((t + 0.5) * a), rel=1e-13)
    assert found.second_moment(t) == pytest.approx(5 * a * a, rel=1e-13)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("tilt", [-0.3, 0.0, 2.0])
def test_mean_and_deviation_are_derivatives_of_the_log_moment(backward, tilt):
    """Sketches of different lengths, in both directions."""
    found = moments((LOPSIDED, 3), (coin(0.8), 7), (shift_of(2.0), 2), backward=backward)
    h = 1e-4
    up, middle, down = (found.log_moment(tilt + side) for side in (h, 0, -h))
    mean, deviation = found.mean_and_deviation(tilt)
    assert mean == pytest.approx((up - down) / (2 * h), rel=1e-6)
    assert deviation**2 == pytest.approx((up - 2 * middle + down) / h**2, rel=1e-4)


def test_backward_swaps_the_masses_and_turns_the_losses():
    forward, back = moments((LOPSIDED, 3)), moments((LOPSIDED, 3), backward=True)
    p, q, losses = np.exp(LOPSIDED.log_p), np.exp(LOPSIDED.log_q), LOPSIDED.losses
    assert forward.log_moment(0.5) == pytest.approx(3 * math.log(p @ np.exp(0.5 * losses)))
    assert back.log_moment(0.5) == pytest.approx(3 * math.log(q @ np.exp(-0.5 * losses)))
    assert forward.second_moment(0.0) == pytest.approx(3 * (p @ losses**2))
    assert back.second_moment(0.0) == pytest.approx(3 * (q @ losses**2))


def test_moments_of_different_mechanisms_add_up():
    both = moments((LOPSIDED, 3), (coin(0.8), 7))
    apart = [moments((LOPSIDED, 3)), moments((coin(0.8), 7))]
    for tilt in (0.0, 1.5):
        assert both.log_moment(tilt) == pytest.approx(sum(a.log_moment(tilt) for a in apart))
        means, deviations = zip(*(a.mean_and_deviation(tilt) for a in apart), strict=True)
        assert both.mean_and_deviation(tilt) == pytest.approx((sum(means), math.hypot(*deviations)))
        assert both.second_moment(tilt) == pytest.approx(sum(a.second_moment(tilt) for a in apart))


def test_large_tilts_overflow_nothing():
    found = moments((coin(30.0), 2))
    assert found.log_moment(1e3) == pytest.approx(6e4, rel=1e-6)
    assert found.mean_and_deviation(1e3) == pytest.approx((60.0, 0.0))


# Tilts


@pytest.mark.parametrize("delta", [1e-2, 1e-6, 1e-30])
@pytest.mark.parametrize(("sigma", "count"), [(2.0, 4), (10.0, 1), (0.5, 3)])
def test_the_tilt_for_delta_gives_the_best_renyi_bound(sigma, count, delta):
    """K(t) = t (t + 1) mu^2 / 2 of a Gaussian, at a thousand tilts in place of a search."""
    square = count / sigma**2
    tilts = np.geomspace(1e-4, 1e4, 100_001)
    saved = tilts * np.log(tilts) - (1 + tilts) * np.log1p(tilts)
    every = (tilts * (tilts + 1) * square / 2 - math.log(delta) + saved) / tilts
    tilt, guess = discretisation.tilt_for_delta(moments((shift_of(sigma), count)), delta)
    assert guess == pytest.approx(every.min(), rel=1e-4)
    assert tilt == pytest.approx(tilts[every.argmin()], rel=2e-2)
    assert guess >= gaussian.epsilon(math.sqrt(square), delta)[0] * (1 - 1e-6)


@pytest.mark.parametrize("tilt", [1e-2, 0.7, 40.0])
@pytest.mark.parametrize(("sigma", "count"), [(2.0, 4), (10.0, 1)])
def test_the_tilt_for_epsilon_puts_it_in_the_middle(sigma, count, tilt):
    """Under tilt t the loss of a Gaussian has mean mu^2 (1/2 + t)."""
    square = count / sigma**2
    found = moments((shift_of(sigma), count))
    assert discretisation.tilt_for_epsilon(found, square * (0.5 + tilt)) == pytest.approx(
        tilt, rel=1e-5
    )


def test_a_tilt_out_of_range_ends_at_the_range():
    found = moments((coin(0.8), 5))
    smallest, largest = (math.exp(end) for end in discretisation._log_range(found))
    assert discretisation.tilt_for_epsilon(found, 0.0) == pytest.approx(smallest, rel=1e-5)
    assert discretisation.tilt_for_epsilon(found, 100.0) == pytest.approx(largest, rel=1e-5)
    scale = math.sqrt(5) * 0.8
    assert (smallest, largest) == pytest.approx((1e-4 / scale, 1e3))
    quiet = moments((coin(0.01), 1))
    assert [math.exp(end) for end in discretisation._log_range(quiet)] == pytest.approx([1e-4, 1e5])


def test_the_smallest_place_of_a_dip_is_found():
    for place in (-1.0, -0.4, 0.3, 2.0):
        found = discretisation._smallest(lambda x, place=place: (x - place) ** 2, -1.0, 2.0)
        assert found == pytest.approx(place, abs=1e-4)


# Steps and windows


@pytest.mark.parametrize(
    ("tilt", "epsilon", "steps", "gap", "step"),
    [
        (2.0, 0.5, 100, 1e-3, math.sqrt(2e-3 / 300)),  # T h^2 (t + 1) / 4 = gap * epsilon
        (2.0, 5.0, 1, 1e-1, 0.1),  # and no wider than 0.3 / (t + 1)
    ],
)
def test_the_step_is_as_wide_as_the_gap_allows(tilt, epsilon, steps, gap, step):
    assert discretisation.grid_step(tilt, epsilon, steps, gap) == pytest.approx(step, rel=1e-12)


def test_a_window_holds_nearly_all_of_a_gaussian_and_little_more():
    """Under tilt t the loss is N(mu^2 (1/2 + t), mu^2): 1e-10 is 6.4 deviations away."""
    found, mu, tilt = moments((shift_of(2.0), 9)), 1.5, 1.2
    epsilon = mu * mu * (0.5 + tilt)
    window = discretisation.window(found, tilt, epsilon, 1e-3, 1e-4)
    middle = mu * mu * (0.5 + window.tilt)
    low, high = ((window.low - middle) / mu, (window.high - middle) / mu)
    assert norm.cdf(low) < 1e-10
    assert norm.sf(high) < 1e-10
    assert -9 < low < high < 9
    assert window.down < window.tilt < window.up


def tilted_losses(sketch, count, tilt):
    """Losses and tilted masses of a composition, by repeated convolution on a grid of 0.25."""
    places = np.rint(sketch.losses / 0.25).astype(int)
    one = np.zeros(places.max() - places.min() + 1)
    one[places - places.min()] = np.exp(sketch.log_p + tilt * sketch.losses)
    masses = np.ones(1)
    for _ in range(count):
        masses = np.convolve(masses, one / one.sum())
    return 0.25 * (count * places.min() + np.arange(len(masses))), masses


@pytest.mark.parametrize("tilt", [0.3, 1.5, 6.0])
@pytest.mark.parametrize("count", [1, 12, 60])
def test_a_window_leaves_out_less_than_it_may(count, tilt):
    """At most 1e-10 of the tilted mass, and 1e-4 of what counts beside, down to 1e-15."""
    found = moments((LOPSIDED, count))
    epsilon = found.mean_and_deviation(tilt)[0]
    delta = 1e-3 * math.exp(found.log_moment(tilt) - tilt * epsilon)
    window = discretisation.window(found, tilt, epsilon, delta, 0.25)
    losses, masses = tilted_losses(LOPSIDED, count, window.tilt)
    outside = masses[(losses < window.low) | (losses > window.high)].sum()
    share = delta * math.exp(window.tilt * epsilon - found.log_moment(window.tilt))
    assert outside <= 2.1 * min(max(1e-4 * share, 1e-15), 1e-10) + 1e-13
    assert window.low < masses @ losses < window.high


def test_a_window_has_room_for_the_steps_of_the_grid():
    """Each of nine runs may be off by a step."""
    found = moments((shift_of(2.0), 9))
    fine, coarse = (
        discretisation._window_at(found, 1.2, math.log(0.1), step) for step in (1e-4, 0.01)
    )
    wider = (2 + 2 * math.sqrt(9)) * (0.01 - 1e-4)
    assert fine.low - coarse.low == pytest.approx(wider, rel=1e-9)
    assert coarse.high - fine.high == pytest.approx(wider, rel=1e-9)


def test_where_few_large_losses_decide_a_smaller_tilt_has_a_shorter_window():
    rare = NormalStep(MixturePair((1 - 1e-4, 1e-4), 0.4)).sketch(1e-12)
    found = moments((rare, 100))
    tilt, epsilon = discretisation.tilt_for_delta(found, 1e-4)
    share = discretisation._share(found, tilt, epsilon, 1e-4)
    middle = discretisation._window_at(found, tilt, share, 1e-4)
    window = discretisation.window(found, tilt, epsilon, 1e-4, 1e-4)
    assert window.tilt < tilt
    assert window.high - window.low < 0.7 * (middle.high - middle.low)


def test_rounding_forbids_a_smaller_tilt_where_delta_is_tiny():
    """Masses at a smaller tilt would be rounded by more than counts beside a delta of 1e-20."""
    rare = NormalStep(MixturePair((1 - 1e-4, 1e-4), 0.4)).sketch(1e-60)
    found = moments((rare, 100))
    tilt, epsilon = discretisation.tilt_for_delta(found, 1e-20)
    here, lower = (
        discretisation._window_at(
            found, each, discretisation._share(found, each, epsilon, 1e-20), 1e-4
        )
        for each in (tilt, 0.7 * tilt)
    )
    assert lower.high - lower.low < 0.5 * (here.high - here.low)
    assert discretisation.window(found, tilt, epsilon, 1e-20, 1e-4) == here


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1e-10), (-10.0, 1e-10), (-20.0, None), (-40.0, 1e-15)]
)
def test_what_may_lie_outside_is_a_share_of_what_counts(share, expected):
    found = math.exp(discretisation._outside(share))
    wanted = 1e-4 * math.exp(share) if expected is None else expected
    assert found == pytest.approx(wanted, rel=1e-12, abs=0)
