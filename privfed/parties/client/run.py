"""One client's program of a run: bytes in, bytes out.

It says nothing of its data but DP updates: whoever fails to train says `absent`, and why is in its
own log. What it refuses about public messages (a sum, a list) it may give reasons for.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from accountants import Reservation
from privfed.encryption.parameters import MAX_CLIENTS
from privfed.errors import (
    ConfigError,
    EncryptionError,
    IdentityError,
    MessageError,
    PrivfedError,
    SpoiledSumError,
)
from privfed.identity.keys import Role
from privfed.identity.names import check_name
from privfed.identity.roster import Roster
from privfed.methods.method import Kept, Start, Trained, released_digest, started
from privfed.parties.client.node import ClientNode
from privfed.parties.client.round import Moved, Progress, Transition
from privfed.parties.client.upload import Codec, Upload
from privfed.protocol.envelopes import Statement, statement_of
from privfed.protocol.kinds import (
    ABANDON,
    ABANDONED,
    ABSENT,
    CHALLENGE,
    CONTRIBUTORS,
    EPSILON,
    FIGURES,
    LEDGER,
    LISTING,
    METRIC_VALUE,
    MISSING,
    NEXT_BASE,
    NEXT_RANGE,
    NOTE,
    OPENED,
    REASON,
    RELEASED,
    RESULT,
    SIGNAL_TO_NOISE,
    SUM,
    TRAIN,
)
from privfed.protocol.signing import exact_values, refusal, signed_message, verified
from privfed.protocol.terms import RoundPlan, Terms
from privfed.reports.round_record import Reason
from privfed.storage.own_log import told_in

T = TypeVar("T")

_PUBLIC: Final = (ConfigError, EncryptionError, IdentityError, MessageError)
"""Errors about public messages and settings; what others say may be about a client's data."""


class Once(Protocol):
    """Work that equal bytes determine; clients that share a process may share it."""

    def __call__(self, message: bytes, compute: Callable[[], T]) -> T:
        """What `compute` returns, or returned for this message before."""
        ...


def each_time(message: bytes, compute: Callable[[], T]) -> T:
    """Of a client that has a process of its own."""
    del message
    return compute()


def why_given_up(stated: Mapping[str, object]) -> dict[str, Any]:
    """What is kept of a round that is given up: a known sentence, and names.

    Raises:
        MessageError, IdentityError: if an aggregator states anything else.
    """
    reason, missing = stated[REASON], stated[MISSING]
    if not isinstance(reason, str) or reason not in set(Reason):
        raise MessageError("why a round is given up must be one of the sentences for it")
    if not isinstance(missing, list) or len(missing) > MAX_CLIENTS:
        raise MessageError(f"who is missing must be a list of at most {MAX_CLIENTS} clients")
    for name in missing:
        check_name(name, "a client that is missing")
    if missing != sorted(set(missing)):
        raise MessageError("clients that are missing must be sorted, and none come twice")
    return {"reason": reason, "missing": missing}


def shown(error: Exception) -> str:
    """What a client says of an error: its kind, and why unless that may be about its own data."""
    about = str(error)
    if error.__cause__ is not None or not isinstance(error, _PUBLIC):
        about = "see the client's log"  # of its disk, say, or its ledger
    elif isinstance(error, SpoiledSumError):
        about = "the sum is not that of its contributions"  # and nothing of what it decrypts to
    return f"{type(error).__name__}: {about}"


