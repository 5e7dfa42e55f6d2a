"""A lower bound on epsilon from one training run with many canaries.

Every canary joins the training data by its own fair coin, and an attacker who sees the result
names the side of as many coins as it likes. Up to delta, (epsilon, delta)-DP lets it be right no
more often than randomised response at epsilon: r coins that each come up right with chance
1 / (1 + exp(-epsilon)); an epsilon under which so many right ones are unlikely is refuted (Steinke,
Nasr & Jagielski 2023, arXiv:2305.08846). The package compares the audits.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy.special import betainc, expit, gammaln, log_expit

from accountants import checks
from accountants.analyses.floats import ULP
from accountants.auditing.bisection import last_rejected

# Relative error allowed to one value of a special function.
_ROUNDING = 1e-12


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
    canaries, guesses, correct = checked_counts(canaries, guesses, correct)
    delta = checks.probability_or_zero(delta=delta)
    ceiling = one_run_ceiling(guesses, significance)
    if ceiling == 0:
        return 0.0
    p_value = _p_value_by_epsilon(canaries, guesses, correct, delta)
    return last_rejected(lambda epsilon: p_value(epsilon) < significance, ceiling)


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
    canaries, guesses, correct = checked_counts(canaries, guesses, correct)
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


def checked_counts(canaries: int, guesses: int, correct: int) -> tuple[int, int, int]:
    """Canaries, guesses and right guesses as plain numbers, none above the one before it.

    Raises:
        InvalidValueError: for counts that do not fit into each other.
    """
    canaries = checks.count(canaries=canaries)
    guesses = checks.index_up_to("canaries", canaries, guesses=guesses)
    return canaries, guesses, checks.index_up_to("guesses", guesses, correct=correct)


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
    beta_slack = 1 + _ROUNDING + 4 * ULP * guesses
    alpha_slack = beta_slack + 16 * ULP * float(gammaln(guesses + 1))

    def p_value(epsilon: float) -> float:
        beta = float(betainc(correct, guesses - correct + 1, expit(epsilon)))
        log_chance = hits * log_expit(epsilon) + (guesses - hits) * log_expit(-epsilon)
        alpha = float(np.max(np.cumsum(np.exp(log_ways + log_chance)) / distance))
        return min(1.0, beta * beta_slack + 2 * canaries * delta * alpha * alpha_slack)

    return p_value
