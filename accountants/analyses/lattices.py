"""Privacy losses on a grid: one distribution that dominates the true one, one that it dominates.

Above: the mass of each cell between two grid points goes to its two ends, in the shares that keep
the mass of the cell under both P and Q (connect-the-dots: Doroshenko et al. 2022,
arXiv:2207.04380). That spreads likelihood ratios without moving their mean, so the discrete pair
is at least as far apart as the true one.

Below: outcomes are merged, which is post-processing, until every merged likelihood ratio lies on
the grid. Cells of one grid step are centred a little below the grid points, so that each has to
take in a share of the next one to come up to its grid point; the lowest cell, which holds much of
the mass where sampling is rare, sets the offset of the grid. Where the next one has too little,
as where the density falls steeply, it lifts a part of the cell, and the rest is rounded down.

For T steps and a tilt t the first raises the epsilon by about T h^2 (t + 1) / 12 and the second
lowers it by about half of that, where h is the grid step: the error of interpolating exp(t L)
between grid points.

What decides is delta = E_P[max(0, 1 - exp(epsilon - L))], which only grows if P-mass is added or
moved to larger losses. So rounding errors are met by adding to the masses above, and by taking
from the masses below; errors of the losses are summed up in `drift`.
"""

import math
from dataclasses import dataclass

import numpy as np

from accountants.analyses.cells import WIDEST_LOSS, Cells, Grid, Places, Sketch, cells, sketch
from accountants.analyses.floats import ULP, Floats
from accountants.analyses.pairs import NormalPair

SMALLEST_SIGMA = 0.04
"""Steps with less noise than this over the shift are not put on a grid."""

LARGEST_SIGMA = 1e13
"""Nor are those with more."""

_SHIFT = 0.05
_ROUNDS = 60
_SETTLED = 1e-15
_MOST_CELLS = 2**21
_SMALLEST_MASS = 1e-290


@dataclass(frozen=True, slots=True)
class Lattice:
    """A distribution of the privacy loss under P on a grid.

    Attributes:
        grid: the losses.
        masses: shape (points,); need not sum to 1.
        infinity: mass at an infinite loss.
        drift: bound on the error of the losses; added above, taken off below.
    """

    grid: Grid
    masses: Floats
    infinity: float
    drift: float


@dataclass(frozen=True, slots=True)
class Discretised:
    """One step of a mechanism on the grid.

    Attributes:
        forward: dominates the pair (P, Q).
        backward: dominates (Q, P); the same object if the pair is symmetric.
        below: is dominated by (P, Q).
    """

    forward: Lattice
    backward: Lattice
    below: Lattice


@dataclass(frozen=True, slots=True)
class Fineness:
    """How finely losses are cut.

    Attributes:
        step: the grid step h; all losses are multiples of it, up to an offset.
        resolution: cells may be as wide as their distance from loss 0 over this number.
        widest: but no wider than this.
        tail: mass that may be counted as an infinite loss.
    """

    step: float
    resolution: float
    widest: float
    tail: float


@dataclass(frozen=True, slots=True)
class NormalStep:
    """One step whose worst case is a pair of normal mixtures."""

    pair: NormalPair

    @property
    def symmetric(self) -> bool:
        """Whether both directions are the same."""
        return self.pair.symmetric

    @property
    def tight(self) -> bool:
        """Whether finer grids bring both bounds together."""
        return True

    @property
    def representable(self) -> bool:
        """Whether the losses stay in the range of floating point."""
        return SMALLEST_SIGMA <= self.pair.sigma <= LARGEST_SIGMA

    @property
    def total_variation(self) -> float:
        """An upper bound on it: the chance that the unit joins at all."""
        return self.pair.activity

    def sketch(self, tail: float) -> Sketch:
        """A coarse picture of the pair."""
        return sketch(self.pair, tail)

    def discretise(self, fineness: Fineness) -> Discretised | None:
        """Lattices of this fineness; None if the losses reach too far for floating point."""
        found = _cut(self.pair, fineness)
        if found is None:
            return None
        middle, bottom = found
        forward = dominating(middle)
        backward = forward if self.symmetric else dominating(middle.backward())
        return Discretised(forward, backward, dominated(middle, bottom))


