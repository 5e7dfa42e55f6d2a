"""From a TOML file to a federation. Every key is known; an unknown or missing one is named.

See `docs/run.toml` in the repository for a commented example.
"""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accountants import AccountingError, Budget, Neighbouring
from privfed.cli.run_file_data import clients_and_held_out
from privfed.cli.toml_section import Section, choose
from privfed.data.public_size import NoisySize
from privfed.errors import ConfigError
from privfed.federation import Federation
from privfed.identity.enrolment import Enrolment
from privfed.methods.averaging import FedAvg, FFALoRA
from privfed.methods.fedprox import FedProx
from privfed.methods.method import Method
from privfed.methods.scaffold import Scaffold
from privfed.methods.tail_averaging import TailAveraging
from privfed.models.adapters import Adapter, LoRA, PeftAdapter
from privfed.models.in_place import InPlace
from privfed.models.tasks import CausalLanguageModel, Classification, Task
from privfed.parties.client.client import Client
from privfed.protocol.links import parse_address
from privfed.settings.computation import (
    BaseWeights,
    Checkpointing,
    Computation,
    GradientMethod,
    Precision,
)
from privfed.settings.encryption import BFV, CKKS, Custody, Plain, Summation
from privfed.settings.privacy import (
    AutomaticClipping,
    Clipping,
    FlatClipping,
    PerLayerClipping,
    PrivacyConfig,
    QuantileClipping,
)
from privfed.settings.training import SGD, AdamW, Optimizer, TrainingConfig

_METHODS = (FedAvg, FFALoRA, FedProx, Scaffold)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def load_federation(path: Path, state_folder: Path | None = None) -> Federation:
    """Read a run configuration and the data that it names.

    Args:
        path: of the TOML file; relative paths of data and base model are relative to its folder.
        state_folder: where ledgers live; None takes the user's state folder.

    Raises:
        ConfigError: for a file, table, key or value that cannot be used.
        DataError: for data that cannot be used.
    """
    root = Section("", _parse(path))
    task = _task(root.section("model"), path.parent)
    seed = root.take("seed", int)
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed must be a whole number in [0, 2^63), got {seed}")
    privacy, budgets = _privacy(root.section("privacy"))
    clients, held_out, source = clients_and_held_out(
        root.section("data"), task, seed, path.parent, budgets
    )
    federation = root.section("federation")
    result = Federation(
        model=task,
        clients=clients,
        adapter=_adapter(root.section("adapter")),
        privacy=privacy,
        training=_training(root.section("training")),
        computation=_computation(root.section("computation", {})),
        encryption=_encryption(root.section("encryption", {})),
        enrolment=_enrolment(root.optional("parties"), path.parent),
        method=_method(root.section("method", {}), root.optional("averaging")),
        rounds=federation.take("rounds", int),
        min_clients=federation.take("min_clients", int, 3),
        clients_per_round=federation.take("clients_per_round", int, None),
        device=federation.take("device", str, None),
        held_out=held_out,
        held_out_source=source,
        public_size_source=_size_source(clients),
        seed=seed,
        title=root.take("title", str, path.stem),
        state_folder=state_folder,
    )
    federation.end()
    root.end()
    return result


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"the configuration {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no readable TOML file: {error}") from error


def _task(section: Section, folder: Path) -> Task:
    kind = section.take("task", str)
    base, length = _base(section.take("base", str), folder), section.take("max_length", int, 128)
    weights = choose(section, "weights", BaseWeights, BaseWeights.FLOAT32)
    task: Task
    if kind == "classification":
        labels = section.take_all("labels", str)
        scale = section.take("logit_scale", float, 1.0)
        task = Classification(
            base=base, labels=labels, max_length=length, logit_scale=scale, weights=weights
        )
    elif kind == "causal-lm":
        task = CausalLanguageModel(base=base, max_length=length, weights=weights)
    else:
        raise ConfigError(f"[model] task must be 'classification' or 'causal-lm', got {kind!r}")
    section.end()
    return task


def _base(base: str, folder: Path) -> str:
    """A folder with a model, relative to that of the configuration; a name on the hub as it is."""
    local = folder / base
    is_name = _HUB_NAME.fullmatch(base) is not None
    return base if is_name and not local.is_dir() else str(local.resolve())


def _privacy(section: Section) -> tuple[PrivacyConfig, dict[str, Budget]]:
    neighbouring = section.take("neighbouring", str)
    if neighbouring not in [relation.value for relation in Neighbouring]:
        raise ConfigError(f"[privacy] neighbouring must be 'add_remove', got {neighbouring!r}")
    default = _budget(section)
    own = section.take("clients", dict, {})
    config = PrivacyConfig(
        budget=default,
        neighbouring=Neighbouring(neighbouring),
        record=section.take("record", str),
        expected_batch_size=section.take("expected_batch_size", int),
        clipping_norm=section.take("clipping_norm", float, 1.0),
        steps_per_round=section.take("steps_per_round", int, 1),
        examples_per_record=section.take("examples_per_record", int, 1),
        clipping=_clipping(section),
        secure_noise=section.take("secure_noise", bool, True),
    )
    section.end()
    budgets = {}
    for client, values in own.items():
        if not isinstance(values, dict):
            raise ConfigError(f"[privacy.clients] {client} must be a table, got {values!r}")
        table = Section(f"privacy.clients.{client}", values)
        budgets[client] = _budget(table)
        table.end()
    return config, budgets


def _budget(section: Section) -> Budget:
    try:
        return Budget(epsilon=section.take("epsilon", float), delta=section.take("delta", float))
    except AccountingError as error:
        raise ConfigError(str(error)) from error


def _size_source(clients: Sequence[Client]) -> str:
    declared = "declared in the configuration"
    if not any(isinstance(client.public_size, NoisySize) for client in clients):
        return declared
    return f"{declared}, or the true number released once under noise that the budget counts"


