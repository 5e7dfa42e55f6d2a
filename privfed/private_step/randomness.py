"""Hidden coins: noise and batch sampling from secret streams keyed by the operating system.

Privacy amplification by sampling needs the sampling coins to be as unknown as the noise. Each
purpose has a stream of its own: ChaCha20 (RFC 8439) under a fresh 256-bit key from the operating
system, never saved, never derived from a public seed, never replayed. torch's CPU generator is
not used, because only 32 bits of its seed count.
"""

import os
from typing import Final, Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray
from torch import Tensor

_UNIT: Final = 2.0**-53
_DRAWS: Final = 4
_CACHED: Final = 8192
"""Numbers that a processor draws at once: few enough for its cache, and for one core."""
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

    def raw(self, count: int) -> bytes:
        """Uniform bytes, as many."""
        if count > self._bytes_left:
            fresh = self._cipher.update(bytes(32))
            self._cipher = Cipher(ChaCha20(fresh, bytes(16)), mode=None).encryptor()
            self._bytes_left = _BYTES_PER_KEY
        self._bytes_left -= count
        return self._cipher.update(bytes(count))

    def words(self, count: int) -> NDArray[np.uint64]:
        """Uniform 64-bit integers, shape (count,)."""
        return np.frombuffer(self.raw(8 * count), dtype="<u8").astype(np.uint64)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1), multiples of 2^-53, shape (count,)."""
        return (self.words(count) >> np.uint64(11)).astype(np.float64) * _UNIT


class NoiseStream(Protocol):
    """Where the noise of a private step comes from."""

    def normal(self, count: int, device: torch.device) -> Tensor:
        """Standard normal numbers, float64, shape (count,), on the device."""
        ...


class SecureNoise:
    """Noise from a cryptographic stream that also resists reconstruction.

    The floating-point numbers that one draw can take are few enough to tell which sum they came
    from. So every number is the sum of four draws, halved: Box-Muller in float64 over 53-bit
    uniforms.

    Args:
        stream: secret coins.

    Reference:
        Holohan & Braghin 2021, arXiv:2107.10138.
    """

    def __init__(self, stream: RandomStream) -> None:
        self._stream = stream

    def normal(self, count: int, device: torch.device) -> Tensor:
        """Standard normal numbers, float64, shape (count,), on the device."""
        if device.type != "cpu":
            return self._draw(count, device)
        numbers = torch.empty(count, dtype=torch.float64)
        for part in torch.split(numbers, _CACHED):
            part.copy_(self._draw(len(part), device))
        return numbers

    def _draw(self, count: int, device: torch.device) -> Tensor:
        words = torch.from_numpy(self._stream.words(_DRAWS * count).view(np.int64)).to(device)
        uniform = words.bitwise_right_shift_(11).bitwise_and_((1 << 53) - 1).double().mul_(_UNIT)
        inner, turns = uniform.view(2, 2, count)
        radius = inner.neg_().log1p_().mul_(-2.0).sqrt_()
        angle = turns.mul_(2.0 * torch.pi)
        first = (radius * angle.cos()).sum(dim=0)
        second = radius.mul_(angle.sin_()).sum(dim=0)
        # The sine of a pair is independent of its cosine; it joins another number's sum.
        both: Tensor = first.add_(second.roll(count // 2))
        return both.mul_(_DRAWS**-0.5)


class FastNoise:
    """Noise from a statistical generator under a secret key: faster, and claiming less.

    Whoever sees much of such noise in clear could work out the rest; a privacy claim in the sense
    of cryptography needs `SecureNoise`.

    Args:
        stream: secret coins, of which the generator's key is drawn once.
    """

    def __init__(self, stream: RandomStream) -> None:
        self._stream = stream
        self._generators: dict[torch.device, torch.Generator] = {}
        self._numpy = np.random.Generator(np.random.SFC64(stream.words(4)))

    def normal(self, count: int, device: torch.device) -> Tensor:
        """Standard normal numbers, float64, shape (count,), on the device."""
        if device.type == "cpu":
            return torch.from_numpy(self._numpy.standard_normal(count))
        if device not in self._generators:
            seed = int(self._stream.words(1)[0] >> np.uint64(1))
            self._generators[device] = torch.Generator(device).manual_seed(seed)
        return torch.randn(
            count, generator=self._generators[device], device=device, dtype=torch.float64
        )


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
