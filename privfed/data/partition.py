"""Who holds which example, when one pool is split for a simulation. Seeds here are public."""

from collections.abc import Sequence

import numpy as np

from privfed.errors import DataError

_TRIES = 500


def by_column(owners: Sequence[str]) -> dict[str, list[int]]:
    """Each distinct value of a column is one client; the natural split of real data."""
    clients: dict[str, list[int]] = {}
    for position, owner in enumerate(owners):
        if not owner.strip():
            raise DataError(f"record {position} names no client in the partition column")
        clients.setdefault(owner, []).append(position)
    return dict(sorted(clients.items()))


def client_names(num_clients: int) -> tuple[str, ...]:
    """Public names of the clients to which one pool is dealt."""
    return tuple(f"client-{number:02d}" for number in range(1, num_clients + 1))


def iid(num_records: int, num_clients: int, seed: int) -> dict[str, list[int]]:
    """Split at random into clients of equal size, up to one record."""
    _check_counts(num_records, num_clients, 1)
    order = np.random.default_rng(seed).permutation(num_records)
    parts = np.array_split(order, num_clients)
    names = client_names(num_clients)
    return {name: sorted(map(int, part)) for name, part in zip(names, parts, strict=True)}


def dirichlet(
    labels: Sequence[int], num_clients: int, alpha: float, minimum: int, seed: int
) -> dict[str, list[int]]:
    """Label skew: the shares of each label over the clients are drawn from Dirichlet(alpha).

    Splits are drawn until every client holds at least `minimum` records.

    Args:
        labels: class of every record.
        num_clients: number of clients.
        alpha: concentration; small is skewed, large is IID.
        minimum: fewest records of any client.
        seed: public.

    Raises:
        DataError: if no such split was found.

    Reference:
        Hsu, Qi, Brown 2019, arXiv:1909.06335.
    """
    _check_counts(len(labels), num_clients, minimum)
    if not 0 < alpha < float("inf"):
        raise DataError(f"Dirichlet alpha must be a finite number above 0, got {alpha!r}")
    random = np.random.default_rng(seed)
    for _ in range(_TRIES):
        parts = _draw_split(np.asarray(labels), num_clients, alpha, random)
        if min(map(len, parts)) >= minimum:
            names = client_names(num_clients)
            return {name: sorted(part) for name, part in zip(names, parts, strict=True)}
    raise DataError(
        f"no Dirichlet({alpha:g}) split of {len(labels)} records over {num_clients} clients with "
        f"at least {minimum} each in {_TRIES} tries; lower the minimum or raise alpha"
    )


def _draw_split(
    labels: np.ndarray, num_clients: int, alpha: float, random: np.random.Generator
) -> list[list[int]]:
    parts: list[list[int]] = [[] for _ in range(num_clients)]
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        shares = random.dirichlet(np.full(num_clients, alpha))
        cuts = np.floor(np.cumsum(shares)[:-1] * len(members)).astype(int)
        for part, chunk in zip(parts, np.split(members, cuts), strict=True):
            part.extend(map(int, chunk))
    return parts


def _check_counts(num_records: int, num_clients: int, minimum: int) -> None:
    if num_clients < 1 or minimum < 1 or num_records < num_clients * minimum:
        raise DataError(
            f"{num_records} records cannot give {num_clients} clients at least {minimum} each"
        )
