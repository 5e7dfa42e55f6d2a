"""Tables of a run configuration that need neither text nor a model.

They are those of privacy, training, computation, encryption and method.
"""

from collections.abc import Mapping

from accountants import AccountingError, Budget, Neighbouring
from privfed.cli.toml_section import Section
from privfed.errors import ConfigError
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
from privfed.protocol.links import parse_address
from privfed.settings.computation import Computation
from privfed.settings.encryption import BFV, CKKS, Plain, Summation
from privfed.settings.privacy import (
    AutomaticClipping,
    Clipping,
    FlatClipping,
    OwnPrivacy,
    PerLayerClipping,
    PrivacyConfig,
    QuantileClipping,
)
from privfed.settings.training import SGD, AdamW, Optimizer, TrainingConfig

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


def seed_of(root: Section) -> int:
    """The public seed."""
    seed: int = root.take("seed", int)
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed must be a whole number in [0, 2^63), got {seed}")
    return seed


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


def training_of(section: Section) -> TrainingConfig:
    """The table [training]."""
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


def encryption_of(section: Section) -> Summation:
    """The table [encryption]."""
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


def method_of(root: Section) -> Method:
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
