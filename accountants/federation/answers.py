"""What filters and the accountant say of clients, each distinct question put once.

Clients that follow one schedule have the same history, whatever its order, and their epsilon is
computed once for all. The answers are kept for one call of `FederatedAccountant`, never longer.
"""

from functools import cache

from accountants import certified
from accountants.errors import AccountingError, BudgetExceededError, UnsupportedAnalysisError
from accountants.events import canonical
from accountants.federation.clients import Filter
from accountants.filters import ScheduleFilter
from accountants.guarantees import EpsilonBounds, Neighbouring
from accountants.ledger.book import Events
from accountants.ledger.ledger import check_answer

BUDGET_OF_FILTER = "budget of the filter, whose parameters may follow results"
"""Method of a claim that is a budget, because no composition of what ran is a theorem."""


class Answers:
    """Each distinct question put once: to a filter, or to the accountant."""

    def __init__(self) -> None:
        self._normal = cache(canonical)
        self._admitted = cache(_admitted)
        self._claimed = cache(_claimed)

    def ask(self, filter: Filter, history: Events, planned: Events) -> float:
        """What the filter says; raises to refuse."""
        answer = self._admitted(filter, self._normal(history), self._normal(planned))
        if isinstance(answer, AccountingError):
            raise answer.with_traceback(None)
        return answer

    def claim(self, filter: Filter, history: Events, delta: float) -> EpsilonBounds:
        """What holds for a history that the filter governs."""
        phases = self._normal(history)
        if not phases or isinstance(filter, ScheduleFilter):
            return self._claimed(phases, delta, filter.neighbouring)
        if delta < filter.budget.delta:
            raise UnsupportedAnalysisError(
                f"delta must be at least the {filter.budget.delta:g} of the budget, got {delta:g}: "
                "where parameters follow results, the budget is all that can be claimed"
            )
        try:
            self.ask(filter, phases, ())
        except BudgetExceededError as error:
            raise UnsupportedAnalysisError(
                "all releases must be within the limit of a filter for its budget to be claimed, "
                f"and these are not: {error}"
            ) from error
        return EpsilonBounds(0.0, filter.budget.epsilon, BUDGET_OF_FILTER)


def _claimed(phases: Events, delta: float, neighbouring: Neighbouring) -> EpsilonBounds:
    return certified.epsilon(phases, delta, neighbouring)


def _admitted(filter: Filter, history: Events, planned: Events) -> float | AccountingError:
    """The epsilon that a filter admits, or its refusal; never a number above the budget."""
    try:
        after = filter.admit(history, planned)
        check_answer(after)
    except AccountingError as refusal:
        return refusal
    if not after <= filter.budget.epsilon:
        return BudgetExceededError(
            f"a filter must admit at most its budget {filter.budget.epsilon:.6g}, and admitted "
            f"{after:.6g}; the release was not made, correct the filter",
            epsilon=after,
            allowed=filter.budget.epsilon,
        )
    return after
