"""Sums of seeded ciphertexts, as clients that share a key receive and check them.

The message holds the sum of c0 and every contributor's seeds, each block of seeds covered by its
client's signature for this round, and no c1: the receiver lets SEAL expand the seeds. A c0 that
belongs to other seeds decrypts to noise, and a c1 that was chosen to draw out the key has no place.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from privfed.custody.opened_rounds import OpenedRounds
from privfed.encryption import residues
from privfed.errors import EncryptionError, MessageError, SpoiledSumError
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.protocol.contributions import (
    Contribution,
    agreement,
    require_agreement,
    require_contributions,
)
from privfed.protocol.envelopes import Blob, Blobs, Envelope
from privfed.protocol.kinds import (
    AGREED,
    CIPHERTEXTS,
    CONTRIBUTIONS,
    LISTING,
    SEEDS,
    SUM,
    UPDATE,
    seeds_of,
)
from privfed.protocol.signing import exact_values, own_values, signed_message, verified
from privfed.protocol.terms import Terms


class SeededParameters(Protocol):
    """What a reader of sums needs to know of the encryption."""

    @property
    def num_clients(self) -> int:
        """Most contributors of a sum."""
        ...

    @property
    def num_ciphertexts(self) -> int:
        """Ciphertexts of an update."""
        ...

    @property
    def sum_bits(self) -> tuple[int, ...]:
        """Bits on the wire of a residue of each polynomial of the sum."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SeededSum:
    """A sum whose contributors are proved.

    Attributes:
        contributors: names, sorted.
        rows: bytes of the c0, shape (ciphertexts, bytes).
        seeds: shape (clients, ciphertexts, 64).
    """

    contributors: tuple[str, ...]
    rows: NDArray[np.uint8]
    seeds: NDArray[np.uint8]


