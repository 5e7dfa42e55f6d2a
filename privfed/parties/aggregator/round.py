"""One round, as the aggregator drives it: bytes to every client, and what came back.

The key holder, where there is one, hands out a key; every client trains, commits and hides its
update; the aggregator adds what it cannot read; whoever holds the key verifies and decrypts one
sum; every client opens the result, moves on, and states what it came to.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from accountants import Anchor
from privfed.canonical import canonical_json
from privfed.errors import AwayError, EncryptionError, MessageError, SpoiledSumError
from privfed.identity.keys import Role
from privfed.parties.aggregator.collecting import Aggregator
from privfed.parties.aggregator.openers import Opening
from privfed.parties.aggregator.summing import Summing
from privfed.protocol.envelopes import Envelope, statement_of
from privfed.protocol.kinds import (
    ABANDON,
    ABANDONED,
    ABSENT,
    CONTRIBUTORS,
    EPSILON,
    FIGURE,
    LEDGER,
    MISSING,
    NEXT_BASE,
    NEXT_RANGE,
    NOTE,
    OPENED,
    REASON,
    ROUND_KEY,
    TRAIN,
)
from privfed.protocol.signing import (
    exact_values,
    refused,
    require_signature,
    require_terms,
    signed_message,
)
from privfed.protocol.terms import RoundPlan

Exchange = Callable[[Mapping[str, bytes]], Mapping[str, bytes]]
"""Carries one message to each client, and the replies of those who answered."""

_COMMON: Final = (CONTRIBUTORS, NEXT_BASE, NEXT_RANGE, FIGURE, NOTE)
"""What clients that opened the same sum state alike."""
_ERRORS: Final = {kind.__name__: kind for kind in (EncryptionError, MessageError, SpoiledSumError)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What a round released, as a quorum of clients stated it, and what it cost.

    Attributes:
        round: counted from 1.
        contributors: names, sorted.
        opened: clients that opened the sum and came to the same, sorted.
        base: SHA-256 (hex) of the adapter that they came to.
        public_range: of the next round.
        figure: of the adapter on held-out text.
        note: what the released mean shows to be wrong with the public range, or None.
        epsilon: what each of them stated to have spent.
        bytes_up: from clients to the aggregator: accepted updates and answers.
        bytes_down: from the aggregator to all clients: keys, questions, what ends the round.
        bytes_holder: between aggregator and key holder, both ways; 0 without one.
        aggregator_seconds: that the aggregator took to check and add.
        opening_seconds: from the sum to the clients' statements.
    """

    round: int
    contributors: tuple[str, ...]
    opened: tuple[str, ...]
    base: str
    public_range: float
    figure: float
    note: str | None
    epsilon: Mapping[str, float]
    bytes_up: int
    bytes_down: int
    bytes_holder: int
    aggregator_seconds: float
    opening_seconds: float


