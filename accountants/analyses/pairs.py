"""Dominating pairs: for each mechanism two distributions that are as far apart as it can push them.

A pair (P, Q) stands for one step. If it dominates every step of a schedule, then T copies of it
dominate the schedule, later steps chosen from earlier results included (Zhu, Dong & Wang 2022,
arXiv:2106.08567, Theorem 10). The privacy loss is L = log(dP/dQ), here an increasing function of
a real outcome y, so that cells of losses are intervals of outcomes, and their masses differences
of normal distribution functions. "Forward" is (P, Q), what one sees when the unit is there
against when it is not; "backward" is (Q, P).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy.special import ndtr, ndtri

from accountants.analyses.floats import Floats

_CLAMP = 600.0

# Below this weight of no shift, losses near the lowest are computed without cancellation.
_MOSTLY_OUT = 0.5
_NARROW = 0.1


class NormalPair(Protocol):
    """A pair of mixtures of normal distributions whose loss increases with the outcome y."""

    @property
    def symmetric(self) -> bool:
        """Whether forward and backward are the same."""
        ...

    @property
    def lowest(self) -> float:
        """The infimum of the loss; may be -infinity."""
        ...

    def loss(self, y: Floats) -> Floats:
        """The privacy loss at outcomes y."""
        ...

    def outcome(self, losses: Floats) -> Floats:
        """The outcome with a given loss; -infinity for losses at or below the lowest."""
        ...

    def masses(self, y: Floats) -> tuple[Floats, Floats]:
        """Masses under P and Q between ascending outcomes, shape (len(y) + 1,)."""
        ...

    def log_density(self, y: Floats) -> Floats:
        """Logarithm of the density of Q."""
        ...

    def reach(self, tail: float) -> tuple[float, float]:
        """Outcomes (low, high): below and above them P and Q weigh at most `tail` each."""
        ...

    @property
    def largest_shift(self) -> float:
        """Largest mean of a part of the mixtures."""
        ...

    @property
    def sigma(self) -> float:
        """Standard deviation of every part."""
        ...

    @property
    def activity(self) -> float:
        """Weight, summed over P and Q, of the parts that are not at 0."""
        ...


@dataclass(frozen=True)
class MixturePair:
    """P = sum_k w_k N(k, sigma^2) against Q = N(0, sigma^2).

    Two weights (1-q, q) are the Poisson-sampled Gaussian mechanism, Binomial(k, q) weights are
    the same for a unit of k records (Choquette-Choo et al. 2023, arXiv:2310.15526), and weights
    (0, 1) are the Gaussian mechanism.

    Attributes:
        weights: w, summing to 1, at least two.
        sigma: noise standard deviation over the shift of one record.
    """

    weights: tuple[float, ...]
    sigma: float

    @property
    def symmetric(self) -> bool:
        """Only a plain shift looks the same from both sides."""
        return self.weights == (0.0, 1.0)

    @cached_property
    def lowest(self) -> float:
        """Log of w_0: what an outcome far to the left shows."""
        if self.weights[0] < _MOSTLY_OUT:
            return math.log(self.weights[0]) if self.weights[0] > 0 else -math.inf
        return math.log1p(-math.fsum(self.weights[1:]))

    @property
    def activity(self) -> float:
        """Chance that at least one record of the unit joins."""
        return math.fsum(self.weights[1:])

    @property
    def largest_shift(self) -> float:
        """That of all records of the unit in one batch."""
        return float(len(self.weights) - 1)

    def loss(self, y: Floats) -> Floats:
        """log(sum_k w_k exp((k y - k^2/2) / sigma^2)), accurate also where it is near 0."""
        exponents = [(k * y - k * k / 2) / self.sigma**2 for k in range(1, len(self.weights))]
        if self.symmetric:
            return exponents[0]
        above, whole = np.zeros_like(y), np.full_like(y, self.weights[0])
        for weight, exponent in zip(self.weights[1:], exponents, strict=True):
            clamped = np.minimum(exponent, _CLAMP)
            above += weight * np.expm1(clamped)
            whole += weight * np.exp(clamped)
        with np.errstate(divide="ignore", invalid="ignore"):
            losses = np.where(above < -_MOSTLY_OUT, np.log(whole), np.log1p(above))
        return np.where(np.max(exponents, axis=0) < _CLAMP, losses, _CLAMP)

    def outcome(self, losses: Floats) -> Floats:
        """Closed form for two weights, bisection for more."""
        if self.symmetric:
            return self.sigma**2 * losses + 0.5
        if len(self.weights) > 2:
            return _inverted(self, losses)
        without, q = self.weights
        above = np.where(losses < -_MOSTLY_OUT, np.exp(losses) - without, np.expm1(losses) + q)
        with np.errstate(divide="ignore", invalid="ignore"):
            y: Floats = self.sigma**2 * np.log(above / q) + 0.5
        return np.where((losses > self.lowest) & (above > 0), y, -np.inf)

    def masses(self, y: Floats) -> tuple[Floats, Floats]:
        """Sums of normal masses, each with a small relative error."""
        q = normal_masses(y, 0.0, self.sigma)
        p = self.weights[0] * q
        for k, weight in enumerate(self.weights[1:], start=1):
            p = p + weight * normal_masses(y, float(k), self.sigma)
        return p, q

    def log_density(self, y: Floats) -> Floats:
        """That of N(0, sigma^2)."""
        return _log_normal(y, self.sigma)

    def reach(self, tail: float) -> tuple[float, float]:
        """Where every part of the mixture has its tail."""
        z = -self.sigma * float(ndtri(tail))
        return -z, self.largest_shift + z


@dataclass(frozen=True, slots=True)
class ReplacedPair:
    """P = (1-q) N(0, s^2) + q N(1, s^2) against Q = (1-q) N(0, s^2) + q N(-1, s^2).

    The Poisson-sampled Gaussian mechanism under REPLACE_ONE.

    Attributes:
        sample_rate: q, in (0, 1).
        sigma: s.
    """

    sample_rate: float
    sigma: float

    @property
    def symmetric(self) -> bool:
        """The mirror image of y turns one into the other."""
        return True

    @property
    def lowest(self) -> float:
        """The loss has no lower end."""
        return -math.inf

    @property
    def activity(self) -> float:
        """That of both sides."""
        return 2 * self.sample_rate

    @property
    def largest_shift(self) -> float:
        """To either side."""
        return 1.0

    def loss(self, y: Floats) -> Floats:
        """The difference of the losses of two `MixturePair`."""
        pair = MixturePair((1 - self.sample_rate, self.sample_rate), self.sigma)
        return pair.loss(y) - pair.loss(-y)

    def outcome(self, losses: Floats) -> Floats:
        """The root of a quadratic in exp(y / sigma^2), taken where nothing cancels."""
        q, variance = self.sample_rate, self.sigma**2
        c = np.abs(losses)
        a = q * math.exp(-0.5 / variance)
        half = (1 - q) * np.expm1(c) / 2
        scaled = np.log(half + np.hypot(half, a * np.exp(c / 2)))
        return np.sign(losses) * variance * (scaled - math.log(q) + 0.5 / variance)

    def masses(self, y: Floats) -> tuple[Floats, Floats]:
        """Sums of normal masses."""
        middle = (1 - self.sample_rate) * normal_masses(y, 0.0, self.sigma)
        p = middle + self.sample_rate * normal_masses(y, 1.0, self.sigma)
        q = middle + self.sample_rate * normal_masses(y, -1.0, self.sigma)
        return p, q

    def log_density(self, y: Floats) -> Floats:
        """A mixture whose ratio to its middle part is the loss of a `MixturePair`."""
        pair = MixturePair((1 - self.sample_rate, self.sample_rate), self.sigma)
        return _log_normal(y, self.sigma) + pair.loss(-y)

    def reach(self, tail: float) -> tuple[float, float]:
        """Where every part has its tail."""
        z = -self.sigma * float(ndtri(tail))
        return -1 - z, 1 + z


def group_weights(sample_rate: float, group_size: int) -> tuple[float, ...]:
    """How many of a unit's records join a Poisson batch: Binomial(group_size, sample_rate)."""
    return tuple(
        math.comb(group_size, k) * sample_rate**k * (1 - sample_rate) ** (group_size - k)
        for k in range(group_size + 1)
    )


