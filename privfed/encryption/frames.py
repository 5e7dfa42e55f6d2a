"""Microsoft SEAL's serialised ciphertexts, built and parsed strictly without SEAL.

Nothing that arrives from outside is ever given to the native parser: residues and seeds travel in
our own wire form, and the process that decrypts writes the whole frame around them itself, so that
every length and every structural field is ours. Only two shapes exist here, both uncompressed,
under one prime and in coefficient form:

    seeded   c0 and the 64-byte seed from which SEAL expands c1 (a fresh symmetric ciphertext)
    full     c0 and c1

Layout, little-endian: header (magic, header size, version, compression, 0, total bytes); parms_id
32 bytes; is_ntt 1; polynomials, degree, primes as u64; scale f64; correction factor u64; then a
nested header with count u64 and the residues; in a seeded frame a nested header with the generator
type (1 byte, BLAKE2Xb) and the seed.

Reference:
    Microsoft SEAL 4.x, native/src/seal/{serialization.h, ciphertext.cpp, randomgen.h,
    encryptionparams.cpp}.
"""

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privfed.encryption.packing import SEED_BYTES, BFVParameters
from privfed.errors import MessageError

HEADER_BYTES = 16
UNCOMPRESSED = 0
ZSTD = 2
SEAL_VERSION = (4, 3)

_MAGIC = 0xA15E
_HEADER = struct.Struct("<HBBBBHQ")
_FIELDS = struct.Struct("<32sBQQQdQ")
_COUNT = struct.Struct("<Q")
_BFV = 1
_BLAKE2XB = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first 16 bytes of every serialised SEAL object.

    Attributes:
        version: (major, minor) of the SEAL that wrote it.
        compression: 0 none, 2 zstd.
        num_bytes: length of the object with this header.
    """

    version: tuple[int, int] = SEAL_VERSION
    compression: int = UNCOMPRESSED
    num_bytes: int

    def to_bytes(self) -> bytes:
        """The 16 bytes."""
        return _HEADER.pack(
            _MAGIC, HEADER_BYTES, *self.version, self.compression, 0, self.num_bytes
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Header":
        """Read the header at the start of `data`.

        Raises:
            MessageError: if there are fewer than 16 bytes, or the magic number, the header size
                or the reserved field is wrong.
        """
        if len(data) < HEADER_BYTES:
            raise MessageError(f"a SEAL header must have 16 bytes, got {len(data)}")
        magic, size, major, minor, compression, reserved, num_bytes = _HEADER.unpack_from(data)
        _expect("magic number", magic, _MAGIC)
        _expect("header size", size, HEADER_BYTES)
        _expect("reserved field", reserved, 0)
        return cls(version=(major, minor), compression=compression, num_bytes=num_bytes)


def parms_id(parameters: BFVParameters) -> bytes:
    """SEAL's 32-byte name of encryption parameters: BLAKE2b of scheme, degree and moduli."""
    words = (
        _BFV,
        parameters.poly_modulus_degree,
        parameters.coeff_modulus,
        parameters.plain_modulus,
    )
    return hashlib.blake2b(struct.pack("<4Q", *words), digest_size=32).digest()


def seeded_frame_bytes(parameters: BFVParameters) -> int:
    """Length of a seeded frame."""
    return _prefix_bytes() + 8 * parameters.poly_modulus_degree + HEADER_BYTES + 1 + SEED_BYTES


def full_frame_bytes(parameters: BFVParameters) -> int:
    """Length of a full frame."""
    return _prefix_bytes() + 2 * 8 * parameters.poly_modulus_degree


def build_seeded(
    parameters: BFVParameters,
    c0: NDArray[np.uint64],
    seed: bytes,
    *,
    version: tuple[int, int] = SEAL_VERSION,
) -> bytes:
    """The frame that SEAL expands to (c0, c1 from the seed).

    Args:
        parameters: the scheme's.
        c0: residues below q, shape (4096,).
        seed: 64 bytes.
        version: of the SEAL that will read it.

    Raises:
        MessageError: if the residues or the seed are malformed.
    """
    if len(seed) != SEED_BYTES:
        raise MessageError(f"a seed must have {SEED_BYTES} bytes, got {len(seed)}")
    num_bytes = seeded_frame_bytes(parameters)
    generator = Header(version=version, num_bytes=HEADER_BYTES + 1 + SEED_BYTES).to_bytes()
    return b"".join(
        (
            _prefix(parameters, num_bytes, parameters.poly_modulus_degree, version),
            _polynomial_bytes(parameters, c0),
            generator,
            bytes([_BLAKE2XB]),
            seed,
        )
    )


