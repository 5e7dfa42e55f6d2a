"""Secret keys of one run or round: in memory only, never printed, pickled or written to a disk.

A `SharedSecret` is what all clients of a run hold: the SEAL secret key and the key of the tags. It
travels wrapped to each client's X25519 key (`key_exchange`). A `RoundKey` is what the key holder
makes for one round; its public part goes to the clients, the secret part stays and is destroyed
after the one decryption.

`key_id` is a public random name and says nothing about the key. Python cannot promise that no copy
is left in memory; SEAL clears its own when the object goes. Where the system has no anonymous
memory (macOS), a shared key passes through a private temporary file (`native.ScratchFile`).
"""

import secrets
from typing import Any, NoReturn, Self, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from privfed.custody.native import ScratchFile, bfv_context, seal_version, sealapi, uncompressed
from privfed.encryption import frames
from privfed.encryption.bitpacking import pack_rows, row_bytes, unpack_rows
from privfed.encryption.noise import COEFF_MODULUS, SPECIAL_MODULUS
from privfed.encryption.parameters import COEFF_BITS, BFVParameters
from privfed.encryption.primes import POLY_MODULUS_DEGREE
from privfed.encryption.tags import KEY_BYTES
from privfed.errors import EncryptionError, MessageError
from privfed.settings.encryption import Custody

_PRIME_BITS = (COEFF_BITS, SPECIAL_MODULUS.bit_length())
_KEY_ID_BYTES = 16


class SecretKey:
    """A SEAL secret key with its public name; the base of the two kinds."""

    __slots__ = ("_context", "_secret", "key_id")

    key_id: str
    _context: Any
    _secret: Any

    def __init__(self) -> None:
        raise TypeError(f"use {type(self).__name__}.generate(...)")

    @classmethod
    def _of(cls, context: Any, secret: Any, key_id: str) -> Self:
        key = object.__new__(cls)
        key._context, key._secret, key.key_id = context, secret, key_id
        return key

    @property
    def destroyed(self) -> bool:
        """Whether `destroy` was called."""
        return self._secret is None

    def native(self) -> tuple[Any, Any]:
        """SEAL's context and secret key object, for `custody` alone.

        Raises:
            EncryptionError: if the key was destroyed.
        """
        if self._secret is None:
            raise EncryptionError(
                f"key {self.key_id} must not be used after it was destroyed; generate a new one"
            )
        return self._context, self._secret

    def destroy(self) -> None:
        """Forget the secret; `key_id` stays."""
        self._secret = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(key_id={self.key_id!r})"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise EncryptionError("a secret key must not be pickled or copied")


class SharedSecret(SecretKey):
    """The secrets that the clients of a run share. Make them with `generate` or `from_bytes`."""

    __slots__ = ("_shape", "_tag_key")

    _shape: frames.Shape
    _tag_key: bytes

    @classmethod
    def generate(cls, context: Any, shape: frames.Shape) -> Self:
        """Fresh secrets, drawn by SEAL and Python from the operating system's generator.

        Args:
            context: SEAL's, of the scheme that the key is for.
            shape: of its ciphertexts.
        """
        secret = sealapi().KeyGenerator(context).secret_key()
        return cls._with_tags(
            context, shape, secret, secrets.token_hex(_KEY_ID_BYTES), secrets.token_bytes(KEY_BYTES)
        )

    @classmethod
    def _with_tags(
        cls, context: Any, shape: frames.Shape, secret: Any, key_id: str, tag_key: bytes
    ) -> Self:
        key = cls._of(context, secret, key_id)
        key._shape, key._tag_key = shape, tag_key
        return key

    @property
    def tag_key(self) -> bytes:
        """32 secret bytes for `encryption.tags`."""
        self.native()
        return self._tag_key

    def destroy(self) -> None:
        """Forget the secrets; `key_id` stays."""
        self._secret = None
        self._tag_key = b""

    def to_bytes(self) -> bytes:
        """The secrets, to be wrapped and nothing else."""
        _, secret = self.native()
        with ScratchFile() as scratch:
            secret.save(scratch.path)
            frame = uncompressed(scratch.read(), self._shape.single_bytes)
        residues = frames.parse_single(frame, self._shape, version=seal_version())
        packed = pack_rows(residues.reshape(1, -1), COEFF_BITS)
        return bytes.fromhex(self.key_id) + self._tag_key + packed.tobytes()

    @classmethod
    def from_bytes(cls, content: bytes, context: Any, shape: frames.Shape) -> Self:
        """Read what `to_bytes` wrote, after it was unwrapped.

        Raises:
            MessageError: if the length is wrong or a residue is out of range.
        """
        head = _KEY_ID_BYTES + KEY_BYTES
        if len(content) != head + row_bytes(shape.residues, COEFF_BITS):
            raise MessageError("an unwrapped key must have the length of one, this has another")
        packed = np.frombuffer(content, dtype=np.uint8, offset=head).reshape(1, -1)
        residues = unpack_rows(packed, shape.residues, COEFF_BITS)[0]
        secret = sealapi().SecretKey()
        with ScratchFile() as scratch:
            scratch.write(frames.build_single(shape, residues, version=seal_version()))
            secret.load(context, scratch.path)
        key_id = content[:_KEY_ID_BYTES].hex()
        return cls._with_tags(context, shape, secret, key_id, content[_KEY_ID_BYTES:head])


