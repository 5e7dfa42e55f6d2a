"""The tight mu of Gaussian differential privacy, and how well that one number describes a history.

A history is mu-GDP if telling two neighbours apart is never easier than telling N(mu, 1) from
N(0, 1) (Dong, Roth & Su 2019, arXiv:1905.02383). With f(a) the least false negative rate of any
attack at a false positive rate a, and G_mu(a) = Phi(Phi^-1(1 - a) - mu) that of the Gaussian,

    mu* = min {mu : f(a) >= G_mu(a)},    regret = min {D >= 0 : f(a + D) - D <= G_mu*(a)}

(Gomez et al. 2026, arXiv:2503.10945): mu* is what to report beside (or instead of) a pair (epsilon,
delta), and the regret says how much privacy that number leaves unmentioned.

Every pair (epsilon, delta) that holds cuts off a half plane from what attacks may reach. The lines
of neighbouring epsilons meet at the corners of a polygon below f. As G_mu is convex, it lies below
the polygon where it lies below the corners, so that mu* is the largest mu of a corner; between the
corners nothing is left to chance. More epsilons are tried where that mu is decided.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.special import ndtr, ndtri

from accountants import certified, checks
from accountants.analyses.floats import ULP, Floats
from accountants.analyses.profiles import Profile
from accountants.analyses.reduction import reduced
from accountants.errors import InvalidValueError
from accountants.events import Event
from accountants.guarantees import Neighbouring, neighbouring_of
from accountants.histories import Events, canonical

SMALLEST_RATE = 1e-10
"""Attacks with a smaller rate of false positives or false negatives are left out of account."""

# Relative; covers the rounding of the normal quantiles, and of a mu in closed form.
_WIDEN = 1e-9
# Distance of the first epsilons, over mu or over a share of the epsilon itself; of those that
# decide mu, over mu; and how many may be added for that.
_SPACING, _GROWTH, _FINEST, _MOST = 0.06, 0.25, 0.01, 100
_LEAST_MU, _LARGEST_MU, _LARGEST_EPSILON = 1e-9, 2.0, 600.0
# How far apart the bounds on delta are where no profile exists.
_RELATIVE_GAP = 1e-3
_POINTS_PER_SIDE, _BISECTIONS = 8, 60

Curve = Callable[[float], float]
Profiled = dict[float, float]
"""From epsilon to a delta that holds with it."""


@dataclass(frozen=True, slots=True)
class GaussianFit:
    """One number for all attacks, and how well it fits.

    Attributes:
        mu: the history is mu-GDP for attacks whose two error rates are at least `smallest_rate`;
            rounded up, never below the truth; infinite where nothing is protected.
        regret: how far the certified curve lies above that of mu, in [0, 1): what mu leaves
            unmentioned of what was proven. Up to some 1e-2 mu describes the history well; above,
            report the curve or the whole privacy profile.
        smallest_rate: the least error rate that was looked at.
    """

    mu: float
    regret: float
    smallest_rate: float


def mu_and_regret(
    events: Iterable[Event],
    neighbouring: Neighbouring,
    *,
    group_size: int = 1,
    smallest_rate: float = SMALLEST_RATE,
) -> GaussianFit:
    """The tight mu of all events together, and its regret.

    At error rates near 0 nothing but plain Gaussian releases is mu-GDP for a useful mu: whoever
    was drawn into every batch loses as much as without sampling, which has a chance of 1e-100 or
    so. The statement is therefore about attacks with error rates of at least `smallest_rate`: each
    of them does at most as well as the best attack on the Gaussian mechanism of this mu.

    Args:
        events: everything that was released about the same data.
        neighbouring: which data sets are neighbours.
        group_size: how many units the attacker tells apart at once, >= 1.
        smallest_rate: least false positive rate and least false negative rate of the attacks that
            the statement covers, from 1e-30 to 0.1; 1e-10 as in the paper.

    Raises:
        InvalidValueError: for values out of range.
        UnsupportedAnalysisError: for what is no event, or if no valid bound is known.

    Reference:
        Gomez, Kulynych, Kaissis, Calmon, Hayes, Balle & Honkela 2026, arXiv:2503.10945.

    >>> from accountants.events import PoissonGaussian
    >>> training = PoissonGaussian(noise_multiplier=1.0, sample_rate=0.01, steps=1000)
    >>> found = mu_and_regret([training], Neighbouring.ADD_REMOVE)
    >>> round(found.mu, 3), round(found.regret, 4)
    (0.522, 0.0225)
    """
    releases = canonical(events)
    relation = neighbouring_of(neighbouring)
    group_size = checks.count(group_size=group_size)
    rate = checks.probability(smallest_rate=smallest_rate)
    if not 1e-30 <= rate <= 0.1:
        raise InvalidValueError(f"smallest_rate must be from 1e-30 to 0.1, got {smallest_rate!r}")
    parts = reduced(releases, relation, group_size)
    if parts.unprotected:
        return GaussianFit(math.inf, 0.0, rate)
    if not (parts.steps or parts.renyi_only or parts.noised_counts_epsilon):
        return GaussianFit(math.sqrt(parts.gaussian) * (1 + _WIDEN), 0.0, rate)
    return _fit(_profile(releases, relation, group_size), rate)


def _profile(releases: Events, neighbouring: Neighbouring, group_size: int) -> Curve:
    """An upper bound on delta as a function of epsilon."""
    parts = reduced(releases, neighbouring, group_size)
    if not (parts.renyi_only or parts.noised_counts_epsilon):
        profile = Profile.of(*parts.all_steps())
        if profile is not None:
            return profile.delta

    def delta(epsilon: float) -> float:
        return certified.delta(
            releases, epsilon, neighbouring, group_size=group_size, relative_gap=_RELATIVE_GAP
        ).upper

    return delta


def _fit(delta: Curve, rate: float) -> GaussianFit:
    """The largest mu of a corner, with epsilons added where it is decided."""
    pairs = _first_pairs(delta, rate)
    for _ in range(_MOST):
        corners, between = _corners(pairs, rate)
        mus = _mu(corners)
        mu, worst = float(np.max(mus)), int(np.argmax(mus))
        if mu in (0.0, math.inf):
            break
        wide = [(low, high) for low, high in between[worst] if high - low > _FINEST * mu]
        middles = {(low + high) / 2 for low, high in wide} - set(pairs)
        if not middles:
            break
        pairs |= {middle: delta(middle) for middle in middles}
    return GaussianFit(mu * (1 + _WIDEN), _regret(corners, mu), rate)


def _first_pairs(delta: Curve, rate: float) -> Profiled:
    """Pairs from epsilon 0 to where attacks have error rates below the least one."""
    last = (0.0, delta(0.0))
    pairs = dict([last])
    first_step = min(max(2 * float(ndtri((1 + last[1]) / 2)), _LEAST_MU), _LARGEST_MU)
    corner = 1.0
    while (corner >= rate or math.exp(last[0]) * rate < last[1]) and last[0] < _LARGEST_EPSILON:
        epsilon = last[0] + _SPACING * max(first_step, _GROWTH * last[0])
        following = (epsilon, delta(epsilon))
        corner, last = _crossing(last, following), following
        pairs[epsilon] = last[1]
    return pairs


def _crossing(first: tuple[float, float], second: tuple[float, float]) -> float:
    """The false positive rate at which the lines 1 - delta - exp(epsilon) a of two pairs meet."""
    return (first[1] - second[1]) * math.exp(-first[0]) / math.expm1(second[0] - first[0])


def _corners(pairs: Profiled, rate: float) -> tuple[Floats, list[list[tuple[float, float]]]]:
    """The corners of the polygon below f, from the diagonal to the least false positive rate.

    Returns:
        Points (false positive rate, false negative rate), rounded down, shape (corners, 2), at
        least one; and for each of them the intervals of epsilon that a finer one could come from.
    """
    hull = _convex(sorted(pairs.items()))
    corners, between = list[tuple[float, float]](), list[list[tuple[float, float]]]()
    for place, (first, second) in enumerate(pairwise(hull)):
        at = _crossing(first, second)
        if at < rate:
            before = [(hull[place - 1][0], first[0])] if place else []
            corners.append((rate, _on_lines(rate, first, first)))
            between.append([*before, (first[0], second[0])])
            break
        corners.append((at, _on_lines(at, first, second)))
        between.append([(first[0], second[0])])
    else:
        last = hull[-1]
        corners.append((rate, _on_lines(rate, last, last)))
        between.append([(hull[-2][0], last[0])] if len(hull) > 1 else [])
    return np.array(corners), between


def _convex(pairs: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The pairs whose lines are nowhere below all others: those whose corners are in order."""
    kept = list[tuple[float, float]]()
    for pair in pairs:
        while len(kept) > 1 and _crossing(kept[-1], pair) >= _crossing(kept[-2], kept[-1]):
            kept.pop()
        kept.append(pair)
    return kept