@dataclass(frozen=True, slots=True)
class FixedSizeStep:
    """One step over a batch of fixed size under REPLACE_ONE.

    At each loss the larger of the two directions of `pair`, whose shift is 2C, bounds every pair
    of neighbours (Zhu, Dong & Wang 2022, arXiv:2106.08567): positive losses come from (P, Q),
    negative ones from (Q, P), and what is left of the mass has loss 0. Below stands one pair of
    data sets, in which all other records point the other way.
    """

    pair: NormalPair

    @property
    def symmetric(self) -> bool:
        """The bound is the same for both directions."""
        return True

    @property
    def tight(self) -> bool:
        """One pair of data sets does not reach the bound over all."""
        return False

    @property
    def representable(self) -> bool:
        """As `NormalStep.representable`."""
        return SMALLEST_SIGMA <= self.pair.sigma <= LARGEST_SIGMA

    @property
    def total_variation(self) -> float:
        """The chance that the replaced record joins."""
        return self.pair.activity

    def sketch(self, tail: float) -> Sketch:
        """That of the pair."""
        return sketch(self.pair, tail)

    def discretise(self, fineness: Fineness) -> Discretised | None:
        """As `NormalStep.discretise`."""
        found = _cut(self.pair, fineness)
        if found is None:
            return None
        middle, bottom = found
        losses = middle.cuts.losses
        places = _places(max(-losses[0], losses[-1]), fineness)
        positive = cells(self.pair, Grid(0.0, fineness.step, places))
        above = dominating(_glued(positive))
        return Discretised(above, above, dominated(middle, bottom))


def dominating(middle: Cells) -> Lattice:
    """The mass of every cell on its two ends; what lies beyond the last cut is at infinity."""
    p, q, losses = middle.p[1:-1], middle.q[1:-1], middle.cuts.losses
    spread = -np.expm1(-np.diff(losses))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = (1 - q * np.exp(losses[:-1]) / p) / spread
    share = np.clip(np.where(p > 0, share, 0.0), 0.0, 1.0)
    cut_error = np.maximum(middle.cut_error[1:], middle.cut_error[:-1])
    doubt = (2 * middle.error[1:-1] + cut_error) / spread
    inflated = middle.p * (1 + middle.error)
    masses = np.zeros(len(losses))
    masses[1:] += inflated[1:-1] * np.minimum(share + doubt, 1.0)
    masses[:-1] += inflated[1:-1] * np.minimum(1 - share + doubt, 1.0)
    masses[0] += inflated[0]
    drift = float(np.max(middle.cut_error))
    return Lattice(middle.cuts, masses, float(inflated[-1]), drift)


def dominated(middle: Cells, bottom: int | None) -> Lattice:
    """Cells merged so that each likelihood ratio is on the grid, from the lowest one upwards.

    Args:
        middle: cells that end `(0.5 - _SHIFT) * step` above grid points.
        bottom: the cells up to this cut are the first to be merged; None to leave out what lies
            below the first cut.
    """
    first = 0 if bottom is None else bottom
    p, q = middle.p[first + 1 : -1], middle.q[first + 1 : -1]
    p = np.where(q > _SMALLEST_MASS, p, 0.0)  # the ratio of masses below has too few digits
    ends, step = middle.cuts.places[first:] - middle.cuts.places[first], middle.cuts.step
    start = float(middle.cuts.losses[first]) - (0.5 - _SHIFT) * step
    lowest = 0.0
    if bottom is not None:
        lowest = float(middle.p[: bottom + 1].sum())
        start = math.log(lowest / float(middle.q[: bottom + 1].sum()))
    widths = np.diff(ends)
    targets = np.ceil(ends[1:] - 0.4 * (widths - 1) - 1e-9).astype(np.int64)
    grid = Grid(start, step, np.append(0, targets))
    at_target, short = lifted_masses(p, q, grid.losses[1:])
    masses = np.append(lowest, at_target)
    masses[:-1] += short
    worst = float(np.max(middle.error))
    drift = 8 * worst + float(np.max(middle.cut_error))
    return Lattice(grid, masses * (1 - 2 * worst), 0.0, drift)


