"""One epoch of random allocation: every record joins one of t steps, drawn in secret.

The worst case is P = (1/t) sum_i N(e_i, sigma^2 I) against Q = N(0, sigma^2 I) in t dimensions.
With s = 1 / sigma and u_i = x_i / sigma, which under Q are independent and standard normal, the
likelihood ratio is

    L = dP/dQ = (1/t) sum_i X_i,    X_i = exp(s u_i - s^2 / 2),

so that the law of a sum of independent variables (`sums`) says everything. In both directions delta
is E_Q[f(L)] for a convex f, (L - exp(epsilon))+ and (1 - exp(epsilon) L)+, so that a law above in
convex order dominates the pair in both, and one below is dominated.

*Why this pair is the worst.* Given the steps that all other records drew, which has one law on both
sides, step i releases a sum known from earlier results, plus g_i where it is the record's own step,
plus noise. The g_i has norm at most C and may depend on all earlier results, so that

    L = (1/t) sum_i Y_i,    Y_i = exp(<g_i, z_i> / (sigma C)^2 - |g_i|^2 / (2 (sigma C)^2)),

where z_i, the noise of step i, is independent of g_i under Q. Multiply each Y_i by
exp(r_i w_i - r_i^2 / 2), with w_i standard normal, independent of all else, and
r_i^2 = s^2 - |g_i|^2 / (sigma C)^2. Given all earlier steps the product is distributed as X_i, so
that the mean of the products is distributed as the L of the worst case; and its mean, given all z,
is the L of the mechanism. By Jensen's inequality E[f(L)] is at most that of the worst case, for
every convex f. Epochs compose like any other pairs (Zhu, Dong & Wang 2022, arXiv:2106.08567). The
scheme and the pair are those of Feldman & Shenfeld 2025, arXiv:2502.08202.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from accountants.analyses.cells import WIDEST_LOSS, Grid, Places, Sketch
from accountants.analyses.floats import ULP, Floats
from accountants.analyses.lattices import Discretised, Fineness, Lattice, lifted_masses
from accountants.analyses.sums import Law, law_of_sum

SMALLEST_SIGMA, LARGEST_SIGMA = 0.05, 1e3
"""Epochs with less noise than this over the shift, or with more, are not put on a grid."""

MOST_BATCHES = 10**6
"""Nor are epochs of more steps."""

# Tails that laws are cut off at; the next smaller one is taken, so that laws are computed once.
_TAILS = (1e-20, 1e-40, 1e-80, 1e-160)
_MOST_CELLS = 2**21
_SKETCH_POINTS, _SKETCH_TAIL = 200, 1e-40
# Roundings of one merged likelihood ratio, and of the masses and losses of one value.
_MERGING, _ROUNDING = 512 * ULP, 64 * ULP


@dataclass(frozen=True, slots=True)
class AllocationStep:
    """One epoch as a step with a dominating pair.

    Attributes:
        batches: steps of the epoch (t), > 1.
        sigma: noise standard deviation over the shift of one record.
    """

    batches: int
    sigma: float

    @property
    def symmetric(self) -> bool:
        """The two directions differ."""
        return False

    @property
    def tight(self) -> bool:
        """Finer grids bring the bounds together, until only the width of the laws is left."""
        return True

    @property
    def representable(self) -> bool:
        """Whether the laws stay in the range of floating point."""
        return SMALLEST_SIGMA <= self.sigma <= LARGEST_SIGMA and self.batches <= MOST_BATCHES

    @property
    def total_variation(self) -> float:
        """At most that of a known step, and half the root of E[(L - 1)^2]."""
        spread = 1 / self.sigma
        known = float(erf(spread / math.sqrt(8)))
        excess = math.expm1(min(spread * spread, 700.0)) / self.batches
        return min(known, math.sqrt(excess) / 2) * (1 + _ROUNDING)

    def sketch(self, tail: float) -> Sketch:
        """Values of the law above, a few at a time."""
        law = self._law(max(tail, _SKETCH_TAIL), above=True)
        parts = np.linspace(0, len(law.values), _SKETCH_POINTS, endpoint=False)
        starts = np.unique(parts.astype(np.intp))
        q = np.add.reduceat(law.masses, starts)
        p = np.add.reduceat(law.masses * law.values, starts) / self.batches
        used = (p > 0) & (q > 0)
        log_p, log_q = np.log(p[used]), np.log(q[used])
        return Sketch(log_p, log_q, log_p - log_q)

    def discretise(self, fineness: Fineness) -> Discretised | None:
        """Lattices with this grid step; None if they have too many places."""
        above, below = (self._law(fineness.tail, above=side) for side in (True, False))
        forward, backward = _dominating(above, fineness.step), _mirrored(above, fineness.step)
        merged = _dominated(below, fineness.step)
        if forward is None or backward is None or merged is None:
            return None
        return Discretised(forward, backward, merged)

    def _law(self, tail: float, *, above: bool) -> Law:
        cut = next((value for value in _TAILS if value <= tail), _TAILS[-1])
        return law_of_sum(self.batches, 1 / self.sigma, cut, above=above)


def _dominating(law: Law, step: float) -> Lattice | None:
    """The loss log L under P, from a law above."""
    used = law.values > 0
    ratios = law.values[used] / law.count
    return _spread(np.log(ratios), ratios * law.masses[used], law.infinity, law, step)


def _mirrored(law: Law, step: float) -> Lattice | None:
    """The loss -log L under Q, from a law above; where L is 0 it is infinite."""
    used = law.values > 0
    infinity = float(law.masses[~used].sum()) * (1 + law.error)
    losses = -np.log(law.values[used] / law.count)
    return _spread(losses[::-1], law.masses[used][::-1], infinity, law, step)


def _spread(
    losses: Floats, masses: Floats, infinity: float, law: Law, step: float
) -> Lattice | None:
    """Every mass on the two grid points beside its loss, in shares that keep it under P and Q.

    The law's values may be off by its drift, which moves the losses by as much, and the masses
    under P with them.
    """
    places = np.floor(losses / step).astype(np.int64)
    farthest = float(np.max(np.abs(losses)))
    if places[-1] - places[0] > _MOST_CELLS or farthest > WIDEST_LOSS:
        return None
    beyond = np.clip(losses - step * places, 0.0, step)
    here = np.exp(-beyond) * np.expm1(-(step - beyond)) / math.expm1(-step)
    after = np.expm1(-beyond) / math.expm1(-step)
    inflated = masses * (1 + law.error + 2 * law.drift + _ROUNDING)
    places, masses = _at_places(places, inflated * here, inflated * after)
    lost = law.lost * (1 + math.exp(farthest))
    drift = 2 * law.drift + _ROUNDING * (1 + farthest)
    infinity = min(infinity * (1 + law.drift) + lost, 1.0)
    return Lattice(Grid(0.0, step, places), masses, infinity, drift)


def _at_places(places: Places, here: Floats, after: Floats) -> tuple[Places, Floats]:
    """Masses at places and at the ones after them, summed up; ascending, without empty places."""
    first, length = int(places[0]), int(places[-1] - places[0]) + 2
    masses = np.zeros(length)
    np.add.at(masses, places - first, here)
    np.add.at(masses, places - first + 1, after)
    kept = np.flatnonzero(masses)
    return kept + first, masses[kept]


def _dominated(law: Law, step: float) -> Lattice | None:
    """The loss log L under P, from a law below, on grid points: all values of a cell are merged.

    Each takes in a share of the next larger ones that brings it up to the end of its cell; what
    does not come up to it is rounded down to the beginning.
    """
    used = law.values > 0
    ratios, q = law.values[used] / law.count, law.masses[used]
    cell = np.floor(np.log(ratios) / step).astype(np.int64)
    if cell[-1] - cell[0] > _MOST_CELLS:
        return None
    starts = np.flatnonzero(np.diff(cell, prepend=cell[0] - 1))
    p, q = np.add.reduceat(ratios * q, starts), np.add.reduceat(q, starts)
    places = cell[starts]
    ends = Grid(0.0, step, places + 1).losses
    at_end, short = lifted_masses(p, q, ends)
    shrunk = max(1 - law.error - 2 * law.drift - _ROUNDING, 0.0)
    reach = 1 + step * float(np.max(np.abs(places)))
    drift = 2 * law.drift + (_MERGING + _ROUNDING) * reach
    places, masses = _at_places(places, short * shrunk, at_end * shrunk)
    return Lattice(Grid(0.0, step, places), masses, 0.0, drift)
