"""Hidden randomness: noise and batch sampling from secret streams keyed by the operating system.

Privacy amplification by sampling needs the sampling randomness to be as unknown as the noise. Each
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

from privfed.private_step.chacha import BYTES_PER_BLOCK, key_stream, nonce_after

_UNIT: Final = 2.0**-53
_DRAWS: Final = 4
_CACHED: Final = 8192
"""Numbers that a processor draws at once: few enough for its cache, and for one core."""
_PARTS: Final = 256
"""Such parts that another device draws at once: about 110 MB, and enough to keep it busy."""
_WORDS_ON_DEVICE: Final = 1 << 20
"""From so many words on, another device computes them faster than a processor and a copy."""
_BYTES_PER_KEY: Final = 1 << 37
"""Half of what the 32-bit block counter allows; then the stream goes on under a key from itself."""


class RandomStream:
    """A stream of random numbers from ChaCha20.

    Args:
        key: 32 secret bytes.
        nonce: 16 bytes; the first four count blocks (little-endian).
    """

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._key, self._nonce, self._used = key, nonce, 0
        self._cipher = Cipher(ChaCha20(key, nonce), mode=None).encryptor()

    def __repr__(self) -> str:
        return "RandomStream(secret)"

    def __reduce__(self) -> str:
        raise TypeError("a random stream must not be copied or saved: its numbers would repeat")

    @property
    def bytes_left(self) -> int:
        """Bytes that the present key still gives; a draw of more goes on under the next key."""
        return _BYTES_PER_KEY - self._used

    def raw(self, count: int) -> bytes:
        """Uniform bytes, as many."""
        self._take(count)
        return self._cipher.update(bytes(count))

    def words(self, count: int) -> NDArray[np.uint64]:
        """Uniform 64-bit integers, shape (count,)."""
        return np.frombuffer(self.raw(8 * count), dtype="<u8").astype(np.uint64)

    def words_on(self, count: int, device: torch.device) -> Tensor:
        """What `words` gives, as int64 on the device, which computes them where they are many."""
        if count < _WORDS_ON_DEVICE or self._used % 8:
            return torch.from_numpy(self.words(count).view(np.int64)).to(device)
        block, skipped = divmod(self._take(8 * count), BYTES_PER_BLOCK)
        num_blocks = -(-(skipped + 8 * count) // BYTES_PER_BLOCK)
        self._go_to(self._used)
        words = key_stream(self._key, nonce_after(self._nonce, block), num_blocks, device)
        return words[skipped // 8 :][:count]

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1), multiples of 2^-53, shape (count,)."""
        return (self.words(count) >> np.uint64(11)).astype(np.float64) * _UNIT

    def _take(self, count: int) -> int:
        """Mark so many bytes as used; returns where they begin under the key."""
        if count > self.bytes_left:
            self._key, self._nonce, self._used = self._cipher.update(bytes(32)), bytes(16), 0
            self._go_to(0)
        self._used += count
        return self._used - count

    def _go_to(self, position: int) -> None:
        """Let the processor's cipher go on at that byte under the key."""
        block, skipped = divmod(position, BYTES_PER_BLOCK)
        algorithm = ChaCha20(self._key, nonce_after(self._nonce, block))
        self._cipher = Cipher(algorithm, mode=None).encryptor()
        self._cipher.update(bytes(skipped))


class NoiseStream(Protocol):
    """Where the noise of a private step comes from."""

    def normal(self, count: int, device: torch.device) -> Tensor:
        """Standard normal numbers, float64, shape (count,), on the device."""
        ...


class SecureNoise:
    """Noise from a cryptographic stream that also resists reconstruction.

    The floating-point numbers that one draw can take are few enough to tell which sum they came
    from. So every number is the sum of four draws, halved: Box-Muller in float64 over 53-bit
    uniforms. A stream gives the same numbers on every device, but for the rounding of its
    logarithms, sines and cosines.

    Args:
        stream: secret randomness.

    Reference:
        Holohan & Braghin 2021, arXiv:2107.10138.
    """

    def __init__(self, stream: RandomStream) -> None:
        self._stream = stream

    def normal(self, count: int, device: torch.device) -> Tensor:
        """Standard normal numbers, float64, shape (count,), on the device."""
        if device.type != "cpu":
            return self._normal_on(count, device)
        numbers = torch.empty(count, dtype=torch.float64)
        for part in torch.split(numbers, _CACHED):
            words = self._stream.words(_DRAWS * len(part)).view(np.int64)
            part.copy_(_sums_of_draws(torch.from_numpy(words), 1))
        return numbers

    def _normal_on(self, count: int, device: torch.device) -> Tensor:
        """As on the CPU, with many parts at once; a key ends at the same part as there."""
        numbers = torch.empty(count, dtype=torch.float64, device=device)
        done = 0
        while done < count:
            size = min(_CACHED, count - done)
            fit = self._stream.bytes_left // (8 * _DRAWS * size)
            parts = min(_PARTS, (count - done) // size, max(1, fit))
            words = self._stream.words_on(_DRAWS * parts * size, device)
            numbers[done : done + parts * size] = _sums_of_draws(words, parts)
            done += parts * size
        return numbers


def _sums_of_draws(words: Tensor, parts: int) -> Tensor:
    """Standard normal numbers, each of four words of the same part.

    Args:
        words: uniform int64, shape (parts * 4 * size,); overwritten.
        parts: how many.

    Returns:
        Shape (parts * size,), float64.
    """
    size = len(words) // (parts * _DRAWS)
    uniform = words.bitwise_right_shift_(11).bitwise_and_((1 << 53) - 1).double().mul_(_UNIT)
    inner, turns = uniform.view(parts, 2, 2, size).unbind(dim=1)
    radius = inner.neg_().log1p_().mul_(-2.0).sqrt_()
    angle = turns.mul_(2.0 * torch.pi)
    first = (radius * angle.cos()).sum(dim=1)
    second = radius.mul_(angle.sin_()).sum(dim=1)
    # The sine of a pair is independent of its cosine; it joins another number's sum.
    both = first.add_(second.roll(size // 2, dims=1))
    return both.mul_(_DRAWS**-0.5).flatten()


class FastNoise:
    """Noise from a statistical generator under a secret key: faster, and claiming less.

    Whoever sees much of such noise in clear could work out the rest; a privacy claim in the sense
    of cryptography needs `SecureNoise`.

    Args:
        stream: secret randomness, of which the generator's key is drawn once.
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


class Randomness(Protocol):
    """Where a client's random streams come from."""

    @property
    def secret(self) -> bool:
        """False if anyone could repeat the streams; such a run is reported as not private."""
        ...

    def stream(self, client: str, purpose: str) -> RandomStream:
        """A fresh stream for one client and one purpose ("noise", "sampling", "rounding")."""
        ...


class SystemRandomness:
    """Fresh streams keyed by the operating system; the default and the only private choice."""

    secret = True

    def stream(self, client: str, purpose: str) -> RandomStream:  # noqa: ARG002 - keys are fresh
        """A stream that nobody can repeat; the names do not enter its key."""
        return RandomStream(os.urandom(32), bytes(16))
