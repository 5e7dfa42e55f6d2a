"""The budget report as a record: every field is required, and checked before it is shown."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from privfed.errors import ReportError

SCHEMA: Final = 2
_MAY_BE_EMPTY: Final = {"warnings", "rounds", "releases", "absent", "attack"}

RUNNING: Final = "running"
"""Status of a report that was written between two rounds: the next one may have begun since."""

COMPLETE: Final = "complete"
"""Status of a report whose run played all planned rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientGuarantee:
    """What was guaranteed to the records of one client.

    Attributes:
        id: public name.
        dataset: public name of the data set that the budget belongs to.
        unit: what one record is, in the words of the ledger.
        neighbouring: relation of the ledger.
        public_size: declared, or released with noise that the ledger counts.
        epsilon_spent: upper bound over all releases on the data set, all runs and unresolved
            reservations included.
        epsilon_lower: no analysis of the same releases can go below this.
        epsilon_before: of `epsilon_spent`, before this run.
        epsilon_if_begun: the same bound with one more round of the run; what holds while it goes
            on. Equal to `epsilon_spent` once it has ended.
        epsilon_budget: this run releases nothing beyond it; another run on the same data, for which
            a larger one was agreed, may have.
        delta: of both.
        rounds: rounds of this run that were reserved or committed.
        steps: DP-SGD steps of this run that are counted.
        unresolved: rounds of this run that a crash lost, counted and not sent.
        noise_multiplier: sigma in this run.
        sample_rate: q in this run.
        releases: everything in the ledger, as (sigma, q, steps).
        attack: upper bounds from the certified trade-off of these releases: most true positives at
            a rate of false positives ("0.001", "0.01", "0.1"), and "advantage"; empty until the run
            has ended.
        ledger_id: of the ledger, random.
        ledger_length: entries in the ledger.
        ledger_head: digest (hex) of its last entry, which binds all before it.
    """

    id: str
    dataset: str
    unit: str
    neighbouring: str
    public_size: int
    epsilon_spent: float
    epsilon_lower: float
    epsilon_before: float
    epsilon_if_begun: float
    epsilon_budget: float
    delta: float
    rounds: int
    steps: int
    unresolved: int
    noise_multiplier: float
    sample_rate: float
    releases: tuple[Mapping[str, Any], ...]
    attack: Mapping[str, float]
    ledger_id: str
    ledger_length: int
    ledger_head: str

    @property
    def anchor(self) -> str:
        """Length and head of the ledger, as `continues` takes it."""
        return f"{self.ledger_length}:{self.ledger_head}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetReport:
    """Everything a reader who was not there needs. See `privfed/reports/statements.py`.

    Attributes:
        schema: version of this record.
        title: what was trained on what.
        run: identifier of the run.
        created: UTC time, ISO 8601.
        status: "complete", "running" (written between two rounds), or why the run stopped.
        rounds_planned: of the run.
        rounds_over: that were played or abandoned.
        headline: the guarantee in one sentence; says first if the run was not finished.
        guarantee: unit, record, neighbouring relation, federation epsilon and how to read it.
        views: rows of (who looks, what they see, what protects a record).
        clients: one guarantee per client.
        mechanism: settings of the private step.
        accounting: accountant, versions, bound, stop rule.
        encryption: scheme, custody and its consequence, parameters, rule, bytes.
        training: model, adapter, strategy, rounds, held-out data.
        randomness: where coins came from.
        published: rows of (what left the clients without noise, where it came from).
        not_covered: what the numbers do not say.
        warnings: what the reader should question.
        rounds: figures per round.
        baseline: held-out figure before training.
        base_sha256: digest of the base model's frozen parameters.
        adapter_sha256: digest of the adapter that the run leaves, as a flat vector.
        versions: of the software.
    """

    schema: int
    title: str
    run: str
    created: str
    status: str
    rounds_planned: int
    rounds_over: int
    headline: str
    guarantee: Mapping[str, Any]
    views: tuple[tuple[str, str, str], ...]
    clients: tuple[ClientGuarantee, ...]
    mechanism: Mapping[str, Any]
    accounting: Mapping[str, Any]
    encryption: Mapping[str, Any]
    training: Mapping[str, Any]
    randomness: Mapping[str, Any]
    published: tuple[tuple[str, str], ...]
    not_covered: tuple[str, ...]
    warnings: tuple[str, ...]
    rounds: tuple[Mapping[str, Any], ...]
    baseline: Mapping[str, float]
    base_sha256: str
    adapter_sha256: str
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        """Refuse a report with a gap or a contradiction."""
        for field in fields(self):
            _require_filled(field.name, getattr(self, field.name))
        if self.schema != SCHEMA:
            raise ReportError(f"report schema must be {SCHEMA}, got {self.schema!r}")
        for client in self.clients:
            _require_consistent(client)
        if self.guarantee.get("epsilon") != self.largest_epsilon:
            raise ReportError(
                f"the federation's epsilon must be the largest of its clients, "
                f"{self.largest_epsilon!r}, got {self.guarantee.get('epsilon')!r}"
            )

    @property
    def largest_epsilon(self) -> float:
        """What holds for every client; while the run goes on, as if the next round was begun."""
        return largest_epsilon(self.clients, self.status)

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "BudgetReport":
        """Read a report; a missing, unknown or empty field is refused.

        Raises:
            ReportError: with the field.
        """
        try:
            values = json.loads(text)
            clients = tuple(
                ClientGuarantee(**{**client, "releases": tuple(client["releases"])})
                for client in values.pop("clients")
            )
            for name in ("not_covered", "warnings", "rounds"):
                values[name] = tuple(values[name])
            for name in ("views", "published"):
                values[name] = tuple(tuple(row) for row in values[name])
            return cls(clients=clients, **values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ReportError(
                f"this is no complete budget report of schema {SCHEMA}: {error}"
            ) from error


def largest_epsilon(clients: Iterable[ClientGuarantee], status: str) -> float:
    """The epsilon of a federation of disjoint records: the largest of its clients."""
    going_on = status == RUNNING
    return max(client.epsilon_if_begun if going_on else client.epsilon_spent for client in clients)


def _require_filled(name: str, value: object) -> None:
    may_be_empty = name.rpartition(".")[2] in _MAY_BE_EMPTY and not isinstance(value, str)
    empty = isinstance(value, (str, tuple, list, Mapping)) and not value
    if value is None or (empty and not may_be_empty):
        raise ReportError(f"the report lacks {name!r}; it is refused rather than shown with a gap")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _require_filled(f"{name}.{key}", inner)
    if isinstance(value, (tuple, list)):
        for position, inner in enumerate(value):
            if not isinstance(inner, ClientGuarantee):
                _require_filled(f"{name}.{position}", inner)
    if isinstance(value, float) and not math.isfinite(value):
        raise ReportError(f"the report's {name!r} must be finite, got {value!r}")


def _require_consistent(client: ClientGuarantee) -> None:
    for field in fields(client):
        value = getattr(client, field.name)
        if field.name != "releases":
            _require_filled(f"clients.{client.id}.{field.name}", value)
    if not 0 <= client.epsilon_lower <= client.epsilon_spent:
        raise ReportError(
            f"client {client.id!r} must have 0 <= lower bound <= epsilon spent, got "
            f"{client.epsilon_lower!r}, {client.epsilon_spent!r}"
        )
    before, spent, begun = client.epsilon_before, client.epsilon_spent, client.epsilon_if_begun
    if not 0 <= before <= spent <= begun <= max(client.epsilon_budget, spent):
        raise ReportError(
            f"client {client.id!r} must have 0 <= before <= spent <= with one more round, and one "
            f"more only within the budget, got {before!r}, {spent!r}, {begun!r}, "
            f"{client.epsilon_budget!r}"
        )
    if client.steps > 0 and not client.releases:
        raise ReportError(f"client {client.id!r} took steps that are in no ledger")
