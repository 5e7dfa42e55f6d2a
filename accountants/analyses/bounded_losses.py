"""Steps whose loss has atoms at both ends: randomised response and the Laplace mechanism.

Their losses end at +-a. The grid is fitted to the ends by taking the largest loss up (above) or
down (below) to a multiple of half a grid step: a larger a is a less private, a smaller a a more
private mechanism of the same kind.
"""

import math
from dataclasses import dataclass

import numpy as np

from accountants.analyses.cells import WIDEST_LOSS, Cells, Grid, Sketch
from accountants.analyses.floats import ULP, Floats
from accountants.analyses.lattices import Discretised, Fineness, Lattice, dominated, dominating

_ROUNDING = 16 * ULP
_FIRST_CELL = 1.4
_SKETCH_CELLS = 256
_MOST_CELLS = 2**21


@dataclass(frozen=True, slots=True)
class RandomisedResponseStep:
    """The worst (epsilon, 0)-DP mechanism: loss +epsilon or -epsilon (Kairouz et al. 2015).

    Attributes:
        largest_loss: epsilon, > 0.
    """

    largest_loss: float

    @property
    def symmetric(self) -> bool:
        """Both answers are treated alike."""
        return True

    @property
    def tight(self) -> bool:
        """Finer grids bring both bounds together."""
        return True

    @property
    def representable(self) -> bool:
        """Whether exp(loss) is a finite number."""
        return self.largest_loss < WIDEST_LOSS

    @property
    def total_variation(self) -> float:
        """The distance of the two distributions."""
        return math.tanh(self.largest_loss / 2)

    def sketch(self, tail: float) -> Sketch:  # noqa: ARG002
        """Both points."""
        losses = np.array([-self.largest_loss, self.largest_loss])
        logs = -np.logaddexp(0.0, -losses)
        return Sketch(logs, logs[::-1], losses)

    def discretise(self, fineness: Fineness) -> Discretised | None:
        """As `NormalStep.discretise`."""
        step = fineness.step
        exact = 2 * self.largest_loss / step
        if exact < 1:
            return _negligible(self.largest_loss, step)
        if exact > _MOST_CELLS:
            return None
        above = _two_points(math.ceil(exact * (1 - _ROUNDING)), step, 1 + _ROUNDING)
        below = _two_points(math.floor(exact * (1 + _ROUNDING)), step, 1 - _ROUNDING)
        return Discretised(above, above, below)


@dataclass(frozen=True, slots=True)
class LaplaceStep:
    """Laplace(1, b) against Laplace(0, b): the loss is uniform in y between its two ends.

    Attributes:
        largest_loss: 1 / b, > 0.
    """

    largest_loss: float

    @property
    def symmetric(self) -> bool:
        """The mirror image turns one into the other."""
        return True

    @property
    def tight(self) -> bool:
        """Finer grids bring both bounds together."""
        return True

    @property
    def representable(self) -> bool:
        """Whether exp(loss) is a finite number."""
        return self.largest_loss < WIDEST_LOSS

    @property
    def total_variation(self) -> float:
        """The distance of the two distributions."""
        return -math.expm1(-self.largest_loss / 2)

    def sketch(self, tail: float) -> Sketch:  # noqa: ARG002
        """Cells, each at its own mean likelihood ratio."""
        found = _laplace_cells(_SKETCH_CELLS, 2 * self.largest_loss / _SKETCH_CELLS)
        log_p, log_q = np.log(found.p[:-1]), np.log(found.q[:-1])
        return Sketch(log_p, log_q, log_p - log_q)

    def discretise(self, fineness: Fineness) -> Discretised | None:
        """As `NormalStep.discretise`."""
        step = fineness.step
        exact = 2 * self.largest_loss / step
        if exact < 1:
            return _negligible(self.largest_loss, step)
        if exact > _MOST_CELLS:
            return None
        count = math.ceil(exact * (1 - _ROUNDING))
        above = dominating(_laplace_cells(count, step))
        return Discretised(above, above, _laplace_below(math.floor(exact * (1 + _ROUNDING)), step))


def _negligible(largest_loss: float, step: float) -> Discretised:
    """A step whose losses are all closer to 0 than half a grid step: loss 0, give or take."""
    only = Grid(0.0, step, np.array([0]))
    above = Lattice(only, np.array([1.0]), 0.0, largest_loss)
    return Discretised(above, above, above)


def _two_points(intervals: int, step: float, factor: float) -> Lattice:
    """Randomised response with losses +-intervals * step / 2."""
    largest = intervals * step / 2
    masses = np.zeros(intervals + 1)
    masses[0] = factor / (1 + math.exp(largest))
    masses[-1] += factor / (1 + math.exp(-largest))
    grid = Grid(-largest, step, np.arange(intervals + 1))
    return Lattice(grid, masses, 0.0, 2 * _ROUNDING * largest)


def _laplace_masses(cuts: Floats, largest: float) -> tuple[Floats, Floats]:
    """Masses of the loss under P and Q strictly between neighbouring cuts, atoms left out."""
    share = -np.expm1(-np.diff(cuts) / 2) / 2
    return np.exp((cuts[1:] - largest) / 2) * share, np.exp(-(cuts[:-1] + largest) / 2) * share


def _laplace_cells(intervals: int, step: float) -> Cells:
    """Cells from -a to a, with a = intervals * step / 2; the atoms are in the outer ones."""
    largest = intervals * step / 2
    cuts = Grid(-largest, step, np.arange(intervals + 1))
    p, q = _laplace_masses(cuts.losses, largest)
    far = math.exp(-largest) / 2
    p[-1] += 0.5
    q[-1] += far
    return Cells(
        cuts,
        np.concatenate([[far], p, [0.0]]),
        np.concatenate([[0.5], q, [0.0]]),
        np.full(intervals + 2, _ROUNDING),
        2 * _ROUNDING * np.abs(cuts.losses),
    )


def _laplace_below(intervals: int, step: float) -> Lattice:
    """Both atoms as they are, and the cells between them merged upwards from the lower one."""
    if intervals < 4:
        return Lattice(Grid(0.0, step, np.array([0])), np.array([1 - _ROUNDING]), 0.0, 0.0)
    largest = intervals * step / 2
    cuts = np.append(-largest, -largest + step * (_FIRST_CELL + np.arange(intervals - 1)))
    p, q = _laplace_masses(np.append(cuts, largest), largest)
    far = math.exp(-largest) / 2
    merged = dominated(
        Cells(
            Grid(-largest, step, np.arange(intervals)),
            np.concatenate([[far], p]),
            np.concatenate([[0.5], q]),
            np.full(len(cuts) + 1, _ROUNDING),
            np.zeros(len(cuts)),
        ),
        0,
    )
    masses = np.append(merged.masses, 0.5 * (1 - _ROUNDING))
    masses[-2] += p[-1] * (1 - _ROUNDING)
    grid = Grid(merged.grid.origin, step, np.arange(intervals + 1))
    return Lattice(grid, masses, 0.0, merged.drift + 2 * _ROUNDING * largest)
