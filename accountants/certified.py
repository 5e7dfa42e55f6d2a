"""Events -> epsilon or delta, with certified bounds from both sides.

Three ways, the tightest that applies:

* plain Gaussian releases, trees and banded matrices: the closed form (`gaussian`);
* these with Poisson-sampled, randomly allocated or fixed-size Gaussian, Laplace and pure-DP
  releases: privacy loss distributions, composed by a tilted FFT, with every error bounded
  (`composition`);
* anything with discrete Gaussian, Skellam or zCDP releases: Renyi divergences (`renyi`), above
  the tightest number; the lower bound is that of the other releases, with zCDP ones as the
  Gaussian mechanism that meets the same bound.

The epsilon of noised counts, from which parameters of the others may follow, is added to what these
say (`noised_counts`).

Where the losses leave the range of floating point or the grid its memory limit, the least of what
the closed form without sampling and Renyi divergences say is taken, which is above the truth too.
Calibration, admission and reports all use the upper number of `epsilon`.
"""

import math
from collections.abc import Iterable
from functools import lru_cache

from accountants import checks
from accountants.analyses import composition, gaussian, noised_counts, renyi
from accountants.analyses.reduction import Reduced, reduced
from accountants.errors import UnsupportedAnalysisError
from accountants.events import Event
from accountants.guarantees import DeltaBounds, EpsilonBounds, Neighbouring, neighbouring_of
from accountants.histories import Events, canonical

RELATIVE_GAP = 3e-4
"""How far the two bounds may be apart by default, over the upper one."""

SMALLEST_GAP = 1e-7
"""Smaller requests are read as this one."""

NOTHING_RELEASED = "nothing was released"
UNPROTECTED = "a release is not protected at all"
PURE = "sum of pure epsilons"
CLOSED_FORM = "closed form of the Gaussian mechanism"
TILTED = "privacy loss distributions, tilted FFT with bounded errors"
WITHOUT_SAMPLING = "closed form of the Gaussian mechanism, sampling left out of account"
RENYI = "Renyi divergences"
COUNTS = "the epsilons of noised counts, added up"

ACCOUNTANT = (
    "certified bounds: the closed form of the Gaussian mechanism, or privacy loss distributions "
    "composed by a tilted FFT with every error bounded"
)
"""What computed the numbers, for reports."""

_ROUGH_GAP = 3e-2

# The pure epsilon is rounded up by less than this.
_PURE_ROUNDING = 2.0**-48

# Bounds further apart than this, over the upper one, are compared with Renyi divergences.
_WIDE = 1e-2


def epsilon(
    events: Iterable[Event],
    delta: float,
    neighbouring: Neighbouring,
    *,
    group_size: int = 1,
    relative_gap: float = RELATIVE_GAP,
) -> EpsilonBounds:
    """Bounds on the epsilon for which all events together are (epsilon, delta)-DP.

    Results are cached by the normal form of the events, so asking again is free.

    Args:
        events: what was or will be released on the same data, in any order.
        delta: in [0, 1).
        neighbouring: which data sets are neighbours.
        group_size: records of one unit that may differ together (k), >= 1.
        relative_gap: how close the bounds should be, in (0, 1); they are wider where that needs
            too much memory or where only Renyi divergences apply.

    Returns:
        0 for no events, infinity where nothing is protected.

    Raises:
        InvalidValueError: for a value out of range.
        UnsupportedAnalysisError: for events without a sound analysis under this relation.

    Example:
        >>> from accountants import Neighbouring, PoissonGaussian, epsilon
        >>> dp_sgd = PoissonGaussian(noise_multiplier=1.0, sample_rate=0.01, steps=1000)
        >>> bounds = epsilon([dp_sgd], 1e-5, Neighbouring.ADD_REMOVE)
        >>> print(f"{bounds.lower:.4f} <= epsilon <= {bounds.upper:.4f}")
        1.8281 <= epsilon <= 1.8285
    """
    return _epsilon(
        canonical(events),
        checks.probability_or_zero(delta=delta),
        neighbouring_of(neighbouring),
        checks.count(group_size=group_size),
        max(checks.probability(relative_gap=relative_gap), SMALLEST_GAP),
    )