def _log_normal(y: Floats, sigma: float) -> Floats:
    return -((y / sigma) ** 2) / 2 - math.log(sigma * math.sqrt(2 * math.pi))


def normal_masses(y: Floats, mean: float, sigma: float) -> Floats:
    """Masses of N(mean, sigma^2) between ascending outcomes; outcomes may begin with -infinity.

    Narrow intervals use the Taylor series of the density around their middle, whose remainder
    is below one unit in the last place, so that the difference of two nearly equal distribution
    functions is never taken.
    """
    first = int(np.searchsorted(y, -np.inf, side="right"))
    result = np.zeros(len(y) + 1)
    if first == len(y):
        result[-1] = 1.0
        return result
    y = y[first:]
    z = (y - mean) / sigma
    result[first], result[-1] = ndtr(z[0]), ndtr(-z[-1])
    width, middle = np.diff(y) / sigma, (z[1:] + z[:-1]) / 2
    square = middle * middle
    w2 = width * width
    series = 1 + w2 * (
        (square - 1) / 24
        + w2
        * (
            (square * (square - 6) + 3) / 1920
            + w2 * (square * (square * (square - 15) + 45) - 15) / 322560
        )
    )
    inside = np.exp(-square / 2) * (width / math.sqrt(2 * math.pi)) * series
    wide = np.flatnonzero(width * np.maximum(1.0, np.abs(middle)) >= _NARROW)
    left, right, sign = z[wide], z[wide + 1], middle[wide] > 0
    upper_half = ndtr(-left) - ndtr(-right)
    inside[wide] = np.where(sign, upper_half, ndtr(right) - ndtr(left))
    result[first + 1 : -1] = inside
    return result


def _inverted(pair: MixturePair, losses: Floats) -> Floats:
    """The outcomes of losses, by bisection."""
    low = np.full_like(losses, -60 * pair.sigma - 1)
    high = np.full_like(losses, 1.0)
    while np.any(short := pair.loss(high) < losses):
        high = np.where(short, 2 * high + pair.sigma, high)
    for _ in range(64):
        middle = (low + high) / 2
        below = pair.loss(middle) < losses
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(losses > pair.lowest, high, -np.inf)
