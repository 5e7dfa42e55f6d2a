"""How the aggregator opens and closes a round under each custody. It relays; it decrypts nothing.

Under `shared_key` the clients open the sum themselves, once all contributors have agreed to the
list of contributions; without encryption there is nothing to agree to. Under `key_holder` a round
begins with the key holder's public key and ends with its result: the aggregator commits to its sum,
passes the challenge on, and hands the answers back.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from privfed.errors import EncryptionError, MessageError
from privfed.identity.contributions import AGREED, CONTRIBUTIONS, LISTING
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.identity.signing import (
    exact_values,
    require_signature,
    require_terms,
    signed_message,
    verified,
)
from privfed.messages import Envelope, Terms

_ROUND_KEY: Final = "round-key"
_CHALLENGE: Final = "challenge"
_RESULT: Final = "result"
_REFUSAL: Final = "refusal"


class Link(Protocol):
    """A connection to the key holder."""

    def ask(self, message: bytes) -> bytes:
        """Send one message and wait for the answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How a round begins.

    Attributes:
        agreed: terms that all know before the round.
        terms: the same with the name of the round's key, where it has one of its own.
        key: message with the round's public key, for the clients; None if they hold a key.
        result: message that ended the round already, in an earlier attempt; or None.
    """

    agreed: Terms
    terms: Terms
    key: bytes | None = None
    result: bytes | None = None


class Custodian(Protocol):
    """The aggregator's side of a custody."""

    @property
    def bytes_asked(self) -> int:
        """Bytes to and from the key holder in the round that was closed last."""
        ...

    def begin(self, terms: Terms) -> Opening:
        """Open a round."""
        ...

    def close(
        self, terms: Terms, total: bytes, ask: Callable[[bytes], Mapping[str, bytes]]
    ) -> bytes:
        """The message that ends the round, from that of the sum.

        Args:
            terms: that the contributors stated.
            total: the sum.
            ask: passes a challenge to all contributors and returns their answers by name.
        """
        ...


class ClientsOpen:
    """The clients hold the key: the sum itself ends the round."""

    bytes_asked = 0

    def begin(self, terms: Terms) -> Opening:
        """Nothing needs to be asked."""
        return Opening(agreed=terms, terms=terms)

    def close(
        self, terms: Terms, total: bytes, ask: Callable[[bytes], Mapping[str, bytes]]
    ) -> bytes:
        """The sum as it is."""
        del terms, ask
        return total


class ClientsAgree(ClientsOpen):
    """The clients hold the key, and open only a sum that all its contributors agreed to.

    Args:
        identity: of the aggregator.
        roster: who is enrolled.
    """

    def __init__(self, identity: Identity, roster: Roster) -> None:
        self._identity = identity
        self._roster = roster

    def close(
        self, terms: Terms, total: bytes, ask: Callable[[bytes], Mapping[str, bytes]]
    ) -> bytes:
        """The sum with the contributors' agreement to its list of contributions.

        Raises:
            EncryptionError: if a contributor does not agree.
            MessageError: if what it sends is no agreement.
        """
        envelope = Envelope.from_bytes(total)
        listed = envelope.statement.manifest[CONTRIBUTIONS]
        listing = signed_message(self._identity, terms, LISTING, manifest={CONTRIBUTIONS: listed})
        answers = ask(listing)
        signatures = {}
        for entry in listed:
            client = entry["client"]
            if client not in answers:
                raise EncryptionError(f"{client!r} did not agree to the contributions of the sum")
            signatures[client] = self._agreement(answers[client], client, terms)
        return signed_message(
            self._identity,
            terms,
            envelope.statement.kind,
            manifest={CONTRIBUTIONS: listed, AGREED: signatures},
            blobs=envelope.blobs,
        )

    def _agreement(self, message: bytes, client: str, terms: Terms) -> str:
        answer = verified(message, self._roster, role=Role.CLIENT, kind=AGREED, terms=terms)
        if answer.statement.sender != client:
            raise MessageError(f"the agreement of {client!r} is somebody else's")
        exact_values(answer, terms, states={LISTING})
        return answer.signature.hex()


class HolderOpens:
    """A key holder makes the keys and decrypts.

    Args:
        link: to the key holder.
        identity: of the aggregator.
        roster: who is enrolled.
    """

    def __init__(self, link: Link, identity: Identity, roster: Roster) -> None:
        self._link = link
        self._identity = identity
        self._roster = roster
        self.bytes_asked = 0

    def begin(self, terms: Terms) -> Opening:
        """Ask for the round's public key.

        Raises:
            EncryptionError: if the key holder refuses.
            MessageError: if it is not the key holder that answers, or not to this.
        """
        self.bytes_asked = 0
        reply, envelope = self._ask(signed_message(self._identity, terms, "open-round"))
        statement = envelope.statement
        kind = _RESULT if statement.kind == _RESULT else _ROUND_KEY
        require_terms(statement, kind=kind, terms=terms)
        if kind == _RESULT:
            exact_values(envelope, terms, states={"contributors", *_named(terms)}, blobs={"sums"})
            return Opening(agreed=terms, terms=terms, result=reply)
        exact_values(envelope, terms, states=_named(terms), blobs={"public_key"})
        named = Terms(run=terms.run, round=terms.round, manifest=statement.manifest)
        return Opening(agreed=terms, terms=named, key=reply)

    def close(
        self, terms: Terms, total: bytes, ask: Callable[[bytes], Mapping[str, bytes]]
    ) -> bytes:
        """Have the sum verified and decrypted.

        Raises:
            EncryptionError: if the key holder refuses.
            MessageError: if it is not the key holder that answers, or not to this.
        """
        challenge, envelope = self._ask(total)
        require_terms(envelope.statement, kind=_CHALLENGE, terms=terms)
        exact_values(envelope, terms, states={"seed", "sum", "contributors"})
        answers = ask(challenge)
        result, envelope = self._ask(
            signed_message(self._identity, terms, "answers", blobs=answers)
        )
        require_terms(envelope.statement, kind=_RESULT, terms=terms)
        exact_values(envelope, terms, states={"contributors"}, blobs={"sums"})
        return result

    def _ask(self, message: bytes) -> tuple[bytes, Envelope]:
        reply = self._link.ask(message)
        self.bytes_asked += len(message) + len(reply)
        envelope = Envelope.from_bytes(reply)
        statement = envelope.statement
        require_signature(statement, envelope.signature, self._roster, role=Role.KEY_HOLDER)
        if statement.kind == _REFUSAL:
            if statement.manifest.get("of") != hashlib.sha256(message).hexdigest():
                raise MessageError("the key holder refused another message")
            raise EncryptionError(f"the key holder refuses: {statement.manifest.get('reason')}")
        return reply, envelope


def _named(agreed: Terms) -> set[str]:
    """What a key holder adds to the terms when it makes a key."""
    return {"key_id", "software"} - set(agreed.manifest)
