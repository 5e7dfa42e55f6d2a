"""What every event is to the analyses: Gaussian, a step with a dominating pair, or neither."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from accountants.analyses.allocation import AllocationStep
from accountants.analyses.bounded_losses import LaplaceStep, RandomisedResponseStep
from accountants.analyses.composition import Step
from accountants.analyses.lattices import FixedSizeStep, NormalStep
from accountants.analyses.pairs import MixturePair, ReplacedPair, group_weights
from accountants.analyses.sensitivity import shift
from accountants.events import (
    BandedMatrixFactorization,
    DiscreteGaussian,
    Event,
    FixedSizeGaussian,
    Gaussian,
    Laplace,
    NoisedCount,
    PoissonGaussian,
    PureDP,
    RandomAllocationGaussian,
    Skellam,
    TreeAggregation,
    ZeroConcentrated,
)
from accountants.guarantees import Neighbouring

# Plain Gaussian mechanisms with less than this mu^2 are counted as if they had it.
_TINY = 1e-24
# Relative; more than the products, quotients and sums that lead to a pure epsilon can be off.
_ROUNDING = 2.0**-50


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """A history, sorted by what is known about its events.

    Attributes:
        gaussian: mu^2 of the plain Gaussian mechanism that part of the events amount to.
        steps: one run of each of the other events that have a dominating pair.
        counts: how often each of `steps` ran.
        unsampled: mu^2 of all sampled Gaussian steps if every record joined every batch.
        pure: sum of the epsilons of all steps with a bounded loss, rounded up.
        noised_counts_epsilon: sum of the epsilons of all noised counts, rounded up; `steps` and
            `pure` do not hold them.
        largest_noised_count: the epsilon of the one of them with the least noise, for a unit of
            one record.
        renyi_only: some events have a Renyi divergence only; zCDP ones stand in `gaussian` as the
            Gaussian mechanism with the same bound, which the tightest number cannot be below.
        unprotected: some event has no noise.
    """

    gaussian: float = 0.0
    steps: tuple[Step, ...] = ()
    counts: tuple[int, ...] = ()
    unsampled: float = 0.0
    pure: float = 0.0
    noised_counts_epsilon: float = 0.0
    largest_noised_count: float = 0.0
    renyi_only: bool = False
    unprotected: bool = False

    @property
    def pure_epsilon(self) -> float:
        """Epsilon at delta 0, rounded up."""
        unbounded = self.renyi_only or self.unprotected or self.gaussian + self.unsampled > 0
        return math.inf if unbounded else self.pure + self.noised_counts_epsilon

    def all_steps(self) -> tuple[tuple[Step, ...], tuple[int, ...]]:
        """The steps, with all plain Gaussian releases as one more, and their counts."""
        if not self.gaussian:
            return self.steps, self.counts
        pair = MixturePair((0.0, 1.0), 1 / math.sqrt(self.gaussian))
        return (*self.steps, NormalStep(pair)), (*self.counts, 1)


def reduced(events: Iterable[Event], neighbouring: Neighbouring, group_size: int) -> Reduced:
    """Sort a history.

    Raises:
        UnsupportedAnalysisError: for an event without a sound analysis under this relation and
            for units of this size.
    """
    parts = [_reduced(event, neighbouring, group_size) for event in events]
    return Reduced(
        gaussian=math.fsum(part.gaussian for part in parts),
        steps=tuple(step for part in parts for step in part.steps),
        counts=tuple(count for part in parts for count in part.counts),
        unsampled=math.fsum(part.unsampled for part in parts),
        pure=math.fsum(part.pure for part in parts),
        noised_counts_epsilon=math.fsum(part.noised_counts_epsilon for part in parts),
        largest_noised_count=max((part.largest_noised_count for part in parts), default=0.0),
        renyi_only=any(part.renyi_only for part in parts),
        unprotected=any(part.unprotected for part in parts),
    )


def _reduced(event: Event, neighbouring: Neighbouring, group_size: int) -> Reduced:
    distance = shift(event, neighbouring, group_size)
    match event:
        case Gaussian():
            return _gaussian(event.noise_multiplier / distance, event.steps)
        case TreeAggregation():
            nodes = (event.leaves - 1).bit_length() + 1
            return _gaussian(event.noise_multiplier / distance, event.steps * nodes)
        case BandedMatrixFactorization():
            return _gaussian(event.noise_multiplier / distance, event.steps * event.participations)
        case PoissonGaussian():
            return _poisson(event, neighbouring, group_size)
        case FixedSizeGaussian():
            return _fixed_size(event, distance)
        case RandomAllocationGaussian():
            return _allocation(event, distance)
        case Laplace():
            if event.noise_multiplier == 0:
                return Reduced(unprotected=True)
            loss = distance / event.noise_multiplier
            return _bounded(LaplaceStep(loss), loss, event.steps)
        case PureDP():
            loss = distance * event.epsilon
            return _bounded(RandomisedResponseStep(loss), loss, event.steps)
        case NoisedCount():
            total = event.steps * distance * event.epsilon * (1 + _ROUNDING)
            return Reduced(noised_counts_epsilon=total, largest_noised_count=event.epsilon)
        case ZeroConcentrated():
            stand_in = 2 * event.rho * distance**2 * event.steps
            return Reduced(gaussian=stand_in, renyi_only=True)
        case DiscreteGaussian():
            return Reduced(renyi_only=True, unprotected=event.standard_deviation == 0)
        case Skellam():
            return Reduced(renyi_only=True, unprotected=event.variance == 0)


def _gaussian(noise: float, steps: int) -> Reduced:
    """`steps` Gaussian mechanisms with this noise per shift."""
    if noise == 0:
        return Reduced(unprotected=True)
    return Reduced(gaussian=steps * _squared(1 / noise))


def _poisson(event: PoissonGaussian, neighbouring: Neighbouring, group_size: int) -> Reduced:
    distance = shift(event, neighbouring, group_size)
    noise, q = event.noise_multiplier, event.sample_rate
    if noise == 0 or q == 1:
        return _gaussian(noise / distance, event.steps)
    if neighbouring is Neighbouring.REPLACE_ONE:
        return _sampled(NormalStep(ReplacedPair(q, noise)), noise / distance, event.steps)
    step = NormalStep(MixturePair(group_weights(q, group_size), noise))
    return _sampled(step, noise / distance, event.steps)


def _fixed_size(event: FixedSizeGaussian, distance: float) -> Reduced:
    noise, q = event.noise_multiplier / distance, event.batch_size / event.dataset_size
    if noise == 0 or q == 1:
        return _gaussian(noise, event.steps)
    return _sampled(FixedSizeStep(MixturePair((1 - q, q), noise)), noise, event.steps)


def _allocation(event: RandomAllocationGaussian, distance: float) -> Reduced:
    """Epochs of one sum are plain releases; a record whose step is known makes one such release."""
    noise = event.noise_multiplier / distance
    if noise == 0 or event.batches == 1:
        return _gaussian(noise, event.steps)
    return _sampled(AllocationStep(event.batches, noise), noise, event.steps)


def _sampled(step: Step, noise: float, steps: int) -> Reduced:
    return Reduced(steps=(step,), counts=(steps,), unsampled=steps * _squared(1 / noise))


def _squared(mu: float) -> float:
    """mu^2, never rounded to 0; infinite where it overflows."""
    return max(mu * mu, _TINY)


def _bounded(step: Step, loss: float, steps: int) -> Reduced:
    """A step whose loss is at most `loss`; a loss of 0 releases nothing."""
    if loss == 0:
        return Reduced()
    return Reduced(steps=(step,), counts=(steps,), pure=steps * loss * (1 + _ROUNDING))
