"""The Renyi divergence of one step of every event, and its zCDP parameter where it has one.

All formulas are upper bounds over both directions of the neighbouring relation. A mechanism
without one for the relation or the group asked for is refused by name.
"""

import math
from functools import lru_cache

import numpy as np
from scipy.special import logsumexp

from accountants.analyses.floats import Floats
from accountants.analyses.sensitivity import shift
from accountants.errors import UnsupportedAnalysisError
from accountants.events import (
    BandedMatrixFactorization,
    DiscreteGaussian,
    Event,
    FixedSizeGaussian,
    Gaussian,
    Laplace,
    NoisedCount,
    PoissonGaussian,
    PureDP,
    RandomAllocationGaussian,
    Skellam,
    TreeAggregation,
    ZeroConcentrated,
)
from accountants.guarantees import Neighbouring

# A divergence that is not 0 is never rounded to 0.
_TINY = float(np.finfo(np.float64).tiny)
# Outside these bounds sampling is accounted as if it had not happened, or as at the bound.
_LEAST_NOISE, _MOST_NOISE, _MOST_FIXED_SIZE_NOISE = 0.05, 1e6, 1e3
# Fractional orders above this one are read at the next whole order.
_LARGEST_FRACTIONAL_ORDER = 100
# Above this pure epsilon, the divergence is nearly that at every order.
_LARGE_EPSILON = 1e3


def rho(event: Event, neighbouring: Neighbouring, *, group_size: int = 1) -> float:
    """The zCDP parameter of one step: its Renyi divergence is at most rho * a at every order a.

    Args:
        event: its `steps` are ignored.
        neighbouring: which data sets are neighbours.
        group_size: how many units differ (k), >= 1.

    Raises:
        UnsupportedAnalysisError: for a mechanism without such a parameter (sampled, Skellam), or
            whose guarantee is for another relation.

    Reference:
        Bun & Steinke 2016, arXiv:1605.02065, Propositions 1.4, 1.6 and 1.9.

    >>> rho(Gaussian(noise_multiplier=2.0), Neighbouring.REPLACE_ONE)
    0.5
    """
    distance = shift(event, neighbouring, group_size)
    match event:
        case Gaussian():
            return _gaussian_rho(distance, event.noise_multiplier)
        case DiscreteGaussian():
            return _gaussian_rho(distance * event.sensitivity, event.standard_deviation)
        case TreeAggregation():
            nodes = (event.leaves - 1).bit_length() + 1
            return _gaussian_rho(distance * math.sqrt(nodes), event.noise_multiplier)
        case BandedMatrixFactorization():
            root = math.sqrt(event.participations)
            return _gaussian_rho(distance * root, event.noise_multiplier)
        case ZeroConcentrated():
            return event.rho * distance * distance
        case PureDP() | Laplace():
            pure = _pure_epsilon(event, distance)
            return pure * pure / 2
        case NoisedCount():
            raise _no_divergence(event)
    raise UnsupportedAnalysisError(
        f"rho-zCDP must be known for every event here, and none is for {type(event).__name__}; "
        "use its Renyi divergence at one order"
    )


@lru_cache(maxsize=4096)
def one_step(
    event: Event, neighbouring: Neighbouring, group_size: int, orders: tuple[float, ...]
) -> Floats:
    """Upper bounds on the Renyi divergence of one step, at each order.

    Args:
        event: of one step.
        neighbouring: which data sets are neighbours.
        group_size: how many units differ (k), >= 1.
        orders: > 1.

    Returns:
        Shape (orders,); read-only, as it is computed once and shared.

    Raises:
        UnsupportedAnalysisError: for an event without a formula for this relation and group.

    >>> one_step(Gaussian(noise_multiplier=0.5), Neighbouring.ZERO_OUT, 1, (2.0, 3.0))
    array([4., 6.])
    """
    grid = np.array(orders)
    distance = shift(event, neighbouring, group_size)
    match event:
        case PoissonGaussian():
            values = _poisson(event, neighbouring, group_size, grid)
        case FixedSizeGaussian():
            values = _fixed_size(event, distance, grid)
        case Skellam():
            values = _skellam(event, distance, grid)
        case Laplace():
            values = _laplace(_pure_epsilon(event, distance), grid)
        case PureDP():
            values = _randomised_response(_pure_epsilon(event, distance), grid)
        case NoisedCount():
            raise _no_divergence(event)
        case RandomAllocationGaussian():
            raise UnsupportedAnalysisError(
                "a Renyi divergence must be known for every event here, and none is for "
                f"{event!r}; use certified.epsilon, certified.delta, trajectory or ScheduleFilter"
            )
        case _:
            values = rho(event, neighbouring, group_size=group_size) * grid
    if not _is_free(event):
        values = np.maximum(values, _TINY)
    values.flags.writeable = False
    return values


