"""Bounds on epsilon and delta of many steps, against closed forms and sums over all outcomes."""

import math
from dataclasses import replace

import mpmath as mp
import numpy as np
import pytest

from accountants.analyses import composition, gaussian
from accountants.analyses.bounded_losses import LaplaceStep, RandomisedResponseStep
from accountants.analyses.cells import Sketch
from accountants.analyses.lattices import Discretised, Fineness, FixedSizeStep, NormalStep
from accountants.analyses.pairs import MixturePair


class Turned(NormalStep):
    """A sampled step seen from the other side: here it is the backward direction that decides."""

    __slots__ = ()

    def discretise(self, fineness):
        found = super().discretise(fineness)
        return found and Discretised(found.backward, found.forward, found.below)


def test_the_direction_that_costs_more_decides():
    """Sampled one time in a hundred, forward costs several times what backward does."""
    pair = MixturePair((0.99, 0.01), 0.7)
    steps, counts = [Turned(pair)], [50]
    straight = composition.epsilon_bounds([NormalStep(pair)], counts, 1e-6, 1e-3)
    assert composition.epsilon_bounds(steps, counts, 1e-6, 1e-3)[1] >= straight[0]
    straight = composition.delta_bounds([NormalStep(pair)], counts, 1.0, 1e-3)
    assert composition.delta_bounds(steps, counts, 1.0, 1e-3)[1] >= straight[0]


class TurnedWhole(Turned):
    """The same with its sketch turned too, so that all that is planned fits the cheap direction."""

    __slots__ = ()

    def sketch(self, tail):
        found = super().sketch(tail)
        return Sketch(found.log_q, found.log_p, -found.losses)


def test_the_costly_direction_is_not_missed_where_the_cheap_one_was_planned_for():
    pair = MixturePair((0.99, 0.01), 0.7)
    lower, upper = composition.epsilon_bounds([NormalStep(pair)], [50], 1e-6, 1e-3)
    found = composition.epsilon_bounds([TurnedWhole(pair)], [50], 1e-6, 1e-3)[1]
    assert lower <= found <= 1.05 * upper
    lower, upper = composition.delta_bounds([NormalStep(pair)], [50], 1.0, 1e-3)
    found = composition.delta_bounds([TurnedWhole(pair)], [50], 1.0, 1e-3)[1]
    assert lower <= found <= 1.3 * upper


# Many steps, against sums over all outcomes


def response_delta(parts, epsilon):
    """Randomised responses: pairs of a largest loss and a number of runs, outcome by outcome."""
    found = {mp.mpf(0): mp.mpf(1)}
    for loss, count in parts:
        a = mp.mpf(loss)
        truth = 1 / (1 + mp.exp(-a))
        following = {}
        for j in range(count + 1):
            weight = mp.binomial(count, j) * truth**j * (1 - truth) ** (count - j)
            for other, mass in found.items():
                place = other + (2 * j - count) * a
                following[place] = following.get(place, 0) + weight * mass
        found = following
    epsilon = mp.mpf(epsilon)
    return mp.fsum(m * (1 - mp.exp(epsilon - x)) for x, m in found.items() if x > epsilon)


PARTS = {
    "one": [(0.8, 1)],
    "alike": [(0.8, 7)],
    "two kinds": [(0.8, 3), (0.25, 11)],
    "one loud": [(3.0, 1), (0.1, 20)],
}
each_mix = pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)


def responses(parts):
    return [RandomisedResponseStep(loss) for loss, _ in parts], [count for _, count in parts]


@each_mix
@pytest.mark.parametrize("delta", [0.2, 1e-4, 1e-12])
def test_epsilon_encloses_the_truth_of_any_mix(parts, delta):
    lower, upper = composition.epsilon_bounds(*responses(parts), delta, 1e-3)
    with mp.workdps(40):
        assert lower == 0 or response_delta(parts, lower) >= delta
        assert response_delta(parts, upper) <= delta
    assert upper - lower <= 1e-2 * upper


@each_mix
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.5])
def test_delta_encloses_the_truth_of_any_mix(parts, epsilon):
    lower, upper = composition.delta_bounds(*responses(parts), epsilon, 1e-3)
    with mp.workdps(40):
        assert lower <= response_delta(parts, epsilon) <= upper
    assert upper - lower <= 6e-2 * upper + 1e-9


@pytest.mark.parametrize("delta", [1e-2, 1e-9])
def test_plain_shifts_are_the_closed_form(delta):
    """Nine runs at sigma 4 and four at sigma 5 have mu^2 = 9 / 16 + 4 / 25."""
    steps = [NormalStep(MixturePair((0.0, 1.0), sigma)) for sigma in (4.0, 5.0)]
    lower, upper = composition.epsilon_bounds(steps, [9, 4], delta, 1e-3)
    below, above = gaussian.epsilon(math.sqrt(9 / 16 + 4 / 25), delta)
    assert lower <= above
    assert upper >= below
    assert upper - lower <= 1e-3 * upper
    delta_lower, delta_upper = composition.delta_bounds(steps, [9, 4], below, 1e-3)
    assert delta_lower <= delta * (1 + 1e-9)
    assert delta_upper >= delta * (1 - 1e-9)
    assert delta_upper <= delta * 1.02


