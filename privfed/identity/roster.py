"""The signed list of who takes part and with which keys, handed out before a run.

The aggregator relays every message, so it could swap keys if parties learned them from it. They
learn them from this file instead, and trust it because of the one public key that they were given
by another way: the authority's. A `Roster` object exists only with a signature that verifies.
The signature covers everything; `digest` goes into messages, so that parties with different
rosters notice.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privfed.canonical import canonical_json, parse_canonical
from privfed.errors import IdentityError, MessageError
from privfed.identity.keys import Identity, Party, Role
from privfed.identity.names import check_name, fold, from_hex
from privfed.identity.points import KEY_BYTES, check_signing_key
from privfed.storage.private_files import write_new

SCHEMA: Final = 2

_EARLIER_SCHEMA: Final = 1
_LABEL: Final = b"privfed roster 2\n"
_KEYS: Final = {"schema", "federation", "parties", "authority", "signature"}
_SIGNATURE_BYTES: Final = 64
_MAX_BYTES: Final = 1 << 20
_AT_MOST_ONE: Final = (Role.AGGREGATOR, Role.KEY_HOLDER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """Who is enrolled in one federation. Make one with `signed`, `from_bytes` or `load`.

    Attributes:
        federation: its name.
        parties: sorted by name; names differ in more than case, no two keys are equal, at most
            one aggregator and one key holder, no authority.
        authority: Ed25519 public key of who signed, 32 bytes.
        signature: of all the rest, 64 bytes.

    Raises:
        IdentityError: if a field is not that, or the signature is wrong.
    """

    federation: str
    parties: tuple[Party, ...]
    authority: bytes
    signature: bytes

    def __post_init__(self) -> None:
        check_name(self.federation, "the name of a federation")
        check_signing_key(self.authority)
        _check_parties(self.parties, self.authority)
        size = len(self.to_bytes())
        if size > _MAX_BYTES:
            raise IdentityError(
                f"a roster must have at most {_MAX_BYTES} bytes, {size} came; enrol fewer parties"
            )
        content = _content(self.federation, self.parties, self.authority)
        if not _verifies(self.authority, _LABEL + canonical_json(content), self.signature):
            raise IdentityError(
                "a roster must carry its authority's signature, this one was changed after it was "
                "signed; ask the authority to sign it"
            )

    @classmethod
    def signed(cls, federation: str, parties: Iterable[Party], authority: Identity) -> "Roster":
        """Enrol `parties`, in any order, under the authority's signature.

        Raises:
            IdentityError: if `authority` has another role, or the parties do not fit together.
        """
        if authority.party.role is not Role.AUTHORITY:
            raise IdentityError(
                f"a roster must be signed by an authority, {authority.party.name!r} has "
                f"the role {authority.party.role}; make an identity with that role"
            )
        key = authority.party.signing_key
        ordered = tuple(sorted(parties, key=lambda party: party.name))
        content = canonical_json(_content(federation, ordered, key))
        return cls(
            federation=federation,
            parties=ordered,
            authority=key,
            signature=authority.sign(_LABEL + content),
        )

    def to_bytes(self) -> bytes:
        """The file: canonical JSON and a newline."""
        content = _content(self.federation, self.parties, self.authority)
        return canonical_json({**content, "signature": self.signature.hex()}) + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes, *, authority: bytes) -> "Roster":
        """Read a roster strictly.

        Args:
            content: the file.
            authority: public key of who must have signed it, learned in another way.

        Raises:
            MessageError: if it is malformed, or not signed by `authority`.
            IdentityError: if `authority` itself is no usable key.
        """
        check_signing_key(authority)
        value = parse_canonical(content, "a roster", most=_MAX_BYTES)
        if not isinstance(value, dict) or set(value) != _KEYS:
            raise MessageError(f"a roster must have exactly the keys {sorted(_KEYS)}")
        schema = value["schema"] if type(value["schema"]) is int else None
        if schema == _EARLIER_SCHEMA:
            raise MessageError(
                f"a roster must have schema {SCHEMA}, got {schema}, of an earlier version, before "
                "transport keys; make new identities and sign a new roster with this version"
            )
        if schema != SCHEMA:
            raise MessageError(f"a roster must have schema {SCHEMA}; use the privfed that wrote it")
        # Before anything else is believed, or any time is spent on the keys in it.
        signature = _authentic(value, authority)
        return _built(value, authority, signature)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, authority: bytes) -> "Roster":
        """Read a roster from a file; see `from_bytes`.

        Raises:
            IdentityError: if the file cannot be read, or `authority` is no usable key.
            MessageError: if the content is malformed, or not signed by `authority`.
        """
        try:
            with open(path, "rb") as file:
                content = file.read(_MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            raise IdentityError(
                f"a roster must be a readable file, {os.fspath(path)!r} is not: {error}; "
                "check the path"
            ) from error
        return cls.from_bytes(content, authority=authority)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the roster to a new file that everybody may read (mode 0644).

        Raises:
            IdentityError: if something is already at `path` or it cannot be written.
        """
        write_new(path, self.to_bytes(), mode=0o644)

    def digest(self) -> bytes:
        """SHA-256 of the file, 32 bytes; state it in every message."""
        return hashlib.sha256(self.to_bytes()).digest()

    def party(self, name: str) -> Party:
        """The party of that name.

        Raises:
            IdentityError: if none is enrolled under it.
        """
        party = self._find(name)
        if party is None:
            raise IdentityError(
                f"a party must be enrolled in {self.federation!r}, {name!r:.200} is not; "
                "check the name or ask the authority for a new roster"
            )
        return party

    def of_role(self, role: Role) -> tuple[Party, ...]:
        """All parties of one role, sorted by name."""
        return tuple(party for party in self.parties if party.role is role)

    def verify(self, name: str, message: bytes, signature: bytes, *, role: Role) -> None:
        """Check that the party `name`, enrolled as `role`, signed `message`.

        Raises:
            MessageError: if it is not enrolled, has another role, or did not sign this.
        """
        party = self._find(name)
        if party is None:
            raise MessageError(
                f"the sender must be enrolled in {self.federation!r}, {name!r:.200} is not; "
                "the message is refused"
            )
        if party.role is not role:
            raise MessageError(
                f"the sender must be enrolled as {role}, {name!r} has the role "
                f"{party.role}; "
                "the message is refused"
            )
        if not _verifies(party.signing_key, message, signature):
            raise MessageError(
                f"a message of {name!r} must carry its signature, this one does not: it was "
                "changed, or signed with a key that is not in the roster; the message is refused"
            )

    def _find(self, name: str) -> Party | None:
        return next((party for party in self.parties if party.name == name), None)


