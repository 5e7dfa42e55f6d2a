"""All clients in this process, one after the other. A simulation: nothing crosses a network.

An engine only moves envelopes. A client that fails drops out of the round; the others, and
whoever reads the report, learn that it did not take part and nothing else.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from privfed.client.node import ClientNode, Codec
from privfed.messages import RoundPlan
from privfed.server.aggregate import Aggregator


def collect_updates(
    nodes: Sequence[ClientNode],
    plan: RoundPlan,
    state: NDArray[np.float32],
    codecs: Mapping[str, Codec],
    aggregator: Aggregator,
    on_client: Callable[[str], None],
) -> None:
    """Let every client train the round and hand its message to the aggregator.

    Args:
        nodes: the cohort.
        plan: of the round.
        state: global adapter, shape (params,).
        codecs: per client, how its update is hidden.
        aggregator: receives bytes.
        on_client: called with the id of each client when it is done, taking part or not.
    """
    for node in nodes:
        try:
            aggregator.receive(node.take_part(plan, state, codecs[node.id]))
        except Exception:
            node.log.exception("round %d: did not take part", plan.round)
        on_client(node.id)
