"""Privacy accounting for federated learning: what was released, and what it cost."""

from accountants.book import Reservation
from accountants.budget import Budget, Neighbouring, Unit
from accountants.calibration import noise_multiplier
from accountants.chain import Anchor, anchor_from_json
from accountants.errors import (
    AccountingError,
    BudgetExceededError,
    InvalidValueError,
    LedgerCorruptError,
    LedgerError,
    LedgerForeignError,
    LedgerMissingError,
    LedgerRolledBackError,
    LedgerStateError,
    UnsupportedAnalysisError,
)
from accountants.events import PoissonGaussian, canonical, event_from_json
from accountants.export import events_of_export, verify_export
from accountants.filters import ScheduleFilter
from accountants.ledger import Ledger
from accountants.odometer import trajectory
from accountants.pld import ACCOUNTANT, epsilon

__all__ = [
    "ACCOUNTANT",
    "AccountingError",
    "Anchor",
    "Budget",
    "BudgetExceededError",
    "InvalidValueError",
    "Ledger",
    "LedgerCorruptError",
    "LedgerError",
    "LedgerForeignError",
    "LedgerMissingError",
    "LedgerRolledBackError",
    "LedgerStateError",
    "Neighbouring",
    "PoissonGaussian",
    "Reservation",
    "ScheduleFilter",
    "Unit",
    "UnsupportedAnalysisError",
    "anchor_from_json",
    "canonical",
    "epsilon",
    "event_from_json",
    "events_of_export",
    "noise_multiplier",
    "trajectory",
    "verify_export",
]
