"""The smallest noise multiplier with which a plan stays within a budget."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from accountants import checks
from accountants.calibration.room import Room
from accountants.errors import BudgetExceededError
from accountants.events import Event, PoissonGaussian, RandomAllocationGaussian
from accountants.guarantees import Budget, Neighbouring

LARGEST_NOISE_MULTIPLIER = 1e4
"""More noise than this means that the budget is used up in all but name."""

SMALLEST_NOISE_MULTIPLIER = 1e-6
"""Less noise is not looked for, also where the batches alone already keep the budget."""

# How close (relative) a number that was found is to the smallest one.
_TOLERANCE = 5e-4

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

    def plan(noise: float) -> list[Event]:
        return [PoissonGaussian(noise_multiplier=noise, sample_rate=sample_rate, steps=steps)]

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
        >>> steps = lambda noise: [Gaussian(noise_multiplier=noise, steps=3)]
        >>> noise_multiplier_of(steps, budget, neighbouring=relation)
        3.454
    """
    room = Room.after(history, budget, neighbouring, group_size)
    spent = room.spent()
    guess = _guess(plan(1.0), budget)
    found = _search(lambda noise: room.spend(*plan(noise)), room.target, guess, first_step=1.3)
    if found is None:
        raise room.used_up(spent, f"no noise multiplier up to {LARGEST_NOISE_MULTIPLIER:g}")
    return found


def _guess(events: Iterable[Event], budget: Budget) -> float:
    """Where to look first: what the Gaussian mechanism would need."""
    needed = 0.0
    for event in events:
        rate = 1.0
        if isinstance(event, PoissonGaussian):
            rate = event.sample_rate
        elif isinstance(event, RandomAllocationGaussian):
            rate = 1 / math.sqrt(event.batches)
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


def _search(spend: Spend, target: float, start: float, *, first_step: float) -> float | None:
    """The smallest noise with `spend(noise) <= target`, to the tolerance, never below it.

    Brackets from `start` in growing steps, then narrows by interpolation in log-log space.
    Every value tried has five significant digits. None if even the most noise spends more.
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


def _rounded_up(value: float) -> float:
    """The next number with five significant digits, so that configs and reports can quote it."""
    digits = 4 - math.floor(math.log10(value))
    return math.ceil(round(value * 10.0**digits, 6)) / 10.0**digits
