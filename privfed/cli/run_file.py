"""From a TOML file to a federation. Every key is known; an unknown or missing one is named.

See `docs/run.toml` in the repository for a commented example.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accountants import AccountingError, Budget, Neighbouring
from privfed.agreement import Declaration
from privfed.cli.run_file_bases import base_of, bases_of
from privfed.cli.run_file_data import OwnPrivacy, clients_and_held_out
from privfed.cli.toml_section import Section, parsed
from privfed.data.public_size import NoisySize
from privfed.errors import ConfigError
from privfed.federation import Federation
from privfed.identity.enrolment import Enrolment
from privfed.methods.averaging import FedAvg, FFALoRA
from privfed.methods.double_sketch import DoubleSketch
from privfed.methods.fednova import FedNova
from privfed.methods.fedprox import FedProx
from privfed.methods.fedsvd import FedSVD
from privfed.methods.method import Method
from privfed.methods.mixed_ranks import MixedRanks
from privfed.methods.personal import FedDPA, FedSALoRA, LocalHead
from privfed.methods.rolora import RoLoRA
from privfed.methods.scaffold import Scaffold
from privfed.methods.server_optimizers import FedAdagrad, FedAdam, FedAvgM, FedYogi
from privfed.methods.tail_averaging import TailAveraging
from privfed.methods.wrapped import Wrapped
from privfed.models.adapters import Adapter, LoRA, PeftAdapter
from privfed.models.classification import Classification
from privfed.models.houlsby import Houlsby
from privfed.models.in_place import InPlace
from privfed.models.prompt_generator import PromptGenerator
from privfed.models.sparse_update import SparseUpdate
from privfed.models.tasks import CausalLanguageModel, Task
from privfed.protocol.links import parse_address
from privfed.settings.computation import (
    Computation,
)
from privfed.settings.encryption import BFV, CKKS, Plain, Summation
from privfed.settings.privacy import (
    AutomaticClipping,
    Clipping,
    FlatClipping,
    PerLayerClipping,
    PrivacyConfig,
    QuantileClipping,
)
from privfed.settings.training import SGD, AdamW, Optimizer, TrainingConfig

_OF_FEDERATION = ("rounds", "min_clients", "clients_per_round", "device")
_TASKS: Mapping[str, type[Classification | CausalLanguageModel]] = {
    "classification": Classification,
    "causal-lm": CausalLanguageModel,
}
_CLIPPING: Mapping[str, type[Clipping]] = {
    "flat": FlatClipping,
    "per-layer": PerLayerClipping,
    "automatic": AutomaticClipping,
    "quantile": QuantileClipping,
}
_OPTIMIZERS: Mapping[str, type[Optimizer]] = {"sgd": SGD, "adamw": AdamW}
_SUMMATIONS: Mapping[str, type[BFV | CKKS | Plain]] = {"bfv": BFV, "ckks": CKKS, "plain": Plain}
_METHODS: Mapping[str, type[FedAvg]] = {
    method.kind: method
    for method in (
        *(FedAvg, FFALoRA, RoLoRA, FedSVD, DoubleSketch, FedProx, FedNova, Scaffold),
        *(FedSALoRA, LocalHead, FedDPA),
    )
}
_SERVER_OPTIMIZERS: Mapping[str, type[Wrapped]] = {
    method.kind: method for method in (FedAvgM, FedAdagrad, FedAdam, FedYogi)
}
_ADAPTERS: Mapping[str, Callable[[Section], Adapter]] = {
    "lora": lambda section: section.build(LoRA),
    "houlsby": lambda section: section.build(Houlsby),
    "prompt-tuning": lambda section: PeftAdapter.prompt_tuning(_num_tokens(section)),
    "prefix-tuning": lambda section: PeftAdapter.prefix_tuning(_num_tokens(section)),
    "p-tuning": lambda section: PeftAdapter.p_tuning(
        _num_tokens(section), section.take("width", int)
    ),
    "prompt-generator": lambda section: section.build(PromptGenerator),
    "ia3": lambda section: PeftAdapter.ia3(
        section.take_all("target_modules", str), section.take_all("feedforward_modules", str, ())
    ),
    "sparse-update": lambda section: section.build(SparseUpdate),
    "bias": lambda _: InPlace.biases(),
    "last-layers": lambda section: InPlace(last_layers=section.take("count", int)),
}


def load_federation(path: Path, state_folder: Path | None = None) -> Federation:
    """Read a run configuration and the data that it names.

    Args:
        path: of the TOML file; relative paths of data and base model are relative to its folder.
        state_folder: where ledgers live; None takes the user's state folder.

    Raises:
        ConfigError: for a file, table, key or value that cannot be used.
        DataError: for data that cannot be used.
    """
    root = parsed(path)
    task, seed, bases = task_of(root, path.parent), seed_of(root), bases_of(root, path.parent)
    privacy, own = privacy_of(root)
    clients, held_out, source = clients_and_held_out(
        root.section("data"), task, seed, path.parent, own
    )
    result = Federation(
        model=task,
        bases=bases.places,
        clients=bases.declared(clients),
        privacy=privacy,
        held_out=held_out,
        held_out_source=source,
        public_size_source=size_source(clients),
        seed=seed,
        state_folder=state_folder,
        enrolment=_enrolment(root.optional("parties"), path.parent),
        start=_start(root, path.parent),
        **others_of(root, path),
    )
    root.end()
    return result


def start_from_sparse(config: Path, folder: Path) -> tuple[Path, float]:
    """Write the file that a configuration names as `start`, from a sparse update that was trained.

    Args:
        config: of the second run of SLoRA, with LoRA.
        folder: the `adapter` folder of the first run, with a sparse update.

    Returns:
        The file, and the share of the norm of the update that the rank leaves out.

    Raises:
        ConfigError: if `config` names no `start`, one that is there, or another adapter.
        ModelError: if `folder` holds no sparse update that was trained, or of other modules.
    """
    from privfed.models.slora import start_lora_from_sparse_update

    root = parsed(config)
    named: str | None = root.take("start", str, None)
    lora = _adapter(root.section("adapter"))
    if named is None:
        raise ConfigError(f'{config} must name the file that is to be written: start = "FILE"')
    if not isinstance(lora, LoRA):
        raise ConfigError(f'{config} must have [adapter] kind = "lora", got {lora!r:.80}')
    if not (folder / "privfed.json").is_file():
        raise ConfigError(f"{folder} must be the folder `adapter` in that of a run; it holds none")
    file = config.parent / named
    if file.exists():
        raise ConfigError(f"{file} is already there; remove it, or name another file as start")
    return file, start_lora_from_sparse_update(folder, lora, file)


def _start(root: Section, folder: Path) -> Path | None:
    """The key `start`: a file, relative to the folder of the configuration."""
    named: str | None = root.take("start", str, None)
    if named is None:
        return None
    file = folder / named
    if not file.is_file():
        raise ConfigError(
            f"start must be a file with an initial adapter; there is none at {file}. For SLoRA, "
            "`privfed start-from-sparse` writes it"
        )
    return file


def others_of(root: Section, path: Path) -> dict[str, Any]:
    """Fields of the settings that neither data nor keys of anybody decide, by their names.

    Args:
        root: the whole file; what is read is taken.
        path: of the file.
    """
    federation = root.section("federation")
    found = {
        "adapter": _adapter(root.section("adapter")),
        "training": _training(root.section("training")),
        "computation": computation_of(root),
        "encryption": _encryption(root.section("encryption", {})),
        "method": _method(root),
        "title": root.take("title", str, path.stem),
        **federation.values(Federation, _OF_FEDERATION),
    }
    federation.end()
    return found


def seed_of(root: Section) -> int:
    """The public seed."""
    seed: int = root.take("seed", int)
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed must be a whole number in [0, 2^63), got {seed}")
    return seed


def task_of(root: Section, folder: Path) -> Task:
    """The table [model]; a folder with the base model is relative to that of the file."""
    section = root.section("model")
    kind = section.choose("task", _TASKS)
    task: Task = section.build(kind, base=base_of(section.take("base", str), folder))
    section.end()
    return task


def privacy_of(root: Section) -> tuple[PrivacyConfig, dict[str, OwnPrivacy]]:
    """The table [privacy], and what clients have of their own."""
    section = root.section("privacy")
    neighbouring = section.take("neighbouring", str)
    if neighbouring not in [relation.value for relation in Neighbouring]:
        raise ConfigError(f"[privacy] neighbouring must be 'add_remove', got {neighbouring!r}")
    default = _budget(section)
    tables = section.take("clients", dict, {})
    kind = section.choose("clipping", _CLIPPING, "flat")
    clipping = section.build(kind, renamed={"learning_rate": "quantile_learning_rate"})
    config = section.build(
        PrivacyConfig, budget=default, neighbouring=Neighbouring(neighbouring), clipping=clipping
    )
    section.end()
    own = {}
    for client, values in tables.items():
        if not isinstance(values, dict):
            raise ConfigError(f"[privacy.clients] {client} must be a table, got {values!r}")
        table = Section(f"privacy.clients.{client}", values)
        own[client] = _own_privacy(table)
        table.end()
    return config, own


def _own_privacy(section: Section) -> OwnPrivacy:
    """A table [privacy.clients.NAME]: a budget, which needs both numbers, or steps, or both."""
    has_budget = section.has("epsilon") or section.has("delta")
    if not has_budget and not section.has("steps_per_round"):
        raise ConfigError(
            f"[{section.name}] must say epsilon and delta, steps_per_round, or all three"
        )
    return OwnPrivacy(
        budget=_budget(section) if has_budget else None,
        steps_per_round=section.take("steps_per_round", int, None),
    )


def _budget(section: Section) -> Budget:
    try:
        return Budget(epsilon=section.take("epsilon", float), delta=section.take("delta", float))
    except AccountingError as error:
        raise ConfigError(str(error)) from error


def size_source(clients: Sequence[Declaration]) -> str:
    """Where the public sizes come from, for the report."""
    declared = "declared in the configuration"
    if not any(isinstance(client.public_size, NoisySize) for client in clients):
        return declared
    return f"{declared}, or the true number released once under noise that the budget counts"


def _num_tokens(section: Section) -> int:
    return int(section.take("num_virtual_tokens", int))


def _adapter(section: Section) -> Adapter:
    adapter = section.choose("kind", _ADAPTERS)(section)
    section.end()
    return adapter


def _training(section: Section) -> TrainingConfig:
    optimizer = section.build(section.choose("optimizer", _OPTIMIZERS, "sgd"))
    config = section.build(TrainingConfig, optimizer=optimizer)
    section.end()
    return config


def computation_of(root: Section) -> Computation:
    """The table [computation]."""
    section = root.section("computation", {})
    computation = section.build(Computation)
    section.end()
    return computation


def _encryption(section: Section) -> Summation:
    kind = section.choose("kind", _SUMMATIONS, "bfv")
    if kind is not BFV and section.take("custody", str, None) is not None:
        raise ConfigError("[encryption] custody is for kind 'bfv' only, leave it out")
    encryption = section.build(kind)
    if isinstance(encryption, BFV) and encryption.key_holder is not None:
        _require_address(encryption.key_holder)
    section.end()
    return encryption


def _require_address(text: str) -> None:
    try:
        parse_address(text)
    except ConfigError as error:
        raise ConfigError(f"[encryption] key_holder: {error}") from error


def _enrolment(section: Section | None, folder: Path) -> Enrolment | None:
    if section is None:
        return None
    files = Enrolment(
        roster=folder / section.take("roster", str),
        authority=section.take("authority", str),
        identities=folder / section.take("identities", str),
    )
    section.end()
    return files


def _method(root: Section) -> Method:
    """The tables [method], [ranks], [server_optimizer], [averaging], each around those before."""
    section = root.section("method", {})
    method: Method = section.build(section.choose("kind", _METHODS, FedAvg.kind))
    section.end()
    if (ranks := root.take("ranks", dict, None)) is not None:
        method = MixedRanks(of=method, ranks=ranks)
    if (server := root.optional("server_optimizer")) is not None:
        method = server.build(server.choose("kind", _SERVER_OPTIMIZERS), of=method)
        server.end()
    if (averaging := root.optional("averaging")) is not None:
        method = averaging.build(TailAveraging, of=method)
        averaging.end()
    return method
