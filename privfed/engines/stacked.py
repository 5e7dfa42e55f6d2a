"""All clients in this process, several in one pass over the model: for simulation.

What each client reserves, trains, commits and sends is what it would alone; only the arithmetic of
several clients is done together. So all of them reserve first, and an exception in a pass drops
every client of that pass from the round, each of which finds the cause in its own log: the pass
holds records of all, and nobody can say whose record it was. A crash loses the round of every
client that has reserved and not committed, where one after the other it would lose one client's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from accountants import Reservation
from privfed.engines.inprocess import Collected, send_update
from privfed.parties.aggregator.collecting import Aggregator
from privfed.parties.aggregator.openers import Opening
from privfed.parties.client.node import ClientNode, Codec
from privfed.private_step.stacked import record_shapes, train_stacked
from privfed.protocol.terms import RoundPlan
from privfed.storage.own_log import told_in

_Waiting = tuple[ClientNode, Reservation]
"""A client that has reserved the round and not trained it."""


def collect_stacked(
    nodes: Sequence[ClientNode],
    plan: RoundPlan,
    opening: Opening,
    state: NDArray[np.float32],
    codecs: Mapping[str, Codec],
    aggregator: Aggregator,
    on_client: Callable[[str], None],
    *,
    size: int,
) -> Collected:
    """Let every client train the round and hand its message to the aggregator.

    Args:
        nodes: the cohort; all share one model.
        plan: of the round.
        opening: terms of the round, and its public key where there is one.
        state: global adapter, shape (params,).
        codecs: per client, how its update is hidden.
        aggregator: receives bytes.
        on_client: called with the id of each client when it is done, taking part or not.
        size: clients in one pass, at most.
    """
    collected = Collected()
    waiting: list[_Waiting] = []
    for node in nodes:
        with _own_logs([node], plan):
            reservation = node.reserve(plan)
            if reservation is not None:
                waiting.append((node, reservation))
                continue
            send_update(node, opening, codecs[node.id], aggregator, collected)
        on_client(node.id)
    for stack in _stacks(waiting, size):
        updates: list[NDArray[np.float64]] = []
        with _own_logs([node for node, _ in stack], plan):
            updates = _train([node for node, _ in stack], plan, state)
        for (node, reservation), update in zip(stack, updates, strict=False):
            with _own_logs([node], plan):
                node.commit(reservation, update, codecs[node.id])
                send_update(node, opening, codecs[node.id], aggregator, collected)
        for node, _ in stack:
            on_client(node.id)
    return collected


def _stacks(waiting: Sequence[_Waiting], size: int) -> Iterator[list[_Waiting]]:
    """Neighbours whose records have the same shapes, at most `size` of them together."""
    for _, equal in groupby(waiting, key=lambda pair: record_shapes(pair[0].encoded)):
        same = list(equal)
        for first in range(0, len(same), size):
            yield same[first : first + size]


def _train(
    nodes: Sequence[ClientNode], plan: RoundPlan, state: NDArray[np.float32]
) -> list[NDArray[np.float64]]:
    """Trained minus received parameters of each client, shape (params,)."""
    trained = train_stacked(
        nodes[0].model, [node.local_round(plan, state) for node in nodes], state
    )
    return [adapter.astype(np.float64) - state.astype(np.float64) for adapter in trained]


def _own_logs(nodes: Sequence[ClientNode], plan: RoundPlan) -> AbstractContextManager[None]:
    """An exception ends the block and is told in the own log of each of the clients."""
    return told_in([node.log for node in nodes], f"round {plan.round}: did not take part")
