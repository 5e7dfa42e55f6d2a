"""Sums of independent log-normal variables, from both sides, by discrete ones in convex order.

X = exp(s U - s^2 / 2) with U standard normal is the likelihood ratio of N(s, 1) to N(0, 1), and its
mean is 1. A discrete variable is found on each side of the sum S of t independent copies of X:

* above: the mass of each cell between two grid points goes to its two ends, in shares that keep its
  mean. That raises E[f(S)] for every convex f, or keeps it;
* below: all mass of a cell moves to the mean of the cell, which lowers it, or keeps it.

Both carry over to sums, so that S is built from sums of two, four, eight terms, each brought back
to a grid of its own: every sum of two laws takes all pairs of their values. All terms that are
added are positive, so that every mass has a small relative error, however small it is.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from accountants.analyses.floats import ULP, Floats
from accountants.analyses.pairs import normal_masses

# Widths of cells over the distance from 0, or over that from the middle of the law, above and below
# (where a cell costs half as much); and how many cells there are at most.
_WIDTH_ABOVE, _WIDTH_BELOW = 0.014, 0.02
_MOST_CELLS = 1500
# The least spread of a law that widths are taken from lies below this quantile, or between these.
_LOW, _QUARTER, _MIDDLE = 1e-7, 0.25, 0.5
# Values of a law in a coarse picture of it, and points by which widths are summed up.
_COARSE, _FINE = 64, 4000
# Share of the tail that may be cut off after each sum; there are at most 40 of them.
_CUT_SHARE = 1 / 64
# Pairs that are worked on at a time, so that they stay in the cache.
_BLOCK = 2**17
# Bits of a number that are not looked at when its cell is looked up.
_SHIFT = 40
# Products below this number have lost digits, or are lost.
_SMALLEST = 2.0**-1021
# Standard deviations beyond which a normal distribution weighs 0 in float64.
_FARTHEST = 37.0


@dataclass(frozen=True, slots=True)
class Law:
    """A discrete law of a sum of `count` terms, on one side of the true one.

    Attributes:
        count: number of terms, which is the mean of the true law.
        values: ascending, >= 0, shape (points,).
        masses: shape (points,).
        infinity: share of the mean that was cut off at large values; 0 below.
        lost: mass that may be missing because it is too small for floating point.
        error: bound on the relative error of the masses.
        drift: bound on the relative error of the values.
    """

    count: int
    values: Floats
    masses: Floats
    infinity: float
    lost: float
    error: float
    drift: float


@lru_cache(maxsize=64)
def law_of_sum(count: int, spread: float, tail: float, *, above: bool) -> Law:
    """A law above or below that of the sum of `count` copies of X.

    Args:
        count: number of terms (t), >= 1.
        spread: standard deviation of the logarithm of a term (s), > 0.
        tail: share of the mean that may be cut off, > 0.
        above: which side.
    """
    power, total = _one(spread, tail, above=above), None
    while True:
        if count % 2:
            total = power if total is None else _sum(total, power, tail, above=above)
        count //= 2
        if total is not None and not count:
            return total
        power = _sum(power, power, tail, above=above)


def _one(spread: float, tail: float, *, above: bool) -> Law:
    """The law of one term: masses and means of its cells in closed form."""
    reach = min(_quantile(tail), _FARTHEST)
    top = math.exp(spread * reach + spread**2 / 2)
    low, middle = (math.exp(spread * u - spread**2 / 2) for u in (-_quantile(_LOW), 0.0))
    half = middle * math.expm1(min(spread, 1.0)) / 2
    edges = _edges(top, low, middle, half, above=above)
    edges = edges[(edges == 0) | (edges >= math.exp(-spread * reach - spread**2 / 2))]
    with np.errstate(divide="ignore"):
        outcomes = (np.log(edges) + spread**2 / 2) / spread
    masses, means = (normal_masses(outcomes, mean, 1.0)[1:] for mean in (0.0, spread))
    rounding = ULP * (64 + 32 * (reach + spread) ** 2 + 8 * spread)
    if not above:
        kept = masses > _SMALLEST / ULP
        return Law(1, means[kept] / masses[kept], masses[kept], 0.0, 0.0, rounding, 4 * rounding)
    widths = np.diff(edges)
    up = np.maximum(means[:-1] - edges[:-1] * masses[:-1], 0.0) / widths
    down = np.maximum(edges[1:] * masses[:-1] - means[:-1], 0.0) / widths
    doubt = 4 * rounding * edges[1:] / widths
    at = np.zeros(len(edges))
    at[1:] += up + doubt * masses[:-1]
    at[:-1] += down + doubt * masses[:-1]
    at[-1] += masses[-1]
    infinity = float(means[-1]) * (1 + rounding)
    return Law(1, edges, at, infinity, _SMALLEST * len(edges), rounding, rounding)


def _quantile(tail: float) -> float:
    """How many standard deviations a normal variable exceeds with this chance, at most."""
    return math.sqrt(-2 * math.log(tail))


def _edges(top: float, low: float, middle: float, half: float, *, above: bool) -> Floats:
    """Ends of cells from 0 to `top`: narrow between 0 and `low`, and around the middle.

    A cell at x is as wide as a share of the distance from 0, but not less than that of `low`; and
    no wider than a share of the distance from the middle, but not less than that of `half`.
    """
    from_zero = low * np.sinh(np.linspace(0, math.asinh(top / low), _FINE))
    aside = half * np.sinh(np.linspace(0, math.asinh(top / half), _FINE))
    x = np.concatenate([from_zero, middle - aside, middle + aside])
    x = np.unique(np.append(x[(x > 0) & (x < top)], [0.0, top]))
    share = _WIDTH_ABOVE if above else _WIDTH_BELOW
    widths = share * np.minimum(np.hypot(x, low), np.hypot(x - middle, half))
    steps = np.diff(x) * 2 / (widths[1:] + widths[:-1])
    passed = np.append(0.0, np.cumsum(steps))
    count = min(math.ceil(passed[-1]), _MOST_CELLS)
    return np.unique(np.interp(np.linspace(0, passed[-1], count + 1), passed, x))


def _sum(first: Law, second: Law, tail: float, *, above: bool) -> Law:
    """The law of the sum of two independent variables, on a grid of its own."""
    count = first.count + second.count
    edges = _edges_of_sum(first, second, above=above)
    up, down, largest = _pairs(first, second, edges)
    widths = np.diff(edges)
    error = first.error + second.error + ULP * (largest + 16)
    infinity = (first.count * first.infinity + second.count * second.infinity) / count
    lost = first.lost + second.lost + _SMALLEST * len(first.values) * len(second.values)
    drift = max(first.drift, second.drift) + 8 * ULP
    if above:
        masses = np.append(down / widths, 0.0) + np.append(0.0, up / widths)
        law = Law(count, edges, masses, infinity, lost, error, drift)
        return _cut(law, tail * _CUT_SHARE)
    masses = (up + down) / widths
    kept = masses > _SMALLEST / ULP
    values = edges[:-1][kept] + up[kept] / masses[kept]
    drift += 4 * error
    return _merged(Law(count, values, masses[kept], 0.0, lost, error, drift), tail * _CUT_SHARE)


def _pairs(first: Law, second: Law, edges: Floats) -> tuple[Floats, Floats, int]:
    """Over all pairs of values, what falls into each cell.

    Returns:
        Sums of mass times distance from the lower end, and from the upper end, of each cell, shape
        (edges - 1,); and the largest number of pairs in a cell.
    """
    cells, finder = len(edges) - 1, Finder.of(edges)
    up, down, counts = np.zeros(cells), np.zeros(cells), np.zeros(cells, dtype=np.int64)
    rows = max(_BLOCK // len(second.values), 1)
    for start in range(0, len(first.values), rows):
        chosen, stop = slice(start, start + rows), start + rows
        others, weights = second.values, second.masses
        if first is second:  # pairs of two rows that come later are those of two that came before
            others, weights = others[start:], np.append(weights[start:stop], 2 * weights[stop:])
        values = np.add.outer(first.values[chosen], others).ravel()
        masses = np.multiply.outer(first.masses[chosen], weights).ravel()
        cell = finder.cells(values)
        up += np.bincount(cell, masses * (values - edges[cell]), cells)
        down += np.bincount(cell, masses * (edges[cell + 1] - values), cells)
        counts += np.bincount(cell, minlength=cells)
    return up, down, int(counts.max())


@dataclass(frozen=True, slots=True)
class Finder:
    """The cell of each of many values, by a table over their leading bits.

    Attributes:
        ends: upper ends of the cells, the last one infinite, shape (cells,).
        first: leading bits of the table's first entry.
        table: the cell in which the smallest number with given leading bits lies.
    """

    ends: Floats
    first: int
    table: NDArray[np.int32]

    @classmethod
    def of(cls, edges: Floats) -> "Finder":
        """A table for these edges, the first of which is 0."""
        first, last = (int(bits) >> _SHIFT for bits in edges[[1, -1]].view(np.int64))
        smallest = (np.arange(first, last + 1) << _SHIFT).view(np.float64)
        table = np.searchsorted(edges[1:-1], smallest, side="right").astype(np.int32)
        table[0] = 0
        return cls(np.append(edges[1:-1], np.inf), first, table)

    def cells(self, values: Floats) -> NDArray[np.int32]:
        """Which cell each value lies in; values from 0 to the last edge."""
        found: NDArray[np.int32] = self.table[
            np.maximum((values.view(np.int64) >> _SHIFT) - self.first, 0)
        ]
        while np.any(beyond := values >= self.ends[found]):
            found += beyond
        return found


def _edges_of_sum(first: Law, second: Law, *, above: bool) -> Floats:
    """The grid of a sum, from coarse pictures of both terms; any grid gives valid laws."""
    one, other = _coarse(first), _coarse(second)
    values = np.add.outer(one[0], other[0]).ravel()
    order = np.argsort(values)
    values, below = values[order], np.cumsum(np.multiply.outer(one[1], other[1]).ravel()[order])
    low, left, middle = (
        float(values[min(int(np.searchsorted(below, share)), len(values) - 1)])
        for share in (_LOW, _QUARTER, _MIDDLE)
    )
    top = float(first.values[-1] + second.values[-1])
    least = 1e-6 * middle
    return _edges(top, max(low, least), middle, max(middle - left, least), above=above)


def _coarse(law: Law) -> tuple[Floats, Floats]:
    """A law in a few dozen values."""
    starts = np.unique(np.linspace(0, len(law.values), _COARSE, endpoint=False).astype(np.intp))
    masses = np.maximum(np.add.reduceat(law.masses, starts), _SMALLEST)
    return np.add.reduceat(law.masses * law.values, starts) / masses, masses


def _cut(law: Law, share: float) -> Law:
    """Large values taken down to a smaller one, and what that takes from the mean to infinity."""
    last, beyond = _last(law, share)
    masses = law.masses[: last + 1].copy()
    masses[-1] += float(law.masses[last + 1 :].sum())
    return Law(
        law.count,
        law.values[: last + 1],
        masses,
        law.infinity + beyond * (1 + law.error),
        law.lost,
        law.error,
        law.drift,
    )


def _merged(law: Law, share: float) -> Law:
    """Large values merged into their mean."""
    last, _ = _last(law, share)
    values, masses = law.values[: last + 1].copy(), law.masses[: last + 1].copy()
    masses[-1] = float(law.masses[last:].sum())
    values[-1] = float(law.masses[last:] @ law.values[last:]) / masses[-1]
    drift = law.drift + 2 * law.error
    return Law(law.count, values, masses, 0.0, law.lost, law.error, drift)


def _last(law: Law, share: float) -> tuple[int, float]:
    """The place beyond which at most this share of the mean lies, and how much that is."""
    shares = np.cumsum((law.values * law.masses)[::-1])[::-1] / law.count
    last = int(np.argmax(np.append(shares[1:], 0.0) <= share))
    return last, float(np.append(shares[1:], 0.0)[last])
