"""The secret key that the clients of a federation share, and its file.

Whoever holds it can decrypt every contribution, so it exists in memory, in a file that only its
owner can read, and nowhere else: it is never printed, pickled or copied. `key_id` is a public
random name and says nothing about the key. Keys are meant for one run or less: `destroy` them.
Python cannot promise that no copy is left in memory; SEAL clears its own when the object goes.
"""

import hashlib
import os
import secrets
import stat
import struct
from typing import Any, NoReturn, Self, SupportsIndex

from privfed.custody.native import ScratchFile, seal_context, sealapi
from privfed.encryption.packing import BFVParameters
from privfed.errors import EncryptionError, MessageError

_MAGIC = b"privfed-key\n"
_SCHEMA = 1
_HEADER = struct.Struct("<12sI16s32sQ")
_CHECKSUM_BYTES = hashlib.sha256().digest_size
_MAX_FILE_BYTES = 1 << 20


class SharedKey:
    """A SEAL secret key with its public name. Make one with `generate` or `load`."""

    __slots__ = ("_parameters", "_secret", "key_id")

    key_id: str
    _parameters: BFVParameters
    _secret: Any

    def __init__(self) -> None:
        raise TypeError("use SharedKey.generate(parameters) or SharedKey.load(path, parameters)")

    @classmethod
    def _of(cls, parameters: BFVParameters, secret: Any, key_id: str) -> Self:
        key = object.__new__(cls)
        key._parameters = parameters
        key._secret = secret
        key.key_id = key_id
        return key

    @classmethod
    def generate(cls, parameters: BFVParameters) -> Self:
        """A fresh key, drawn by SEAL from the operating system's generator."""
        secret = sealapi().KeyGenerator(seal_context(parameters)).secret_key()
        return cls._of(parameters, secret, secrets.token_hex(16))

    @property
    def parameters(self) -> BFVParameters:
        """The parameters that the key was made for."""
        return self._parameters

    @property
    def destroyed(self) -> bool:
        """Whether `destroy` was called."""
        return self._secret is None

    def native(self) -> tuple[Any, Any]:
        """SEAL's context and secret key object, for `custody.bfv` alone.

        Raises:
            EncryptionError: if the key was destroyed.
        """
        if self._secret is None:
            raise EncryptionError(
                f"key {self.key_id} must not be used after it was destroyed; generate a new one"
            )
        return seal_context(self._parameters), self._secret

    def destroy(self) -> None:
        """Forget the secret; `key_id` stays. Files are the caller's to delete."""
        self._secret = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the key to a new file that only its owner can read (mode 0600).

        Raises:
            EncryptionError: if the key was destroyed or something is already at `path`.
        """
        content = self._to_bytes()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileExistsError as error:
            raise EncryptionError(
                f"a key must go into a new file, {os.fspath(path)!r} exists; choose another path"
            ) from error
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            os.unlink(path)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str], parameters: BFVParameters) -> Self:
        """Read a key that `save` wrote.

        Args:
            path: the file; owned by this user and closed to everyone else.
            parameters: the ones this run uses.

        Raises:
            EncryptionError: if there is no such file, others may read or write it, or the key was
                made for other parameters.
            MessageError: if the content is not a key file, or was damaged.
        """
        content = _read_private(path)
        key_id, saved = _parse(content, parameters)
        context, secret = seal_context(parameters), sealapi().SecretKey()
        with ScratchFile() as scratch:
            scratch.write(saved)
            try:
                secret.load(context, scratch.path)
            except (RuntimeError, ValueError) as error:
                raise MessageError(f"the key file must hold a SEAL key, but: {error}") from error
        return cls._of(parameters, secret, key_id)

    def _to_bytes(self) -> bytes:
        _, secret = self.native()
        with ScratchFile() as scratch:
            secret.save(scratch.path)
            saved = scratch.read()
        header = _HEADER.pack(
            _MAGIC, _SCHEMA, bytes.fromhex(self.key_id), self._parameters.digest(), len(saved)
        )
        return header + saved + hashlib.sha256(header + saved).digest()

    def __repr__(self) -> str:
        return f"SharedKey(key_id={self.key_id!r})"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise EncryptionError(
            "a secret key must not be pickled or copied; save it to an owner-only file with `save`"
        )


def _read_private(path: str | os.PathLike[str]) -> bytes:
    """The content of a regular file that is this user's alone."""
    name = os.fspath(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise EncryptionError(f"a key file must be readable, {name!r} is not: {error}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise EncryptionError(f"a key file must be a regular file of this user, got {name!r}")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise EncryptionError(
                f"a key file must be closed to everyone but its owner, {name!r} has "
                f"mode {stat.S_IMODE(status.st_mode):04o}; if nobody read it, chmod 600, "
                "otherwise generate a new key"
            )
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(_MAX_FILE_BYTES)
    finally:
        os.close(descriptor)


def _parse(content: bytes, parameters: BFVParameters) -> tuple[str, bytes]:
    """Key id and SEAL's bytes from a key file."""
    if len(content) < _HEADER.size + _CHECKSUM_BYTES or not content.startswith(_MAGIC):
        raise MessageError("a key file must start with privfed's key header; this is another file")
    _, schema, key_id, digest, length = _HEADER.unpack_from(content)
    if schema != _SCHEMA:
        raise MessageError(f"a key file must have schema {_SCHEMA}, got {schema}")
    body, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if len(body) != _HEADER.size + length or hashlib.sha256(body).digest() != checksum:
        raise MessageError("a key file must be whole and unchanged; this one was damaged")
    if digest != parameters.digest():
        raise EncryptionError(
            "the key must have been made for the parameters of this run, it was made for others; "
            "generate a new key"
        )
    return key_id.hex(), body[_HEADER.size :]