def _no_divergence(event: NoisedCount) -> UnsupportedAnalysisError:
    return UnsupportedAnalysisError(
        f"Renyi divergences must be of events whose parameters are fixed, and {event!r} is a count "
        "that others may be chosen from: its epsilon is added to theirs; use certified.epsilon, "
        "certified.delta, trajectory or ScheduleFilter, which do that"
    )


def _is_free(event: Event) -> bool:
    """Whether the event is one that says itself that it costs nothing."""
    return (isinstance(event, PureDP) and event.epsilon == 0) or (
        isinstance(event, ZeroConcentrated) and event.rho == 0
    )


def _gaussian_rho(distance: float, standard_deviation: float) -> float:
    if standard_deviation == 0:
        return math.inf
    ratio = distance / standard_deviation
    return ratio * ratio / 2


def _poisson(
    event: PoissonGaussian, neighbouring: Neighbouring, group_size: int, orders: Floats
) -> Floats:
    """Poisson-sampled Gaussian; the larger direction (Mironov et al. 2019, arXiv:1908.10530)."""
    if neighbouring is Neighbouring.REPLACE_ONE or group_size > 1:
        raise UnsupportedAnalysisError(
            "the Renyi divergence of PoissonGaussian is known here for ADD_REMOVE and ZERO_OUT "
            f"and one unit, got {neighbouring.name} and group_size {group_size}; use certified"
        )
    unsampled = orders * _gaussian_rho(1.0, event.noise_multiplier)
    if event.noise_multiplier < _LEAST_NOISE:
        return unsampled
    sigma, rate = min(event.noise_multiplier, _MOST_NOISE), event.sample_rate
    whole = (np.floor(orders) == orders) | (orders > _LARGEST_FRACTIONAL_ORDER)
    values = np.empty(len(orders))
    values[whole] = _whole_orders(sigma, rate, np.ceil(orders[whole]))
    values[~whole] = [_fractional_order(sigma, rate, order) for order in orders[~whole]]
    # Enough for the rounding of the binomial sum and of the integral, both checked against 50
    # digits; relevant only where a step costs about 1e-10.
    rounding = 1e-14 * (10 + orders * (np.log(orders) - math.log(rate))) / (orders - 1)
    return np.minimum(values + rounding, unsampled)


def _whole_orders(sigma: float, rate: float, orders: Floats) -> Floats:
    if not len(orders):
        return orders
    from dp_accounting import dp_event  # here, because it takes half a second to load
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders)
    accountant.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(sigma)))
    return np.asarray(accountant.rdp, dtype=np.float64)


def _fractional_order(sigma: float, rate: float, order: float) -> float:
    """Log of E[(1 - q + q exp((2x - 1) / (2 sigma^2)))^a] over a - 1, x ~ N(0, sigma^2).

    The trapezoidal rule on an analytic integrand: its error falls like exp(-2 pi d / h), where
    the nearest branch point lies at d = pi sigma^2 from the real axis. dp-accounting's series
    for such orders does not converge for large rates.
    """
    step = min(sigma, sigma * sigma) / 4
    x = np.arange(-14 * sigma, order + 14 * sigma, step)
    log_ratio = (2 * x - 1) / (2 * sigma * sigma)
    log_mixture = np.logaddexp(np.log1p(-rate), math.log(rate) + log_ratio)
    log_density = -x * x / (2 * sigma * sigma) - math.log(sigma * math.sqrt(2 * math.pi))
    terms = order * log_mixture + log_density + math.log(step)
    return float(logsumexp(terms)) / (order - 1)


