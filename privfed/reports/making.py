"""From settings, facts of the run, its record and ledgers to a budget report.

Where all ledgers lie together, as in a simulation, it is that of the federation. An organisation
whose program ran alone makes its own; those of all are put together in `reports/assembling.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from privfed.agreement import Declaration, budget_of, private_steps_of
from privfed.errors import ReportError
from privfed.reports import headlines, sections_of_run
from privfed.reports.budget import SCHEMA, BudgetReport, Scope, largest_epsilon
from privfed.reports.build import accounting_section, client_guarantee
from privfed.reports.clients import ClientGuarantee
from privfed.reports.round_record import RoundRecord
from privfed.reports.run_facts import RunFacts
from privfed.reports.run_record import RunRecord
from privfed.reports.sections import Guarantee
from privfed.run_settings import FederationSettings
from privfed.storage.run_folder import software_versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The moment of a run that a report is about.

    Attributes:
        status: "complete", "running", or why the run stopped.
        rounds_over: rounds that were played or abandoned.
        adapter_sha256: digest (hex) of the adapter that is left.
    """

    status: str
    rounds_over: int
    adapter_sha256: str


def federation_report(
    settings: FederationSettings,
    facts: RunFacts,
    record: RunRecord,
    exports: Mapping[str, Mapping[str, Any]],
    moment: Moment,
) -> BudgetReport:
    """The report of a federation whose ledgers all lie here: one row for each client.

    Args:
        settings: of the run.
        facts: of the run: who and what summed it.
        record: what the last checkpoint says of it.
        exports: per client, its ledger.
        moment: that the report is about.

    Raises:
        ReportError: if the report would have a gap or a contradiction.
        accountants.LedgerError: if an export was changed.
    """
    clients = [
        _row(settings, record, client, exports[client.id], moment.status)
        for client in settings.clients
    ]
    largest = largest_epsilon(clients, moment.status)
    delta = max(client.delta for client in clients)
    line = headlines.headline(
        epsilon=largest,
        delta=delta,
        private=settings.secret_randomness,
        status=moment.status,
        over=moment.rounds_over,
        planned=settings.rounds,
    )
    reading = headlines.how_to_read(epsilon=largest, delta=delta)
    guarantee = sections_of_run.guarantee(settings.privacy, largest, delta, reading)
    return _report(settings, facts, record, moment, Scope.SIMULATION, clients, line, guarantee)


def client_report(
    settings: FederationSettings,
    facts: RunFacts,
    record: RunRecord,
    export: Mapping[str, Any],
    moment: Moment,
    *,
    client: str,
) -> BudgetReport:
    """The report of one client of a run, from its own ledger; it claims nothing on the others.

    Args:
        settings: of the run; of its clients only what they declare is read.
        facts: of the run: who and what summed it.
        record: what this client knows of the run. Noise multipliers of the others are not read,
            nor what they spent.
        export: of this client's ledger.
        moment: that the report is about.
        client: its name.

    Raises:
        ReportError: if there is no such client, the ledger is not its own, or the report would have
            a gap or a contradiction.
        accountants.LedgerError: if the export was changed.
    """
    declared = [each for each in settings.clients if each.id == client]
    if not declared:
        raise ReportError(f"a report must be that of a client of the run, {client!r} is none")
    row = _row(settings, record, declared[0], export, moment.status)
    line = headlines.client_headline(
        row,
        private=settings.secret_randomness,
        status=moment.status,
        over=moment.rounds_over,
        planned=settings.rounds,
    )
    epsilon = largest_epsilon([row], moment.status)
    reading = headlines.how_a_client_reads(epsilon=epsilon, delta=row.delta, client=client)
    guarantee = sections_of_run.guarantee(settings.privacy, epsilon, row.delta, reading)
    own = replace(record, rounds=tuple(_of_one(row, client) for row in record.rounds))
    return _report(settings, facts, own, moment, Scope.CLIENT, [row], line, guarantee)


def _of_one(row: RoundRecord, client: str) -> RoundRecord:
    """A round, with what this client spent and no other."""
    own = {name: epsilon for name, epsilon in row.epsilon.items() if name == client}
    return replace(row, epsilon=own)


def _report(
    settings: FederationSettings,
    facts: RunFacts,
    record: RunRecord,
    moment: Moment,
    scope: Scope,
    clients: Sequence[ClientGuarantee],
    headline: str,
    guarantee: Guarantee,
) -> BudgetReport:
    return BudgetReport(
        schema=SCHEMA,
        scope=scope,
        title=settings.title,
        run=record.run,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        status=moment.status,
        rounds_planned=settings.rounds,
        rounds_over=moment.rounds_over,
        headline=headline,
        guarantee=guarantee,
        views=sections_of_run.views(settings, facts),
        clients=tuple(clients),
        not_closed=(),
        mechanism=sections_of_run.mechanism(settings, facts),
        accounting=accounting_section(settings.privacy.neighbouring.value),
        encryption=sections_of_run.encryption(facts, record),
        training=sections_of_run.training(settings, facts, record),
        randomness=sections_of_run.randomness(settings),
        published=sections_of_run.published(settings, facts),
        not_covered=sections_of_run.not_covered(settings),
        warnings=record.warnings,
        differences=(),
        rounds=record.rounds,
        baseline={settings.model.metric: record.baseline},
        base_sha256=record.base_sha256,
        adapter_sha256=moment.adapter_sha256,
        versions=software_versions(),
    )


def _row(
    settings: FederationSettings,
    record: RunRecord,
    client: Declaration,
    export: Mapping[str, Any],
    status: str,
) -> ClientGuarantee:
    return client_guarantee(
        export,
        client=client.id,
        run=record.run,
        public_size=client.size,
        budget=budget_of(client, settings.privacy),
        planned=settings.method.releases(
            private_steps_of(client, settings.privacy, record.noise_multipliers[client.id])
        ),
        status=status,
    )