class SeededSums:
    """Reads the sums of one run, one for each round, under one key.

    Args:
        parameters: of the encryption.
        roster: who is enrolled.
        min_clients: fewest contributors of a sum that is opened.
        opened: what this client never forgets of the run; None remembers nothing of earlier
            processes.
        identity: this client's, with which it agrees to a list of contributions; with it, sums are
            read only if all contributors agreed. None for a reader that contributes nothing.
    """

    def __init__(
        self,
        parameters: SeededParameters,
        roster: Roster,
        min_clients: int,
        opened: OpenedRounds | None = None,
        identity: Identity | None = None,
    ) -> None:
        self._parameters = parameters
        self._roster = roster
        self._min_clients = min_clients
        self._earlier_seeds: frozenset[bytes] = frozenset()
        self._last_round = 0
        self._opened = opened
        self._identity = identity
        self._agreed: dict[int, str] = {}

    def require_not_over(self, terms: Terms) -> None:
        """Refuse to take part in a round that is closed or was left behind.

        Raises:
            EncryptionError: if it is.
        """
        if self._opened is not None:
            self._opened.require_not_over(terms.round)

    def agree(self, terms: Terms, listing: Blob, sent: Blob) -> bytes:
        """Sign, once in a round, that these are the contributions of its sum.

        Args:
            terms: of the round.
            listing: the aggregator's message with all contributions.
            sent: this client's own update message.

        Raises:
            MessageError: if the listing is malformed, or lacks this client's own contribution.
            EncryptionError: if another list was agreed to in this round, the round is over, or the
                agreement cannot be recorded.
        """
        if self._identity is None:
            raise EncryptionError("a reader without an identity agrees to nothing")
        envelope = verified(listing, self._roster, role=Role.AGGREGATOR, kind=LISTING, terms=terms)
        listed = exact_values(envelope, terms, states={CONTRIBUTIONS})[CONTRIBUTIONS]
        contributions = self._required(listed, terms)
        own = verified(sent, self._roster, role=Role.CLIENT, kind=UPDATE, terms=terms)
        name = self._identity.party.name
        if own.statement.sender != name or Contribution.of(own) not in contributions:
            raise MessageError(f"the listing does not hold what {name!r} sent in this round")
        statement = agreement(name, terms, listed)
        digest = statement.manifest[LISTING]
        if self._agreed.setdefault(terms.round, digest) != digest:
            raise EncryptionError(
                f"another list of contributions was agreed to in round {terms.round}; two sums of "
                "one round would show by their difference what single clients sent"
            )
        if self._opened is not None:
            self._opened.require(terms.round, tuple(c.client for c in contributions))
        return signed_message(self._identity, terms, AGREED, manifest={LISTING: digest})

    def read(self, terms: Terms, message: Blob) -> SeededSum:
        """Check a message and take the sum out of it. A round whose sum was read is over.

        Raises:
            MessageError: a message of another round or party, too few or repeated contributors, a
                missing or wrong signature, or blobs that nobody signed.
            SpoiledSumError: a repeated seed.
            EncryptionError: a second sum for a round, or one of other contributors than before a
                crash.
        """
        envelope = verified(message, self._roster, role=Role.AGGREGATOR, kind=SUM, terms=terms)
        contributions = self._contributions(envelope, terms)
        seeds = self._signed_seeds(envelope.blobs, contributions, terms)
        rows = residues.rows_of(
            envelope.blobs[CIPHERTEXTS], self._parameters.num_ciphertexts, self._parameters.sum_bits
        )
        if terms.round <= self._last_round:
            raise EncryptionError(
                f"one sum is opened in a round, and rounds only go up: round {terms.round} came "
                f"after round {self._last_round}"
            )
        fresh = residues.seed_set(seeds)
        if len(fresh) < seeds.shape[0] * seeds.shape[1] or fresh & self._earlier_seeds:
            raise SpoiledSumError(
                "every ciphertext must have a seed of its own, some come twice or from earlier "
                "rounds; refuse this sum, and find out whose generator repeats itself"
            )
        names = tuple(contribution.client for contribution in contributions)
        if self._opened is not None:
            self._opened.require(terms.round, names)
        self._earlier_seeds |= fresh
        self._last_round = terms.round
        return SeededSum(contributors=names, rows=rows, seeds=seeds)

    def _contributions(self, envelope: Envelope, terms: Terms) -> list[Contribution]:
        stated = own_values(envelope.statement, terms)
        agreeing = self._identity is not None
        if set(stated) != ({CONTRIBUTIONS, AGREED} if agreeing else {CONTRIBUTIONS}):
            raise MessageError(f"a sum must state its contributions, got {sorted(stated)}")
        contributions = self._required(stated[CONTRIBUTIONS], terms)
        if agreeing:
            require_agreement(contributions, stated[AGREED], self._roster, terms)
        return contributions

    def _required(self, listed: object, terms: Terms) -> list[Contribution]:
        return require_contributions(
            listed,
            self._roster,
            terms,
            min_clients=self._min_clients,
            max_clients=self._parameters.num_clients,
        )

    def _signed_seeds(
        self, blobs: Blobs, contributions: list[Contribution], terms: Terms
    ) -> NDArray[np.uint8]:
        """Seeds of all contributors, shape (clients, ciphertexts, 64)."""
        expected = {CIPHERTEXTS} | {seeds_of(c.client) for c in contributions}
        if set(blobs) != expected:
            raise MessageError(
                "a sum must hold ciphertexts and the seeds of its contributors and nothing else, "
                f"got {sorted(blobs)}"
            )
        blocks = []
        for contribution in contributions:
            block = blobs[seeds_of(contribution.client)]
            if not contribution.statement(terms).binds(SEEDS, block):
                raise MessageError(f"the seeds of {contribution.client!r} are not what it signed")
            blocks.append(residues.seeds_from_bytes(block, self._parameters.num_ciphertexts))
        return np.stack(blocks)
