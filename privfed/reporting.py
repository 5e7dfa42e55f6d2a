"""From settings, facts of the run, its record and ledgers to a budget report."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from accountants import PoissonGaussian
from privfed.agreement import Declaration, budget_of, sample_rate_of
from privfed.reports import encryption_statements, headlines, statements
from privfed.reports.budget import SCHEMA, BudgetReport, largest_epsilon
from privfed.reports.build import accounting_section, client_guarantee
from privfed.reports.clients import ClientGuarantee
from privfed.reports.figures import RoundFigures
from privfed.reports.run_facts import RunFacts
from privfed.reports.run_record import RunRecord
from privfed.reports.sections import Encryption, Guarantee, Measured, Mechanism, Training
from privfed.run_settings import FederationSettings, training_settings
from privfed.settings.encryption import FixedPoint
from privfed.settings.privacy import PrivacyConfig
from privfed.storage.run_folder import software_versions


def federation_report(
    settings: FederationSettings,
    facts: RunFacts,
    record: RunRecord,
    exports: Mapping[str, Mapping[str, Any]],
    *,
    rounds_over: int,
    adapter_sha256: str,
    status: str,
) -> BudgetReport:
    """The report of a federation whose ledgers all lie here: one row for each client.

    Args:
        settings: of the run.
        facts: of the run: who and what summed it.
        record: what the last checkpoint says of it.
        exports: per client, its ledger.
        rounds_over: rounds that were played or abandoned.
        adapter_sha256: digest (hex) of the adapter that is left.
        status: "complete", "running", or why the run stopped.

    Raises:
        ReportError: if the report would have a gap or a contradiction.
        accountants.LedgerError: if an export was changed.
    """
    clients = [
        _row(settings, record, client, exports[client.id], status) for client in settings.clients
    ]
    largest = largest_epsilon(clients, status)
    delta = max(client.delta for client in clients)
    return BudgetReport(
        schema=SCHEMA,
        title=settings.title,
        run=record.run,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        status=status,
        rounds_planned=settings.rounds,
        rounds_over=rounds_over,
        headline=headlines.headline(
            epsilon=largest,
            delta=delta,
            private=settings.secret_coins,
            status=status,
            over=rounds_over,
            planned=settings.rounds,
        ),
        guarantee=_guarantee(settings.privacy, largest, delta),
        views=encryption_statements.views(
            custody=facts.scheme.custody,
            approximate=facts.scheme.rule is None,
            min_clients=settings.min_clients,
        ),
        clients=tuple(clients),
        mechanism=_mechanism(settings, facts),
        accounting=accounting_section(settings.privacy.neighbouring.value),
        encryption=_encryption(facts, record),
        training=_training(settings, facts),
        randomness=statements.randomness(
            secret=settings.secret_coins,
            seed=settings.seed,
            secure_noise=settings.privacy.secure_noise,
        ),
        published=statements.published(
            sizes=settings.public_size_source,
            held_out_source=settings.held_out_source,
            encrypted=facts.scheme.parameters is not None,
        ),
        not_covered=statements.not_covered(
            earlier_ignored=settings.fresh_ledgers,
            held_out_source=settings.held_out_source,
            secure_noise=settings.privacy.secure_noise,
        ),
        warnings=record.warnings,
        rounds=record.rounds,
        baseline={settings.model.metric: record.baseline},
        base_sha256=record.base_sha256 or "",
        adapter_sha256=adapter_sha256,
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
        run=record.run,
        public_size=client.size,
        budget=budget_of(client, settings.privacy),
        planned=PoissonGaussian(
            noise_multiplier=record.noise_multipliers[client.id],
            sample_rate=sample_rate_of(client, settings.privacy),
            steps=settings.privacy.steps_per_round,
        ),
        status=status,
    )


def _guarantee(privacy: PrivacyConfig, largest: float, delta: float) -> Guarantee:
    return Guarantee(
        unit=_unit(privacy),
        neighbouring="add or remove one record of one client",
        covers="every update that a client released, in all rounds and all runs that its "
        "ledger counts",
        adversary="anyone who sees those updates in clear, the aggregator and the holders "
        "of the key included",
        epsilon=largest,
        delta=delta,
        reading=headlines.how_to_read(epsilon=largest, delta=delta),
    )


def _unit(privacy: PrivacyConfig) -> str:
    most = privacy.examples_per_record
    if most == 1:
        return f"one record: {privacy.record}"
    return (
        f"one record: {privacy.record}, with all its examples (at most {most} are read, and "
        "clipped as one). It comes or goes as a whole; one example more or less of a record that "
        "stays exchanges it for another, which moves a clipped sum by up to 2 C and is covered as "
        "two records, not as one"
    )


def _mechanism(settings: FederationSettings, facts: RunFacts) -> Mechanism:
    privacy = settings.privacy
    return Mechanism(
        mechanism="DP-SGD: one gradient per record, Gaussian noise added by the client itself",
        clipping=statements.clipping(privacy.clipping),
        clipping_norm=privacy.clipping_norm,
        expected_batch_size=privacy.expected_batch_size,
        steps_per_round=privacy.steps_per_round,
        sampler_accounted="Poisson with rate q = B / public size",
        sampler_ran="Poisson with rate q = B / public size; an empty draw is a step",
        public_sizes=f"{settings.public_size_source}; true numbers are treated as private",
        noise_multipliers="calibrated for each client to its budget, in section 2",
        num_params=facts.agreement.num_params,
    )


def _encryption(facts: RunFacts, record: RunRecord) -> Encryption:
    scheme, custody = facts.scheme, facts.scheme.custody
    summation, approximate = scheme.summation, scheme.rule is None
    return Encryption(
        scheme=encryption_statements.scheme(custody=custody, approximate=approximate),
        custody=encryption_statements.who_holds_the_key(custody),
        consequence=encryption_statements.consequence(custody=custody, approximate=approximate),
        keys=encryption_statements.keys(custody),
        identities=encryption_statements.identities(simulated_keys=facts.simulated_keys),
        correctness=encryption_statements.correctness(
            custody=custody,
            exactness="approximate" if scheme.rule is None else scheme.rule.value,
            num_clients=len(facts.agreement.weights),
        ),
        setting=encryption_statements.setting(in_one_process=facts.in_one_process),
        bits_per_value=summation.bits if isinstance(summation, FixedPoint) else None,
        public_range=record.largest_range,
        follow_released=summation.follow_released,
        parameters={**scheme.to_json(), **facts.key},
        base_model=facts.agreement.base_model,
        roster=facts.roster,
        measured=_measured(facts, record.rounds) if record.rounds else None,
    )


def _measured(facts: RunFacts, rounds: Sequence[RoundFigures]) -> Measured:
    """Bytes per parameter and seconds of the last whole round, whole messages counted."""
    last = next((figures for figures in reversed(rounds) if figures.bytes_up), rounds[-1])
    contributors, clients = len(last.clients), len(last.clients) + len(last.absent)
    params = facts.agreement.num_params
    return Measured(
        upload_bytes=round(last.bytes_up / (contributors * params), 3),
        download_bytes=round(last.bytes_down / (clients * params), 3),
        aggregator_seconds=round(last.seconds_aggregator / contributors, 4),
        opening_seconds=last.seconds_opening,
        key_holder_bytes=round(last.bytes_holder / params, 3) if last.bytes_holder else None,
        key_bytes=facts.key_bytes or None,
    )


def _training(settings: FederationSettings, facts: RunFacts) -> Training:
    moves = training_settings(settings.training)
    return Training(
        model=settings.model.describe(),
        adapter=settings.adapter.describe(),
        strategy=settings.strategy.describe(),
        adapter_left=statements.adapter_left(settings.averaging),
        optimizer={name: value for name, value in moves.items() if value is not None},
        rounds=settings.rounds,
        weights=dict(facts.agreement.weights),
        held_out=settings.held_out_source,
    )
