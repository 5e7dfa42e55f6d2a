"""Many clients, each with a ledger and a budget: who may release, and what a record has at stake.

Record-level epsilon is local here. A client clips and adds noise before anything leaves it, so
that all it ever sent is (epsilon, delta)-DP for each of its records, against anyone: the server,
the other clients and whoever holds a key included. What others do with it afterwards is
post-processing. Hence

- encryption and secure sums lower no number;
- nothing is amplified by the sampling of clients, since who took part is seen: a round counts in
  full for a client that took part, and not at all for one that did not;
- the sample rate in an event is the public number of the sampler that really ran: neither a
  batch size over the size of the data set, which is private, nor a share of the clients.

A guarantee for a whole client, from noise that many clients add together, is another unit with
other assumptions (`units.py`). A search for hyper-parameters on the same data costs more than the
run it picks (`selection.py`).
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from types import MappingProxyType
from typing import Protocol, TypeVar

from accountants import certified, checks
from accountants.book import Events, Identity, Reservation
from accountants.bounds import EpsilonBounds
from accountants.budget import Budget
from accountants.chain import Anchor
from accountants.errors import (
    AccountingError,
    BudgetExceededError,
    InvalidValueError,
    LedgerError,
    UnsupportedAnalysisError,
)
from accountants.events import Event, canonical, checked
from accountants.filters import ScheduleFilter
from accountants.ledger import Admit
from accountants.relations import Neighbouring

DISJOINT_RECORDS = (
    "no record is held by more than one client, which nobody can check without seeing the data of "
    "all; a record that several clients hold has the epsilon of their ledgers together, and a "
    "person with several records that of a group"
)
"""What must hold for the epsilon of a federation to be the largest one of its clients."""

BUDGET_OF_FILTER = "budget of the filter, whose parameters may follow results"
"""Method of a claim that is a budget, because no composition of what ran is a theorem."""


_Value = TypeVar("_Value")


class LedgerLike(Protocol):
    """The part of `Ledger` that is used here, with its promises."""

    @property
    def identity(self) -> Identity:
        """Whose releases it counts; two ledgers of the same data would count it apart."""

    def verify(self, anchor: Anchor | None = None) -> Anchor:
        """Raise LedgerError if it is damaged or does not continue the anchor."""

    def events(self) -> Events:
        """All that counts as released, open reservations included."""

    def reserve(self, run: str, round: int, planned: Iterable[Event], admit: Admit) -> Reservation:
        """In one transaction: call `admit(history, planned)`, which raises to refuse, and write."""

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
        InvalidValueError: for a filter that is not hashable.
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


class Outcome(Enum):
    """Why a client may take part in a round, or not.

    ADMITTED: the release fits.
    OVER_BUDGET: it would pass the budget; smaller ones may still fit.
    NOT_COVERED: the filter or the analysis does not cover it, or the history.
    NO_LEDGER: the ledger is missing, damaged, busy, or already holds this round.
    """

    ADMITTED = "admitted"
    OVER_BUDGET = "over_budget"
    NOT_COVERED = "not_covered"
    NO_LEDGER = "no_ledger"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether one client's release may happen.

    Attributes:
        client: its name.
        outcome: what was decided.
        epsilon_after: with the release and all before it, at the delta of the budget; of a client
            over its budget what it would be, possibly infinite; None where there is no number.
        reason: why it was refused, for the log of the client; None if it was admitted.
        reservation: for `FederatedAccountant.commit`; None if refused, or only previewed.
    """

    client: str
    outcome: Outcome
    epsilon_after: float | None = None
    reason: str | None = None
    reservation: Reservation | None = None

    @property
    def admitted(self) -> bool:
        """Whether the release may happen; after a preview, could have happened."""
        return self.outcome is Outcome.ADMITTED


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationEpsilon:
    """What holds for every record of a federation, and under which assumption.

    Attributes:
        bounds: the claim is the largest upper bound of all clients, never a sum or a mean; the
            lower one is the largest lower bound.
        delta: the same for all clients.
        neighbouring: the same for all clients.
        client: whose claim is the largest.
        num_clients: over how many clients it was taken.
        assumption: what must hold, to be printed with the number.
    """

    bounds: EpsilonBounds
    delta: float
    neighbouring: Neighbouring
    client: str
    num_clients: int
    assumption: str = DISJOINT_RECORDS


