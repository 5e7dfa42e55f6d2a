"""All clients in this process, one after the other. A simulation: nothing crosses a network.

An engine only moves envelopes. A client that fails drops out of the round; the others, and
whoever reads the report, learn that it did not take part and nothing else.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from privfed.parties.aggregator.collecting import Aggregator
from privfed.parties.aggregator.openers import Opening
from privfed.parties.client.node import ClientNode, Codec
from privfed.protocol.terms import RoundPlan
from privfed.storage.own_log import told_in


@dataclass(slots=True)
class Collected:
    """What came of asking all clients.

    Attributes:
        messages: accepted updates by client.
        aggregator_seconds: that the aggregator took to check and add.
    """

    messages: dict[str, bytes] = field(default_factory=dict)
    aggregator_seconds: float = 0.0


def collect_updates(
    nodes: Sequence[ClientNode],
    plan: RoundPlan,
    opening: Opening,
    state: NDArray[np.float32],
    codecs: Mapping[str, Codec],
    aggregator: Aggregator,
    on_client: Callable[[str], None],
) -> Collected:
    """Let every client train the round and hand its message to the aggregator.

    Args:
        nodes: the cohort.
        plan: of the round.
        opening: terms of the round, and its public key where there is one.
        state: global adapter, shape (params,).
        codecs: per client, how its update is hidden.
        aggregator: receives bytes.
        on_client: called with the id of each client when it is done, taking part or not.
    """
    collected = Collected()
    for node in nodes:
        with told_in([node.log], f"round {plan.round}: did not take part"):
            node.train(plan, state, codecs[node.id])
            send_update(node, opening, codecs[node.id], aggregator, collected)
        on_client(node.id)
    return collected


def send_update(
    node: ClientNode,
    opening: Opening,
    codec: Codec,
    aggregator: Aggregator,
    collected: Collected,
) -> None:
    """Let a client hide what it committed, and hand its message to the aggregator.

    Args:
        node: the client.
        opening: terms of the round, and its public key where there is one.
        codec: how its update is hidden.
        aggregator: receives bytes.
        collected: where message and seconds are noted.
    """
    message = node.hide(opening.agreed, opening.key, codec)
    begun = time.perf_counter()
    aggregator.receive(message)
    collected.messages[node.id] = message
    collected.aggregator_seconds += time.perf_counter() - begun


def collect_answers(
    nodes: Sequence[ClientNode],
    opening: Opening,
    challenge: bytes,
    codecs: Mapping[str, Codec],
    messages: Mapping[str, bytes],
) -> dict[str, bytes]:
    """Let every contributor answer the key holder's challenge.

    Args:
        nodes: the cohort.
        opening: of the round.
        challenge: signed by the key holder.
        codecs: per client, how its update was hidden.
        messages: what each contributor sent.
    """
    answers = {}
    for node in nodes:
        if node.id not in messages:
            continue
        with told_in([node.log], f"round {opening.terms.round}: did not answer the key holder"):
            sent = messages[node.id]
            answers[node.id] = node.answer(opening.terms, challenge, sent, codecs[node.id])
    return answers