@lru_cache(maxsize=1)
def stated_in(message: bytes) -> Statement:
    """What a message states; clients of one process are handed the same one after another."""
    return statement_of(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """The round that this client takes part in, or follows.

    Attributes:
        plan: of the round.
        terms: of the round, with the name of its key.
        sent: the update that this client sent; None if it sent none.
    """

    plan: RoundPlan
    terms: Terms
    sent: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A round that is reserved and not trained yet.

    Attributes:
        current: the round.
        reservation: of its budget.
        kept: state of the client before it; None if it keeps none.
    """

    current: Current
    reservation: Reservation
    kept: Kept | None


class ClientRun:
    """A client in one run.

    Args:
        node: trains, with the client's ledger.
        upload: its side of the sum.
        rules: how it moves on.
        progress: how far it has come.
        roster: who is enrolled.
        keep: makes durable how far it has come, before it is said.
        before: how far it had come before its last round, if it may have to go back.
        once: shares work with other clients of this process.
    """

    def __init__(
        self,
        *,
        node: ClientNode,
        upload: Upload,
        rules: Transition,
        progress: Progress,
        roster: Roster,
        keep: Callable[[Progress], None],
        before: Progress | None = None,
        once: Once = each_time,
    ) -> None:
        self.node = node
        self.upload = upload
        self.progress = progress
        self.before = before
        self._keep = keep
        self._transition = rules
        self._roster = roster
        self._once = once
        self._current: Current | None = None
        self._answers: Mapping[str, Callable[[bytes], bytes]] = {
            TRAIN: self._train,
            LISTING: self._answer,
            CHALLENGE: self._answer,
            SUM: self._open,
            RESULT: self._open,
            ABANDON: self._give_up,
        }

    def handle(self, message: bytes) -> bytes:
        """Answer one message.

        Returns:
            For `train` an update or `absent`; for a list or challenge the answer, or `absent`; for
            what ends a round `opened`; for `abandon` `abandoned`. Anything else is refused.
        """
        try:
            kind = stated_in(message).kind
            if kind not in self._answers:
                raise MessageError(f"a client cannot answer a {kind!r:.100}")
        except MessageError as error:
            return self._refusal(message, error)
        return self._answers[kind](message)

    def begin(self, message: bytes) -> Waiting | bytes:
        """Reserve the round of a `train` message.

        Returns:
            What `finish` takes; or the reply, where nothing needs to be trained (any more).
        """
        begun: Waiting | bytes | None = None
        with self._told(self.progress.round + 1):
            current = self._of_train(message)
            self._current = current
            reservation = self.node.reserve(current.plan)
            if reservation is None:
                begun = self._encrypted(current)
            else:
                kept = self.node.kept(current.plan.run)
                begun = Waiting(current=current, reservation=reservation, kept=kept)
        return begun or self.absent()

    def finish(self, waiting: Waiting, update: NDArray[np.float64]) -> bytes:
        """The reply to a `train` message.

        Args:
            waiting: from `begin`.
            update: trained parameters minus those of `start`, shape (params,).
        """
        reply = None
        with self._told(waiting.current.plan.round):
            state = self.progress.state
            trained = Trained(received=state, delta=update, kept=waiting.kept)
            number = waiting.current.plan.round
            method, round_ = self._transition.method, self._transition.round(number)
            codec = self._codec(number)
            vectors = method.local(trained, self.node.id, round_)
            numbers = self.node.numbers(vectors, codec)
            kept = method.keeps(trained, codec.sent(numbers), self.node.id, round_)
            self.node.commit(waiting.reservation, numbers, kept)
            reply = self._encrypted(waiting.current)
        return reply or self.absent()

    def start(self, waiting: Waiting) -> Start:
        """With what the private steps of a round that is reserved begin."""
        method, round_ = self._transition.method, self._transition.round(waiting.current.plan.round)
        return started(method, self.progress.state, waiting.kept, self.node.id, round_)

    def absent(self) -> bytes:
        """The fixed words of a client that does not take part; they say nothing of why."""
        return self._signed(self.upload.terms_of_run(self.progress.round + 1), ABSENT, {})

    def _train(self, message: bytes) -> bytes:
        waiting = self.begin(message)
        if isinstance(waiting, bytes):
            return waiting
        update = None
        with self._told(waiting.current.plan.round):
            update = self.node.update(
                waiting.current.plan, self.progress.state, self.start(waiting)
            )
        return self.absent() if update is None else self.finish(waiting, update)

    def _of_train(self, message: bytes) -> Current:
        """Rounds that were given up in between changed nothing, so that none need be missed."""
        number = stated_in(message).round
        if not self.progress.round < number <= self.node.rounds:
            raise MessageError(
                f"this client has come to the end of round {self.progress.round} of "
                f"{self.node.rounds}, and is asked for round {number}"
            )
        if self.node.id not in self._transition.participation.of(number):
            raise MessageError(f"this client does not train in round {number}")
        plan, unkeyed = self._plan(number)
        envelope = verified(message, self._roster, role=Role.AGGREGATOR, kind=TRAIN, terms=unkeyed)
        exact_values(envelope, unkeyed, states=(), blobs=list(envelope.blobs))
        terms = self.upload.named(unkeyed, envelope.blobs)
        self.progress = replace(self.progress, round=number - 1)
        return Current(plan=plan, terms=terms)

    def _plan(self, number: int) -> tuple[RoundPlan, Terms]:
        """A round that starts from this client's state, and its terms before it has a key."""
        plan = RoundPlan(run=self.upload.run, round=number, base_digest=self.progress.base)
        return plan, self.upload.terms(plan, self.progress.public_range)

    def _encrypted(self, current: Current) -> bytes:
        sent = self.node.encrypt(current.terms, self._codec(current.plan.round))
        self._current = replace(current, sent=sent)
        return sent

    def _codec(self, number: int) -> Codec:
        uploads = self._transition.uploads(number)
        return self.upload.codec(self.progress.public_range, uploads)

    def _answer(self, message: bytes) -> bytes:
        number, reply = self.progress.round + 1, None
        with told_in([self.node.log], f"round {number}: did not answer what was asked"):
            current = self._followed()
            if current.sent is None:
                raise MessageError("this client sent no update in this round")
            codec = self._codec(current.plan.round)
            reply = self.node.answer(current.terms, message, current.sent, codec)
        return reply or self.absent()

    def _open(self, message: bytes) -> bytes:
        number, reply = self.progress.round + 1, None
        refused: PrivfedError | None = None
        with told_in([self.node.log], f"round {number}: the sum could not be opened"):
            try:
                reply = self._opened(message)
            except (MessageError, EncryptionError) as error:
                refused = error
        if refused is not None:
            return self._refusal(message, refused)
        return reply or self.absent()

    def _opened(self, message: bytes) -> bytes:
        terms, number = self._followed().terms, stated_in(message).round
        if number != terms.round:
            raise MessageError(f"what ends round {number} came when round {terms.round} was open")
        codec = self._codec(number)

        def read() -> tuple[tuple[str, ...], Moved]:
            opened = codec.cipher.open(terms, message)
            sums = codec.decode(opened.values)
            moved = self._transition.after(self.progress, terms.round, sums, opened.contributors)
            return opened.contributors, moved

        contributors, moved = self._once(message, read)
        if self.upload.opened is not None:
            self.upload.opened.require(terms.round, contributors)
        self._keep(moved.progress)
        stated = self._state(contributors, moved)
        reply = self._signed(self.upload.terms_of_run(terms.round), OPENED, stated)
        self.before, self.progress, self._current = self.progress, moved.progress, None
        return reply

    def _state(self, contributors: tuple[str, ...], moved: Moved) -> dict[str, Any]:
        return {
            CONTRIBUTORS: list(contributors),
            NEXT_BASE: moved.progress.base,
            RELEASED: released_digest(self._transition.method, moved.progress.state),
            NEXT_RANGE: moved.progress.public_range,
            METRIC_VALUE: moved.metric_value if math.isfinite(moved.metric_value) else None,
            SIGNAL_TO_NOISE: moved.signal_to_noise,
            FIGURES: dict(moved.figures),
            NOTE: moved.note,
            EPSILON: self.node.epsilon_spent(),
            LEDGER: self.node.ledger.anchor().to_json(),
        }

    def _give_up(self, message: bytes) -> bytes:
        """Record, durably, that this client never again encrypts, agrees or opens in the round.

        Rounds in between were given up too. A client that had opened this one goes back: too few
        others did.
        """
        try:
            number = stated_in(message).round
            terms = self.upload.terms_of_run(number)
            envelope = verified(
                message, self._roster, role=Role.AGGREGATOR, kind=ABANDON, terms=terms
            )
            stated = exact_values(envelope, terms, states={REASON, MISSING})
            before, why = self._progress_before(number), why_given_up(stated)
            if self.upload.opened is not None:
                self.upload.opened.close(number, why)
            self._keep(replace(before, round=number))
        except PrivfedError as error:
            return self._refusal(message, error)
        self.progress, self._current, self.before = replace(before, round=number), None, None
        return self._signed(terms, ABANDONED, {})

    def _progress_before(self, number: int) -> Progress:
        """How far this client had come before a round that is to be given up."""
        if self.progress.round < number <= self.node.rounds:
            return self.progress
        if self.before is not None and number == self.progress.round:
            return self.before
        raise MessageError(f"round {number} is over here, or was never planned")

    def _followed(self) -> Current:
        """The round that is open; where nothing was asked of this client, the next one."""
        number = self.progress.round + 1
        if self._current is not None and self._current.plan.round == number:
            return self._current
        plan, unkeyed = self._plan(number)
        return Current(plan=plan, terms=unkeyed)

    def _refusal(self, message: bytes, error: PrivfedError) -> bytes:
        self.node.log.warning("refused: %s", error)
        return refusal(self.node.identity, message, shown(error))

    def _signed(self, terms: Terms, kind: str, manifest: Mapping[str, Any]) -> bytes:
        return signed_message(self.node.identity, terms, kind, manifest=manifest)

    def _told(self, number: int) -> AbstractContextManager[None]:
        return told_in([self.node.log], f"round {number}: did not take part")