def lifted_masses(p: Floats, q: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Masses merged with a share of the next ones, so that their losses come up to targets.

    Args:
        p: masses under P, by ascending loss, shape (cells,).
        q: the same under Q.
        targets: a loss for each of them, increasing.

    Returns:
        What comes to lie at the target of each cell, and what does not come up to it, shape
        (cells,).
    """
    taken, lifted = _taken(p, q, targets)
    left, lent = (1 - np.append(0.0, taken)) * p, np.append(taken * p[1:], 0.0)
    at_target = lifted * left + np.where(lifted > 0, lent, 0.0)
    return at_target, (1 - lifted) * left + np.where(lifted > 0, 0.0, lent)


def _taken(p: Floats, q: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Shares of the cells above that bring the merged loss of every cell up to its target.

    Returns:
        s, shape (cells - 1,): share of cell j + 1 that goes to cell j, at most 1, with
        s[j] = need[j] (1 - s[j - 1]); and which share of what is left of cell j this brings to
        its target, shape (cells,), 0 if cell j + 1 is below that target itself.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = q * np.exp(targets) / p
        supply = p[1:] * (1 - ratio[1:] * np.exp(-np.diff(targets)))
        lack = np.where(ratio[:-1] > 1, p[:-1] * (ratio[:-1] - 1), 0.0)
        need = np.where(lack > 0, np.where(supply > 0, lack / supply, np.inf), 0.0)
    taken: Floats = np.minimum(need, 1.0)
    for _ in range(_ROUNDS):
        following = np.minimum(_times(need, 1 - np.append(0.0, taken[:-1])), 1.0)
        moved = float(np.max(np.abs(following - taken), initial=0.0))
        taken = following
        if moved <= _SETTLED:
            break
    wanted = _times(need, 1 - np.append(0.0, taken[:-1]))
    with np.errstate(divide="ignore", invalid="ignore"):
        lifted = np.where(taken >= wanted - 2 * _SETTLED, 1.0, taken / wanted * (1 - 4 * _SETTLED))
    return taken, np.append(lifted, np.where(ratio[-1:] <= 1, 1.0, 0.0))


def _times(need: Floats, left: Floats) -> Floats:
    """Need * left, where nothing left needs nothing."""
    with np.errstate(invalid="ignore"):
        return np.where(left > 0, need * left, 0.0)


def _cut(pair: NormalPair, fineness: Fineness) -> tuple[Cells, int | None] | None:
    """Cells of a pair, and the cut that ends its lowest merged cell if that has any weight."""
    low, high = pair.reach(fineness.tail)
    step = fineness.step
    edge = _bottom_edge(pair, step, low, high)
    start, end = pair.loss(np.array([low if edge is None else edge, high]))
    lowest = start if edge is None else pair.lowest
    if max(-lowest, end) > WIDEST_LOSS:
        return None
    below = math.ceil((start - lowest) / step) + (edge is not None)
    zero = round(-start / step)
    right = _places(end + step, fineness)
    left = _places(max(-start, 0.0) + step, fineness)[:0:-1]
    if len(left) + len(right) + below > _MOST_CELLS:
        return None
    places = zero + np.concatenate([-left, right])
    places = places[(places > 0) & (places < zero + right[-1] + 1)]
    places = np.concatenate([np.arange(-below, 1), places])
    return cells(pair, Grid(float(start), step, places)), None if edge is None else below


def _places(end: float, fineness: Fineness) -> Places:
    """Whole numbers from 0 to beyond end / step, whose distances double as they grow."""
    step, base = fineness.step, max(math.ceil(fineness.resolution), 2)
    last, widest = math.ceil(end / step) + 1, max(fineness.widest / step, 1.0)
    pieces, start, width = [], 0, 1
    while start <= last:
        stop = 2 * base * width if 2 * width <= widest else last + width + 1
        pieces.append(np.arange(start, min(stop, last + width), width))
        start, width = int(pieces[-1][-1]) + width, 2 * width if 2 * width <= widest else width
    return np.concatenate(pieces)


def _bottom_edge(pair: NormalPair, step: float, low: float, high: float) -> float | None:
    """The outcome whose loss is (0.5 - _SHIFT) grid steps above the merged loss of all below it.

    None if that outcome is so far down that what lies below it can be left out.
    """
    if pair.lowest == -math.inf:
        return None
    for _ in range(3):
        y = np.linspace(low, high, 64)
        p, q = (np.cumsum(masses)[:-1] for masses in pair.masses(y))
        with np.errstate(divide="ignore", invalid="ignore"):
            excess = pair.loss(y) - np.log(p / q) - (0.5 - _SHIFT) * step
        reached = int(np.argmax(excess >= 0))
        if reached == 0:
            return None
        low, high = float(y[reached - 1]), float(y[reached])
    return low


def _glued(positive: Cells) -> Cells:
    """Losses above 0 from `positive`, those below from its mirror image, the rest at 0."""
    p, q, cuts = positive.p[1:], positive.q[1:], positive.cuts
    rest = max(1 - float(p.sum() + q.sum()), 0.0) + 64 * ULP
    left_p, left_q = q[::-1].copy(), p[::-1].copy()
    left_p[-1] += rest
    left_q[-1] += rest
    return Cells(
        Grid(0.0, cuts.step, np.append(-cuts.places[:0:-1], cuts.places)),
        np.append(left_p, p),
        np.append(left_q, q),
        np.full(2 * len(p), float(np.max(positive.error))),
        np.append(positive.cut_error[:0:-1], positive.cut_error),
    )
