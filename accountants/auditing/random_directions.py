"""An estimate of epsilon from the cosines between random directions and what a model learned.

It needs one run and no guesses, and it is no bound: it fits a Gaussian to the cosines and takes
the fit for the truth (Andrew et al. 2023, arXiv:2302.03098). The package compares the audits.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy.special import log_ndtr

from accountants import checks
from accountants.analyses import gaussian
from accountants.analyses.floats import Floats
from accountants.auditing.bisection import first_accepted, last_rejected
from accountants.errors import InvalidValueError

# Cosines whose spread is a smaller part of their mean are not cosines of random directions.
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, slots=True)
class OneShotEstimate:
    """Two Gaussians fitted to cosines, and how far apart they are; estimates, no bounds.

    Attributes:
        mean: of the cosines, in [-1, 1].
        standard_deviation: of the cosines (divided by their number), > 0.
        epsilon: of N(mean, standard_deviation^2) against N(0, 1/dimension), the larger direction.
        epsilon_equal_variance: of N(mean, 1/dimension) against N(0, 1/dimension), which is mu-GDP
            with mu = |mean| sqrt(dimension).
    """

    mean: float
    standard_deviation: float
    epsilon: float
    epsilon_equal_variance: float


def one_shot(cosines: Iterable[float], dimension: int, delta: float) -> OneShotEstimate:
    """Estimate (no bound, no confidence) of epsilon from the cosines of canaries and model.

    Canaries are updates in directions drawn uniformly from the sphere, mixed into one training
    run. With a direction that was not mixed in, the cosine of the change of the model is close to
    N(0, 1/d); those mixed in are fitted by N(mean, standard_deviation^2).

    Args:
        cosines: of the canaries that took part, shape (canaries,), each in [-1, 1]; at least two,
            with a spread above a millionth of their mean.
        dimension: parameters of the model (d), >= 1; the Gaussian is close from about 100 on.
        delta: in (0, 1).

    Returns:
        The fit and its epsilon, with the fitted and with equal variances. A mean below 0 counts
        like one above. The sampling error of the fit is not in the numbers: with few canaries or
        epsilons near 0 they may be off either way.

    Raises:
        InvalidValueError: for cosines out of range, fewer than two, or equal up to rounding.

    Reference:
        Andrew et al. 2023, arXiv:2302.03098; of the two directions the larger epsilon is taken.

    >>> round(one_shot([0.02, 0.04], dimension=10_000, delta=1e-5).epsilon_equal_variance, 4)
    16.6755
    """
    values = np.array([_cosine(value) for value in cosines])
    dimension = checks.count(dimension=dimension)
    delta = checks.probability(delta=delta)
    mean, deviation = _fitted(values)
    shift, spread = abs(mean) * math.sqrt(dimension), deviation * math.sqrt(dimension)
    return OneShotEstimate(
        mean=mean,
        standard_deviation=deviation,
        epsilon=_epsilon_between_gaussians(shift, spread, delta),
        epsilon_equal_variance=gaussian.epsilon(shift, delta)[1],
    )


def _fitted(values: Floats) -> tuple[float, float]:
    """Mean and standard deviation of the cosines."""
    if values.size < 2:
        raise InvalidValueError(
            f"cosines must hold two values at least, got {values.size}; a spread cannot be "
            "estimated from fewer"
        )
    mean, deviation = float(values.mean()), float(values.std())
    if not deviation > _LEAST_SPREAD * abs(mean):
        raise InvalidValueError(
            f"cosines must differ by more than rounding, got a standard deviation of {deviation!r} "
            f"around {mean!r}; random directions cannot give that"
        )
    return mean, deviation


def _epsilon_between_gaussians(shift: float, spread: float, delta: float) -> float:
    """Epsilon at delta between N(shift, spread^2) and N(0, 1), the larger of both directions."""
    if spread == 1:
        return gaussian.epsilon(shift, delta)[1]
    # Seen from the fitted one, the other is N(-shift / spread, 1 / spread^2); signs do not matter.
    directions = ((shift, spread), (shift / spread, 1 / spread))
    return max(_epsilon_one_way(*direction, delta) for direction in directions)


def _epsilon_one_way(shift: float, spread: float, delta: float) -> float:
    target = math.log(delta)

    def above(epsilon: float) -> bool:
        return _log_delta_one_way(shift, spread, epsilon) > target

    return last_rejected(above, first_accepted(above))


def _log_delta_one_way(shift: float, spread: float, epsilon: float) -> float:
    """log(P(S) - exp(epsilon) Q(S)) for P = N(shift, spread^2), Q = N(0, 1), S = {p > e^eps q}.

    With x = shift + spread z, S is where a z^2 + b z + c > 0: between the roots if P is the
    narrower one, outside them if it is the wider one. All in logarithms, so that a small delta
    keeps its digits.
    """
    a = (spread - 1) * (spread + 1) / 2
    b = shift * spread
    c = shift * shift / 2 - math.log(spread) - epsilon
    discriminant = shift * shift + 4 * a * (math.log(spread) + epsilon)
    if discriminant <= 0:
        return -math.inf
    # -b and -root do not cancel; their sum gives one root, and the product of the roots the other.
    steady = -(b + math.sqrt(discriminant)) / 2
    low, high = sorted((steady / a, c / steady))
    mass = _log_between if spread < 1 else _log_outside
    log_first = mass(low, high)
    log_second = epsilon + mass(shift + spread * low, shift + spread * high)
    if not log_first > log_second:
        return -math.inf
    return log_first + math.log(-math.expm1(log_second - log_first))


def _log_between(low: float, high: float) -> float:
    """log(Phi(high) - Phi(low)), from the tail in which both are small."""
    if low + high > 0:
        low, high = -high, -low
    upper, lower = float(log_ndtr(high)), float(log_ndtr(low))
    return upper + math.log(-math.expm1(lower - upper)) if lower < upper else -math.inf


def _log_outside(low: float, high: float) -> float:
    return float(np.logaddexp(log_ndtr(low), log_ndtr(-high)))


def _cosine(value: object) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    number = float(value) if is_number else math.nan  # type: ignore[arg-type]
    if not -1 <= number <= 1:
        raise InvalidValueError(f"cosines must be numbers in [-1, 1], got {value!r}")
    return number
