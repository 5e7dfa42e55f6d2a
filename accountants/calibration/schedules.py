"""The most steps, and the largest sampling rate or batch, that a budget allows at given noise."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from accountants import checks
from accountants.calibration.room import Room
from accountants.events import Event, PoissonGaussian
from accountants.guarantees import Budget, Neighbouring

MOST_STEPS = 10**7
"""Schedules longer than this are not looked for."""

SMALLEST_SAMPLE_RATE = 1e-8
"""Sampling rates below this are not looked for unless told to."""

# How close (relative) a sampling rate that was found is to the largest one.
_TOLERANCE = 5e-4
# Below so many steps, they are counted down one by one.
_SMALL_STEPS = 10_000


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
    room = Room.after(history, budget, neighbouring, group_size)

    low = _most_steps(lambda steps: room.allows(replace(one, steps=steps)))
    while low and not room.confirms(replace(one, steps=low)):
        low -= 1 + low // _SMALL_STEPS
    return max(low, 0)


def _most_steps(fits: Callable[[int], bool]) -> int:
    """The largest number that fits, up to `MOST_STEPS`; 0 if 1 does not."""
    if not fits(1):
        return 0
    low, high = 1, 2
    while high < MOST_STEPS and fits(high):
        low, high = high, 2 * high
    high = min(high, MOST_STEPS + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


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
        q in (0, 1], rounded down to five significant digits.

    Raises:
        BudgetExceededError: if not even a rate of `smallest` fits.

    Example:
        >>> from accountants import Budget, Neighbouring
        >>> budget, relation = Budget(epsilon=2.0, delta=1e-5), Neighbouring.ADD_REMOVE
        >>> sample_rate_within(budget, noise_multiplier=1.0, steps=1000, neighbouring=relation)
        0.010861
    """
    plan = PoissonGaussian(noise_multiplier=noise_multiplier, sample_rate=1.0, steps=steps)
    room = Room.after(history, budget, neighbouring, group_size)
    spent = room.spent()

    if room.allows(plan) and room.confirms(plan):
        return 1.0
    low = _largest_rate(lambda rate: room.allows(replace(plan, sample_rate=rate)), smallest)
    if low is None:
        raise room.used_up(spent, f"no sampling rate down to {smallest:g}")
    while not room.confirms(replace(plan, sample_rate=_rounded_down(low))):
        low *= 1 - _TOLERANCE
    return _rounded_down(low)


def _largest_rate(fits: Callable[[float], bool], smallest: float) -> float | None:
    """A rate below 1 that fits, to the tolerance the largest; None if none from `smallest` does."""
    low, high = 0.1, 1.0
    while not fits(low):
        low, high = low / 10, low
        if low < smallest:
            return None
    while high / low > 1 + _TOLERANCE:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


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
    if not Room.after(history, budget, neighbouring, group_size).allows(one):
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


def _rounded_down(value: float) -> float:
    """The next smaller number with five significant digits."""
    digits = 4 - math.floor(math.log10(value))
    return math.floor(value * 10.0**digits) / 10.0**digits
