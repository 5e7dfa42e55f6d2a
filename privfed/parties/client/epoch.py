"""A client's half of what begins an epoch: it makes or takes the key, and works out what all hold.

What it works out is its own: settings, range and weights come from its settings and from what all
clients stated, and from nothing that an aggregator could say.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from privfed.custody.keys import SharedSecret
from privfed.custody.opened_rounds import OpenedRounds
from privfed.errors import MessageError
from privfed.identity.keys import Role
from privfed.methods.method import released_digest
from privfed.parties.client.membership import Membership
from privfed.parties.client.node import ClientNode
from privfed.parties.client.round import Progress, Transition
from privfed.parties.client.run import ClientRun, Once, stated_in
from privfed.parties.client.starting import Starting, begun
from privfed.parties.client.upload import Upload, new_key
from privfed.planning.signal import step_noise
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import (
    EPOCH,
    LEFT_OUT,
    MAKE_KEY,
    METRIC_VALUE,
    NEXT_BASE,
    NEXT_RANGE,
    NO_RUN,
    RELEASED,
    SHARED_KEY,
    START,
    STARTED,
    ready_of,
)
from privfed.protocol.ready import terms_before
from privfed.protocol.signing import exact_values, signed_message, verified
from privfed.settings.encryption import Custody


class Memory(Protocol):
    """What a client remembers of its runs."""

    def __call__(self, run: str, clients: Sequence[str]) -> OpenedRounds:
        """The memory of a new run, with its clients."""
        ...

    def resume(self, run: str) -> OpenedRounds:
        """That of a run that goes on, or has begun in this process."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochStart:
    """A message that begins an epoch, and what follows from it at every client alike.

    Attributes:
        envelope: of the message, whose signature was checked.
        left_out: clients that take no part (any more).
        starting: what it begins.
        metric: of the initial adapter on held-out text; None where the run goes on.
    """

    envelope: Envelope
    left_out: Sequence[str]
    starting: Starting
    metric_value: float | None


