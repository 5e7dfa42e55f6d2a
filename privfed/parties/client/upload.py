"""One client's side of the encrypted sum: its keys, its cipher, what it remembers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfed.agreement import Agreement
from privfed.custody.key_exchange import receive_secret, share_secret
from privfed.custody.keys import SharedSecret
from privfed.custody.native import software
from privfed.custody.opened_rounds import OpenedRounds
from privfed.custody.round_key import RoundKeyCipher
from privfed.custody.shared_schemes import shared_scheme
from privfed.encryption.parameters import BFVParameters
from privfed.encryption.plain import PlainCipher
from privfed.encryption.schemes import Scheme
from privfed.errors import EncryptionError, MessageError
from privfed.identity.keys import Identity
from privfed.identity.roster import Roster
from privfed.methods.method import SentVector
from privfed.protocol.ciphers import Cipher, Encoding, KeyedCipher, Numbers
from privfed.protocol.envelopes import Blob
from privfed.protocol.kinds import KEY_ID, ROUND_KEY, SOFTWARE
from privfed.protocol.terms import RoundPlan, RunTerms, Terms
from privfed.settings.encryption import Custody


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """How what a client sends in a round becomes numbers that are summed, and back.

    Attributes:
        encodings: of every vector, in the order of the numbers.
        weight: public weight of this client in the mean, in (0, 1].
        cipher: encrypts the numbers.
    """

    encodings: tuple[tuple[SentVector, Encoding], ...]
    weight: float
    cipher: Cipher

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type in which one client's numbers are kept, little-endian."""
        return self.encodings[0][1].dtype

    def encode(
        self,
        vectors: Mapping[str, NDArray[np.floating]],
        uniform: Callable[[int], NDArray[np.float64]],
    ) -> NDArray[Any]:
        """The numbers of weighted vectors.

        Args:
            vectors: by the names of what is sent.
            uniform: draws that many secret numbers in [0, 1), should rounding need them.

        Raises:
            EncryptionError: for other vectors than are sent in the round, or one that is not
                finite.
        """
        lengths = {one.name: (one.length,) for one, _ in self.encodings}
        if {name: vector.shape for name, vector in vectors.items()} != lengths:
            shapes = {name: vector.shape for name, vector in vectors.items()}
            raise EncryptionError(f"a client must send vectors of shapes {lengths}, got {shapes}")
        return np.concatenate(
            [
                encoding.encode(self.weight * vectors[one.name], uniform)
                for one, encoding in self.encodings
            ]
        )

    def sent(self, numbers: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
        """The vectors of one client as they are in a sum: clipped and rounded, without weight."""
        return {name: vector / self.weight for name, vector in self.decode(numbers).items()}

    def decode(self, total: Numbers) -> dict[str, NDArray[np.float64]]:
        """The sums of weighted vectors, by name, from the sum of numbers."""
        sums, first = {}, 0
        for one, encoding in self.encodings:
            sums[one.name] = encoding.decode(total[first : first + one.length])
            first += one.length
        return sums


class Upload:
    """How one client encrypts its updates in a run, and opens the sums.

    Secret keys exist in memory only: a client that is restarted needs the key of a new epoch.

    Args:
        terms: what every message of the run states.
        agreement: that they refer to.
        scheme: how updates are summed.
        identity: this client's.
        roster: who is enrolled.
        opened: what this client never forgets of the run; None without encryption, where sums are
            in clear.
    """

    def __init__(
        self,
        *,
        terms: RunTerms,
        agreement: Agreement,
        scheme: Scheme,
        identity: Identity,
        roster: Roster,
        opened: OpenedRounds | None,
    ) -> None:
        self._terms = terms
        self._agreement = agreement
        self._scheme = scheme
        self._identity = identity
        self._roster = roster
        self._cipher = self._cipher_without_a_key(opened)
        self._key: Mapping[str, Any] = {}
        self.opened = opened

    @property
    def key(self) -> Mapping[str, Any]:
        """Name and software of the run's key; empty if there is none."""
        return self._key

    def take_key(self, message: bytes, maker: str, terms: Terms) -> None:
        """Take the key of an epoch, as the aggregator relayed it.

        Args:
            message: of the client that made it.
            maker: its name, agreed beforehand.
            terms: of that message.

        Raises:
            MessageError, EncryptionError: as `receive_secret`.
        """
        scheme = shared_scheme(self._scheme.parameters)
        self.use(
            receive_secret(
                message,
                self._identity,
                self._roster,
                terms,
                maker=maker,
                context=scheme.context,
                shape=scheme.shape,
            )
        )

    @property
    def run(self) -> str:
        """Identifier of the run."""
        return self._terms.run

    def terms_of_run(self, number: int) -> Terms:
        """What messages about a round state that are no part of its sum."""
        return replace(self._terms.of_run(), round=number)

    def named(self, unkeyed: Terms, blobs: Mapping[str, Blob]) -> Terms:
        """The terms of a round with the name of its key, where a message brings one.

        Raises:
            MessageError, EncryptionError: if the key is not one to encrypt under.
        """
        if isinstance(self._cipher, KeyedCipher):
            if set(blobs) != {ROUND_KEY}:
                raise MessageError("a round with a key holder must begin with its public key")
            return self._cipher.accept_key(unkeyed, bytes(blobs[ROUND_KEY]))
        if blobs:
            raise MessageError("this client has no use for a round's key")
        return unkeyed

    def terms(self, plan: RoundPlan, public_range: float) -> Terms:
        """What every message of a round states, before it has a key of its own."""
        return self._terms.of_round(plan, public_range, self._key)

    def codec(self, public_range: float, uploads: Sequence[SentVector]) -> Codec:
        """How what is sent in one round is encoded and encrypted.

        Args:
            public_range: of the round.
            uploads: the vectors that are sent.
        """
        if self._cipher is None:
            raise EncryptionError("this client has no key of the run yet")
        return Codec(
            encodings=tuple(
                (one, self._scheme.encoding(public_range * one.scale)) for one in uploads
            ),
            weight=self._agreement.weights[self._identity.party.name],
            cipher=self._cipher,
        )

    def _cipher_without_a_key(self, opened: OpenedRounds | None) -> Cipher | None:
        parameters, least = self._scheme.parameters, self._agreement.min_clients
        if parameters is None:
            most = self._scheme.num_clients
            return PlainCipher(self._scheme.num_params, most, self._roster, least)
        if isinstance(parameters, BFVParameters) and parameters.custody is Custody.KEY_HOLDER:
            return RoundKeyCipher(parameters, self._identity, self._roster, least, opened)
        return None

    def use(self, secret: SharedSecret) -> None:
        """Encrypt and open under this key from now on."""
        scheme, least = shared_scheme(self._scheme.parameters), self._agreement.min_clients
        self._cipher = scheme.cipher(secret, self._roster, least, self.opened, self._identity)
        self._key = {KEY_ID: secret.key_id, SOFTWARE: software()}


def new_key(
    scheme: Scheme, maker: Identity, roster: Roster, terms: Terms
) -> tuple[SharedSecret, bytes]:
    """Make a key: it, and the message that hands it to every other client of the run.

    Args:
        scheme: how updates are summed.
        maker: the client that makes it.
        roster: who is enrolled.
        terms: of the message.

    Raises:
        EncryptionError: if the clients hold no key, or the local TenSEAL is not the supported one.
    """
    shared = shared_scheme(scheme.parameters)
    secret = SharedSecret.generate(shared.context, shared.shape)
    return secret, share_secret(secret, maker, roster, terms)
