"""Custody `shared_key`: every client holds the secret key, the aggregator does not.

The receiver of a sum recomputes c1 from the contributors' seeds, so a full (c0, c1) pair is never
accepted, and what decrypts is a sum over exactly those seeds. Any one client that colludes with
the aggregator can open every update; the report says so.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from privfed.custody import bfv
from privfed.custody.keys import SharedKey
from privfed.encryption import packing, residues
from privfed.encryption.adding import SEED_PREFIX
from privfed.errors import EncryptionError
from privfed.interfaces import Blobs


class SharedKeyCipher:
    """BFV with packed fixed-point values under a key that the clients share.

    Args:
        key: secret; every client of the run holds it.
        num_params: length of an update.
        min_clients: fewest contributors of a sum that is decrypted.
    """

    def __init__(self, key: SharedKey, num_params: int, min_clients: int) -> None:
        self._key = key
        self._num_params = num_params
        self._min_clients = min_clients
        self._earlier_seeds: frozenset[bytes] = frozenset()

    def encrypt(self, values: NDArray[np.int64]) -> dict[str, bytes]:
        """Blobs c0 and seeds that hide `values`, shape (params,)."""
        c0, seeds = bfv.encrypt(self._key, packing.pack(values, self._key.parameters))
        return {"c0": residues.to_bytes(c0), "seeds": residues.seeds_to_bytes(seeds)}

    def decrypt_sum(self, blobs: Blobs, contributors: Sequence[str]) -> NDArray[np.int64]:
        """The exact sum, shape (params,), of what the contributors encrypted.

        Raises:
            EncryptionError: too few or repeated contributors, blobs of others, a repeated seed,
                or numbers that no sum of updates can have.
        """
        if len(set(contributors)) != len(contributors) or len(contributors) < self._min_clients:
            raise EncryptionError(
                f"a sum must have at least {self._min_clients} different contributors, got "
                f"{list(contributors)}; it is not decrypted"
            )
        expected = {"c0"} | {SEED_PREFIX + client for client in contributors}
        if set(blobs) != expected:
            raise EncryptionError(
                f"a sum must hold c0 and the seeds of its contributors, got {sorted(blobs)}"
            )
        num_ciphertexts = self._key.parameters.num_ciphertexts(self._num_params)
        seeds = np.stack(
            [
                residues.seeds_from_bytes(blobs[SEED_PREFIX + client], num_ciphertexts)
                for client in contributors
            ]
        )
        c0 = residues.from_bytes(blobs["c0"], num_ciphertexts)
        slots = bfv.decrypt_sum(self._key, c0, seeds, earlier_seeds=self._earlier_seeds)
        self._earlier_seeds |= residues.seed_set(seeds)
        return packing.unpack(slots, self._num_params, self._key.parameters)
