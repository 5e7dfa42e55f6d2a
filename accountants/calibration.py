"""The noise, the number of steps or the batch size that a budget allows, on the safe side.

Every number returned was confirmed by `certified.epsilon`, the function that admission and reports
use: it is within the budget, and the next one that was tried is not.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from accountants import certified, checks
from accountants.errors import BudgetExceededError
from accountants.events import Event, PoissonGaussian
from accountants.guarantees import Budget, EpsilonBounds, Neighbouring
from accountants.histories import canonical

LARGEST_NOISE_MULTIPLIER = 1e4
"""More noise than this means that the budget is used up in all but name."""

SMALLEST_NOISE_MULTIPLIER = 1e-6
"""Less noise is not looked for, also where the batches alone already keep the budget."""

MOST_STEPS = 10**7
"""Schedules longer than this are not looked for."""

SMALLEST_SAMPLE_RATE = 1e-8
"""Sampling rates below this are not looked for unless told to."""

_TOLERANCE = 5e-4
_SMALL_STEPS = 10_000
# Aim this far (relative) below the budget, so that another processor's rounding in the last digits
# cannot refuse the last round of a schedule that was calibrated to the budget exactly.
_MARGIN = 1e-6

Spend = Callable[[float], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one client is about to do.

    Attributes:
        budget: for everything released on the data, history included.
        sample_rate: chance that a record joins a step (q), in (0, 1].
        steps: number of steps still planned (T), over all rounds, >= 1.
        history: what was already released on the same data.
    """

    budget: Budget
    sample_rate: float
    steps: int
    history: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One answer to "what would epsilon be if".

    Attributes:
        noise_multiplier: sigma.
        sample_rate: q.
        steps: T.
        bounds: epsilon after the history and these steps.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    bounds: EpsilonBounds


def noise_multiplier(
    budget: Budget,
    sample_rate: float,
    steps: int,
    history: Iterable[Event] = (),
    *,
    neighbouring: Neighbouring,
    group_size: int = 1,
) -> float:
    """The smallest noise multiplier whose schedule, after `history`, stays within the budget.

    Args:
        budget: for everything released on the data, history included.
        sample_rate: chance that a record joins a step (q), in (0, 1].
        steps: number of steps still planned (T), over all rounds, >= 1.
        history: what was already released on the same data.
        neighbouring: which data sets are neighbours.
        group_size: records of one unit, say of one person, that may differ together (k).

    Returns:
        sigma, rounded up to five significant digits, with
        `epsilon([*history, plan]).upper <= budget.epsilon`; at most 1e-3 (relative) above the
        smallest such number.

    Raises:
        BudgetExceededError: if the history alone uses the budget up, or nearly so.
        InvalidValueError: for a value out of range.

    Example:
        >>> from accountants import Budget, Neighbouring, noise_multiplier
        >>> budget, relation = Budget(epsilon=2.0, delta=1e-5), Neighbouring.ADD_REMOVE
        >>> noise_multiplier(budget, sample_rate=0.01, steps=1000, neighbouring=relation)
        0.95921
    """
    sample_rate = checks.rate(sample_rate=sample_rate)
    steps = checks.count(steps=steps)

    def plan(sigma: float) -> list[Event]:
        return [PoissonGaussian(noise_multiplier=sigma, sample_rate=sample_rate, steps=steps)]

    return noise_multiplier_of(
        plan, budget, history, neighbouring=neighbouring, group_size=group_size
    )


def noise_multiplier_of(
    plan: Callable[[float], Iterable[Event]],
    budget: Budget,
    history: Iterable[Event] = (),
    *,
    neighbouring: Neighbouring,
    group_size: int = 1,
) -> float:
    """The smallest noise multiplier with which any plan, after `history`, stays within the budget.

    Args:
        plan: from a noise multiplier to all events that are planned; more noise must not cost more.
        budget: for everything released on the data, history included.
        history: what was already released on the same data.
        neighbouring: which data sets are neighbours.
        group_size: records of one unit, say of one person, that may differ together (k).

    Returns:
        sigma, as `noise_multiplier` gives it.

    Raises:
        BudgetExceededError: if the history alone uses the budget up, or nearly so.
        InvalidValueError: for a value out of range.

    Example:
        >>> from accountants import Budget, Gaussian, Neighbouring, noise_multiplier_of
        >>> budget, relation = Budget(epsilon=2.0, delta=1e-5), Neighbouring.ADD_REMOVE
        >>> steps = lambda sigma: [Gaussian(noise_multiplier=sigma, steps=3)]
        >>> noise_multiplier_of(steps, budget, neighbouring=relation)
        3.454
    """
    room = _Room(budget, canonical(history), neighbouring, group_size)
    spent = _spent(room)
    guess = _guess(plan(1.0), budget)
    sigma = _search(lambda sigma: room.spend(*plan(sigma)), room.target, guess, first_step=1.3)
    if sigma is None:
        raise _used_up(budget, spent, f"no noise multiplier up to {LARGEST_NOISE_MULTIPLIER:g}")
    return sigma


