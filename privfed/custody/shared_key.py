"""Custody `shared_key`: every client holds the secret key, the aggregator does not.

See `key_exchange` for how clients come to share it, and `seeded_sums` for what is checked before it
is used. Tags in the last slots show whether numbers were added to a sum. Any one client that
colludes with the aggregator can open every update; the report says so.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privfed.custody import bfv
from privfed.custody.keys import SharedSecret
from privfed.custody.opened_rounds import OpenedRounds
from privfed.custody.seeded_sums import SeededSum, SeededSums
from privfed.encryption import packing, residues
from privfed.encryption.parameters import BFVParameters
from privfed.encryption.tags import Tags, tag_context
from privfed.identity.keys import Identity
from privfed.identity.roster import Roster
from privfed.protocol.ciphers import OpenedSum
from privfed.protocol.envelopes import Blob
from privfed.protocol.kinds import CIPHERTEXTS, SEEDS
from privfed.protocol.terms import Terms

_AT_ONCE: Final = 8


class SharedKeyCipher:
    """BFV with packed fixed-point values under a key that the clients share.

    Args:
        parameters: agreed by all.
        secret: of the run; every client holds its own copy.
        roster: who is enrolled.
        min_clients: fewest contributors of a sum that is opened.
        opened: what this client never forgets of the run; None remembers nothing of earlier
            processes.
        identity: this client's; with it, sums are opened only if all contributors agreed to the
            list of contributions.
    """

    def __init__(
        self,
        parameters: BFVParameters,
        secret: SharedSecret,
        roster: Roster,
        min_clients: int,
        opened: OpenedRounds | None = None,
        identity: Identity | None = None,
    ) -> None:
        self._parameters = parameters
        self._secret = secret
        self._sums = SeededSums(parameters, roster, min_clients, opened, identity)

    def encrypt(self, terms: Terms, numbers: NDArray[Any]) -> Iterator[tuple[str, Iterable[Blob]]]:
        """The blobs of an update: ciphertexts, then their seeds.

        Raises:
            EncryptionError: if the round is closed or was left behind.
        """
        self._sums.require_not_over(terms)
        seeds: list[bytes] = []
        yield CIPHERTEXTS, self._ciphertexts(terms, numbers, seeds)
        yield SEEDS, seeds

    def _ciphertexts(
        self, terms: Terms, numbers: NDArray[Any], seeds: list[bytes]
    ) -> Iterator[bytes]:
        tags = self._tags(terms)
        for part in packing.batches(numbers, self._parameters, _AT_ONCE):
            slots = packing.pack(part, self._parameters)
            tags.write(slots)
            c0, fresh = bfv.encrypt_seeded(self._secret, slots, self._parameters)
            seeds.append(residues.seeds_to_bytes(fresh))
            yield residues.to_rows([c0], self._parameters.upload_bits).tobytes()

    def answer(self, terms: Terms, challenge: Blob, sent: Blob) -> bytes:
        """Agree to the aggregator's list of contributions; see `SeededSums.agree`."""
        return self._sums.agree(terms, challenge, sent)

    def open(self, terms: Terms, message: Blob) -> OpenedSum:
        """The sum of the contributors' numbers.

        Raises:
            MessageError, EncryptionError: as `SeededSums.read`.
            SpoiledSumError: if the sum is not that of the listed contributions.
        """
        received = self._sums.read(terms, message)
        values = self._decrypted(received, self._tags(terms))
        return OpenedSum(values=values, contributors=received.contributors)

    def _decrypted(self, received: SeededSum, tags: Tags) -> NDArray[np.int64]:
        parts = []
        for start in range(0, len(received.rows), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            (c0,) = residues.from_rows(received.rows[part], self._parameters.sum_bits)
            seeds = received.seeds[:, part]
            parts.append(bfv.decrypt_seeded(self._secret, c0, seeds, self._parameters))
        slots = np.concatenate(parts)  # checked whole, so that the time to a refusal says no more
        tags.check(slots)
        return packing.without_padding(packing.unpack(slots, self._parameters), self._parameters)

    def _tags(self, terms: Terms) -> Tags:
        context = tag_context(terms.run, terms.round, self._secret.key_id)
        return Tags(self._parameters, self._secret.tag_key, context)