def _content(federation: str, parties: Iterable[Party], authority: bytes) -> dict[str, Any]:
    """All that is signed."""
    return {
        "schema": SCHEMA,
        "federation": federation,
        "parties": [party.to_json() for party in parties],
        "authority": authority.hex(),
    }


def _verifies(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _authentic(value: dict[str, Any], authority: bytes) -> bytes:
    """The signature, once it is known to be the pinned authority's over the rest of `value`."""
    signer = from_hex(value["authority"], KEY_BYTES)
    if signer != authority:
        raise MessageError(
            f"a roster must be signed by the authority {authority.hex()}, this one names "
            f"{signer.hex()}; ask for the right file, or compare the authority's key by phone"
        )
    signature = from_hex(value["signature"], _SIGNATURE_BYTES)
    content = {key: entry for key, entry in value.items() if key != "signature"}
    if not _verifies(authority, _LABEL + canonical_json(content), signature):
        raise MessageError(
            "a roster must carry its authority's signature, this one was changed after it was "
            "signed; ask the authority for the file again"
        )
    return signature


def _built(value: dict[str, Any], authority: bytes, signature: bytes) -> Roster:
    if not isinstance(value["federation"], str) or not isinstance(value["parties"], list):
        raise MessageError("a roster must have a federation's name and a list of parties")
    parties = tuple(Party.from_json(entry) for entry in value["parties"])
    try:
        return Roster(
            federation=value["federation"],
            parties=parties,
            authority=authority,
            signature=signature,
        )
    except IdentityError as error:
        raise MessageError(f"a roster must be usable, but: {error}") from error


def _check_parties(parties: tuple[Party, ...], authority: bytes) -> None:
    names = [party.name for party in parties]
    if not names or names != sorted(names):
        raise IdentityError(f"a roster must have parties sorted by name, got {len(names)} parties")
    for role in _AT_MOST_ONE:
        holders = [party.name for party in parties if party.role is role]
        if len(holders) > 1:
            raise IdentityError(f"a roster must have at most one {role}, got {holders}; keep one")
    listed = [party.name for party in parties if party.role is Role.AUTHORITY]
    if listed:
        raise IdentityError(
            f"an authority must not be among the parties, {listed[0]!r} is; leave it out"
        )
    _refuse_repeated("name, whatever its case or form,", parties, [fold(name) for name in names])
    _refuse_repeated("signing key", parties, [party.signing_key for party in parties])
    _refuse_repeated("wrapping key", parties, [party.wrapping_key for party in parties])
    reached = tuple(party for party in parties if party.transport_key)
    _refuse_repeated("transport key", reached, [party.transport_key for party in reached])
    for party in parties:
        if party.signing_key == authority:
            raise IdentityError(
                f"{party.name!r} must have another signing key than the authority; "
                "make a new identity for it"
            )


def _refuse_repeated(what: str, parties: tuple[Party, ...], values: list[Any]) -> None:
    counts = Counter(values)
    same = [party.name for party, value in zip(parties, values, strict=True) if counts[value] > 1]
    if same:
        raise IdentityError(
            f"every party must have a {what} of its own, {same} share one; leave out all but one"
        )
