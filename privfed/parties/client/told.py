"""How the rounds of a run went, as the aggregator tells a client at its end."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from privfed.checks import is_number
from privfed.errors import IdentityError, MessageError
from privfed.identity.names import check_name
from privfed.protocol.kinds import GIVEN_UP, LEFT_OUT, NEXT_BASE, RELEASED, ROUNDS
from privfed.reports.round_record import Abandoned, RoundRecord, are_figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Public numbers, names and fixed sentences.

    Attributes:
        rounds: the complete ones, in order.
        abandoned: those that were given up, in order.
        left_out: clients that took no further part, and from which round on.
        base: SHA-256 (hex) of the global adapter that the run came to.
        released: of the one that it leaves.
    """

    rounds: tuple[RoundRecord, ...]
    abandoned: tuple[Abandoned, ...]
    left_out: Mapping[str, int]
    base: object
    released: object

    @classmethod
    def read(cls, stated: Mapping[str, object], over: int) -> "Told":
        """From what a `finish` states.

        Args:
            stated: beyond its terms.
            over: rounds that are over.

        Raises:
            MessageError: if it is anything else than so many rounds of clients.
        """
        rounds, given_up, left_out = stated[ROUNDS], stated[GIVEN_UP], stated[LEFT_OUT]
        try:
            if not (
                isinstance(rounds, list)
                and isinstance(given_up, list)
                and isinstance(left_out, dict)
            ):
                raise TypeError("rounds must be lists")
            told = cls(
                rounds=tuple(RoundRecord.from_json(row) for row in rounds),
                abandoned=tuple(Abandoned.from_json(row) for row in given_up),
                left_out=left_out,
                base=stated[NEXT_BASE],
                released=stated[RELEASED],
            )
            told._require_numbers()
            told._require_names()
            played = [row.round for row in told.rounds]
            numbers = sorted([*played, *(row.round for row in told.abandoned)])
        except (KeyError, TypeError, ValueError, AttributeError, IdentityError) as error:
            raise MessageError(
                f"how the rounds of a run went must be told as privfed does: {type(error).__name__}"
            ) from error
        if numbers != list(range(1, over + 1)):
            raise MessageError(f"{over} rounds are over, told is of rounds {numbers!r:.200}")
        return told

    def _require_numbers(self) -> None:
        """Refuse what could stand in a report, or stop it from being made, and is no number."""
        for row in self.rounds:
            sizes = (row.bytes_up, row.bytes_down, row.bytes_holder)
            times = (row.seconds, row.seconds_aggregator, row.seconds_opening)
            ratio = 0.0 if row.signal_to_noise is None else row.signal_to_noise
            if not all(is_number(one) for one in (row.round, row.value, ratio, *sizes, *times)):
                raise TypeError("numbers must be numbers")
            if not are_figures(row.figures):
                raise ValueError("figures must be numbers, 0 or above, by names")
            if min(ratio, *sizes, *times) < 0 or not row.clients:
                raise ValueError("numbers must be those of a round that clients took part in")

    def require_figures_of(self, names: Collection[str]) -> None:
        """Refuse figures that a method does not show: what they are called stands in a report.

        Args:
            names: of the figures of the method.

        Raises:
            MessageError: naming none of them.
        """
        if any(set(row.figures) - set(names) for row in self.rounds):
            raise MessageError("the figures of a round must be those that its method shows")

    def _require_names(self) -> None:
        """Refuse what could stand in a report and is no name."""
        for row in self.rounds:
            check_name(row.metric, "a metric")
            for name in (*row.clients, *row.absent):
                check_name(name, "a client")
        for one in self.abandoned:
            for name in one.missing:
                check_name(name, "a client")
        for name, first in self.left_out.items():
            check_name(name, "a client")
            if type(first) is not int:
                raise TypeError("a round must be a number")
