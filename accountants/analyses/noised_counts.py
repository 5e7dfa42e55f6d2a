"""What noised counts add to the epsilon and delta of everything else; why: `events.NoisedCount`.

Of two neighbours, a count is exactly exp(e) times as likely under one as under the other, or the
reverse: discrete Laplace noise is randomised response in all but name. So alone it has the
delta (exp(e) - exp(epsilon)) / (1 + exp(e)) at every epsilon up to e.
"""

import math
from collections.abc import Iterable

from accountants.events import Event, NoisedCount

# Relative; more than any of the few operations below can be off.
_ROUNDING = 2.0**-48


def without_counts(events: Iterable[Event]) -> tuple[Event, ...]:
    """The other events, in their order."""
    return tuple(event for event in events if not isinstance(event, NoisedCount))


def epsilon_of_one(count_epsilon: float, delta: float) -> float:
    """The epsilon at delta of one count alone, rounded down: no history that holds it has less.

    Args:
        count_epsilon: e, >= 0.
        delta: in [0, 1).
    """
    share = delta * (1 + math.exp(-count_epsilon))
    if share >= 1:
        return 0.0
    return max(count_epsilon * (1 - _ROUNDING) + math.log1p(-share) * (1 + _ROUNDING), 0.0)


def delta_of_one(count_epsilon: float, epsilon: float) -> float:
    """The delta at epsilon of one count alone, rounded down.

    Args:
        count_epsilon: e, >= 0.
        epsilon: >= 0.
    """
    if epsilon >= count_epsilon:
        return 0.0
    apart = -math.expm1(epsilon - count_epsilon) / (1 + math.exp(-count_epsilon))
    return apart * (1 - _ROUNDING)


def epsilon_of_sum(counts_epsilon: float, rest: float) -> float:
    """The epsilon of counts and everything else, rounded up."""
    return (counts_epsilon + rest) * (1 + _ROUNDING) if counts_epsilon else rest


def room_beside(counts_epsilon: float, epsilon: float) -> float:
    """What counts leave of an epsilon for everything else, rounded down; 0 if nothing."""
    return max(epsilon * (1 - _ROUNDING) - counts_epsilon, 0.0) if counts_epsilon else epsilon


def delta_at_zero(counts_epsilon: float, epsilon: float, rest: float) -> float:
    """A delta at an epsilon below that of the counts, where the rest has delta `rest` at 0.

    All together is (counts_epsilon, rest)-DP in both directions, which allows an attack at most
    the delta 1 - (1 - rest) (1 + exp(epsilon)) / (1 + exp(counts_epsilon)): the trade-off function
    has its corner where both of its lines meet (Kairouz, Oh & Viswanath 2015, arXiv:1311.0776).

    Args:
        counts_epsilon: E, > epsilon.
        epsilon: >= 0.
        rest: upper bound on the delta of everything else at epsilon 0, in [0, 1].

    Returns:
        In [0, 1], rounded up.
    """
    apart = -math.expm1(epsilon - counts_epsilon)
    both = math.exp(-counts_epsilon) + math.exp(epsilon - counts_epsilon)
    return min((apart + rest * both) / (1 + math.exp(-counts_epsilon)) * (1 + _ROUNDING), 1.0)