@dataclass(slots=True, kw_only=True)
class _Costs:
    """What is counted while a round goes on."""

    bytes_up: int = 0
    bytes_down: int = 0
    bytes_holder: int = 0
    aggregator_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorRound:
    """One round.

    Attributes:
        summing: how updates are summed.
        exchange: reaches the clients.
        plan: of the round.
        public_range: to which updates are clipped.
        clients: who takes part in the run.
        anchors: the last known anchor of every client's ledger.
        before: contributors of sums of this round that clients agreed to before a crash.
        on_refused: told of an update that is not accepted, and why.
    """

    summing: Summing
    exchange: Exchange
    plan: RoundPlan
    public_range: float
    clients: Sequence[str]
    anchors: Mapping[str, Anchor]
    before: Collection[tuple[str, ...]]
    on_refused: Callable[[str, MessageError], None]
    costs: _Costs = field(default_factory=_Costs)

    def play(self) -> Released:
        """Play the round.

        Raises:
            TooFewClientsError: with fewer contributions than `min_clients`.
            AwayError: if a contributor stays away before the sum is opened, or fewer than
                `min_clients` clients opened it.
            SpoiledSumError: if the sum is not that of its contributions.
            EncryptionError: if the key holder or the clients cannot go on.
        """
        agreed = self.summing.terms(self.plan, self.public_range)
        opening = self.summing.opener.begin(agreed)
        if opening.result is not None:
            return self._released(opening.result, time.perf_counter())
        collecting = self._collect(opening)
        total = self._sum(collecting, opening)
        begun = time.perf_counter()
        ask = partial(self._ask, collecting.contributors)
        message = self.summing.opener.close(opening.terms, total, ask)
        self.costs.bytes_holder = self.summing.opener.bytes_asked
        return self._released(message, begun)

    def _collect(self, opening: Opening) -> Aggregator:
        """Add every update that comes."""
        collecting = Aggregator(
            identity=self.summing.identity,
            roster=self.summing.roster,
            terms=opening.terms,
            cohort=self.clients,
            anchors=self.anchors,
            adder=self.summing.scheme.new_adder(),
            min_clients=self.summing.min_clients,
        )
        blobs = {} if opening.key is None else {ROUND_KEY: opening.key}
        train = signed_message(self.summing.identity, opening.agreed, TRAIN, blobs=blobs)
        # Clients that agreed to a sum before a crash agree to no other: nobody else may join it.
        asked = [name for name in self.clients if all(name in names for names in self.before)]
        replies = self.exchange(dict.fromkeys(asked, train))
        begun = time.perf_counter()
        for name in asked:
            if name in replies and not _says_absent(replies[name]):
                self._receive(collecting, name, replies[name])
        self.costs.aggregator_seconds = time.perf_counter() - begun
        return collecting

    def _sum(self, collecting: Aggregator, opening: Opening) -> bytes:
        """The sum, as a message to whoever opens it."""
        self._require_back(collecting.contributors)
        begun = time.perf_counter()
        total = collecting.total()
        self.costs.bytes_up = collecting.bytes_up
        self.costs.bytes_down = len(opening.key or b"") * len(self.clients)
        self.costs.aggregator_seconds += time.perf_counter() - begun
        return total

    def _receive(self, collecting: Aggregator, name: str, reply: bytes) -> None:
        try:
            collecting.receive(reply)
        except MessageError as error:
            self.on_refused(name, error)

    def _require_back(self, sent: Collection[str]) -> None:
        missing = sorted({name for names in self.before for name in names}.difference(sent))
        if missing:
            raise AwayError(
                f"round {self.plan.round} was agreed to before as a sum with "
                f"{', '.join(missing)}, whose update did not come again; a sum without would show "
                "what it sent",
                missing,
            )

    def _ask(self, contributors: Sequence[str], question: bytes) -> Mapping[str, bytes]:
        answers = self.exchange(dict.fromkeys(contributors, question))
        answers = {name: one for name, one in answers.items() if not _says_absent(one)}
        self.costs.bytes_down += len(question) * len(answers)
        self.costs.bytes_up += sum(map(len, answers.values()))
        return answers

    def _released(self, message: bytes, begun: float) -> Released:
        """What a quorum of the clients came to; they all get the message that ends the round."""
        replies = self.exchange(dict.fromkeys(self.clients, message))
        stated = self._stated(message, replies)
        opened = _quorum(stated)
        if len(opened) < self.summing.min_clients:
            raise AwayError(
                f"round {self.plan.round} was opened by {len(opened)} client(s) that came to the "
                f"same adapter, at least {self.summing.min_clients} must",
                sorted(set(self.clients).difference(opened)),
            )
        common = stated[opened[0]]
        return Released(
            round=self.plan.round,
            contributors=tuple(common[CONTRIBUTORS]),
            opened=tuple(opened),
            base=common[NEXT_BASE],
            public_range=common[NEXT_RANGE],
            figure=common[FIGURE],
            note=common[NOTE],
            epsilon={name: stated[name][EPSILON] for name in opened},
            bytes_up=self.costs.bytes_up,
            bytes_down=self.costs.bytes_down + len(message) * len(self.clients),
            bytes_holder=self.costs.bytes_holder,
            aggregator_seconds=self.costs.aggregator_seconds,
            opening_seconds=time.perf_counter() - begun,
        )

    def _stated(self, message: bytes, replies: Mapping[str, bytes]) -> dict[str, Mapping[str, Any]]:
        """What each client states that opened the sum.

        Raises:
            SpoiledSumError, EncryptionError, MessageError: what a client refused it for, if fewer
                than `min_clients` opened it.
        """
        stated, reasons = {}, []
        for name, reply in replies.items():
            with suppress(MessageError):  # what came instead is no matter, as if nothing had come
                envelope = self._signed_by(name, reply)
                reason = refused(envelope, message)
                if reason is not None:
                    reasons.append(reason)
                else:
                    stated[name] = self._opened(envelope)
        if len(stated) < self.summing.min_clients and reasons:
            kind, _, text = reasons[0].partition(": ")
            raise _ERRORS.get(kind, EncryptionError)(text)
        return stated

    def _signed_by(self, name: str, reply: bytes) -> Envelope:
        envelope = Envelope.from_bytes(reply)
        statement, roster = envelope.statement, self.summing.roster
        require_signature(statement, envelope.signature, roster, role=Role.CLIENT)
        if statement.sender != name:
            raise MessageError(f"what came for {name!r} was sent by another")
        return envelope

    def _opened(self, envelope: Envelope) -> Mapping[str, Any]:
        terms = self.summing.terms_of_run(self.plan.round)
        require_terms(envelope.statement, kind=OPENED, terms=terms)
        stated = exact_values(envelope, terms, states={*_COMMON, EPSILON, LEDGER})
        numbers = (stated[EPSILON], stated[NEXT_RANGE], stated[FIGURE])
        if not all(isinstance(number, int | float) for number in numbers):
            raise MessageError(f"{envelope.statement.sender!r} must state numbers")
        return stated


