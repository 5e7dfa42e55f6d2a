"""The loss of many steps by an exponentially tilted FFT, with a bound on every error.

The masses of each lattice are multiplied by exp(tilt * loss) and normalised, which moves the part
of the distribution that decides about a small delta to its middle; powers of their Fourier
transforms are multiplied, and the tilt is undone at the end. So the rounding of the FFT is small
beside delta however small delta is, where without the tilt it drowns any delta below 1e-10 or so.

    delta(epsilon) = exp(K(t) - t epsilon) * sum_j g_j w(x_j - epsilon),
    w(x) = exp(-t x) (1 - exp(-x)) for x > 0,  K(t) = sum_k T_k log sum_j p_kj exp(t L_kj)

with g the normalised tilted masses of the sum. What is computed differs from g by

* rounding of the transforms (`spectra`), which the inverse transform averages;
* circular wrapping: what lies outside the window, bounded by Chernoff's inequality at two tilts.

Above, both are added to delta; below, both are subtracted. Koskela, Jalko & Honkela 2020
(arXiv:1906.03049) compose by FFT; tilting is the classical saddlepoint device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.fft import next_fast_len

from accountants.analyses.floats import ULP, Floats
from accountants.analyses.lattices import Lattice
from accountants.analyses.spectra import TiltedLattice, fft_rounding, full_sum, spectrum

MOST_POINTS = 2**23
"""The longest FFT; where a window needs more, no bound comes from here."""

_FEWEST_POINTS = 64
# Logarithm of a weight that is not worth summing.
_DECAY = 50.0


@dataclass(frozen=True, slots=True)
class Window:
    """Where and how the composed loss is looked at.

    Attributes:
        tilt: t, > 0.
        low, high: composed losses between which nearly all tilted mass lies.
        down: other tilt, below t, for Chernoff's bound on what lies below `low`.
        up: other tilt, above t, for what lies above `high`.
    """

    tilt: float
    low: float
    high: float
    down: float
    up: float


@dataclass(frozen=True, slots=True)
class Composed:
    """The tilted distribution of the composed loss on a window, with its errors.

    Attributes:
        tilt: t.
        start: loss of the first mass.
        step: distance of losses.
        masses: as computed, shape (points,).
        log_scale: K(t).
        mass_error: bound on the error of every mass.
        outside: bound on the tilted mass outside the window.
        beyond: bound on the untilted mass above the window, at infinity included.
        relative: bound on the relative error of everything multiplied.
        drift: bound on the error of the losses.
        decay: exp(-t h j) for j steps h, as far as it is worth summing, shape (at most points,).
        rise: the same times 1 - exp(-h j).
    """

    tilt: float
    start: float
    step: float
    masses: Floats
    log_scale: float
    mass_error: float
    outside: float
    beyond: float
    relative: float
    drift: float
    decay: Floats = field(init=False)
    rise: Floats = field(init=False)

    def __post_init__(self) -> None:
        worth_summing = math.ceil(_DECAY / (self.tilt * self.step)) + 1
        above = self.step * np.arange(min(len(self.masses), worth_summing))
        decay = np.exp(-self.tilt * above)
        object.__setattr__(self, "decay", decay)
        object.__setattr__(self, "rise", decay * -np.expm1(-above))

    def delta_above(self, epsilon: float) -> float:
        """A number that delta(epsilon) does not exceed."""
        weighted, weights = self._weighted(0.0, epsilon - self.drift)
        total = weighted + self.mass_error * weights
        total += math.exp(-_DECAY) * (2 + self.mass_error * len(self.masses))
        if epsilon - self.drift < self.start:  # losses below the window count as well
            total += self.outside
        scale = _exp(self.log_scale - self.tilt * (epsilon - self.drift))
        return total * scale * (1 + self.relative) + self.beyond

    def delta_below(self, epsilon: float) -> float:
        """A number that delta(epsilon) is not below."""
        total = self._weighted(self.mass_error, epsilon + self.drift)[0] - self.outside
        if not total > 0:
            return 0.0
        scale = _exp(self.log_scale - self.tilt * (epsilon + self.drift))
        return max(total * scale * (1 - self.relative), 0.0) if scale < math.inf else 0.0

    def _weighted(self, less: float, epsilon: float) -> tuple[float, float]:
        """Sum of masses, each less so much, times w of the losses above epsilon, and of w itself.

        With the first of these losses a little more than epsilon, w at j steps above it is
        exp(-t a) exp(-t h j) ((1 - exp(-a)) + exp(-a) (1 - exp(-h j))), all of whose terms are
        positive. Losses so far up that w is below exp(-50) are left out.
        """
        first = min(max(math.ceil((epsilon - self.start) / self.step), 0), len(self.masses))
        count = min(len(self.masses) - first, len(self.decay))
        used = np.maximum(self.masses[first : first + count] - less, 0.0)
        above = max(self.start + self.step * first - epsilon, 0.0)
        here, rest = -math.expm1(-above), math.exp(-above)
        scale = math.exp(-self.tilt * above)
        weighted = here * float(used @ self.decay[:count]) + rest * float(used @ self.rise[:count])
        weights = here * float(self.decay[:count].sum()) + rest * float(self.rise[:count].sum())
        return scale * weighted, scale * weights


def compose(
    lattices: Sequence[Lattice],
    counts: Sequence[int],
    window: Window,
    most_points: int = MOST_POINTS,
) -> Composed | None:
    """Compose `counts[k]` draws of each lattice.

    Args:
        lattices: all with the same grid step.
        counts: how often each happens.
        window: see there; anything gives valid bounds, a good one gives tight ones.
        most_points: the longest FFT that may be used.

    Returns:
        None if the window has too many points.
    """
    step = lattices[0].grid.step
    points = _good_length((window.high - window.low) / step)
    if points > most_points:
        return None
    masses, logs = zip(*(_tilted(each, window.tilt) for each in lattices), strict=True)
    log_scale = _total(logs, counts)
    parts = list(map(TiltedLattice.of, lattices, masses, counts))
    start = math.fsum(each.count * each.centre for each in parts)
    first = math.floor((window.low - start) / step)
    transform, transform_error = spectrum(parts, points)
    composed = np.roll(np.fft.irfft(transform, points), -(first % points))
    rounding = fft_rounding(points) * (full_sum(np.abs(transform), points) / points)
    tails = _tails(lattices, counts, window, log_scale, start + first * step, points * step)
    infinity = math.fsum(n * each.infinity for each, n in zip(lattices, counts, strict=True))
    return Composed(
        tilt=window.tilt,
        start=start + first * step,
        step=step,
        masses=composed,
        log_scale=log_scale,
        mass_error=full_sum(transform_error, points) / points + rounding,
        outside=tails[0] + tails[1],
        beyond=min(tails[2] + infinity, 1.0),
        relative=_relative_error(lattices, counts, window.tilt),
        drift=total_drift(lattices, counts) + 64 * ULP * (abs(start) + abs(first) * step),
    )


def log_moment(lattices: Sequence[Lattice], counts: Sequence[int], tilt: float) -> float:
    """K(tilt): the logarithm of E[exp(tilt L)] of the composed loss."""
    return _total([_tilted(each, tilt)[1] for each in lattices], counts)


def total_drift(lattices: Sequence[Lattice], counts: Sequence[int]) -> float:
    """Sum of the errors of the losses, those of their starting points included."""
    pairs = zip(lattices, counts, strict=True)
    return math.fsum(
        n * (each.drift + 8 * ULP * float(np.max(np.abs(each.grid.losses[[0, -1]]))))
        for each, n in pairs
    )


def _relative_error(lattices: Sequence[Lattice], counts: Sequence[int], tilt: float) -> float:
    """Bound on the relative error of a product over all draws, each with a few roundings."""
    reach = max(float(np.max(np.abs(each.grid.losses[[0, -1]]))) for each in lattices)
    return math.expm1(min(1e-9 + sum(counts) * ULP * (32 + 8 * tilt * reach), 30.0))


def _tilted(lattice: Lattice, tilt: float) -> tuple[Floats, float]:
    """Masses times exp(tilt * loss), normalised, and the logarithm of what they summed to."""
    with np.errstate(divide="ignore"):
        logs = np.log(lattice.masses) + tilt * lattice.grid.losses
    top = float(np.max(logs))
    masses = np.exp(logs - top)
    total = float(masses.sum())
    return masses / total, top + math.log(total)


def _total(logs: Sequence[float], counts: Sequence[int]) -> float:
    return math.fsum(n * log for log, n in zip(logs, counts, strict=True))


def _tails(
    lattices: Sequence[Lattice],
    counts: Sequence[int],
    window: Window,
    log_scale: float,
    low: float,
    width: float,
) -> tuple[float, float, float]:
    """Bounds on the tilted mass below and above the window, and on the untilted mass above it."""
    high = low + width - lattices[0].grid.step
    below = log_moment(lattices, counts, window.down) - log_scale
    above = log_moment(lattices, counts, window.up)
    return (
        _exp(below + (window.tilt - window.down) * low),
        _exp(above - log_scale - (window.up - window.tilt) * high),
        _exp(above - window.up * high),
    )


def _good_length(least: float) -> int:
    """A length of at least `least` that the FFT is fast for: a product of 2, 3 and 5."""
    if not least < 2 * MOST_POINTS:
        return 2 * MOST_POINTS
    return int(next_fast_len(max(math.ceil(least), _FEWEST_POINTS), real=True))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
