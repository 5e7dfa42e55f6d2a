"""Steps -> delta at many epsilons: a few compositions, each of which is asked many times.

One composition bounds delta at every epsilon, closely where its tilt brings the middle of the
composed loss near that epsilon. `composition.delta_bounds` aims anew for every question; here a few
aims share the range, and every question takes the least of their answers.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from accountants.analyses import composition, discretisation, tilted
from accountants.analyses.composition import Schedule, Step
from accountants.analyses.lattices import Lattice
from accountants.analyses.tilted import Composed

# Where the compositions are aimed at: at the epsilons of these deltas, which is where tests with
# error rates down to 1e-10 are decided, and in standard deviations of the composed loss above 0.
_DELTAS = (1e-1, 1e-3, 1e-6, 1e-9, 1e-12)
_LEAST = 0.25
# Share of an epsilon that the mean of the loss must come to under the tilt for it.
_REACHED = 0.99
# How much the grid may add to delta, in the terms of `discretisation.grid_step`.
_RELATIVE_GAP = 1e-4
# Grid steps that are tried at most, and how much coarser the next one is where one does not fit.
_ATTEMPTS, _COARSER = 12, 3.0


@dataclass(frozen=True, slots=True)
class Profile:
    """An upper bound on delta as a function of epsilon, both directions covered.

    Attributes:
        epsilons: where the compositions are aimed at, increasing.
        aims: for each of these, the compositions that dominate: of both directions, or of one where
            the two are the same.
    """

    epsilons: tuple[float, ...]
    aims: tuple[tuple[Composed, ...], ...]

    @classmethod
    def of(cls, steps: Sequence[Step], counts: Sequence[int]) -> "Profile | None":
        """The profile of `counts[k]` runs of each step; None if no grid fits."""
        if not all(step.representable for step in steps):
            return None
        rough = composition.aimed_at(steps, counts, 0.0)[0].moments()
        least = _LEAST * rough.mean_and_deviation(0.0)[1]
        wanted = [discretisation.tilt_for_delta(rough, delta)[1] for delta in _DELTAS]
        epsilons = {least, *(value for value in wanted if value > least)}
        found = [(epsilon, _aimed(steps, counts, epsilon)) for epsilon in sorted(epsilons)]
        fitting = [(epsilon, aim) for epsilon, aim in found if aim is not None]
        return cls(*map(tuple, zip(*fitting, strict=True))) if fitting else None

    def delta(self, epsilon: float) -> float:
        """An upper bound on delta at this epsilon, which is >= 0."""
        after = bisect_left(self.epsilons, epsilon)
        near = self.aims[max(after - 1, 0) : after + 1]
        return min(1.0, *(max(each.delta_above(epsilon) for each in aim) for aim in near))


def _aimed(
    steps: Sequence[Step], counts: Sequence[int], epsilon: float
) -> tuple[Composed, ...] | None:
    """Compositions that bound delta closely about this epsilon.

    None if no grid fits, or if the loss hardly reaches this epsilon, as at the end of bounded ones.
    """
    schedule, tilt, deviation = composition.aimed_at(steps, counts, epsilon)
    if schedule.moments().mean_and_deviation(tilt)[0] < _REACHED * epsilon:
        return None
    step = composition.step_for_delta(schedule, tilt, deviation, _RELATIVE_GAP)
    for _ in range(_ATTEMPTS):
        found = schedule.discretised(tilt, step)
        if found is not None:
            directions = [_composed(schedule, [each.forward for each in found], epsilon, False)]
            if not schedule.symmetric:
                lattices = [each.backward for each in found]
                directions.append(_composed(schedule, lattices, epsilon, True))
            fitting = tuple(each for each in directions if each is not None)
            if len(fitting) == len(directions):
                return fitting
        step *= _COARSER
    return None


def _composed(
    schedule: Schedule, lattices: Sequence[Lattice], epsilon: float, backward: bool
) -> Composed | None:
    """One direction, with a window about epsilon; None if it has too many points."""
    moments = schedule.moments(backward=backward)
    tilt = discretisation.tilt_for_epsilon(moments, epsilon)
    step = lattices[0].grid.step
    least = schedule.tail * sum(schedule.counts) / composition.TAIL_SHARE
    window = discretisation.window(moments, tilt, epsilon, least, step)
    return tilted.compose(lattices, schedule.counts, window)
