"""Custody `key_holder`, seen from a client: this round's public key, and answers to challenges.

The client can encrypt and nothing else. It accepts a public key only with the key holder's
signature for this run, round and parameters, so that a relaying aggregator cannot put its own in
place; it helps the key holder to verify the sum; and it accepts as result only what the key holder
signed. Answers are numbers computed from the ciphertext, and the key holder has its key: enough of
them would give the ciphertext away, so few are given.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privfed.custody import bfv
from privfed.custody.keys import PublicKey
from privfed.custody.native import require_same_software
from privfed.custody.opened_rounds import OpenedRounds
from privfed.encryption import packing, residues
from privfed.encryption.bitpacking import unpack_rows
from privfed.encryption.challenges import Challenge
from privfed.encryption.parameters import BFVParameters
from privfed.encryption.tags import PUBLIC, Tags, tag_context
from privfed.errors import EncryptionError, MessageError
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.protocol.ciphers import OpenedSum
from privfed.protocol.contributions import taking_part
from privfed.protocol.envelopes import Blob, Statement
from privfed.protocol.kinds import (
    ANSWER,
    CHALLENGE,
    CIPHERTEXTS,
    CONTRIBUTORS,
    KEY_ID,
    LEDGER,
    PUBLIC_KEY,
    RESULT,
    ROUND_KEY,
    SEED,
    SOFTWARE,
    SUM,
    SUMS,
    UPDATE,
    VALUES,
)
from privfed.protocol.signing import exact_values, signed_message, verified
from privfed.protocol.terms import Terms

MOST_CHALLENGES: Final = 8
"""How many sums may be committed under one key, and so how many challenges a client answers."""

_AT_ONCE: Final = 8
_PADDING: Final = 8


class RoundKeyCipher:
    """BFV with packed fixed-point values under a public key that is new in every round.

    Args:
        parameters: agreed by all.
        identity: this client's.
        roster: who is enrolled.
        min_clients: fewest contributors of a result that is accepted.
        opened: what this client never forgets of the run; None remembers nothing of earlier
            processes.
    """

    def __init__(
        self,
        parameters: BFVParameters,
        identity: Identity,
        roster: Roster,
        min_clients: int,
        opened: OpenedRounds | None = None,
    ) -> None:
        self._parameters = parameters
        self._identity = identity
        self._roster = roster
        self._min_clients = min_clients
        self._opened = opened
        self._key: tuple[Terms, PublicKey] | None = None
        self._answered: set[str] = set()

    def accept_key(self, unkeyed: Terms, message: Blob) -> Terms:
        """Take this round's public key.

        Args:
            unkeyed: what the round-key message must state.
            message: as the aggregator relayed it.

        Returns:
            The terms that all further messages of the round state: with the key's name.

        Raises:
            MessageError: if the enrolled key holder did not sign it for this round and parameters.
            EncryptionError: if the key holder runs another TenSEAL.
        """
        envelope = verified(
            message, self._roster, role=Role.KEY_HOLDER, kind=ROUND_KEY, terms=unkeyed
        )
        stated = exact_values(envelope, unkeyed, states={KEY_ID, SOFTWARE}, blobs={PUBLIC_KEY})
        require_same_software(stated[SOFTWARE], envelope.statement.sender)
        key = PublicKey.from_bytes(bytes(envelope.blobs[PUBLIC_KEY]), self._parameters)
        terms = Terms(run=unkeyed.run, round=unkeyed.round, manifest=envelope.statement.manifest)
        if self._key is None or self._key[0] != terms:
            self._answered = set()
        self._key = (terms, key)
        return terms

    def encrypt(self, terms: Terms, numbers: NDArray[Any]) -> Iterator[tuple[str, Iterable[Blob]]]:
        """The blob of an update.

        Raises:
            EncryptionError: if no key for these terms was accepted, or the round is closed or was
                left behind.
        """
        if self._opened is not None:
            self._opened.require_not_over(terms.round)
        tags = public_tags(self._parameters, terms)
        yield CIPHERTEXTS, self._ciphertexts(self._key_of(terms), tags, numbers)

    def _key_of(self, terms: Terms) -> PublicKey:
        if self._key is None or self._key[0] != terms:
            raise EncryptionError(f"round {terms.round} has no accepted public key")
        return self._key[1]

    def _ciphertexts(self, key: PublicKey, tags: Tags, numbers: NDArray[Any]) -> Iterator[bytes]:
        for part in packing.batches(numbers, self._parameters, _AT_ONCE):
            slots = packing.pack(part, self._parameters)
            tags.write(slots)
            polynomials = bfv.encrypt_public(key, slots)
            yield residues.to_rows(polynomials, self._parameters.upload_bits).tobytes()

    def answer(self, terms: Terms, challenge: Blob, sent: Blob) -> bytes:
        """Help the key holder to verify the sum.

        A right answer lets the sum be decrypted. So its contributors are recorded first, and sums
        of others are answered for no more in this round: the key holder's own memory may have been
        put back as it was.

        Args:
            terms: of the round.
            challenge: signed by the key holder.
            sent: this client's own update message.

        Raises:
            MessageError: if either is not a message of this round by who must have signed it, or
                the sum is not one with this client and enough others.
            EncryptionError: if the round's key was not accepted here, too many challenges came, a
                sum of others was answered for in this round, or the round is over.
        """
        self._key_of(terms)
        asked = verified(challenge, self._roster, role=Role.KEY_HOLDER, kind=CHALLENGE, terms=terms)
        stated = exact_values(asked, terms, states={SEED, SUM, CONTRIBUTORS})
        own = verified(sent, self._roster, role=Role.CLIENT, kind=UPDATE, terms=terms)
        exact_values(own, terms, states={LEDGER}, blobs={CIPHERTEXTS})
        if own.statement.sender != self._identity.party.name:
            raise MessageError("a client answers for its own update only")
        names = self._contributors(stated, terms, own.statement.sender)
        self._count_answer(statement_digest(asked.statement))
        self._remember(terms, names)
        bits = self._parameters.upload_bits
        count = self._parameters.num_ciphertexts
        rows = residues.rows_of(own.blobs[CIPHERTEXTS], count, bits)
        form = Challenge(challenge_seed(asked.statement), count)
        values = form.answer(
            residues.from_rows(rows[start : start + _AT_ONCE], bits)
            for start in range(0, count, _AT_ONCE)
        )
        return signed_message(
            self._identity,
            terms,
            ANSWER,
            manifest={
                CHALLENGE: statement_digest(asked.statement),
                VALUES: [str(value) for value in values],
            },
        )

    def open(self, terms: Terms, message: Blob) -> OpenedSum:
        """The sum that the key holder decrypted and signed.

        Raises:
            MessageError: if it is not the key holder's result of this round, or has too few
                contributors or sums out of range.
            EncryptionError: if a result of others was accepted in this round, or the round is over.
        """
        envelope = verified(message, self._roster, role=Role.KEY_HOLDER, kind=RESULT, terms=terms)
        # A result that is sent again, after a crash, also names the key that it was made with.
        states = {CONTRIBUTORS, KEY_ID, SOFTWARE} - set(terms.manifest)
        stated = exact_values(envelope, terms, states=states, blobs={SUMS})
        names = self._contributors(stated, terms)
        values = read_sums(envelope.blobs[SUMS], self._parameters)
        self._remember(terms, names)
        return OpenedSum(values=values, contributors=tuple(names))

    def _remember(self, terms: Terms, names: list[str]) -> None:
        if self._opened is not None:
            self._opened.require(terms.round, tuple(names))

    def _contributors(
        self, stated: Mapping[str, object], terms: Terms, *required: str
    ) -> list[str]:
        """Names that the key holder states: enough of those who take part, `required` too."""
        names = stated.get(CONTRIBUTORS)
        enrolled = [party.name for party in taking_part(self._roster, terms)]
        if not isinstance(names, list) or names != [name for name in enrolled if name in names]:
            raise MessageError(f"contributors must be different enrolled clients, got {names}")
        if len(names) < self._min_clients:
            raise MessageError(
                f"a sum must have at least {self._min_clients} contributors, got {names}"
            )
        if missing := [name for name in required if name not in names]:
            raise MessageError(f"a challenge for {names} is not one for {missing[0]!r} to answer")
        return names

    def _count_answer(self, challenge: str) -> None:
        if challenge not in self._answered and len(self._answered) == MOST_CHALLENGES:
            raise EncryptionError(
                f"at most {MOST_CHALLENGES} challenges are answered under one key, this is one "
                "more; open the round anew"
            )
        self._answered.add(challenge)


def public_tags(parameters: BFVParameters, terms: Terms) -> Tags:
    """The tags of a round whose key is named in the terms; anybody can compute them."""
    context = tag_context(terms.run, terms.round, str(terms.manifest.get(KEY_ID)))
    return Tags(parameters, PUBLIC, context)


def challenge_seed(statement: Statement) -> bytes:
    """The 32 random bytes of a challenge.

    Raises:
        MessageError: if it states none.
    """
    try:
        return bytes.fromhex(statement.manifest[SEED])
    except (KeyError, TypeError, ValueError) as error:
        raise MessageError("a challenge must state its seed") from error


def statement_digest(statement: Statement) -> str:
    """SHA-256 (hex) of a statement, by which later messages refer to it."""
    return hashlib.sha256(statement.to_bytes()).hexdigest()


def padded_params(parameters: BFVParameters) -> int:
    """Parameters of a result, rounded up to a multiple of 8."""
    return -(-parameters.num_params // _PADDING) * _PADDING


def read_sums(blob: Blob, parameters: BFVParameters) -> NDArray[np.int64]:
    """Integer sums of a result, shape (params,).

    Raises:
        MessageError: if the length is wrong or a sum is out of range.
    """
    count = padded_params(parameters)
    packed = np.frombuffer(blob, dtype=np.uint8).reshape(1, -1)
    shifted = unpack_rows(packed, count, parameters.value_bits)[0, : parameters.num_params]
    if shifted.max() >= parameters.radix:
        raise MessageError("a sum must be within the range of its parameters")
    return shifted.astype(np.int64) - (parameters.radix - 1) // 2