def delta(
    events: Iterable[Event],
    epsilon: float,
    neighbouring: Neighbouring,
    *,
    group_size: int = 1,
    relative_gap: float = RELATIVE_GAP,
) -> DeltaBounds:
    """Bounds on the delta for which all events together are (epsilon, delta)-DP.

    Args:
        events: what was or will be released on the same data, in any order.
        epsilon: >= 0, finite.
        neighbouring: which data sets are neighbours.
        group_size: records of one unit that may differ together (k), >= 1.
        relative_gap: about how close the bounds should be, in (0, 1).

    Returns:
        0 for no events, 1 where nothing is protected.

    Raises:
        InvalidValueError: for a value out of range.
        UnsupportedAnalysisError: for events without a sound analysis under this relation.

    Example:
        >>> from accountants import Gaussian, Neighbouring, delta
        >>> bounds = delta([Gaussian(noise_multiplier=1.0)], 1.0, Neighbouring.ADD_REMOVE)
        >>> print(f"{bounds.upper:.5f}")
        0.12694
    """
    return _delta(
        canonical(events),
        checks.non_negative(epsilon=epsilon),
        neighbouring_of(neighbouring),
        checks.count(group_size=group_size),
        max(checks.probability(relative_gap=relative_gap), SMALLEST_GAP),
    )


def is_within(
    events: Iterable[Event],
    delta: float,
    limit: float,
    neighbouring: Neighbouring,
    *,
    group_size: int = 1,
) -> bool:
    """Whether epsilon stays within a limit, as cheaply as it can be told; for searches.

    Args:
        events: what was or will be released on the same data.
        delta: in (0, 1).
        limit: > 0.
        neighbouring: which data sets are neighbours.
        group_size: records of one unit that may differ together.

    Returns:
        True only if some upper bound proves it, and False where none does.

    Example:
        >>> from accountants import Gaussian, Neighbouring
        >>> is_within([Gaussian(noise_multiplier=1.0)], 1e-5, 4.38, Neighbouring.ADD_REMOVE)
        True
    """
    events = canonical(events)
    parts = reduced(events, neighbouring_of(neighbouring), group_size)
    if not parts.renyi_only and not parts.unprotected:
        whole = gaussian.epsilon(math.sqrt(parts.gaussian + parts.unsampled), delta)[1]
        if noised_counts.epsilon_of_sum(parts.noised_counts_epsilon, whole + parts.pure) <= limit:
            return True
    rough = epsilon(events, delta, neighbouring, group_size=group_size, relative_gap=_ROUGH_GAP)
    if rough.upper <= limit * (1 - RELATIVE_GAP) or rough.lower > limit:
        return rough.upper <= limit
    return epsilon(events, delta, neighbouring, group_size=group_size).upper <= limit


@lru_cache(maxsize=8192)
def _epsilon(
    events: Events, delta: float, neighbouring: Neighbouring, group_size: int, relative_gap: float
) -> EpsilonBounds:
    parts = reduced(events, neighbouring, group_size)
    if parts.unprotected:
        return EpsilonBounds(math.inf, math.inf, UNPROTECTED)
    if delta == 0:
        pure = parts.pure_epsilon
        return EpsilonBounds(pure * (1 - _PURE_ROUNDING), pure, PURE)
    rest = noised_counts.without_counts(events)
    found = _of_the_rest(rest, parts, delta, neighbouring, group_size, relative_gap)
    if not parts.noised_counts_epsilon:
        return found
    return EpsilonBounds(
        max(found.lower, noised_counts.epsilon_of_one(parts.largest_noised_count, delta)),
        noised_counts.epsilon_of_sum(parts.noised_counts_epsilon, found.upper),
        _with_counts(found.method),
    )