def _guess(events: Iterable[Event], budget: Budget) -> float:
    """Where to look first: what the Gaussian mechanism would need."""
    needed = 0.0
    for event in events:
        rate = event.sample_rate if isinstance(event, PoissonGaussian) else 1.0
        needed += rate * math.sqrt(2 * event.steps * math.log(1.25 / budget.delta)) / budget.epsilon
    return min(max(needed, 0.3), 1e3)


def noise_multipliers(plans: Mapping[str, Plan], neighbouring: Neighbouring) -> dict[str, float]:
    """`noise_multiplier` for every client; equal plans are computed once.

    Raises:
        BudgetExceededError: naming the client, if its budget is used up.
    """
    found: dict[Plan, float] = {}
    for client, plan in plans.items():
        if plan not in found:
            try:
                found[plan] = noise_multiplier(
                    plan.budget,
                    plan.sample_rate,
                    plan.steps,
                    plan.history,
                    neighbouring=neighbouring,
                )
            except BudgetExceededError as error:
                raise BudgetExceededError(
                    f"client {client!r}: {error}", epsilon=error.epsilon, allowed=error.allowed
                ) from error
    return {client: found[plan] for client, plan in plans.items()}


def steps_within(
    budget: Budget,
    noise_multiplier: float,
    sample_rate: float,
    history: Iterable[Event] = (),
    *,
    neighbouring: Neighbouring,
    group_size: int = 1,
) -> int:
    """The most steps that the budget allows at this noise; 0 if not even one fits.

    Args:
        budget: for everything released on the data, history included.
        noise_multiplier: sigma, >= 0.
        sample_rate: chance that a record joins a step (q), in (0, 1].
        history: what was already released on the same data.
        neighbouring: which data sets are neighbours.
        group_size: records of one unit, say of one person, that may differ together (k).

    Returns:
        T; `MOST_STEPS` means at least that many. For rounds, divide by the steps of a round and
        round down.

    Example:
        >>> from accountants import Budget, Neighbouring
        >>> budget, relation = Budget(epsilon=2.0, delta=1e-5), Neighbouring.ADD_REMOVE
        >>> steps_within(budget, noise_multiplier=1.0, sample_rate=0.01, neighbouring=relation)
        1201
    """
    one = PoissonGaussian(noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=1)
    room = _Room(budget, canonical(history), neighbouring, group_size)

    def fits(steps: int) -> bool:
        return room.has(replace(one, steps=steps))

    if not fits(1):
        return 0
    low, high = 1, 2
    while high < MOST_STEPS and fits(high):
        low, high = high, 2 * high
    high = min(high, MOST_STEPS + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    while low and not room.holds(replace(one, steps=low)):
        low -= 1 + low // _SMALL_STEPS
    return max(low, 0)


def sample_rate_within(
    budget: Budget,
    noise_multiplier: float,
    steps: int,
    history: Iterable[Event] = (),
    *,
    neighbouring: Neighbouring,
    group_size: int = 1,
    smallest: float = SMALLEST_SAMPLE_RATE,
) -> float:
    """The largest sampling rate that the budget allows at this noise and number of steps.

    Args:
        budget: for everything released on the data, history included.
        noise_multiplier: sigma, >= 0.
        steps: number of steps (T), >= 1.
        history: what was already released on the same data.
        neighbouring: which data sets are neighbours.
        group_size: records of one unit, say of one person, that may differ together (k).
        smallest: the least rate to look for.

    Returns:
        q in (0, 1], rounded down to five significant digits. The expected batch is q times the
        public size of the data set.

    Raises:
        BudgetExceededError: if not even a rate of `smallest` fits.

    Example:
        >>> from accountants import Budget, Neighbouring
        >>> budget, relation = Budget(epsilon=2.0, delta=1e-5), Neighbouring.ADD_REMOVE
        >>> sample_rate_within(budget, noise_multiplier=1.0, steps=1000, neighbouring=relation)
        0.010861
    """
    plan = PoissonGaussian(noise_multiplier=noise_multiplier, sample_rate=1.0, steps=steps)
    room = _Room(budget, canonical(history), neighbouring, group_size)
    spent = _spent(room)

    def fits(q: float) -> bool:
        return room.has(replace(plan, sample_rate=q))

    if fits(1.0) and room.holds(plan):
        return 1.0
    low, high = 0.1, 1.0
    while not fits(low):
        low, high = low / 10, low
        if low < smallest:
            raise _used_up(budget, spent, f"no sampling rate down to {smallest:g}")
    while high / low > 1 + _TOLERANCE:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    while not room.holds(replace(plan, sample_rate=_rounded_down(low))):
        low *= 1 - _TOLERANCE
    return _rounded_down(low)


def batch_size_within(
    budget: Budget,
    noise_multiplier: float,
    steps: int,
    public_size: int,
    history: Iterable[Event] = (),
    *,
    neighbouring: Neighbouring,
    group_size: int = 1,
) -> int:
    """The largest expected batch of a Poisson sampler that the budget allows, rounded down.

    Args:
        budget: for everything released on the data, history included.
        noise_multiplier: sigma, >= 0.
        steps: number of steps (T), >= 1.
        public_size: the declared, public size of the data set, >= 1; not a count of the data.
        history: what was already released on the same data.
        neighbouring: which data sets are neighbours.
        group_size: records of one unit, say of one person, that may differ together (k).

    Returns:
        Records per batch; 0 if not even one record fits on average. Use
        `sample_rate = batch / public_size`.

    Example:
        >>> from accountants import Budget, Neighbouring
        >>> budget, relation = Budget(epsilon=2.0, delta=1e-5), Neighbouring.ADD_REMOVE
        >>> batch_size_within(budget, 1.0, 1000, public_size=5000, neighbouring=relation)
        54
    """
    size = checks.count(public_size=public_size)
    one = PoissonGaussian(noise_multiplier=noise_multiplier, sample_rate=1 / size, steps=steps)
    if not _Room(budget, canonical(history), neighbouring, group_size).has(one):
        return 0
    rate = sample_rate_within(
        budget,
        noise_multiplier,
        steps,
        history,
        neighbouring=neighbouring,
        group_size=group_size,
        smallest=0.1 / size,
    )
    return int(rate * size)


def what_if(
    delta: float,
    *,
    noise_multipliers: Sequence[float],
    sample_rates: Sequence[float],
    steps: Sequence[int],
    neighbouring: Neighbouring,
    history: Iterable[Event] = (),
    group_size: int = 1,
) -> tuple[Scenario, ...]:
    """Epsilon for every combination of noise, sampling rate and steps: curves as data.

    Args:
        delta: in [0, 1).
        noise_multipliers: values of sigma.
        sample_rates: values of q.
        steps: values of T.
        neighbouring: which data sets are neighbours.
        history: what was already released on the same data.
        group_size: records of one unit, say of one person, that may differ together (k).

    Returns:
        One scenario per combination, the last argument varying fastest.

    Example:
        >>> curve = what_if(
        ...     1e-5,
        ...     noise_multipliers=[1.0],
        ...     sample_rates=[0.01],
        ...     steps=[100, 1000],
        ...     neighbouring=Neighbouring.ADD_REMOVE,
        ... )
        >>> [round(scenario.bounds.upper, 2) for scenario in curve]
        [0.72, 1.83]
    """
    past = canonical(history)
    found = []
    for sigma, q, count in product(noise_multipliers, sample_rates, steps):
        plan = PoissonGaussian(noise_multiplier=sigma, sample_rate=q, steps=count)
        bounds = certified.epsilon((*past, plan), delta, neighbouring, group_size=group_size)
        found.append(Scenario(noise_multiplier=sigma, sample_rate=q, steps=count, bounds=bounds))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Room:
    """What a budget still has for a plan after a history."""

    budget: Budget
    past: tuple[Event, ...]
    neighbouring: Neighbouring
    group_size: int

    @property
    def target(self) -> float:
        return self.budget.epsilon * (1 - _MARGIN)

    def spend(self, *plan: Event) -> float:
        """Epsilon after the plan."""
        return certified.epsilon(
            (*self.past, *plan), self.budget.delta, self.neighbouring, group_size=self.group_size
        ).upper

    def holds(self, plan: Event) -> bool:
        """Whether the number that a report would show is within the budget."""
        return self.spend(plan) <= self.target

    def has(self, plan: Event) -> bool:
        """Whether some bound, cheaper to come by, is within the budget."""
        return certified.is_within(
            (*self.past, plan),
            self.budget.delta,
            self.target,
            self.neighbouring,
            group_size=self.group_size,
        )


def _spent(room: _Room) -> float:
    """What the history spent.

    Raises:
        BudgetExceededError: if that is the whole budget.
    """
    spent = room.spend()
    if not spent <= room.target:
        raise _used_up(room.budget, spent, "no further release")
    return spent


def _search(spend: Spend, target: float, start: float, *, first_step: float) -> float | None:
    """The smallest sigma with `spend(sigma) <= target`, to the tolerance, never below it.

    Brackets from `start` in growing steps, then narrows by interpolation in log-log space.
    Every value tried has five significant digits. None if even the largest sigma spends more.
    """
    low, high, spend_low, spend_high = _bracket(spend, target, start, first_step)
    if high is None:
        return None
    while high / low > 1 + _TOLERANCE * (1 + 1e-9):
        middle = _between(low, high, spend_low, spend_high, target)
        value = spend(middle)
        if value <= target:
            high, spend_high = middle, value
        else:
            low, spend_low = middle, value
    return high


def _bracket(
    spend: Spend, target: float, start: float, step: float
) -> tuple[float, float | None, float, float]:
    """Neighbouring trials (low, high, spend(low), spend(high)) on both sides of the target."""
    current = _rounded_up(start)
    value = spend(current)
    growing = value > target
    while True:
        if growing and current >= LARGEST_NOISE_MULTIPLIER:
            return current, None, value, math.inf
        if not growing and current <= SMALLEST_NOISE_MULTIPLIER:
            return current, current, value, value
        if growing:
            following = min(_rounded_up(current * step), LARGEST_NOISE_MULTIPLIER)
        else:
            following = max(_rounded_up(current / step), SMALLEST_NOISE_MULTIPLIER)
        following_value = spend(following)
        if growing and following_value <= target:
            return current, following, value, following_value
        if not growing and following_value > target:
            return following, current, following_value, value
        current, value, step = following, following_value, min(step * step, 4.0)


def _between(low: float, high: float, spend_low: float, spend_high: float, target: float) -> float:
    """A trial strictly inside (low, high), where the line through both ends meets the target."""
    fraction = 0.5
    if math.isfinite(spend_low) and spend_high > 0:
        drop = math.log(spend_low / spend_high)
        fraction = math.log(spend_low / target) / drop if drop > 0 else 0.5
    width = math.log(high / low)
    # Land a little past the crossing, so that the next trial closes the bracket from above.
    position = min(max(fraction * width, 0), width) + _TOLERANCE / 3
    position = min(max(position, 0.1 * width), 0.9 * width)
    trial = _rounded_up(low * math.exp(position))
    return trial if low < trial < high else math.sqrt(low * high)


def _rounded_up(sigma: float) -> float:
    """The next number with five significant digits, so that configs and reports can quote it."""
    digits = 4 - math.floor(math.log10(sigma))
    return math.ceil(round(sigma * 10.0**digits, 6)) / 10.0**digits


def _rounded_down(value: float) -> float:
    """The next smaller number with five significant digits."""
    digits = 4 - math.floor(math.log10(value))
    return math.floor(value * 10.0**digits) / 10.0**digits


def _used_up(budget: Budget, spent: float, what: str) -> BudgetExceededError:
    before = f"the releases so far spent epsilon {spent:.6g}" if spent else "nothing was released"
    return BudgetExceededError(
        f"the budget, epsilon {budget.epsilon:.6g} at delta {budget.delta:g}, must leave room for "
        f"the plan: {before}, and {what} fits; plan fewer steps or agree on a larger budget",
        epsilon=spent,
        allowed=budget.epsilon,
    )
