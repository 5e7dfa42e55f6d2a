"""Epsilon after every round.

Each value is the same bound that admission used, so a report that draws the trajectory after a
run finds its values in the cache of `pld.epsilon`. For a schedule fixed in advance the last value
is the claim; an earlier one, picked because of what was seen by then, is not.
"""

from collections.abc import Iterable

from accountants import pld
from accountants.budget import Neighbouring
from accountants.events import PoissonGaussian


def trajectory(
    prefixes: Iterable[Iterable[PoissonGaussian]],
    delta: float,
    neighbouring: Neighbouring = Neighbouring.ADD_REMOVE,
) -> list[float]:
    """Epsilon of each prefix of a history.

    Args:
        prefixes: for each round, all that was released up to its end.
        delta: in [1e-8, 1).
        neighbouring: which data sets are neighbours.

    Returns:
        One upper bound per prefix, in order.
    """
    return [pld.epsilon(prefix, delta, neighbouring) for prefix in prefixes]