class RoundKey(SecretKey):
    """The key pair of one round, made by the key holder with `generate`."""

    __slots__ = ("_generator", "_parameters")

    _generator: Any
    _parameters: BFVParameters

    @classmethod
    def generate(cls, parameters: BFVParameters) -> Self:
        """A fresh key pair, drawn by SEAL from the operating system's generator."""
        context = holder_context(parameters)
        generator = sealapi().KeyGenerator(context)
        key = cls._of(context, generator.secret_key(), secrets.token_hex(_KEY_ID_BYTES))
        key._generator, key._parameters = generator, parameters
        return key

    def destroy(self) -> None:
        """Forget the secret; `key_id` stays."""
        self._secret = None
        self._generator = None

    def public_bytes(self) -> bytes:
        """The public key, to the bit; `PublicKey.from_bytes` reads it."""
        self.native()
        shape = frames.public_key_shape(self._parameters)
        public = sealapi().PublicKey()
        self._generator.create_public_key(public)
        with ScratchFile() as scratch:
            public.save(scratch.path)
            frame = uncompressed(scratch.read(), shape.full_bytes)
        polynomials = frames.parse_full(frame, shape, version=seal_version())
        return b"".join(
            pack_rows(part.reshape(1, -1), bits).tobytes()
            for polynomial in polynomials
            for part, bits in zip(polynomial.reshape(2, -1), _PRIME_BITS, strict=True)
        )


class PublicKey:
    """The public key of one round, as a client holds it. Make it with `from_bytes`.

    Args:
        parameters: that it is for.
        native: SEAL's object.
    """

    __slots__ = ("native", "parameters")

    def __init__(self, parameters: BFVParameters, native: Any) -> None:
        self.parameters = parameters
        self.native = native

    @classmethod
    def from_bytes(cls, content: bytes, parameters: BFVParameters) -> "PublicKey":
        """Read what `RoundKey.public_bytes` wrote, after its signature was checked.

        Raises:
            MessageError: if the length is wrong or a residue is out of range.
        """
        each = [row_bytes(POLY_MODULUS_DEGREE, bits) for bits in _PRIME_BITS]
        if len(content) != 2 * sum(each):
            raise MessageError(
                f"a public key must have {2 * sum(each)} bytes, {len(content)} came; refuse it"
            )
        halves = (content[: sum(each)], content[sum(each) :])
        c0, c1 = (_public_polynomial(half) for half in halves)
        shape = frames.public_key_shape(parameters)
        public = sealapi().PublicKey()
        with ScratchFile() as scratch:
            scratch.write(frames.build_full(shape, c0, c1, version=seal_version()))
            public.load(holder_context(parameters), scratch.path)
        return cls(parameters, public)


def holder_context(parameters: BFVParameters) -> Any:
    """SEAL's context for custody `key_holder`."""
    return bfv_context(parameters.plain_modulus, special=True)


def shared_context(parameters: BFVParameters) -> Any:
    """SEAL's context for custody `shared_key`."""
    return bfv_context(parameters.plain_modulus, special=False)


def native_context(parameters: BFVParameters) -> Any:
    """SEAL's context for these parameters."""
    if parameters.custody is Custody.KEY_HOLDER:
        return holder_context(parameters)
    return shared_context(parameters)


def _public_polynomial(content: bytes) -> NDArray[np.uint64]:
    parts, offset = [], 0
    for bits, prime in zip(_PRIME_BITS, (COEFF_MODULUS, SPECIAL_MODULUS), strict=True):
        end = offset + row_bytes(POLY_MODULUS_DEGREE, bits)
        packed = np.frombuffer(content[offset:end], dtype=np.uint8).reshape(1, -1)
        part = unpack_rows(packed, POLY_MODULUS_DEGREE, bits)[0]
        if part.max() >= prime:
            raise MessageError(f"every residue of a public key must be below {prime}")
        parts.append(part)
        offset = end
    return np.concatenate(parts)
