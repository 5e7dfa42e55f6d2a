"""How much may be spent."""

from dataclasses import dataclass

from accountants import checks


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
