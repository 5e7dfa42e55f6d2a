"""Steps -> bounds on epsilon or delta: aim, discretise, compose, and refine until they are close.

The tilt, the grid step and the window come from estimates (`discretisation`), the numbers from the
lattices (`lattices`) and their composition (`tilted`), which bound their own errors. The upper
bound covers both directions of the neighbouring relation; for the lower bound one direction
suffices.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from accountants.analyses import discretisation, tilted
from accountants.analyses.allocation import AllocationStep
from accountants.analyses.bounded_losses import LaplaceStep, RandomisedResponseStep
from accountants.analyses.cells import Sketch
from accountants.analyses.lattices import Discretised, Fineness, FixedSizeStep, Lattice, NormalStep
from accountants.analyses.refinement import Refinement
from accountants.analyses.tilted import Composed

Step = NormalStep | FixedSizeStep | AllocationStep | RandomisedResponseStep | LaplaceStep
Curve = Callable[[float], float]

# Grid steps that are tried at most, and how much coarser the next one is where one does not fit.
_ATTEMPTS = 12
_COARSER = 3.0
# How much coarser than asked for is the first grid for delta, which shows how small delta is.
_ROUGHER = 8.0
TAIL_SHARE = 1e-7
"""Mass at an infinite loss, of all steps together, over delta."""

_SMALLEST_TAIL = 1e-300
# Cells far from loss 0 are wider than the grid step: by this share they add to its error, and this
# many units of tilt * loss is the most that one may span.
_COARSE_SHARE = 0.05
_WIDEST = 0.3
# Units of tilt * loss that a grid step may span in the backward direction.
_COARSEST_BACKWARD = 0.5
# Points that are transformed for one epsilon, over all grid steps.
_MOST_POINTS = 5 * tilted.MOST_POINTS // 2
# Search for the place where a curve crosses delta.
_PRECISION = 1e-7
_BISECTIONS = 60
_LARGEST_EPSILON = 1e6
# Longer schedules drown in rounding; and no grid is finer than this share of the largest loss.
_MOST_RUNS = 10**12
_FINEST = 1e-8


@dataclass(frozen=True, slots=True)
class Schedule:
    """Several mechanisms and how often each runs.

    Attributes:
        mechanisms: one run of each.
        counts: their numbers of runs, same length.
        tail: how much mass of one run may be counted as an infinite loss.
        sketches: coarse pictures of the mechanisms.
    """

    mechanisms: tuple[Step, ...]
    counts: tuple[int, ...]
    tail: float
    sketches: tuple[Sketch, ...]

    @classmethod
    def of(cls, steps: Sequence[Step], counts: Sequence[int], delta: float) -> "Schedule":
        """The schedule with tails that are small beside delta."""
        tail = max(TAIL_SHARE * delta / sum(counts), _SMALLEST_TAIL)
        sketches = tuple(step.sketch(tail) for step in steps)
        return cls(tuple(steps), tuple(counts), tail, sketches)

    @property
    def symmetric(self) -> bool:
        """Whether both directions of the neighbouring relation are the same."""
        return all(each.symmetric for each in self.mechanisms)

    @property
    def tight(self) -> bool:
        """Whether finer grids bring the bounds together."""
        return all(each.tight for each in self.mechanisms)

    def moments(self, *, backward: bool = False) -> discretisation.Moments:
        """Estimated moments of the composed loss."""
        return discretisation.moments(self.sketches, self.counts, backward=backward)

    def discretised(self, tilt: float, grid_step: float) -> list[Discretised] | None:
        """All mechanisms on one grid; None if one does not fit."""
        found = []
        square = self.moments().second_moment(tilt)
        fineness = Fineness(
            step=self.aligned(grid_step),
            resolution=math.sqrt(square / (_COARSE_SHARE * sum(self.counts))) / grid_step,
            widest=_WIDEST / (tilt + 1),
            tail=self.tail,
        )
        for mechanism in self.mechanisms:
            each = mechanism.discretise(fineness)
            if each is None:
                return None
            found.append(each)
        return found

    def aligned(self, grid_step: float) -> float:
        """A grid step at most as wide, on which the ends of the first bounded loss lie."""
        for mechanism in self.mechanisms:
            if isinstance(mechanism, RandomisedResponseStep | LaplaceStep):
                span = 2 * mechanism.largest_loss
                if span > grid_step:
                    return span / math.ceil(span / grid_step)
        return grid_step


def epsilon_bounds(
    steps: Sequence[Step], counts: Sequence[int], delta: float, relative_gap: float
) -> tuple[float, float]:
    """Bounds (lower, upper) on epsilon at delta in (0, 1).

    They come out closer than `relative_gap` (upper - lower over upper) unless that needs a grid
    beyond the memory limits; the upper one is infinite if the losses leave the range of floats.
    """
    apart = math.fsum(n * step.total_variation for step, n in zip(steps, counts, strict=True))
    if apart * (1 + 1e-12) <= delta:
        return 0.0, 0.0
    if sum(counts) > _MOST_RUNS or not all(step.representable for step in steps):
        return 0.0, math.inf
    schedule = Schedule.of(steps, counts, delta)
    moments, total = schedule.moments(), sum(counts)
    tilt, guess = discretisation.tilt_for_delta(moments, delta)
    guess = max(guess, 0.1 * moments.mean_and_deviation(tilt)[1])
    step = discretisation.grid_step(tilt, guess, total, relative_gap)
    search = Refinement(relative_gap=relative_gap, step=step, points_left=_MOST_POINTS)
    for _ in range(_ATTEMPTS):
        found = _attempt(schedule, moments, tilt, delta, guess, search)
        if not (search.refine(found) and schedule.tight):
            break
        if search.upper < math.inf:
            guess, tilt = search.upper, discretisation.tilt_for_epsilon(moments, search.upper)
    return search.lower, search.upper


def delta_bounds(
    steps: Sequence[Step], counts: Sequence[int], epsilon: float, relative_gap: float
) -> tuple[float, float]:
    """Bounds (lower, upper) on delta at epsilon >= 0; the upper one at most 1."""
    if sum(counts) > _MOST_RUNS or not all(step.representable for step in steps):
        return 0.0, 1.0
    if epsilon > _LARGEST_EPSILON:
        return 0.0, delta_bounds(steps, counts, _LARGEST_EPSILON, relative_gap)[1]
    schedule, tilt, deviation = aimed_at(steps, counts, epsilon)
    step = step_for_delta(schedule, tilt, deviation, relative_gap)
    lower, upper = _delta_at(schedule, tilt, _ROUGHER * step, epsilon, _SMALLEST_TAIL) or (0.0, 1.0)
    for _ in range(_ATTEMPTS):
        found = _delta_at(schedule, tilt, step, epsilon, max(lower, _SMALLEST_TAIL))
        if found is not None:
            return max(lower, found[0]), min(upper, found[1])
        step *= _COARSER
    return lower, upper


def aimed_at(
    steps: Sequence[Step], counts: Sequence[int], epsilon: float
) -> tuple[Schedule, float, float]:
    """How to look at a composition near an epsilon.

    Returns:
        The schedule with tails that are small beside delta, the tilt that puts epsilon in the
        middle, and about what standard deviation the loss has under it.
    """
    rough = Schedule.of(steps, counts, _SMALLEST_TAIL).moments()
    tilt = discretisation.tilt_for_epsilon(rough, epsilon)
    estimate = math.exp(min(rough.log_moment(tilt) - tilt * epsilon + _log_peak(tilt), 0.0))
    deviation = rough.mean_and_deviation(tilt)[1]
    return Schedule.of(steps, counts, max(estimate, _SMALLEST_TAIL)), tilt, deviation


def step_for_delta(schedule: Schedule, tilt: float, deviation: float, relative_gap: float) -> float:
    """The grid step for which the bounds on delta come out about `relative_gap` apart."""
    total = sum(schedule.counts)
    step = discretisation.grid_step(tilt, min(1 / tilt, deviation), total, relative_gap)
    step = min(step, deviation * math.sqrt(4 * relative_gap / total))
    farthest = max(float(np.max(np.abs(each.losses))) for each in schedule.sketches)
    return max(step, _FINEST * farthest)


def _delta_at(
    schedule: Schedule, tilt: float, step: float, epsilon: float, least: float
) -> tuple[float, float] | None:
    """Bounds on delta from one grid step; None if the grid does not fit.

    Args:
        schedule: the schedule.
        tilt: at which epsilon is in the middle.
        step: of the grid.
        epsilon: >= 0.
        least: a delta that errors must be small beside.
    """
    found = schedule.discretised(tilt, step)
    if found is None:
        return None
    window = discretisation.window(schedule.moments(), tilt, epsilon, least, schedule.aligned(step))
    above = tilted.compose([each.forward for each in found], schedule.counts, window)
    below = tilted.compose([each.below for each in found], schedule.counts, window)
    if above is None or below is None:
        return None
    upper = above.delta_above(epsilon)
    if not schedule.symmetric:
        upper = max(upper, _backward_delta(schedule, found, epsilon, least))
    return below.delta_below(epsilon), min(upper, 1.0)


def _attempt(
    schedule: Schedule,
    moments: discretisation.Moments,
    tilt: float,
    delta: float,
    guess: float,
    search: Refinement,
) -> tuple[float, float] | None:
    """Bounds at the step of the search, with one tilt; None if the grid does not fit.

    Args:
        schedule: the schedule.
        moments: of its composed loss.
        tilt: at which epsilon is in the middle.
        delta: at which epsilon is asked for.
        guess: about what epsilon is, to start from.
        search: has the step, a lower bound, and how many points may still be transformed.
    """
    found = schedule.discretised(tilt, search.step)
    if found is None:
        return None
    step = schedule.aligned(search.step)
    window = discretisation.window(moments, tilt, search.lower, delta, step)
    below = _forward(schedule, [each.below for each in found], window, search)
    if below is None:
        return None
    if search.only_lower:
        return _largest_beyond(below.delta_below, delta, search.upper), math.inf
    forward = [each.forward for each in found]
    above = _forward(schedule, forward, window, search)
    if above is None:
        return None
    upper = min(
        _least_within(above.delta_above, delta, guess),
        _renyi_bound(forward, schedule.counts, tilt, delta),
    )
    if upper == 0:  # the total variation distance, which has no direction, is at most delta
        return 0.0, 0.0
    if upper < math.inf and not schedule.symmetric:
        upper = _backward_epsilon(schedule, found, upper, delta)
    if upper == math.inf:
        return 0.0, math.inf
    return _largest_beyond(below.delta_below, delta, upper), upper


def _forward(
    schedule: Schedule, lattices: Sequence[Lattice], window: tilted.Window, search: Refinement
) -> Composed | None:
    """A composition whose points are counted; None if it needs more than there are left."""
    most = min(search.points_left, tilted.MOST_POINTS)
    composed = tilted.compose(lattices, schedule.counts, window, most)
    search.points_left -= 0 if composed is None else len(composed.masses)
    return composed


def _backward_epsilon(
    schedule: Schedule, found: Sequence[Discretised], upper: float, delta: float
) -> float:
    """`upper`, or more where the backward direction needs more."""
    tilt, lattices = _backward(schedule, found, upper)
    simple = _renyi_bound(lattices, schedule.counts, tilt, delta)
    if simple <= upper:
        return upper
    window = _backward_window(schedule, lattices, tilt, upper, delta)
    composed = tilted.compose(lattices, schedule.counts, window)
    if composed is None:
        return simple
    return max(upper, min(_least_within(composed.delta_above, delta, upper), simple))


def _backward_delta(
    schedule: Schedule, found: Sequence[Discretised], epsilon: float, least: float
) -> float:
    """A number that delta(epsilon) of the backward direction does not exceed."""
    tilt, lattices = _backward(schedule, found, epsilon)
    window = _backward_window(schedule, lattices, tilt, epsilon, least)
    composed = tilted.compose(lattices, schedule.counts, window)
    simple = _chernoff(lattices, schedule.counts, tilt, epsilon)
    return simple if composed is None else min(composed.delta_above(epsilon), simple)


def _backward(
    schedule: Schedule, found: Sequence[Discretised], epsilon: float
) -> tuple[float, list[Lattice]]:
    """The tilt for epsilon, as far as the grid is fine enough for it, and the lattices."""
    lattices = [each.backward for each in found]
    tilt = discretisation.tilt_for_epsilon(schedule.moments(backward=True), epsilon)
    return min(tilt, _COARSEST_BACKWARD / lattices[0].grid.step), lattices


def _backward_window(
    schedule: Schedule, lattices: Sequence[Lattice], tilt: float, epsilon: float, delta: float
) -> tilted.Window:
    moments = schedule.moments(backward=True)
    return discretisation.window(moments, tilt, epsilon, delta, lattices[0].grid.step)


def _renyi_bound(
    lattices: Sequence[Lattice], counts: Sequence[int], tilt: float, delta: float
) -> float:
    """The epsilon that K(tilt) alone proves: delta <= exp(K(t) - t epsilon) max w + infinity.

    That is the Renyi divergence of order tilt + 1.
    """
    infinity = math.fsum(n * each.infinity for each, n in zip(lattices, counts, strict=True))
    if not delta > infinity:
        return math.inf
    moment = tilted.log_moment(lattices, counts, tilt)
    slack = 1e-9 * (1 + abs(moment))
    bound = (moment + _log_peak(tilt) + slack - math.log(delta - infinity)) / tilt
    return max(bound + tilted.total_drift(lattices, counts), 0.0)


def _chernoff(
    lattices: Sequence[Lattice], counts: Sequence[int], tilt: float, epsilon: float
) -> float:
    """The delta that K(tilt) alone proves; the converse of `_renyi_bound`."""
    infinity = math.fsum(n * each.infinity for each, n in zip(lattices, counts, strict=True))
    moment = tilted.log_moment(lattices, counts, tilt)
    drift = tilted.total_drift(lattices, counts)
    exponent = moment + _log_peak(tilt) + 1e-9 * (1 + abs(moment)) - tilt * (epsilon - drift)
    return min(math.exp(min(exponent, 0.0)) + infinity, 1.0)


def _log_peak(tilt: float) -> float:
    """Logarithm of the largest value of exp(-t x) (1 - exp(-x)), which is at log(1 + 1/t)."""
    return tilt * math.log(tilt) - (1 + tilt) * math.log1p(tilt)


def _least_within(curve: Curve, delta: float, near: float) -> float:
    """An epsilon, as small as is easily found, with curve(epsilon) <= delta; may be infinite."""
    if curve(0.0) <= delta:
        return 0.0
    low, high = 0.0, near
    while not curve(high) <= delta:
        low, high = high, high * 1.25
        if high > _LARGEST_EPSILON:
            return math.inf
    trial = max(low, near * 0.9)
    while trial > low and curve(trial) <= delta:
        high, trial = trial, trial * 0.9 if trial > 1e-3 * near else 0.0
    return _bisect(curve, delta, max(low, trial), high)[1]


def _largest_beyond(curve: Curve, delta: float, near: float) -> float:
    """An epsilon up to `near`, as large as is easily found, with curve(epsilon) >= delta; or 0."""
    if near == 0 or curve(near) >= delta:
        return near
    low, high, shrink = near, near, 1e-3
    while not curve(low) >= delta:
        high, low = low, low * (1 - shrink)
        shrink = min(2 * shrink, 0.5)
        if low < 1e-4 * near:
            return 0.0
    return _bisect(curve, delta, low, high)[0]


def _bisect(curve: Curve, delta: float, low: float, high: float) -> tuple[float, float]:
    """Narrow the place where a curve falls below delta, by the secant of its logarithm.

    Keeps curve(low) >= delta >= curve(high).
    """
    at_low, at_high = _log_ratio(curve(low), delta), _log_ratio(curve(high), delta)
    for turn in range(_BISECTIONS):
        if high - low <= _PRECISION * high:
            break
        share = at_low / (at_low - at_high) if at_low > at_high else 0.5
        share = min(max(share, 0.02), 0.98) if turn % 3 else 0.5
        middle = low + share * (high - low)
        value = _log_ratio(curve(middle), delta)
        if value >= 0:
            low, at_low = middle, value
        else:
            high, at_high = middle, value
    return low, high


def _log_ratio(value: float, delta: float) -> float:
    return math.log(min(value, 1.0) / delta) if value > 0 else -1e3