def _adapter(section: Section) -> Adapter:
    kind = section.take("kind", str)
    if kind == "lora":
        adapter: Adapter = LoRA(
            rank=section.take("rank", int),
            target_modules=section.take_all("target_modules", str),
            layers=section.take_all("layers", int, None),
            alpha=section.take("alpha", float, None),
            dropout=section.take("dropout", float, 0.0),
            rank_stabilized=section.take("rank_stabilized", bool, False),
        )
    elif kind == "prompt-tuning":
        adapter = PeftAdapter.prompt_tuning(section.take("num_virtual_tokens", int))
    elif kind == "prefix-tuning":
        adapter = PeftAdapter.prefix_tuning(section.take("num_virtual_tokens", int))
    elif kind == "p-tuning":
        adapter = PeftAdapter.p_tuning(
            section.take("num_virtual_tokens", int), section.take("width", int)
        )
    elif kind == "ia3":
        adapter = PeftAdapter.ia3(
            section.take_all("target_modules", str),
            section.take_all("feedforward_modules", str, ()),
        )
    elif kind == "bias":
        adapter = InPlace.biases()
    elif kind == "last-layers":
        adapter = InPlace(last_layers=section.take("count", int))
    else:
        raise ConfigError(
            "[adapter] kind must be 'lora', 'prefix-tuning', 'prompt-tuning', 'p-tuning', 'ia3', "
            f"'bias' or 'last-layers', got {kind!r}"
        )
    section.end()
    return adapter


def _training(section: Section) -> TrainingConfig:
    kind = section.take("optimizer", str, "sgd")
    optimizer: Optimizer
    if kind == "sgd":
        optimizer = SGD(momentum=section.take("momentum", float, 0.0))
    elif kind == "adamw":
        optimizer = AdamW(
            beta1=section.take("beta1", float, 0.9),
            beta2=section.take("beta2", float, 0.999),
            epsilon=section.take("epsilon", float, 1e-8),
            weight_decay=section.take("weight_decay", float, 0.0),
        )
    else:
        raise ConfigError(f"[training] optimizer must be 'sgd' or 'adamw', got {kind!r}")
    config = TrainingConfig(
        learning_rate=section.take("learning_rate", float),
        final_learning_rate=section.take("final_learning_rate", float, None),
        optimizer=optimizer,
        physical_batch_size=section.take("physical_batch_size", int, 16),
    )
    section.end()
    return config


def _computation(section: Section) -> Computation:
    computation = Computation(
        precision=choose(section, "precision", Precision, Precision.FP32),
        checkpointing=choose(section, "checkpointing", Checkpointing, Checkpointing.NONE),
        compile=section.take("compile", bool, False),
        gradients=choose(section, "gradients", GradientMethod, GradientMethod.EXPANDED_LEAVES),
        stacked_clients=section.take("stacked_clients", int, 1),
        cache_frozen_layers=section.take("cache_frozen_layers", bool, False),
    )
    section.end()
    return computation


def _clipping(section: Section) -> Clipping:
    kind = section.take("clipping", str, "flat")
    if kind == "quantile":
        return QuantileClipping(
            count_noise=section.take("count_noise", float),
            quantile=section.take("quantile", float, 0.5),
            learning_rate=section.take("quantile_learning_rate", float, 0.2),
        )
    if kind == "automatic":
        return AutomaticClipping(stability=section.take("stability", float, 0.01))
    simple: dict[str, Clipping] = {"flat": FlatClipping(), "per-layer": PerLayerClipping()}
    if kind not in simple:
        raise ConfigError(
            "[privacy] clipping must be 'flat', 'per-layer', 'automatic' or 'quantile', "
            f"got {kind!r}"
        )
    return simple[kind]


def _encryption(section: Section) -> Summation:
    kind = section.take("kind", str, "bfv")
    if kind not in ("bfv", "ckks", "plain"):
        raise ConfigError(f"[encryption] kind must be 'bfv', 'ckks' or 'plain', got {kind!r}")
    limit = section.take("public_range", float, None)
    follow = section.take("follow_released", bool, False)
    encryption: Summation
    if kind != "bfv" and section.take("custody", str, None) is not None:
        raise ConfigError(f"[encryption] custody is for kind 'bfv' only, leave it out of {kind!r}")
    if kind == "ckks":
        encryption = CKKS(public_range=limit, follow_released=follow)
    elif kind == "plain":
        bits = section.take("bits", int, 12)
        encryption = Plain(bits=bits, public_range=limit, follow_released=follow)
    else:
        encryption = BFV(
            bits=section.take("bits", int, 12),
            public_range=limit,
            follow_released=follow,
            custody=_custody(section.take("custody", str, Custody.SHARED_KEY.value)),
            key_holder=_address(section.take("key_holder", str, None)),
        )
    section.end()
    return encryption


def _custody(name: str) -> Custody:
    if name not in [known.value for known in Custody]:
        raise ConfigError(
            f"[encryption] custody must be 'shared_key' or 'key_holder', got {name!r}"
        )
    return Custody(name)


def _address(text: str | None) -> str | None:
    if text is not None:
        try:
            parse_address(text)
        except ConfigError as error:
            raise ConfigError(f"[encryption] key_holder: {error}") from error
    return text


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


def _method(section: Section, averaging: Section | None) -> Method:
    kind = section.take("kind", str, FedAvg.kind)
    kinds = {known.kind: known for known in _METHODS}
    if kind not in kinds:
        raise ConfigError(f"[method] kind must be one of {sorted(kinds)}, got {kind!r}")
    method = section.build(kinds[kind])
    return method if averaging is None else averaging.build(TailAveraging, of=method)
