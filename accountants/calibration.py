"""The noise that a planned schedule needs for a budget, on the safe side.

The search runs on a coarse grid and is then confirmed by `pld.epsilon` itself, the function that
admission and reports use: the returned noise multiplier passed, and one 5e-4 below it did not.
"""

import math
from collections.abc import Callable, Iterable

from accountants import checks, pld
from accountants.budget import Budget, Neighbouring
from accountants.errors import BudgetExceededError
from accountants.events import PoissonGaussian, canonical

LARGEST_NOISE_MULTIPLIER = 1e4
"""More noise than this means that the budget is used up in all but name."""

_TOLERANCE = 5e-4
# Aim this far (relative) below the budget, so that another processor's rounding in the last digits
# cannot refuse the last round of a schedule that was calibrated to the budget exactly.
_MARGIN = 1e-6
_COARSENING = 10.0

Spend = Callable[[float], float]


def noise_multiplier(
    budget: Budget,
    sample_rate: float,
    steps: int,
    history: Iterable[PoissonGaussian] = (),
    neighbouring: Neighbouring = Neighbouring.ADD_REMOVE,
) -> float:
    """The smallest noise multiplier whose schedule, after `history`, stays within the budget.

    Args:
        budget: for everything released on the data, history included.
        sample_rate: chance that a record joins a step (q), in (0, 1].
        steps: number of steps still planned (T), over all rounds, >= 1.
        history: what was already released on the same data.
        neighbouring: which data sets are neighbours.

    Returns:
        sigma, rounded up to five significant digits, with
        `pld.epsilon([*history, plan]) <= budget.epsilon`; at most 1e-3 (relative) above the
        smallest such number.

    Raises:
        BudgetExceededError: if the history alone uses the budget up, or nearly so.
        InvalidValueError: for a value out of range.
        UnsupportedAnalysisError: for a delta that is too small for `pld.epsilon`.
    """
    sample_rate = checks.rate(sample_rate=sample_rate)
    steps = checks.count(steps=steps)
    past = canonical(history)
    target = budget.epsilon * (1 - _MARGIN)

    def schedule(sigma: float) -> tuple[PoissonGaussian, ...]:
        plan = PoissonGaussian(noise_multiplier=sigma, sample_rate=sample_rate, steps=steps)
        return canonical((*past, plan))

    def coarse(sigma: float) -> float:
        return pld.epsilon_on_grid(
            schedule(sigma), budget.delta, neighbouring, coarsening=_COARSENING
        )

    def fine(sigma: float) -> float:
        return pld.epsilon(schedule(sigma), budget.delta, neighbouring)

    spent = pld.epsilon(past, budget.delta, neighbouring)
    if not spent <= target:
        raise _used_up(budget, spent)
    guess = sample_rate * math.sqrt(2 * steps * math.log(1.25 / budget.delta)) / budget.epsilon
    start = _search(coarse, target, min(max(guess, 0.3), 1e3), first_step=1.3)
    sigma = _search(fine, target, start or LARGEST_NOISE_MULTIPLIER, first_step=1 + _TOLERANCE)
    if sigma is None:
        raise _used_up(budget, spent)
    return sigma


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
        if growing:
            following = min(_rounded_up(current * step), LARGEST_NOISE_MULTIPLIER)
        else:
            following = _rounded_up(current / step)
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


def _used_up(budget: Budget, spent: float) -> BudgetExceededError:
    return BudgetExceededError(
        f"the releases so far must leave room for the plan: they spent epsilon {spent:.6g} of "
        f"{budget.epsilon:.6g} at delta {budget.delta:g}, and no noise multiplier up to "
        f"{LARGEST_NOISE_MULTIPLIER:g} fits; plan fewer steps or agree on a larger budget",
        epsilon=spent,
        allowed=budget.epsilon,
    )
