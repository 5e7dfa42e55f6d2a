"""A lower bound on epsilon from counted errors: an attack that tells two data sets apart, repeated.

The error rates of the attack are bounded from above by their Clopper-Pearson intervals, and a pair
of rates that low is impossible below some epsilon. The package compares the audits.
"""

import math

from scipy.special import betainccinv

from accountants import checks
from accountants.analyses.floats import ULP

# Relative error allowed to one value of a special function.
_ROUNDING = 1e-12


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
    false_positive_rate, false_negative_rate = error_rates(
        false_positives, negatives, false_negatives, positives, significance
    )
    delta = checks.probability_or_zero(delta=delta)
    return max(
        _epsilon_of_errors(false_positive_rate, false_negative_rate, delta),
        _epsilon_of_errors(false_negative_rate, false_positive_rate, delta),
    )


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
    errors = checks.index_up_to("trials", trials, errors=errors)
    significance = checks.probability(significance=significance)
    return _error_rate_at_most(errors, trials, significance)


def error_rates(
    false_positives: int,
    negatives: int,
    false_negatives: int,
    positives: int,
    significance: float,
) -> tuple[float, float]:
    """Upper bounds on the rates of false positives and false negatives.

    They hold together at `significance`: each of them at half of it. Arguments and errors as those
    of `clopper_pearson`.
    """
    negatives = checks.count(negatives=negatives)
    false_positives = checks.index_up_to("negatives", negatives, false_positives=false_positives)
    positives = checks.count(positives=positives)
    false_negatives = checks.index_up_to("positives", positives, false_negatives=false_negatives)
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
    found = 1 - delta - missed - 4 * ULP
    if not found > said_wrongly:
        return 0.0
    return max(0.0, math.log(found / said_wrongly) - _ROUNDING)
