"""What rounds did, complete or given up, in public numbers and fixed sentences."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from enum import StrEnum
from typing import Any, Final

from privfed.checks import is_number

_LONGEST_NAME: Final = 80
"""Characters of the name of a figure."""
_MOST_FIGURES: Final = 16


def rounded_up(epsilon: float, digits: int = 4) -> str:
    """Epsilon in print: rounded up, so that what is read is never below what is bounded."""
    return str(Decimal(epsilon).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_CEILING))


def rounded_down(epsilon: float, digits: int = 4) -> str:
    """A lower bound as text, never above its value."""
    return str(Decimal(epsilon).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR))


def are_figures(values: object) -> bool:
    """Whether these are figures of a method: few finite numbers from 0 on, by printable names."""
    return (
        isinstance(values, Mapping)
        and len(values) <= _MOST_FIGURES
        and all(
            isinstance(name, str)
            and name.isprintable()
            and 0 < len(name) <= _LONGEST_NAME
            and is_number(value)
            and 0 <= value <= sys.float_info.max
            for name, value in values.items()
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One row of the table.

    Attributes:
        round: counted from 1.
        clients: ids that took part.
        absent: ids that did not take part; no reason leaves a client.
        metric: name of what is measured, e.g. "accuracy" or "perplexity".
        value: of the metric on held-out text, after the round.
        signal_to_noise: norm of the released mean update over that of the noise in it, about 1
            where there is little but noise; None where the noise is not known.
        figures: what the method shows of the state that the round released, by readable names;
            post-processing.
        bytes_up: from clients to the aggregator: accepted updates and answers, whole messages, and
            not the short statements around them; 0 where a crash left nothing of a round but its
            result.
        bytes_down: from the aggregator to all clients: keys, challenges, the message that ends the
            round.
        bytes_holder: between aggregator and key holder, both ways; 0 without one.
        seconds: wall time of the round, evaluation included.
        seconds_aggregator: of that, what the aggregator took to check and add.
        seconds_opening: from the sum to what all clients state that they came to: opening it, the
            next adapter and its metric included.
        epsilon: spent by each client after the round, on its data set, earlier runs included.
    """

    round: int
    clients: tuple[str, ...]
    absent: tuple[str, ...]
    metric: str
    value: float
    signal_to_noise: float | None
    figures: Mapping[str, float]
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
    def from_json(cls, values: Mapping[str, Any]) -> "RoundRecord":
        """The inverse of `to_json`."""
        (metric,) = set(values).difference(field.name for field in fields(cls))
        rest = {name: value for name, value in values.items() if name != metric}
        rest["clients"], rest["absent"] = tuple(rest["clients"]), tuple(rest["absent"])
        return cls(metric=metric, value=values[metric], **rest)


class Reason(StrEnum):
    """Why a round was abandoned: fixed sentences, which say nothing of a client's data."""

    TOO_FEW = "too few clients sent an update"
    AWAY = "clients whose updates were to be summed stayed away before the sum could be opened"
    SPOILED = (
        "the sum was not that of its contributions and was discarded; nobody can tell whose update "
        "was at fault"
    )
    OTHERS = "a sum with other contributors than now take part had been agreed to before"
    LEFT = "updates had been made for it before clients were left out of the run"
    LOST = "a crash lost the updates of so many clients that too few were left to sum"


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """A round that was given up.

    Attributes:
        round: counted from 1.
        reason: a fixed sentence.
        missing: the clients that it lacked, sorted; empty if nobody can be named.
    """

    round: int
    reason: Reason
    missing: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "missing": list(self.missing)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Abandoned":
        """The inverse of `to_json`."""
        return cls(
            round=values["round"],
            reason=Reason(values["reason"]),
            missing=tuple(values["missing"]),
        )

    def __str__(self) -> str:
        who = f" (missing: {', '.join(self.missing)})" if self.missing else ""
        return f"Round {self.round} was abandoned: {self.reason}{who}."
