"""privfed fine-tunes language models across organisations that may not share their text.

Each client trains an adapter with DP-SGD, updates are summed under homomorphic encryption, and a
privacy accountant follows epsilon for every client across all rounds. The names below are the
public interface; they are loaded on first use, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accountants import Budget as Budget
    from accountants import Neighbouring as Neighbouring
    from privfed.client.node import Client as Client
    from privfed.config import SGD as SGD
    from privfed.config import AdamW as AdamW
    from privfed.config import AutomaticClipping as AutomaticClipping
    from privfed.config import BaseWeights as BaseWeights
    from privfed.config import Checkpointing as Checkpointing
    from privfed.config import Computation as Computation
    from privfed.config import FlatClipping as FlatClipping
    from privfed.config import GradientMethod as GradientMethod
    from privfed.config import PerLayerClipping as PerLayerClipping
    from privfed.config import Precision as Precision
    from privfed.config import PrivacyConfig as PrivacyConfig
    from privfed.config import QuantileClipping as QuantileClipping
    from privfed.config import TrainingConfig as TrainingConfig
    from privfed.data.public_size import NoisySize as NoisySize
    from privfed.data.records import Record as Record
    from privfed.data.records import RecordGroup as RecordGroup
    from privfed.federation import Callback as Callback
    from privfed.federation import Federation as Federation
    from privfed.federation import FederationResult as FederationResult
    from privfed.models.adapters import LoRA as LoRA
    from privfed.models.adapters import PeftAdapter as PeftAdapter
    from privfed.models.custom_loss import CustomLoss as CustomLoss
    from privfed.models.in_place import InPlace as InPlace
    from privfed.models.in_place import InPlaceModel as InPlaceModel
    from privfed.models.load_adapter import load_adapter as load_adapter
    from privfed.models.tasks import CausalLanguageModel as CausalLanguageModel
    from privfed.models.tasks import Classification as Classification
    from privfed.models.tasks import load_task as load_task
    from privfed.parties import Enrolment as Enrolment
    from privfed.strategies.averaging import FedAvg as FedAvg
    from privfed.strategies.averaging import FFALoRA as FFALoRA
    from privfed.strategies.tail_averaging import TailAveraging as TailAveraging
    from privfed.summation import BFV as BFV
    from privfed.summation import CKKS as CKKS
    from privfed.summation import Custody as Custody
    from privfed.summation import Plain as Plain

__version__ = "0.2.0"

_HOMES = {
    "accountants": ("Budget", "Neighbouring"),
    "privfed.client.node": ("Client",),
    "privfed.config": (
        "SGD",
        "AdamW",
        "AutomaticClipping",
        "BaseWeights",
        "Checkpointing",
        "Computation",
        "FlatClipping",
        "GradientMethod",
        "PerLayerClipping",
        "Precision",
        "PrivacyConfig",
        "QuantileClipping",
        "TrainingConfig",
    ),
    "privfed.data.public_size": ("NoisySize",),
    "privfed.data.records": ("Record", "RecordGroup"),
    "privfed.federation": ("Callback", "Federation", "FederationResult"),
    "privfed.models.adapters": ("LoRA", "PeftAdapter"),
    "privfed.models.custom_loss": ("CustomLoss",),
    "privfed.models.in_place": ("InPlace", "InPlaceModel"),
    "privfed.models.load_adapter": ("load_adapter",),
    "privfed.models.tasks": ("CausalLanguageModel", "Classification", "load_task"),
    "privfed.parties": ("Enrolment",),
    "privfed.summation": ("BFV", "CKKS", "Custody", "Plain"),
    "privfed.strategies.averaging": ("FFALoRA", "FedAvg"),
    "privfed.strategies.tail_averaging": ("TailAveraging",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'privfed' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
