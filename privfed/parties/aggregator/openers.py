"""How the aggregator opens and closes a round under each custody. It relays; it decrypts nothing.

Under `shared_key` the clients open the sum themselves, once all contributors have agreed to the
list of contributions; without encryption there is nothing to agree to. Under `key_holder` a round
begins with the key holder's public key and ends with its result: the aggregator commits to its sum,
passes the challenge on, and hands the answers back.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from privfed.errors import AwayError, EncryptionError, MessageError, SpoiledSumError
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.protocol.contributions import listing_digest
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import (
    AGREED,
    ANSWER,
    ANSWERS,
    CHALLENGE,
    CONTRIBUTIONS,
    CONTRIBUTORS,
    KEY_ID,
    LISTING,
    OPEN_ROUND,
    PUBLIC_KEY,
    RESULT,
    ROUND_KEY,
    SEED,
    SOFTWARE,
    SUM,
    SUMS,
    VALUES,
)
from privfed.protocol.signing import (
    exact_values,
    refused,
    require_signature,
    require_terms,
    signed_message,
    verified,
)
from privfed.protocol.terms import Terms

_CHECKED: Final = ("EncryptionError: ", "MessageError: ", "SpoiledSumError: ")
"""How reasons begin that a key holder gives for what it was sent."""


Ask = Callable[[bytes], Mapping[str, bytes]]
"""Puts one question to all contributors, and returns their answers by name."""


class Link(Protocol):
    """A connection to the key holder."""

    def ask(self, message: bytes) -> bytes:
        """Send one message and wait for the answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How a round begins.

    Attributes:
        unkeyed: terms that all know before the round.
        terms: the same with the name of the round's key, where it has one of its own.
        key: message with the round's public key, for the clients; None if they hold a key.
        result: message that ended the round already, in an earlier attempt; or None.
    """

    unkeyed: Terms
    terms: Terms
    key: bytes | None = None
    result: bytes | None = None


class Opener(Protocol):
    """The aggregator's side of whoever opens its sums."""

    @property
    def bytes_asked(self) -> int:
        """Bytes to and from the key holder in the round that was closed last."""
        ...

    def begin(self, terms: Terms) -> Opening:
        """Open a round."""
        ...

    def close(self, terms: Terms, total: bytes, ask: Ask) -> bytes:
        """The message that ends the round, from that of the sum.

        Args:
            terms: that the contributors stated.
            total: the sum.
            ask: puts a question to all contributors.
        """
        ...


