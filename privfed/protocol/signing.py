"""Whose message this is: parties sign what they send.

Signatures are checked against the roster before anything else is read.
"""

import hashlib
from collections.abc import Collection, Mapping
from typing import Final

from privfed.canonical import canonical_json
from privfed.errors import MessageError
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.protocol.envelopes import Blob, Blobs, Envelope, Statement, envelope_bytes
from privfed.protocol.kinds import OF, REASON, REFUSAL
from privfed.protocol.terms import Terms

_REASON_CHARACTERS: Final = 2000


def signed_message(
    identity: Identity,
    terms: Terms,
    kind: str,
    *,
    manifest: Mapping[str, object] | None = None,
    blobs: Blobs | None = None,
) -> bytes:
    """A whole message of a round, sent and signed by the party with this identity.

    Args:
        identity: of the sender.
        terms: of the round.
        kind: of the message.
        manifest: what it states beyond the terms.
        blobs: what it carries.
    """
    return envelope_bytes(
        identity.sign,
        terms,
        sender=identity.party.name,
        kind=kind,
        manifest=manifest,
        blobs=blobs,
    )


def refusal(identity: Identity, message: bytes, reason: str) -> bytes:
    """The signed words of a party that will not do what a message asks.

    Args:
        identity: of the party.
        message: that is refused.
        reason: in public words; "EncryptionError: ..." for the class that the other side raises.
    """
    terms = Terms(run="", round=0, manifest={OF: hashlib.sha256(message).hexdigest()})
    shown = reason[:_REASON_CHARACTERS]
    return signed_message(identity, terms, REFUSAL, manifest={REASON: shown})


def refused(envelope: Envelope, message: bytes) -> str | None:
    """The reason, where a verified reply refuses this message; None for any other reply.

    Raises:
        MessageError: if it refuses another message.
    """
    statement = envelope.statement
    if statement.kind != REFUSAL:
        return None
    if statement.manifest.get(OF) != hashlib.sha256(message).hexdigest():
        raise MessageError(f"{statement.sender!r} refused another message")
    return str(statement.manifest.get(REASON))


def verified(message: Blob, roster: Roster, *, role: Role, kind: str, terms: Terms) -> Envelope:
    """Read a message of one round, signed by an enrolled party of the right role.

    Args:
        message: untrusted bytes.
        roster: who is enrolled.
        role: that the sender must have.
        kind: that the message must be of.
        terms: that it must state, to the letter; see `require_terms`.

    Raises:
        MessageError: naming the sender where it is known, and the reason.
    """
    envelope = Envelope.from_bytes(message)
    require_signature(envelope.statement, envelope.signature, roster, role=role)
    require_terms(envelope.statement, kind=kind, terms=terms)
    return envelope


def require_signature(
    statement: Statement, signature: bytes, roster: Roster, *, role: Role
) -> None:
    """Refuse a statement that its sender, enrolled with this role, did not sign.

    Raises:
        MessageError: with the sender and the reason.
    """
    roster.verify(statement.sender, statement.signed_bytes(), signature, role=role)


def require_terms(statement: Statement, *, kind: str, terms: Terms) -> None:
    """Refuse a statement of another kind, run, round, or with other terms.

    What a message states beyond the terms is for its reader to check.

    Raises:
        MessageError: with the sender and what differs.
    """
    sender, stated = statement.sender, statement.manifest
    if (statement.run, statement.round, statement.kind) != (terms.run, terms.round, kind):
        raise MessageError(
            f"{sender!r} sent a {statement.kind!r:.80} of run {statement.run!r:.80}, round "
            f"{statement.round}; expected a {kind!r} of run {terms.run!r}, round {terms.round}"
        )
    common = {key: value for key, value in stated.items() if key in terms.manifest}
    require_values(sender, common, terms.manifest)


def require_values(sender: str, stated: object, expected: object, name: str = "") -> None:
    """Refuse stated values that are not the expected ones, to the letter, naming the first.

    Nothing may be added either, at any depth: who rebuilds a statement from the expected values
    must get the bytes that were signed.

    Raises:
        MessageError: with the sender and what differs.
    """
    if isinstance(expected, Mapping) and isinstance(stated, Mapping):
        for key in sorted(expected.keys() | stated.keys()):
            path = f"{name}.{key}" if name else key
            if key not in stated:
                raise MessageError(f"{sender!r} states no {path}, expected {expected[key]!r}")
            if key not in expected:
                raise MessageError(f"{sender!r} states {path:.80} too, which is not expected")
            require_values(sender, stated[key], expected[key], path)
    elif canonical_json(stated) != canonical_json(expected):
        raise MessageError(f"{sender!r} states {name} = {stated!r:.200}, expected {expected!r}")


def own_values(statement: Statement, terms: Terms) -> dict[str, object]:
    """What a statement says beyond its terms."""
    return {key: value for key, value in statement.manifest.items() if key not in terms.manifest}


def exact_values(
    envelope: Envelope, terms: Terms, *, states: Collection[str], blobs: Collection[str] = ()
) -> dict[str, object]:
    """What a message says beyond its terms, which must be these entries and these blobs, no other.

    Raises:
        MessageError: with the sender and what came instead.
    """
    statement = envelope.statement
    stated = own_values(statement, terms)
    if set(stated) != set(states):
        raise MessageError(
            f"{statement.sender!r} must state {sorted(states)} in its {statement.kind!r}, got "
            f"{sorted(stated)!r:.200}"
        )
    if set(envelope.blobs) != set(blobs):
        raise MessageError(
            f"{statement.sender!r} must send the blobs {sorted(blobs)} in its {statement.kind!r}, "
            f"got {sorted(envelope.blobs)!r:.200}"
        )
    return stated
