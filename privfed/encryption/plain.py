"""No encryption at all: the same integers, summed in clear. For comparison, and named as such."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from privfed.errors import EncryptionError, MessageError
from privfed.interfaces import Blobs

_INTEGER = np.dtype("<i4")


class PlainCipher:
    """Writes integers as they are.

    Args:
        num_params: length of an update.
        min_clients: fewest contributors of a sum that is read.
    """

    def __init__(self, num_params: int, min_clients: int) -> None:
        self._num_params = num_params
        self._min_clients = min_clients

    def encrypt(self, values: NDArray[np.int64]) -> dict[str, bytes]:
        """Four bytes per value, in clear."""
        return {"values": values.astype(_INTEGER).tobytes()}

    def decrypt_sum(self, blobs: Blobs, contributors: Sequence[str]) -> NDArray[np.int64]:
        """The sum, shape (params,)."""
        if len(set(contributors)) != len(contributors) or len(contributors) < self._min_clients:
            raise EncryptionError(
                f"a sum must have at least {self._min_clients} different contributors, got "
                f"{list(contributors)}"
            )
        return _read(blobs, self._num_params)


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
        """Add one client's values."""
        values = _read(blobs, len(self._sum))
        if np.abs(values).max(initial=0) > self._largest:
            raise MessageError(f"{client!r} sent a value above the public range")
        self._sum += values

    def total(self) -> dict[str, bytes]:
        """The sum, four bytes per value."""
        return {"values": self._sum.astype(_INTEGER).tobytes()}


def _read(blobs: Blobs, num_params: int) -> NDArray[np.int64]:
    if set(blobs) != {"values"} or len(blobs["values"]) != num_params * _INTEGER.itemsize:
        raise MessageError(f"plain values must be one blob of {num_params} 4-byte integers")
    return np.frombuffer(blobs["values"], dtype=_INTEGER).astype(np.int64)