class ClientsOpen:
    """The clients hold the key: the sum itself ends the round."""

    bytes_asked = 0

    def begin(self, terms: Terms) -> Opening:
        """Nothing needs to be asked."""
        return Opening(unkeyed=terms, terms=terms)

    def close(self, terms: Terms, total: bytes, ask: Ask) -> bytes:
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

    def close(self, terms: Terms, total: bytes, ask: Ask) -> bytes:
        """The sum with the contributors' agreement to its list of contributions.

        Raises:
            AwayError: naming the contributors that sent no agreement.
        """
        envelope = Envelope.from_bytes(total)
        listed = envelope.statement.manifest[CONTRIBUTIONS]
        listing = signed_message(self._identity, terms, LISTING, manifest={CONTRIBUTIONS: listed})
        names = [entry["client"] for entry in listed]
        states = {LISTING: listing_digest(listed)}
        agreements = _answers(ask(listing), names, self._roster, terms, AGREED, states)
        signatures = {name: answer.signature.hex() for name, answer in agreements.items()}
        return signed_message(
            self._identity,
            terms,
            envelope.statement.kind,
            manifest={CONTRIBUTIONS: listed, AGREED: signatures},
            blobs=envelope.blobs,
        )


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
        reply, envelope = self._ask(signed_message(self._identity, terms, OPEN_ROUND))
        statement = envelope.statement
        kind = RESULT if statement.kind == RESULT else ROUND_KEY
        require_terms(statement, kind=kind, terms=terms)
        if kind == RESULT:
            exact_values(envelope, terms, states={CONTRIBUTORS, *_named(terms)}, blobs={SUMS})
            return Opening(unkeyed=terms, terms=terms, result=reply)
        exact_values(envelope, terms, states=_named(terms), blobs={PUBLIC_KEY})
        named = Terms(run=terms.run, round=terms.round, manifest=statement.manifest)
        return Opening(unkeyed=terms, terms=named, key=reply)

    def close(self, terms: Terms, total: bytes, ask: Ask) -> bytes:
        """Have the sum verified and decrypted.

        Raises:
            AwayError: naming the contributors that sent no answer.
            SpoiledSumError: if the key holder refuses the answers or what it decrypted.
            EncryptionError: if it refuses something else.
            MessageError: if it is not the key holder that answers, or not to this.
        """
        challenge, envelope = self._ask(total)
        require_terms(envelope.statement, kind=CHALLENGE, terms=terms)
        stated = exact_values(envelope, terms, states={SEED, SUM, CONTRIBUTORS})
        listed = Envelope.from_bytes(total).statement.manifest[CONTRIBUTIONS]
        names = [entry["client"] for entry in listed]
        if stated[CONTRIBUTORS] != names:
            raise MessageError(f"the key holder's challenge must name the contributors {names}")
        answers = ask(challenge)
        digest = hashlib.sha256(envelope.statement.to_bytes()).hexdigest()
        states = {CHALLENGE: digest, VALUES: None}
        _answers(answers, names, self._roster, terms, ANSWER, states)
        blobs = {name: answers[name] for name in names}
        result, envelope = self._ask(
            signed_message(self._identity, terms, ANSWERS, blobs=blobs),
            checked=SpoiledSumError,
        )
        require_terms(envelope.statement, kind=RESULT, terms=terms)
        exact_values(envelope, terms, states={CONTRIBUTORS}, blobs={SUMS})
        return result

    def _ask(
        self, message: bytes, checked: type[EncryptionError] = EncryptionError
    ) -> tuple[bytes, Envelope]:
        """The reply; `checked` is raised where the key holder checked and refuses the message."""
        reply = self._link.ask(message)
        self.bytes_asked += len(message) + len(reply)
        envelope = Envelope.from_bytes(reply)
        statement = envelope.statement
        require_signature(statement, envelope.signature, self._roster, role=Role.KEY_HOLDER)
        reason = refused(envelope, message)
        if reason is not None:
            # Other reasons are failures of its own, say of its disk: those are nobody's update.
            error = checked if reason.startswith(_CHECKED) else EncryptionError
            raise error(f"the key holder refuses: {reason}")
        return reply, envelope


def _answers(
    answers: Mapping[str, bytes],
    contributors: Sequence[str],
    roster: Roster,
    terms: Terms,
    kind: str,
    states: Mapping[str, object],
) -> dict[str, Envelope]:
    """What every contributor answered, signed by itself; who answers anything else is away.

    Args:
        answers: messages by client.
        contributors: names.
        roster: who is enrolled.
        terms: of the round.
        kind: of an answer.
        states: what it must state beyond the terms; None for any value.

    Raises:
        AwayError: naming all who sent no such answer.
    """
    found = {}
    for name in contributors:
        # What came instead is no matter: it opens nothing, as if nothing had come.
        with suppress(KeyError, MessageError):
            answer = verified(answers[name], roster, role=Role.CLIENT, kind=kind, terms=terms)
            stated = exact_values(answer, terms, states=states)
            about = all(value in (None, stated[key]) for key, value in states.items())
            if answer.statement.sender == name and about:
                found[name] = answer
    if missing := [name for name in contributors if name not in found]:
        raise AwayError(
            f"every contributor of a sum must answer before it is opened, {', '.join(missing)} did "
            f"not in round {terms.round}; nothing is opened",
            missing,
        )
    return found


def _named(unkeyed: Terms) -> set[str]:
    """What a key holder adds to the terms when it makes a key."""
    return {KEY_ID, SOFTWARE} - set(unkeyed.manifest)
