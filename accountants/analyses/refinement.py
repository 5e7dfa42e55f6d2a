"""Which grid step to try next: finer ones bring the bounds together, until rounding outweighs.

A grid of half the step has a quarter of the discretisation error and twice the cells, each with
rounding errors of its own, so that below some step the bounds drift apart again. Whatever steps
are tried, the best bounds of all of them hold.
"""

import math
from dataclasses import dataclass

# How the step changes from one trial to the next.
_COARSER, _FINEST_STEP, _FINER = 3.0, 0.3, 0.7
# A trial that leaves more than this of the gap was in vain; after so many in a row the search ends.
_WORTHWHILE, _PATIENCE = 0.85, 3
# An upper bound that is worse by more than this share of the gap calls for a coarser grid.
_OUTWEIGHED = 0.3


@dataclass(slots=True, kw_only=True)
class Refinement:
    """A search for close bounds over grid steps.

    Attributes:
        relative_gap: how close they are to come (upper - lower over upper).
        step: the grid step to try.
        lower: the best lower bound so far.
        upper: the best upper bound so far.
        only_lower: a grid raised the upper bound, and finer ones can only help the lower one.
        points_left: how many points may still be transformed.
    """

    relative_gap: float
    step: float
    lower: float = 0.0
    upper: float = math.inf
    only_lower: bool = False
    points_left: int
    _gap: float = math.inf
    _trials: int = 0
    _in_vain: int = 0
    _factor: float = 1.0
    _coarsening: bool = False

    def refine(self, found: tuple[float, float] | None) -> bool:
        """Take in what the step gave, and choose the next one; False if there is nothing to gain.

        Args:
            found: bounds (lower, upper), the upper one infinite if none was found or asked for;
                None if the grid was too large.
        """
        if found is None:
            self.step *= _COARSER
            return self.upper == math.inf
        before = self.upper
        self.lower, self.upper = max(self.lower, found[0]), min(self.upper, found[1])
        if self.upper == math.inf:
            self.step *= _FINEST_STEP
            return True
        if self.upper - self.lower <= self.relative_gap * self.upper:
            return False
        gap = 1 - self.lower / self.upper
        self._in_vain = self._in_vain + 1 if gap > _WORTHWHILE * self._gap else 0
        self._gap = gap
        self._trials += 1
        self.only_lower = self.only_lower or (found[1] > before and not self._coarsening)
        return self._choose(outweighed=found[1] > before * (1 + _OUTWEIGHED * gap))

    def _choose(self, *, outweighed: bool) -> bool:
        if self._coarsening:
            self.step *= _COARSER
            return self._in_vain == 0
        if outweighed and self._trials == 2:
            self._coarsening, self.only_lower = True, False
            self.step *= _COARSER / self._factor
            return True
        if self.lower > 0 and self._in_vain == _PATIENCE:
            return False
        wanted = 0.8 * math.sqrt(self.relative_gap / self._gap)
        self._factor = min(max(wanted, _FINEST_STEP), _FINER)
        self.step *= self._factor
        return True
