"""What a run leaves after every round: adapter, ledger exports and the budget report."""

from collections.abc import Mapping, Sequence
from typing import Any

from accountants import PoissonGaussian
from privfed.agreement import budget_of, sample_rate_of
from privfed.engines import leaving
from privfed.models.vector import vector_digest
from privfed.private_step.private_model import PrivateModel
from privfed.reports import statements
from privfed.reports.adapter_folder import save_adapter
from privfed.reports.budget import BudgetReport, ClientGuarantee, largest_epsilon
from privfed.reports.build import accounting_section, build_report, client_guarantee
from privfed.reports.figures import RoundFigures
from privfed.reports.render import render_html
from privfed.reports.run_facts import RunFacts
from privfed.reports.run_record import RunRecord
from privfed.run_settings import FederationSettings, training_settings
from privfed.settings.encryption import FixedPoint
from privfed.settings.privacy import PrivacyConfig
from privfed.storage.checkpoint import Checkpoint
from privfed.storage.run_folder import RunFolder, ledger_file_name


def write_results(
    folder: RunFolder,
    settings: FederationSettings,
    *,
    model: PrivateModel,
    facts: RunFacts,
    checkpoint: Checkpoint,
    exports: Mapping[str, Mapping[str, Any]],
    status: str,
) -> BudgetReport:
    """Write ledger exports, adapter and report as they are after a round, or before the first.

    A kill between two of these files leaves one older than another; `privfed report` refuses that.

    Args:
        folder: of the run.
        settings: of the run.
        model: with the adapter that the run leaves in place.
        facts: of the run: who and what summed it.
        checkpoint: of the round; it is saved after this.
        exports: per client, its ledger.
        status: "complete", "running", or why the run stopped.
    """
    report = _report(settings, facts, checkpoint, exports, status)
    for client, export in exports.items():
        folder.write_json(ledger_file_name(client), export)
    save_adapter(folder, model, report)
    folder.write_text("report.json", report.to_json())
    folder.write_text("report.html", render_html(report))
    return report


def _report(
    settings: FederationSettings,
    facts: RunFacts,
    checkpoint: Checkpoint,
    exports: Mapping[str, Mapping[str, Any]],
    status: str,
) -> BudgetReport:
    record = RunRecord.from_json(checkpoint.record)
    guarantees = _guarantees(settings, record, exports, status)
    largest = largest_epsilon(guarantees, status)
    delta = max(client.delta for client in guarantees)
    return build_report(
        guarantees,
        record.rounds,
        title=settings.title,
        run=record.run,
        status=status,
        rounds_planned=settings.rounds,
        rounds_over=checkpoint.round,
        headline=statements.headline(
            epsilon=largest,
            delta=delta,
            private=settings.secret_coins,
            status=status,
            over=checkpoint.round,
            planned=settings.rounds,
        ),
        guarantee=_guarantee(settings, largest, delta),
        views=statements.views(
            custody=facts.scheme.custody,
            approximate=facts.scheme.rule is None,
            min_clients=settings.min_clients,
        ),
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
        warnings=tuple(warnings_of(record)),
        baseline={settings.model.metric: record.baseline},
        base_sha256=record.base_sha256,
        adapter_sha256=vector_digest(checkpoint.released),
    )


def warnings_of(record: RunRecord) -> list[str]:
    """What the reader should question."""
    return [
        *record.notes,
        *(f"{abandoned} It is counted and changed nothing." for abandoned in record.abandoned),
        *leaving.notes(record.left_out),
    ]


