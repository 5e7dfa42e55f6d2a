"""Audits of the claim that a mechanism is mu-GDP: that its trade-off curve is the Gaussian one.

They mostly give larger numbers than audits of (epsilon, delta)-DP from the same guesses, because
they suppose more. Where the curve is not Gaussian (sampled batches, pure DP) they refute a claim
that nobody made, and the epsilon may be above the true one. The package compares the audits.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from scipy.special import ndtri

from accountants import checks
from accountants.analyses import gaussian
from accountants.analyses.floats import ULP
from accountants.auditing.bisection import first_accepted, last_rejected
from accountants.auditing.error_rates import error_rates
from accountants.auditing.single_run import checked_counts

# Relative error allowed to one value of a special function.
_ROUNDING = 1e-12


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
    canaries, guesses, correct = checked_counts(canaries, guesses, correct)
    delta = checks.probability(delta=delta)
    significance = checks.probability(significance=significance)

    def rejected(mu: float) -> bool:
        return _rejects_gaussian(mu, canaries, guesses, correct, significance)

    mu = last_rejected(rejected, first_accepted(rejected))
    return _gaussian_lower_bound(mu, delta)


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
    false_positive_rate, false_negative_rate = error_rates(
        false_positives, negatives, false_negatives, positives, significance
    )
    delta = checks.probability(delta=delta)
    # -Phi^-1(p) and not Phi^-1(1 - p), which has no digits for a small p; -inf where p is 1.
    mu = -float(ndtri(false_positive_rate)) - float(ndtri(false_negative_rate))
    return _gaussian_lower_bound(max(0.0, mu - _ROUNDING), delta)


def _rejects_gaussian(
    mu: float, canaries: int, guesses: int, correct: int, significance: float
) -> bool:
    """Whether mu-GDP makes `correct` or more right guesses less likely than `significance`.

    Suppose it does not. Let p_i be the chance of i right guesses, r = sum of i p_i / m and
    h = sum of (guesses - i) p_i / m over the largest i. Privacy bounds h from below by what r is
    one step above, h >= Phi(Phi^-1(r) - mu), so both grow while i falls; but over all i they
    cannot pass guesses / m together. Every step is rounded down, so that rounding cannot reject.
    """
    quantile, root, down = NormalDist().inv_cdf, math.sqrt(0.5), 1 - 4 * ULP
    limit = guesses / canaries * (1 + 4 * ULP)
    right = significance * correct / canaries * down
    wrong = significance * (guesses - correct) / canaries * down
    if right == 0:  # Nothing was right, or the significance is too small for a float.
        return False
    for i in range(correct - 1, -1, -1):
        needed = math.erfc((mu - quantile(right)) * root) / 2 * (1 - _ROUNDING)
        if needed <= wrong:
            return False
        right = min((right + i / (guesses - i) * (needed - wrong)) * down, 1 - ULP)
        wrong = needed
        if right + wrong > limit:
            return True
    return False


def _gaussian_lower_bound(mu: float, delta: float) -> GaussianLowerBound:
    return GaussianLowerBound(mu, gaussian.epsilon(mu, delta)[0])
