"""Hidden coins: noise and batch sampling from secret streams keyed by the operating system.

Privacy amplification by sampling needs the sampling coins to be as unknown as the noise. Each
purpose has a stream of its own: ChaCha20 (RFC 8439) under a fresh 256-bit key from the operating
system, never saved, never derived from a public seed, never replayed. torch's CPU generator is
not used, because only 32 bits of its seed count.

Normal deviates: Box-Muller in float64 over 53-bit uniforms, summed over four draws and halved,
which resists reconstruction of the noise from its floating-point representation
(Holohan & Braghin 2021, arXiv:2107.10138).
"""

import os
from typing import Final, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

_UNIT: Final = 2.0**-53
_DRAWS: Final = 4
_BYTES_PER_KEY: Final = 1 << 37
"""Half of what the 32-bit block counter allows; then the stream goes on under a key from itself."""


class RandomStream:
    """A stream of random numbers from ChaCha20.

    Args:
        key: 32 secret bytes.
        nonce: 16 bytes; the first four count blocks (little-endian).
    """

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._cipher = Cipher(ChaCha20(key, nonce), mode=None).encryptor()
        self._bytes_left = _BYTES_PER_KEY

    def __repr__(self) -> str:
        return "RandomStream(secret)"

    def __reduce__(self) -> str:
        raise TypeError("a random stream must not be copied or saved: its numbers would repeat")

    def words(self, count: int) -> NDArray[np.uint64]:
        """Uniform 64-bit integers, shape (count,)."""
        if 8 * count > self._bytes_left:
            fresh = self._cipher.update(bytes(32))
            self._cipher = Cipher(ChaCha20(fresh, bytes(16)), mode=None).encryptor()
            self._bytes_left = _BYTES_PER_KEY
        self._bytes_left -= 8 * count
        return np.frombuffer(self._cipher.update(bytes(8 * count)), dtype="<u8").astype(np.uint64)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1), multiples of 2^-53, shape (count,)."""
        return (self.words(count) >> np.uint64(11)).astype(np.float64) * _UNIT

    def normal(self, count: int) -> NDArray[np.float64]:
        """Standard normal numbers, shape (count,)."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(_DRAWS * count)))
        draws = radius * np.cos(2.0 * np.pi * self.uniform(_DRAWS * count))
        return np.asarray(draws.reshape(_DRAWS, count).sum(axis=0) / np.sqrt(_DRAWS))


class Coins(Protocol):
    """Where a client's random streams come from."""

    @property
    def secret(self) -> bool:
        """False if anyone could repeat the streams; such a run is reported as not private."""
        ...

    def stream(self, client: str, purpose: str) -> RandomStream:
        """A fresh stream for one client and one purpose ("noise", "sampling", "rounding")."""
        ...


class SystemCoins:
    """Fresh streams keyed by the operating system; the default and the only private choice."""

    secret = True

    def stream(self, client: str, purpose: str) -> RandomStream:  # noqa: ARG002 - keys are fresh
        """A stream that nobody can repeat; the names do not enter its key."""
        return RandomStream(os.urandom(32), bytes(16))
