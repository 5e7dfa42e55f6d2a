"""The seams: what can be replaced by passing another object."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Blobs = Mapping[str, bytes]


class Cipher(Protocol):
    """How a client hides its integers, and reads the sum; whoever holds it holds the key."""

    def encrypt(self, values: NDArray[np.int64]) -> dict[str, bytes]:
        """Blobs of an upload that hides `values`, shape (params,)."""
        ...

    def decrypt_sum(self, blobs: Blobs, contributors: Sequence[str]) -> NDArray[np.int64]:
        """The exact sum, shape (params,), of what the contributors encrypted.

        Raises:
            EncryptionError: if the blobs are not a sum of exactly these contributors.
        """
        ...


class Adder(Protocol):
    """How the aggregator sums uploads without a key. One adder serves one round."""

    def add(self, client: str, blobs: Blobs) -> None:
        """Add one client's upload; a refused upload leaves the sum as it was.

        Raises:
            MessageError: if the blobs are not a well-formed upload.
        """
        ...

    def total(self) -> dict[str, bytes]:
        """Blobs of the sum."""
        ...


class Strategy(Protocol):
    """From the weighted mean of updates to the next global state; runs after decryption."""

    @property
    def freeze_lora_a(self) -> bool:
        """Whether LoRA's A factors are fixed and only B is trained."""
        ...

    def weights(self, public_sizes: Mapping[str, int]) -> dict[str, float]:
        """Public weight of every client, the largest being 1; applied before encryption."""
        ...

    def next_state(
        self, state: NDArray[np.float32], mean_update: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """The next global adapter, shape (params,)."""
        ...

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        ...
