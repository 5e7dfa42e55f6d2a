"""No encryption at all: the same numbers, summed in clear. For comparison, and named as such."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfed.errors import MessageError
from privfed.identity.keys import Role
from privfed.identity.roster import Roster
from privfed.protocol.ciphers import OpenedSum
from privfed.protocol.contributions import require_contributions
from privfed.protocol.envelopes import Blob, Blobs
from privfed.protocol.kinds import CONTRIBUTIONS, SUM, VALUES
from privfed.protocol.signing import own_values, verified
from privfed.protocol.terms import Terms

_INTEGER = np.dtype("<i4")


class PlainCipher:
    """Writes integers as they are.

    Args:
        num_params: length of an update.
        max_clients: most contributors of a sum.
        roster: who is enrolled.
        min_clients: fewest contributors of a sum that is read.
    """

    def __init__(self, num_params: int, max_clients: int, roster: Roster, min_clients: int) -> None:
        self._num_params = num_params
        self._max_clients = max_clients
        self._roster = roster
        self._min_clients = min_clients

    def encrypt(self, terms: Terms, numbers: NDArray[Any]) -> Iterator[tuple[str, Iterable[Blob]]]:
        """Four bytes per value, in clear."""
        del terms
        yield VALUES, [numbers.astype(_INTEGER).tobytes()]

    def open(self, terms: Terms, message: Blob) -> OpenedSum:
        """The sum, shape (params,).

        Raises:
            MessageError: if it is not a sum of this round, with signed contributions.
        """
        envelope = verified(message, self._roster, role=Role.AGGREGATOR, kind=SUM, terms=terms)
        stated = own_values(envelope.statement, terms)
        if set(stated) != {CONTRIBUTIONS}:
            raise MessageError(f"a sum must state its contributions, got {sorted(stated)!r:.200}")
        contributions = require_contributions(
            stated[CONTRIBUTIONS],
            self._roster,
            terms,
            min_clients=self._min_clients,
            max_clients=self._max_clients,
        )
        values = _read(envelope.blobs, self._num_params)
        return OpenedSum(values=values, contributors=tuple(c.client for c in contributions))


class PlainAdder:
    """Adds integers in clear.

    Args:
        num_params: length of an update.
        largest: largest magnitude of one value.
    """

    def __init__(self, num_params: int, largest: int) -> None:
        self._sum = np.zeros(num_params, dtype=np.int64)
        self._largest = largest

    def add(self, client: str, blobs: Blobs) -> None:
        """Add one client's values.

        Raises:
            MessageError: if there are more or fewer, or one is out of range; nothing is added.
        """
        del client
        values = _read(blobs, len(self._sum))
        if np.abs(values).max(initial=0) > self._largest:
            raise MessageError(f"every value must be within {self._largest}, some are not")
        self._sum += values

    def total(self) -> dict[str, bytes]:
        """The sum, four bytes per value."""
        return {VALUES: self._sum.astype(_INTEGER).tobytes()}


def _read(blobs: Blobs, num_params: int) -> NDArray[np.int64]:
    if set(blobs) != {VALUES} or len(blobs[VALUES]) != num_params * _INTEGER.itemsize:
        raise MessageError(f"plain values must be one blob of {num_params} 4-byte integers")
    return np.frombuffer(blobs[VALUES], dtype=_INTEGER).astype(np.int64)
