"""The error tree. Every message says what must hold, what came, and what to do.

AccountingError
├── InvalidValueError         a value is out of range or of the wrong type (also ValueError)
├── BudgetExceededError       a release, or any release, would pass the budget
├── UnsupportedAnalysisError  no valid bound is known for what was asked
└── LedgerError               the file that remembers what was released cannot be used as asked
    ├── LedgerMissingError        there is no file; what was spent is unknown
    ├── LedgerCorruptError        the file or export is damaged or was edited
    ├── LedgerForeignError        the file is of another client, data set, unit or relation
    ├── LedgerRolledBackError     the file is older than an anchor taken from it
    └── LedgerStateError          the step does not follow from what the ledger holds
"""

__all__ = [
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
]


class AccountingError(Exception):
    """Base class of every error that this package raises on purpose."""


class InvalidValueError(AccountingError, ValueError):
    """A value is out of range, not finite or of the wrong type; the message names it."""


class BudgetExceededError(AccountingError):
    """A release would pass the budget, or nothing of the budget is left.

    Attributes:
        epsilon: what would be spent if the release happened; may be infinite.
        allowed: the epsilon of the budget.
    """

    def __init__(self, message: str, *, epsilon: float, allowed: float) -> None:
        super().__init__(message)
        self.epsilon = epsilon
        self.allowed = allowed

    def __reduce__(self) -> tuple[object, ...]:
        """Both numbers survive pickling, so that worker processes can raise it."""
        return _budget_exceeded, (str(self), self.epsilon, self.allowed)


def _budget_exceeded(message: str, epsilon: float, allowed: float) -> BudgetExceededError:
    return BudgetExceededError(message, epsilon=epsilon, allowed=allowed)


class UnsupportedAnalysisError(AccountingError):
    """No valid bound is known here for what was asked; a number would be a guess."""


class LedgerError(AccountingError):
    """The ledger cannot be used as asked."""


class LedgerMissingError(LedgerError):
    """There is no ledger at this path, so what was spent on the data is unknown."""


class LedgerCorruptError(LedgerError):
    """The ledger or its export is damaged, was edited, or is no ledger at all."""


class LedgerForeignError(LedgerError):
    """The ledger is of another client, data set, unit or relation, or awaits being assigned."""


class LedgerRolledBackError(LedgerError):
    """The ledger lacks, or has other, entries than an anchor taken from it proves."""


class LedgerStateError(LedgerError):
    """The step does not follow from what the ledger holds, or the ledger is busy."""
