"""Clients without files, and the filters and events that they are tried with."""

from accountants.errors import LedgerStateError
from accountants.events import Gaussian, PoissonGaussian
from accountants.federation.accountant import Client, FederatedAccountant
from accountants.filters import AdaptiveFilter, ScheduleFilter
from accountants.guarantees import Budget, Neighbouring
from accountants.ledger.book import Reservation
from accountants.ledger.chain import Anchor
from accountants.ledger.identity import Identity

ADD_REMOVE = Neighbouring.ADD_REMOVE
DELTA = 1e-5
SIGMA_ONE = 4.377178
"""Epsilon of one Gaussian at sigma 1 and delta 1e-5: Balle & Wang 2018, arXiv:1805.06530."""


def noise(sigma, steps=1):
    return Gaussian(noise_multiplier=sigma, steps=steps)


def poisson(sigma, q, steps=1):
    return PoissonGaussian(noise_multiplier=sigma, sample_rate=q, steps=steps)


STEP = noise(4.0)


def budget(epsilon, delta=DELTA):
    return Budget(epsilon=epsilon, delta=delta)


def scheduled(epsilon=2.0, delta=DELTA, schedule=(STEP,), neighbouring=ADD_REMOVE):
    return ScheduleFilter(
        budget=budget(epsilon, delta), schedule=schedule, neighbouring=neighbouring
    )


def adaptive(epsilon=3.0, neighbouring=ADD_REMOVE):
    return AdaptiveFilter(budget=budget(epsilon), order=10.0, neighbouring=neighbouring)


def each(names, events):
    """The same events for every client."""
    return {name: list(events) for name in names}


class MemoryLedger:
    """A ledger without a file."""

    def __init__(self, name, events=(), neighbouring=ADD_REMOVE):
        self.identity = Identity(
            client=name, dataset="notes", unit="one note", neighbouring=neighbouring
        )
        self.released = [tuple(events)]
        self.open = {}
        self.rounds = set()

    def verify(self, anchor=None):
        return Anchor(length=len(self.released), head="0" * 64)

    def events(self):
        return tuple(event for released in self.released for event in released)

    def reserve(self, run, round, planned, admit):
        if (run, round) in self.rounds:
            raise LedgerStateError(f"round {round} is already reserved")
        admit(self.events(), tuple(planned))
        self.rounds.add((run, round))
        self.released.append(tuple(planned))
        return Reservation(id=len(self.released) - 1, run=run, round=round, planned=tuple(planned))

    def status(self, run, round):
        return "reserved" if (run, round) in self.rounds else None

    def commit(self, reservation_id, ran, outgoing):
        self.released[reservation_id] = tuple(ran)


def in_memory(histories, filter=None):
    """An accountant of clients with these histories."""
    return FederatedAccountant(
        {
            name: Client(
                ledger=MemoryLedger(name, events, (filter or scheduled()).neighbouring),
                filter=filter or scheduled(100.0),
            )
            for name, events in histories.items()
        }
    )
