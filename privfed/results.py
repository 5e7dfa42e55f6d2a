"""What a finished run leaves: adapter, ledger exports, figures and the budget report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from accountants import PoissonGaussian
from privfed import preparation
from privfed.client.dpsgd import PrivateModel
from privfed.client.node import Client
from privfed.config import PrivacyConfig, TrainingConfig
from privfed.interfaces import Strategy
from privfed.models.adapters import Adapter
from privfed.models.tasks import Task
from privfed.preparation import SumChannel
from privfed.reports import statements
from privfed.reports.budget import BudgetReport, ClientGuarantee
from privfed.reports.build import accounting_section, build_report, client_guarantee
from privfed.reports.figures import RoundFigures
from privfed.reports.render import render_html
from privfed.run_folder import RunFolder, ledger_file_name, run_record

_ADAPTER_README: Final = """# Adapter trained by privfed

    from peft import PeftModel
    from privfed import load_task

    task = load_task("adapter")
    model = PeftModel.from_pretrained(task.build(), "adapter")
    tokenizer = task.tokenizer()

`privfed.json` names the base model, which is not in this folder. What was guaranteed to whose
records stands in `../report.html`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """Settings of a run as the report needs them; see `privfed.federation.Federation`."""

    title: str
    clients: Sequence[Client]
    privacy: PrivacyConfig
    model: Task
    adapter: Adapter
    strategy: Strategy
    training: TrainingConfig
    rounds: int
    min_clients: int
    seed: int
    secret_coins: bool
    fresh_ledgers: bool
    held_out_source: str
    public_size_source: str


def write_results(
    folder: RunFolder,
    facts: RunFacts,
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
        facts: settings.
        model: with the final global adapter in place.
        channel: how updates were summed.
        record: of the last checkpoint.
        exports: per client, its ledger.
        status: "complete", or why the run stopped.
    """
    for client, export in exports.items():
        folder.write_json(ledger_file_name(client), export)
    report = _report(facts, channel, record, exports, status)
    folder.write_text("report.json", report.to_json())
    folder.write_text("report.html", render_html(report))
    _save_adapter(folder, model)
    folder.write_json("run.json", run_record(record, status))
    return report


def _save_adapter(folder: RunFolder, model: PrivateModel) -> None:
    model.save_adapter(folder.adapter)
    folder.write_json("adapter/privfed.json", model.task.describe())
    folder.write_text("adapter/README.md", _ADAPTER_README)


def _report(
    facts: RunFacts,
    channel: SumChannel,
    record: Mapping[str, Any],
    exports: Mapping[str, Mapping[str, Any]],
    status: str,
) -> BudgetReport:
    guarantees = _guarantees(facts, record, exports)
    rounds = [RoundFigures.from_json(row) for row in record["rounds"]]
    largest = max(client.epsilon_spent for client in guarantees)
    encrypted = channel.bfv is not None
    notes = list(record["notes"])
    if record["abandoned"]:
        notes.append(
            f"Rounds {record['abandoned']} gathered too few contributions; they are counted and "
            "changed nothing."
        )
    return build_report(
        guarantees,
        rounds,
        title=facts.title,
        run=record["run"],
        status=status,
        headline=statements.headline(
            epsilon=largest,
            delta=max(client.delta for client in guarantees),
            private=facts.secret_coins,
        ),
        guarantee=_guarantee(facts, largest, max(client.delta for client in guarantees)),
        views=statements.views(encrypted=encrypted, min_clients=facts.min_clients),
        mechanism=_mechanism(facts, channel),
        accounting=accounting_section(facts.privacy.neighbouring.value),
        encryption=_encryption(channel, rounds),
        training=_training(facts, channel),
        randomness=statements.randomness(secret=facts.secret_coins, seed=facts.seed),
        not_covered=statements.not_covered(
            earlier_ignored=facts.fresh_ledgers, held_out_source=facts.held_out_source
        ),
        warnings=tuple(notes),
        baseline={facts.model.metric: record["baseline"]},
    )


def _guarantees(
    facts: RunFacts, record: Mapping[str, Any], exports: Mapping[str, Mapping[str, Any]]
) -> list[ClientGuarantee]:
    return [
        client_guarantee(
            exports[client.id],
            run=record["run"],
            public_size=client.public_size,
            budget=preparation.budget_of(client, facts.privacy),
            planned=PoissonGaussian(
                noise_multiplier=record["noise_multipliers"][client.id],
                sample_rate=preparation.sample_rate_of(client, facts.privacy),
                steps=facts.privacy.steps_per_round,
            ),
        )
        for client in facts.clients
    ]


def _guarantee(facts: RunFacts, largest: float, delta: float) -> dict[str, Any]:
    return {
        "unit": f"one record: {facts.privacy.record}",
        "neighbouring relation": "add or remove one record of one client",
        "covers": "every update that a client released, in all rounds and all runs that its "
        "ledger counts",
        "against whom": "anyone who sees those updates in clear, the aggregator and the holders "
        "of the key included",
        "epsilon": largest,
        "delta": delta,
        "how to read it": statements.how_to_read(epsilon=largest, delta=delta),
    }


def _mechanism(facts: RunFacts, channel: SumChannel) -> dict[str, Any]:
    privacy = facts.privacy
    return {
        "mechanism": "DP-SGD: one gradient per record, clipped over all trainable parameters "
        "together, Gaussian noise added by the client itself",
        "clipping norm C": privacy.clipping_norm,
        "expected batch B (public divisor)": privacy.expected_batch_size,
        "steps per round": privacy.steps_per_round,
        "sampler assumed by the accountant": "Poisson with rate q = B / public size",
        "sampler that ran": "Poisson with rate q = B / public size; an empty draw is a step",
        "public sizes": f"{facts.public_size_source}; true numbers are treated as private",
        "noise multipliers": "calibrated for each client to its budget, in section 2",
        "trainable parameters": channel.num_params,
    }


def _encryption(channel: SumChannel, rounds: Sequence[RoundFigures]) -> dict[str, Any]:
    section = statements.encryption_statement(
        encrypted=channel.bfv is not None, num_clients=len(channel.weights)
    )
    section["bits per value"] = channel.bits
    section["public range"] = f"+-{channel.public_range:.4g}"
    section["parameters"] = dict(channel.parameters)
    if rounds:
        per_value = rounds[-1].bytes_up / (len(rounds[-1].clients) * channel.num_params)
        section["upload bytes per parameter"] = round(per_value, 3)
    return section


def _training(facts: RunFacts, channel: SumChannel) -> dict[str, Any]:
    return {
        "model": facts.model.describe(),
        "adapter": facts.adapter.describe(),
        "strategy": facts.strategy.describe(),
        "local optimiser": {
            name: value for name, value in asdict(facts.training).items() if value is not None
        },
        "rounds planned": facts.rounds,
        "weights in the mean": dict(channel.weights),
        "held-out text": facts.held_out_source,
    }
