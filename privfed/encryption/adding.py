"""The aggregator's side: uploads are checked and added modulo q, in numpy, without a key."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from privfed.encryption import residues
from privfed.encryption.primes import POLY_MODULUS_DEGREE
from privfed.errors import MessageError
from privfed.protocol.envelopes import Blobs
from privfed.protocol.kinds import CIPHERTEXTS, SEEDS, seeds_of
from privfed.settings.encryption import Custody

_AT_ONCE = 8


class SummedParameters(Protocol):
    """What an adder needs to know of the encryption; BFV's and CKKS's parameters have it."""

    @property
    def custody(self) -> Custody:
        """Who holds the secret key."""
        ...

    @property
    def num_clients(self) -> int:
        """Most contributors of a sum."""
        ...

    @property
    def num_ciphertexts(self) -> int:
        """Ciphertexts of an update."""
        ...

    @property
    def upload_bits(self) -> tuple[int, ...]:
        """Bits on the wire of a residue of each polynomial of an update."""
        ...

    @property
    def sum_bits(self) -> tuple[int, ...]:
        """Bits on the wire of a residue of each polynomial of the sum."""
        ...


class CiphertextAdder:
    """Sums the polynomials of uploads; with `shared_key`, seeds are kept and stand for c1.

    Memory is that of one sum, whatever the number of clients; an upload is read in pieces.

    Args:
        parameters: agreed by all.
    """

    def __init__(self, parameters: SummedParameters) -> None:
        self._parameters = parameters
        self._seeded = parameters.custody is Custody.SHARED_KEY
        shape = (parameters.num_ciphertexts, POLY_MODULUS_DEGREE)
        self._sum = [np.zeros(shape, dtype=np.uint64) for _ in parameters.upload_bits]
        self._seeds: dict[str, bytes] = {}
        self._seen: frozenset[bytes] = frozenset()
        self._added = 0

    def add(self, client: str, blobs: Blobs) -> None:
        """Add one client's ciphertexts; refused ones leave the sum as it was.

        Raises:
            MessageError: if they are malformed, repeat a seed, or are one too many.
        """
        expected = {CIPHERTEXTS, SEEDS} if self._seeded else {CIPHERTEXTS}
        if set(blobs) != expected:
            raise MessageError(f"an update must hold {sorted(expected)}, got {sorted(blobs)}")
        if self._added == self._parameters.num_clients:
            raise MessageError(
                f"the parameters allow {self._parameters.num_clients} clients; this is one too many"
            )
        rows = residues.rows_of(
            blobs[CIPHERTEXTS], self._parameters.num_ciphertexts, self._parameters.upload_bits
        )
        fresh = self._fresh_seeds(blobs) if self._seeded else frozenset()
        self._add_rows(rows)
        self._added += 1
        self._seen |= fresh
        if self._seeded:
            self._seeds[client] = bytes(blobs[SEEDS])

    def total(self) -> dict[str, bytes]:
        """The sum; with `shared_key` its c0 and a block of seeds per contributor, never c1."""
        rows = residues.to_rows(self._sum, self._parameters.sum_bits)
        blobs = {seeds_of(client): seeds for client, seeds in self._seeds.items()}
        return {CIPHERTEXTS: rows.tobytes(), **blobs}

    def _fresh_seeds(self, blobs: Blobs) -> frozenset[bytes]:
        seeds = residues.seeds_from_bytes(blobs[SEEDS], self._parameters.num_ciphertexts)
        fresh = residues.seed_set(seeds)
        if len(fresh) < len(seeds) or fresh & self._seen:
            raise MessageError("a seed comes twice; two messages under one seed leak")
        return fresh

    def _add_rows(self, rows: NDArray[np.uint8]) -> None:
        """Check and add in pieces; what a refused upload had added is taken back."""
        added = 0
        try:
            for start in range(0, len(rows), _AT_ONCE):
                batch = residues.from_rows(rows[start : start + _AT_ONCE], self._bits)
                for total, part in zip(self._sum, batch, strict=True):
                    residues.add_into(total[start : start + _AT_ONCE], part)
                added = start + _AT_ONCE
        except MessageError:
            self._take_back(rows, added)
            raise

    @property
    def _bits(self) -> tuple[int, ...]:
        return self._parameters.upload_bits

    def _take_back(self, rows: NDArray[np.uint8], added: int) -> None:
        for start in range(0, added, _AT_ONCE):
            batch = residues.from_rows(rows[start : start + _AT_ONCE], self._bits)
            for total, part in zip(self._sum, batch, strict=True):
                residues.subtract_from(total[start : start + _AT_ONCE], part)
