"""What a finished run leaves: adapter, ledger exports, figures and the budget report."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from accountants import PoissonGaussian
from privfed import preparation
from privfed.channel import SumChannel
from privfed.client.private_model import PrivateModel
from privfed.config import PrivacyConfig
from privfed.durable import writing
from privfed.models.in_place import InPlaceModel
from privfed.reports import statements
from privfed.reports.budget import BudgetReport, ClientGuarantee
from privfed.reports.build import accounting_section, build_report, client_guarantee
from privfed.reports.figures import RoundFigures
from privfed.reports.render import render_html
from privfed.run_folder import RunFolder, ledger_file_name, run_record
from privfed.settings import FederationSettings, training_settings
from privfed.summation import FixedPoint

_ADAPTER_README: Final = """# Adapter trained by privfed

    from {package} import {loader}
    from privfed import load_task

    task = load_task("adapter")
    model = {loader}.from_pretrained(task.build(), "adapter")
    tokenizer = task.tokenizer()

`privfed.json` names the base model, which is not in this folder. What was guaranteed to whose
records stands in `../report.html`.
"""


def write_results(
    folder: RunFolder,
    settings: FederationSettings,
    *,
    model: PrivateModel,
    channel: SumChannel,
    record: Mapping[str, Any],
    exports: Mapping[str, Mapping[str, Any]],
    status: str,
) -> BudgetReport:
    """Write everything below the run folder.

    Args:
        folder: of the run.
        settings: of the run.
        model: with the final global adapter in place.
        channel: how updates were summed.
        record: of the last checkpoint.
        exports: per client, its ledger.
        status: "complete", or why the run stopped.
    """
    for client, export in exports.items():
        folder.write_json(ledger_file_name(client), export)
    report = _report(settings, channel, record, exports, status)
    folder.write_text("report.json", report.to_json())
    folder.write_text("report.html", render_html(report))
    _save_adapter(folder, model)
    folder.write_json("run.json", run_record(record, status))
    return report


def _save_adapter(folder: RunFolder, model: PrivateModel) -> None:
    with writing(folder.adapter):
        (folder.adapter / "README.md").unlink(missing_ok=True)  # PEFT would complete an earlier one
        model.save_adapter(folder.adapter)
    folder.write_json("adapter/privfed.json", model.task.describe())
    in_place = isinstance(model.adapter, InPlaceModel)
    package, loader = ("privfed", "InPlaceModel") if in_place else ("peft", "PeftModel")
    folder.write_text("adapter/README.md", _ADAPTER_README.format(package=package, loader=loader))


def _report(
    settings: FederationSettings,
    channel: SumChannel,
    record: Mapping[str, Any],
    exports: Mapping[str, Mapping[str, Any]],
    status: str,
) -> BudgetReport:
    guarantees = _guarantees(settings, record, exports)
    rounds = [RoundFigures.from_json(row) for row in record["rounds"]]
    largest = max(client.epsilon_spent for client in guarantees)
    notes = list(record["notes"])
    if record["abandoned"]:
        notes.append(
            f"Rounds {record['abandoned']} gathered too few contributions; they are counted and "
            "changed nothing."
        )
    return build_report(
        guarantees,
        rounds,
        title=settings.title,
        run=record["run"],
        status=status,
        headline=statements.headline(
            epsilon=largest,
            delta=max(client.delta for client in guarantees),
            private=settings.secret_coins,
        ),
        guarantee=_guarantee(settings, largest, max(client.delta for client in guarantees)),
        views=statements.views(
            custody=channel.custody,
            approximate=channel.rule is None,
            min_clients=settings.min_clients,
        ),
        mechanism=_mechanism(settings, channel),
        accounting=accounting_section(settings.privacy.neighbouring.value),
        encryption=_encryption(channel, record, rounds),
        training=_training(settings, channel),
        randomness=statements.randomness(
            secret=settings.secret_coins,
            seed=settings.seed,
            secure_noise=settings.privacy.secure_noise,
        ),
        not_covered=statements.not_covered(
            earlier_ignored=settings.fresh_ledgers,
            held_out_source=settings.held_out_source,
            secure_noise=settings.privacy.secure_noise,
        ),
        warnings=tuple(notes),
        baseline={settings.model.metric: record["baseline"]},
    )


def _guarantees(
    settings: FederationSettings,
    record: Mapping[str, Any],
    exports: Mapping[str, Mapping[str, Any]],
) -> list[ClientGuarantee]:
    return [
        client_guarantee(
            exports[client.id],
            run=record["run"],
            public_size=client.public_size,
            budget=preparation.budget_of(client, settings.privacy),
            planned=PoissonGaussian(
                noise_multiplier=record["noise_multipliers"][client.id],
                sample_rate=preparation.sample_rate_of(client, settings.privacy),
                steps=settings.privacy.steps_per_round,
            ),
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
    group = f" (at most {most} examples of it are read, and clipped as one)" if most > 1 else ""
    return f"one record: {privacy.record}{group}"


def _mechanism(settings: FederationSettings, channel: SumChannel) -> dict[str, Any]:
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
        "trainable parameters": channel.public.num_params,
    }


def _encryption(
    channel: SumChannel, record: Mapping[str, Any], rounds: Sequence[RoundFigures]
) -> dict[str, Any]:
    section = statements.encryption_statement(
        custody=channel.custody,
        exactness="approximate" if channel.rule is None else channel.rule.value,
        num_clients=len(channel.public.weights),
        simulated_keys=channel.parties.simulated,
    )
    follows = ", then from the released mean of the round before"
    source = follows if channel.summation.follow_released else ""
    if isinstance(channel.summation, FixedPoint):
        section["bits per value"] = channel.summation.bits
    section["public range"] = f"+-{record['largest_range']:.4g}{source}"
    section["parameters"] = {**channel.parameters, **channel.key}
    section["base model (SHA-256 of its frozen parameters)"] = channel.public.base_model
    section["roster (SHA-256)"] = channel.parties.roster.digest().hex()
    if rounds:
        section["measured"] = _measured(channel, rounds)
    return section


def _measured(channel: SumChannel, rounds: Sequence[RoundFigures]) -> dict[str, Any]:
    """Bytes per parameter and seconds of the last whole round, everything on the wire counted."""
    last = next((figures for figures in reversed(rounds) if figures.bytes_up), rounds[-1])
    clients = len(last.clients) + len(last.absent)
    params = channel.public.num_params
    measured: dict[str, Any] = {
        "upload bytes per parameter and client": round(
            last.bytes_up / (len(last.clients) * params), 3
        ),
        "download bytes per parameter and client": round(last.bytes_down / (clients * params), 3),
        "seconds per client (encrypt, sign)": round(last.seconds_clients / len(last.clients), 4),
        "seconds of the aggregator per client (check, add)": round(
            last.seconds_aggregator / len(last.clients), 4
        ),
        "seconds from the sum to the numbers": last.seconds_opening,
    }
    if last.bytes_holder:
        between = last.bytes_holder / params
        measured["bytes per parameter to and from the key holder"] = round(between, 3)
    if channel.setup_bytes:
        measured["bytes to hand out the key, once"] = channel.setup_bytes
    return measured


def _training(settings: FederationSettings, channel: SumChannel) -> dict[str, Any]:
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
        "weights in the mean": dict(channel.public.weights),
        "held-out text": settings.held_out_source,
    }
