"""A pair cut into cells of its loss: finely, with every error, or coarsely, to look at it.

Cells carry the masses under P and Q between cuts, which bounds are made of. A sketch is a hundred
points with their weights, by which grids and tilts are chosen.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from accountants.analyses.floats import ULP, Floats
from accountants.analyses.pairs import NormalPair

Places: TypeAlias = NDArray[np.int64]

WIDEST_LOSS = 500.0
"""Losses beyond this are not put on a grid: exp of them nears the end of float64."""

# Standard deviations from a mean beyond which a normal distribution weighs 0 in float64.
_FARTHEST = 40.0
# Of a sketch, in standard deviations: how far apart its points are, and where the first one is.
_ROUGH_SPACING = 0.25
_ROUGH_LOWEST = -10.0


@dataclass(frozen=True, slots=True)
class Grid:
    """Ascending losses `origin + step * places`, whole multiples of one step apart.

    Attributes:
        origin: the loss of place 0.
        step: distance of neighbouring places.
        places: ascending whole numbers, shape (points,).
    """

    origin: float
    step: float
    places: Places

    @property
    def losses(self) -> Floats:
        """Shape (points,)."""
        return np.asarray(self.origin + self.step * self.places, dtype=np.float64)

    def mirrored(self) -> "Grid":
        """The negative losses, ascending."""
        return Grid(-self.origin, self.step, -self.places[::-1])


@dataclass(frozen=True, slots=True)
class Cells:
    """What both distributions of a pair weigh between cuts of the loss.

    Attributes:
        cuts: where the cells end.
        p: masses under P of (-inf, first cut], ..., (last cut, inf), shape (cuts + 1,).
        q: the same under Q.
        error: bound on the relative rounding error of p and q, shape (cuts + 1,).
        cut_error: bounds on how far the loss at a cut is from the number in `cuts`, shape (cuts,).
    """

    cuts: Grid
    p: Floats
    q: Floats
    error: Floats
    cut_error: Floats

    def backward(self) -> "Cells":
        """The same cells seen from the pair (Q, P), whose loss is the negative one."""
        return Cells(
            self.cuts.mirrored(),
            self.q[::-1],
            self.p[::-1],
            self.error[::-1],
            self.cut_error[::-1],
        )


@dataclass(frozen=True, slots=True)
class Sketch:
    """A pair in a hundred points, to choose grids and tilts by; no bound rests on it.

    Attributes:
        log_p: log masses under P, shape (points,).
        log_q: log masses under Q.
        losses: privacy losses of the points.
    """

    log_p: Floats
    log_q: Floats
    losses: Floats


def cells(pair: NormalPair, cuts: Grid) -> Cells:
    """The masses of a pair between cuts of its loss, with a bound on their error."""
    losses = cuts.losses
    y = pair.outcome(losses)
    p, q = pair.masses(y)
    finite = np.isfinite(y)
    z = np.where(finite, np.abs(y) + pair.largest_shift, 0.0) / pair.sigma
    z = np.maximum(np.append(z, z[-1]), np.insert(z, 0, z[0]))
    cut_error = np.zeros(len(losses))
    if finite.sum() > 1:
        cut_error[finite] = _cut_error(pair, y[finite], losses[finite])
    z = np.minimum(z, _FARTHEST)  # what lies beyond weighs 0 in float64, and less than 1e-300
    error = ULP * (64 + 32 * z**2 + 8 * pair.largest_shift)
    return Cells(cuts, p, q, error, cut_error)


def _cut_error(pair: NormalPair, y: Floats, cuts: Floats) -> Floats:
    """How far the losses at outcomes y are from the cuts: what is seen, and its own rounding.

    The outcome and the exponents carry a few units in the last place of |y| + shift, which the
    slope of the loss passes on.
    """
    steepest = 2 * pair.largest_shift / pair.sigma**2
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.gradient(cuts, y)
    slope = np.where(slope < steepest, slope, steepest)  # also for outcomes that coincide
    weights = pair.activity + (pair.largest_shift - 1) / 8  # those of a group are products
    size = np.abs(cuts) + weights + slope * (np.abs(y) + pair.largest_shift)
    return np.abs(pair.loss(y) - cuts) + 32 * ULP * size


def sketch(pair: NormalPair, tail: float) -> Sketch:
    """The pair by the trapezoidal rule, which is all but exact for integrands like these."""
    low, high = pair.reach(max(tail, 1e-300))
    low = max(low, _ROUGH_LOWEST * pair.sigma - pair.largest_shift)
    spacing = _ROUGH_SPACING * min(pair.sigma, max(pair.sigma**2, pair.sigma / 4))
    y = np.arange(low, high + spacing, spacing)
    losses = pair.loss(y)
    log_q = pair.log_density(y) + math.log(spacing)
    return Sketch(log_q + losses, log_q, losses)
