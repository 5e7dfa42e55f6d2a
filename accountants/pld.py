"""Events -> epsilon: an upper bound by privacy loss distributions.

The distribution of the privacy loss of each phase is discretised so that it dominates the true one
(connect-the-dots: Doroshenko et al. 2022, arXiv:2207.04380), for both directions of the
neighbouring relation, and composed by FFT (Koskela et al. 2020, arXiv:1906.03049). The discrete
distributions come from dp-accounting.

Three things are added here, so that the number stays on the safe side:

* Composition runs in double precision, and its rounding error can lower the computed delta.
  Against an exponentially tilted composition of the same distributions (150 schedules of 1 to
  20 000 steps) the error stayed below 2.1e-16 * (steps + 16); ten times that is taken off the
  delta that was asked for. This allowance was measured, not proven. It is why delta below 1e-8 is
  refused: there the error is no longer small beside delta.
* dp-accounting finds epsilon by walking down the grid, adding up its step; the sum drifts by at
  most half a unit in the last place per step, which is added to epsilon (about 1e-10).
* A schedule whose loss is so wide that the usual grid would not fit into memory gets a coarser
  grid, which raises epsilon; past any useful epsilon the answer is infinity.

Calibration, admission and reports all call `epsilon`: a schedule calibrated by one bound and
admitted by another stops early or overruns.
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import version

from dp_accounting import privacy_accountant
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

from accountants import checks
from accountants.budget import Neighbouring
from accountants.errors import UnsupportedAnalysisError
from accountants.events import PoissonGaussian, canonical

GRID_INTERVAL = 1e-4
"""Distance of neighbouring privacy losses on the grid, in units of epsilon."""

SMALLEST_DELTA = 1e-8
"""Below this, rounding of the FFT may under-report; refused."""

ACCOUNTANT = (
    f"privacy loss distribution, connect-the-dots, dp-accounting {version('dp-accounting')}, "
    f"grid {GRID_INTERVAL:g}"
)
"""What computed the numbers, for reports."""

_ROUNDING_PER_STEP = 2e-15
_MOST_GRID_POINTS = 3e6
_WIDEST_LOSS = 1e3

_RELATIONS = {
    Neighbouring.ADD_REMOVE: privacy_accountant.NeighboringRelation.ADD_OR_REMOVE_ONE,
    Neighbouring.REPLACE_ONE: privacy_accountant.NeighboringRelation.REPLACE_ONE,
}

Phases = tuple[PoissonGaussian, ...]


def epsilon(
    events: Iterable[PoissonGaussian],
    delta: float,
    neighbouring: Neighbouring = Neighbouring.ADD_REMOVE,
) -> float:
    """An epsilon for which all events together are (epsilon, delta)-DP.

    Results are cached by the normal form of the events, so asking again is free.

    Args:
        events: what was or will be released on the same data, in any order.
        delta: in [1e-8, 1).
        neighbouring: which data sets are neighbours.

    Returns:
        An upper bound, >= 0: 0 for no events, infinity where nothing is protected.

    Raises:
        InvalidValueError: for a delta that is no probability.
        UnsupportedAnalysisError: for a delta that is too small for the precision of the FFT, or
            a schedule for which dp-accounting has no answer.
    """
    delta = checks.probability(delta=delta)
    return _epsilon(canonical(events), delta, Neighbouring(neighbouring))


@lru_cache(maxsize=8192)
def _epsilon(phases: Phases, delta: float, neighbouring: Neighbouring) -> float:
    return epsilon_on_grid(phases, delta, neighbouring)


def epsilon_on_grid(
    phases: Phases, delta: float, neighbouring: Neighbouring, *, coarsening: float = 1.0
) -> float:
    """As `epsilon`, not cached, on a grid that is `coarsening` times as wide; for searches.

    A wider grid is faster and its result is a valid, looser bound.
    """
    usable_delta = _usable_delta(phases, delta)
    if not phases:
        return 0.0
    if any(phase.noise_multiplier == 0 for phase in phases):
        return math.inf
    width = _loss_width(phases, neighbouring)
    if not width <= _WIDEST_LOSS:
        return math.inf
    interval = GRID_INTERVAL * coarsening
    while width / interval > _MOST_GRID_POINTS / coarsening:
        interval *= 2
    result = _composed_epsilon(phases, usable_delta, neighbouring, interval)
    if not result >= 0:
        raise UnsupportedAnalysisError(
            f"epsilon must come out as a number, 0 or above, got {result!r} for {phases} at "
            f"delta {delta!r}; change the schedule"
        )
    return result + _drift(width)


def _usable_delta(phases: Phases, delta: float) -> float:
    """Delta less the allowance for rounding."""
    steps = min(sum(phase.steps for phase in phases), 10**15)  # more are refused as well
    allowance = _ROUNDING_PER_STEP * (steps + 16)
    if not delta >= SMALLEST_DELTA or not allowance <= delta / 4:
        raise UnsupportedAnalysisError(
            f"delta must be at least {max(SMALLEST_DELTA, 4 * allowance):.3g} for this many "
            f"steps, got {delta!r}: below, rounding of the FFT may under-report epsilon; choose "
            "a larger delta"
        )
    return delta - allowance


def _loss_width(phases: Phases, neighbouring: Neighbouring) -> float:
    """About how far the composed privacy loss reaches from 0, up to mass 1e-15.

    The widest single step, plus the mean (at most q / (2 sigma^2) per step, by convexity of the
    divergence), plus nine standard deviations. Only sizes the grid; no bound rests on it.
    """
    reach, mean, variance = 0.0, 0.0, 0.0
    sensitivity = 2.0 if neighbouring is Neighbouring.REPLACE_ONE else 1.0
    for phase in phases:
        signal = sensitivity / phase.noise_multiplier
        reach = max(reach, signal * signal / 2 + 9 * signal)
        draws = phase.steps * phase.sample_rate
        mean += draws * signal * signal / 2
        variance += draws * signal * signal * (1 + signal * signal / 4)
    return reach + mean + 9 * math.sqrt(variance)


def _drift(width: float) -> float:
    """How far a running sum of grid steps can be off after walking twice the width of the loss."""
    return 2 * width / GRID_INTERVAL * math.ulp(2 * width) / 2


def _composed_epsilon(
    phases: Phases, delta: float, neighbouring: Neighbouring, interval: float
) -> float:
    try:
        total = _phase_distribution(phases[0], neighbouring, interval)
        for phase in phases[1:]:
            total = total.compose(_phase_distribution(phase, neighbouring, interval))
        return float(total.get_epsilon_for_delta(delta))
    except (ValueError, ArithmeticError, IndexError, MemoryError) as error:
        raise UnsupportedAnalysisError(
            f"dp-accounting must compose the schedule, and failed for {phases} at delta "
            f"{delta!r}: {error!r}; change the schedule"
        ) from error


@lru_cache(maxsize=16)
def _phase_distribution(
    phase: PoissonGaussian, neighbouring: Neighbouring, interval: float
) -> PrivacyLossDistribution:
    """The privacy loss of all steps of one phase.

    Without sampling, T steps at sigma are exactly one step at sigma / sqrt(T).
    """
    unsampled = phase.sample_rate == 1
    spread = phase.noise_multiplier / (math.sqrt(phase.steps) if unsampled else 1.0)
    one = privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=spread,
        value_discretization_interval=interval,
        sampling_prob=phase.sample_rate,
        neighboring_relation=_RELATIONS[neighbouring],
    )
    return one if unsampled else one.self_compose(phase.steps)
