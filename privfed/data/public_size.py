"""The size that a client publishes: a declared number, or its true one under noise.

Under add/remove the number of records is private. Noise of the discrete Laplace law, drawn exactly
in integers, makes one release of it differentially private: P(noise = k) is proportional to
exp(-noise_epsilon |k|), and one record more or less moves the number by one.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Protocol

from privfed.checks import require_count, require_positive
from privfed.errors import ConfigError

_LARGEST: Final = 2**53
"""Of a released size: floats hold whole numbers exactly up to here."""


class SecretBytes(Protocol):
    """Secret randomness, never replayed: `privfed.private_step.randomness.RandomStream`."""

    def raw(self, count: int) -> bytes:
        """Uniform bytes, as many."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisySize:
    """The true number of records is released once under noise, for each data set.

    Attributes:
        noise_epsilon: what the release costs, > 0; it is added to the epsilon of everything else
            that the client releases. The noise's standard deviation is about
            sqrt(2) / noise_epsilon records.
        minimum: a client whose released size lies below it is left out, >= 1.
    """

    noise_epsilon: float
    minimum: int = 1

    def __post_init__(self) -> None:
        """Check every field."""
        require_positive(noise_epsilon=self.noise_epsilon)
        require_count(minimum=self.minimum)


def check_public_size(client: str, size: object) -> int | NoisySize:
    """The size, if it is a declared one or one to be released.

    Raises:
        ConfigError: with the client's name.
    """
    if isinstance(size, NoisySize) or (type(size) is int and size >= 1):
        return size
    raise ConfigError(
        f"public_size of client {client!r} must be a whole number of at least 1, or "
        f"NoisySize(noise_epsilon=...), got {size!r}"
    )


def released_size(count: int, noise_epsilon: float, stream: SecretBytes) -> int:
    """A count under discrete Laplace noise: noise_epsilon-DP where one record changes it by one.

    Args:
        count: true number of records.
        noise_epsilon: its exact binary value is the law's parameter.
        stream: secret randomness.

    Returns:
        In [1, 2^53]; these bounds are post-processing.
    """
    noised = count + discrete_laplace(Fraction(noise_epsilon), stream)
    return min(max(1, noised), _LARGEST)


def discrete_laplace(epsilon: Fraction, stream: SecretBytes) -> int:
    """An integer k with probability proportional to exp(-epsilon |k|), exactly: no float is drawn.

    Args:
        epsilon: > 0.
        stream: secret randomness.

    Reference:
        Canonne, Kamath, Steinke 2020, arXiv:2004.00010, Algorithm 2.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon}")
    scale = epsilon.denominator  # t of the paper; its s is the numerator
    while True:
        low = _below(scale, stream)
        if not _happens_exp(Fraction(low, scale), stream):
            continue
        high = 0
        while _happens_exp(Fraction(1), stream):
            high += 1
        size = (low + scale * high) // epsilon.numerator
        negative = _below(2, stream) == 1
        if not (negative and size == 0):
            return -size if negative else size


def _happens_exp(exponent: Fraction, stream: SecretBytes) -> bool:
    """True with probability exp(-exponent), for an exponent in [0, 1] (Algorithm 1)."""
    terms = 1
    while _below(exponent.denominator * terms, stream) < exponent.numerator:
        terms += 1
    return terms % 2 == 1


def _below(bound: int, stream: SecretBytes) -> int:
    """A uniform integer in [0, bound)."""
    bits = (bound - 1).bit_length()
    while True:
        number = int.from_bytes(stream.raw((bits + 7) // 8), "little") & ((1 << bits) - 1)
        if number < bound:
            return number
