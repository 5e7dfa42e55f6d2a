"""A client's public size, where it is released and not declared.

Under add/remove the number of records is private, and sampling rate, noise and weight follow from
it in public. So it is declared without looking at the records, or released once with discrete
Laplace noise. The ledger books that release like any other, and keeps the number: a data set has
one public size for all its runs.
"""

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from accountants import Budget, BudgetExceededError, Event, Ledger, NoisedCount, epsilon
from accountants.ledger.book import Book
from privfed.data.public_size import NoisySize, released_size
from privfed.errors import DataError
from privfed.storage.durable import writing

if TYPE_CHECKING:  # a report is checked without torch, and asks here which sizes were released
    from privfed.private_step.randomness import Randomness

Events = tuple[Event, ...]

_RUN: Final = "public size"
_LOCK: Final = "public-size.lock"
"""Beside the ledger; held while a size is released."""


def public_size(
    declared: int | NoisySize, count: int, ledger: Ledger, budget: Budget, randomness: "Randomness"
) -> int:
    """The number that stands for how many records a client holds.

    Args:
        declared: the number itself, or how to release it.
        count: true number of records; private.
        ledger: of this client and data set; what was released before is taken from it.
        budget: of the client; the release must fit it.
        randomness: where the noise comes from.

    Raises:
        accountants.BudgetExceededError: if the release would exceed the budget.
    """
    if isinstance(declared, int):
        return declared
    with _alone(ledger.path):
        return _released(declared, count, ledger, budget, randomness)


def is_released_size(size: int, book: Book) -> bool:
    """Whether a ledger released this size; it holds the digest of the number."""
    return any(
        commit.is_of(_as_bytes(size))
        for id_, commit in book.commits.items()
        if book.reservations[id_].run == _RUN
    )


def _as_bytes(size: int) -> bytes:
    return json.dumps({"public_size": size}).encode()


@contextlib.contextmanager
def _alone(ledger: Path) -> Iterator[None]:
    """One process at a time: what another one has reserved and not yet committed is no crash."""
    path = ledger.with_name(_LOCK)
    with writing(path):
        file = path.open("wb")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _released(
    declared: NoisySize, count: int, ledger: Ledger, budget: Budget, randomness: "Randomness"
) -> int:
    attempt = 0
    while (status := ledger.status(_RUN, attempt)) is not None:
        if status == "committed":
            return _kept(ledger, attempt)
        attempt += 1  # a crash lost that release; it is counted
    planned = [NoisedCount(epsilon=declared.noise_epsilon)]
    reservation = ledger.reserve(_RUN, attempt, planned, _admission(ledger, budget))
    stream = randomness.stream(ledger.identity.client, "public size")
    size = released_size(count, declared.noise_epsilon, stream)
    ledger.commit(reservation.id, planned, _as_bytes(size))
    return size


def _kept(ledger: Ledger, attempt: int) -> int:
    kept = ledger.outgoing(_RUN, attempt)
    if kept is None:
        raise DataError(f"the released size of client {ledger.identity.client!r} is gone")
    return int(json.loads(kept)["public_size"])


def _admission(ledger: Ledger, budget: Budget) -> Callable[[Events, Events], None]:
    whose = ledger.identity

    def admit(history: Events, planned: Events) -> None:
        spent = epsilon([*history, *planned], budget.delta, whose.neighbouring).upper
        if not spent < budget.epsilon:
            raise BudgetExceededError(
                f"releasing the size of client {whose.client!r} must leave some of its budget, "
                f"epsilon {budget.epsilon:g} at delta {budget.delta:g}, and would bring what is "
                f"spent on data set {whose.dataset!r} to {spent:.6g}; declare the size, release it "
                "with a smaller noise_epsilon, or agree on a larger budget",
                epsilon=spent,
                allowed=budget.epsilon,
            )

    return admit
