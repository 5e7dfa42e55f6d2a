"""The aggregator's side of BFV: uploads are checked and added modulo q, in numpy, without a key."""

import numpy as np

from privfed.encryption import residues
from privfed.encryption.packing import BFVParameters
from privfed.errors import MessageError
from privfed.interfaces import Blobs

SEED_PREFIX = "seeds/"


class BFVAdder:
    """Sums the c0 of uploads and keeps every contributor's seeds, which stand for c1.

    Args:
        parameters: agreed by all.
        num_params: length of an update.
    """

    def __init__(self, parameters: BFVParameters, num_params: int) -> None:
        self._parameters = parameters
        self._num_ciphertexts = parameters.num_ciphertexts(num_params)
        self._sum = np.zeros(
            (self._num_ciphertexts, parameters.poly_modulus_degree), dtype=np.uint64
        )
        self._seeds: dict[str, bytes] = {}
        self._seen: frozenset[bytes] = frozenset()

    def add(self, client: str, blobs: Blobs) -> None:
        """Add one client's ciphertexts.

        Raises:
            MessageError: if they are malformed, repeat a seed, or are one too many.
        """
        if set(blobs) != {"c0", "seeds"}:
            raise MessageError(f"{client!r} must send the blobs c0 and seeds, got {sorted(blobs)}")
        if len(self._seeds) == self._parameters.num_clients:
            raise MessageError(
                f"the parameters allow {self._parameters.num_clients} clients; {client!r} is one "
                "too many"
            )
        seeds = residues.seeds_from_bytes(blobs["seeds"], self._num_ciphertexts)
        fresh = residues.seed_set(seeds)
        if len(fresh) < self._num_ciphertexts or fresh & self._seen:
            raise MessageError(f"{client!r} repeats a seed; two messages under one seed leak")
        c0 = residues.from_bytes(blobs["c0"], self._num_ciphertexts)
        self._sum = residues.add(self._sum, c0)
        self._seen |= fresh
        self._seeds[client] = blobs["seeds"]

    def total(self) -> dict[str, bytes]:
        """The sum of c0 and one block of seeds per contributor; never a full (c0, c1) pair."""
        blobs = {SEED_PREFIX + client: seeds for client, seeds in self._seeds.items()}
        return {"c0": residues.to_bytes(self._sum), **blobs}
