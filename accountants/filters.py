"""May this release still happen? Three filters, each with the theorem that makes its yes valid.

Which one holds depends on what may depend on released results:

- only the moment of stopping: `ScheduleFilter`, which has the tightest number;
- noise, sampling rate or kind of mechanism too: `AdaptiveFilter`, by Renyi divergence at one
  order, or `ZeroConcentratedFilter`, for mechanisms without sampling.

A numerical composition bound is no filter for parameters chosen from results (Rogers et al. 2016,
arXiv:1605.08294), which is why `ScheduleFilter` refuses mechanisms outside its schedule. A filter
governs everything released on the data: hand it the whole history, and keep to one filter.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from accountants import certified, checks
from accountants.analyses import renyi
from accountants.analyses.divergences import rho
from accountants.errors import BudgetExceededError, InvalidValueError, UnsupportedAnalysisError
from accountants.events import Event
from accountants.guarantees import Budget, Neighbouring, neighbouring_of
from accountants.histories import canonical, checked, is_within


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleFilter:
    """Admits releases of a schedule that was fixed in advance, while the budget lasts.

    Mechanisms and their order must be fixed before the first release; only the moment of stopping
    may depend on results. Checked here: a mechanism outside the schedule, by its parameters, is
    refused. How often each one runs is bounded by the budget alone, because the history also holds
    earlier runs; that they run in the order that was fixed is the caller's promise.

    Attributes:
        budget: for everything released on the data.
        schedule: the events that this run may release; kept in normal form.
        neighbouring: which data sets are neighbours.
        theorem: why its numbers hold, for a report.

    Raises:
        InvalidValueError: for a schedule that is missing or empty, a budget that is no `Budget`,
            or an unknown relation.

    >>> from accountants.events import Gaussian
    >>> step = Gaussian(noise_multiplier=4.0)
    >>> admission = ScheduleFilter(
    ...     budget=Budget(epsilon=2.0, delta=1e-5),
    ...     schedule=[Gaussian(noise_multiplier=4.0, steps=3)],
    ...     neighbouring=Neighbouring.ADD_REMOVE,
    ... )
    >>> round(admission.admit([step], [step]), 4)
    1.3565
    """

    budget: Budget
    schedule: Iterable[Event]
    neighbouring: Neighbouring

    theorem: ClassVar[str] = (
        "Noise, sampling rates and their order were fixed before the first release. A run that "
        "stops early, for whatever reason, is post-processing of the longest run that the budget "
        "admits, so the composition bound of that run holds for it. The value at a stop that was "
        "chosen from results is no bound of its own (Rogers et al. 2016, arXiv:1605.08294). Where "
        "the schedule was chosen from a noised count that was released before, the epsilon of the "
        "count is added to it, whatever the count was."
    )

    def __post_init__(self) -> None:
        _check_terms(self)
        if self.schedule is None:
            raise InvalidValueError(
                "schedule must be the events that this run may release, got None; if they are "
                "chosen during the run, use AdaptiveFilter"
            )
        object.__setattr__(self, "schedule", canonical(self.schedule))
        if not self.schedule:
            raise InvalidValueError("schedule must hold at least one event, got none")

    def admit(self, history: Iterable[Event], planned: Iterable[Event]) -> float:
        """The epsilon after `planned`, if the schedule and the budget allow it.

        Args:
            history: all that was released on the data, reservations and earlier runs included.
            planned: what is about to be released.

        Raises:
            BudgetExceededError: with both numbers, if the budget would be passed.
            UnsupportedAnalysisError: for a planned mechanism that is not in the schedule.
        """
        history, planned = checked(history), checked(planned)
        self._refuse_foreign(planned)
        released = (*history, *planned)
        return _admitted(self._covered(released), self.budget)

    def claim(self, earlier: Iterable[Event], ran: Iterable[Event]) -> float:
        """The epsilon to report when the moment of stopping was chosen from results.

        It is the cap that was fixed in advance, not what was spent: the epsilon of `earlier` and
        the whole schedule where that is within the budget, and the epsilon of the budget where it
        is not, or where the run went on past the schedule. If the stop was fixed in advance, the
        number that `admit` gave last is valid, and smaller.

        Args:
            earlier: all that was released on the data before this schedule began.
            ran: what of the schedule was released.

        Raises:
            BudgetExceededError: if more was released than the budget admits.
            UnsupportedAnalysisError: for a mechanism in `ran` that is not in the schedule.
        """
        earlier, ran = checked(earlier), checked(ran)
        self._refuse_foreign(ran)
        spent = self._covered((*earlier, *ran))
        if not spent <= self.budget.epsilon:
            raise BudgetExceededError(
                "more was released than the budget admits: epsilon had to stay at or below "
                f"{self.budget.epsilon:.6g} at delta {self.budget.delta:g}, and is {spent:.6g}, "
                "which holds only for a stop that was fixed in advance; release no more",
                epsilon=spent,
                allowed=self.budget.epsilon,
            )
        if not is_within(ran, self.schedule):
            return self.budget.epsilon
        return min(self._epsilon((*earlier, *self.schedule)), self.budget.epsilon)

    def _covered(self, released: tuple[Event, ...]) -> float:
        """A bound for what was released: its own, or if that is too much, the whole schedule's."""
        after = self._epsilon(released)
        completed = self._completed(released)
        if after <= self.budget.epsilon or completed == canonical(released):
            return after
        return min(after, self._epsilon(completed))

    def _completed(self, released: tuple[Event, ...]) -> tuple[Event, ...]:
        """What was released, and of every mechanism of the schedule at least all its steps.

        More releases never cost less, but numerical bounds of two histories may be out of order
        by their own width. A calibrated run must not be stopped for that: the bound of the whole
        schedule covers every part of it.
        """
        steps = {replace(event, steps=1): event.steps for event in canonical(released)}
        for event in self.schedule:
            one = replace(event, steps=1)
            steps[one] = max(steps.get(one, 0), event.steps)
        return canonical(replace(one, steps=count) for one, count in steps.items())

    def _epsilon(self, events: tuple[Event, ...]) -> float:
        return certified.epsilon(events, self.budget.delta, self.neighbouring).upper

    def _refuse_foreign(self, planned: tuple[Event, ...]) -> None:
        known = {replace(event, steps=1) for event in self.schedule}
        for event in canonical(planned):
            if replace(event, steps=1) not in known:
                raise UnsupportedAnalysisError(
                    f"a release must be of the schedule {self.schedule!r} that was fixed in "
                    f"advance, got {event!r}; for parameters that are chosen during a run use "
                    "AdaptiveFilter"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveFilter:
    """Admits releases whose parameters may depend on all earlier results, by Renyi divergence.

    Valid at one order, which must be fixed before the first release on the data; `for_schedule`
    picks it. Choosing the order afterwards, as plain Renyi accounting does, is not valid here.

    Attributes:
        budget: for everything released on the data.
        order: the order of the divergence (alpha), > 1.
        neighbouring: which data sets are neighbours.
        theorem: why its numbers hold, for a report.

    Raises:
        InvalidValueError: for an order so small that no release would fit into the budget, a
            budget that is no `Budget`, or an unknown relation.

    >>> from accountants.events import Gaussian
    >>> admission = AdaptiveFilter(
    ...     budget=Budget(epsilon=3.0, delta=1e-5), order=10.0, neighbouring=Neighbouring.ZERO_OUT
    ... )
    >>> round(admission.limit, 4)
    2.082
    >>> history = [Gaussian(noise_multiplier=4.0)]
    >>> round(admission.admit(history, [Gaussian(noise_multiplier=3.0)]), 3)
    1.786
    """

    budget: Budget
    order: float
    neighbouring: Neighbouring

    theorem: ClassVar[str] = (
        "Renyi filter: while the divergences at one order, fixed before the first release, sum to "
        "at most a fixed limit, the whole interaction has at most that divergence, even when every "
        "parameter depends on earlier results (Feldman & Zrnic 2021, arXiv:2008.11193; Lecuyer "
        "2021, arXiv:2103.01379). The limit is the one that converts into the budget."
    )

    def __post_init__(self) -> None:
        _check_terms(self)
        order = checks.positive(order=self.order)
        if not order > 1:
            raise InvalidValueError(
                f"order must be above 1, got {order:g}; let for_schedule choose it"
            )
        object.__setattr__(self, "order", order)
        if not self.limit > 0:
            raise InvalidValueError(
                f"order must leave room for releases, got {order:g}: at this order no divergence "
                f"reaches epsilon {self.budget.epsilon:g} at delta {self.budget.delta:g}; choose "
                "a larger one, or let for_schedule choose"
            )

    @classmethod
    def for_schedule(
        cls, budget: Budget, expected_events: Iterable[Event], neighbouring: Neighbouring
    ) -> "AdaptiveFilter":
        """The filter at the order where the budget holds the most of an expected schedule.

        Args:
            budget: for everything released on the data.
            expected_events: a guess, made before any release, of all that will be released,
                earlier history included; a wrong guess costs budget, not validity.
            neighbouring: which data sets are neighbours.

        Raises:
            InvalidValueError: if the guess costs nothing, or nothing of it could ever fit; for a
                budget that is no `Budget`, or an unknown relation.
            UnsupportedAnalysisError: for an event without a Renyi divergence.
        """
        _check_budget(budget)
        neighbouring = neighbouring_of(neighbouring)
        expected = renyi.rdp(checked(expected_events), neighbouring)
        if not 0 < expected[0] < np.inf:
            raise InvalidValueError(
                "expected_events must have a Renyi divergence above 0 and below infinity, got "
                f"{expected[0]:g}; describe what the run is expected to release"
            )
        room = renyi.rdp_within(budget.epsilon, budget.delta) / expected
        best = renyi.ORDERS[int(np.argmax(room))]
        return cls(budget=budget, order=best, neighbouring=neighbouring)

    @property
    def limit(self) -> float:
        """The Renyi divergence, at the order of the filter, that all releases may sum to."""
        return float(renyi.rdp_within(self.budget.epsilon, self.budget.delta, [self.order])[0])

    def admit(self, history: Iterable[Event], planned: Iterable[Event]) -> float:
        """The epsilon after `planned` at the order of the filter, if the budget allows it.

        Args:
            history: all that was released on the data, reservations and earlier runs included.
            planned: what is about to be released; may depend on all earlier results.

        Raises:
            BudgetExceededError: with both numbers, if the budget would be passed.
            UnsupportedAnalysisError: for an event without a Renyi divergence.
        """
        orders = [self.order]
        events = (*checked(history), *checked(planned))
        spent = renyi.rdp(events, self.neighbouring, orders=orders)
        return _admitted(
            float(renyi.epsilon_from_rdp(spent, self.budget.delta, orders)[0]), self.budget
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroConcentratedFilter:
    """Admits mechanisms without sampling, whose noise may depend on all earlier results.

    It adds up the zCDP parameter rho, which bounds the divergence at every order, so that no order
    needs to be chosen. Sampled mechanisms have no such parameter and are refused.

    Attributes:
        budget: for everything released on the data.
        neighbouring: which data sets are neighbours.
        theorem: why its numbers hold, for a report.

    Raises:
        InvalidValueError: for a budget that is no `Budget`, or an unknown relation.

    >>> from accountants.events import Gaussian
    >>> admission = ZeroConcentratedFilter(
    ...     budget=Budget(epsilon=3.0, delta=1e-5), neighbouring=Neighbouring.ZERO_OUT
    ... )
    >>> round(admission.limit, 3)
    0.224
    >>> round(admission.admit([], [Gaussian(noise_multiplier=2.0)]), 3)
    2.166
    """

    budget: Budget
    neighbouring: Neighbouring

    theorem: ClassVar[str] = (
        "zCDP filter: while the parameters rho sum to at most a fixed limit, the whole interaction "
        "is zCDP with that limit, even when every parameter depends on earlier results (Whitehouse "
        "et al. 2023, arXiv:2203.05481). The limit is the one that converts into the budget."
    )

    def __post_init__(self) -> None:
        _check_terms(self)

    @property
    def limit(self) -> float:
        """The rho that all releases may sum to; at most 0 if nothing fits."""
        room = renyi.rdp_within(self.budget.epsilon, self.budget.delta)
        return float((room / np.array(renyi.ORDERS)).max())

    def admit(self, history: Iterable[Event], planned: Iterable[Event]) -> float:
        """The epsilon after `planned`, if the budget allows it.

        Args:
            history: all that was released on the data, reservations and earlier runs included.
            planned: what is about to be released; may depend on all earlier results.

        Raises:
            BudgetExceededError: with both numbers, if the budget would be passed.
            UnsupportedAnalysisError: for an event without a zCDP parameter.
        """
        events = canonical((*checked(history), *checked(planned)))
        total = sum(float(event.steps) * rho(event, self.neighbouring) for event in events)
        values = total * np.array(renyi.ORDERS)
        return _admitted(float(renyi.epsilon_from_rdp(values, self.budget.delta)[0]), self.budget)


def _check_terms(filter: ScheduleFilter | AdaptiveFilter | ZeroConcentratedFilter) -> None:
    """Check what all filters have; a relation may be given by its name and is kept as itself."""
    _check_budget(filter.budget)
    object.__setattr__(filter, "neighbouring", neighbouring_of(filter.neighbouring))


def _check_budget(budget: object) -> None:
    if not isinstance(budget, Budget):
        raise InvalidValueError(
            f"budget must be a Budget, got {checks.shown(budget)}; use "
            "Budget(epsilon=..., delta=...)"
        )


def _admitted(after: float, budget: Budget) -> float:
    """The epsilon, if it is within the budget."""
    if not after <= budget.epsilon:
        raise BudgetExceededError(
            f"epsilon must stay at or below {budget.epsilon:.6g} at delta {budget.delta:g}, and "
            f"would become {after:.6g} with this release; the release was not made, stop here",
            epsilon=after,
            allowed=budget.epsilon,
        )
    return after
