"""Residues on the wire, and how an aggregator adds them without any key.

A ciphertext is one or two polynomials of 4096 coefficients modulo q (c0, or c0 and c1); adding is
coefficient-wise modulo q, so the aggregator needs numpy and nothing else. The low d bits of c0 are
noise: they are not sent, and the receiver puts the middle of the gap in their place, an error of
at most 2^(d-1) that `noise` counts. What is left is packed to the bit.

A batch of ciphertexts is `rows` of bytes, one per ciphertext: its polynomials one after the other.
Every check here is on bytes or arrays that may come from outside; all raise MessageError.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from privfed.encryption.bitpacking import pack_rows, row_bytes, unpack_rows
from privfed.encryption.noise import COEFF_MODULUS
from privfed.encryption.parameters import COEFF_BITS, SEED_BYTES
from privfed.encryption.primes import POLY_MODULUS_DEGREE
from privfed.errors import MessageError
from privfed.protocol.envelopes import Blob


def ciphertext_bytes(bits: Sequence[int]) -> int:
    """Bytes of one ciphertext whose polynomials carry these bits per residue."""
    return sum(row_bytes(POLY_MODULUS_DEGREE, each) for each in bits)


def to_rows(polynomials: Sequence[NDArray[np.uint64]], bits: Sequence[int]) -> NDArray[np.uint8]:
    """Residues as bytes, without the low bits that are not sent.

    Args:
        polynomials: numbers below q, one array of shape (ciphertexts, 4096) per polynomial.
        bits: bits kept of a residue of each polynomial, 1..60.

    Returns:
        Shape (ciphertexts, `ciphertext_bytes`).

    Raises:
        MessageError: if a shape, a type or a residue is wrong.
    """
    parts = []
    for residues, kept in zip(polynomials, bits, strict=True):
        check(residues)
        dropped = np.uint64(COEFF_BITS - kept)
        parts.append(pack_rows(residues >> dropped, kept))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def from_rows(rows: NDArray[np.uint8], bits: Sequence[int]) -> list[NDArray[np.uint64]]:
    """Read what `to_rows` wrote; missing bits are replaced by their middle.

    Args:
        rows: untrusted bytes, shape (ciphertexts, `ciphertext_bytes`).
        bits: as written.

    Returns:
        Per polynomial, numbers below q in shape (ciphertexts, 4096).

    Raises:
        MessageError: if the shape is wrong or a number is not below q.
    """
    if rows.ndim != 2 or rows.shape[1] != ciphertext_bytes(bits):
        raise MessageError(
            f"ciphertexts must come in rows of {ciphertext_bytes(bits)} bytes, got {rows.shape}"
        )
    polynomials = []
    offset = 0
    for kept in bits:
        end = offset + row_bytes(POLY_MODULUS_DEGREE, kept)
        sent = unpack_rows(rows[:, offset:end], POLY_MODULUS_DEGREE, kept)
        polynomials.append(_restored(sent, COEFF_BITS - kept))
        offset = end
    return polynomials


def rows_of(data: Blob, num_ciphertexts: int, bits: Sequence[int]) -> NDArray[np.uint8]:
    """Untrusted bytes as rows, without a copy.

    Raises:
        MessageError: if there are more or fewer bytes than `num_ciphertexts` ciphertexts have.
    """
    each = ciphertext_bytes(bits)
    _check_length(data, num_ciphertexts, each, "residues")
    return np.frombuffer(data, dtype=np.uint8).reshape(num_ciphertexts, each)


def add_into(total: NDArray[np.uint64], residues: NDArray[np.uint64]) -> None:
    """Add a batch of residues to `total` modulo q, in place: adds the plaintexts.

    Args:
        total: numbers below q, shape (ciphertexts, 4096).
        residues: the same shape.

    Raises:
        MessageError: if a shape, a type or a residue is wrong.
    """
    _check_pair(total, residues)
    np.add(total, residues, out=total)
    np.minimum(total, total - np.uint64(COEFF_MODULUS), out=total)


def subtract_from(total: NDArray[np.uint64], residues: NDArray[np.uint64]) -> None:
    """Undo `add_into` with the same residues, in place.

    Raises:
        MessageError: as `add_into`.
    """
    _check_pair(total, residues)
    np.add(total, np.uint64(COEFF_MODULUS) - residues, out=total)
    np.minimum(total, total - np.uint64(COEFF_MODULUS), out=total)


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
            f"{np.count_nonzero(residues >= COEFF_MODULUS)} are not; refuse this contribution"
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


def seeds_from_bytes(data: Blob, num_ciphertexts: int) -> NDArray[np.uint8]:
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


def _check_pair(total: NDArray[np.uint64], residues: NDArray[np.uint64]) -> None:
    check(total)
    check(residues)
    if total.shape != residues.shape:
        raise MessageError(
            f"both contributions must have as many ciphertexts, got {total.shape} and "
            f"{residues.shape}"
        )


def _restored(sent: NDArray[np.uint64], dropped_bits: int) -> NDArray[np.uint64]:
    """Numbers below q: the sent bits, and the middle of the gap below them."""
    largest = (COEFF_MODULUS - 1) >> dropped_bits
    if sent.size and sent.max() > largest:
        raise MessageError(
            f"every residue must be below the coefficient modulus {COEFF_MODULUS}, "
            f"{np.count_nonzero(sent > largest)} are not; refuse this contribution"
        )
    if dropped_bits == 0:
        return sent
    middle = np.uint64(1 << (dropped_bits - 1))
    restored = (sent << np.uint64(dropped_bits)) + middle
    reduced: NDArray[np.uint64] = np.minimum(restored, restored - np.uint64(COEFF_MODULUS))
    return reduced


def _check_length(data: Blob, num_ciphertexts: int, bytes_each: int, what: str) -> None:
    if num_ciphertexts < 1 or len(data) != num_ciphertexts * bytes_each:
        raise MessageError(
            f"{what} of {num_ciphertexts} ciphertexts must be {num_ciphertexts * bytes_each} "
            f"bytes (at least one ciphertext), got {len(data)}; refuse this contribution"
        )
