"""What one round did, in public numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any


def rounded_up(epsilon: float, digits: int = 4) -> str:
    """Epsilon in print: rounded up, so that what is read is never below what is bounded."""
    return str(Decimal(epsilon).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_CEILING))


def rounded_down(epsilon: float, digits: int = 4) -> str:
    """A lower bound as text, never above its value."""
    return str(Decimal(epsilon).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFigures:
    """One row of the table.

    Attributes:
        round: counted from 1.
        clients: ids that took part.
        absent: ids that did not take part; no reason leaves a client.
        metric: "accuracy" or "perplexity".
        value: of the metric on held-out text, after the round.
        bytes_up: from clients to the aggregator, everything on the wire counted; 0 where a crash
            left nothing of a round but its result.
        bytes_down: from the aggregator to all clients: keys, challenges, the message that ends the
            round.
        bytes_holder: between aggregator and key holder, both ways; 0 without one.
        seconds: wall time of the round, evaluation included.
        seconds_aggregator: of that, what the aggregator took to check and add.
        seconds_opening: from the sum to the numbers that a client reads.
        epsilon: spent by each client after the round, on its data set, earlier runs included.
    """

    round: int
    clients: tuple[str, ...]
    absent: tuple[str, ...]
    metric: str
    value: float
    bytes_up: int
    bytes_down: int
    bytes_holder: int
    seconds: float
    seconds_aggregator: float
    seconds_opening: float
    epsilon: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """JSON values, with the metric under its own name."""
        values = asdict(self)
        values["clients"], values["absent"] = list(self.clients), list(self.absent)
        values[values.pop("metric")] = values.pop("value")
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RoundFigures":
        """The inverse of `to_json`."""
        metric = "accuracy" if "accuracy" in values else "perplexity"
        rest = {name: value for name, value in values.items() if name != metric}
        rest["clients"], rest["absent"] = tuple(rest["clients"]), tuple(rest["absent"])
        return cls(metric=metric, value=values[metric], **rest)