def parse_seeded(
    data: bytes, parameters: BFVParameters, *, version: tuple[int, int] = SEAL_VERSION
) -> tuple[NDArray[np.uint64], bytes]:
    """Take a seeded frame apart: c0, shape (4096,), and the 64-byte seed.

    Raises:
        MessageError: if any byte other than residues and seed differs from what `build_seeded`
            writes, or a residue is not below q.
    """
    degree = parameters.poly_modulus_degree
    _check_prefix(data, parameters, seeded_frame_bytes(parameters), degree, version)
    start = _prefix_bytes()
    end = start + 8 * degree
    generator = Header.from_bytes(data[end:])
    expected = Header(version=version, num_bytes=HEADER_BYTES + 1 + SEED_BYTES)
    _expect("seed header", generator, expected)
    _expect("generator type", data[end + HEADER_BYTES], _BLAKE2XB)
    return _polynomial(parameters, data[start:end]), data[-SEED_BYTES:]


def build_full(
    parameters: BFVParameters,
    c0: NDArray[np.uint64],
    c1: NDArray[np.uint64],
    *,
    version: tuple[int, int] = SEAL_VERSION,
) -> bytes:
    """The frame of a whole ciphertext; `c0` and `c1` are residues below q, shape (4096,).

    Raises:
        MessageError: if the residues are malformed.
    """
    count = 2 * parameters.poly_modulus_degree
    prefix = _prefix(parameters, full_frame_bytes(parameters), count, version)
    return prefix + _polynomial_bytes(parameters, c0) + _polynomial_bytes(parameters, c1)


def parse_full(
    data: bytes, parameters: BFVParameters, *, version: tuple[int, int] = SEAL_VERSION
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Take a full frame apart: c0 and c1, shape (4096,) each.

    Raises:
        MessageError: if any byte other than the residues differs from what `build_full` writes,
            or a residue is not below q.
    """
    count = 2 * parameters.poly_modulus_degree
    _check_prefix(data, parameters, full_frame_bytes(parameters), count, version)
    start = _prefix_bytes()
    middle = start + 8 * parameters.poly_modulus_degree
    return _polynomial(parameters, data[start:middle]), _polynomial(parameters, data[middle:])


def _prefix_bytes() -> int:
    return HEADER_BYTES + _FIELDS.size + HEADER_BYTES + _COUNT.size


def _prefix(
    parameters: BFVParameters, num_bytes: int, count: int, version: tuple[int, int]
) -> bytes:
    fields = _FIELDS.pack(parms_id(parameters), 0, 2, parameters.poly_modulus_degree, 1, 1.0, 1)
    array = Header(version=version, num_bytes=HEADER_BYTES + _COUNT.size + 8 * count)
    outer = Header(version=version, num_bytes=num_bytes)
    return outer.to_bytes() + fields + array.to_bytes() + _COUNT.pack(count)


def _check_prefix(
    data: bytes,
    parameters: BFVParameters,
    num_bytes: int,
    count: int,
    version: tuple[int, int],
) -> None:
    _expect("length", len(data), num_bytes)
    _expect("header", Header.from_bytes(data), Header(version=version, num_bytes=num_bytes))
    found = _FIELDS.unpack_from(data, HEADER_BYTES)
    names = ("parms_id", "NTT flag", "size", "degree", "primes", "scale", "correction factor")
    expected = (parms_id(parameters), 0, 2, parameters.poly_modulus_degree, 1, 1.0, 1)
    for name, came, wanted in zip(names, found, expected, strict=True):
        _expect(name, came, wanted)
    array_at = HEADER_BYTES + _FIELDS.size
    array = Header(version=version, num_bytes=HEADER_BYTES + _COUNT.size + 8 * count)
    _expect("array header", Header.from_bytes(data[array_at:]), array)
    (length,) = _COUNT.unpack_from(data, array_at + HEADER_BYTES)
    _expect("array length", length, count)


def _expect(name: str, came: object, wanted: object) -> None:
    if came != wanted:
        raise MessageError(f"the {name} of a SEAL frame must be {wanted!r}, got {came!r}")


def _polynomial_bytes(parameters: BFVParameters, residues: NDArray[np.uint64]) -> bytes:
    _check_polynomial(parameters, residues)
    return residues.astype("<u8").tobytes()


def _polynomial(parameters: BFVParameters, data: bytes) -> NDArray[np.uint64]:
    residues = np.frombuffer(data, dtype="<u8").astype(np.uint64)
    _check_polynomial(parameters, residues)
    return residues


def _check_polynomial(parameters: BFVParameters, residues: NDArray[np.uint64]) -> None:
    if residues.dtype != np.uint64 or residues.shape != (parameters.poly_modulus_degree,):
        raise MessageError(
            f"a polynomial must be uint64 in shape ({parameters.poly_modulus_degree},), got "
            f"{residues.dtype} {residues.shape}"
        )
    if residues.max() >= parameters.coeff_modulus:
        raise MessageError(f"every residue must be below {parameters.coeff_modulus}")
