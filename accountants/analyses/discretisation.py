"""How to discretise a composition: the tilt, the grid step and the window.

All of this is estimated from sketches of a hundred points per mechanism. No bound rests on it: a
bad choice gives a wide interval, never a wrong one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from accountants.analyses.cells import Sketch
from accountants.analyses.floats import Floats
from accountants.analyses.tilted import Window

# The share of delta, and the most and the least of the tilted mass, that may lie outside a window.
_OUTSIDE_SHARE, _OUTSIDE_MOST, _OUTSIDE_LEAST = 1e-4, 1e-10, 1e-15
# Other tilts for Chernoff's inequality, in inverse standard deviations of the composed loss from
# the tilt of the window; far below 1 where few steps of the many make up most of it.
_SHIFTS = np.array(
    [0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 2.0, 3.0, 4.5, 6.0, 7.0, 8.0, 10.0, 15.0, 20.0, 30.0, 50.0]
)
# Units of tilt * loss that a grid step may span at these tilts.
_COARSEST_SHIFT = 0.3
# How many smaller tilts are tried for a shorter window, each so many times the one before; and the
# share of delta that rounding may come to at them, if every mass is off by so much.
_LOWER_TILTS, _LOWER = 8, 0.7
_ROUNDING_SHARE, _MASS_ROUNDING = 1e-4, 4e-14
_SMALLEST_TILT, _LARGEST_TILT = 1e-4, 1e3
_SCAN = 37
_REFINEMENTS = 24


@dataclass(frozen=True, slots=True)
class Moments:
    """K(t), the logarithm of E[exp(t L)] of the composed loss, from sketches.

    Attributes:
        logs: log masses, shape (mechanisms, points), padded with -infinity.
        losses: shape (mechanisms, points).
        counts: how often each mechanism runs, shape (mechanisms,).
    """

    logs: Floats
    losses: Floats
    counts: Floats

    def log_moment(self, tilt: float) -> float:
        """K(tilt)."""
        exponents = self.logs + tilt * self.losses
        top = np.max(exponents, axis=1, keepdims=True)
        sums = np.log(np.exp(exponents - top).sum(axis=1)) + top[:, 0]
        return float(self.counts @ sums)

    def mean_and_deviation(self, tilt: float) -> tuple[float, float]:
        """Mean and standard deviation of the composed loss under the tilt: K', sqrt(K'')."""
        exponents = self.logs + tilt * self.losses
        weights = np.exp(exponents - np.max(exponents, axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        means = (weights * self.losses).sum(axis=1)
        squares = (weights * (self.losses - means[:, None]) ** 2).sum(axis=1)
        return float(self.counts @ means), math.sqrt(float(self.counts @ squares))

    def second_moment(self, tilt: float) -> float:
        """Sum over all runs of the mean square of the loss under the tilt."""
        exponents = self.logs + tilt * self.losses
        weights = np.exp(exponents - np.max(exponents, axis=1, keepdims=True))
        squares = (weights * self.losses**2).sum(axis=1) / weights.sum(axis=1)
        return float(self.counts @ squares)


def moments(sketches: Sequence[Sketch], counts: Sequence[int], *, backward: bool) -> Moments:
    """The moments of a composition, in one direction."""
    longest = max(len(each.losses) for each in sketches)
    logs = np.full((len(sketches), longest), -np.inf)
    losses = np.zeros((len(sketches), longest))
    for row, each in enumerate(sketches):
        used = slice(0, len(each.losses))
        logs[row, used] = each.log_q if backward else each.log_p
        losses[row, used] = -each.losses if backward else each.losses
    return Moments(logs, losses, np.array(counts, dtype=np.float64))


def tilt_for_delta(found: Moments, delta: float) -> tuple[float, float]:
    """The tilt for a delta, and a first idea of epsilon: the Renyi bound at its best order.

    The order is tilt + 1; conversion of Canonne, Kamath & Steinke 2020, arXiv:2004.00010.
    """
    needed = -math.log(delta)

    def bound(log_tilt: float) -> float:
        tilt = math.exp(log_tilt)
        saved = tilt * log_tilt - (1 + tilt) * math.log1p(tilt)
        return (found.log_moment(tilt) + needed + saved) / tilt

    grid = np.linspace(*_log_range(found), _SCAN)
    best = int(np.argmin([bound(float(value)) for value in grid]))
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, _SCAN - 1)])
    log_tilt = _smallest(bound, low, high)
    return math.exp(log_tilt), bound(log_tilt)


