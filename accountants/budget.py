"""How much may be spent, on what unit, and under which neighbouring relation."""

from dataclasses import dataclass
from enum import Enum

from accountants import checks


class Unit(Enum):
    """What one unit of the guarantee is: what may be added, removed or replaced."""

    RECORD = "record"
    CLIENT = "client"


class Neighbouring(Enum):
    """Which data sets must be hard to tell apart.

    ADD_REMOVE: one holds a unit more. REPLACE_ONE: one unit differs, so the sensitivity of a sum
    of clipped contributions is twice the clipping norm.
    """

    ADD_REMOVE = "add_remove"
    REPLACE_ONE = "replace_one"


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