def test_a_batch_of_fixed_size_has_bounds_that_need_not_meet():
    """Below stands one pair of data sets; above, all of them."""
    step = FixedSizeStep(MixturePair((0.7, 0.3), 2.0))
    lower, upper = composition.epsilon_bounds([step], [6], 1e-5, 1e-3)
    one_way = composition.epsilon_bounds([NormalStep(step.pair)], [6], 1e-5, 1e-3)
    assert 0 < lower <= one_way[1]
    assert one_way[0] <= upper
    assert upper - lower > 1e-3 * upper


# Ends of the range


def test_a_delta_above_the_distance_of_all_steps_costs_nothing():
    """Three times tanh(0.1) is 0.299: no attack tells more often than that."""
    steps, counts = [RandomisedResponseStep(0.2)], [3]
    assert 3 * math.tanh(0.1) == pytest.approx(0.29900, abs=1e-5)
    assert composition.epsilon_bounds(steps, counts, 0.3, 1e-3) == (0.0, 0.0)
    lower, upper = composition.epsilon_bounds(steps, counts, 0.1, 1e-3)
    assert 0 < lower <= upper


@pytest.mark.parametrize(
    ("step", "count"),
    [
        (RandomisedResponseStep(0.2), 10**12 + 1),
        (RandomisedResponseStep(501.0), 1),
        (LaplaceStep(501.0), 1),
        (NormalStep(MixturePair((0.5, 0.5), 0.03)), 1),
        (FixedSizeStep(MixturePair((0.5, 0.5), 0.03)), 1),
    ],
)
def test_what_floating_point_cannot_hold_has_no_bound_here(step, count):
    quiet = NormalStep(MixturePair((0.9, 0.1), 2.0))
    assert composition.epsilon_bounds([quiet, step], [1, count], 1e-5, 1e-3) == (0.0, math.inf)
    assert composition.delta_bounds([quiet, step], [1, count], 1.0, 1e-3) == (0.0, 1.0)


def test_beyond_the_largest_epsilon_the_delta_is_that_of_the_largest(monkeypatch):
    """Delta falls with epsilon; the largest one is lowered here, as it takes seconds."""
    assert composition._LARGEST_EPSILON == 1e6
    monkeypatch.setattr(composition, "_LARGEST_EPSILON", 2.0)
    steps, counts = [RandomisedResponseStep(0.8)], [5]
    lower, upper = composition.delta_bounds(steps, counts, 2.0, 1e-3)
    assert 0 < lower < upper
    for epsilon in (2.1, 1e300):
        assert composition.delta_bounds(steps, counts, epsilon, 1e-3) == (0.0, upper)


# Schedules


def test_a_schedule_has_tails_that_are_small_beside_delta():
    steps = (RandomisedResponseStep(0.8), NormalStep(MixturePair((0.9, 0.1), 2.0)))
    schedule = composition.Schedule.of(steps, [3, 5], 1e-4)
    assert (schedule.mechanisms, schedule.counts) == (steps, (3, 5))
    assert schedule.tail == pytest.approx(1e-11 / 8, rel=1e-12)
    assert len(schedule.sketches) == 2
    assert composition.Schedule.of(steps, [3, 5], 5e-324).tail == 1e-300


def test_one_step_that_differs_makes_the_schedule_differ():
    even, rare = RandomisedResponseStep(0.8), NormalStep(MixturePair((0.9, 0.1), 2.0))
    loose = FixedSizeStep(MixturePair((0.9, 0.1), 2.0))

    def schedule(*steps):
        return composition.Schedule.of(steps, [1] * len(steps), 1e-5)

    assert (schedule(even).symmetric, schedule(even, rare).symmetric) == (True, False)
    assert (schedule(even, rare).tight, schedule(even, loose).tight) == (True, False)


@pytest.mark.parametrize(
    ("losses", "step", "aligned"),
    [
        ((0.7,), 0.1, 0.1),  # 1.4 is fourteen steps
        ((0.7,), 0.04, 0.04),  # and thirty-five
        ((0.7,), 0.03, 1.4 / 47),
        ((0.7,), 1.3, 0.7),
        ((0.7,), 1.5, 1.5),  # wider than both ends are apart
        ((0.01, 0.7), 0.03, 1.4 / 47),
        ((0.5, 0.7), 0.03, 1.0 / 34),  # the first one that fits
    ],
)
def test_the_grid_is_fitted_to_the_ends_of_the_first_bounded_loss(losses, step, aligned):
    quiet = NormalStep(MixturePair((0.9, 0.1), 2.0))
    for kind in (RandomisedResponseStep, LaplaceStep):
        steps = [quiet, *map(kind, losses)]
        schedule = composition.Schedule.of(steps, [1] * len(steps), 1e-5)
        assert schedule.aligned(step) == pytest.approx(aligned, rel=1e-12)
        assert schedule.aligned(step) <= step * (1 + 1e-12)
    assert composition.Schedule.of([quiet], [1], 1e-5).aligned(step) == step


