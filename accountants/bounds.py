"""A number that is known from both sides."""

from dataclasses import dataclass

from accountants.errors import UnsupportedAnalysisError


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