def tilt_for_epsilon(found: Moments, epsilon: float) -> float:
    """The tilt at which the mean of the composed loss is epsilon, within the range searched."""
    low, high = _log_range(found)
    for _ in range(_REFINEMENTS):
        middle = (low + high) / 2
        if found.mean_and_deviation(math.exp(middle))[0] < epsilon:
            low = middle
        else:
            high = middle
    return math.exp(low)


def _log_range(found: Moments) -> tuple[float, float]:
    """Logarithms of tilts between which one is looked for; losses are taken as the unit."""
    scale = max(math.sqrt(found.second_moment(0.0)), 1e-150)
    return math.log(_SMALLEST_TILT / max(scale, 1.0)), math.log(_LARGEST_TILT / min(scale, 1.0))


def grid_step(tilt: float, epsilon: float, runs: int, relative_gap: float) -> float:
    """The step h for which the bounds come out `relative_gap` apart: T h^2 (t + 1) / 4."""
    return min(math.sqrt(4 * relative_gap * epsilon / (runs * (tilt + 1))), 0.3 / (tilt + 1))


def window(found: Moments, tilt: float, epsilon: float, delta: float, step: float) -> Window:
    """The shortest window, at this tilt or at a smaller one where rounding leaves enough digits.

    At the tilt that puts epsilon in the middle, rounding is smallest beside delta. Where a few
    large losses make up delta, that tilt makes them frequent, and their sums reach far; at a
    smaller one they stay rare, and the window is many times shorter.

    Args:
        found: moments of the composed loss.
        tilt: the one that puts epsilon in the middle.
        epsilon: about which the composed loss is wanted, or less.
        delta: about what delta is there.
        step: of the grid.
    """
    best = _window_at(found, tilt, _share(found, tilt, epsilon, delta), step)
    for _ in range(_LOWER_TILTS):
        tilt *= _LOWER
        share = _share(found, tilt, epsilon, delta)
        terms = max(min(1 / tilt, best.high - best.low) / step, 1.0)
        if share < math.log(_MASS_ROUNDING * terms / _ROUNDING_SHARE):
            break
        other = _window_at(found, tilt, share, step)
        if other.high - other.low < best.high - best.low:
            best = other
    return best


def _share(found: Moments, tilt: float, epsilon: float, delta: float) -> float:
    """Logarithm of what errors count beside: tilted masses above epsilon with their weights."""
    return math.log(delta) + tilt * epsilon - found.log_moment(tilt)


def _window_at(found: Moments, tilt: float, share: float, step: float) -> Window:
    """The shortest window that Chernoff's inequality lets hold all tilted mass but a little.

    Args:
        found: moments of the composed loss.
        tilt: of the window.
        share: logarithm of what the mass outside should be small beside.
        step: of the grid, on which losses are off by up to one step per run.
    """
    mean, deviation = found.mean_and_deviation(tilt)
    deviation = max(deviation, 1e-12)
    here, needed = found.log_moment(tilt), -_outside(share)
    shifts = _SHIFTS / deviation
    shifts = shifts[shifts * step <= max(_COARSEST_SHIFT, shifts[0] * step)]
    margin = (2 + 2 * math.sqrt(float(found.counts.sum()))) * step
    highs = [(found.log_moment(tilt + s) - here + needed) / s for s in shifts]
    lows = [(here - found.log_moment(tilt - s) - needed) / s for s in shifts]
    up, down = int(np.argmin(highs)), int(np.argmax(lows))
    return Window(
        tilt=tilt,
        low=min(lows[down], mean - deviation) - margin,
        high=max(highs[up], mean + deviation) + margin,
        down=tilt - float(shifts[down]),
        up=tilt + float(shifts[up]),
    )


def _outside(share: float) -> float:
    wanted = share + math.log(_OUTSIDE_SHARE)
    return min(max(wanted, math.log(_OUTSIDE_LEAST)), math.log(_OUTSIDE_MOST))


def _smallest(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one dip is smallest, by golden-section search."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(_REFINEMENTS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2
