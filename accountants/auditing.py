"""Lower bounds on epsilon from what an attacker guessed right: the check on an accountant.

An accountant says what a mechanism may leak at most; an audit measures what an attack got out of
one run, or out of many. A lower bound above the claimed epsilon refutes the claim, a lower bound
below it confirms nothing: each method has a ceiling (`one_run_ceiling`), and a weak attack stays
under it. All bounds here hold with probability 1 - significance over the audit, provided that the
attack and the number of canaries were fixed before anybody looked at who was a member.

| function                   | needs                         | what the number says            |
|----------------------------|-------------------------------|---------------------------------|
| `one_run`                  | one run, many canaries        | lower bound on epsilon          |
| `clopper_pearson`          | many runs, or counts of them  | lower bound on epsilon          |
| `one_run_gaussian`         | one run, many canaries        | refutes mu-GDP claims only      |
| `clopper_pearson_gaussian` | many runs, or counts of them  | refutes mu-GDP claims only      |
| `one_shot`                 | one run, random directions    | an estimate, no bound           |

Every bound is rounded down: the number returned is one at which the test rejects.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Real
from statistics import NormalDist

import numpy as np
from scipy.special import (
    betainc,
    betainccinv,
    expit,
    gammaln,
    log_expit,
    log_ndtr,
    ndtri,
)

from accountants import checks, gaussian
from accountants.errors import InvalidValueError

_ULP = 2.0**-52
# Searches stop at brackets this narrow; the lower end is returned.
_STEP = 1e-9
# Relative error allowed to one value of a special function.
_ROUNDING = 1e-12
# Cosines whose spread is a smaller part of their mean are not cosines of random directions.
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, slots=True)
class GaussianLowerBound:
    """What an audit says about the claim that a mechanism is mu-GDP.

    Attributes:
        mu: the claim is refuted for every mu below this; >= 0.
        epsilon: the epsilon of mu-GDP at the delta of the audit; >= 0. A bound on the epsilon of
            the mechanism only as far as its trade-off curve is the Gaussian one.
    """

    mu: float
    epsilon: float


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


def one_run(
    canaries: int, guesses: int, correct: int, delta: float, significance: float = 0.05
) -> float:
    """Lower bound on epsilon from the guesses about the canaries of one training run.

    Every canary joins the training data by its own fair coin; the attacker sees the result, names
    the side of as many coins as it likes, and abstains from the others.

    Args:
        canaries: coins tossed (m), >= 1.
        guesses: canaries that the attacker did not abstain from (r), 0 to m.
        correct: guesses that were right (v), 0 to r. Memory grows with it, 40 bytes each.
        delta: of the claim, in [0, 1).
        significance: chance that the bound is above the true epsilon, in (0, 1).

    Returns:
        The largest epsilon found whose claim (epsilon, delta)-DP has a p-value below
        `significance`, about 1e-9 below the crossing and never above it; 0 if there is none.

    Raises:
        InvalidValueError: for counts that do not fit into each other or values out of range.

    Reference:
        Steinke, Nasr & Jagielski 2023, arXiv:2305.08846, Theorem 5.2 and Algorithm 1.

    >>> round(one_run(canaries=1000, guesses=100, correct=95, delta=1e-5), 4)
    2.1652
    """
    canaries, guesses, correct = _counts(canaries, guesses, correct)
    delta = checks.probability_or_zero(delta=delta)
    ceiling = one_run_ceiling(guesses, significance)
    if ceiling == 0:
        return 0.0
    p_value = _p_value_by_epsilon(canaries, guesses, correct, delta)
    return _last_rejected(lambda epsilon: p_value(epsilon) < significance, ceiling)


def one_run_p_value(
    canaries: int, guesses: int, correct: int, epsilon: float, delta: float
) -> float:
    """The most that the chance of so many right guesses, or more, can be under (epsilon, delta)-DP.

    Args:
        canaries: coins tossed (m), >= 1.
        guesses: canaries that the attacker did not abstain from (r), 0 to m.
        correct: guesses that were right (v), 0 to r.
        epsilon: of the claim, >= 0.
        delta: of the claim, in [0, 1).

    Returns:
        min(1, beta + 2 m delta alpha), rounded up, where X ~ Binomial(r, 1 / (1 + exp(-epsilon))),
        beta = P[X >= v] and alpha = max over 1 <= i <= v of P[v - i <= X < v] / i. Below the
        significance chosen beforehand, the claim is refuted.

    Raises:
        InvalidValueError: for counts that do not fit into each other or values out of range.

    Reference:
        Steinke, Nasr & Jagielski 2023, arXiv:2305.08846, Theorem 5.2.

    >>> round(one_run_p_value(canaries=10, guesses=3, correct=3, epsilon=0.0, delta=0.0), 6)
    0.125
    """
    canaries, guesses, correct = _counts(canaries, guesses, correct)
    epsilon = checks.non_negative(epsilon=epsilon)
    delta = checks.probability_or_zero(delta=delta)
    return _p_value_by_epsilon(canaries, guesses, correct, delta)(epsilon)


def one_run_ceiling(guesses: int, significance: float = 0.05) -> float:
    """The epsilon that `one_run` stays below, were every guess right: logit(significance^(1/r)).

    An audit whose ceiling is under the epsilon that was claimed cannot refute the claim, however
    good the attack.

    Args:
        guesses: canaries that the attacker does not abstain from (r), >= 0.
        significance: chance that the bound is above the true epsilon, in (0, 1).

    Raises:
        InvalidValueError: for values out of range.

    Reference:
        Steinke, Nasr & Jagielski 2023, arXiv:2305.08846: the p-value for v = r and delta = 0.

    >>> round(one_run_ceiling(guesses=100), 4)
    3.493
    """
    guesses = checks.index(guesses=guesses)
    significance = checks.probability(significance=significance)
    if guesses == 0:
        return 0.0
    log_rate = math.log(significance) / guesses
    return max(0.0, log_rate - math.log(-math.expm1(log_rate)))


def one_run_gaussian(
    canaries: int, guesses: int, correct: int, delta: float, significance: float = 0.05
) -> GaussianLowerBound:
    """Which mu-GDP claims the guesses about the canaries of one run refute.

    This tests the claim of a Gaussian trade-off curve, and no other. It mostly gives larger
    numbers than `one_run`, because it supposes more: where the curve of the mechanism is not
    Gaussian (sampled batches, pure DP), the epsilon may be above the true one.

    Args:
        canaries: coins tossed (m), >= 1.
        guesses: canaries that the attacker did not abstain from (r), 0 to m.
        correct: guesses that were right (v), 0 to r.
        delta: at which mu is turned into epsilon, in (0, 1).
        significance: chance that the bound is above the true mu, in (0, 1).

    Returns:
        The largest mu found at which the test rejects, about 1e-9 below the crossing and never
        above it, and its epsilon; 0 and 0 if there is none.

    Raises:
        InvalidValueError: for counts that do not fit into each other or values out of range.

    Reference:
        Mahloujifar, Melis & Chaudhuri 2024, arXiv:2410.22235, Algorithm 3, for two outcomes; mu
        from (epsilon, delta) by Balle & Wang 2018, arXiv:1805.06530, Theorem 8.

    >>> bound = one_run_gaussian(canaries=1000, guesses=100, correct=95, delta=1e-5)
    >>> round(bound.epsilon, 4)
    3.3233
    """
    canaries, guesses, correct = _counts(canaries, guesses, correct)
    delta = checks.probability(delta=delta)
    significance = checks.probability(significance=significance)

    def rejected(mu: float) -> bool:
        return _rejects_gaussian(mu, canaries, guesses, correct, significance)

    mu = _last_rejected(rejected, _first_accepted(rejected))
    return _gaussian_lower_bound(mu, delta)


def clopper_pearson(
    false_positives: int,
    negatives: int,
    false_negatives: int,
    positives: int,
    delta: float,
    significance: float = 0.05,
) -> float:
    """Lower bound on epsilon from the errors of an attack that tells two data sets apart.

    The trials must be independent: runs of the mechanism with and without one record, or canaries
    that do not influence each other. Both error rates are bounded from above at significance / 2,
    and (epsilon, delta)-DP is asked of the attack and of its opposite:

        epsilon >= log((1 - delta - FNR) / FPR) and epsilon >= log((1 - delta - FPR) / FNR).

    Args:
        false_positives: trials without the record in which the attack said "in", 0 to negatives.
        negatives: trials without the record, >= 1.
        false_negatives: trials with the record in which the attack said "out", 0 to positives.
        positives: trials with the record, >= 1.
        delta: of the claim, in [0, 1).
        significance: chance that the bound is above the true epsilon, in (0, 1).

    Returns:
        The larger of the two bounds, rounded down; 0 if both are negative.

    Raises:
        InvalidValueError: for counts that do not fit into each other or values out of range.

    Reference:
        Jagielski, Ullman & Oprea 2020, arXiv:2006.07709; Nasr et al. 2021, arXiv:2101.04535.

    >>> round(clopper_pearson(10, 1000, 500, 1000, delta=1e-5), 4)
    3.242
    """
    false_positive_rate, false_negative_rate = _error_rates(
        false_positives, negatives, false_negatives, positives, significance
    )
    delta = checks.probability_or_zero(delta=delta)
    return max(
        _epsilon_of_errors(false_positive_rate, false_negative_rate, delta),
        _epsilon_of_errors(false_negative_rate, false_positive_rate, delta),
    )


def clopper_pearson_gaussian(
    false_positives: int,
    negatives: int,
    false_negatives: int,
    positives: int,
    delta: float,
    significance: float = 0.05,
) -> GaussianLowerBound:
    """Which mu-GDP claims the errors of an attack refute: mu >= Phi^-1(1 - FPR) - Phi^-1(FNR).

    This tests the claim of a Gaussian trade-off curve, and no other: where the curve of the
    mechanism is not Gaussian, the epsilon may be above the true one. Use `clopper_pearson` for a
    bound that holds for any mechanism.

    Args:
        false_positives: trials without the record in which the attack said "in", 0 to negatives.
        negatives: trials without the record, >= 1.
        false_negatives: trials with the record in which the attack said "out", 0 to positives.
        positives: trials with the record, >= 1.
        delta: at which mu is turned into epsilon, in (0, 1).
        significance: chance that the bound is above the true mu, in (0, 1).

    Returns:
        The largest mu that the error rates refute, rounded down, and its epsilon at delta.

    Raises:
        InvalidValueError: for counts that do not fit into each other or values out of range.

    Reference:
        Nasr et al. 2023, arXiv:2302.07956; Dong, Roth & Su 2019, arXiv:1905.02383, Equation 6.

    >>> bound = clopper_pearson_gaussian(10, 1000, 500, 1000, delta=1e-5)
    >>> round(bound.mu, 4), round(bound.epsilon, 4)
    (2.011, 10.065)
    """
    false_positive_rate, false_negative_rate = _error_rates(
        false_positives, negatives, false_negatives, positives, significance
    )
    delta = checks.probability(delta=delta)
    # -Phi^-1(p) and not Phi^-1(1 - p), which has no digits for a small p; -inf where p is 1.
    mu = -float(ndtri(false_positive_rate)) - float(ndtri(false_negative_rate))
    return _gaussian_lower_bound(max(0.0, mu - _ROUNDING), delta)


def error_rate_at_most(errors: int, trials: int, significance: float) -> float:
    """Upper confidence bound on a rate: above it, so few errors have a chance < significance.

    Args:
        errors: 0 to trials.
        trials: >= 1, independent.
        significance: chance that the true rate is above the bound, in (0, 1).

    Returns:
        The Clopper-Pearson bound, rounded up, in (0, 1]; 1 if every trial was an error.

    Raises:
        InvalidValueError: for counts that do not fit into each other or values out of range.

    Reference:
        Clopper & Pearson 1934, Biometrika 26(4), doi:10.1093/biomet/26.4.404.

    >>> round(error_rate_at_most(errors=0, trials=10, significance=0.05), 6)  # 1 - 0.05 ** 0.1
    0.258866
    """
    trials = checks.count(trials=trials)
    errors = _at_most("errors", errors, "trials", trials)
    significance = checks.probability(significance=significance)
    return _error_rate_at_most(errors, trials, significance)


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
    shift, spread = abs(mean) * math.sqrt(dimension), deviation * math.sqrt(dimension)
    return OneShotEstimate(
        mean=mean,
        standard_deviation=deviation,
        epsilon=_epsilon_between_gaussians(shift, spread, delta),
        epsilon_equal_variance=gaussian.epsilon(shift, delta)[1],
    )


def _p_value_by_epsilon(
    canaries: int, guesses: int, correct: int, delta: float
) -> Callable[[float], float]:
    """The p-value as a function of epsilon; what does not depend on epsilon is computed once."""
    if correct == 0:
        return lambda epsilon: 1.0  # noqa: ARG005
    # Numbers of right guesses just below `correct`, downwards: v - 1, ..., 0.
    hits = np.arange(correct - 1, -1, -1, dtype=float)
    distance = np.arange(1, correct + 1, dtype=float)
    log_ways = gammaln(guesses + 1) - gammaln(hits + 1) - gammaln(guesses - hits + 1)
    # Up to `guesses` factors with a rounded probability; gammaln is right to a few ulps of its
    # value, which exp turns into a relative error.
    beta_slack = 1 + _ROUNDING + 4 * _ULP * guesses
    alpha_slack = beta_slack + 16 * _ULP * float(gammaln(guesses + 1))

    def p_value(epsilon: float) -> float:
        beta = float(betainc(correct, guesses - correct + 1, expit(epsilon)))
        log_chance = hits * log_expit(epsilon) + (guesses - hits) * log_expit(-epsilon)
        alpha = float(np.max(np.cumsum(np.exp(log_ways + log_chance)) / distance))
        return min(1.0, beta * beta_slack + 2 * canaries * delta * alpha * alpha_slack)

    return p_value


def _rejects_gaussian(
    mu: float, canaries: int, guesses: int, correct: int, significance: float
) -> bool:
    """Whether mu-GDP makes `correct` or more right guesses less likely than `significance`.

    Suppose it does not. Let p_i be the chance of i right guesses, r = sum of i p_i / m and
    h = sum of (guesses - i) p_i / m over the largest i. Privacy bounds h from below by what r is
    one step above, h >= Phi(Phi^-1(r) - mu), so both grow while i falls; but over all i they
    cannot pass guesses / m together. Every step is rounded down, so that rounding cannot reject.
    """
    quantile, root, down = NormalDist().inv_cdf, math.sqrt(0.5), 1 - 4 * _ULP
    limit = guesses / canaries * (1 + 4 * _ULP)
    right = significance * correct / canaries * down
    wrong = significance * (guesses - correct) / canaries * down
    if right == 0:  # Nothing was right, or the significance is too small for a float.
        return False
    for i in range(correct - 1, -1, -1):
        needed = math.erfc((mu - quantile(right)) * root) / 2 * (1 - _ROUNDING)
        if needed <= wrong:
            return False
        right = min((right + i / (guesses - i) * (needed - wrong)) * down, 1 - _ULP)
        wrong = needed
        if right + wrong > limit:
            return True
    return False


def _first_accepted(rejected: Callable[[float], bool]) -> float:
    value = 1.0
    while rejected(value):
        value *= 2
    return value


def _last_rejected(rejected: Callable[[float], bool], accepted: float) -> float:
    """The lower end of a bracket: a value that is rejected, next to one that is not; or 0."""
    if not rejected(0.0):
        return 0.0
    low, high = 0.0, accepted
    while high - low > _STEP * max(1.0, high):
        middle = (low + high) / 2
        if rejected(middle):
            low = middle
        else:
            high = middle
    return low


def _gaussian_lower_bound(mu: float, delta: float) -> GaussianLowerBound:
    return GaussianLowerBound(mu, gaussian.epsilon(mu, delta)[0])


def _error_rates(
    false_positives: int,
    negatives: int,
    false_negatives: int,
    positives: int,
    significance: float,
) -> tuple[float, float]:
    """Upper bounds on both error rates, which hold together at `significance`."""
    negatives = checks.count(negatives=negatives)
    false_positives = _at_most("false_positives", false_positives, "negatives", negatives)
    positives = checks.count(positives=positives)
    false_negatives = _at_most("false_negatives", false_negatives, "positives", positives)
    half = checks.probability(significance=significance) / 2
    return (
        _error_rate_at_most(false_positives, negatives, half),
        _error_rate_at_most(false_negatives, positives, half),
    )


def _error_rate_at_most(errors: int, trials: int, significance: float) -> float:
    if errors == trials:
        return 1.0
    rate = float(betainccinv(errors + 1, trials - errors, significance))
    return min(1.0, rate * (1 + _ROUNDING))


def _epsilon_of_errors(said_wrongly: float, missed: float, delta: float) -> float:
    """log((1 - delta - missed) / said_wrongly), rounded down; 0 where it is not positive."""
    found = 1 - delta - missed - 4 * _ULP
    if not found > said_wrongly:
        return 0.0
    return max(0.0, math.log(found / said_wrongly) - _ROUNDING)


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

    return _last_rejected(above, _first_accepted(above))


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


def _counts(canaries: int, guesses: int, correct: int) -> tuple[int, int, int]:
    canaries = checks.count(canaries=canaries)
    guesses = _at_most("guesses", guesses, "canaries", canaries)
    return canaries, guesses, _at_most("correct", correct, "guesses", guesses)


def _at_most(name: str, value: int, limit_name: str, limit: int) -> int:
    number = checks.index(**{name: value})
    if number > limit:
        raise InvalidValueError(
            f"{name} must be at most {limit_name}, which is {limit}, got {value!r}"
        )
    return number


def _cosine(value: object) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    number = float(value) if is_number else math.nan  # type: ignore[arg-type]
    if not -1 <= number <= 1:
        raise InvalidValueError(f"cosines must be numbers in [-1, 1], got {value!r}")
    return number
