"""The keys of one party: Ed25519 to sign its messages, X25519 to receive secrets.

A `Party` is public: who it is and its public keys, which a `Roster` pins. An `Identity` is the same
with the secret halves of these two; it exists in memory, in a file that only its owner can read,
and nowhere else. A party's third key, of the transport below its messages (`transport.py`), is
pinned too, but its secret half is in a file of its own. Public keys are checked when a `Party` is
built, because the libraries check late or not at all: OpenSSL verifies forged signatures under
Ed25519 keys of small order, and two encodings of one X25519 key would pass as two keys.

Reference:
    Josefsson & Liusvaara 2017, RFC 8032 (Ed25519); Langley et al. 2016, RFC 7748 (X25519).
"""

import enum
import hashlib
import os
import struct
from dataclasses import dataclass
from typing import Final, NoReturn, Self, SupportsIndex

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from privfed.canonical import canonical_json, parse_canonical
from privfed.errors import IdentityError, MessageError
from privfed.identity.names import check_name, fold, from_hex, grouped_hex, short
from privfed.identity.points import KEY_BYTES, PRIME, check_signing_key
from privfed.identity.transport import TRANSPORT_KEY_BYTES, check_transport_key
from privfed.storage.private_files import read_private, write_private

_MAX_PARTY_BYTES = 4096
_PARTY_KEYS: Final = {"name", "role", "signing_key", "transport_key", "wrapping_key"}
_EARLIER_PARTY_KEYS: Final = _PARTY_KEYS - {"transport_key"}
_FINGERPRINT_LABEL = b"privfed party 2\n"
_FINGERPRINT_BYTES = 16

_MAGIC = b"privfed-identity\n"
_SCHEMA = 2
_EARLIER_SCHEMA = 1
_HEADER = struct.Struct("<17sI32s32sI")
_CHECKSUM_BYTES = hashlib.sha256().digest_size
_MAX_FILE_BYTES = _HEADER.size + _MAX_PARTY_BYTES + _CHECKSUM_BYTES


class Role(enum.StrEnum):
    """What a party may do in a federation."""

    CLIENT = "client"
    AGGREGATOR = "aggregator"
    KEY_HOLDER = "key_holder"
    AUTHORITY = "authority"


