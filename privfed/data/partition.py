"""Who holds which example, when one pool is split for a simulation. Seeds here are public."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def quantity_skew(
    num_records: int, num_clients: int, alpha: float, minimum: int, seed: int
) -> dict[str, list[int]]:
    """Quantity skew: the shares of all records over the clients are drawn from Dirichlet(alpha).

    It is the Dirichlet split of a single label: sizes differ, and what a client holds is drawn at
    random from everything. Splits are drawn until every client holds at least `minimum` records.

    Args:
        num_records: in the pool.
        num_clients: number of clients.
        alpha: concentration (beta in the paper); small is skewed, large is equal sizes.
        minimum: fewest records of any client.
        seed: public.

    Raises:
        DataError: if no such split was found.

    Reference:
        Li, Diao, Chen, He 2022, arXiv:2102.02079, quantity skew.
    """
    return dirichlet([0] * num_records, num_clients, alpha, minimum, seed)


def feature_shift(
    features: NDArray[Any],
    labels: Sequence[int],
    num_clients: int,
    random_share: float,
    seed: int,
) -> dict[str, list[int]]:
    """Same labels, different features: clients hold different stretches of every label's records.

    The records of each label are put in order along a feature. A random share of them changes
    places among itself, and the order is cut into one block for each client: of every label the
    first client holds the lowest values, the last client the highest. Clients hold equally many
    records of each label, and of all labels together, up to one. Equal values are put in random
    order, so that the order of the file has no effect.

    This is P(x | y) that varies while P(y) does not (Kairouz et al. 2021, arXiv:1912.04977, section
    3.1, "same label, different features"). The mixture is that of Hsieh et al. 2020,
    arXiv:1910.00189, who deal one share of the records by label and the rest at random; here the
    one share is dealt by a feature within each label. Li et al. 2022, arXiv:2102.02079, instead add
    noise to the features, more at each next client, which text does not allow.

    Args:
        features: public numbers about each record, shape (records, d): with d = 1 such as a text's
            length; with more, such as an embedding, the order is along the direction in which they
            vary most (first principal component), signed so that its largest entry is positive.
        labels: class of every record; all equal where there are none.
        num_clients: number of clients.
        random_share: of each label's records, dealt at random, in [0, 1]: 0 is sorted blocks, 1 is
            IID within each label.
        seed: public.

    Raises:
        DataError: if there are too few records, the share is none, or features are not finite
            numbers of that shape.
    """
    _check_counts(len(labels), num_clients, 1)
    if not 0 <= random_share <= 1:
        raise DataError(
            f"random_share must be in [0, 1], got {random_share!r}; it is the share of records "
            "that is dealt at random, not in the order of the feature"
        )
    values = _main_component(features, len(labels))
    random = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(num_clients)]
    dealt = 0
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(np.asarray(labels) == label))
        order = members[np.argsort(values[members], kind="stable")]
        loose = random.permutation(len(order))[: round(random_share * len(order))]
        order[loose] = order[random.permutation(loose)]
        turns = (dealt + np.arange(len(order))) % num_clients  # who would get each one in turn
        cuts = np.cumsum(np.bincount(turns, minlength=num_clients))[:-1]
        for part, chunk in zip(parts, np.split(order, cuts), strict=True):
            part.extend(map(int, chunk))
        dealt += len(order)
    names = client_names(num_clients)
    return {name: sorted(part) for name, part in zip(names, parts, strict=True)}


def _main_component(features: NDArray[Any], num_records: int) -> NDArray[np.float64]:
    """The first principal component of every record, shape (records,), up to a positive factor."""
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or len(values) != num_records or not values.size:
        raise DataError(
            f"features must have the shape (records, d), here ({num_records}, d) with d at least "
            f"1, got {values.shape}; give a single number of each record as one column"
        )
    if not np.isfinite(values).all():
        raise DataError("features must be finite; leave out records that have none")
    values = values / (np.abs(values).max() or 1.0)  # squares neither overflow nor vanish
    centred = values - values.mean(axis=0)
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    towards = direction[np.argmax(np.abs(direction))]
    return np.asarray(centred @ direction * np.sign(towards))


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
