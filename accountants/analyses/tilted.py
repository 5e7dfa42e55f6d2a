"""The loss of many steps by an exponentially tilted FFT, with a bound on every error.

The masses of each lattice are multiplied by exp(tilt * loss) and normalised, which moves the part
of the distribution that decides about a small delta to its middle; powers of their Fourier
transforms are multiplied, and the tilt is undone at the end. So the rounding of the FFT is small
beside delta however small delta is, where without the tilt it drowns any delta below 1e-10 or so.

    delta(epsilon) = exp(K(t) - t epsilon) * sum_j g_j w(x_j - epsilon),
    w(x) = exp(-t x) (1 - exp(-x)) for x > 0,  K(t) = sum_k T_k log sum_j p_kj exp(t L_kj)

with g the normalised tilted masses of the sum. What is computed differs from g by

* rounding of the transforms: every output of an FFT is a sum of the inputs, each through log2(n)
  butterflies, so it is off by at most a multiple of log2(n) ulps of the sum of their magnitudes,
  which is 1 here; powers pass that on factor by factor, the inverse transform averages it;
* circular wrapping: what lies outside the window, bounded by Chernoff's inequality at two tilts.

Above, both are added to delta; below, both are subtracted. Koskela, Jalko & Honkela 2020
(arXiv:1906.03049) compose by FFT; tilting is the classical saddlepoint device.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len

from accountants.analyses.lattices import Lattice
from accountants.analyses.pairs import ULP, Floats, Places

MOST_POINTS = 2**23
"""The longest FFT; where a window needs more, no bound comes from here."""

# Units in the last place, per factor of 2 in the length, by which an output of the FFT may be off
# relative to the sum of the magnitudes of its inputs; radix-2 to radix-5 passes stay below this.
_FFT_ULPS = 8.0
_FEWEST_POINTS = 64
# Logarithms: of a spectrum that is not worth its exponential, and of a weight not worth summing.
_NEGLIGIBLE = -100.0
_DECAY = 50.0
# Places that count as near the heaviest one, the far mass up to which summing them by hand pays,
# and the magnitude above which the logarithm of a transform is taken from 1 minus it.
_NEAR = 12
_MOSTLY_NEAR = 0.1
_NOT_SMALL = 0.5
# Units in the last place by which (1 - z) z^j may be off, with a sine that is off by up to four:
# twelve for the factor 1 - z, and for each power a multiplication and an addition of complex
# numbers, below two, at a z that is off by eighteen.
_POWER_ULPS = 12.0 + 20.0 * np.arange(_NEAR)
# Frequencies that are worked on at a time, so that they stay in the cache.
_BLOCK = 2**13
# Transforms below this many roundings are counted as error altogether.
_SMALLEST_TRANSFORM = 8.0


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
class _Phase:
    """Tilted masses of one lattice, counted from their heaviest place.

    Attributes:
        count: how often it happens.
        centre: loss of the heaviest place.
        places: distance from that place, in grid steps, shape (points,).
        masses: summing to 1.
    """

    count: int
    centre: float
    places: Places
    masses: Floats

    def circle(self, points: int, chosen: NDArray[np.bool_] | None = None) -> Floats:
        """The masses, or some of them, on a circle of so many places."""
        weights = self.masses if chosen is None else np.where(chosen, self.masses, 0.0)
        summed = np.bincount(self.places % points, weights=weights, minlength=points)
        return np.asarray(summed, dtype=np.float64)

    def far_transform(self, points: int) -> NDArray[np.complex128] | None:
        """The transform of the masses far from the heaviest place, if these are few; else None."""
        far = np.abs(self.places) > _NEAR
        if float(self.masses[far].sum()) > _MOSTLY_NEAR:
            return None
        return np.fft.rfft(self.circle(points, far))

    def log_transform(
        self,
        transform: NDArray[np.complex128],
        far_transform: NDArray[np.complex128] | None,
        angles: Floats,
        rounding: float,
    ) -> tuple[NDArray[np.complex128], Floats]:
        """Logarithm of the transform at some frequencies, and a bound on its error.

        Where nearly all mass lies near the heaviest place, as with rare sampling, the transform
        is close to 1, and 1 minus it is summed up without cancellation: the near places by a
        polynomial, the others by an FFT whose error is in proportion to their mass. Transforms
        below `_SMALLEST_TRANSFORM` roundings must not be asked for.
        """
        if far_transform is None:
            return np.log(transform), rounding / (np.abs(transform) - rounding)
        far_mass = float(self.masses[np.abs(self.places) > _NEAR].sum())
        missing, error = self._missing_nearby(angles)
        missing += far_mass - far_transform
        error += rounding * far_mass + 8 * ULP * np.abs(missing)
        log, size = _log_of_one_minus(missing)
        return log, error / np.maximum(size - error, rounding)

    def _missing_nearby(self, angles: Floats) -> tuple[NDArray[np.complex128], Floats]:
        """Sum of m_k (1 - z^k) over the places k near the heaviest one, and a bound on its error.

        With z = exp(-i angle) it is (1 - z) times a polynomial in z whose coefficients are sums of
        masses, and for places below the heaviest one the conjugate of such a product.
        """
        step = 2 * np.sin(angles / 2) ** 2 + 1j * np.sin(angles)
        z = 1 - step
        missing, doubt = np.zeros(len(angles), dtype=np.complex128), 0.0
        for side in (1, -1):
            masses = np.zeros(_NEAR + 1)
            near = (side * self.places > 0) & (side * self.places <= _NEAR)
            masses[side * self.places[near]] = self.masses[near]
            coefficients = np.cumsum(masses[:0:-1])  # from the highest power down
            doubt += float(coefficients @ _POWER_ULPS[::-1])
            value = np.full(len(angles), coefficients[0], dtype=np.complex128)
            for coefficient in coefficients[1:]:
                value *= z
                value += coefficient
            value *= step
            missing += value if side == 1 else np.conj(value)
        return missing, ULP * doubt * np.abs(step)


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
    steps: Sequence[int],
    window: Window,
    most_points: int = MOST_POINTS,
) -> Composed | None:
    """Compose `steps[k]` draws of each lattice.

    Args:
        lattices: all with the same grid step.
        steps: how often each happens.
        window: see there; anything gives valid bounds, a good one gives tight ones.
        most_points: the longest FFT that may be used.

    Returns:
        None if the window has too many points.
    """
    step = lattices[0].grid.step
    points = _good_length((window.high - window.low) / step)
    if points > most_points:
        return None
    tilted = [_tilted(each, window.tilt) for each in lattices]
    log_scale = _total([log for _, log in tilted], steps)
    phases = [
        _phase(each, masses, count)
        for each, (masses, _), count in zip(lattices, tilted, steps, strict=True)
    ]
    start = math.fsum(each.count * each.centre for each in phases)
    first = math.floor((window.low - start) / step)
    spectrum, spectrum_error = _spectrum(phases, points)
    masses = np.roll(np.fft.irfft(spectrum, points), -(first % points))
    average = _full_sum(np.abs(spectrum), points) / points
    rounding = _FFT_ULPS * ULP * math.log2(points) * average
    tails = _tails(lattices, steps, window, log_scale, start + first * step, points * step)
    reach = max(float(np.max(np.abs(each.grid.losses[[0, -1]]))) for each in lattices)
    count = sum(steps)
    infinity = math.fsum(n * each.infinity for each, n in zip(lattices, steps, strict=True))
    return Composed(
        tilt=window.tilt,
        start=start + first * step,
        step=step,
        masses=masses,
        log_scale=log_scale,
        mass_error=_full_sum(spectrum_error, points) / points + rounding,
        outside=tails[0] + tails[1],
        beyond=min(tails[2] + infinity, 1.0),
        relative=math.expm1(min(1e-9 + count * ULP * (32 + 8 * window.tilt * reach), 30.0)),
        drift=total_drift(lattices, steps) + 64 * ULP * (abs(start) + abs(first) * step),
    )


def log_moment(lattices: Sequence[Lattice], steps: Sequence[int], tilt: float) -> float:
    """K(tilt): the logarithm of E[exp(tilt L)] of the composed loss."""
    return _total([_tilted(each, tilt)[1] for each in lattices], steps)


def total_drift(lattices: Sequence[Lattice], steps: Sequence[int]) -> float:
    """Sum of the errors of the losses, those of their starting points included."""
    pairs = zip(lattices, steps, strict=True)
    return math.fsum(
        n * (each.drift + 8 * ULP * float(np.max(np.abs(each.grid.losses[[0, -1]]))))
        for each, n in pairs
    )


def _phase(lattice: Lattice, masses: Floats, count: int) -> _Phase:
    heaviest = int(np.argmax(masses))
    centre = float(lattice.grid.losses[heaviest])
    places = lattice.grid.places - lattice.grid.places[heaviest]
    return _Phase(count, centre, places, masses)


def _tilted(lattice: Lattice, tilt: float) -> tuple[Floats, float]:
    """Masses times exp(tilt * loss), normalised, and the logarithm of what they summed to."""
    with np.errstate(divide="ignore"):
        logs = np.log(lattice.masses) + tilt * lattice.grid.losses
    top = float(np.max(logs))
    masses = np.exp(logs - top)
    total = float(masses.sum())
    return masses / total, top + math.log(total)


def _total(logs: Sequence[float], steps: Sequence[int]) -> float:
    return math.fsum(n * log for log, n in zip(logs, steps, strict=True))


def _spectrum(phases: Sequence[_Phase], points: int) -> tuple[NDArray[np.complex128], Floats]:
    """Product of the powers of the transforms, and a bound on its error at every frequency.

    Where the product is negligible, or one factor too close to 0 for its logarithm, it is set to
    0, and its bound counts as error.
    """
    rounding = _FFT_ULPS * ULP * math.log2(points)
    length = points // 2 + 1
    alive = np.ones(length, dtype=np.bool_)
    size, doubt, errors = np.zeros(length), np.zeros(length), np.zeros(length)
    product = np.zeros(length, dtype=np.complex128)
    for phase in phases:
        transform, far = np.fft.rfft(phase.circle(points)), phase.far_transform(points)
        for block in _blocks(length):
            here = block.start + np.flatnonzero(alive[block])
            magnitude = np.abs(transform[here])
            size[here] += phase.count * np.log(magnitude + rounding)
            lives = (size[here] > _NEGLIGIBLE) & (magnitude > _SMALLEST_TRANSFORM * rounding)
            alive[here] = lives
            here, dead = here[lives], here[~lives]
            errors[dead] = 2 * np.exp(np.maximum(size[dead], _NEGLIGIBLE))
            angles = here * (2 * math.pi / points)
            log, error = phase.log_transform(
                transform[here], None if far is None else far[here], angles, rounding
            )
            product[here] += phase.count * log
            doubt[here] += phase.count * (error + 4 * ULP * (1 + len(phases)) * np.abs(log))
    for block in _blocks(length):
        here = block.start + np.flatnonzero(alive[block])
        product[here] = np.exp(product[here])
        doubts = np.minimum(doubt[here] + 4 * ULP * (4 - size[here]), 1.0)
        errors[here] = np.exp(size[here]) * 1.2 * np.expm1(doubts)
    product[~alive] = 0
    return product, errors


def _tails(
    lattices: Sequence[Lattice],
    steps: Sequence[int],
    window: Window,
    log_scale: float,
    low: float,
    width: float,
) -> tuple[float, float, float]:
    """Bounds on the tilted mass below and above the window, and on the untilted mass above it."""
    high = low + width - lattices[0].grid.step
    below = log_moment(lattices, steps, window.down) - log_scale
    above = log_moment(lattices, steps, window.up)
    return (
        _exp(below + (window.tilt - window.down) * low),
        _exp(above - log_scale - (window.up - window.tilt) * high),
        _exp(above - window.up * high),
    )


def _blocks(length: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, length, _BLOCK))


def _log_of_one_minus(
    missing: NDArray[np.complex128],
) -> tuple[NDArray[np.complex128], Floats]:
    """log(1 - x), accurate also where x is near 0, and the magnitude of 1 - x."""
    real, imaginary = -missing.real, -missing.imag
    size = np.hypot(1 + real, imaginary)
    squared = np.where(size > _NOT_SMALL, real * (2 + real) + imaginary**2, 0.0)
    with np.errstate(divide="ignore"):
        log_size = np.where(size > _NOT_SMALL, np.log1p(squared) / 2, np.log(size))
    return log_size + 1j * np.arctan2(imaginary, 1 + real), size


def _full_sum(half: Floats, points: int) -> float:
    """Sum over all frequencies of an array that holds those of a real transform."""
    doubled = 2 * float(half.sum()) - float(half[0])
    return doubled - float(half[-1]) if points % 2 == 0 else doubled


def _good_length(least: float) -> int:
    """A length of at least `least` that the FFT is fast for: a product of 2, 3 and 5."""
    if not least < 2 * MOST_POINTS:
        return 2 * MOST_POINTS
    return int(next_fast_len(max(math.ceil(least), _FEWEST_POINTS), real=True))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