class FederatedAccountant:
    """The ledgers and filters of all clients. It holds no state of its own.

    >>> from tempfile import TemporaryDirectory
    >>> from accountants import Ledger, ScheduleFilter
    >>> from accountants.events import Gaussian
    >>> folder = TemporaryDirectory()
    >>> step = [Gaussian(noise_multiplier=4.0)]
    >>> def client(name, epsilon):
    ...     return Client(
    ...         ledger=Ledger.create(
    ...             f"{folder.name}/{name}", client=name, dataset="notes", description="2024"
    ...         ),
    ...         filter=ScheduleFilter(
    ...             budget=Budget(epsilon=epsilon, delta=1e-5),
    ...             schedule=step,
    ...             neighbouring=Neighbouring.ADD_REMOVE,
    ...         ),
    ...     )
    >>> clients = {"north": client("north", 2.0), "south": client("south", 0.5)}
    >>> federation = FederatedAccountant(clients)
    >>> decisions = federation.before_round("first run", 0, {"north": step, "south": step})
    >>> [(name, decision.outcome.value) for name, decision in decisions.items()]
    [('north', 'admitted'), ('south', 'over_budget')]
    >>> federation.commit(decisions["north"], ran=step, outgoing=b"the update")
    >>> found = federation.federation_epsilon()
    >>> found.client, round(found.bounds.upper, 4)
    ('north', 0.9263)
    >>> folder.cleanup()

    Several threads and processes may use accountants of the same ledgers at once. What costs
    time is computed once for all clients with the same releases, whatever their order. Numbers
    for clients with a `ScheduleFilter` hold when the moment of stopping was fixed in advance; for
    a stop chosen from results, `ScheduleFilter.claim` has the number.
    """

    def __init__(self, clients: Mapping[str, Client]) -> None:
        """Bring the clients together.

        Args:
            clients: by name; each with a ledger of its own.

        Raises:
            InvalidValueError: for no client, one without a name, or two with the same ledger.
        """
        self.clients: Mapping[str, Client] = MappingProxyType(dict(clients))
        if not self.clients:
            raise InvalidValueError("clients must hold at least one client, got none")
        owners: dict[Identity, str] = {}
        for name, client in self.clients.items():
            other = owners.setdefault(client.ledger.identity, checks.text(client=name))
            if other != name:
                raise InvalidValueError(
                    f"each client must have a ledger of its own, got that of {other!r} for "
                    f"{name!r} too; give clients of the same data one entry and one budget"
                )

    def before_round(
        self, run: str, round: int, planned: Mapping[str, Iterable[Event]]
    ) -> dict[str, Decision]:
        """Decide who may release, and count the releases of those who may; before any happens.

        A client is checked and its reservation written in one transaction on its ledger, which
        is on disk on return. One client's refusal, for whatever reason, leaves the others alone.

        Args:
            run: which run, as its configuration names it.
            round: which round of it, from 0.
            planned: for each client that is to take part, the most that it will release.

        Returns:
            One decision per client in `planned`. Who was refused must release nothing.

        Raises:
            InvalidValueError: for a value out of range or an unknown client; nothing is reserved.
            UnsupportedAnalysisError: for something planned that is no event; likewise.
            Exception: whatever else a filter or ledger raises; what was reserved until then stays
                counted.
        """
        run, round = checks.text(run=run), checks.index(round=round)
        plans, answers = self._plans(planned), _Answers()

        def reserve(name: str, events: Events) -> tuple[float, Reservation]:
            client, answered = self.clients[name], list[float]()

            def admit(history: Events, planned: Events) -> None:
                answered.append(answers.ask(client.filter, history, planned))

            client.ledger.verify(client.anchor)
            reservation = client.ledger.reserve(run, round, events, admit)
            return answered[-1], reservation

        return {name: _decision(name, partial(reserve, name, plans[name])) for name in plans}

    def preview(self, planned: Mapping[str, Iterable[Event]]) -> dict[str, Decision]:
        """What `before_round` would decide now; nothing is reserved, so it allows no release.

        For a round that is not in the ledgers yet.

        Args:
            planned: for each client that is to take part, the most that it would release.

        Raises:
            InvalidValueError: for an unknown client, or one with nothing planned.
            UnsupportedAnalysisError: for something planned that is no event.
        """
        plans, answers = self._plans(planned), _Answers()

        def look(name: str) -> tuple[float, None]:
            client = self.clients[name]
            return answers.ask(client.filter, _history(client), plans[name]), None

        return {name: _decision(name, partial(look, name)) for name in plans}

    def commit(self, decision: Decision, ran: Iterable[Event], outgoing: bytes) -> None:
        """Say what an admitted client released, and keep the bytes that it may now send.

        Args:
            decision: of this client, from `before_round`.
            ran: what was released; less than was planned only for causes that do not depend on
                the data.
            outgoing: the message of the round.

        Raises:
            InvalidValueError: for a decision without a reservation, an unknown client, or a
                message that is not bytes; nothing may be sent.
            LedgerError: if the ledger refuses; names the client, and nothing may be sent.
            UnsupportedAnalysisError: for something in `ran` that is no event.
        """
        (name,) = self._known([decision.client])
        if decision.reservation is None:
            raise InvalidValueError(
                f"client {name!r}: a commit must follow a reservation by before_round, got a "
                f"decision without one ({decision.outcome.value}); nothing may be sent"
            )
        with _naming(name):
            self.clients[name].ledger.commit(decision.reservation.id, ran, outgoing)

    def epsilons(self, delta: float | None = None) -> dict[str, EpsilonBounds]:
        """What every client has spent, its open reservations included.

        A client whose filter lets parameters follow results has no such number: from its first
        release on, the claim is its budget.

        Args:
            delta: in (0, 1), the same for all clients; without it, that of each one's budget.

        Raises:
            InvalidValueError: for a delta out of range.
            LedgerError: if a ledger cannot be trusted; names the client.
            UnsupportedAnalysisError: for a history without a valid number; names the client.
        """
        return self._epsilons(
            self.clients, None if delta is None else checks.probability(delta=delta)
        )

    def federation_epsilon(self, delta: float | None = None) -> FederationEpsilon:
        """The epsilon of every record of the federation, if no two clients hold the same record.

        Args:
            delta: in (0, 1); may be left out where all budgets have the same.

        Raises:
            InvalidValueError: if clients differ in the relation, or in a delta that is not given.
            LedgerError: if any ledger cannot be trusted, since then there is no maximum.
            UnsupportedAnalysisError: as `epsilons`.

        Reference:
            McSherry 2009, SIGMOD, Theorem 4 (parallel composition).
        """
        names = tuple(self.clients)
        delta, neighbouring = self._delta(names, delta), self._neighbouring(names)
        found = self._epsilons(names, delta)
        largest = max(found, key=lambda name: found[name].upper)
        lower = max(bounds.lower for bounds in found.values())
        return FederationEpsilon(
            bounds=EpsilonBounds(lower, found[largest].upper, found[largest].method),
            delta=delta,
            neighbouring=neighbouring,
            client=largest,
            num_clients=len(found),
        )

    def shared_record_epsilon(
        self, clients: Iterable[str], delta: float | None = None
    ) -> EpsilonBounds:
        """The epsilon of a record that all these clients hold: their ledgers composed.

        Args:
            clients: who holds the record; at least one.
            delta: in (0, 1); may be left out where their budgets have the same.

        Raises:
            InvalidValueError: for no client, an unknown or a repeated one, or clients that differ
                in the relation, or in a delta that is not given.
            LedgerError: if a ledger cannot be trusted; names the client.
            UnsupportedAnalysisError: if parameters of a client may follow results, or the events
                have no sound analysis.
        """
        names = self._known(clients)
        delta, neighbouring = self._delta(names, delta), self._neighbouring(names)
        together = [event for name in names for event in self._fixed_history(name)]
        return certified.epsilon(together, delta, neighbouring)

    def group_epsilon(
        self, client: str, records_per_person: int, delta: float | None = None
    ) -> EpsilonBounds:
        """The epsilon of a person with several records at one client, at the same delta.

        Args:
            client: its name.
            records_per_person: the most records that one person may have there, >= 1.
            delta: in (0, 1); without it, that of the budget.

        Raises:
            InvalidValueError: for a value out of range, or an unknown client.
            LedgerError: if the ledger cannot be trusted.
            UnsupportedAnalysisError: if parameters may follow results, or the events have no sound
                analysis for groups under the relation of the client.
        """
        (name,) = self._known([client])
        records = checks.count(records_per_person=records_per_person)
        delta, neighbouring = self._delta([name], delta), self._neighbouring([name])
        history = self._fixed_history(name)
        with _naming(name):
            return certified.epsilon(history, delta, neighbouring, group_size=records)

    def _epsilons(self, names: Iterable[str], delta: float | None) -> dict[str, EpsilonBounds]:
        answers, found = _Answers(), dict[str, EpsilonBounds]()
        for name in names:
            client = self.clients[name]
            at = client.filter.budget.delta if delta is None else delta
            with _naming(name):
                found[name] = answers.claim(client.filter, _history(client), at)
        return found

    def _fixed_history(self, name: str) -> Events:
        """What a client released, if its parameters were fixed in advance."""
        if not isinstance(self.clients[name].filter, ScheduleFilter):
            raise UnsupportedAnalysisError(
                f"client {name!r}: releases must be of a schedule that was fixed in advance to be "
                "composed for groups or with other ledgers, and its filter lets parameters follow "
                "results"
            )
        with _naming(name):
            return _history(self.clients[name])

    def _plans(self, planned: Mapping[str, Iterable[Event]]) -> dict[str, Events]:
        names = self._known(planned) if planned else ()
        plans = dict[str, Events]()
        for name in names:
            with _naming(name):
                plans[name] = checked(planned[name])
            if not plans[name]:
                raise InvalidValueError(
                    f"client {name!r}: at least one event must be planned, got none; leave out a "
                    "client that releases nothing"
                )
        return plans

    def _known(self, clients: Iterable[str]) -> tuple[str, ...]:
        names = tuple(clients)
        if not names or len(set(names)) < len(names):
            raise InvalidValueError(f"clients must be named, each once, got {names!r}")
        for name in names:
            if name not in self.clients:
                raise InvalidValueError(
                    f"a client must be one of the {len(self.clients)} of this federation, got "
                    f"{name!r}"
                )
        return names

    def _delta(self, names: Iterable[str], delta: float | None) -> float:
        if delta is not None:
            return checks.probability(delta=delta)
        return _only("delta", {name: self.clients[name].filter.budget.delta for name in names})

    def _neighbouring(self, names: Iterable[str]) -> Neighbouring:
        return _only("relation", {name: self.clients[name].filter.neighbouring for name in names})


