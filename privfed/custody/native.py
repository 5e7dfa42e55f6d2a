"""The local SEAL, reached through TenSEAL: loaded on first use, fed only by this process.

TenSEAL's own contexts always make key-switching keys and so refuse a single ciphertext prime; its
`tenseal.sealapi` module exposes plain SEAL, where such a context is an ordinary one. SEAL's objects
can be saved to and loaded from a path only, so a `ScratchFile` gives them one that no other process
finds: anonymous memory on Linux, a private temporary folder elsewhere.

No random generator is ever set: SEAL's default draws a fresh seed from the operating system for
every key and ciphertext. A generator factory with a fixed seed would repeat them.
"""

import functools
import importlib
import importlib.metadata
import os
import struct
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from privfed.encryption import frames
from privfed.encryption.noise import COEFF_MODULUS, SPECIAL_MODULUS
from privfed.encryption.primes import POLY_MODULUS_DEGREE
from privfed.errors import EncryptionError, MessageError


def sealapi() -> Any:
    """The `tenseal.sealapi` module, imported when it is first needed."""
    return importlib.import_module("tenseal.sealapi")


@functools.lru_cache(maxsize=16)
def bfv_context(plain_modulus: int, *, special: bool) -> Any:
    """SEAL's context of BFV under the one ciphertext prime; slow to make, so it is kept.

    Args:
        plain_modulus: the batching prime t.
        special: with the special prime that public keys need.

    Raises:
        EncryptionError: if the local SEAL chooses another prime, refuses the parameters at 128-bit
            security, or names them differently.
    """
    seal = sealapi()
    chosen = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    expected = (COEFF_MODULUS, SPECIAL_MODULUS) if special else (COEFF_MODULUS,)
    _set_moduli(chosen, expected)
    chosen.set_plain_modulus(plain_modulus)
    names = {frames.parms_id(frames.BFV, expected[:1], plain_modulus)}
    return _checked_context(chosen, names)


@functools.lru_cache(maxsize=4)
def ckks_context(coeff_modulus: int) -> Any:
    """SEAL's context of CKKS under one prime.

    Raises:
        EncryptionError: as `bfv_context`.
    """
    seal = sealapi()
    chosen = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    _set_moduli(chosen, (coeff_modulus,))
    return _checked_context(chosen, {frames.parms_id(frames.CKKS, (coeff_modulus,), 0)})


def _set_moduli(chosen: Any, expected: tuple[int, ...]) -> None:
    chosen.set_poly_modulus_degree(POLY_MODULUS_DEGREE)
    bits = [prime.bit_length() for prime in expected]
    primes = sealapi().CoeffModulus.Create(POLY_MODULUS_DEGREE, bits)
    if tuple(prime.value() for prime in primes) != expected:
        raise EncryptionError(
            f"the local SEAL must choose the primes {expected}, got "
            f"{[prime.value() for prime in primes]}; install the supported TenSEAL"
        )
    chosen.set_coeff_modulus(primes)


def _checked_context(chosen: Any, names: set[bytes]) -> Any:
    seal = sealapi()
    context = seal.SEALContext(chosen, True, seal.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise EncryptionError(
            "the local SEAL must accept the parameters at 128-bit security, it says: "
            f"{context.parameters_error_message()}"
        )
    if struct.pack("<4Q", *context.first_parms_id()) not in names:
        raise EncryptionError(
            "the local SEAL must name the parameters by the BLAKE2b digest that frames carry; "
            "install the supported TenSEAL"
        )
    return context


def software() -> dict[str, str]:
    """Versions of TenSEAL and of the SEAL inside it; other versions cannot share messages."""
    return {
        "tenseal": importlib.metadata.version("tenseal"),
        "seal": ".".join(map(str, seal_version())),
    }


def require_same_software(theirs: object, who: str) -> None:
    """Refuse keys of a party whose TenSEAL or SEAL is of another version than ours.

    Raises:
        EncryptionError: with both versions.
    """
    ours = software()
    if theirs != ours:
        raise EncryptionError(
            f"all parties must run the same TenSEAL and SEAL: {who} runs {theirs}, this process "
            f"{ours}; install the same version everywhere"
        )


@functools.lru_cache(maxsize=1)
def seal_version() -> tuple[int, int]:
    """(major, minor) of the local SEAL, as it writes it into its headers."""
    with ScratchFile() as scratch:
        sealapi().Plaintext("1").save(scratch.path)
        return frames.Header.from_bytes(scratch.read()).version


def uncompressed(saved: bytes, num_bytes: int) -> bytes:
    """What SEAL saved, as the same object without compression.

    Args:
        saved: bytes that the local SEAL has just written.
        num_bytes: length of the object without compression.

    Raises:
        MessageError: if the bytes are not one whole object of that length.
    """
    header = frames.Header.from_bytes(saved)
    if header.num_bytes != len(saved):
        raise MessageError(f"a SEAL object must be {header.num_bytes} bytes, got {len(saved)}")
    if header.compression == frames.UNCOMPRESSED:
        return saved
    if header.compression != frames.ZSTD:
        raise MessageError(
            f"SEAL must save with no compression or zstd, got mode {header.compression}; "
            "install the supported TenSEAL"
        )
    pyarrow = importlib.import_module("pyarrow")
    try:
        body: bytes = pyarrow.Codec("zstd").decompress(
            saved[frames.HEADER_BYTES :], num_bytes - frames.HEADER_BYTES, asbytes=True
        )
    except OSError as error:
        raise MessageError(
            f"a SEAL object must unpack to {num_bytes} bytes, but: {error}"
        ) from error
    return frames.Header(version=header.version, num_bytes=num_bytes).to_bytes() + body


class ScratchFile:
    """A path for SEAL to save to and load from, and nothing left behind.

    Use as a context manager. What was in the file is overwritten before it goes.
    """

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._descriptor = _anonymous_memory()
        if self._descriptor is None:
            self._folder = tempfile.TemporaryDirectory(prefix="privfed-")
            self.path = str(Path(self._folder.name) / "scratch")
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        else:
            self.path = f"/dev/fd/{self._descriptor}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor is None:
            return
        try:
            os.pwrite(self._descriptor, bytes(os.fstat(self._descriptor).st_size), 0)
        finally:
            os.close(self._descriptor)
            self._descriptor = None
            if self._folder is not None:
                self._folder.cleanup()

    def read(self) -> bytes:
        """The whole content, as SEAL left it."""
        if self._descriptor is None:
            raise EncryptionError("a scratch file must be used inside its `with` block")
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)

    def write(self, content: bytes) -> None:
        """Replace the content, for SEAL to load."""
        if self._descriptor is None:
            raise EncryptionError("a scratch file must be used inside its `with` block")
        os.ftruncate(self._descriptor, len(content))
        written = os.pwrite(self._descriptor, content, 0)
        if written != len(content):
            raise EncryptionError(
                f"a scratch file must hold {len(content)} bytes, only {written} were written; "
                "free memory or space in the temporary folder"
            )


def _anonymous_memory() -> int | None:
    """A descriptor of memory that has a path only for this process; None where there is none."""
    if sys.platform != "linux" or not os.path.exists("/dev/fd"):
        return None
    try:
        return os.memfd_create("privfed")
    except OSError:
        return None
