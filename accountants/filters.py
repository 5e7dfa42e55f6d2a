"""May this release still happen?

`ScheduleFilter` bounds the whole history and the planned release by `pld.epsilon` and compares
with the budget. That is valid when noise and sampling rate were fixed before training and only
the moment of stopping may depend on results: a run that stops early is post-processing of the
longest run that the budget admits. It is not a filter for parameters chosen from released
results, for which a numerical composition bound does not hold in general (Rogers et al. 2016,
arXiv:1605.08294; Whitehouse et al. 2023, arXiv:2203.05481).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from accountants import pld
from accountants.budget import Budget, Neighbouring
from accountants.errors import BudgetExceededError
from accountants.events import PoissonGaussian


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleFilter:
    """Admits releases of a schedule that was fixed in advance while the budget lasts.

    Attributes:
        budget: for everything released on the data.
        neighbouring: which data sets are neighbours.
    """

    budget: Budget
    neighbouring: Neighbouring = Neighbouring.ADD_REMOVE

    def admit(
        self, history: Iterable[PoissonGaussian], planned: Iterable[PoissonGaussian]
    ) -> float:
        """The epsilon after `planned`, if the budget allows it.

        Args:
            history: all that was released on the data, reservations included.
            planned: what is about to be released.

        Raises:
            BudgetExceededError: with both numbers, if the budget would be passed.
        """
        after = pld.epsilon((*history, *planned), self.budget.delta, self.neighbouring)
        if not after <= self.budget.epsilon:
            raise BudgetExceededError(
                f"epsilon must stay at or below {self.budget.epsilon:.6g} at delta "
                f"{self.budget.delta:g}, and would become {after:.6g} with this release; the "
                "release was not made, stop here",
                epsilon=after,
                allowed=self.budget.epsilon,
            )
        return after