def _on_lines(rate: float, first: tuple[float, float], second: tuple[float, float]) -> float:
    """The lower of two lines at a false positive rate, rounded down."""
    lines = (1 - delta - math.exp(epsilon) * rate for epsilon, delta in (first, second))
    return min(lines) - 16 * ULP


def _mu(corners: Floats) -> Floats:
    """The mu whose curve goes through each corner; infinite for a false negative rate of 0."""
    positive, negative = corners.T
    mus = -ndtri(positive) - ndtri(np.clip(negative, 0.0, 1.0))
    return np.asarray(np.maximum(mus, 0.0))


def _regret(corners: Floats, mu: float) -> float:
    """How far along the diagonal the polygon lies above the curve of mu, at most.

    The corners are on one side of the diagonal, and the other side is their mirror image. From a
    point (a, b) of the polygon, s is wanted with b - s = G_mu(a - s), which one s solves.
    """
    if mu == math.inf:
        return 0.0
    points = np.concatenate([corners[:1, ::-1], corners])
    shares = np.arange(_POINTS_PER_SIDE) / _POINTS_PER_SIDE
    sides = points[:-1, None] + shares[:, None] * np.diff(points, axis=0)[:, None]
    positive, negative = np.concatenate([sides.reshape(-1, 2), points[-1:]]).T
    low, high = np.zeros(len(positive)), np.minimum(positive, negative)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = negative - middle >= ndtr(-ndtri(positive - middle) - mu)
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return float(np.max(low))
