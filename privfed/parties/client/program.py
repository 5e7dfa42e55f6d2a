"""One client's program, from the first `hello` of an aggregator to the last `closed`.

It plays one run: the one that its operator allowed by starting it with these settings. Which run
that is the client keeps on its own disk, so that a program that is started again goes on with it,
and takes part in no other while it is open. Whatever it is asked, it says nothing of its data but
DP updates, the size that it declared or released, and what its ledger counts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from secrets import token_hex

import numpy as np
from numpy.typing import NDArray

from accountants import AccountingError
from privfed.custody.opened_rounds import OpenedRounds
from privfed.errors import MessageError, PrivfedError
from privfed.identity.keys import Role
from privfed.identity.roster import Roster
from privfed.models.vector import vector_digest
from privfed.parties.client.kept_run import KeptRun, RunStore
from privfed.parties.client.node import ClientNode
from privfed.parties.client.round import Progress, Rules
from privfed.parties.client.run import ClientRun, Once, each_time, shown, stated_in
from privfed.parties.client.starting import Starting, begun, facts_in
from privfed.parties.client.state_transfer import state_for, state_from
from privfed.parties.client.told import Told
from privfed.parties.client.upload import Upload
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import (
    CLIENT,
    EPOCH,
    EPSILON,
    FACTS,
    FETCH_STATE,
    FIGURE,
    FINISH,
    GIVEN_UP,
    HELLO,
    LEDGER,
    LEFT_OUT,
    MAKE_KEY,
    NEXT_BASE,
    NEXT_RANGE,
    NO_RUN,
    NONCE,
    PROPOSAL,
    READY,
    RELEASED,
    ROUNDS,
    SHARED_KEY,
    STANDING,
    START,
    STARTED,
    STATE,
)
from privfed.protocol.ready import NONCE_BYTES, Facts, Standing, terms_before
from privfed.protocol.signing import exact_values, refusal, signed_message, verified
from privfed.protocol.terms import Terms
from privfed.run_settings import FederationSettings
from privfed.settings.encryption import Custody

Memory = Callable[[str, Sequence[str]], OpenedRounds]
"""What a client remembers of a run, by its name and its clients; made where there is none."""


def closed_before(message: bytes, store: RunStore, roster: Roster, proposal: str) -> bytes | None:
    """What a client said at the end of a run, where it is asked again.

    It needs no program for that: after its last run it may have no budget left to prepare another.

    Args:
        message: any; whatever else is asked is none of this.
        store: of the client.
        roster: who is enrolled.
        proposal: digest (hex) of what all were given.

    Raises:
        MessageError: if the message is no envelope, or not the aggregator's.
    """
    stated = stated_in(message)
    if stated.kind != FINISH:
        return None
    _told_at_the_end(message, roster, proposal)
    return store.closed(stated.run)


def _told_at_the_end(message: bytes, roster: Roster, proposal: str) -> Told:
    """What a `finish` tells, which was checked."""
    stated = stated_in(message)
    terms = replace(terms_before(roster, proposal, stated.run), round=stated.round)
    envelope = verified(message, roster, role=Role.AGGREGATOR, kind=FINISH, terms=terms)
    states = {ROUNDS, GIVEN_UP, LEFT_OUT}
    return Told.read(exact_values(envelope, terms, states=states), terms.round)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What a client's program needs of the machine that it runs on.

    Attributes:
        store: keeps the run that is open.
        memory: of rounds, in the second place.
        evaluate: the figure of an adapter, shape (params,), on held-out text.
        closing: makes what the client says at the end of a run, from its terms and from how the
            rounds went; None in a simulation, which reads the ledgers itself.
        once: shares work with other clients of this process.
    """

    store: RunStore
    memory: Memory
    evaluate: Callable[[NDArray[np.float32]], float]
    closing: Callable[["Program", Terms, Told], bytes] | None = None
    once: Once = each_time


