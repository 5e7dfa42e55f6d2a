"""How far a run has come, as its aggregator knows it: what was stated, and no adapter."""

from collections.abc import Mapping
from dataclasses import dataclass

from privfed.protocol.ready import Facts, Standing
from privfed.reports.run_record import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How far a run has come; what an aggregator makes durable after every round.

    Attributes:
        base: SHA-256 (hex) of the global adapter.
        released: of the adapter that the run leaves if it ends here.
        record: all else.
        opened: what clients stated last of a complete round, with their signatures.
        facts: what each client brought to the run.
    """

    base: str
    released: str
    record: RunRecord
    opened: Mapping[str, bytes]
    facts: Mapping[str, Facts]

    def is_at(self, standing: Standing | None) -> bool:
        """Whether a client can go on: from where the run is, or by going back to it."""
        return standing is not None and self.base in (standing.base, standing.before)

    def is_held_by(self, standing: Standing | None) -> bool:
        """Whether a client holds the adapter of the run; rounds given up since changed nothing."""
        return standing is not None and standing.base == self.base
