"""The seams: what can be replaced by passing another object."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from privfed.protocol.envelopes import Blob, Blobs
from privfed.protocol.terms import Terms

Numbers = NDArray[np.int64] | NDArray[np.float64]


class Encoding(Protocol):
    """How a real update becomes the numbers that are summed, and back."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type in which one client's numbers are kept, little-endian."""
        ...

    def encode(
        self, vector: NDArray[np.floating], uniform: Callable[[int], NDArray[np.float64]]
    ) -> NDArray[Any]:
        """Numbers of an update, or of a part of it, shape (params,).

        Args:
            vector: finite values.
            uniform: draws that many secret numbers in [0, 1), should rounding need them.

        Raises:
            EncryptionError: if a value is NaN or infinite.
        """
        ...

    def decode(self, total: Numbers) -> NDArray[np.float64]:
        """A sum of numbers in the units of the update, shape (params,)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSum:
    """What a client reads from the message that ends a round.

    Attributes:
        values: the sum of the contributors' numbers, shape (params,).
        contributors: names, sorted.
    """

    values: Numbers
    contributors: tuple[str, ...]


class Cipher(Protocol):
    """One client's side of the encrypted sum."""

    def encrypt(self, terms: Terms, numbers: NDArray[Any]) -> Iterator[tuple[str, Iterable[Blob]]]:
        """Named blobs of an upload that encrypts `numbers`, shape (params,), computed as read."""
        ...

    def open(self, terms: Terms, message: Blob) -> OpenedSum:
        """The sum, from the message that the aggregator or the key holder sent.

        Raises:
            MessageError: if it is not a message of this round, with the signatures it needs.
            EncryptionError: if it is not the sum of its listed contributors.
        """
        ...


@runtime_checkable
class AnsweringCipher(Cipher, Protocol):
    """A client's side where contributors are asked something before a sum is opened."""

    def answer(self, terms: Terms, challenge: Blob, sent: Blob) -> bytes:
        """Answer about the sum that holds the message `sent`.

        Raises:
            MessageError: if question or message are not of this round.
        """
        ...


@runtime_checkable
class KeyedCipher(AnsweringCipher, Protocol):
    """A client's side where every round has a public key of its own."""

    def accept_key(self, unkeyed: Terms, message: Blob) -> Terms:
        """Take a round's public key; returns the terms that name it.

        Raises:
            MessageError: if the key holder did not sign it for this round.
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