def _history(client: Client) -> Events:
    """All that counts as released, from a ledger that was verified."""
    client.ledger.verify(client.anchor)
    return client.ledger.events()


class _Answers:
    """Each distinct question put once: to a filter, or to the accountant."""

    def __init__(self) -> None:
        self._normal = cache(canonical)
        self._admitted = cache(_admitted)
        self._claimed = cache(_claimed)

    def ask(self, filter: Filter, history: Events, planned: Events) -> float:
        """What the filter says; raises to refuse."""
        answer = self._admitted(filter, self._normal(history), self._normal(planned))
        if isinstance(answer, AccountingError):
            raise answer.with_traceback(None)
        return answer

    def claim(self, filter: Filter, history: Events, delta: float) -> EpsilonBounds:
        """What holds for a history that the filter governs."""
        phases = self._normal(history)
        if not phases or isinstance(filter, ScheduleFilter):
            return self._claimed(phases, delta, filter.neighbouring)
        if delta < filter.budget.delta:
            raise UnsupportedAnalysisError(
                f"delta must be at least the {filter.budget.delta:g} of the budget, got {delta:g}: "
                "where parameters follow results, the budget is all that can be claimed"
            )
        try:
            self.ask(filter, phases, ())
        except BudgetExceededError as error:
            raise UnsupportedAnalysisError(
                "all releases must be within the limit of a filter for its budget to be claimed, "
                f"and these are not: {error}"
            ) from error
        return EpsilonBounds(0.0, filter.budget.epsilon, BUDGET_OF_FILTER)


