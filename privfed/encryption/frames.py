"""Microsoft SEAL's serialised ciphertexts, built and parsed strictly without SEAL.

Nothing that arrives from outside is ever given to the native parser: residues and seeds travel in
our own wire form, and the process that reads them writes the whole frame around them itself, so
that every length and every structural field is ours. All frames are uncompressed; there are three:

    seeded   c0 and the 64-byte seed from which SEAL expands c1 (a fresh symmetric ciphertext)
    full     c0 and c1 (a public-key ciphertext, a sum, or a public key)
    single   one polynomial (a secret key)

A `Shape` says for which scheme, under which primes and in which form.

Layout, little-endian: header (magic, header size, version, compression, 0, total bytes); parms_id
32 bytes; is_ntt 1 byte; polynomials, degree, primes as u64; scale f64; correction factor u64; then
a nested header with count u64 and the residues; in a seeded frame a nested header with the
generator type (1 byte, BLAKE2Xb) and the seed. A single frame has only parms_id, count u64 and
scale f64 before its array.

Reference:
    Microsoft SEAL 4.x, native/src/seal/{serialization.h, ciphertext.cpp, randomgen.h,
    encryptionparams.cpp}.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privfed.encryption.noise import COEFF_MODULUS, SPECIAL_MODULUS
from privfed.encryption.parameters import SEED_BYTES, BFVParameters
from privfed.encryption.primes import POLY_MODULUS_DEGREE
from privfed.errors import MessageError

HEADER_BYTES = 16
UNCOMPRESSED = 0
ZSTD = 2
SEAL_VERSION = (4, 3)

_MAGIC = 0xA15E
_HEADER = struct.Struct("<HBBBBHQ")
_FIELDS = struct.Struct("<32sBQQQdQ")
_SINGLE_FIELDS = struct.Struct("<32sQd")
_COUNT = struct.Struct("<Q")
BFV = 1
CKKS = 2
_BLAKE2XB = 1
_PREFIX_BYTES = HEADER_BYTES + _FIELDS.size + HEADER_BYTES + _COUNT.size


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the structural fields of a frame must say.

    Attributes:
        parms_id: SEAL's 32-byte name of the encryption parameters.
        primes: of the ciphertext modulus, in SEAL's order.
        is_ntt: whether polynomials are stored as values instead of coefficients.
        scale: of CKKS; 1 otherwise.
    """

    parms_id: bytes
    primes: tuple[int, ...]
    is_ntt: bool = False
    scale: float = 1.0

    @property
    def residues(self) -> int:
        """Residues of one polynomial: 4096 for every prime, one prime after the other."""
        return POLY_MODULUS_DEGREE * len(self.primes)

    @property
    def seeded_bytes(self) -> int:
        """Length of a seeded frame."""
        return _PREFIX_BYTES + 8 * self.residues + HEADER_BYTES + 1 + SEED_BYTES

    @property
    def full_bytes(self) -> int:
        """Length of a full frame."""
        return _PREFIX_BYTES + 2 * 8 * self.residues

    @property
    def single_bytes(self) -> int:
        """Length of a single frame."""
        return 2 * HEADER_BYTES + _SINGLE_FIELDS.size + _COUNT.size + 8 * self.residues

    @property
    def fields(self) -> tuple[bytes, int, int, int, int, float, int]:
        """The fields after the header, in their order."""
        count = len(self.primes)
        return (self.parms_id, int(self.is_ntt), 2, POLY_MODULUS_DEGREE, count, self.scale, 1)


def parms_id(scheme: int, primes: Sequence[int], plain_modulus: int) -> bytes:
    """SEAL's name of encryption parameters: BLAKE2b of scheme, degree and moduli."""
    words = (scheme, POLY_MODULUS_DEGREE, *primes, plain_modulus)
    return hashlib.blake2b(struct.pack(f"<{len(words)}Q", *words), digest_size=32).digest()


def ciphertext_shape(parameters: BFVParameters) -> Shape:
    """Ciphertexts and sums of BFV."""
    primes = (COEFF_MODULUS,)
    return Shape(parms_id=parms_id(BFV, primes, parameters.plain_modulus), primes=primes)


def public_key_shape(parameters: BFVParameters) -> Shape:
    """Public keys of BFV, which have the special prime too and are stored as values."""
    primes = (COEFF_MODULUS, SPECIAL_MODULUS)
    name = parms_id(BFV, primes, parameters.plain_modulus)
    return Shape(parms_id=name, primes=primes, is_ntt=True)


def build_seeded(
    shape: Shape, c0: NDArray[np.uint64], seed: bytes, *, version: tuple[int, int] = SEAL_VERSION
) -> bytes:
    """The frame that SEAL expands to (c0, c1 from the seed).

    Args:
        shape: of the ciphertext.
        c0: residues below their primes, shape (shape.residues,).
        seed: 64 bytes.
        version: of the SEAL that will read it.

    Raises:
        MessageError: if the residues or the seed are malformed.
    """
    if len(seed) != SEED_BYTES:
        raise MessageError(f"a seed must have {SEED_BYTES} bytes, got {len(seed)}")
    generator = Header(version=version, num_bytes=HEADER_BYTES + 1 + SEED_BYTES).to_bytes()
    return b"".join(
        (
            _prefix(shape, shape.seeded_bytes, shape.residues, version),
            _polynomial_bytes(shape, c0),
            generator,
            bytes([_BLAKE2XB]),
            seed,
        )
    )


