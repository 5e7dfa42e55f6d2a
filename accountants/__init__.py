"""Privacy accounting for federated learning: what was released, and what it cost.

    >>> from accountants import Neighbouring, PoissonGaussian, epsilon
    >>> training = PoissonGaussian(noise_multiplier=1.0, sample_rate=0.01, steps=1000)
    >>> epsilon([training], 1e-5, Neighbouring.ADD_REMOVE).upper < 1.83
    True

`epsilon` and `delta` give certified bounds for any mix of the events in `accountants.events`,
`noise_multiplier` and its relatives what a budget allows, `Ledger` remembers what was released,
and `FederatedAccountant` keeps the books of many clients. Modules for special questions:
`renyi` and `odometer` (fast, for progress), `filters` (may this release still happen?),
`tradeoff` (what an attacker can achieve), `auditing` (what an attack proves), `units` (a whole
client as the unit), `selection` (the cost of hyper-parameter search). `python -m accountants
--help` is the command line.

Names are loaded when they are first used, so that the ledger alone needs no numerical library.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accountants.anchors import AnchorFolder as AnchorFolder
    from accountants.anchors import KeptAnchor as KeptAnchor
    from accountants.book import Reservation as Reservation
    from accountants.bounds import DeltaBounds as DeltaBounds
    from accountants.bounds import EpsilonBounds as EpsilonBounds
    from accountants.budget import Budget as Budget
    from accountants.calibration import Plan as Plan
    from accountants.calibration import Scenario as Scenario
    from accountants.calibration import batch_size_within as batch_size_within
    from accountants.calibration import noise_multiplier as noise_multiplier
    from accountants.calibration import noise_multipliers as noise_multipliers
    from accountants.calibration import sample_rate_within as sample_rate_within
    from accountants.calibration import steps_within as steps_within
    from accountants.calibration import what_if as what_if
    from accountants.certified import ACCOUNTANT as ACCOUNTANT
    from accountants.certified import delta as delta
    from accountants.certified import epsilon as epsilon
    from accountants.chain import Anchor as Anchor
    from accountants.chain import anchor_from_json as anchor_from_json
    from accountants.clients import Client as Client
    from accountants.decisions import Decision as Decision
    from accountants.decisions import Outcome as Outcome
    from accountants.earlier import EarlierLedgers as EarlierLedgers
    from accountants.errors import AccountingError as AccountingError
    from accountants.errors import BudgetExceededError as BudgetExceededError
    from accountants.errors import InvalidValueError as InvalidValueError
    from accountants.errors import LedgerCorruptError as LedgerCorruptError
    from accountants.errors import LedgerError as LedgerError
    from accountants.errors import LedgerForeignError as LedgerForeignError
    from accountants.errors import LedgerMissingError as LedgerMissingError
    from accountants.errors import LedgerRolledBackError as LedgerRolledBackError
    from accountants.errors import LedgerStateError as LedgerStateError
    from accountants.errors import UnsupportedAnalysisError as UnsupportedAnalysisError
    from accountants.events import BandedMatrixFactorization as BandedMatrixFactorization
    from accountants.events import DiscreteGaussian as DiscreteGaussian
    from accountants.events import Event as Event
    from accountants.events import FixedSizeGaussian as FixedSizeGaussian
    from accountants.events import Gaussian as Gaussian
    from accountants.events import Laplace as Laplace
    from accountants.events import NoisedCount as NoisedCount
    from accountants.events import PoissonGaussian as PoissonGaussian
    from accountants.events import PureDP as PureDP
    from accountants.events import Skellam as Skellam
    from accountants.events import TreeAggregation as TreeAggregation
    from accountants.events import ZeroConcentrated as ZeroConcentrated
    from accountants.events import canonical as canonical
    from accountants.events import event_from_json as event_from_json
    from accountants.events import event_to_json as event_to_json
    from accountants.export import events_of_export as events_of_export
    from accountants.export import verify_export as verify_export
    from accountants.federation import FederatedAccountant as FederatedAccountant
    from accountants.federation import FederationEpsilon as FederationEpsilon
    from accountants.filters import AdaptiveFilter as AdaptiveFilter
    from accountants.filters import ScheduleFilter as ScheduleFilter
    from accountants.filters import ZeroConcentratedFilter as ZeroConcentratedFilter
    from accountants.identity import Identity as Identity
    from accountants.ledger import Ledger as Ledger
    from accountants.odometer import OnlineOdometer as OnlineOdometer
    from accountants.odometer import trajectories as trajectories
    from accountants.odometer import trajectory as trajectory
    from accountants.relations import Neighbouring as Neighbouring
    from accountants.relations import Unit as Unit
    from accountants.units import NoiseShares as NoiseShares

_HOMES = {
    "anchors": ("AnchorFolder", "KeptAnchor"),
    "book": ("Reservation",),
    "bounds": ("DeltaBounds", "EpsilonBounds"),
    "budget": ("Budget",),
    "calibration": (
        "Plan",
        "Scenario",
        "batch_size_within",
        "noise_multiplier",
        "noise_multipliers",
        "sample_rate_within",
        "steps_within",
        "what_if",
    ),
    "certified": ("ACCOUNTANT", "delta", "epsilon"),
    "chain": ("Anchor", "anchor_from_json"),
    "clients": ("Client",),
    "decisions": ("Decision", "Outcome"),
    "earlier": ("EarlierLedgers",),
    "errors": (
        "AccountingError",
        "BudgetExceededError",
        "InvalidValueError",
        "LedgerCorruptError",
        "LedgerError",
        "LedgerForeignError",
        "LedgerMissingError",
        "LedgerRolledBackError",
        "LedgerStateError",
        "UnsupportedAnalysisError",
    ),
    "events": (
        "BandedMatrixFactorization",
        "DiscreteGaussian",
        "Event",
        "FixedSizeGaussian",
        "Gaussian",
        "Laplace",
        "NoisedCount",
        "PoissonGaussian",
        "PureDP",
        "Skellam",
        "TreeAggregation",
        "ZeroConcentrated",
        "canonical",
        "event_from_json",
        "event_to_json",
    ),
    "export": ("events_of_export", "verify_export"),
    "federation": ("FederatedAccountant", "FederationEpsilon"),
    "filters": ("AdaptiveFilter", "ScheduleFilter", "ZeroConcentratedFilter"),
    "identity": ("Identity",),
    "ledger": ("Ledger",),
    "odometer": ("OnlineOdometer", "trajectories", "trajectory"),
    "relations": ("Neighbouring", "Unit"),
    "units": ("NoiseShares",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"accountants.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "auditing", "renyi", "selection", "tradeoff"]
