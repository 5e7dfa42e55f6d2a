"""One round, as the aggregator drives it: bytes to every client, and what came back.

The key holder, where there is one, hands out a key; every client trains, commits and encrypts its
update; the aggregator adds what it cannot read; whoever holds the key verifies and decrypts one
sum; every client opens the result, moves on, and states what it came to.
"""

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from accountants import Anchor, InvalidValueError, anchor_from_json
from privfed.errors import (
    AwayError,
    EncryptionError,
    MessageError,
    ModelError,
    SpoiledSumError,
)
from privfed.parties.aggregator.collecting import Aggregator
from privfed.parties.aggregator.openers import Opening
from privfed.parties.aggregator.stated import (
    SHOWN,
    Exchange,
    is_number,
    most_alike,
    signed_by,
)
from privfed.parties.aggregator.summing import Summing
from privfed.protocol.envelopes import Envelope, statement_of
from privfed.protocol.kinds import (
    ABANDON,
    ABANDONED,
    ABSENT,
    CONTRIBUTORS,
    EPSILON,
    FIGURES,
    LEDGER,
    METRIC_VALUE,
    MISSING,
    NEXT_BASE,
    NEXT_RANGE,
    NO_RUN,
    NOTE,
    OPENED,
    REASON,
    RELEASED,
    ROUND_KEY,
    SIGNAL_TO_NOISE,
    TRAIN,
)
from privfed.protocol.signing import (
    exact_values,
    refused,
    require_terms,
    signed_message,
)
from privfed.protocol.terms import RoundPlan
from privfed.reports.round_record import are_figures