@dataclass(slots=True, kw_only=True)
class Epochs:
    """How a client begins epochs.

    Attributes:
        node: trains.
        membership: the run that is open.
        memory: of rounds.
        evaluate: the metric of an adapter, shape (params,), on held-out text.
        initial: the adapter that training starts from, shape (params,).
        once: shares work with other clients of this process.
        nonce: of this client's last `ready`, in which an epoch must begin; empty before the first.
    """

    node: ClientNode
    membership: Membership
    memory: Memory
    evaluate: Callable[[NDArray[np.float32]], float]
    initial: NDArray[np.float32]
    once: Once
    nonce: str = ""
    _made: tuple[str, SharedSecret, bytes] | None = None
    _last: tuple[bytes, bytes] | None = None

    def make_key(self, message: bytes) -> bytes:
        """Make the key of an epoch, for the clients that are in it.

        Raises:
            MessageError: if another client makes it, or no such epoch can begin.
        """
        begins = self._begins(message, MAKE_KEY)
        starting = begins.starting
        if starting.maker != self.node.id:
            raise MessageError(f"the key is made by {starting.maker!r}")
        if starting.scheme.custody != Custody.SHARED_KEY:
            raise MessageError("the clients of this run hold no key")
        terms = starting.terms.of_epoch(starting.epoch)
        secret, shared = new_key(starting.scheme, self.node.identity, self.membership.roster, terms)
        self._made = (starting.epoch, secret, shared)
        return shared

    def start(self, message: bytes) -> bytes:
        """Begin an epoch: of a new run, or of one that goes on.

        Raises:
            MessageError, EncryptionError: if it cannot begin.
        """
        if self._last is not None and message == self._last[0]:
            return self._last[1]  # it was sent again
        begins, membership = self._begins(message, START), self.membership
        starting = begins.starting
        progress = self._progress_at(begins)
        new = begins.metric_value is not None
        stays = not new and progress.base == membership.progress.base
        run = ClientRun(
            node=self.node,
            upload=self._keyed(begins),
            rules=self._transition(starting),
            progress=progress,
            roster=membership.roster,
            keep=membership.keep,
            before=membership.before if stays else None,
            once=self.once,
        )
        started = self._started(begins, progress)
        membership.enter(starting, message, begins.left_out, run)
        self._made, self._last, self.nonce = None, (message, started), ""
        return started

    def _started(self, begins: EpochStart, progress: Progress) -> bytes:
        starting = begins.starting
        return signed_message(
            self.node.identity,
            replace(starting.terms.of_run(), round=progress.round),
            STARTED,
            manifest={
                EPOCH: starting.epoch,
                NEXT_BASE: progress.base,
                RELEASED: released_digest(self.membership.settings.method, progress.state),
                NEXT_RANGE: progress.public_range,
                METRIC_VALUE: begins.metric_value,
            },
        )

    def _begins(self, message: bytes, kind: str) -> EpochStart:
        """What a message begins.

        Raises:
            MessageError: if this client's own latest `ready` is not in it, among others.
        """
        membership = self.membership
        membership.require_allowed(stated_in(message).run)
        if not self.nonce:
            raise MessageError(NO_RUN)  # it was restarted since it was ready
        begins = self.once(message, lambda: self._read(message, kind))
        mine = begins.starting.ready.get(self.node.id)
        stated = None if mine is None else (mine.nonce, mine.facts)
        if stated != (self.nonce, membership.facts):
            raise MessageError("an epoch must begin with what this client stated last")
        if self._goes_on(begins.starting.run) and membership.starting is not None:
            taking_part = set(membership.starting.facts)
            if not set(begins.starting.facts) <= taking_part:
                raise MessageError("who was left out of a run does not come back")
        return begins

    def _read(self, message: bytes, kind: str) -> EpochStart:
        """The same at every client."""
        membership, stated = self.membership, stated_in(message)
        terms = terms_before(membership.roster, membership.proposal, stated.run)
        terms = replace(terms, round=stated.round)
        envelope = verified(
            message, membership.roster, role=Role.AGGREGATOR, kind=kind, terms=terms
        )
        states = {LEFT_OUT} if kind == MAKE_KEY else {LEFT_OUT, NEXT_BASE}
        blobs = [name for name in envelope.blobs if name.startswith(ready_of(""))]
        if kind == START and membership.settings.shares_key:
            blobs.append(SHARED_KEY)
        left_out = exact_values(envelope, terms, states=states, blobs=blobs)[LEFT_OUT]
        if not isinstance(left_out, list) or not all(isinstance(name, str) for name in left_out):
            raise MessageError("who is left out must be a list of names")
        goes_on = self._goes_on(stated.run)
        known = membership.known if goes_on else None
        starting = begun(envelope, left_out, membership.settings, membership.roster, known)
        metric_value = None if goes_on or kind == MAKE_KEY else self.evaluate(self.initial)
        return EpochStart(
            envelope=envelope, left_out=left_out, starting=starting, metric_value=metric_value
        )

    def _goes_on(self, run: str) -> bool:
        return self.membership.name == run

    def _progress_at(self, begins: EpochStart) -> Progress:
        """Where this client stands when the epoch begins: where the others do.

        A round that this client opened and too few others did is played again; rounds that were
        given up while it was away changed nothing.
        """
        statement = begins.envelope.statement
        base, number = statement.manifest[NEXT_BASE], statement.round
        if not self._goes_on(begins.starting.run):
            if (base, number) != ("", 0):
                raise MessageError("a new run begins before its first round, with no adapter yet")
            state = self.membership.settings.method.begin(self.initial)
            return Progress(
                round=0,
                state=state,
                base=state.digest(),
                public_range=begins.starting.first_range,
            )
        if number <= self.node.rounds:
            for mine in (self.membership.progress, self.membership.before):
                if mine is None or mine.base != base:
                    continue
                if self._only_given_up(begins.starting, number, mine.round):
                    return replace(mine, round=number)
        raise MessageError(
            f"the others have come to the end of round {number} with another adapter; this client "
            f"is at round {self.membership.progress.round}, and must be given it first"
        )

    def _only_given_up(self, starting: Starting, number: int, last: int) -> bool:
        """Whether this client gave up all rounds after one; a complete one is not played again."""
        if starting.scheme.parameters is None:
            return True  # in clear nothing is remembered
        memory = self.memory.resume(starting.run)
        return all(memory.why_closed(later) for later in range(number + 1, last + 1))

    def _keyed(self, begins: EpochStart) -> Upload:
        """This client's side of the sum, with the epoch's key where the clients hold it."""
        starting, upload = begins.starting, self._upload(begins.starting)
        if starting.scheme.custody != Custody.SHARED_KEY:
            return upload
        shared = bytes(begins.envelope.blobs.get(SHARED_KEY, b""))
        if self._made is None or self._made[0] != starting.epoch:
            upload.take_key(shared, starting.maker, starting.terms.of_epoch(starting.epoch))
            return upload
        _, secret, made = self._made
        if shared != made:
            raise MessageError("what is handed out must be the key that this client made")
        upload.use(secret)
        return upload

    def _upload(self, starting: Starting) -> Upload:
        encrypted = starting.scheme.parameters is not None
        return Upload(
            terms=starting.terms,
            agreement=starting.agreement,
            scheme=starting.scheme,
            identity=self.node.identity,
            roster=self.membership.roster,
            opened=self._memory(starting) if encrypted else None,
        )

    def _memory(self, starting: Starting) -> OpenedRounds:
        if self._goes_on(starting.run):
            return self.memory.resume(starting.run)
        return self.memory(starting.run, list(starting.facts))

    def _transition(self, starting: Starting) -> Transition:
        settings = self.membership.settings
        noise_multipliers = {name: one.noise_multiplier for name, one in starting.facts.items()}
        return Transition(
            method=settings.method,
            training=settings.training,
            steps=settings.steps,
            participation=starting.participation,
            summation=settings.encryption,
            weights=starting.agreement.weights,
            layout=self.node.model.layout,
            step_noise=step_noise(settings.privacy, settings.training, noise_multipliers),
            largest_range=starting.largest_range,
            evaluate=self.evaluate,
        )
