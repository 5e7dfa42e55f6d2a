"""Clients of one process, several in one pass over the model: for simulation.

What each client reserves, trains, commits and sends is what it would alone; only the arithmetic of
several clients is done together. So all of them reserve first, and an exception in a pass drops
every client of that pass from the round, each of which finds the cause in its own log: the pass
holds records of all, and nobody can say whose record it was. A crash loses the round of every
client that has reserved and not committed, where one after the other it would lose one client's.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from privfed.parties.client.run import ClientRun, Waiting
from privfed.private_step.stacked import record_shapes, train_stacked
from privfed.storage.own_log import told_in

Reserved = tuple[ClientRun, Waiting]
"""A client that has reserved the round and not trained it."""


def stacks(waiting: Sequence[Reserved], size: int) -> Iterator[list[Reserved]]:
    """Neighbours on one model whose records have the same shapes, at most `size` of them."""

    def of_one_pass(reserved: Reserved) -> tuple[object, ...]:
        node = reserved[0].node
        return id(node.model), record_shapes(node.encoded)

    for _, equal in groupby(waiting, key=of_one_pass):
        same = list(equal)
        for first in range(0, len(same), size):
            yield same[first : first + size]


def updates_of(stack: Sequence[Reserved]) -> list[NDArray[np.float64]]:
    """Trained minus received parameters of each client, shape (params,); none if the pass failed.

    Args:
        stack: clients that share one model and have come to the same adapter.
    """
    nodes, plan = [run.node for run, _ in stack], stack[0][1].current.plan
    updates: list[NDArray[np.float64]] = []
    with told_in([node.log for node in nodes], f"round {plan.round}: did not take part"):
        rounds = [
            run.node.local_round(plan, run.progress.state, run.start(waiting))
            for run, waiting in stack
        ]
        trained = train_stacked(nodes[0].model, rounds)
        updates = [
            adapter.astype(np.float64) - mine.start.adapter
            for adapter, mine in zip(trained, rounds, strict=True)
        ]
    return updates
