"""The public names of the package, each with its home; `__init__.py` loads them from here."""

from .data.public_size import NoisySize as NoisySize
from .data.records import Record as Record
from .data.records import RecordGroup as RecordGroup
from .engines.callback import Callback as Callback
from .engines.simulation import FederationResult as FederationResult
from .federation import Federation as Federation
from .identity.enrolment import Enrolment as Enrolment
from .methods.averaging import FedAvg as FedAvg
from .methods.averaging import FFALoRA as FFALoRA
from .methods.fedprox import FedProx as FedProx
from .methods.scaffold import Scaffold as Scaffold
from .methods.tail_averaging import TailAveraging as TailAveraging
from .models.adapters import LoRA as LoRA
from .models.adapters import PeftAdapter as PeftAdapter
from .models.custom_loss import CustomLoss as CustomLoss
from .models.in_place import InPlace as InPlace
from .models.in_place import InPlaceModel as InPlaceModel
from .models.load_adapter import load_adapter as load_adapter
from .models.tasks import CausalLanguageModel as CausalLanguageModel
from .models.tasks import Classification as Classification
from .models.tasks import load_task as load_task
from .parties.client.client import Client as Client
from .settings.computation import BaseWeights as BaseWeights
from .settings.computation import Checkpointing as Checkpointing
from .settings.computation import Computation as Computation
from .settings.computation import GradientMethod as GradientMethod
from .settings.computation import Precision as Precision
from .settings.encryption import BFV as BFV
from .settings.encryption import CKKS as CKKS
from .settings.encryption import Custody as Custody
from .settings.encryption import Plain as Plain
from .settings.privacy import AutomaticClipping as AutomaticClipping
from .settings.privacy import Budget as Budget
from .settings.privacy import FlatClipping as FlatClipping
from .settings.privacy import Neighbouring as Neighbouring
from .settings.privacy import PerLayerClipping as PerLayerClipping
from .settings.privacy import PrivacyConfig as PrivacyConfig
from .settings.privacy import QuantileClipping as QuantileClipping
from .settings.training import SGD as SGD
from .settings.training import AdamW as AdamW
from .settings.training import TrainingConfig as TrainingConfig

__version__: str
