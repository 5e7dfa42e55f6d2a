"""The clients of small federations, of which no two are alike.

Where a test keeps two numbers equal, code that takes one for the other passes it. So every client
has its own true number of records, public size, epsilon and delta.
"""

from dataclasses import dataclass, replace

from accountants import Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Organisation:
    """One client of `make_federation`, unlike any other.

    Attributes:
        count: true number of records.
        public_size: declared.
        budget: of the client.
    """

    count: int
    public_size: int
    budget: Budget


ORGANISATIONS = (
    Organisation(count=37, public_size=41, budget=Budget(epsilon=4.0, delta=1e-3)),
    Organisation(count=46, public_size=38, budget=Budget(epsilon=5.0, delta=2e-3)),
    Organisation(count=31, public_size=33, budget=Budget(epsilon=4.5, delta=5e-4)),
    Organisation(count=44, public_size=52, budget=Budget(epsilon=6.0, delta=4e-4)),
    Organisation(count=40, public_size=36, budget=Budget(epsilon=3.5, delta=3e-3)),
    Organisation(count=34, public_size=47, budget=Budget(epsilon=5.5, delta=8e-4)),
)
"""No count is a public size, and no number is that of two clients: what is mixed up shows."""


def with_share(federation, share):
    """The federation with this share of every client's epsilon, to leave some for another run."""
    clients = []
    for client in federation.clients:
        budget = Budget(epsilon=share * client.budget.epsilon, delta=client.budget.delta)
        clients.append(replace(client, budget=budget))
    return replace(federation, clients=clients)
