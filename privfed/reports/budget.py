"""The budget report as a record: every field is required, and checked before it is shown."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

from accountants import federation
from privfed.errors import ReportError
from privfed.reports.clients import ClientGuarantee, NotClosed
from privfed.reports.records import record_of_json, require_whole
from privfed.reports.round_record import RoundRecord
from privfed.reports.sections import (
    Accounting,
    Difference,
    Encryption,
    Guarantee,
    Mechanism,
    Published,
    Randomness,
    Training,
    View,
)

SCHEMA: Final = 4

RUNNING: Final = "running"
"""Status of a report that was written between two rounds: the next one may have begun since."""

COMPLETE: Final = "complete"
"""Status of a report whose run played all planned rounds."""


class Scope(StrEnum):
    """Whose report it is, and where its rows come from."""

    SIMULATION = "simulation"
    """All clients; each row was computed from a ledger that lay beside the others."""
    CLIENT = "client"
    """One organisation, from its own ledger; it says nothing of the others."""
    FEDERATION = "federation"
    """All clients, from what each of them states and signs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetReport:
    """Everything a reader who was not there needs. See `privfed/reports/statements.py`.

    Attributes:
        schema: version of this record.
        scope: whose report it is, and where its rows come from.
        title: what was trained on what.
        run: identifier of the run.
        created: UTC time, ISO 8601.
        status: "complete", "running" (written between two rounds), or why the run stopped.
        rounds_planned: of the run.
        rounds_over: that were played or abandoned.
        headline: the guarantee in one sentence; says first if the run was not finished.
        guarantee: unit, record, neighbouring relation, federation epsilon and how to read it.
        views: who could see what, and what protects a record.
        clients: one guarantee per client that has one.
        not_closed: clients of the run for which none is stated.
        mechanism: settings of the private step.
        accounting: accountant, versions, bound, stop rule.
        encryption: scheme, custody and its consequence, parameters, rule, bytes.
        training: model, adapter, method, rounds, held-out data.
        randomness: where randomness came from.
        published: what left the clients without noise, and where it came from.
        not_covered: what the numbers do not say.
        warnings: what the reader should question.
        differences: what clients state differently, where they need not agree.
        rounds: numbers per round; those that were abandoned have none.
        baseline: held-out metric before training, under the name of what is measured.
        base_sha256: digest of the base model's frozen parameters, at the first client and all that
            are not in `training.other_bases`.
        adapter_sha256: digest of the adapter that the run leaves, as a flat vector.
        versions: of the software.

    Raises:
        ReportError: for a gap, a value of another kind, another schema or a contradiction.
    """

    schema: int
    scope: Scope
    title: str
    run: str
    created: str
    status: str
    rounds_planned: int
    rounds_over: int
    headline: str
    guarantee: Guarantee
    views: tuple[View, ...]
    clients: tuple[ClientGuarantee, ...]
    not_closed: tuple[NotClosed, ...]
    mechanism: Mechanism
    accounting: Accounting
    encryption: Encryption
    training: Training
    randomness: Randomness
    published: tuple[Published, ...]
    not_covered: tuple[str, ...]
    warnings: tuple[str, ...]
    differences: tuple[Difference, ...]
    rounds: tuple[RoundRecord, ...]
    baseline: Mapping[str, float]
    base_sha256: str
    adapter_sha256: str
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        """Refuse a report with a gap or a contradiction."""
        _require_schema(self.schema)
        require_whole(self)
        for client in self.clients:
            client.require_consistent()
        if {row.metric for row in self.rounds} - {self.metric}:
            raise ReportError(f"every round must have the metric of the baseline, {self.metric!r}")
        self._require_rows()
        claimed = None if self.not_closed else self.largest_epsilon
        if self.guarantee.epsilon != claimed:
            raise ReportError(
                "the federation's epsilon must be the largest of its clients, or none if one did "
                f"not close: {claimed!r}, got {self.guarantee.epsilon!r}"
            )

    def _require_rows(self) -> None:
        rows = [client.id for client in self.clients]
        ids = {*rows, *(client.id for client in self.not_closed)}
        if len(ids) != len(rows) + len(self.not_closed):
            raise ReportError(f"the clients of a report must differ, got {sorted(ids)}")
        if any(set(rows) - row.epsilon.keys() for row in self.rounds):
            raise ReportError(f"every round must state the epsilon of each of {sorted(rows)}")
        signed = self.scope is Scope.FEDERATION
        if any(client.signed != signed for client in self.clients):
            raise ReportError(
                f"the rows of a report of scope {self.scope!s} must be "
                f"{'signed by their clients' if signed else 'computed from ledgers'}"
            )
        if not signed and (self.not_closed or not all(row.recomputed for row in self.clients)):
            raise ReportError("what is computed from ledgers must be so for every client")
        if self.scope is Scope.CLIENT and len(rows) != 1:
            raise ReportError(f"a client's own report must be about it alone, got {rows}")

    @property
    def metric(self) -> str:
        """Name of what is measured on held-out text.

        Raises:
            ReportError: if the baseline holds more than that one metric.
        """
        if len(self.baseline) != 1:
            raise ReportError(f"the baseline must be one metric, got {sorted(self.baseline)}")
        return next(iter(self.baseline))

    @property
    def largest_epsilon(self) -> float:
        """What holds for every client with a row; while the run goes on, with the next round."""
        return largest_epsilon(self.clients, self.status)

    def to_json(self) -> str:
        """The report as JSON text."""
        values = {**asdict(self), "rounds": [row.to_json() for row in self.rounds]}
        return json.dumps(values, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "BudgetReport":
        """Read a report; a missing, unknown or empty field is refused.

        Raises:
            ReportError: with the field.
        """
        try:
            values = json.loads(text)
            if "schema" in values:
                _require_schema(values["schema"])
            rounds = [RoundRecord.from_json(row) for row in values.pop("rounds")]
            return record_of_json(cls, {**values, "rounds": rounds}, "report")
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            RecursionError,
            ReportError,
        ) as error:
            raise ReportError(
                f"this is no complete budget report of schema {SCHEMA}: {error}"
            ) from error


def largest_epsilon(clients: Iterable[ClientGuarantee], status: str) -> float:
    """The epsilon of a federation of disjoint records: the largest of its clients."""
    going_on = status == RUNNING
    claims = {row.id: row.epsilon_if_begun if going_on else row.epsilon_spent for row in clients}
    return federation.largest_epsilon(claims)[1]


def _require_schema(schema: object) -> None:
    if schema != SCHEMA:
        raise ReportError(
            f"report schema must be {SCHEMA}, got {schema!r:.80}; read it with the privfed that "
            "wrote it"
        )
