"""Events -> Renyi differential privacy -> epsilon: fast and additive, above the tightest epsilon.

The Renyi divergence of order a between the outputs on neighbouring data sets adds up over
releases (Mironov 2017, arXiv:1702.07476, Proposition 1), so that a history is a sum of vectors,
one per kind of release, over a grid of orders. That makes the odometer cheap and the filter for
adaptively chosen parameters possible; for the tightest number use `certified`. Orders and Renyi
divergences are unitless (nats).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from accountants import checks
from accountants.analyses.divergences import one_step
from accountants.analyses.floats import Floats
from accountants.errors import InvalidValueError
from accountants.events import Event
from accountants.guarantees import Neighbouring, neighbouring_of
from accountants.histories import canonical

ORDERS: tuple[float, ...] = (
    *(1.01, 1.015, 1.02, 1.03, 1.04, 1.05, 1.06, 1.08, 1.1),
    *(1.15, 1.2, 1.25, 1.3, 1.35, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9),
    *(2.0, 2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 3.75, 4.0, 4.25, 4.5, 4.75),
    *(5.0, 5.25, 5.5, 5.75, 6.0, 6.25, 6.5, 6.75, 7.0, 7.25, 7.5, 7.75),
    *(8.0, 8.25, 8.5, 8.75, 9.0, 9.25, 9.5, 9.75),
    *(10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0, 19.0),
    *(20.0, 22.0, 24.0, 26.0, 28.0, 30.0, 32.0, 36.0, 40.0, 44.0, 48.0, 52.0, 56.0, 60.0),
    *(64.0, 72.0, 80.0, 96.0, 112.0, 128.0, 160.0, 192.0, 224.0, 256.0, 320.0, 384.0, 448.0),
    *(512.0, 640.0, 768.0, 1024.0, 1280.0, 1536.0, 2048.0, 3072.0, 4096.0, 6144.0, 8192.0, 1e4),
)
"""Costs a Gaussian epsilon between 0.002 and 300 at most about 1 % over a continuum of orders."""

# Sums of tens of thousands of float64 vectors stay within this relative error.
_WIDEN = 1e-11


@dataclass(frozen=True, slots=True)
class RenyiEpsilon:
    """An epsilon by Renyi divergence.

    Attributes:
        epsilon: the events are (epsilon, delta)-DP; may be infinite.
        order: the order of the grid at which the least epsilon was found.
        at_edge: the order is the least or the largest of the grid: the bound holds, but orders
            outside the grid could give a smaller one. False for an epsilon of 0 or infinity.
    """

    epsilon: float
    order: float
    at_edge: bool


def rdp(
    events: Iterable[Event],
    neighbouring: Neighbouring,
    *,
    group_size: int = 1,
    orders: Sequence[float] = ORDERS,
) -> Floats:
    """Upper bounds on the Renyi divergence of all events together, at each order.

    Args:
        events: all that was released on the same data, in any order.
        neighbouring: which data sets are neighbours.
        group_size: how many units differ (k), >= 1.
        orders: the orders a, increasing, > 1.

    Returns:
        Shape (orders,), >= 0; infinite where nothing is protected.

    Raises:
        UnsupportedAnalysisError: for an event without a formula for this relation and group.
        InvalidValueError: for orders that are not increasing and above 1, or a group below 1.

    Reference:
        Mironov 2017, arXiv:1702.07476; each kind of event cites its own in `events`.

    >>> from accountants.events import Gaussian
    >>> rdp([Gaussian(noise_multiplier=2.0, steps=8)], Neighbouring.ADD_REMOVE, orders=[2.0, 5.0])
    array([2., 5.])
    """
    grid = _checked_orders(orders)
    group_size = checks.count(group_size=group_size)
    neighbouring = neighbouring_of(neighbouring)
    total = np.zeros(len(grid))
    with np.errstate(over="ignore"):
        for event in canonical(events):
            one = one_step(replace(event, steps=1), neighbouring, group_size, grid)
            total += float(event.steps) * one
    return total


def epsilon_from_rdp(
    values: Floats, delta: float, orders: Sequence[float] = ORDERS
) -> tuple[Floats, Floats]:
    """The least epsilon over the orders, and the order that gives it.

    At order a with divergence r, epsilon = r + log(1 - 1/a) - log(a delta) / (a - 1); and 0 where
    r bounds the total variation distance by delta (Pinsker; Bretagnolle & Huber 1979).

    Args:
        values: Renyi divergences, shape (..., orders), >= 0, no NaN.
        delta: in [0, 1); at 0 any divergence above 0 is an infinite epsilon.
        orders: the orders of the last axis, increasing, > 1.

    Returns:
        Two arrays of the leading shape, () for a single vector: epsilons, >= 0, rounded up, and
        orders.

    Raises:
        InvalidValueError: for a value out of range, or a last axis of another length than orders.

    Reference:
        Canonne, Kamath & Steinke 2020, arXiv:2004.00010, Proposition 12; Balle et al. 2020,
        arXiv:1905.09982, Theorem 21.

    >>> epsilon, order = epsilon_from_rdp(np.array([1.0, 2.5]), 1e-5, [2.0, 5.0])
    >>> round(float(epsilon), 4), float(order)
    (4.7527, 5.0)
    """
    grid = np.array(_checked_orders(orders))
    values = _checked_values(values, len(grid))
    delta = checks.probability_or_zero(delta=delta)
    least = values.min(axis=-1)
    if delta == 0:
        return np.where(values.max(axis=-1) > 0, np.inf, 0.0), np.full(least.shape, grid[0])
    with np.errstate(over="ignore"):
        candidates = values * (1 + _WIDEN)
    candidates += _penalty(delta, grid)
    epsilon = np.maximum(candidates.min(axis=-1), 0.0)
    best = grid[candidates.argmin(axis=-1)]
    hidden = max(2 * delta * delta, -math.log1p(-delta * delta))
    return np.where(least <= hidden * (1 - _WIDEN), 0.0, epsilon), np.asarray(best)


def delta_from_rdp(values: Floats, epsilon: float, orders: Sequence[float] = ORDERS) -> float:
    """The least delta over the orders, by the same conversion.

    Args:
        values: Renyi divergences, shape (orders,), >= 0, no NaN.
        epsilon: >= 0.
        orders: increasing, > 1.

    Returns:
        In [0, 1], rounded up.

    Raises:
        InvalidValueError: for a value out of range, or values of another length than orders.

    Reference:
        Canonne, Kamath & Steinke 2020, arXiv:2004.00010, Proposition 12.

    >>> round(delta_from_rdp(np.array([1.0, 2.5]), 4.7527, [2.0, 5.0]), 7)
    1e-05
    """
    grid = np.array(_checked_orders(orders))
    values = _checked_values(values, len(grid))
    limit = checks.non_negative(epsilon=epsilon)
    with np.errstate(over="ignore"):
        exponents = (grid - 1) * (values * (1 + _WIDEN) - limit + np.log1p(-1 / grid))
    least = float(values.min()) * (1 + _WIDEN)
    apart = min(math.sqrt(least / 2), math.sqrt(-math.expm1(-least)))
    converted = math.exp(min(float((exponents - np.log(grid)).min()), 0.0))
    return min(converted * (1 + _WIDEN), apart, 1.0)


def rdp_within(epsilon_limit: float, delta: float, orders: Sequence[float] = ORDERS) -> Floats:
    """At each order, the largest Renyi divergence whose epsilon is at most `epsilon_limit`.

    Args:
        epsilon_limit: > 0.
        delta: in (0, 1).
        orders: increasing, > 1.

    Returns:
        Shape (orders,), rounded down; negative at orders too small for this budget.

    Raises:
        InvalidValueError: for a value out of range.

    >>> rdp_within(2.0, 1e-5, [2.0, 10.0]).round(3)
    array([-8.127,  1.082])
    """
    grid = np.array(_checked_orders(orders))
    limit = checks.positive(epsilon_limit=epsilon_limit)
    penalty = _penalty(checks.probability(delta=delta), grid)
    return (limit - penalty) / (1 + _WIDEN) - 1e-15 * (limit + np.abs(penalty))


def epsilon(
    events: Iterable[Event], delta: float, neighbouring: Neighbouring, *, group_size: int = 1
) -> RenyiEpsilon:
    """The epsilon for which all events together are (epsilon, delta)-DP, by Renyi divergence.

    Args:
        events: all that was released on the same data, in any order.
        delta: in [0, 1).
        neighbouring: which data sets are neighbours.
        group_size: how many units differ (k), >= 1.

    Raises:
        UnsupportedAnalysisError: for an event without a formula for this relation and group.
        InvalidValueError: for a value out of range.

    >>> from accountants.events import Gaussian
    >>> found = epsilon([Gaussian(noise_multiplier=1.0)], 1e-5, Neighbouring.ADD_REMOVE)
    >>> round(found.epsilon, 3), found.order, found.at_edge
    (4.729, 5.5, False)
    """
    return best_epsilon(rdp(events, neighbouring, group_size=group_size), delta)


def best_epsilon(values: Floats, delta: float) -> RenyiEpsilon:
    """The epsilon of one vector of Renyi divergences on `ORDERS`, with the order that gave it.

    Args:
        values: shape (orders,), >= 0, no NaN.
        delta: in [0, 1).

    Raises:
        InvalidValueError: for a value out of range.

    >>> best_epsilon(0.125 * np.array(ORDERS), 1e-5).order
    9.5
    """
    least, order = map(float, epsilon_from_rdp(values, delta))
    at_edge = order in (ORDERS[0], ORDERS[-1]) and 0 < least < math.inf
    return RenyiEpsilon(least, order, at_edge)


def _penalty(delta: float, grid: Floats) -> Floats:
    """What the conversion adds to the divergence at each order, rounded up."""
    exact = np.log1p(-1 / grid) - (math.log(delta) + np.log(grid)) / (grid - 1)
    return np.asarray(exact + _WIDEN * np.abs(exact))


def _checked_orders(orders: Sequence[float]) -> tuple[float, ...]:
    grid = tuple(float(order) for order in orders)
    rising = all(low < high for low, high in pairwise(grid))
    if not grid or not rising or not grid[0] > 1 or not grid[-1] < math.inf:
        raise InvalidValueError(f"orders must be increasing, finite and above 1, got {grid!r}")
    return grid


def _checked_values(values: Floats, length: int) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.shape[-1:] != (length,) or not (array >= 0).all():
        raise InvalidValueError(
            f"values must be Renyi divergences, 0 or above, on {length} orders, got an array of "
            f"shape {array.shape}"
        )
    return array
