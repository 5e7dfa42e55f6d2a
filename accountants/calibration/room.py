"""What a budget still has room for after a history, with a margin for other processors."""

from collections.abc import Iterable
from dataclasses import dataclass

from accountants import certified
from accountants.errors import BudgetExceededError
from accountants.events import Event
from accountants.guarantees import Budget, Neighbouring
from accountants.histories import Events, canonical

# Aim this far (relative) below the budget, so that another processor's rounding in the last digits
# cannot refuse the last round of a schedule that was calibrated to the budget exactly.
_MARGIN = 1e-6


@dataclass(frozen=True, slots=True)
class Room:
    """A budget, and what of it is spent.

    Attributes:
        budget: for everything released on the data.
        past: what was already released; in normal form.
        neighbouring: which data sets are neighbours.
        group_size: records of one unit that may differ together (k).
    """

    budget: Budget
    past: Events
    neighbouring: Neighbouring
    group_size: int

    @classmethod
    def after(
        cls,
        history: Iterable[Event],
        budget: Budget,
        neighbouring: Neighbouring,
        group_size: int,
    ) -> "Room":
        """What a budget has left after a history."""
        return cls(budget, canonical(history), neighbouring, group_size)

    @property
    def target(self) -> float:
        """The epsilon to stay within."""
        return self.budget.epsilon * (1 - _MARGIN)

    def spend(self, *plan: Event) -> float:
        """Epsilon after the plan."""
        return certified.epsilon(
            (*self.past, *plan), self.budget.delta, self.neighbouring, group_size=self.group_size
        ).upper

    def confirms(self, plan: Event) -> bool:
        """Whether the number that a report would show is within the budget."""
        return self.spend(plan) <= self.target

    def allows(self, plan: Event) -> bool:
        """Whether some bound, cheaper to come by, is within the budget."""
        return certified.is_within(
            (*self.past, plan),
            self.budget.delta,
            self.target,
            self.neighbouring,
            group_size=self.group_size,
        )

    def spent(self) -> float:
        """What the history spent.

        Raises:
            BudgetExceededError: if that is the whole budget.
        """
        spent = self.spend()
        if not spent <= self.target:
            raise self.used_up(spent, "no further release")
        return spent

    def used_up(self, spent: float, what: str) -> BudgetExceededError:
        """The error of a budget that leaves no room.

        Args:
            spent: what the history spent.
            what: does not fit.
        """
        before = (
            f"the releases so far spent epsilon {spent:.6g}" if spent else "nothing was released"
        )
        epsilon, delta = self.budget.epsilon, self.budget.delta
        return BudgetExceededError(
            f"the budget, epsilon {epsilon:.6g} at delta {delta:g}, must leave room for the plan: "
            f"{before}, and {what} fits; plan fewer steps or agree on a larger budget",
            epsilon=spent,
            allowed=epsilon,
        )