def _guarantees(
    settings: FederationSettings,
    record: RunRecord,
    exports: Mapping[str, Mapping[str, Any]],
    status: str,
) -> list[ClientGuarantee]:
    return [
        client_guarantee(
            exports[client.id],
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
        for client in settings.clients
    ]


def _guarantee(settings: FederationSettings, largest: float, delta: float) -> dict[str, Any]:
    return {
        "unit": _unit(settings.privacy),
        "neighbouring relation": "add or remove one record of one client",
        "covers": "every update that a client released, in all rounds and all runs that its "
        "ledger counts",
        "against whom": "anyone who sees those updates in clear, the aggregator and the holders "
        "of the key included",
        "epsilon": largest,
        "delta": delta,
        "how to read it": statements.how_to_read(epsilon=largest, delta=delta),
    }


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


def _mechanism(settings: FederationSettings, facts: RunFacts) -> dict[str, Any]:
    privacy = settings.privacy
    return {
        "mechanism": "DP-SGD: one gradient per record, Gaussian noise added by the client itself",
        "clipping": statements.clipping(privacy.clipping),
        "clipping norm C": privacy.clipping_norm,
        "expected batch B (public divisor)": privacy.expected_batch_size,
        "steps per round": privacy.steps_per_round,
        "sampler assumed by the accountant": "Poisson with rate q = B / public size",
        "sampler that ran": "Poisson with rate q = B / public size; an empty draw is a step",
        "public sizes": f"{settings.public_size_source}; true numbers are treated as private",
        "noise multipliers": "calibrated for each client to its budget, in section 2",
        "trainable parameters": facts.agreement.num_params,
    }


def _encryption(facts: RunFacts, record: RunRecord) -> dict[str, Any]:
    section = statements.encryption_statement(
        custody=facts.scheme.custody,
        exactness="approximate" if facts.scheme.rule is None else facts.scheme.rule.value,
        num_clients=len(facts.agreement.weights),
        simulated_keys=facts.simulated_keys,
        in_one_process=facts.in_one_process,
    )
    follows = ", then from the released mean of the round before"
    source = follows if facts.scheme.summation.follow_released else ""
    if isinstance(facts.scheme.summation, FixedPoint):
        section["bits per value"] = facts.scheme.summation.bits
    section["public range"] = f"+-{record.largest_range:.4g}{source}"
    section["parameters"] = {**facts.scheme.to_json(), **facts.key}
    section["base model (SHA-256 of its frozen parameters)"] = facts.agreement.base_model
    section["roster (SHA-256)"] = facts.roster
    if record.rounds:
        section["measured"] = _measured(facts, record.rounds)
    return section


def _measured(facts: RunFacts, rounds: Sequence[RoundFigures]) -> dict[str, Any]:
    """Bytes per parameter and seconds of the last whole round, whole messages counted."""
    last = next((figures for figures in reversed(rounds) if figures.bytes_up), rounds[-1])
    clients = len(last.clients) + len(last.absent)
    params = facts.agreement.num_params
    measured: dict[str, Any] = {
        "upload bytes per parameter and client": round(
            last.bytes_up / (len(last.clients) * params), 3
        ),
        "download bytes per parameter and client": round(last.bytes_down / (clients * params), 3),
        "seconds of the aggregator per client (check, add)": round(
            last.seconds_aggregator / len(last.clients), 4
        ),
        "seconds from the sum to what clients came to": last.seconds_opening,
    }
    if last.bytes_holder:
        between = last.bytes_holder / params
        measured["bytes per parameter to and from the key holder"] = round(between, 3)
    if facts.key_bytes:
        measured["bytes to hand out the key, once"] = facts.key_bytes
    return measured


def _training(settings: FederationSettings, facts: RunFacts) -> dict[str, Any]:
    return {
        "model": settings.model.describe(),
        "adapter": settings.adapter.describe(),
        "strategy": settings.strategy.describe(),
        "adapter left and evaluated": statements.adapter_left(settings.averaging),
        "local optimiser": {
            name: value
            for name, value in training_settings(settings.training).items()
            if value is not None
        },
        "rounds planned": settings.rounds,
        "weights in the mean": dict(facts.agreement.weights),
        "held-out text": settings.held_out_source,
    }
