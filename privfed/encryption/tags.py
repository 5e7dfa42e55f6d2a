"""Tags that only a sum of well-made contributions can have.

The last slots of every ciphertext carry <slots, w_j> mod t for vectors w_j that are new in every
round. Tags add as slots do, so the sum of contributions carries the tags of the sum.

`shared_key`: an aggregator without a key can add numbers that it knows to c0, which shifts the
decrypted sum. The vectors are secret, known to the clients alone. A sum that was shifted by
anything but zero has the right tags with a chance of at most t^-slots, 2^-80 or less. Who holds the
key knows the vectors: tags are no protection against a client. By themselves tags let scaled sums
and swapped ciphertexts pass, being linear and alike for every ciphertext. Signed seeds rule these
out: they fix c1, so that all one can do to c0 is to shift it.

`key_holder`: a contributor can send (c0, c1 + round(q p / t)) for a polynomial p, which adds p
times the secret key to the sum that everybody is shown. The vectors are public, but the product is
not known to who chooses p: to pass it must satisfy one equation per tag slot in numbers that depend
on the key. A clever p makes one of them guessable (its value a single ternary coefficient, say),
which is why there is one slot more; all of them together hold with a chance of about 2^-80. This is
an estimate, not a proof: it rests on no p making two random combinations of its slots both
guessable. A p that meets one slot only passes if the key's value there was guessed, and shows that.

Reference:
    Wegman & Carter 1981: universal hashing as authentication; here it is linear, so that tags of
    several clients add up.
"""

import hashlib
from typing import NoReturn, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from privfed.canonical import canonical_json
from privfed.encryption.modular import InnerProducts
from privfed.encryption.parameters import BFVParameters
from privfed.encryption.primes import POLY_MODULUS_DEGREE
from privfed.errors import EncryptionError, SpoiledSumError
from privfed.settings.encryption import Custody

KEY_BYTES = 32
PUBLIC = bytes(KEY_BYTES)
"""Stands for no secret: anybody can compute the vectors."""

_DRAW_BYTES = 20


class Tags:
    """Writes and checks the tags of one round.

    Args:
        parameters: of the encryption.
        key: 32 secret bytes that all clients share; `PUBLIC` with `key_holder`.
        context: public bytes that name run, round and key.

    Raises:
        EncryptionError: if the key has another length, or the custody needs a secret one.
    """

    def __init__(self, parameters: BFVParameters, key: bytes, context: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise EncryptionError(f"a tag key must have {KEY_BYTES} bytes")
        if (key == PUBLIC) is not (parameters.custody is Custody.KEY_HOLDER):
            raise EncryptionError(
                f"a tag key must be secret with shared_key and public with key_holder, "
                f"this is the other kind for {parameters.custody.value!r}"
            )
        self._slots = parameters.value_slots
        self._modulus = parameters.plain_modulus
        weights = _weights(key, context, self._slots * parameters.tag_slots, self._modulus)
        self._products = InnerProducts(
            weights.reshape(self._slots, parameters.tag_slots), self._modulus
        )

    def __repr__(self) -> str:
        return "Tags(secret)"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise EncryptionError("the vectors of tags are secret and must not be pickled or copied")

    def write(self, slots: NDArray[np.uint64]) -> None:
        """Fill the tag slots, in place; `slots` are below t in shape (ciphertexts, 4096)."""
        slots[:, self._slots :] = self._of(slots)

    def check(self, slots: NDArray[np.uint64]) -> None:
        """Refuse slots of a sum that is not the sum of what clients tagged for this round.

        Raises:
            SpoiledSumError: if a tag is wrong.
        """
        if slots.shape[1:] != (POLY_MODULUS_DEGREE,) or not np.array_equal(
            slots[:, self._slots :], self._of(slots)
        ):
            raise SpoiledSumError(
                "the decrypted sum must carry the tags of its contributors, it does not: it was "
                "changed on the way, decrypted with another key, or is not the sum of the listed "
                "contributions; discard the round"
            )

    def _of(self, slots: NDArray[np.uint64]) -> NDArray[np.uint64]:
        return np.array(self._products(slots[:, : self._slots]), dtype=np.uint64)


def tag_context(run: str, round_number: int, key_id: str) -> bytes:
    """What makes the vectors of a round its own."""
    return canonical_json([run, round_number, key_id])


def _weights(key: bytes, context: bytes, count: int, modulus: int) -> NDArray[np.uint64]:
    """Numbers below t, uniform to within 2^-100 each, from the key as SHAKE-256 expands it."""
    stream = hashlib.shake_256(b"privfed tags 1\n" + key + context).digest(count * _DRAW_BYTES)
    draws = (
        int.from_bytes(stream[start : start + _DRAW_BYTES], "little") % modulus
        for start in range(0, len(stream), _DRAW_BYTES)
    )
    return np.fromiter(draws, dtype=np.uint64, count=count)
