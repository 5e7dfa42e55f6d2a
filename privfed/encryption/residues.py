"""What a ciphertext looks like on the wire, and how an aggregator adds without any key.

A seeded symmetric BFV ciphertext is a pair: c0, N coefficients modulo q, and the 64-byte seed of
c1. Addition is coefficient-wise modulo q, so the aggregator needs numpy and nothing else. The low
d = 4 bits of c0 are pure noise: they are not sent, and the receiver puts the middle of the gap in
their place, an error of at most 8 that the noise rule in `packing` counts. What is left is a number
below 2^56: 7 bytes, little-endian.

Every check here is on bytes or arrays that may come from outside; all raise MessageError.
"""

import numpy as np
from numpy.typing import NDArray

from privfed.encryption.packing import (
    COEFF_MODULUS,
    DROPPED_BITS,
    POLY_MODULUS_DEGREE,
    RESIDUE_BYTES,
    SEED_BYTES,
)
from privfed.errors import MessageError

_LARGEST_SENT = (COEFF_MODULUS - 1) >> DROPPED_BITS
_CENTRE = 2 ** (DROPPED_BITS - 1)


def to_bytes(residues: NDArray[np.uint64]) -> bytes:
    """Residues without their low 4 bits, 7 bytes each.

    Args:
        residues: numbers below q, shape (ciphertexts, 4096).

    Returns:
        ciphertexts * 28,672 bytes.

    Raises:
        MessageError: if the shape, the type or a residue is wrong.
    """
    check(residues)
    sent = (residues >> np.uint64(DROPPED_BITS)).astype("<u8")
    return sent.view(np.uint8).reshape(-1, 8)[:, :RESIDUE_BYTES].tobytes()


def from_bytes(data: bytes, num_ciphertexts: int) -> NDArray[np.uint64]:
    """Read what `to_bytes` wrote; the missing bits are replaced by their middle.

    Args:
        data: untrusted bytes.
        num_ciphertexts: how many must be there; known from the public model.

    Returns:
        Numbers below q, shape (num_ciphertexts, 4096), each within 8 of the one sent (mod q).

    Raises:
        MessageError: if there are more or fewer bytes, or a number is not below q.
    """
    _check_length(data, num_ciphertexts, POLY_MODULUS_DEGREE * RESIDUE_BYTES, "residues")
    wide = np.zeros((num_ciphertexts * POLY_MODULUS_DEGREE, 8), dtype=np.uint8)
    wide[:, :RESIDUE_BYTES] = np.frombuffer(data, dtype=np.uint8).reshape(-1, RESIDUE_BYTES)
    sent = wide.view("<u8").reshape(num_ciphertexts, POLY_MODULUS_DEGREE).astype(np.uint64)
    if sent.max() > _LARGEST_SENT:
        raise MessageError(
            f"every residue must be below the coefficient modulus {COEFF_MODULUS}, "
            f"{np.count_nonzero(sent > _LARGEST_SENT)} are not; refuse this contribution"
        )
    return _reduced((sent << np.uint64(DROPPED_BITS)) + np.uint64(_CENTRE))


def add(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The sum modulo q of two batches of residues: a homomorphic addition of plaintexts.

    Args:
        left: numbers below q, shape (ciphertexts, 4096).
        right: the same shape.

    Raises:
        MessageError: if a shape, a type or a residue is wrong.
    """
    check(left)
    check(right)
    if left.shape != right.shape:
        raise MessageError(
            f"both contributions must have as many ciphertexts, got {left.shape} and {right.shape}"
        )
    return _reduced(left + right)


def check(residues: NDArray[np.uint64]) -> None:
    """Refuse what is not a batch of residues: uint64 below q in shape (ciphertexts, 4096).

    Raises:
        MessageError: if it is not.
    """
    shaped = residues.ndim == 2 and residues.shape[1:] == (POLY_MODULUS_DEGREE,)
    if residues.dtype != np.uint64 or not shaped or residues.shape[0] == 0:
        raise MessageError(
            f"residues must be uint64 in shape (ciphertexts, {POLY_MODULUS_DEGREE}), at least one "
            f"ciphertext, got {residues.dtype} {residues.shape}"
        )
    if residues.max() >= COEFF_MODULUS:
        raise MessageError(
            f"every residue must be below the coefficient modulus {COEFF_MODULUS}, "
            f"{np.count_nonzero(residues >= COEFF_MODULUS)} are not"
        )


def seeds_to_bytes(seeds: NDArray[np.uint8]) -> bytes:
    """One contributor's seeds, shape (ciphertexts, 64), as ciphertexts * 64 bytes.

    Raises:
        MessageError: if the shape or the type is wrong.
    """
    shaped = seeds.ndim == 2 and seeds.shape[1:] == (SEED_BYTES,)
    if seeds.dtype != np.uint8 or not shaped or seeds.shape[0] == 0:
        raise MessageError(
            f"seeds must be uint8 in shape (ciphertexts, {SEED_BYTES}), "
            f"got {seeds.dtype} {seeds.shape}"
        )
    return seeds.tobytes()


def seeds_from_bytes(data: bytes, num_ciphertexts: int) -> NDArray[np.uint8]:
    """Read what `seeds_to_bytes` wrote, shape (num_ciphertexts, 64).

    Raises:
        MessageError: if there are more or fewer bytes.
    """
    _check_length(data, num_ciphertexts, SEED_BYTES, "seeds")
    return np.frombuffer(data, dtype=np.uint8).reshape(num_ciphertexts, SEED_BYTES).copy()


def seed_set(seeds: NDArray[np.uint8]) -> frozenset[bytes]:
    """The distinct seeds in an array of shape (..., 64); fewer than its rows if one repeats."""
    flat = np.ascontiguousarray(seeds).reshape(-1, SEED_BYTES)
    return frozenset(seed.tobytes() for seed in flat)


def _reduced(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Values below 2q modulo q: subtracting q from a smaller one wraps to a huge number."""
    reduced: NDArray[np.uint64] = np.minimum(values, values - np.uint64(COEFF_MODULUS))
    return reduced


def _check_length(data: bytes, num_ciphertexts: int, bytes_each: int, what: str) -> None:
    if num_ciphertexts < 1 or len(data) != num_ciphertexts * bytes_each:
        raise MessageError(
            f"{what} of {num_ciphertexts} ciphertexts must be {num_ciphertexts * bytes_each} "
            f"bytes (at least one ciphertext), got {len(data)}; refuse this contribution"
        )