def test_all_steps_are_on_one_grid_or_none_is():
    steps = [NormalStep(MixturePair((0.9, 0.1), 2.0)), RandomisedResponseStep(0.7)]
    schedule = composition.Schedule.of(steps, [2, 3], 1e-5)
    found = schedule.discretised(1.0, 0.03)
    assert [each.forward.grid.step for each in found] == [1.4 / 47] * 2
    assert schedule.discretised(1.0, 1e-7) is None


# Search on a curve


def curve(epsilon):
    return math.exp(-3 * epsilon)


@pytest.mark.parametrize("near", [1e-6, 0.1, 3.0, 3.1, 50.0, 1e5])
def test_the_place_where_a_curve_falls_below_delta_is_found_from_anywhere(near):
    """exp(-3 x) is 1e-4 at x = log(1e4) / 3 = 3.0701."""
    exact = math.log(1e4) / 3
    found = composition._least_within(curve, 1e-4, near)
    assert curve(found) <= 1e-4
    assert exact <= found <= exact * (1 + 2e-7)


@pytest.mark.parametrize("near", [3.0701135, 3.1, 6.0, 50.0])
def test_the_place_where_a_curve_still_exceeds_delta_is_found_from_above(near):
    exact = math.log(1e4) / 3
    found = composition._largest_beyond(curve, 1e-4, near)
    assert curve(found) >= 1e-4
    assert exact * (1 - 2e-7) <= found <= exact


def test_a_curve_that_never_crosses_delta_has_no_such_place():
    assert composition._least_within(lambda epsilon: 0.5, 0.4, 1.0) == math.inf
    assert composition._least_within(lambda epsilon: 0.5, 0.6, 1.0) == 0.0
    assert composition._largest_beyond(lambda epsilon: 0.5, 0.6, 1.0) == 0.0
    assert composition._largest_beyond(lambda epsilon: 0.5, 0.4, 7.0) == 7.0
    assert composition._largest_beyond(lambda epsilon: 0.5, 0.6, 0.0) == 0.0


def test_a_curve_with_a_step_is_bracketed():
    """Bounds that fall from 0.9 to 0 at one place, where a logarithm has nothing to say."""

    def fall(epsilon):
        return 0.9 if epsilon < 2.0 else 0.0

    assert composition._least_within(fall, 1e-4, 3.0) == pytest.approx(2.0, rel=2e-7)
    assert composition._largest_beyond(fall, 1e-4, 3.0) == pytest.approx(2.0, rel=2e-7)
    assert fall(composition._least_within(fall, 1e-4, 3.0)) == 0.0
    assert fall(composition._largest_beyond(fall, 1e-4, 3.0)) == 0.9


# What one moment proves


@pytest.mark.parametrize("tilt", [0.05, 1.0, 30.0])
def test_the_peak_is_the_largest_weight(tilt):
    """Of exp(-t x) (1 - exp(-x)), looked for on a fine grid."""
    x = np.linspace(1e-4, 60, 2_000_000)
    largest = np.max(np.exp(-tilt * x) * -np.expm1(-x))
    assert math.exp(composition._log_peak(tilt)) == pytest.approx(largest, rel=1e-6)


def test_one_moment_proves_an_epsilon_and_a_delta():
    """Five responses of 0.8 at tilt 3: K = 5 log(p e^2.4 + (1 - p) e^-2.4)."""
    lattice = RandomisedResponseStep(0.8).discretise(Fineness(0.1, 3.0, 0.5, 1e-9)).forward
    p = 1 / (1 + math.exp(-0.8))
    moment = 5 * math.log(p * math.exp(2.4) + (1 - p) * math.exp(-2.4))
    peak = 3 * math.log(3) - 4 * math.log(4)
    by_hand = (moment + peak - math.log(1e-4)) / 3
    found = composition._renyi_bound([lattice], [5], 3.0, 1e-4)
    assert by_hand <= found <= by_hand * (1 + 1e-8)
    back = composition._chernoff([lattice], [5], 3.0, found)
    assert back == pytest.approx(1e-4, rel=1e-6)
    with mp.workdps(30):
        assert response_delta([(0.8, 5)], found) <= 1e-4
    assert composition._chernoff([lattice], [5], 3.0, 0.0) <= 1.0


def test_mass_at_infinity_is_given_up_first():
    plain = RandomisedResponseStep(0.8).discretise(Fineness(0.1, 3.0, 0.5, 1e-9)).forward
    lost = replace(plain, infinity=1e-5)
    at = composition._renyi_bound([plain], [5], 3.0, 0.5e-4)
    assert composition._renyi_bound([lost], [5], 3.0, 1e-4) == pytest.approx(at, rel=1e-9)
    assert composition._renyi_bound([lost], [5], 3.0, 5e-5) == math.inf
    proven = composition._chernoff([plain], [5], 3.0, 3.5)
    assert proven < 0.5
    more = composition._chernoff([lost], [5], 3.0, 3.5)
    assert more == pytest.approx(proven + 5e-5, rel=1e-9)
