"""From settings and records to clients that are ready: all that comes before the first message.

A client that runs alone prepares itself; a simulation prepares all of them, on one model. The order
is that of safety: text is tried before anything of it is released, a released size is counted
before noise is calibrated to what is left, and nothing here spends a round's budget.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load

from accountants import Anchor, AnchorFolder, Ledger, epsilon
from privfed import run_settings
from privfed.agreement import budget_of
from privfed.errors import ConfigError
from privfed.identity.keys import Identity
from privfed.methods.method import Round, total_length
from privfed.models.start_file import put_start, start_bytes
from privfed.models.tasks import Batch
from privfed.models.tokenizer_digest import tokenizer_digest
from privfed.models.vector import (
    frozen_digest,
    read_vector,
    write_vector,
)
from privfed.parties.client import joining
from privfed.parties.client.client import Client
from privfed.parties.client.node import ClientNode
from privfed.parties.client.own_model import own_texts_of
from privfed.planning.calibration import calibrate
from privfed.private_step.building import Blueprint
from privfed.private_step.evaluation import held_out_metric, require_readable
from privfed.private_step.private_model import PrivateModel
from privfed.protocol.ready import Facts
from privfed.run_settings import FederationSettings
from privfed.settings.computation import GradientMethod


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a run that goes on.

    Attributes:
        anchors: how far ledgers had come.
        facts: what clients brought to it.
    """

    anchors: Mapping[str, Anchor]
    facts: Mapping[str, Facts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Clients that are ready.

    Attributes:
        models: that they hold, by the public name of the base model; None is that of the settings.
        start: content of the file with the initial adapter.
        initial: its trained part, shape (params,).
        held_out: encoded, for each of the models.
        clients: with their public sizes as numbers, without those that turned out too small.
        ledgers: of these clients, those that were left out of a run too.
        nodes: of those that take part.
        facts: what they bring.
        notes: what the reader of a report should question.
        size_source: where the public sizes come from, for the report.
    """

    models: Mapping[str | None, PrivateModel]
    start: bytes
    initial: NDArray[np.float32]
    held_out: Mapping[str | None, Batch]
    clients: tuple[Client, ...]
    ledgers: Mapping[str, Ledger]
    nodes: Mapping[str, ClientNode]
    facts: Mapping[str, Facts]
    notes: tuple[str, ...]
    size_source: str

    @property
    def model(self) -> PrivateModel:
        """That of the first client which takes part."""
        return next(iter(self.nodes.values())).model

    def evaluate(self, adapter: NDArray[np.float32], base: str | None = None) -> float:
        """The metric of an adapter, shape (params,), on held-out text, on one of the base models.

        Args:
            adapter: that is evaluated.
            base: public name of the base model.
        """
        model = self.models[base]
        write_vector(model.adapter, adapter)
        (size,) = {node.config.physical_batch_size for node in self.nodes.values()}
        return held_out_metric(model, self.held_out[base], size)


def prepare(
    settings: FederationSettings,
    clients: Sequence[Client],
    identities: Mapping[str, Identity],
    *,
    start: Path | None,
    known: Known | None = None,
    left_out: Collection[str] = (),
) -> Prepared:
    """Check, load, size and calibrate.

    Args:
        settings: of this party.
        clients: that run here.
        identities: of those that take part.
        start: file with the initial adapter; None draws it from the seed.
        known: of the run that goes on; None before a new one.
        left_out: of these clients, who takes no further part.

    Raises:
        PrivfedError: for data or models that cannot be used.
        accountants.AccountingError: for a budget too small, or a ledger that is missing, damaged,
            foreign, or shorter than is known.
    """
    joining.require_single_examples(clients, settings.privacy)
    remaining = [client for client in clients if client.id not in left_out]
    models, content = _models_and_start(settings, start, remaining)
    held_out = {base: _held_out(settings, model) for base, model in models.items()}
    theirs = {client.id: models[client.base] for client in remaining}
    own_texts = own_texts_of(remaining, theirs, settings.training, settings.state)
    encoded = joining.encoded_records(
        remaining, theirs, settings.privacy, settings.training, settings.state
    )
    ledgers = joining.open_ledgers(
        clients,
        settings.privacy,
        settings.state,
        AnchorFolder(settings.anchors),
        None if known is None else known.anchors,
        secret_randomness=settings.secret_randomness,
    )
    sized, notes = _sized(settings, clients, ledgers)
    part = [client for client in sized if client.id not in left_out]
    facts = _facts(settings, part, ledgers, models, content, known)
    nodes = joining.build_nodes(
        part,
        encoded,
        ledgers,
        {name: one.noise_multiplier for name, one in facts.items()},
        theirs,
        settings.method,
        identities=identities,
        participation=settings.proposal().participation,
        privacy=settings.privacy,
        training=settings.training,
        randomness=settings.randomness,
        state=settings.state,
        own_texts=own_texts,
    )
    return Prepared(
        models=models,
        start=content,
        initial=read_vector(next(iter(models.values())).adapter),
        held_out=held_out,
        clients=tuple(sized),
        ledgers={client.id: ledgers[client.id] for client in sized},
        nodes={node.id: node for node in nodes},
        facts=facts,
        notes=notes,
        size_source=joining.size_source(clients, ledgers, settings.public_size_source),
    )


def _models_and_start(
    settings: FederationSettings, start: Path | None, clients: Sequence[Client]
) -> tuple[dict[str | None, PrivateModel], bytes]:
    """The models that these clients hold, and the file from which they start: as given, or new.

    A new file is that of the settings' base model, which is built for it whoever holds it.
    """
    held = {client.base for client in clients} or {None}  # nobody: a start is made for others
    built = held | {None} if start is None else held
    order = sorted(built, key=lambda base: (base is not None, base))
    models = {base: _blueprint(settings, base, start, len(clients)).build() for base in order}
    if settings.has_several_bases:
        _require_behind_the_base(models.values())
    if start is not None:
        return models, start.read_bytes()
    first = models[None]
    content = start_bytes(first.adapter, first.added)
    for model in models.values():
        put_start(load(content), model.adapter, model.added, "of the first base model")
    return {base: model for base, model in models.items() if base in held}, content


def _require_behind_the_base(models: Iterable[PrivateModel]) -> None:
    """Refuse an adapter inside of a base model: on another one it has another shape or meaning.

    Raises:
        ConfigError: naming what is inside, and what to take.
    """
    for model in models:
        encoder = next(
            path for path, module in model.adapter.named_modules() if path.endswith("encoder")
        )
        inside = [name for name in model.added if name.startswith(f"{encoder}.")]
        if inside:
            raise ConfigError(
                "clients on different base models share what stands behind them, and this adapter "
                f"trains {inside[0]!r} inside; take LoRA(target_modules=('relative',))"
            )


def _blueprint(
    settings: FederationSettings, base: str | None, start: Path | None, num_clients: int
) -> Blueprint:
    return Blueprint(
        task=settings.task_on(base),
        adapter=settings.adapter,
        freezes_a=settings.method.freezes_a,
        computation=settings.computation,
        examples_per_record=settings.privacy.examples_per_record,
        physical_batch_size=settings.training.physical_batch_size,
        stacked_clients=min(settings.computation.stacked_clients, num_clients),
        seed=settings.seed,
        device=settings.device,
        start=start,
    )


def _held_out(settings: FederationSettings, model: PrivateModel) -> Batch:
    encoded = model.task.collate(model.task.tokenizer(), settings.held_out)
    require_readable(model, encoded)
    size = settings.training.physical_batch_size
    return model.with_frozen_states(encoded, size, held_out=True)


def _sized(
    settings: FederationSettings, clients: Sequence[Client], ledgers: Mapping[str, Ledger]
) -> tuple[list[Client], tuple[str, ...]]:
    """The clients with all public sizes as numbers, and warnings for the report.

    Who turns out to be too small takes no part.
    """
    privacy = settings.privacy
    sized = joining.with_public_sizes(clients, ledgers, privacy, settings.randomness)
    small = joining.left_out_for_size(clients, sized, ledgers, privacy)
    part = [client for client in sized if client.id not in small]
    run_settings.check_sizes(part, privacy)
    return part, (*small.values(), *joining.delta_notes(part, privacy))


def _facts(
    settings: FederationSettings,
    clients: Sequence[Client],
    ledgers: Mapping[str, Ledger],
    models: Mapping[str | None, PrivateModel],
    start: bytes,
    known: Known | None,
) -> dict[str, Facts]:
    """What each client brings; noise is calibrated once in a run."""
    if known is None:
        draw = settings.proposal().participation
        rounds = {client.id: draw.rounds_of(client.id) for client in clients}
        histories = {client.id: ledgers[client.id].events() for client in clients}
        noise_multipliers = calibrate(clients, histories, settings.method, settings.privacy, rounds)
        before = {client.id: _spent(settings, client, ledgers[client.id]) for client in clients}
    else:
        noise_multipliers = {
            client.id: known.facts[client.id].noise_multiplier for client in clients
        }
        before = {client.id: known.facts[client.id].epsilon_before for client in clients}
    sizes = {client.id: client.size for client in clients}
    layout = next(iter(models.values())).layout
    weights = settings.method.weights(sizes, settings.steps)
    played = tuple(
        Round(
            number=number,
            steps=settings.steps,
            learning_rate=settings.training.learning_rate_of(number, settings.rounds),
            weights=weights,
            layout=layout,
        )
        for number in range(1, settings.rounds + 1)
    )
    _require_parts(settings, played)
    common = {
        "layout": layout.digest(),
        "num_params": layout.length,
        "num_values": total_length(settings.method, played),
        "start": hashlib.sha256(start).hexdigest(),
    }
    of_base = {
        base: {
            "base_weights": model.base_sha256,
            "base_model": frozen_digest(model.adapter),
            "tokenizer": tokenizer_digest(model.task.tokenizer()),
        }
        for base, model in models.items()
    }
    return {
        client.id: Facts.from_json(
            {
                **common,
                **of_base[client.base],
                "client": client.describe(settings.privacy),
                "noise_multiplier": noise_multipliers[client.id],
                "epsilon_before": before[client.id],
            }
        )
        for client in clients
    }


def _require_parts(settings: FederationSettings, rounds: Sequence[Round]) -> None:
    """Refuse hooks where a round trains a part of the adapter: they fail in the step, once counted.

    Raises:
        ConfigError: saying what to take instead.
    """
    parts = any(
        not settings.method.trains(one, client).all() for one in rounds for client in one.weights
    )
    if parts and settings.computation.gradients is GradientMethod.OPACUS_HOOKS:
        raise ConfigError(
            "the method trains a part of the adapter in each round, and Opacus' hooks take the "
            "gradients of all of it; take gradients = 'expanded_leaves'"
        )


def _spent(settings: FederationSettings, client: Client, ledger: Ledger) -> float:
    delta = budget_of(client, settings.privacy).delta
    return epsilon(ledger.events(), delta, settings.privacy.neighbouring).upper