def _fixed_size(event: FixedSizeGaussian, distance: float, orders: Floats) -> Floats:
    """Sampling without replacement (Wang, Balle & Kasiviswanathan 2018, arXiv:1808.00087).

    A replaced record moves the sum by 2C, so the noise over the sensitivity is sigma / 2.
    dp-accounting takes the ratio as given.
    """
    unsampled = orders * _gaussian_rho(distance, event.noise_multiplier)
    if event.noise_multiplier / distance < _LEAST_NOISE:
        return unsampled
    from dp_accounting import NeighboringRelation, dp_event  # slow to load, as above
    from dp_accounting.rdp import RdpAccountant

    sigma = min(event.noise_multiplier / distance, _MOST_FIXED_SIZE_NOISE)
    accountant = RdpAccountant(orders, NeighboringRelation.REPLACE_ONE)
    sum_of_batch = dp_event.GaussianDpEvent(sigma)
    accountant.compose(
        dp_event.SampledWithoutReplacementDpEvent(
            event.dataset_size, event.batch_size, sum_of_batch
        )
    )
    return np.minimum(np.asarray(accountant.rdp) * (1 + 1e-9), unsampled)


def _skellam(event: Skellam, distance: float, orders: Floats) -> Floats:
    """Agarwal, Kairouz & Liu 2021, arXiv:2110.04995, Theorem 3.5, which is for whole orders.

    (a - 1) times the divergence is convex in the order a and 0 at 1, so that between two whole
    orders it lies below the chord.
    """
    if event.variance == 0:
        return np.full(len(orders), np.inf)
    two = distance * event.sensitivity / event.variance
    one = distance * event.l1_sensitivity / event.variance
    main, least = two * distance * event.sensitivity / 2, 6 * one / event.variance
    if not max(main, least, two * two) < math.inf:
        return np.full(len(orders), np.inf)

    def at_whole(order: Floats) -> Floats:
        extra = np.minimum(((2 * order - 1) * two * two + least) / 4, 3 * one / 2)
        return (order - 1) * (order * main + extra)

    below = np.floor(orders)
    part = orders - below
    return ((1 - part) * at_whole(below) + part * at_whole(below + 1)) / (orders - 1)


def _laplace(pure: float, orders: Floats) -> Floats:
    """Mironov 2017, arXiv:1702.07476, Proposition 6, written around the pure epsilon 1/scale."""
    if pure > _LARGE_EPSILON:
        return np.full(len(orders), pure)
    odds = 2 * orders - 1
    inner = (orders - 1) * np.expm1(-odds * pure) / odds
    exact = pure + np.log1p(inner) / (orders - 1) + 2.0**-48 * pure
    return _at_most_pure(exact, pure, orders)


def _randomised_response(pure: float, orders: Floats) -> Floats:
    """Coin with odds exp(epsilon) against its mirror image: cosh((a-1/2) eps) / cosh(eps/2)."""
    if pure > _LARGE_EPSILON:
        return np.full(len(orders), pure)
    logarithms = np.log1p(np.exp(-(2 * orders - 1) * pure)) - np.log1p(np.exp(-pure))
    exact = pure + logarithms / (orders - 1) + 2.0**-50 * (pure + 2 / (orders - 1))
    return _at_most_pure(exact, pure, orders)


def _at_most_pure(exact: Floats, pure: float, orders: Floats) -> Floats:
    """What any (epsilon, 0)-DP mechanism keeps; exact to rounding where epsilon is tiny."""
    return np.minimum(exact, np.minimum(pure, orders * (pure * pure / 2)))


def _pure_epsilon(event: PureDP | Laplace, distance: float) -> float:
    if isinstance(event, PureDP):
        return distance * event.epsilon
    return distance / event.noise_multiplier if event.noise_multiplier > 0 else math.inf