class Program:
    """A client that plays one run.

    Args:
        node: trains, with the client's ledger.
        facts: what it brings.
        settings: of this party; the public part of them is what all were given.
        roster: who is enrolled.
        initial: the adapter that training starts from, shape (params,).
        outside: see `Outside`.
    """

    def __init__(
        self,
        *,
        node: ClientNode,
        facts: Facts,
        settings: FederationSettings,
        roster: Roster,
        initial: NDArray[np.float32],
        outside: Outside,
    ) -> None:
        self.node = node
        self.facts = facts
        self.settings = settings
        self.starting: Starting | None = None
        self.finished = False
        self.roster = roster
        self._initial = initial
        self._outside = outside
        self._proposal = settings.proposal().digest()
        self._kept = outside.store.kept()
        self._run: ClientRun | None = None
        self._nonce = ""
        self._made: tuple[str, Upload, bytes] | None = None
        self._known: Mapping[str, Facts] | None = None
        self._before_epoch: Mapping[str, Callable[[bytes], bytes]] = {
            HELLO: self._hello,
            MAKE_KEY: self._make_key,
            START: self._start,
            FETCH_STATE: self._state_for,
            STATE: self._take_state,
            FINISH: self._finish,
        }
        if self._kept is not None:
            self._known = self._facts_of(self._kept)

    @property
    def run(self) -> ClientRun:
        """The run that is open in this process.

        Raises:
            MessageError: if none is.
        """
        if self._run is None:
            raise MessageError(NO_RUN)
        return self._run

    def handle(self, message: bytes) -> bytes:
        """Answer one message; see `protocol.kinds` for which message is answered by which.

        What is refused is answered with a `refusal`, whose words say nothing of the client's data.
        """
        try:
            kind = stated_in(message).kind
            if kind in self._before_epoch:
                return self._before_epoch[kind](message)
            run = self.run
        except (PrivfedError, AccountingError) as error:
            return self._refusal(message, error)
        return run.handle(message)

    def _hello(self, message: bytes) -> bytes:
        """Say what this client brings, and how far it has come."""
        run = stated_in(message).run
        self._require_same_proposal(message)
        terms = terms_before(self.roster, self._proposal, run)
        envelope = verified(message, self.roster, role=Role.AGGREGATOR, kind=HELLO, terms=terms)
        exact_values(envelope, terms, states=())
        if self.finished:
            raise MessageError("this client has played the run that its operator allowed")
        if run:
            self._require_open(run)
        elif self._kept is not None and self._has_begun(self._kept.run):
            raise MessageError(f"the run {self._kept.run} is open here, and another cannot begin")
        return self._ready(terms, run)

    def _ready(self, terms: Terms, run: str) -> bytes:
        self._nonce = token_hex(NONCE_BYTES)
        standing = self._standing().to_json() if run else None
        return signed_message(
            self.node.identity,
            terms,
            READY,
            manifest={
                NONCE: self._nonce,
                FACTS: self.facts.to_json(),
                STANDING: standing,
                LEDGER: self.node.ledger.anchor().to_json(),
                EPSILON: self.node.epsilon_spent(),
            },
        )

    def _standing(self) -> Standing:
        kept, progress = self._require_kept(), self.progress
        number = progress.round + 1
        memory = self._memory_of(kept.run)
        return Standing(
            round=progress.round,
            base=progress.base,
            epoch="" if self._run is None or self.starting is None else self.starting.epoch,
            next_status=self.node.ledger.status(kept.run, number),
            agreed=None if memory is None else memory.contributors_of(number),
            given_up=None if memory is None else memory.why_closed(number),
        )

    @property
    def progress(self) -> Progress:
        """How far this client has come in the run that is open."""
        if self._run is not None:
            return self._run.progress
        kept = self._require_kept()
        if kept.progress is None:
            raise MessageError(
                "this client was stopped before it had begun; the run goes on without"
            )
        return kept.progress

    def _make_key(self, message: bytes) -> bytes:
        """Make the key of an epoch, for the clients that are in it."""
        envelope, starting, _ = self._begun(message, MAKE_KEY)
        if starting.maker != self.node.id:
            raise MessageError(f"the key is made by {starting.maker!r}")
        exact_values(
            envelope,
            self._terms_before(envelope),
            states={LEFT_OUT},
            blobs=[name for name in envelope.blobs if name != SHARED_KEY],
        )
        upload = self._upload(starting)
        shared = upload.make_key(starting.terms.of_epoch(starting.epoch))
        self._made = (starting.epoch, upload, shared)
        return shared

    def _start(self, message: bytes) -> bytes:
        """Begin an epoch: of a new run, or of one that goes on."""
        envelope, starting, figure = self._begun(message, START)
        terms = self._terms_before(envelope)
        exact_values(envelope, terms, states={LEFT_OUT, NEXT_BASE}, blobs=list(envelope.blobs))
        new = self._kept is None or starting.run != self._kept.run
        progress = self._progress_at(envelope, starting, new=new)
        upload = self._keyed(envelope, starting)
        if new:
            self._outside.store.begin(starting.run, message)
            self._outside.store.save(starting.run, progress)
            self._known = starting.facts
            self._kept = KeptRun(
                run=starting.run, start=message, left_out=None, progress=progress, before=None
            )
        elif self.starting is None or starting.agreement != self.starting.agreement:
            self._outside.store.leave_out(starting.run, envelope.statement.manifest[LEFT_OUT])
        before = None if self._run is None else self._run.before
        self._run = ClientRun(
            node=self.node,
            upload=upload,
            rules=self._rules(starting),
            progress=progress,
            roster=self.roster,
            keep=lambda moved: self._outside.store.save(starting.run, moved),
            before=before,
            once=self._outside.once,
        )
        self.starting, self._made = starting, None
        return self._started(progress, figure if new else None)

    def _started(self, progress: Progress, figure: float | None) -> bytes:
        starting = self.starting
        if starting is None:
            raise MessageError(NO_RUN)
        terms = replace(starting.terms.of_run(), round=progress.round)
        return signed_message(
            self.node.identity,
            terms,
            STARTED,
            manifest={
                EPOCH: starting.epoch,
                NEXT_BASE: progress.base,
                RELEASED: vector_digest(progress.released),
                NEXT_RANGE: progress.public_range,
                FIGURE: figure,
            },
        )

    def _begun(self, message: bytes, kind: str) -> tuple[Envelope, Starting, float]:
        """What a message begins, and the figure of the initial adapter; the same at every client.

        Raises:
            MessageError: if this client's own latest `ready` is not in it, among others.
        """

        def read() -> tuple[Envelope, Starting, float]:
            envelope = Envelope.from_bytes(message)
            terms = self._terms_before(envelope)
            checked = verified(message, self.roster, role=Role.AGGREGATOR, kind=kind, terms=terms)
            left_out = checked.statement.manifest.get(LEFT_OUT)
            if not isinstance(left_out, list) or not all(isinstance(n, str) for n in left_out):
                raise MessageError("who is left out must be a list of names")
            goes_on = self._kept is not None and self._kept.run == envelope.statement.run
            starting = begun(
                checked, left_out, self.settings, self.roster, self._known if goes_on else None
            )
            figure = 0.0 if goes_on or kind != START else self._outside.evaluate(self._initial)
            return envelope, starting, figure

        self._require_same_proposal(message)
        if self.finished:
            raise MessageError("this client has played the run that its operator allowed")
        run = stated_in(message).run
        if self._kept is not None and run != self._kept.run and self._has_begun(self._kept.run):
            raise MessageError(f"the run {self._kept.run} is open here, and another cannot begin")
        envelope, starting, figure = self._outside.once(message, read)
        mine = starting.ready.get(self.node.id)
        if mine is None or not self._nonce or mine.nonce != self._nonce or mine.facts != self.facts:
            raise MessageError("an epoch must begin with what this client stated last")
        if self.starting is not None and set(starting.facts) > set(self.starting.facts):
            raise MessageError("who was left out of a run does not come back")
        return envelope, starting, figure

    def _progress_at(self, envelope: Envelope, starting: Starting, *, new: bool) -> Progress:
        """Where this client stands when the epoch begins: where the others do.

        A round that this client opened and too few others did is played again; rounds that were
        given up while it was away changed nothing.
        """
        if new:
            return Progress(
                round=0,
                state=self._initial,
                base=vector_digest(self._initial),
                average=None,
                averaged=0,
                public_range=starting.largest_range,
            )
        base, number = envelope.statement.manifest.get(NEXT_BASE), envelope.statement.round
        for mine in (self.progress, self._progress_before()):
            if mine is not None and mine.base == base and mine.round <= number:
                return replace(mine, round=number)
        raise MessageError(
            f"the others have come to the end of round {number} with another adapter; this client "
            f"is at round {self.progress.round}, and must be given it first"
        )

    def _progress_before(self) -> Progress | None:
        if self._run is not None:
            return self._run.before
        return None if self._kept is None else self._kept.before

    def _keyed(self, envelope: Envelope, starting: Starting) -> Upload:
        """This client's side of the sum, with the epoch's key where the clients hold it."""
        if starting.scheme.custody != Custody.SHARED_KEY:
            return self._upload(starting)
        shared = bytes(envelope.blobs.get(SHARED_KEY, b""))
        if self._made is not None and self._made[0] == starting.epoch:
            _, upload, made = self._made
            if shared != made:
                raise MessageError("what is handed out must be the key that this client made")
            return upload
        upload = self._upload(starting)
        upload.take_key(shared, starting.maker, starting.terms.of_epoch(starting.epoch))
        return upload

    def _upload(self, starting: Starting) -> Upload:
        memory = None
        if starting.scheme.parameters is not None:
            memory = self._outside.memory(starting.run, list(starting.facts))
        return Upload(
            terms=starting.terms,
            agreement=starting.agreement,
            scheme=starting.scheme,
            identity=self.node.identity,
            roster=self.roster,
            opened=memory,
        )

    def _rules(self, starting: Starting) -> Rules:
        return Rules(
            strategy=self.settings.strategy,
            averaging=self.settings.averaging,
            summation=self.settings.encryption,
            weights=starting.agreement.weights,
            largest_range=starting.largest_range,
            evaluate=self._outside.evaluate,
        )

    def _state_for(self, message: bytes) -> bytes:
        """The global adapter for a client that missed a round, which nobody else can read."""
        kept, progress = self._require_kept(), self.progress
        terms = replace(self._terms_of_kept(), round=progress.round)
        envelope = verified(
            message, self.roster, role=Role.AGGREGATOR, kind=FETCH_STATE, terms=terms
        )
        late = exact_values(envelope, terms, states={CLIENT})[CLIENT]
        if not isinstance(late, str) or self._known is None or late not in self._known:
            raise MessageError("only a client of the run is given its adapter")
        return state_for(self.node.identity, self.roster.party(late), terms, kept.run, progress)

    def _take_state(self, message: bytes) -> bytes:
        """Take the global adapter that another client sent, if enough state that it is the one."""
        kept = self._require_kept()
        number = stated_in(message).round
        if not self.progress.round <= number <= self.node.rounds:
            raise MessageError(f"this client has come to the end of round {self.progress.round}")
        terms = replace(self._terms_of_kept(), round=number)
        envelope = verified(message, self.roster, role=Role.AGGREGATOR, kind=STATE, terms=terms)
        exact_values(envelope, terms, states=(), blobs=list(envelope.blobs))
        progress = state_from(
            envelope,
            self.node.identity,
            self.roster,
            members=set(self._known or ()),
            least=self.settings.min_clients,
            initial=self._initial,
        )
        self._outside.store.save(kept.run, progress)
        self._kept = replace(kept, progress=progress, before=None)
        self._run = None
        return self._ready(self._terms_of_kept(), kept.run)

    def _finish(self, message: bytes) -> bytes:
        """What this client guarantees; the run is over for it."""
        said = closed_before(message, self._outside.store, self.roster, self._proposal)
        if said is not None:
            return said
        told = _told_at_the_end(message, self.roster, self._proposal)
        run, over = stated_in(message).run, stated_in(message).round
        self._require_open(run)
        if over < self.progress.round:
            raise MessageError(f"this client has come to the end of round {self.progress.round}")
        if self.starting is None or self._outside.closing is None:
            raise MessageError(NO_RUN)
        terms = replace(self.starting.terms.of_run(), round=over)
        closed = self._outside.closing(self, terms, told)
        self._outside.store.close(run, closed)
        self.finished, self._run, self._kept = True, None, None
        return closed

    def _facts_of(self, kept: KeptRun) -> Mapping[str, Facts]:
        """Of all clients of a run that goes on, as they stated them when it began."""
        envelope = Envelope.from_bytes(kept.start)
        left_out = kept.left_out
        if left_out is None:
            left_out = tuple(envelope.statement.manifest[LEFT_OUT])

        def read() -> tuple[Starting, Mapping[str, Facts]]:
            starting = begun(envelope, left_out, self.settings, self.roster, None)
            return starting, facts_in(kept.start, self.roster, self.settings.proposal())

        self.starting, facts = self._outside.once(kept.start, read)
        if facts.get(self.node.id) != self.facts:
            raise MessageError(
                f"client {self.node.id!r} must bring to a run what it brought when it began"
            )
        return facts

    def _memory_of(self, run: str) -> OpenedRounds | None:
        if self.starting is None or self.starting.scheme.parameters is None:
            return None
        return self._outside.memory(run, list(self.starting.facts))

    def _require_same_proposal(self, message: bytes) -> None:
        stated = stated_in(message).manifest.get(PROPOSAL)
        if stated != self._proposal:
            raise MessageError(
                f"this client was given other settings (SHA-256 {self._proposal}) than the run "
                f"has ({stated!a:.80}); all parties must be given the same"
            )

    def _require_kept(self) -> KeptRun:
        if self._kept is None:
            raise MessageError(NO_RUN)
        return self._kept

    def _require_open(self, run: str) -> None:
        if self._require_kept().run != run:
            raise MessageError(f"the run {self._require_kept().run} is open here, and no other")

    def _has_begun(self, run: str) -> bool:
        """Whether anything was released in a run, or may have been."""
        return self.progress.round > 0 or bool(self.node.ledger.events(run))

    def _terms_of_kept(self) -> Terms:
        return terms_before(self.roster, self._proposal, self._require_kept().run)

    def _terms_before(self, envelope: Envelope) -> Terms:
        statement = envelope.statement
        terms = terms_before(self.roster, self._proposal, statement.run)
        return replace(terms, round=statement.round)

    def _refusal(self, message: bytes, error: Exception) -> bytes:
        self.node.log.warning("refused: %s", error)
        return refusal(self.node.identity, message, shown(error))
