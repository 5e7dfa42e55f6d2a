"""What a caller may follow of a run; it needs no model, so that an aggregator shows it too."""

from collections.abc import Sequence

from privfed.reports.round_record import Abandoned, RoundRecord


class Callback:
    """What a caller may follow. Override what you need; every value here is public."""

    def on_start(
        self,
        run: str,
        rounds: int,
        clients: Sequence[str],
        baseline: float,
        past: Sequence[RoundRecord],
    ) -> None:
        """Everything is prepared; training begins, after the `past` rounds of a resumed run."""

    def on_client(self, round_number: int, client: str) -> None:
        """A client is done with the round, whether or not it took part."""

    def on_round(self, record: RoundRecord) -> None:
        """A round is complete and durable."""

    def on_abandoned(self, abandoned: Abandoned) -> None:
        """A round was given up; it is counted, and changed nothing."""
