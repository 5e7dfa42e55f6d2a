"""What a guarantee means to an attacker: the most true positives at a rate of false positives.

An attacker who decides from the output whether one record (or client) took part has a false
positive rate (FPR) and a true positive rate (TPR). (epsilon, delta)-DP bounds what is possible
(Wasserman & Zhou 2010, arXiv:0811.2501; Kairouz, Oh & Viswanath 2015, arXiv:1311.0776):

    TPR <= exp(epsilon) FPR + delta    and    1 - FPR <= exp(epsilon) (1 - TPR) + delta.

A mechanism has such a pair for every epsilon, its privacy profile, and each pair cuts off a part
of the square: the more pairs, the closer the bound comes to the trade-off function of the
mechanism (Dong, Roth & Su 2019, arXiv:1905.02383). All pairs of a profile are believed together.
Bounds are rounded up: no attack does better.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from accountants import certified, checks
from accountants.analyses import gaussian
from accountants.analyses.floats import ULP
from accountants.errors import InvalidValueError
from accountants.events import Event
from accountants.guarantees import Neighbouring
from accountants.histories import checked

_ROUNDING = 1e-11

# Any choice gives valid bounds. A pair touches the trade-off function where its slope is
# exp(epsilon): about mu times a quantile, so that small mu needs close steps between small
# epsilons. With these the bound is within 5 % of the exact curve of mu-GDP (mu from 0.05 to 8) at
# rates from 1e-4 on, and within 30 % at rates from 1e-12 on, which need epsilons up to 25.
EPSILONS: tuple[float, ...] = (
    0.0,
    *np.geomspace(0.02, 4, 50, endpoint=False).tolist(),
    *np.arange(4, 26, 0.5).tolist(),
    *np.arange(26, 51, 4.0).tolist(),
)
# How close the bounds on each delta are: it moves the curve less than the steps between epsilons.
_RELATIVE_GAP = 1e-2


@dataclass(frozen=True, slots=True)
class TradeOffCurve:
    """The most that any attack can reach.

    Attributes:
        false_positive_rates: where the curve was computed, each in [0, 1].
        true_positive_rates: the upper bound at each of them, in [0, 1].
        advantage: upper bound on TPR - FPR, whatever the false positive rate; in [0, 1].
    """

    false_positive_rates: tuple[float, ...]
    true_positive_rates: tuple[float, ...]
    advantage: float


def true_positive_rate(profile: Iterable[tuple[float, float]], false_positive_rate: float) -> float:
    """The largest true positive rate that a guarantee leaves to any attack.

    Args:
        profile: pairs (epsilon, delta) that all hold for one mechanism, at least one; epsilon >= 0
            and finite, delta in [0, 1].
        false_positive_rate: of the attack, in [0, 1].

    Returns:
        The least of exp(epsilon) FPR + delta and 1 - exp(-epsilon) (1 - delta - FPR) over all
        pairs, rounded up, at most 1.

    Raises:
        InvalidValueError: for an empty profile or values out of range.

    Reference:
        Kairouz, Oh & Viswanath 2015, arXiv:1311.0776.

    >>> round(true_positive_rate([(1.0, 0.0)], false_positive_rate=0.01), 6)  # 0.01 e
    0.027183
    """
    rate = _in_unit_interval("false_positive_rate", false_positive_rate)
    return min(_largest_rate(epsilon, delta, rate) for epsilon, delta in _checked(profile))


def advantage(profile: Iterable[tuple[float, float]]) -> float:
    """The largest TPR - FPR that a guarantee leaves to any attack: the total variation distance.

    Every pair of the profile allows the most at TPR = 1 - FPR, so the least of their largest
    values, (exp(epsilon) - 1 + 2 delta) / (exp(epsilon) + 1), is the largest value of all together.

    Args:
        profile: pairs (epsilon, delta) that all hold for one mechanism, at least one; epsilon >= 0
            and finite, delta in [0, 1].

    Returns:
        In [0, 1], rounded up. Half of it above 1/2 is the largest accuracy against a fair coin.

    Raises:
        InvalidValueError: for an empty profile or values out of range.

    Reference:
        Humphries et al. 2023, arXiv:2010.12112, for one pair.

    >>> round(advantage([(1.0, 0.0)]), 6)  # tanh(1/2)
    0.462117
    """
    return min(_largest_advantage(epsilon, delta) for epsilon, delta in _checked(profile))


def true_positive_rate_gaussian(mu: float, false_positive_rate: float) -> float:
    """The true positive rate of the best attack on mu-GDP: Phi(Phi^-1(FPR) + mu).

    Args:
        mu: >= 0, finite.
        false_positive_rate: of the attack, in [0, 1].

    Returns:
        In [0, 1], rounded up by about 1e-11 of it.

    Raises:
        InvalidValueError: for values out of range.

    Reference:
        Dong, Roth & Su 2019, arXiv:1905.02383, Equation 6.

    >>> round(true_positive_rate_gaussian(mu=1.0, false_positive_rate=0.5), 6)  # Phi(1)
    0.841345
    """
    mu = checks.non_negative(mu=mu)
    rate = _in_unit_interval("false_positive_rate", false_positive_rate)
    return min(1.0, gaussian.true_positive_rate(mu, rate) * (1 + _ROUNDING))


def advantage_gaussian(mu: float) -> float:
    """The largest TPR - FPR against mu-GDP: Phi(mu / 2) - Phi(-mu / 2), rounded up.

    Args:
        mu: >= 0, finite.

    Raises:
        InvalidValueError: for values out of range.

    Reference:
        Dong, Roth & Su 2019, arXiv:1905.02383: the delta of mu-GDP at epsilon = 0.

    >>> round(advantage_gaussian(mu=2.0), 6)  # Phi(1) - Phi(-1)
    0.682689
    """
    mu = checks.non_negative(mu=mu)
    return min(1.0, math.erf(mu / math.sqrt(8)) * (1 + _ROUNDING))


def mu_of(epsilon: float, delta: float) -> float:
    """The mu of the Gaussian mechanism with this epsilon at this delta, to 1e-12 and never above.

    It lets guarantees be compared on one scale. It is no guarantee: one pair (epsilon, delta) does
    not make a mechanism mu-GDP, and `true_positive_rate_gaussian` of it bounds attacks on the
    Gaussian mechanism alone.

    Args:
        epsilon: > 0, finite.
        delta: in (0, 1).

    Raises:
        InvalidValueError: for values out of range.

    Reference:
        Balle & Wang 2018, arXiv:1805.06530, Theorem 8.

    >>> round(mu_of(epsilon=4.37718, delta=1e-5), 5)
    1.0
    """
    return gaussian.mu_within(epsilon, delta)


def curve(
    events: Iterable[Event],
    false_positive_rates: Sequence[float],
    neighbouring: Neighbouring,
    *,
    group_size: int = 1,
    epsilons: Sequence[float] = EPSILONS,
) -> TradeOffCurve:
    """The most that any attack on these releases can reach, from their privacy profile.

    Args:
        events: everything that was released about the same data.
        false_positive_rates: where to compute it, each in [0, 1]; at least one.
        neighbouring: which data sets the attacker tells apart.
        group_size: how many units the attacker tells apart at once, >= 1.
        epsilons: where the profile is computed, each >= 0; any give valid bounds, more of them
            closer ones.

    Raises:
        InvalidValueError: for values out of range, or none of them.
        UnsupportedAnalysisError: for what is no event, or if no valid bound is known.

    >>> from accountants.events import Gaussian
    >>> released = [Gaussian(noise_multiplier=1.0)]
    >>> found = curve(released, [0.01], Neighbouring.ADD_REMOVE)
    >>> round(found.true_positive_rates[0], 2)  # Phi(Phi^-1(0.01) + 1)
    0.09
    """
    releases = checked(events)

    def delta(epsilon: float) -> float:
        return certified.delta(
            releases, epsilon, neighbouring, group_size=group_size, relative_gap=_RELATIVE_GAP
        ).upper

    profile = list[tuple[float, float]]()
    for epsilon in epsilons:
        if not profile or _may_lower(epsilon, curve_of_profile(profile, false_positive_rates)):
            profile.append((epsilon, delta(epsilon)))
    return curve_of_profile(profile, false_positive_rates)


def _may_lower(epsilon: float, found: TradeOffCurve) -> bool:
    """Whether a pair with this epsilon could lower a curve, whatever its delta is."""
    best = curve_of_profile([(epsilon, 0.0)], found.false_positive_rates)
    pairs = zip(best.true_positive_rates, found.true_positive_rates, strict=True)
    return best.advantage < found.advantage or any(ours < theirs for ours, theirs in pairs)


def curve_of_profile(
    profile: Iterable[tuple[float, float]], false_positive_rates: Sequence[float]
) -> TradeOffCurve:
    """The most that any attack can reach under a privacy profile.

    Args:
        profile: pairs (epsilon, delta) that all hold for one mechanism, at least one; epsilon >= 0
            and finite, delta in [0, 1].
        false_positive_rates: where to compute it, each in [0, 1]; at least one.

    Raises:
        InvalidValueError: for values out of range, or none of them.

    >>> curve_of_profile([(0.0, 0.0)], [0.0, 1.0]).true_positive_rates  # nothing to be learned
    (0.0, 1.0)
    """
    pairs = _checked(profile)
    if len(false_positive_rates) == 0:
        raise InvalidValueError("false_positive_rates must hold at least one value, got none")
    rates = tuple(_in_unit_interval("false_positive_rates", rate) for rate in false_positive_rates)
    return TradeOffCurve(
        false_positive_rates=rates,
        true_positive_rates=tuple(true_positive_rate(pairs, rate) for rate in rates),
        advantage=advantage(pairs),
    )


def _largest_rate(epsilon: float, delta: float, false_positive_rate: float) -> float:
    # Above exp(700), which a float still holds, any rate but 0 is let through.
    if epsilon > 700:
        first = delta if false_positive_rate == 0 else 1.0
    else:
        first = (math.exp(epsilon) * false_positive_rate + delta) * (1 + _ROUNDING)
    # Down by an absolute error: of 1, two numbers were subtracted.
    missed = math.exp(-epsilon) * (1 - delta - false_positive_rate) * (1 - _ROUNDING) - 4 * ULP
    return min(1.0, first, 1 - missed)


def _largest_advantage(epsilon: float, delta: float) -> float:
    value = math.tanh(epsilon / 2) + 2 * delta / (1 + math.exp(min(epsilon, 700.0)))
    return min(1.0, value * (1 + _ROUNDING))


def _checked(profile: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    pairs = [
        (checks.non_negative(epsilon=epsilon), _in_unit_interval("delta", delta))
        for epsilon, delta in profile
    ]
    if not pairs:
        raise InvalidValueError("profile must hold at least one pair (epsilon, delta), got none")
    return pairs


def _in_unit_interval(name: str, value: float) -> float:
    number = checks.non_negative(**{name: value})
    if number > 1:
        raise InvalidValueError(f"{name} must be in [0, 1], got {value!r}")
    return number
