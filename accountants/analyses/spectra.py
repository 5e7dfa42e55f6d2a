"""The Fourier transform of many draws from tilted lattices, with a bound on its rounding.

Every output of an FFT is a sum of the inputs, each through log2(n) butterflies, so it is off by at
most a multiple of log2(n) units in the last place of the sum of their magnitudes, which is 1 here.
A draw that is made T times takes the T-th power of its transform, by way of the logarithm, and
that of rare events is close to 0 at every frequency: it is computed where it is small.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accountants.analyses.cells import Places
from accountants.analyses.floats import ULP, Floats
from accountants.analyses.lattices import Lattice

# Units in the last place, per factor of 2 in the length, by which an output of the FFT may be off
# relative to the sum of the magnitudes of its inputs; radix-2 to radix-5 passes stay below this.
_FFT_ULPS = 8.0
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
class TiltedLattice:
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

    @classmethod
    def of(cls, lattice: Lattice, masses: Floats, count: int) -> "TiltedLattice":
        """A lattice whose tilted masses were normalised."""
        heaviest = int(np.argmax(masses))
        centre = float(lattice.grid.losses[heaviest])
        places = lattice.grid.places - lattice.grid.places[heaviest]
        return cls(count, centre, places, masses)

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


def fft_rounding(points: int) -> float:
    """Bound on the error of an output of the FFT, over the sum of the magnitudes of its inputs."""
    return _FFT_ULPS * ULP * math.log2(points)


def spectrum(parts: Sequence[TiltedLattice], points: int) -> tuple[NDArray[np.complex128], Floats]:
    """Product of the powers of the transforms, and a bound on its error at every frequency.

    Where the product is negligible, or one factor too close to 0 for its logarithm, it is set to
    0, and its bound counts as error.
    """
    rounding = fft_rounding(points)
    length = points // 2 + 1
    alive = np.ones(length, dtype=np.bool_)
    size, doubt, errors = np.zeros(length), np.zeros(length), np.zeros(length)
    product = np.zeros(length, dtype=np.complex128)
    for each in parts:
        transform, far = np.fft.rfft(each.circle(points)), each.far_transform(points)
        for block in _blocks(length):
            here = block.start + np.flatnonzero(alive[block])
            magnitude = np.abs(transform[here])
            size[here] += each.count * np.log(magnitude + rounding)
            lives = (size[here] > _NEGLIGIBLE) & (magnitude > _SMALLEST_TRANSFORM * rounding)
            alive[here] = lives
            here, dead = here[lives], here[~lives]
            errors[dead] = 2 * np.exp(np.maximum(size[dead], _NEGLIGIBLE))
            angles = here * (2 * math.pi / points)
            log, error = each.log_transform(
                transform[here], None if far is None else far[here], angles, rounding
            )
            product[here] += each.count * log
            doubt[here] += each.count * (error + 4 * ULP * (1 + len(parts)) * np.abs(log))
    for block in _blocks(length):
        here = block.start + np.flatnonzero(alive[block])
        product[here] = np.exp(product[here])
        doubts = np.minimum(doubt[here] + 4 * ULP * (4 - size[here]), 1.0)
        errors[here] = np.exp(size[here]) * 1.2 * np.expm1(doubts)
    product[~alive] = 0
    return product, errors


def full_sum(half: Floats, points: int) -> float:
    """Sum over all frequencies of an array that holds those of a real transform."""
    doubled = 2 * float(half.sum()) - float(half[0])
    return doubled - float(half[-1]) if points % 2 == 0 else doubled


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