def _of_the_rest(
    events: Events,
    parts: Reduced,
    delta: float,
    neighbouring: Neighbouring,
    group_size: int,
    relative_gap: float,
) -> EpsilonBounds:
    """Bounds on the epsilon of events with fixed parameters, at a delta above 0."""
    if parts.renyi_only:
        return _by_renyi(events, parts, delta, neighbouring, group_size, relative_gap)
    lower, upper = _epsilon_of(parts, delta, relative_gap)
    if not parts.steps:
        return EpsilonBounds(lower, upper, CLOSED_FORM if parts.gaussian else NOTHING_RELEASED)
    whole = gaussian.epsilon(math.sqrt(parts.gaussian + parts.unsampled), delta)[1] + parts.pure
    sampled = parts.gaussian + parts.unsampled > 0
    candidates = [(upper, TILTED), (whole, WITHOUT_SAMPLING if sampled else PURE)]
    if upper - lower > _WIDE * upper:
        candidates += _other_bounds(events, delta, neighbouring, group_size)
    return EpsilonBounds(lower, *min(candidates))


def _other_bounds(
    events: Events, delta: float, neighbouring: Neighbouring, group_size: int
) -> list[tuple[float, str]]:
    """What Renyi divergences say, where they say anything."""
    try:
        found = renyi.epsilon(events, delta, neighbouring, group_size=group_size)
    except UnsupportedAnalysisError:
        return []
    return [(found.epsilon, RENYI)]


def _by_renyi(
    events: Events,
    parts: Reduced,
    delta: float,
    neighbouring: Neighbouring,
    group_size: int,
    relative_gap: float,
) -> EpsilonBounds:
    found = renyi.epsilon(events, delta, neighbouring, group_size=group_size)
    lower, _ = _epsilon_of(parts, delta, relative_gap)
    method = f"{RENYI}, best order {found.order:g}"
    if found.at_edge:
        method += ", the last of the grid: valid, but perhaps far from tight"
    return EpsilonBounds(lower, found.epsilon, method)


def _delta(
    events: Events, epsilon: float, neighbouring: Neighbouring, group_size: int, relative_gap: float
) -> DeltaBounds:
    parts = reduced(events, neighbouring, group_size)
    if parts.unprotected:
        return DeltaBounds(1.0, 1.0, UNPROTECTED)
    if epsilon >= parts.pure_epsilon:
        return DeltaBounds(0.0, 0.0, PURE)
    counts, rest = parts.noised_counts_epsilon, noised_counts.without_counts(events)
    left = noised_counts.room_beside(counts, epsilon)
    lower, upper = _delta_of(parts, left, relative_gap)
    if parts.renyi_only:
        values = renyi.rdp(rest, neighbouring, group_size=group_size)
        upper = renyi.delta_from_rdp(values, left)
    if not counts:
        return DeltaBounds(lower, upper, _method(parts))
    if epsilon < counts:
        upper = noised_counts.delta_at_zero(counts, epsilon, upper)
    lower = max(
        _delta_of(parts, epsilon, relative_gap)[0],
        noised_counts.delta_of_one(parts.largest_noised_count, epsilon),
    )
    return DeltaBounds(lower, upper, _with_counts(_method(parts)))


def _method(parts: Reduced) -> str:
    if parts.renyi_only:
        return RENYI
    if parts.steps:
        return TILTED
    return CLOSED_FORM if parts.gaussian else NOTHING_RELEASED


def _with_counts(method: str) -> str:
    return COUNTS if method == NOTHING_RELEASED else f"{method}; and {COUNTS}"


def _epsilon_of(parts: Reduced, delta: float, relative_gap: float) -> tuple[float, float]:
    """Bounds from the parts that have a dominating pair."""
    if not parts.steps:
        return gaussian.epsilon(math.sqrt(parts.gaussian), delta)
    return composition.epsilon_bounds(*parts.all_steps(), delta, relative_gap)


def _delta_of(parts: Reduced, epsilon: float, relative_gap: float) -> tuple[float, float]:
    """As `_epsilon_of`, for delta."""
    if not parts.steps:
        return gaussian.delta(math.sqrt(parts.gaussian), epsilon)
    return composition.delta_bounds(*parts.all_steps(), epsilon, relative_gap)
