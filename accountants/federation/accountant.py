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
other assumptions (`noise_shares.py`). A search for hyper-parameters on the same data costs more
than the run it picks (`selection.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from accountants import certified, checks
from accountants.errors import InvalidValueError
from accountants.events import Event
from accountants.federation.answers import BUDGET_OF_FILTER, Answers
from accountants.federation.clients import (
    Client,
    checked_clients,
    common_terms,
    fixed_history,
    known,
    naming,
    planned_events,
    verified_history,
)
from accountants.federation.decisions import Decision, Outcome, decision_of
from accountants.guarantees import EpsilonBounds, Neighbouring
from accountants.ledger.book import Events, Reservation

__all__ = [
    "BUDGET_OF_FILTER",
    "DISJOINT_RECORDS",
    "Client",
    "Decision",
    "FederatedAccountant",
    "FederationEpsilon",
    "Outcome",
]

DISJOINT_RECORDS = (
    "no record is held by more than one client, which nobody can check without seeing the data of "
    "all; a record that several clients hold has the epsilon of their ledgers together, and a "
    "person with several records that of a group"
)
"""What must hold for the epsilon of a federation to be the largest one of its clients."""


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
    >>> from accountants import Budget, Ledger, ScheduleFilter
    >>> from accountants.events import Gaussian
    >>> folder = TemporaryDirectory()
    >>> step = [Gaussian(noise_multiplier=4.0)]
    >>> def client(name, epsilon):
    ...     return Client(
    ...         ledger=Ledger.create(
    ...             f"{folder.name}/{name}",
    ...             client=name,
    ...             dataset="notes",
    ...             unit="one note",
    ...             neighbouring=Neighbouring.ADD_REMOVE,
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
            InvalidValueError: for anything else than a mapping of names to clients, no client,
                one without a name, two with the same ledger, or a filter of another relation
                than its ledger.
        """
        self.clients: Mapping[str, Client] = MappingProxyType(checked_clients(clients))

    def __repr__(self) -> str:
        count = len(self.clients)
        return f"FederatedAccountant({count} client{'s' if count > 1 else ''})"

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
            One decision per client in `planned`. Who was refused must release nothing; a client
            whose round is ALREADY_DECIDED, as after a crash, releases nothing anew.

        Raises:
            InvalidValueError: for a value out of range or an unknown client; nothing is reserved.
            UnsupportedAnalysisError: for something planned that is no event; likewise.
            Exception: whatever else a filter or ledger raises; what was reserved until then stays
                counted.
        """
        run, round = checks.text(run=run), checks.index(round=round)
        plans, answers = planned_events(self.clients, planned), Answers()

        def reserve(name: str, events: Events) -> tuple[float, Reservation]:
            client, answered = self.clients[name], list[float]()

            def admit(history: Events, planned: Events) -> None:
                answered.append(answers.ask(client.filter, history, planned))

            client.ledger.verify(client.anchor)
            reservation = client.ledger.reserve(run, round, events, admit)
            return answered[-1], reservation

        def holds(name: str) -> bool:
            return self.clients[name].ledger.status(run, round) is not None

        return {
            name: decision_of(name, partial(reserve, name, plans[name]), partial(holds, name))
            for name in plans
        }

    def preview(self, planned: Mapping[str, Iterable[Event]]) -> dict[str, Decision]:
        """What `before_round` would decide now; nothing is reserved, so it allows no release.

        For a round that is not in the ledgers yet.

        Args:
            planned: for each client that is to take part, the most that it would release.

        Raises:
            InvalidValueError: for an unknown client, or one with nothing planned.
            UnsupportedAnalysisError: for something planned that is no event.
        """
        plans, answers = planned_events(self.clients, planned), Answers()

        def look(name: str) -> tuple[float, None]:
            client = self.clients[name]
            return answers.ask(client.filter, verified_history(client), plans[name]), None

        return {name: decision_of(name, partial(look, name)) for name in plans}

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
        (name,) = known(self.clients, [decision.client])
        if decision.reservation is None:
            raise InvalidValueError(
                f"client {name!r}: a commit must follow a reservation by before_round, got a "
                f"decision without one ({decision.outcome.value}); nothing may be sent"
            )
        with naming(name):
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
        if delta is not None:
            delta = checks.probability(delta=delta)
        answers, found = Answers(), dict[str, EpsilonBounds]()
        for name, client in self.clients.items():
            at = client.filter.budget.delta if delta is None else delta
            with naming(name):
                found[name] = answers.claim(client.filter, verified_history(client), at)
        return found

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
        delta, neighbouring = common_terms(self.clients, self.clients, delta)
        found = self.epsilons(delta)
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
            InvalidValueError: for no client, an unknown or a repeated one, one name in place of
                several, or clients that differ in the relation, or in a delta that is not given.
            LedgerError: if a ledger cannot be trusted; names the client.
            UnsupportedAnalysisError: if parameters of a client may follow results, or the events
                have no sound analysis.
        """
        names = known(self.clients, clients)
        delta, neighbouring = common_terms(self.clients, names, delta)
        together = [event for name in names for event in fixed_history(self.clients, name)]
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
        (name,) = known(self.clients, [client])
        records = checks.count(records_per_person=records_per_person)
        delta, neighbouring = common_terms(self.clients, [name], delta)
        history = fixed_history(self.clients, name)
        with naming(name):
            return certified.epsilon(history, delta, neighbouring, group_size=records)