_COMMON: Final = (NEXT_BASE, RELEASED, NEXT_RANGE)
"""What clients that opened the same sum state alike; real numbers depend on how each computes."""
_LONGEST_NOTE: Final = 1000
_ERRORS: Final = {kind.__name__: kind for kind in (EncryptionError, MessageError, SpoiledSumError)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What a round released, as a quorum of clients stated it, and what it cost.

    Attributes:
        round: counted from 1.
        contributors: names, sorted.
        opened: clients that opened the sum and came to the same, sorted.
        base: SHA-256 (hex) of the adapter that they came to.
        released: SHA-256 (hex) of the adapter that the run leaves if it ends here.
        public_range: of the next round.
        metric: of the adapter on held-out text: the median of what they stated.
        signal_to_noise: of the released mean: the median of what they stated; None if no more than
            half of them know it.
        figures: what the method shows of the released state: of each name that more than half of
            them state the median.
        note: what the released mean shows to be wrong with the public range, or None.
        epsilon: what each client that opened the sum stated to have spent; only its ledger proves
            it.
        anchors: of their ledgers, as stated.
        statements: their signed messages, of `opened`.
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
    released: str
    public_range: float
    metric_value: float
    signal_to_noise: float | None
    figures: Mapping[str, float]
    note: str | None
    epsilon: Mapping[str, float]
    anchors: Mapping[str, Anchor]
    statements: Mapping[str, bytes]
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
        drawn: who of them trains in the round.
        anchors: the last known anchor of every client's ledger.
        before: contributors of sums of this round that clients agreed to before a crash.
        on_refused: told of an update that is not accepted, and why.
        on_listed: told of the contributors before a client agrees to their sum, or opens it.
    """

    summing: Summing
    exchange: Exchange
    plan: RoundPlan
    public_range: float
    clients: Sequence[str]
    drawn: Sequence[str]
    anchors: Mapping[str, Anchor]
    before: Collection[tuple[str, ...]]
    on_refused: Callable[[str, MessageError], None]
    on_listed: Callable[[tuple[str, ...]], None]
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
        unkeyed = self.summing.terms(self.plan, self.public_range)
        opening = self.summing.opener.begin(unkeyed)
        if opening.result is not None:
            names = statement_of(opening.result).manifest[CONTRIBUTORS]
            if not isinstance(names, list):
                raise MessageError("a result must list its contributors")
            return self._released(opening.result, names, time.perf_counter())
        collecting = self._collect(opening)
        total = self._sum(collecting, opening)
        self.on_listed(tuple(collecting.contributors))
        begun = time.perf_counter()
        ask = partial(self._ask, collecting.contributors)
        message = self.summing.opener.close(opening.terms, total, ask)
        self.costs.bytes_holder = self.summing.opener.bytes_asked
        return self._released(message, collecting.contributors, begun)

    def _collect(self, opening: Opening) -> Aggregator:
        """Add every update that comes."""
        collecting = Aggregator(
            identity=self.summing.identity,
            roster=self.summing.roster,
            terms=opening.terms,
            cohort=self.drawn,
            anchors=self.anchors,
            adder=self.summing.scheme.new_adder(),
            min_clients=self.summing.min_clients,
        )
        blobs = {} if opening.key is None else {ROUND_KEY: opening.key}
        train = signed_message(self.summing.identity, opening.unkeyed, TRAIN, blobs=blobs)
        # Clients that agreed to a sum before a crash agree to no other: nobody else may join it.
        asked = [name for name in self.drawn if all(name in names for names in self.before)]
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
        self.costs.bytes_down = len(opening.key or b"") * len(self.drawn)
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

    def _released(self, message: bytes, contributors: Sequence[str], begun: float) -> Released:
        """What a quorum of the clients came to; they all get the message that ends the round."""
        self.on_listed(tuple(contributors))
        replies = self.exchange(dict.fromkeys(self.clients, message))
        stated = self._stated(message, contributors, replies)
        opened = most_alike(stated, _COMMON)
        if len(opened) < self.summing.min_clients or 2 * len(opened) <= len(stated):
            # Nobody is named as missing: all had agreed, so that all must record it if it is over.
            raise AwayError(
                f"round {self.plan.round} was opened by {len(opened)} client(s) that came to the "
                f"same adapter, at least {self.summing.min_clients} and more than half must"
            )
        common = stated[opened[0]]
        metric_value = _median([stated[name][METRIC_VALUE] for name in opened])
        if metric_value is None:
            raise ModelError(
                f"the adapter diverged in round {self.plan.round}: its metric on held-out text is "
                "not finite; choose a lower learning rate"
            )
        return Released(
            round=self.plan.round,
            contributors=tuple(contributors),
            opened=tuple(opened),
            base=common[NEXT_BASE],
            released=common[RELEASED],
            public_range=common[NEXT_RANGE],
            metric_value=metric_value,
            signal_to_noise=_median([stated[name][SIGNAL_TO_NOISE] for name in opened]),
            figures=_figures([stated[name][FIGURES] for name in opened]),
            note=_note([stated[name][NOTE] for name in opened]),
            epsilon={name: one[EPSILON] for name, one in stated.items()},
            anchors={name: anchor_from_json(one[LEDGER]) for name, one in stated.items()},
            statements={name: replies[name] for name in opened},
            bytes_up=self.costs.bytes_up,
            bytes_down=self.costs.bytes_down + len(message) * len(self.clients),
            bytes_holder=self.costs.bytes_holder,
            aggregator_seconds=self.costs.aggregator_seconds,
            opening_seconds=time.perf_counter() - begun,
        )

    def _stated(
        self, message: bytes, contributors: Sequence[str], replies: Mapping[str, bytes]
    ) -> dict[str, Mapping[str, Any]]:
        """What each client states that opened the sum.

        Raises:
            SpoiledSumError, EncryptionError, MessageError: what at least `min_clients` refused it
                for.
        """
        stated: dict[str, Mapping[str, Any]] = {}
        reasons: dict[str, list[str]] = {}
        for name, reply in replies.items():
            with suppress(MessageError):  # what came instead is no matter, as if nothing had come
                envelope = signed_by(self.summing.roster, name, reply)
                reason = refused(envelope, message)
                if reason is None:
                    stated[name] = self._opened(envelope, contributors)
                    continue
                kind, _, text = reason.partition(": ")
                reasons.setdefault(kind, []).append(f"{name}: {ascii(text[:SHOWN])[1:-1]}")
        for kind, texts in reasons.items():
            if len(texts) >= self.summing.min_clients:
                raise _ERRORS.get(kind, EncryptionError)(texts[0])
        return stated

    def _opened(self, envelope: Envelope, contributors: Sequence[str]) -> Mapping[str, Any]:
        terms, sender = self.summing.terms_of_run(self.plan.round), envelope.statement.sender
        require_terms(envelope.statement, kind=OPENED, terms=terms)
        states = {*_COMMON, CONTRIBUTORS, METRIC_VALUE, SIGNAL_TO_NOISE, FIGURES, NOTE}
        states |= {EPSILON, LEDGER}
        stated = exact_values(envelope, terms, states=states)
        if stated[CONTRIBUTORS] != list(contributors):
            raise MessageError(f"{sender!r} must have opened the sum that was sent")
        if not is_number(stated[EPSILON]) or not is_number(stated[NEXT_RANGE], above=0):
            raise MessageError(f"{sender!r} must state finite numbers, 0 or above")
        metric_value, ratio, note = (stated[of] for of in (METRIC_VALUE, SIGNAL_TO_NOISE, NOTE))
        if metric_value is not None and not is_number(metric_value, above=-math.inf):
            raise MessageError(f"{sender!r} must state its metric as a number")
        if ratio is not None and not is_number(ratio):
            raise MessageError(f"{sender!r} must state signal to noise as a number, 0 or above")
        if not are_figures(stated[FIGURES]):
            raise MessageError(f"{sender!r} must state figures as numbers, 0 or above, by names")
        texts = (stated[NEXT_BASE], stated[RELEASED])
        if not all(isinstance(text, str) for text in texts) or not isinstance(note, str | None):
            raise MessageError(f"{sender!r} must state texts as texts")
        try:
            anchor_from_json(stated[LEDGER])
        except InvalidValueError as error:
            raise MessageError(f"{sender!r} states no anchor of its ledger: {error}") from error
        return stated


def _median(stated: Sequence[float | None]) -> float | None:
    """The lower median of the numbers that are stated, if more than half of the clients have one.

    Numbers may differ: each client computes for itself, on a processor of its own.
    """
    values = [value for value in stated if value is not None]
    return statistics.median_low(values) if 2 * len(values) > len(stated) else None


def _figures(stated: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By name the lower median, of what more than half of the clients state."""
    names = sorted({name for figures in stated for name in figures})
    medians = {name: _median([figures.get(name) for figures in stated]) for name in names}
    return {name: value for name, value in medians.items() if value is not None}


def _note(notes: Sequence[str | None]) -> str | None:
    """The note that more than half of the clients state alike, if it is one that may be shown."""
    note, count = Counter(notes).most_common(1)[0]
    if note is None or 2 * count <= len(notes):
        return None
    return note if note.isprintable() and len(note) <= _LONGEST_NOTE else None


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
        if name in missing or name not in replies:  # who died meanwhile is not waited for either
            continue
        try:
            envelope = signed_by(summing.roster, name, replies[name])
            reason_not = refused(envelope, message)
            if reason_not is not None and reason_not.endswith(NO_RUN):
                continue
            if reason_not is not None:
                raise MessageError(ascii(reason_not[:SHOWN]))
            require_terms(envelope.statement, kind=ABANDONED, terms=terms)
            exact_values(envelope, terms, states=())
        except MessageError as error:
            raise EncryptionError(
                f"{name!r} does not say that it gave up round {round_number}: {error}"
            ) from error


def _says_absent(reply: bytes) -> bool:
    try:
        return statement_of(reply).kind == ABSENT
    except MessageError:
        return False  # whoever reads it says what is wrong with it
