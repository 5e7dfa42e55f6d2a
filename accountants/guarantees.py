"""What a guarantee is: of which unit, between which neighbours, how much, and how surely known."""

from dataclasses import dataclass
from enum import Enum

from accountants import checks
from accountants.errors import UnsupportedAnalysisError


class Unit(Enum):
    """What one unit of the guarantee is: what may be added, removed or replaced."""

    RECORD = "record"
    CLIENT = "client"


class Neighbouring(Enum):
    """Which data sets must be hard to tell apart.

    ADD_REMOVE: one holds a unit more. REPLACE_ONE: one unit differs, so the sensitivity of a sum
    of clipped contributions is twice the clipping norm. ZERO_OUT: the contributions of one unit
    are zeros in one of them, which leaves its place in a stream or a matrix.
    """

    ADD_REMOVE = "add_remove"
    REPLACE_ONE = "replace_one"
    ZERO_OUT = "zero_out"


def neighbouring_of(value: object) -> Neighbouring:
    """A neighbouring relation, or its name."""
    try:
        return Neighbouring(value)
    except ValueError:
        choice = f"one of {[each.value for each in Neighbouring]}"
        raise checks.refusal("neighbouring", choice, value) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The (epsilon, delta) that all releases on one data set together may reach.

    Attributes:
        epsilon: > 0, finite.
        delta: strictly between 0 and 1; below one over the number of units to mean anything.

    Raises:
        InvalidValueError: for a value out of range.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", checks.positive(epsilon=self.epsilon))
        object.__setattr__(self, "delta", checks.probability(delta=self.delta))


@dataclass(frozen=True, slots=True)
class EpsilonBounds:
    """Two numbers with the tightest epsilon between them; `float(bounds)` is the upper one.

    Attributes:
        lower: below this no analysis of the same events can go; 0 or above.
        upper: the claim: the events are (upper, delta)-DP. May be infinite.
        method: how the upper number came about, in words for a report.
    """

    lower: float
    upper: float
    method: str

    def __post_init__(self) -> None:
        _check(self.lower, self.upper)

    def __float__(self) -> float:
        return self.upper


@dataclass(frozen=True, slots=True)
class DeltaBounds:
    """Two numbers with the tightest delta between them; `float(bounds)` is the upper one.

    Attributes:
        lower: below this no analysis of the same events can go; 0 or above.
        upper: the claim: the events are (epsilon, upper)-DP; at most 1.
        method: how the upper number came about, in words for a report.
    """

    lower: float
    upper: float
    method: str

    def __post_init__(self) -> None:
        _check(self.lower, self.upper)

    def __float__(self) -> float:
        return self.upper


def _check(lower: float, upper: float) -> None:
    if not 0 <= lower <= upper:
        raise UnsupportedAnalysisError(
            f"a lower bound must not exceed its upper bound, got {lower!r} and {upper!r}; the "
            "computation failed, and no number is given"
        )
