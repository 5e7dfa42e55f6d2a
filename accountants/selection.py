"""What a hyper-parameter search costs: try at random often, publish the best try alone.

A number of tries K is drawn in secret. Each try draws its hyper-parameters from a fixed
distribution and runs; the output with the best score is published, with its hyper-parameters and
nothing of the others, K included. The score is computed from the output alone, or is part of what
the run's events pay for. Papernot & Steinke 2022, arXiv:2110.03620: the cost then grows only
slowly with the mean of K, but it is never that of the published run alone.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from accountants import checks
from accountants.analyses import renyi
from accountants.analyses.floats import Floats
from accountants.errors import InvalidValueError
from accountants.events import Event
from accountants.guarantees import Neighbouring
from accountants.histories import canonical

_GRID = np.array(renyi.ORDERS)


class Tries(Enum):
    """How the number of tries K is drawn, given its mean; the value is the paper's eta.

    POISSON: P[K = k] = exp(-m) m^k / k!, which can be 0: publish something fixed then (Theorem 6).
    GEOMETRIC: P[K = k] = g (1 - g)^(k-1) for k >= 1, mean 1 / g (Theorem 2 at eta 1).
    LOGARITHMIC: P[K = k] = (1 - g)^k / (k log(1 / g)) for k >= 1, mean (1/g - 1) / log(1/g)
    (Theorem 2 at eta 0): often a single try, and the cheapest.
    """

    POISSON = math.inf
    GEOMETRIC = 1.0
    LOGARITHMIC = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatAndSelect:
    """A search of which the best try alone is published.

    Attributes:
        events: of one try; those of the most expensive one, if tries differ.
        mean_tries: the mean of the number of tries, >= 1; the number itself must be drawn.
        tries: how it is drawn.

    Raises:
        InvalidValueError: for a mean below 1.
        UnsupportedAnalysisError: for anything in `events` that is no event.
    """

    events: Iterable[Event]
    mean_tries: float
    tries: Tries

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", canonical(self.events))
        mean = checks.positive(mean_tries=self.mean_tries)
        if not mean >= 1:
            raise InvalidValueError(f"mean_tries must be 1 or above, got {self.mean_tries!r}")
        object.__setattr__(self, "mean_tries", mean)
        if not isinstance(self.tries, Tries):
            raise InvalidValueError(
                f"tries must be a member of Tries, got {self.tries!r}; use Tries.POISSON, "
                "Tries.GEOMETRIC or Tries.LOGARITHMIC"
            )


def epsilon_of_selection(
    search: RepeatAndSelect, delta: float, neighbouring: Neighbouring
) -> renyi.RenyiEpsilon:
    """The epsilon for which the published best try is (epsilon, delta)-DP.

    Args:
        search: what one try releases and how the number of tries is drawn.
        delta: in [0, 1).
        neighbouring: which data sets are neighbours.

    Raises:
        UnsupportedAnalysisError: for an event without a Renyi divergence under the relation.
        InvalidValueError: for a delta out of range.

    Reference:
        Papernot & Steinke 2022, arXiv:2110.03620, Theorems 2 and 6.

    >>> from accountants.events import Gaussian
    >>> one_try = [Gaussian(noise_multiplier=4.0)]
    >>> search = RepeatAndSelect(events=one_try, mean_tries=10, tries=Tries.GEOMETRIC)
    >>> alone = renyi.epsilon(one_try, 1e-5, Neighbouring.ADD_REMOVE).epsilon
    >>> found = epsilon_of_selection(search, 1e-5, Neighbouring.ADD_REMOVE).epsilon
    >>> round(alone, 2), round(found, 2)
    (1.01, 2.15)
    """
    values = renyi.rdp(search.events, neighbouring)
    if search.tries is Tries.POISSON:
        selected = _poisson_tries(values, search.mean_tries)
    else:
        selected = _negative_binomial_tries(values, search.mean_tries, search.tries)
    # A bound at an order holds at all smaller ones.
    selected = np.minimum.accumulate(selected[::-1])[::-1]
    return renyi.best_epsilon(selected, delta)


def _poisson_tries(values: Floats, mean: float) -> Floats:
    """Theorem 6: r + m d + log(m) / (a - 1), where one try is (log(1 + 1 / (a - 1)), d)-DP."""
    limits = np.log1p(1 / (_GRID - 1))
    deltas = np.array([renyi.delta_from_rdp(values, float(limit)) for limit in limits])
    return values + mean * deltas + math.log(mean) / (_GRID - 1)


def _negative_binomial_tries(values: Floats, mean: float, tries: Tries) -> Floats:
    """Theorem 2: r + (1 + eta) ((1 - 1/b) s + log(1/g) / b) + log(m) / (a - 1).

    s is the divergence of one try at any order b, here the best of the grid.
    """
    log_inverse = math.log(mean) if tries is Tries.GEOMETRIC else _logarithmic_parameter(mean)
    constant = float(((1 - 1 / _GRID) * values + log_inverse / _GRID).min())
    return values + (1 + tries.value) * constant + math.log(mean) / (_GRID - 1)


def _logarithmic_parameter(mean: float) -> float:
    """The x = log(1/g) with (exp(x) - 1) / x = mean, rounded up; in [log mean, 2 log mean]."""
    low, high = math.log(mean), 2 * math.log(mean)
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if middle + math.log1p(-math.exp(-middle)) - math.log(middle) < math.log(mean):
            low = middle
        else:
            high = middle
    return high
