"""The clients of a federation: the ledger, filter and anchor of each, and what they have in common.

What a ledger and a filter must be able to do is stated here; `ledger.py` and `filters.py` have
those that are used, and anything that keeps the same promises will do.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from accountants import checks
from accountants.errors import InvalidValueError, LedgerError, UnsupportedAnalysisError
from accountants.events import Event, checked
from accountants.filters import ScheduleFilter
from accountants.guarantees import Budget, Neighbouring
from accountants.ledger.book import Events, Reservation
from accountants.ledger.chain import Anchor, checked_anchor
from accountants.ledger.identity import Identity
from accountants.ledger.ledger import Admit

_Value = TypeVar("_Value")


class LedgerLike(Protocol):
    """The part of `Ledger` that is used here, with its promises."""

    @property
    def identity(self) -> Identity:
        """Whose releases it counts; two ledgers of the same data would count it apart."""

    def verify(self, anchor: Anchor | None = None) -> Anchor:
        """Raise LedgerError if it is damaged or does not continue the anchor."""

    def status(self, run: str, round: int) -> str | None:
        """None for a round that it does not hold."""

    def events(self) -> Events:
        """All that counts as released, open reservations included."""

    def reserve(self, run: str, round: int, planned: Iterable[Event], admit: Admit) -> Reservation:
        """In one transaction: call `admit(history, planned)`, which raises to refuse, and write.

        LedgerStateError for a round that it already holds.
        """

    def commit(self, reservation_id: int, ran: Iterable[Event], outgoing: bytes) -> None:
        """Say what ran, and keep the bytes that may now be sent."""


class Filter(Hashable, Protocol):
    """What every filter in `filters.py` is: a pure function of its fields and arguments.

    Equal filters must give equal answers. Where a filter is no `ScheduleFilter`, parameters are
    taken to follow results.
    """

    @property
    def budget(self) -> Budget:
        """For everything released on the data of the client."""

    @property
    def neighbouring(self) -> Neighbouring:
        """Which data sets are neighbours."""

    def admit(self, history: Iterable[Event], planned: Iterable[Event]) -> float:
        """The epsilon after `planned`, which may be empty; BudgetExceededError to refuse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One data set of a federation.

    Attributes:
        ledger: of this data set; all runs on it, also those outside the federation.
        filter: says which releases may happen, and holds the budget.
        anchor: if given, the ledger must continue the one it was taken from; without one, an
            older copy that was put back does not show.

    Raises:
        InvalidValueError: for a filter that is not hashable, or an anchor that is none.
    """

    ledger: LedgerLike
    filter: Filter
    anchor: Anchor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.filter, Hashable):
            raise InvalidValueError(
                f"a filter must be a frozen record, got {type(self.filter).__name__}, which may "
                "change; its answers are kept for equal clients"
            )
        if self.anchor is not None:
            checked_anchor(self.anchor)


def checked_clients(clients: object) -> dict[str, Client]:
    """The clients by name, each with a ledger of its own.

    Raises:
        InvalidValueError: for anything else than a mapping of clients, and as
            `refuse_shared_ledgers`.
    """
    advice = 'pass {"north": Client(ledger=..., filter=...)}'
    if not isinstance(clients, Mapping):
        raise InvalidValueError(
            f"clients must be a mapping of names to clients, got {type(clients).__name__}; {advice}"
        )
    for name, client in clients.items():
        if not isinstance(client, Client):
            raise InvalidValueError(
                f"each client must be a Client, got {type(client).__name__} for {name!r}; {advice}"
            )
    found = dict(clients)
    refuse_shared_ledgers(found)
    return found


def refuse_shared_ledgers(clients: Mapping[str, Client]) -> None:
    """Refuse no clients, one without a name, or two that would count the same data apart.

    A filter must count in the relation of its ledger.

    Raises:
        InvalidValueError: naming them.
    """
    if not clients:
        raise InvalidValueError("clients must hold at least one client, got none")
    owners: dict[tuple[str, str], str] = {}
    for name, client in clients.items():
        identity = client.ledger.identity
        data = (identity.client, identity.dataset)  # of two units too
        other = owners.setdefault(data, checks.text(client=name))
        if other != name:
            raise InvalidValueError(
                f"each client must have a ledger of its own, got that of {other!r} for {name!r} "
                "too; give clients of the same data one entry and one budget"
            )
        if client.filter.neighbouring is not identity.neighbouring:
            raise InvalidValueError(
                f"client {name!r}: the filter must count in the relation of the ledger, "
                f"{identity.neighbouring}, got {client.filter.neighbouring}; build it with that one"
            )


def verified_history(client: Client) -> Events:
    """All that counts as released, from a ledger that was verified.

    Raises:
        LedgerError: if it cannot be trusted.
    """
    client.ledger.verify(client.anchor)
    return client.ledger.events()


def known(clients: Mapping[str, Client], names: Iterable[str]) -> tuple[str, ...]:
    """The names, at least one and each once, all of them of clients.

    Raises:
        InvalidValueError: for anything else.
    """
    if isinstance(names, str):
        raise InvalidValueError(f"clients must be a list of names, got one; use [{names!r}]")
    wanted = tuple(names)
    if not wanted or len(set(wanted)) < len(wanted):
        raise InvalidValueError(f"clients must be named, each once, got {wanted!r}")
    for name in wanted:
        if name not in clients:
            raise InvalidValueError(
                f"a client must be one of the {len(clients)} of this federation, got {name!r}"
            )
    return wanted


def planned_events(
    clients: Mapping[str, Client], planned: Mapping[str, Iterable[Event]]
) -> dict[str, Events]:
    """What each client that takes part would release, at least one event.

    Raises:
        InvalidValueError: for an unknown client, or one with nothing planned.
        UnsupportedAnalysisError: for something planned that is no event; names the client.
    """
    plans = dict[str, Events]()
    for name in known(clients, planned) if planned else ():
        with naming(name):
            plans[name] = checked(planned[name])
        if not plans[name]:
            raise InvalidValueError(
                f"client {name!r}: at least one event must be planned, got none; leave out a "
                "client that releases nothing"
            )
    return plans


def fixed_history(clients: Mapping[str, Client], name: str) -> Events:
    """What a client released, if its parameters were fixed in advance.

    Raises:
        LedgerError: if its ledger cannot be trusted; names the client.
        UnsupportedAnalysisError: if its parameters may follow results.
    """
    if not isinstance(clients[name].filter, ScheduleFilter):
        raise UnsupportedAnalysisError(
            f"client {name!r}: releases must be of a schedule that was fixed in advance to be "
            "composed for groups or with other ledgers, and its filter lets parameters follow "
            "results"
        )
    with naming(name):
        return verified_history(clients[name])


def common_terms(
    clients: Mapping[str, Client], names: Iterable[str], delta: float | None
) -> tuple[float, Neighbouring]:
    """The delta and the relation that one number for all these clients is about.

    Args:
        clients: all of the federation.
        names: those that the number is about, at least one.
        delta: in (0, 1); if None, that of their budgets.

    Raises:
        InvalidValueError: for a delta out of range, and for clients that differ in the relation,
            or in a delta that is not given.
    """
    filters = {name: clients[name].filter for name in names}
    if delta is None:
        delta = _only("delta", {name: each.budget.delta for name, each in filters.items()})
    else:
        delta = checks.probability(delta=delta)
    return delta, _only("relation", {name: each.neighbouring for name, each in filters.items()})


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the name of the client into the message of an error."""
    try:
        yield
    except (LedgerError, UnsupportedAnalysisError, InvalidValueError) as error:
        raise type(error)(f"client {name!r}: {error}") from error


def _only(what: str, values: Mapping[str, _Value]) -> _Value:
    """The value that all clients share."""
    (first, value), *others = values.items()
    for name, other in others:
        if other != value:
            raise InvalidValueError(
                f"clients must have the same {what} for one number to hold for all, got {value!r} "
                f"for {first!r} and {other!r} for {name!r}"
            )
    return value