def abandon(
    summing: Summing,
    exchange: Exchange,
    clients: Collection[str],
    *,
    round_number: int,
    reason: str,
    missing: Sequence[str],
) -> None:
    """Let clients record that they are done with a round.

    Who is missing is not waited for: the others' records suffice, since a sum is opened only with
    the agreement, or the answer, of all its contributors.

    Args:
        summing: how updates are summed.
        exchange: reaches the clients.
        clients: of the run.
        round_number: of the round.
        reason: in public words.
        missing: clients that the round lacked.

    Raises:
        EncryptionError: if one of the others does not say so; then the round is not abandoned.
    """
    terms = summing.terms_of_run(round_number)
    about = {REASON: reason, MISSING: list(missing)}
    message = signed_message(summing.identity, terms, ABANDON, manifest=about)
    replies = exchange(dict.fromkeys(clients, message))
    for name in clients:
        if name in missing:
            continue
        if name not in replies:
            raise EncryptionError(f"{name!r} does not say that it gave up round {round_number}")
        envelope = Envelope.from_bytes(replies[name])
        require_signature(envelope.statement, envelope.signature, summing.roster, role=Role.CLIENT)
        reason_not = refused(envelope, message)
        if reason_not is not None:
            raise EncryptionError(f"{name!r} cannot give up round {round_number}: {reason_not}")
        require_terms(envelope.statement, kind=ABANDONED, terms=terms)


def _quorum(stated: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Who came to what most clients came to, sorted."""
    alike: dict[bytes, list[str]] = {}
    for name in sorted(stated):
        common = canonical_json([stated[name][key] for key in _COMMON])
        alike.setdefault(common, []).append(name)
    return max(alike.values(), key=len, default=[])


def _says_absent(reply: bytes) -> bool:
    return statement_of(reply).kind == ABSENT
