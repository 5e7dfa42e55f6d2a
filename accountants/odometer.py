"""Epsilon after every round, for one client or for thousands.

`trajectory` gives the certified number of each prefix of one history. `OnlineOdometer` and
`trajectories` follow many clients at once by Renyi divergence: one vector per kind of release,
added up, which is fast and a little above the certified number. For a schedule fixed in advance
the last value is a claim; an earlier one, picked because of what was seen by then, is not
(Rogers et al. 2016, arXiv:1605.08294).
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accountants import certified, checks
from accountants.analyses import renyi
from accountants.analyses.floats import Floats
from accountants.errors import InvalidValueError
from accountants.events import Event
from accountants.guarantees import Neighbouring, neighbouring_of
from accountants.histories import canonical, is_within

ABSENT = -1
"""In an array of histories: the client released nothing in this round."""

_BLOCK_BYTES = 8 * 2**20
"""Size of one temporary array in `trajectories`; about two exist at a time."""


def trajectory(
    prefixes: Iterable[Iterable[Event]],
    delta: float,
    neighbouring: Neighbouring,
) -> list[float]:
    """Epsilon of each prefix of a history.

    Args:
        prefixes: for each round, all that was released up to its end; each one continues the
            one before.
        delta: in (0, 1).
        neighbouring: which data sets are neighbours.

    Returns:
        One upper bound per prefix, in order, never falling: what a longer prefix proves, a
        shorter one does not exceed.

    Raises:
        InvalidValueError: for a prefix that does not hold all of the one before it.

    >>> from accountants.events import Gaussian
    >>> prefixes = [[], [Gaussian(noise_multiplier=1.0)]]
    >>> [round(value, 4) for value in trajectory(prefixes, 1e-5, Neighbouring.ADD_REMOVE)]
    [0.0, 4.3772]
    """
    prefixes = [canonical(prefix) for prefix in prefixes]
    for number, (shorter, longer) in enumerate(pairwise(prefixes), start=1):
        if not is_within(shorter, longer):
            raise InvalidValueError(
                f"prefix {number} must hold everything that prefix {number - 1} holds, and does "
                "not; pass running totals, not the releases of single rounds"
            )
    bounds = [certified.epsilon(prefix, delta, neighbouring).upper for prefix in prefixes]
    return [float(value) for value in np.minimum.accumulate(bounds[::-1])[::-1]]


class OnlineOdometer:
    """What every client has spent so far, brought up to date after each release.

    The state is one Renyi divergence per client and order, shape (clients, orders). A client that
    took part in nothing is at epsilon 0.

    Reference:
        Mironov 2017, arXiv:1702.07476, Proposition 1 (additivity).

    >>> from accountants.events import Gaussian
    >>> odometer = OnlineOdometer(3, 1e-5, Neighbouring.ADD_REMOVE)
    >>> odometer.add([0, 2], Gaussian(noise_multiplier=1.0))
    >>> odometer.epsilons().round(3)
    array([4.729, 0.   , 4.729])
    """

    def __init__(self, num_clients: int, delta: float, neighbouring: Neighbouring) -> None:
        """Start with nothing spent.

        Args:
            num_clients: > 0; clients are numbered from 0.
            delta: in (0, 1), the same for all clients.
            neighbouring: which data sets are neighbours.

        Raises:
            InvalidValueError: for a value out of range.
        """
        self._delta = checks.probability(delta=delta)
        self._neighbouring = neighbouring_of(neighbouring)
        self._spent = np.zeros((checks.count(num_clients=num_clients), len(renyi.ORDERS)))

    def add(self, clients: Iterable[int], event: Event) -> None:
        """Count one release for some clients.

        Args:
            clients: their numbers; one that is listed twice released twice.
            event: what each of them released.

        Raises:
            InvalidValueError: for a number that is no client; then nothing is counted.
            UnsupportedAnalysisError: for an event without a Renyi divergence; likewise.
        """
        numbers = _numbers(clients, len(self._spent))
        np.add.at(self._spent, numbers, renyi.rdp([event], self._neighbouring))

    def add_round(self, events: Sequence[Event | None]) -> None:
        """Count one round.

        Args:
            events: for each client what it released, or None.

        Raises:
            InvalidValueError: for another number of entries than clients.
            UnsupportedAnalysisError: for an event without a Renyi divergence; then nothing of
                the round is counted.
        """
        if len(events) != len(self._spent):
            raise InvalidValueError(
                f"a round must have one entry per client, got {len(events)} for "
                f"{len(self._spent)} clients; use None for a client that was absent"
            )
        present = [(i, event) for i, event in enumerate(events) if event is not None]
        vectors = {event: renyi.rdp([event], self._neighbouring) for _, event in present}
        for client, event in present:
            self._spent[client] += vectors[event]

    def epsilons(self) -> Floats:
        """Epsilon of each client so far, shape (clients,), at the delta of the odometer."""
        return renyi.epsilon_from_rdp(self._spent, self._delta)[0]


def trajectories(
    histories: NDArray[np.integer[Any]],
    events: Sequence[Event],
    delta: float,
    neighbouring: Neighbouring,
) -> Floats:
    """Epsilon of every client after every round.

    Args:
        histories: shape (clients, rounds): the index into `events` of what a client released in
            a round, or -1 for nothing.
        events: the distinct releases.
        delta: in (0, 1), the same for all clients.
        neighbouring: which data sets are neighbours.

    Returns:
        Shape (clients, rounds), never falling along a row. Beside it, about 20 MiB of memory are in
        use for a time, however many clients there are.

    Raises:
        InvalidValueError: for histories that are no such array, or a delta out of range.
        UnsupportedAnalysisError: for an event without a Renyi divergence.

    >>> from accountants.events import Gaussian
    >>> histories = np.array([[0, -1, 0], [-1, -1, 0]])
    >>> trajectories(
    ...     histories, [Gaussian(noise_multiplier=1.0)], 1e-5, Neighbouring.ADD_REMOVE
    ... ).round(2)
    array([[4.73, 4.73, 7.08],
           [0.  , 0.  , 4.73]])
    """
    delta = checks.probability(delta=delta)
    _check_histories(histories, len(events))
    # The last row, which index -1 picks, stands for a round without a release.
    vectors = np.zeros((len(events) + 1, len(renyi.ORDERS)))
    for row, event in enumerate(events):
        vectors[row] = renyi.rdp([event], neighbouring)
    (num_clients, num_rounds), epsilons = histories.shape, np.zeros(histories.shape)
    if epsilons.size == 0:
        return epsilons
    clients, rounds = _block_shape(num_rounds)
    for first in range(0, num_clients, clients):
        rows = slice(first, first + clients)
        _fill(epsilons[rows], histories[rows], vectors, delta, rounds)
    return epsilons


def _fill(
    epsilons: Floats,
    histories: NDArray[np.integer[Any]],
    vectors: Floats,
    delta: float,
    rounds: int,
) -> None:
    """Write the epsilons of a block of clients, some rounds at a time."""
    spent = np.zeros((len(histories), vectors.shape[1]))
    for first in range(0, histories.shape[1], rounds):
        columns = slice(first, first + rounds)
        sums = vectors[histories[:, columns]]
        sums[:, 0] += spent
        np.cumsum(sums, axis=1, out=sums)
        spent = sums[:, -1].copy()
        epsilons[:, columns] = renyi.epsilon_from_rdp(sums, delta)[0]


def _block_shape(num_rounds: int) -> tuple[int, int]:
    """Clients and rounds of a block, so that its divergences take `_BLOCK_BYTES` at most."""
    cells = _BLOCK_BYTES // (8 * len(renyi.ORDERS))
    rounds = min(num_rounds, cells)
    return cells // rounds, rounds


def _numbers(clients: Iterable[int], num_clients: int) -> NDArray[np.intp]:
    numbers = [checks.index(client=client) for client in clients]
    if numbers and max(numbers) >= num_clients:
        raise InvalidValueError(
            f"a client must be a number below {num_clients}, got {max(numbers)}"
        )
    return np.array(numbers, dtype=np.intp)


def _check_histories(histories: NDArray[np.integer[Any]], num_events: int) -> None:
    is_table = isinstance(histories, np.ndarray) and histories.ndim == 2
    if not is_table or not np.issubdtype(histories.dtype, np.integer):
        raise InvalidValueError(
            "histories must be a whole-number array of shape (clients, rounds), got "
            f"{type(histories).__name__} {getattr(histories, 'shape', '')}"
        )
    if histories.size and not ABSENT <= histories.min() <= histories.max() < num_events:
        raise InvalidValueError(
            f"histories must hold {ABSENT} or an index below {num_events}, got values from "
            f"{histories.min()} to {histories.max()}"
        )
