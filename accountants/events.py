"""Records of what was released: the only input of every accountant here.

An event describes one mechanism and how many times (`steps`) it ran on the same data; later runs
may depend on the results of earlier ones, and a history is any number of events in any order.
Every docstring states the maths and for which neighbouring relations an analysis exists. What has
none is refused by name when epsilon is asked for, never approximated by something similar. In
particular a batch from a shuffled epoch is no Poisson sample and no fixed-size sample, and no
event here stands for it: accounted as Poisson it would be under-reported several times over
(Chua et al. 2024, arXiv:2403.17673).

Sensitivities are stated for ADD_REMOVE or ZERO_OUT, where one contribution, clipped to norm C,
appears or disappears. Under REPLACE_ONE it changes into another one, which moves a sum by 2C.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from accountants import checks
from accountants.errors import InvalidValueError
from accountants.guarantees import Neighbouring, neighbouring_of


def _set(event: object, check: Callable[..., float], **value: object) -> None:
    """Check one field and store it as a plain number (-0.0 as 0.0)."""
    ((name, _),) = value.items()
    object.__setattr__(event, name, check(**value) + 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian:
    """A clipped sum over all records with Gaussian noise, `steps` times.

    M(D) = sum_i clip(g_i, C) + N(0, sigma^2 C^2 I). Worst case: N(1, sigma^2) against
    N(0, sigma^2); `steps` runs equal one at sigma / sqrt(steps). Exact for every relation (Balle &
    Wang 2018, arXiv:1805.06530).

    Attributes:
        noise_multiplier: noise standard deviation over the clipping norm (sigma); unitless,
            >= 0, where 0 protects nothing.
        steps: number of runs (T), >= 1.
    """

    noise_multiplier: float
    steps: int = 1

    def __post_init__(self) -> None:
        _set(self, checks.non_negative, noise_multiplier=self.noise_multiplier)
        _set(self, checks.count, steps=self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoissonGaussian:
    """`steps` releases of a Poisson-sampled, clipped sum with Gaussian noise: DP-SGD.

    In each step every record joins the batch independently with probability q:
    M(D) = sum_{i in batch} clip(g_i, C) + N(0, sigma^2 C^2 I) (Abadi et al. 2016,
    arXiv:1607.00133, Algorithm 1). The coins of the batch stay secret and an empty batch is a
    step. Worst case under ADD_REMOVE and ZERO_OUT: (1-q) N(0, sigma^2) + q N(1, sigma^2) against
    N(0, sigma^2), in both directions (Zhu, Dong & Wang 2022, arXiv:2106.08567); under REPLACE_ONE
    that mixture against its mirror image (Schuchardt et al. 2024, arXiv:2403.04867).

    Attributes:
        noise_multiplier: noise standard deviation over the clipping norm (sigma); unitless,
            >= 0, where 0 protects nothing.
        sample_rate: chance that a record joins a step (q), in (0, 1]; 1 is `Gaussian`.
        steps: number of steps (T), >= 1.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int

    def __post_init__(self) -> None:
        _set(self, checks.non_negative, noise_multiplier=self.noise_multiplier)
        _set(self, checks.rate, sample_rate=self.sample_rate)
        _set(self, checks.count, steps=self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedSizeGaussian:
    """`steps` releases of a clipped sum over a fixed number of records, drawn without replacement.

    Each step draws `batch_size` of the `dataset_size` records uniformly, anew and in secret, and
    adds N(0, sigma^2 C^2 I) to the sum of their contributions. Only REPLACE_ONE is analysed: the
    size of the data set is public there, and a record that is drawn moves the sum by 2C. The bound
    is the larger of the two directions at each loss (Balle, Barthe & Gaboardi 2018,
    arXiv:1807.01647; Zhu, Dong & Wang 2022, arXiv:2106.08567). ADD_REMOVE is refused: adding a
    record changes the batches of all others.

    Attributes:
        noise_multiplier: noise standard deviation over the clipping norm C, not 2C (sigma); >= 0.
        batch_size: records in a batch (b), >= 1.
        dataset_size: records in the data set (n), >= b.
        steps: number of steps (T), >= 1.
    """

    noise_multiplier: float
    batch_size: int
    dataset_size: int
    steps: int

    def __post_init__(self) -> None:
        _set(self, checks.non_negative, noise_multiplier=self.noise_multiplier)
        _set(self, checks.count, batch_size=self.batch_size)
        _set(self, checks.count, dataset_size=self.dataset_size)
        _set(self, checks.count, steps=self.steps)
        if self.batch_size > self.dataset_size:
            raise InvalidValueError(
                f"batch_size must be at most dataset_size, got {self.batch_size} of "
                f"{self.dataset_size}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomAllocationGaussian:
    """`steps` epochs of clipped sums with Gaussian noise; a record joins one sum of each epoch.

    An epoch has t sums, released one after another, each with its own N(0, sigma^2 C^2 I). At the
    beginning every record draws which of them it joins: uniformly, independently of all other
    records, and in secret. The sums therefore differ in size and may be empty; batches of equal
    size, cut from a shuffled order, are something else and have no event. Gradients and noise may
    depend on earlier results, of the same epoch too. Worst case of an epoch:
    (1/t) sum_i N(e_i, sigma^2 I) against N(0, sigma^2 I) in t dimensions, in both directions
    (Feldman & Shenfeld 2025, arXiv:2502.08202; `analyses.allocation` has a proof). It is the same
    under ZERO_OUT, where the record draws a step and adds nothing to it. REPLACE_ONE is refused, as
    no worst case is known here, and so are units of several records.

    Whole epochs only: parts of one epoch depend on each other through the draw, so that no event
    may stand for a part of it. An epoch that was cut short counts in full.

    Attributes:
        noise_multiplier: noise standard deviation over the clipping norm (sigma); unitless,
            >= 0, where 0 protects nothing.
        batches: sums of one epoch (t), >= 1; 1 is `Gaussian`.
        steps: number of epochs, >= 1.
    """

    noise_multiplier: float
    batches: int
    steps: int

    def __post_init__(self) -> None:
        _set(self, checks.non_negative, noise_multiplier=self.noise_multiplier)
        _set(self, checks.count, batches=self.batches)
        _set(self, checks.count, steps=self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscreteGaussian:
    """An integer-valued vector with discrete Gaussian noise on every coordinate, `steps` times.

    P[noise = k] is proportional to exp(-k^2 / (2 s^2)), one sampler for the whole noise. A query
    of L2 sensitivity D satisfies D^2 / (2 s^2) zCDP, whatever its dimension (Canonne, Kamath &
    Steinke 2020, arXiv:2004.00010, Theorem 4). A sum of discrete Gaussians drawn by several
    clients is not a discrete Gaussian and not this event. Every relation.

    Attributes:
        standard_deviation: the parameter s of the noise, in the integer units of the query, >= 0.
        sensitivity: L2 norm by which one contribution moves the query (D), same units, > 0.
        steps: number of runs, >= 1.
    """

    standard_deviation: float
    sensitivity: float
    steps: int = 1

    def __post_init__(self) -> None:
        _set(self, checks.non_negative, standard_deviation=self.standard_deviation)
        _set(self, checks.positive, sensitivity=self.sensitivity)
        _set(self, checks.count, steps=self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skellam:
    """An integer-valued vector with Skellam noise on every coordinate, `steps` times.

    The noise is the difference of two Poisson variables of mean v / 2, so its variance is v. Sums
    of independent Skellam noise are Skellam, so that clients may each add a share. For an L2
    sensitivity D2 and an L1 sensitivity D1, the Renyi divergence of integer order a is at most
    a D2^2 / (2 v) + min(((2a-1) D2^2 + 6 D1) / (4 v^2), 3 D1 / (2 v)) (Agarwal, Kairouz & Liu
    2021, arXiv:2110.04995, Theorem 3.5). Every relation.

    Attributes:
        variance: of the noise of one coordinate (v), in squared integer units, >= 0.
        sensitivity: L2 norm by which one contribution moves the query (D2), > 0.
        l1_sensitivity: L1 norm by which it moves it (D1), >= D2.
        steps: number of runs, >= 1.
    """

    variance: float
    sensitivity: float
    l1_sensitivity: float
    steps: int = 1

    def __post_init__(self) -> None:
        _set(self, checks.non_negative, variance=self.variance)
        _set(self, checks.positive, sensitivity=self.sensitivity)
        _set(self, checks.positive, l1_sensitivity=self.l1_sensitivity)
        _set(self, checks.count, steps=self.steps)
        if self.l1_sensitivity < self.sensitivity:
            raise InvalidValueError(
                f"l1_sensitivity must be at least the L2 sensitivity {self.sensitivity!r}, got "
                f"{self.l1_sensitivity!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Laplace:
    """A clipped sum with Laplace noise of scale sigma * D, `steps` times; D is the L1 sensitivity.

    Worst case: Laplace(1, sigma) against Laplace(0, sigma); one run is (1 / sigma, 0)-DP (Dwork et
    al. 2006). Every relation.

    Attributes:
        noise_multiplier: scale of the noise over the L1 sensitivity; unitless, >= 0.
        steps: number of runs, >= 1.
    """

    noise_multiplier: float
    steps: int = 1

    def __post_init__(self) -> None:
        _set(self, checks.non_negative, noise_multiplier=self.noise_multiplier)
        _set(self, checks.count, steps=self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class PureDP:
    """Any mechanism that is (epsilon, 0)-DP, `steps` times.

    Worst case: randomised response with odds exp(epsilon) (Kairouz, Oh & Viswanath 2015,
    arXiv:1311.0776). The guarantee holds for one relation; a guarantee for ADD_REMOVE is used for
    REPLACE_ONE at twice the epsilon, everything else is refused.

    Attributes:
        epsilon: of one run, >= 0.
        neighbouring: the relation for which the guarantee was proven.
        steps: number of runs, >= 1.
    """

    epsilon: float
    neighbouring: Neighbouring
    steps: int = 1

    def __post_init__(self) -> None:
        _set(self, checks.non_negative, epsilon=self.epsilon)
        object.__setattr__(self, "neighbouring", neighbouring_of(self.neighbouring))
        _set(self, checks.count, steps=self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroConcentrated:
    """Any mechanism that is rho-zCDP, `steps` times: Renyi divergence <= rho * a at every order a.

    Bun & Steinke 2016, arXiv:1605.02065. The guarantee holds for one relation; one for ADD_REMOVE
    is used for REPLACE_ONE at four times the rho (their Proposition 1.9), everything else is
    refused.

    Attributes:
        rho: of one run, >= 0.
        neighbouring: the relation for which the guarantee was proven.
        steps: number of runs, >= 1.
    """

    rho: float
    neighbouring: Neighbouring
    steps: int = 1

    def __post_init__(self) -> None:
        _set(self, checks.non_negative, rho=self.rho)
        object.__setattr__(self, "neighbouring", neighbouring_of(self.neighbouring))
        _set(self, checks.count, steps=self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeAggregation:
    """All partial sums of a binary tree over a stream, each with Gaussian noise; `steps` trees.

    A record contributes to one leaf of each tree at most, and so to at most
    h = ceil(log2(leaves)) + 1 nodes: one tree is a Gaussian mechanism at sigma / sqrt(h) (Kairouz
    et al. 2021, arXiv:2103.00039, Theorem 4.1). Which record stands at which leaf is fixed, so
    ADD_REMOVE, where all later records would move, is refused: use ZERO_OUT or REPLACE_ONE.

    Attributes:
        noise_multiplier: noise standard deviation of one node over the clipping norm; >= 0.
        leaves: steps of training that one tree covers, >= 1.
        steps: number of trees (restarts), >= 1.
    """

    noise_multiplier: float
    leaves: int
    steps: int = 1

    def __post_init__(self) -> None:
        _set(self, checks.non_negative, noise_multiplier=self.noise_multiplier)
        _set(self, checks.count, leaves=self.leaves)
        _set(self, checks.count, steps=self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class BandedMatrixFactorization:
    """DP-FTRL with noise correlated over steps by a banded strategy matrix; `steps` whole runs.

    The matrix C is lower triangular with `bands` non-zero diagonals and columns of L2 norm at
    most 1, and C X + N(0, sigma^2 C_clip^2 I) is released. If the participations of a record are
    at least `bands` steps apart, the columns they touch are orthogonal, and k of them move C X by
    at most sqrt(k): a Gaussian mechanism at sigma / sqrt(k) (Choquette-Choo et al. 2023,
    arXiv:2306.08153). That holds for adaptively chosen gradients (Denisov et al. 2022,
    arXiv:2202.08312). No amplification by sampling is claimed. Participations are fixed, so
    ADD_REMOVE is refused: use ZERO_OUT or REPLACE_ONE.

    Attributes:
        noise_multiplier: noise standard deviation over clipping norm times largest column norm.
        bands: number of bands, and least distance between participations, >= 1.
        participations: most steps of one run that a record takes part in (k), >= 1.
        steps: number of runs, >= 1.
    """

    noise_multiplier: float
    bands: int
    participations: int
    steps: int = 1

    def __post_init__(self) -> None:
        _set(self, checks.non_negative, noise_multiplier=self.noise_multiplier)
        _set(self, checks.count, bands=self.bands)
        _set(self, checks.count, participations=self.participations)
        _set(self, checks.count, steps=self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisedCount:
    """A released number of records, from which the parameters of other events may follow.

    Released is n + Z with P[Z = z] proportional to exp(-epsilon |z|), discrete Laplace noise of
    scale 1 / epsilon (Ghosh, Roughgarden & Sundararajan 2009, arXiv:0811.2841). One record moves n
    by one, so every count is at most exp(epsilon) times as likely under one of two neighbours as
    under the other.

    Noise, sampling rate and steps of other events may have been chosen from the count. A
    composition by privacy losses presupposes them fixed, so the epsilon of the count is *added* to
    that of everything else, never convolved with it: if for every count c that may come out the
    rest is (e2, delta)-DP, then for any set S of results of both, with S_c its part at count c,

        P[S] = sum_c P[c] P[S_c | c] <= sum_c P[c] (exp(e2) Q[S_c | c] + delta)
            <= sum_c exp(epsilon + e2) Q[c] Q[S_c | c] + sum_c P[c] delta
             = exp(epsilon + e2) Q[S] + delta.

    The e2 is the largest over all counts that may come out. Where the rest was calibrated to a
    budget, that is what the count left of the budget; what the events of one run add up to is the
    same statement given its count. ADD_REMOVE only: under the others the number of records is the
    same on both sides, or undefined, and public.

    Attributes:
        epsilon: of one count, > 0.
        steps: counts released with noise of this scale, each with fresh noise, >= 1.
    """

    epsilon: float
    steps: int = 1

    def __post_init__(self) -> None:
        _set(self, checks.positive, epsilon=self.epsilon)
        _set(self, checks.count, steps=self.steps)


Event = (
    Gaussian
    | PoissonGaussian
    | FixedSizeGaussian
    | RandomAllocationGaussian
    | DiscreteGaussian
    | Skellam
    | Laplace
    | PureDP
    | ZeroConcentrated
    | TreeAggregation
    | BandedMatrixFactorization
    | NoisedCount
)

KINDS: tuple[type[Event], ...] = get_args(Event)
"""All types of events."""


def is_event(value: object) -> bool:
    """Whether a value is one of these events."""
    return type(value) in KINDS