def parse_seeded(
    data: bytes, shape: Shape, *, version: tuple[int, int] = SEAL_VERSION
) -> tuple[NDArray[np.uint64], bytes]:
    """Take a seeded frame apart: c0, shape (shape.residues,), and the 64-byte seed.

    Raises:
        MessageError: if any byte other than residues and seed differs from what `build_seeded`
            writes, or a residue is not below its prime.
    """
    _check_prefix(data, shape, shape.seeded_bytes, shape.residues, version)
    end = _PREFIX_BYTES + 8 * shape.residues
    generator = Header.from_bytes(data[end:])
    expected = Header(version=version, num_bytes=HEADER_BYTES + 1 + SEED_BYTES)
    _expect("seed header", generator, expected)
    _expect("generator type", data[end + HEADER_BYTES], _BLAKE2XB)
    return _polynomial(shape, data[_PREFIX_BYTES:end]), data[-SEED_BYTES:]


def build_full(
    shape: Shape,
    c0: NDArray[np.uint64],
    c1: NDArray[np.uint64],
    *,
    version: tuple[int, int] = SEAL_VERSION,
) -> bytes:
    """The frame of both polynomials; `c0` and `c1` below their primes, shape (shape.residues,).

    Raises:
        MessageError: if the residues are malformed.
    """
    prefix = _prefix(shape, shape.full_bytes, 2 * shape.residues, version)
    return prefix + _polynomial_bytes(shape, c0) + _polynomial_bytes(shape, c1)


def parse_full(
    data: bytes, shape: Shape, *, version: tuple[int, int] = SEAL_VERSION
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Take a full frame apart: c0 and c1, shape (shape.residues,) each.

    Raises:
        MessageError: if any byte other than the residues differs from what `build_full` writes,
            or a residue is not below its prime.
    """
    _check_prefix(data, shape, shape.full_bytes, 2 * shape.residues, version)
    middle = _PREFIX_BYTES + 8 * shape.residues
    return _polynomial(shape, data[_PREFIX_BYTES:middle]), _polynomial(shape, data[middle:])


def build_single(
    shape: Shape, polynomial: NDArray[np.uint64], *, version: tuple[int, int] = SEAL_VERSION
) -> bytes:
    """The frame of one polynomial, below its primes, shape (shape.residues,).

    Raises:
        MessageError: if the residues are malformed.
    """
    return _single_prefix(shape, version) + _polynomial_bytes(shape, polynomial)


def parse_single(
    data: bytes, shape: Shape, *, version: tuple[int, int] = SEAL_VERSION
) -> NDArray[np.uint64]:
    """Take a single frame apart: the polynomial, shape (shape.residues,).

    Raises:
        MessageError: if any byte other than the residues differs from what `build_single` writes,
            or a residue is not below its prime.
    """
    prefix = _single_prefix(shape, version)
    if len(data) != shape.single_bytes or not data.startswith(prefix):
        raise MessageError(f"a SEAL frame of one polynomial must have {shape.single_bytes} bytes")
    return _polynomial(shape, data[len(prefix) :])


def _single_prefix(shape: Shape, version: tuple[int, int]) -> bytes:
    array_bytes = HEADER_BYTES + _COUNT.size + 8 * shape.residues
    return b"".join(
        (
            Header(version=version, num_bytes=shape.single_bytes).to_bytes(),
            _SINGLE_FIELDS.pack(shape.parms_id, shape.residues, 1.0),
            Header(version=version, num_bytes=array_bytes).to_bytes(),
            _COUNT.pack(shape.residues),
        )
    )


def _prefix(shape: Shape, num_bytes: int, count: int, version: tuple[int, int]) -> bytes:
    array = Header(version=version, num_bytes=HEADER_BYTES + _COUNT.size + 8 * count)
    outer = Header(version=version, num_bytes=num_bytes)
    return outer.to_bytes() + _FIELDS.pack(*shape.fields) + array.to_bytes() + _COUNT.pack(count)


def _check_prefix(
    data: bytes, shape: Shape, num_bytes: int, count: int, version: tuple[int, int]
) -> None:
    _expect("length", len(data), num_bytes)
    _expect("header", Header.from_bytes(data), Header(version=version, num_bytes=num_bytes))
    found = _FIELDS.unpack_from(data, HEADER_BYTES)
    names = ("parms_id", "NTT flag", "size", "degree", "primes", "scale", "correction factor")
    for name, came, wanted in zip(names, found, shape.fields, strict=True):
        _expect(name, came, wanted)
    array_at = HEADER_BYTES + _FIELDS.size
    array = Header(version=version, num_bytes=HEADER_BYTES + _COUNT.size + 8 * count)
    _expect("array header", Header.from_bytes(data[array_at:]), array)
    (length,) = _COUNT.unpack_from(data, array_at + HEADER_BYTES)
    _expect("array length", length, count)


def _expect(name: str, came: object, wanted: object) -> None:
    if came != wanted:
        raise MessageError(f"the {name} of a SEAL frame must be {wanted!r}, got {came!r}")


def _polynomial_bytes(shape: Shape, residues: NDArray[np.uint64]) -> bytes:
    _check_polynomial(shape, residues)
    return residues.astype("<u8").tobytes()


def _polynomial(shape: Shape, data: bytes) -> NDArray[np.uint64]:
    residues = np.frombuffer(data, dtype="<u8").astype(np.uint64)
    _check_polynomial(shape, residues)
    return residues


def _check_polynomial(shape: Shape, residues: NDArray[np.uint64]) -> None:
    if residues.dtype != np.uint64 or residues.shape != (shape.residues,):
        raise MessageError(
            f"a polynomial must be uint64 in shape ({shape.residues},), got {residues.dtype} "
            f"{residues.shape}"
        )
    for prime, part in zip(shape.primes, residues.reshape(len(shape.primes), -1), strict=True):
        if part.max() >= prime:
            raise MessageError(f"every residue must be below {prime}")
