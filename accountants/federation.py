"""What one epsilon says of several clients: of disjoint records, and of one that several hold.

Record-level epsilon is local here. A client clips and adds noise before anything leaves it, so
that all it ever sent is (epsilon, delta)-DP for each of its records, against anyone: the server,
the other clients and whoever holds a key included. What others do with it afterwards is
post-processing. Hence

- encryption and secure sums lower no number;
- nothing is amplified by the sampling of clients, since who took part is seen: a round counts in
  full for a client that took part, and not at all for one that did not;
- the sample rate in an event is the public number of the sampler that really ran: neither a
  batch size over the size of the data set, which is private, nor a share of the clients.

Disjoint records: McSherry 2009, SIGMOD, Theorem 4 (parallel composition). A whole client as the
unit is another guarantee (`noise_shares.py`).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from accountants import certified, checks
from accountants.errors import InvalidValueError, UnsupportedAnalysisError
from accountants.events import Event
from accountants.guarantees import EpsilonBounds, Neighbouring, neighbouring_of
from accountants.histories import checked

DISJOINT_RECORDS = (
    "no record is held by more than one client, which nobody can check without seeing the data of "
    "all; a record that several clients hold has the epsilon of their releases together, and a "
    "person with several records that of a group"
)
"""What must hold for the epsilon of a federation to be the largest one of its clients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationEpsilon:
    """What holds for every record of a federation, and under which assumption.

    Attributes:
        bounds: the largest upper bound of all clients, never a sum or a mean, is the claim; below
            it the largest lower bound.
        client: whose claim is the largest.
        assumption: what must hold, to be printed with the number.
    """

    bounds: EpsilonBounds
    client: str
    assumption: str = DISJOINT_RECORDS


def largest_epsilon(claims: Mapping[str, float]) -> tuple[str, float]:
    """The claim that holds for all clients of disjoint records: the largest, and whose it is.

    Args:
        claims: by client, an upper bound on its epsilon at one delta and for one relation; where
            parameters followed results, the budget of the filter.

    Raises:
        InvalidValueError: for no client, one without a name, or a claim that is NaN or below 0.

    >>> largest_epsilon({"north": 0.93, "south": 1.36, "east": 0.0})
    ('south', 1.36)
    """
    if not claims:
        raise InvalidValueError("a federation must have at least one client, got none")
    for client, claim in claims.items():
        if claim != math.inf:  # which holds for everything, and is the largest
            checks.non_negative(**{f"epsilon of client {checks.text(client=client)!r}": claim})
    client = max(claims, key=lambda name: claims[name])
    return client, float(claims[client])


def federation_epsilon(
    histories: Mapping[str, Iterable[Event]],
    delta: float,
    neighbouring: Neighbouring,
    *,
    group_size: int = 1,
) -> FederationEpsilon:
    """The epsilon of every record of a federation, if no two clients hold the same record.

    Args:
        histories: by client, all that counts as released from its data, with parameters fixed in
            advance, as `Ledger.events` gives it; equal ones are computed once.
        delta: in [0, 1), the same for all clients.
        neighbouring: which data sets are neighbours, for all clients.
        group_size: the most records that one person has at the one client that holds them (k).

    Raises:
        InvalidValueError: for no client, or a value out of range.
        UnsupportedAnalysisError: for a history without a sound analysis; names the client.
    """
    delta, neighbouring = checks.probability_or_zero(delta=delta), neighbouring_of(neighbouring)
    group_size, found = checks.count(group_size=group_size), dict[str, EpsilonBounds]()
    for client, history in histories.items():
        try:
            found[client] = certified.epsilon(history, delta, neighbouring, group_size=group_size)
        except (UnsupportedAnalysisError, InvalidValueError) as error:
            raise type(error)(f"client {client!r}: {error}") from error
    client, upper = largest_epsilon({name: bounds.upper for name, bounds in found.items()})
    lower = max(bounds.lower for bounds in found.values())
    bounds = EpsilonBounds(lower, upper, found[client].method)
    return FederationEpsilon(bounds=bounds, client=client)


def shared_record_epsilon(
    histories: Mapping[str, Iterable[Event]],
    delta: float,
    neighbouring: Neighbouring,
    *,
    group_size: int = 1,
) -> EpsilonBounds:
    """The epsilon of one record that all these clients hold: everything they released, composed.

    Args:
        histories: as in `federation_epsilon`, of the clients that hold the record.
        delta: in [0, 1).
        neighbouring: which data sets are neighbours, for all clients.
        group_size: the most records that one person has at any of them (k).

    Raises:
        InvalidValueError: for no client, or a value out of range.
        UnsupportedAnalysisError: for histories without a sound analysis together.
    """
    if not histories:
        raise InvalidValueError("a shared record must be held by at least one client, got none")
    together = [event for history in histories.values() for event in checked(history)]
    return certified.epsilon(together, delta, neighbouring, group_size=group_size)