_RESERVED_NAMES: Final = {Role.AGGREGATOR, Role.KEY_HOLDER, Role.AUTHORITY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One party as everybody may know it.

    Attributes:
        name: at most 120 printable characters in normal form C, without "/"; it appears in names
            of blobs and files.
        role: what it may do.
        signing_key: Ed25519 public key, 32 bytes, of the prime-order group.
        wrapping_key: X25519 public key, 32 bytes, canonical and not of low order.
        transport_key: P-384 public key, 49 bytes, a compressed point; empty for a party that
            connects to nobody, as an authority and the parties of a simulation.

    Raises:
        IdentityError: if a field is not that.
    """

    name: str
    role: Role
    signing_key: bytes
    wrapping_key: bytes
    transport_key: bytes = b""

    def __post_init__(self) -> None:
        check_name(self.name, "the name of a party")
        if not isinstance(self.role, Role):
            raise IdentityError(
                f"the role of {self.name!r} must be a Role, got {self.role!r}; use one of "
                f"{', '.join(Role)}"
            )
        folded = fold(self.name)
        if folded in _RESERVED_NAMES and folded != self.role:
            raise IdentityError(
                f"the name {self.name!r} must belong to the {folded}, got it for the role "
                f"{self.role}; choose another name"
            )
        check_signing_key(self.signing_key)
        _check_wrapping_key(self.wrapping_key)
        if self.transport_key or not isinstance(self.transport_key, bytes):
            check_transport_key(self.transport_key)
            if self.role is Role.AUTHORITY:
                raise IdentityError(
                    f"an authority must have no transport key, {self.name!r} has one; it connects "
                    "to nobody, make its identity without"
                )

    @property
    def fingerprint(self) -> str:
        """128 bits of SHA-256 over all fields, as eight groups of four hex digits to read aloud."""
        content = _FINGERPRINT_LABEL + canonical_json(self.to_json())
        return grouped_hex(hashlib.sha256(content).digest()[:_FINGERPRINT_BYTES])

    def to_json(self) -> dict[str, str]:
        """All fields as text; keys in lower-case hex, none as an empty text."""
        return {
            "name": self.name,
            "role": self.role.value,
            "signing_key": self.signing_key.hex(),
            "transport_key": self.transport_key.hex(),
            "wrapping_key": self.wrapping_key.hex(),
        }

    @classmethod
    def from_json(cls, value: object) -> "Party":
        """Read what `to_json` made, strictly.

        Raises:
            MessageError: if a key is missing or unknown, or a value is not what it must be.
        """
        if isinstance(value, dict) and set(value) == _EARLIER_PARTY_KEYS:
            raise MessageError(
                "a party must have a transport key or say that it has none, this one is of an "
                "earlier version, before transport keys; make a new identity with this version"
            )
        if not isinstance(value, dict) or set(value) != _PARTY_KEYS:
            raise MessageError(
                f"a party must have exactly the keys {sorted(_PARTY_KEYS)}; ask for a new file"
            )
        if not all(isinstance(entry, str) for entry in value.values()):
            raise MessageError("every value of a party must be text; ask for a new file")
        if value["role"] not in tuple(Role):
            raise MessageError(
                f"a role must be one of {', '.join(Role)}, got {short(value['role'])}"
            )
        try:
            return cls(
                name=value["name"],
                role=Role(value["role"]),
                signing_key=from_hex(value["signing_key"], KEY_BYTES),
                wrapping_key=from_hex(value["wrapping_key"], KEY_BYTES),
                transport_key=_transport_key(value["transport_key"]),
            )
        except IdentityError as error:
            raise MessageError(f"a party must be usable, but: {error}") from error

    def to_bytes(self) -> bytes:
        """The public file of a party: canonical JSON and a newline."""
        return canonical_json(self.to_json()) + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes) -> "Party":
        """Read what `to_bytes` made, strictly.

        Raises:
            MessageError: if anything else came.
        """
        return cls.from_json(parse_canonical(content, "a party file", most=_MAX_PARTY_BYTES))


class Identity:
    """A party with its secret keys. Make one with `generate` or `load`.

    Signing takes any bytes: every kind of message must begin with a label of its own, so that a
    signature over one cannot be shown as a signature over another.
    """

    __slots__ = ("_signing", "_wrapping", "party")

    party: Party
    _signing: Ed25519PrivateKey
    _wrapping: X25519PrivateKey

    def __init__(self) -> None:
        raise TypeError("use Identity.generate(name, role) or Identity.load(path)")

    @classmethod
    def _of(
        cls,
        name: str,
        role: Role,
        signing: Ed25519PrivateKey,
        wrapping: X25519PrivateKey,
        transport_key: bytes,
    ) -> Self:
        identity = object.__new__(cls)
        identity._signing = signing
        identity._wrapping = wrapping
        identity.party = Party(
            name=name,
            role=role,
            signing_key=signing.public_key().public_bytes_raw(),
            wrapping_key=wrapping.public_key().public_bytes_raw(),
            transport_key=transport_key,
        )
        return identity

    @classmethod
    def generate(cls, name: str, role: Role, transport_key: bytes = b"") -> Self:
        """Fresh keys, drawn from the operating system's generator.

        Args:
            name: of the party.
            role: what it may do.
            transport_key: the public half of one that `new_transport_key` made, or empty for none.

        Raises:
            IdentityError: if the name, the role or the transport key is not allowed.
        """
        signing, wrapping = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
        return cls._of(name, role, signing, wrapping, transport_key)

    def sign(self, message: bytes) -> bytes:
        """Ed25519 signature of `message`, 64 bytes; the same message gives the same signature."""
        return self._signing.sign(message)

    def exchange(self, public: bytes) -> bytes:
        """X25519 shared secret with the holder of `public`, 32 bytes; derive keys from it.

        Raises:
            IdentityError: if `public` is not 32 bytes, or a low-order point, with which the
                secret would be known to everybody.
        """
        try:
            return self._wrapping.exchange(X25519PublicKey.from_public_bytes(public))
        except (TypeError, ValueError) as error:
            raise IdentityError(
                "an X25519 public key must be 32 bytes and not of low order, another came; "
                "whoever sent it must send a key made by an X25519 library"
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the keys to a new file that only its owner can read (mode 0600).

        Raises:
            IdentityError: if something is already at `path` or it cannot be written.
        """
        party = canonical_json(self.party.to_json())
        body = _HEADER.pack(
            _MAGIC,
            _SCHEMA,
            self._signing.private_bytes_raw(),
            self._wrapping.private_bytes_raw(),
            len(party),
        )
        body += party
        write_private(path, body + hashlib.sha256(body).digest())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read keys that `save` wrote.

        Args:
            path: the file; owned by this user and closed to everyone else.

        Raises:
            IdentityError: if there is no such file, or others may read or write it.
            MessageError: if the content is not an identity file, or was damaged.
        """
        signing, wrapping, party = _parse_file(read_private(path, most=_MAX_FILE_BYTES))
        identity = cls._of(
            party.name,
            party.role,
            Ed25519PrivateKey.from_private_bytes(signing),
            X25519PrivateKey.from_private_bytes(wrapping),
            party.transport_key,
        )
        if identity.party != party:
            raise MessageError(
                f"the secret keys of {party.name!r} must belong to its public keys, these do not; "
                "take the file from a backup or make a new identity"
            )
        return identity

    def __repr__(self) -> str:
        return f"Identity(name={self.party.name!r})"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise IdentityError(
            "secret keys must not be pickled or copied; save them to an owner-only file with `save`"
        )


def is_identity_file(content: bytes) -> bool:
    """Whether these first bytes of a file say that secret keys follow."""
    return content.startswith(_MAGIC)


def _parse_file(content: bytes) -> tuple[bytes, bytes, Party]:
    """Signing secret, wrapping secret and party; no message shows any content."""
    if len(content) < _HEADER.size + _CHECKSUM_BYTES or not is_identity_file(content):
        raise MessageError(
            "an identity file must start with privfed's header; this is another file, check the "
            "path (the public .party.json beside it holds no secret keys)"
        )
    _, schema, signing, wrapping, length = _HEADER.unpack_from(content)
    if schema == _EARLIER_SCHEMA:
        raise MessageError(
            f"an identity file must have schema {_SCHEMA}, got {schema}, of an earlier version, "
            "before transport keys; make a new identity with this version"
        )
    if schema != _SCHEMA:
        raise MessageError(
            f"an identity file must have schema {_SCHEMA}, got {schema}; use the privfed that "
            "wrote it"
        )
    body, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if len(body) != _HEADER.size + length or hashlib.sha256(body).digest() != checksum:
        raise MessageError(
            "an identity file must be whole and unchanged; this one was damaged, take it from a "
            "backup or make a new identity"
        )
    return signing, wrapping, Party.from_bytes(body[_HEADER.size :] + b"\n")


def _transport_key(text: str) -> bytes:
    return from_hex(text, TRANSPORT_KEY_BYTES) if text else b""


def _check_wrapping_key(key: bytes) -> None:
    """Refuse another length, a second encoding of a key (RFC 7748, section 5), and low order."""
    usable = isinstance(key, bytes) and len(key) == KEY_BYTES
    if usable and int.from_bytes(key, "little") < PRIME:
        try:
            _ANY_X25519.exchange(X25519PublicKey.from_public_bytes(key))
            return
        except ValueError:
            pass
    raise IdentityError(
        "an X25519 public key must be 32 bytes below 2^255 - 19 and not of low order, got "
        f"{short(key.hex() if isinstance(key, bytes) else key)}; make a new identity"
    )


# Every X25519 secret is a multiple of 8, so any one of them shows a point of low order.
_ANY_X25519 = X25519PrivateKey.from_private_bytes(bytes(KEY_BYTES))
