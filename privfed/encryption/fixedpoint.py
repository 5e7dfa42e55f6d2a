"""Real updates as bounded integers, rounded at random so that the mean stays right.

A value in [-public_range, public_range] becomes an integer in [-M, M] with M = 2^(bits-1) - 1, in
units of `public_range / M`. It is rounded up with a probability equal to its fraction, so the
expected decoded value is the value itself and rounding errors of many clients average out. The
randomness comes in as an argument: this module draws nothing.

Reference:
    Suresh et al. 2017, arXiv:1611.00429: unbiased stochastic k-level quantisation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfed.errors import ConfigError, EncryptionError
from privfed.settings.encryption import MAX_BITS, MIN_BITS

_AT_ONCE = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPointEncoding:
    """Updates as integers of a public range; meets `protocol.ciphers.Encoding`.

    Attributes:
        public_range: values are clipped to +-public_range, in the units of the update.
        bits: of one value, sign included.

    Raises:
        ConfigError: if either is out of range.
    """

    public_range: float
    bits: int

    def __post_init__(self) -> None:
        step(self.public_range, self.bits)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Two bytes hold any value of at most 16 bits."""
        return np.dtype("<i2")

    def encode(
        self, vector: NDArray[np.floating], uniform: Callable[[int], NDArray[np.float64]]
    ) -> NDArray[np.int16]:
        """Integers in [-M, M], shape (params,); see `encode`."""
        encoded = np.empty(len(vector), dtype=self.dtype)
        for start in range(0, len(vector), _AT_ONCE):
            part = vector[start : start + _AT_ONCE]
            encoded[start : start + _AT_ONCE] = encode(
                part,
                public_range=self.public_range,
                bits=self.bits,
                uniforms=uniform(len(part)),
            )
        return encoded

    def decode(self, total: NDArray[Any]) -> NDArray[np.float64]:
        """A sum in the units of the update; see `decode`."""
        return decode(total, public_range=self.public_range, bits=self.bits)


def max_magnitude(bits: int) -> int:
    """Largest integer M that one client sends for one parameter: 2^(bits-1) - 1.

    Raises:
        ConfigError: if `bits` is not a whole number in 4..16.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise ConfigError(
            f"bits must be a whole number in {MIN_BITS}..{MAX_BITS}, got {bits!r}; "
            "it counts the bits of one quantised parameter, its sign included"
        )
    return (1 << (bits - 1)) - 1


def step(public_range: float, bits: int) -> float:
    """The value of one integer unit, in the units of the update: public_range / M.

    Raises:
        ConfigError: if `public_range` is not finite and positive, or `bits` is not in 4..16.
    """
    return _checked_range(public_range) / max_magnitude(bits)


def encode(
    vector: NDArray[np.floating],
    *,
    public_range: float,
    bits: int,
    uniforms: NDArray[np.floating],
) -> NDArray[np.int64]:
    """Clip to the public range and round at random to integers in [-M, M].

    Args:
        vector: flat update, shape (params,), finite.
        public_range: largest absolute value that is sent, in the units of `vector`; finite, > 0.
        bits: bits of one quantised parameter, sign included; 4..16.
        uniforms: independent secret draws, uniform in [0, 1), shape (params,).

    Returns:
        Integers, shape (params,). Within the range, each is less than one unit from the value.

    Raises:
        EncryptionError: if `vector` is not finite, or a shape or a draw is wrong.
        ConfigError: if `public_range` or `bits` is out of range.
    """
    largest = max_magnitude(bits)
    bound = _checked_range(public_range)
    values = _checked_vector(vector, "vector")
    draws = _checked_vector(uniforms, "uniforms")
    if values.shape != draws.shape:
        raise EncryptionError(
            f"uniforms must have the shape of the vector, {values.shape}, got {draws.shape}; "
            "draw one number per parameter"
        )
    if not np.all((draws >= 0) & (draws < 1)):
        raise EncryptionError("uniforms must lie in [0, 1); draw them with a uniform generator")
    scaled = np.clip(values, -bound, bound) / bound * largest
    below = np.floor(scaled)
    # `below + (u < fraction)`, not `floor(scaled + u)`: in floats M + u can round up to M + 1.
    rounded: NDArray[np.int64] = (below + (draws < scaled - below)).astype(np.int64)
    return rounded


def decode(total: NDArray[np.integer], *, public_range: float, bits: int) -> NDArray[np.float64]:
    """Integers, or a sum of them over clients, back in the units of the update.

    Args:
        total: integers, shape (params,).
        public_range: as given to `encode`.
        bits: as given to `encode`.

    Returns:
        Shape (params,). For a mean, divide by the number of clients that were summed.

    Raises:
        EncryptionError: if `total` does not hold integers or is not flat.
        ConfigError: if `public_range` or `bits` is out of range.
    """
    largest = max_magnitude(bits)
    bound = _checked_range(public_range)
    array = np.asarray(total)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise EncryptionError(
            f"total must hold integers in shape (params,), got {array.dtype} {array.shape}; "
            "decode what `unpack` returned"
        )
    decoded: NDArray[np.float64] = array.astype(np.float64) / largest * bound
    return decoded


def _checked_range(public_range: float) -> float:
    if not (public_range > 0 and math.isfinite(public_range)):
        raise ConfigError(
            f"public_range must be finite and above 0, got {public_range!r}; "
            "it is the largest absolute value of an update that is sent"
        )
    return float(public_range)


def _checked_vector(vector: NDArray[np.floating], name: str) -> NDArray[np.float64]:
    array = np.asarray(vector)
    if array.dtype.kind != "f" or array.ndim != 1:
        raise EncryptionError(
            f"{name} must hold floats in shape (params,), got {array.dtype} {array.shape}"
        )
    values = array.astype(np.float64)
    if not np.all(np.isfinite(values)):
        raise EncryptionError(
            f"{name} must be finite, got {np.count_nonzero(~np.isfinite(values))} NaN or "
            "infinite values; a diverged update must not be sent"
        )
    return values