def _claimed(phases: Events, delta: float, neighbouring: Neighbouring) -> EpsilonBounds:
    return certified.epsilon(phases, delta, neighbouring)


def _admitted(filter: Filter, history: Events, planned: Events) -> float | AccountingError:
    """The epsilon that a filter admits, or its refusal; never a number above the budget."""
    try:
        after = filter.admit(history, planned)
    except AccountingError as refusal:
        return refusal
    if not after <= filter.budget.epsilon:
        return BudgetExceededError(
            f"a filter must admit at most its budget {filter.budget.epsilon:.6g}, and admitted "
            f"{after:.6g}; the release was not made, correct the filter",
            epsilon=after,
            allowed=filter.budget.epsilon,
        )
    return after


def _decision(name: str, decide: Callable[[], tuple[float, Reservation | None]]) -> Decision:
    """The decision that an attempt comes to."""
    try:
        after, reservation = decide()
    except AccountingError as error:
        return Decision(
            client=name,
            outcome=_outcome(error),
            epsilon_after=error.epsilon if isinstance(error, BudgetExceededError) else None,
            reason=f"client {name!r}: {error}",
        )
    return Decision(
        client=name, outcome=Outcome.ADMITTED, epsilon_after=after, reservation=reservation
    )


def _outcome(error: AccountingError) -> Outcome:
    match error:
        case BudgetExceededError():
            return Outcome.OVER_BUDGET
        case LedgerError():
            return Outcome.NO_LEDGER
        case _:
            return Outcome.NOT_COVERED


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


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put the name of the client into the message of an error."""
    try:
        yield
    except (LedgerError, UnsupportedAnalysisError, InvalidValueError) as error:
        raise type(error)(f"client {name!r}: {error}") from error
