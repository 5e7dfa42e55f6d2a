"""What a checkpoint and `run.json` say of a run, beside the adapter."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from accountants import Anchor, anchor_from_json
from privfed.reports import statements
from privfed.reports.round_record import Abandoned, RoundRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """All of it is public; an adapter may be made public with it.

    Attributes:
        run: identifier of the run.
        settings: of the run, as JSON values.
        base_sha256: digest of the base model as its task builds it, at the first client and all who
            are not in `other_bases`.
        start_sha256: digest of the file with the initial adapter.
        notes: what the reader of a report should question.
        noise_multipliers: of each client.
        first_range: the public range of the first round.
        public_range: of the next round.
        anchors: of each client's ledger, after the last round that is over.
        baseline: metric of the initial adapter on held-out text.
        rounds: the complete ones.
        abandoned: the rounds that were given up.
        left_out: clients that take no further part, and from which round on.
        other_bases: that digest, of each client that holds another base model than the first.
    """

    run: str
    settings: Mapping[str, Any]
    base_sha256: str
    start_sha256: str
    notes: tuple[str, ...]
    noise_multipliers: Mapping[str, float]
    first_range: float
    public_range: float
    anchors: Mapping[str, Anchor]
    baseline: float
    rounds: tuple[RoundRecord, ...]
    abandoned: tuple[Abandoned, ...]
    left_out: Mapping[str, int]
    other_bases: Mapping[str, str] = field(default_factory=dict)

    def base_of(self, client: str) -> str:
        """Digest of the base model that a client of the run holds."""
        return self.other_bases.get(client, self.base_sha256)

    @property
    def over(self) -> int:
        """How many rounds are over, whether complete or given up."""
        return len(self.rounds) + len(self.abandoned)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RunRecord":
        """The inverse of `to_json`; further values, as `run.json` has them, are left."""
        anchors = {name: anchor_from_json(one) for name, one in values["anchors"].items()}
        return cls(
            **{
                **{one.name: values[one.name] for one in fields(cls)},
                "notes": tuple(values["notes"]),
                "anchors": anchors,
                "rounds": tuple(RoundRecord.from_json(row) for row in values["rounds"]),
                "abandoned": tuple(Abandoned.from_json(row) for row in values["abandoned"]),
            }
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **{one.name: getattr(self, one.name) for one in fields(self)},
            "notes": list(self.notes),
            "anchors": {name: anchor.to_json() for name, anchor in self.anchors.items()},
            "rounds": [row.to_json() for row in self.rounds],
            "abandoned": [row.to_json() for row in self.abandoned],
        }

    def with_notes(self, notes: tuple[str, ...]) -> "RunRecord":
        """With those notes that it does not have yet."""
        return replace(self, notes=(*self.notes, *(n for n in notes if n not in self.notes)))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the reader of a report should question."""
        return (
            *self.notes,
            *(f"{abandoned} It is counted and changed nothing." for abandoned in self.abandoned),
            *statements.left_out(self.left_out),
        )
