"""The Gaussian mechanism in closed form, in log space: right from delta 1e-3 down to 1e-300.

N(mu, 1) against N(0, 1) (mu-GDP) has the privacy profile

    delta(epsilon) = Phi(-epsilon/mu + mu/2) - exp(epsilon) Phi(-epsilon/mu - mu/2)

(Balle & Wang 2018, arXiv:1805.06530, Theorem 8), and Gaussian mechanisms compose to
mu^2 = sum of 1 / sigma_t^2 (Dong, Roth & Su 2019, arXiv:1905.02383, Corollary 2). Both terms of
the difference carry the same density, which is taken out, so that nothing under- or overflows:
delta = phi(a) (m(-a) - m(-b)) with Mills' ratio m, a = -epsilon/mu + mu/2 and b = a - mu.
"""

import math
from collections.abc import Callable

from scipy.special import erfcx, log_ndtr, ndtr, ndtri

from accountants import checks
from accountants.analyses.floats import ULP

_WIDEN = 1e-12
_LARGEST = 1e154
"""Its square is just a float. From a = -1e154 on, log(delta) <= -a^2 / 2 is below -1e154 by far."""


def log_delta(mu: float, epsilon: float) -> tuple[float, float]:
    """Bounds (lower, upper) on log(delta(epsilon)), which enclose the rounding error.

    Args:
        mu: > 0, finite.
        epsilon: >= 0, finite.
    """
    a, b = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
    if a < -_LARGEST:
        return -math.inf, -_LARGEST
    if a > 0:
        # The second term is at most 1; at a large mu, rounding alone would carry it beyond floats.
        first, second = float(ndtr(a)), math.exp(min(epsilon + float(log_ndtr(b)), 0.0))
        scale = 0.0
    else:
        root = math.sqrt(math.pi / 2)
        first, second = (
            root * float(erfcx(-a / math.sqrt(2))),
            root * float(erfcx(-b / math.sqrt(2))),
        )
        scale = -a * a / 2 - math.log(2 * math.pi) / 2
    # a and b carry a few ulps of their terms; so do both functions, scaled by their slopes.
    size = 8 + 2 * (abs(a) + 1) * (mu / 2 + epsilon / mu) + epsilon
    error = 8 * ULP * size * (first + second)
    low, high = first - second - error, first - second + error
    slack = 8 * ULP * (size + abs(scale))
    return (
        scale + math.log(low) - slack if low > 0 else -math.inf,
        min(scale + math.log(high) + slack, 0.0) if high > 0 else -math.inf,
    )


def epsilon(mu: float, delta: float) -> tuple[float, float]:
    """Bounds (lower, upper) on the epsilon of mu-GDP at delta, about 1e-12 apart.

    Args:
        mu: >= 0; infinity protects nothing.
        delta: in [0, 1).
    """
    delta = checks.probability_or_zero(delta=delta)
    if mu == 0:
        return 0.0, 0.0
    if delta == 0 or not mu < math.inf:
        return math.inf, math.inf
    target = math.log(delta)
    lower, _ = _crossing(lambda value: log_delta(mu, value)[0] > target, mu)
    _, upper = _crossing(lambda value: log_delta(mu, value)[1] > target, mu)
    return lower * (1 - _WIDEN), upper * (1 + _WIDEN)


def delta(mu: float, epsilon: float) -> tuple[float, float]:
    """Bounds (lower, upper) on the delta of mu-GDP at epsilon.

    Args:
        mu: >= 0; infinity protects nothing.
        epsilon: >= 0, finite.
    """
    if mu == 0:
        return 0.0, 0.0
    if not mu < math.inf:
        return 1.0, 1.0
    lower, upper = log_delta(mu, epsilon)
    return math.exp(lower), min(math.exp(upper), 1.0)


def mu_within(epsilon_limit: float, delta: float) -> float:
    """The largest mu whose epsilon at delta is at most `epsilon_limit`, to 1e-12, never above."""
    limit = checks.positive(epsilon=epsilon_limit)
    target = math.log(checks.probability(delta=delta))
    mu, _ = _crossing(lambda value: log_delta(value, limit)[1] <= target, 1.0)
    return mu * (1 - _WIDEN)


def true_positive_rate(mu: float, false_positive_rate: float) -> float:
    """The most power that a test of mu-GDP can have: Phi(Phi^-1(FPR) + mu)."""
    return float(ndtr(ndtri(false_positive_rate) + mu))


def _crossing(holds: Callable[[float], bool], scale: float) -> tuple[float, float]:
    """Neighbouring numbers: up to the first a condition holds (or it is 0), at the second not."""
    low, high = 0.0, scale
    while holds(high):
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if holds(middle):
            low = middle
        else:
            high = middle
        if high - low <= 1e-15 * high:
            break
    return low, high
