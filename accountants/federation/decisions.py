"""Whether one client may release in a round: the answer, and why.

One client's refusal must not keep the others from their round, so that every error on the way to an
answer becomes a decision; only what is wrong with the question itself is raised.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from accountants.errors import AccountingError, BudgetExceededError, LedgerError, LedgerStateError
from accountants.ledger.book import Reservation


class Outcome(Enum):
    """Why a client may take part in a round, or not.

    ADMITTED: the release fits.
    OVER_BUDGET: it would pass the budget; smaller ones may still fit.
    NOT_COVERED: the filter or the analysis does not cover it, or the history.
    ALREADY_DECIDED: the ledger already holds this round, reserved or committed, and counts it.
    NO_LEDGER: the ledger is missing, damaged or busy.
    """

    ADMITTED = "admitted"
    OVER_BUDGET = "over_budget"
    NOT_COVERED = "not_covered"
    ALREADY_DECIDED = "already_decided"
    NO_LEDGER = "no_ledger"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether one client's release may happen.

    Attributes:
        client: its name.
        outcome: what was decided.
        epsilon_after: with the release and all before it, at the delta of the budget; of a client
            over its budget what it would be, possibly infinite; None where there is no number.
        reason: why it was refused, for the log of the client; None if it was admitted.
        reservation: for `FederatedAccountant.commit`; None if refused, or only previewed.
    """

    client: str
    outcome: Outcome
    epsilon_after: float | None = None
    reason: str | None = None
    reservation: Reservation | None = None

    @property
    def admitted(self) -> bool:
        """Whether the release may happen; after a preview, could have happened."""
        return self.outcome is Outcome.ADMITTED


def decision_of(
    name: str,
    decide: Callable[[], tuple[float, Reservation | None]],
    holds: Callable[[], bool] = lambda: False,
) -> Decision:
    """The decision that an attempt comes to.

    Args:
        name: of the client.
        decide: gives the epsilon after the release and the reservation, if one was made, or raises
            an AccountingError to refuse.
        holds: whether the ledger already holds the round; asked after a LedgerStateError, which a
            busy ledger raises too.
    """
    try:
        after, reservation = decide()
    except AccountingError as error:
        return Decision(
            client=name,
            outcome=_outcome(error, holds),
            epsilon_after=error.epsilon if isinstance(error, BudgetExceededError) else None,
            reason=f"client {name!r}: {error}",
        )
    return Decision(
        client=name, outcome=Outcome.ADMITTED, epsilon_after=after, reservation=reservation
    )


def _outcome(error: AccountingError, holds: Callable[[], bool]) -> Outcome:
    match error:
        case BudgetExceededError():
            return Outcome.OVER_BUDGET
        case LedgerStateError() if _is_held(holds):
            return Outcome.ALREADY_DECIDED
        case LedgerError():
            return Outcome.NO_LEDGER
        case _:
            return Outcome.NOT_COVERED


def _is_held(holds: Callable[[], bool]) -> bool:
    """The answer; False if the ledger gives none, since the first error says more than a second."""
    try:
        return holds()
    except LedgerError:
        return False
