"""One round of the protocol, from the opening to the mean of the updates.

The key holder, where there is one, hands out a key; every client trains, commits and hides its
update; the aggregator adds what it cannot read; whoever holds the key verifies and decrypts one
sum; a client reads the result. All that passes between parties is signed bytes.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from accountants import Anchor
from privfed.engines.inprocess import collect_answers, collect_updates
from privfed.engines.stacked import collect_stacked
from privfed.engines.wiring import SumChannel
from privfed.errors import AwayError
from privfed.parties.aggregator.collecting import Aggregator
from privfed.parties.aggregator.openers import Opening
from privfed.parties.client.node import ClientNode, Codec
from privfed.protocol.terms import RoundPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a round released, and what it cost.

    Attributes:
        mean_update: weighted mean of the contributors' updates, shape (params,).
        contributors: names, sorted.
        bytes_up: from clients to the aggregator: accepted updates and answers to challenges.
        bytes_down: from the aggregator to all clients of the cohort.
        bytes_holder: between aggregator and key holder, both ways; 0 without one.
        aggregator_seconds: that the aggregator took to check and add.
        opening_seconds: from the sum to the numbers that a client reads, key holder and answers to
            its challenge included.
    """

    mean_update: NDArray[np.float64]
    contributors: tuple[str, ...]
    bytes_up: int
    bytes_down: int
    bytes_holder: int
    aggregator_seconds: float
    opening_seconds: float


def play(
    channel: SumChannel,
    nodes: Sequence[ClientNode],
    plan: RoundPlan,
    state: NDArray[np.float32],
    *,
    public_range: float,
    anchors: Mapping[str, Anchor],
    on_client: Callable[[str], None],
    stacked_clients: int,
) -> Outcome:
    """Play one round with all clients in this process.

    Args:
        channel: how updates are summed.
        nodes: the cohort.
        plan: of the round.
        state: global adapter, shape (params,).
        public_range: to which updates are clipped.
        anchors: the last known anchor of every client's ledger.
        on_client: called when a client is done.
        stacked_clients: how many clients train in one pass; 1 trains one after the other.

    Raises:
        TooFewClientsError: with fewer contributions than `min_clients`.
        AwayError: if a contributor stays away before the sum is opened.
        SpoiledSumError: if the sum is not that of its contributions.
        EncryptionError: if the key holder cannot go on.
    """
    before = channel.sums_of(plan.round)
    opening = channel.custodian.begin(channel.terms(plan, public_range))
    encoding = channel.encoding(public_range)
    codecs = {node.id: channel.codec(node.id, encoding) for node in nodes}
    if opening.result is not None:
        return _read(channel, codecs, opening, opening.result, _Costs(), time.perf_counter())
    aggregator = Aggregator(
        identity=channel.parties.aggregator,
        roster=channel.parties.roster,
        terms=opening.terms,
        cohort=list(codecs),
        anchors=anchors,
        adder=channel.new_adder(),
        min_clients=channel.public.min_clients,
    )
    # Clients that agreed to a sum before a crash agree to no other: its contributors must be back.
    cohort = [node for node in nodes if all(node.id in names for names in before)]
    one_by_one = stacked_clients == 1
    collect = collect_updates if one_by_one else partial(collect_stacked, size=stacked_clients)
    collected = collect(cohort, plan, opening, state, codecs, aggregator, on_client)
    _require_back(before, collected.messages, plan)
    begun = time.perf_counter()
    total = aggregator.total()
    costs = _Costs(
        bytes_up=aggregator.bytes_up,
        bytes_down=len(opening.key or b"") * len(nodes),
        aggregator_seconds=collected.aggregator_seconds + time.perf_counter() - begun,
    )

    def ask(challenge: bytes) -> dict[str, bytes]:
        answers = collect_answers(nodes, opening, challenge, codecs, collected.messages)
        costs.bytes_down += len(challenge) * len(answers)
        costs.bytes_up += sum(map(len, answers.values()))
        return answers

    begun = time.perf_counter()
    message = channel.custodian.close(opening.terms, total, ask)
    costs.bytes_holder = channel.custodian.bytes_asked
    return _read(channel, codecs, opening, message, costs, begun)


def _require_back(before: set[tuple[str, ...]], sent: Collection[str], plan: RoundPlan) -> None:
    if missing := sorted({name for names in before for name in names}.difference(sent)):
        raise AwayError(
            f"round {plan.round} was agreed to before as a sum with {', '.join(missing)}, whose "
            "update did not come again; a sum without would show what it sent",
            missing,
        )


@dataclass(slots=True)
class _Costs:
    """What is counted while a round goes on."""

    bytes_up: int = 0
    bytes_down: int = 0
    bytes_holder: int = 0
    aggregator_seconds: float = 0.0


def _read(
    channel: SumChannel,
    codecs: Mapping[str, Codec],
    opening: Opening,
    message: bytes,
    costs: _Costs,
    begun: float,
) -> Outcome:
    """What a client reads in the message that ends the round.

    All clients get the same message and would read the same; here the first one reads it.
    """
    codec = next(iter(codecs.values()))
    opened = codec.cipher.open(opening.terms, message)
    total = codec.encoding.decode(opened.values)
    return Outcome(
        mean_update=channel.mean_update(total, opened.contributors),
        contributors=opened.contributors,
        bytes_up=costs.bytes_up,
        bytes_down=costs.bytes_down + len(message) * len(codecs),
        bytes_holder=costs.bytes_holder,
        aggregator_seconds=costs.aggregator_seconds,
        opening_seconds=time.perf_counter() - begun,
    )
