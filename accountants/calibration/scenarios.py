"""What epsilon would be: every combination of noise, sampling rate and steps, as data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from accountants import certified
from accountants.events import Event, PoissonGaussian
from accountants.guarantees import EpsilonBounds, Neighbouring
from accountants.histories import canonical


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One answer to "what would epsilon be if".

    Attributes:
        noise_multiplier: sigma.
        sample_rate: q.
        steps: T.
        bounds: epsilon after the history and these steps.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    bounds: EpsilonBounds


def what_if(
    delta: float,
    *,
    noise_multipliers: Sequence[float],
    sample_rates: Sequence[float],
    steps: Sequence[int],
    neighbouring: Neighbouring,
    history: Iterable[Event] = (),
    group_size: int = 1,
) -> tuple[Scenario, ...]:
    """Epsilon for every combination of noise, sampling rate and steps: curves as data.

    Args:
        delta: in [0, 1).
        noise_multipliers: values of sigma.
        sample_rates: values of q.
        steps: values of T.
        neighbouring: which data sets are neighbours.
        history: what was already released on the same data.
        group_size: records of one unit, say of one person, that may differ together (k).

    Returns:
        One scenario per combination, the last argument varying fastest.

    Example:
        >>> curve = what_if(
        ...     1e-5,
        ...     noise_multipliers=[1.0],
        ...     sample_rates=[0.01],
        ...     steps=[100, 1000],
        ...     neighbouring=Neighbouring.ADD_REMOVE,
        ... )
        >>> [round(scenario.bounds.upper, 2) for scenario in curve]
        [0.72, 1.83]
    """
    past = canonical(history)
    found = []
    for noise, q, count in product(noise_multipliers, sample_rates, steps):
        plan = PoissonGaussian(noise_multiplier=noise, sample_rate=q, steps=count)
        bounds = certified.epsilon((*past, plan), delta, neighbouring, group_size=group_size)
        found.append(Scenario(noise_multiplier=noise, sample_rate=q, steps=count, bounds=bounds))
    return tuple(found)
