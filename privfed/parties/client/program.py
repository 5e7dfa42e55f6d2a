"""One client's program, from the first `hello` of an aggregator to the last `closed`.

It plays one run: the one that its operator allowed by starting it with these settings. Which run
that is the client keeps on its own disk, so that a program that is started again goes on with it,
and takes part in no other while it is open. Whatever it is asked, it says nothing of its data but
DP updates, the size that it declared or released, and what its ledger counts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from secrets import token_hex

import numpy as np
from numpy.typing import NDArray

from accountants import AccountingError
from privfed.errors import MessageError, PrivfedError
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.methods.method import released_digest
from privfed.parties.client.epoch import Epochs, Memory
from privfed.parties.client.kept_run import RunStore
from privfed.parties.client.membership import RUN_IS_OVER, Membership
from privfed.parties.client.node import ClientNode
from privfed.parties.client.run import Once, each_time, shown, stated_in
from privfed.parties.client.state_transfer import state_for, state_from
from privfed.parties.client.told import Told
from privfed.protocol.kinds import (
    CLIENT,
    EPSILON,
    FACTS,
    FETCH_STATE,
    FINISH,
    GIVEN_UP,
    HELLO,
    LEDGER,
    LEFT_OUT,
    MAKE_KEY,
    NEXT_BASE,
    NO_RUN,
    NONCE,
    PROPOSAL,
    READY,
    RELEASED,
    ROUNDS,
    STANDING,
    START,
    STATE,
)
from privfed.protocol.ready import NONCE_BYTES, Facts, Standing, terms_before
from privfed.protocol.signing import exact_values, refusal, signed_message, verified
from privfed.protocol.terms import Terms
from privfed.run_settings import FederationSettings


def after_the_end(
    message: bytes, store: RunStore, identity: Identity, roster: Roster, proposal: str
) -> bytes | None:
    """The reply of a client whose run is over; None where it is not.

    It needs no program for that: after its last run it may have no budget left to prepare another.

    Args:
        message: any.
        store: of the client.
        identity: of the client.
        roster: who is enrolled.
        proposal: digest (hex) of what all were given.
    """
    if not store.played(proposal):
        return None
    try:
        stated = stated_in(message)
        if stated.kind == FINISH:
            _told_at_the_end(message, roster, proposal)
            said = store.closed(stated.run)
            if said is not None:
                return said
        raise MessageError(RUN_IS_OVER)
    except MessageError as error:
        return refusal(identity, message, shown(error))


def _told_at_the_end(message: bytes, roster: Roster, proposal: str) -> Told:
    """What a `finish` tells, which was checked."""
    stated = stated_in(message)
    terms = replace(terms_before(roster, proposal, stated.run), round=stated.round)
    envelope = verified(message, roster, role=Role.AGGREGATOR, kind=FINISH, terms=terms)
    states = {ROUNDS, GIVEN_UP, LEFT_OUT, NEXT_BASE, RELEASED}
    return Told.read(exact_values(envelope, terms, states=states), terms.round)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What a client's program needs of the machine that it runs on.

    Attributes:
        store: keeps the run that is open.
        memory: of rounds, in the second place.
        evaluate: the metric of an adapter, shape (params,), on held-out text.
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
        settings: of this party.
        proposal: digest (hex) of their public part, which all were given.
        roster: who is enrolled.
        initial: the adapter that training starts from, shape (params,).
        outside: see `Outside`.

    Raises:
        MessageError: if the client does not bring to a run that goes on what it brought before.
    """

    def __init__(
        self,
        *,
        node: ClientNode,
        facts: Facts,
        settings: FederationSettings,
        proposal: str,
        roster: Roster,
        initial: NDArray[np.float32],
        outside: Outside,
    ) -> None:
        self.node = node
        self.membership = Membership(
            store=outside.store,
            settings=settings,
            proposal=proposal,
            roster=roster,
            ledger=node.ledger,
            facts=facts,
            once=outside.once,
        )
        self._outside = outside
        self._initial = initial
        self._epochs = Epochs(
            node=node,
            membership=self.membership,
            memory=outside.memory,
            evaluate=outside.evaluate,
            initial=initial,
            once=outside.once,
        )
        self._answers: Mapping[str, Callable[[bytes], bytes]] = {
            HELLO: self._hello,
            MAKE_KEY: self._make_key,
            START: self._start,
            FETCH_STATE: self._state_for,
            STATE: self._take_state,
            FINISH: self._finish,
        }

    def handle(self, message: bytes) -> bytes:
        """Answer one message; see `protocol.kinds` for which message is answered by which.

        What is refused is answered with a `refusal`, whose words say nothing of the client's data.
        """
        try:
            kind = stated_in(message).kind
            if kind in self._answers:
                return self._answers[kind](message)
            return self.membership.run.handle(message)
        except (PrivfedError, AccountingError) as error:
            self.node.log.warning("refused: %s", error)
            return refusal(self.node.identity, message, shown(error))
        except Exception as error:
            self.node.log.exception("refused, for a reason that nobody foresaw")
            return refusal(self.node.identity, message, shown(error))

    def _hello(self, message: bytes) -> bytes:
        """Say what this client brings, and how far it has come."""
        membership, run = self.membership, stated_in(message).run
        self._require_same_proposal(message)
        over = stated_in(message).round if run else 0
        terms = terms_before(membership.roster, membership.proposal, run, over)
        envelope = verified(
            message, membership.roster, role=Role.AGGREGATOR, kind=HELLO, terms=terms
        )
        exact_values(envelope, terms, states=())
        membership.require_allowed(run)
        if run:
            membership.require(run)
        return self._ready(terms)

    def _ready(self, terms: Terms) -> bytes:
        self._epochs.nonce = token_hex(NONCE_BYTES)
        return signed_message(
            self.node.identity,
            terms,
            READY,
            manifest={
                NONCE: self._epochs.nonce,
                FACTS: self.membership.facts.to_json(),
                STANDING: self._standing(terms.round + 1).to_json() if terms.run else None,
                LEDGER: self.node.ledger.anchor().to_json(),
                EPSILON: self.node.epsilon_spent(),
            },
        )

    def _standing(self, number: int) -> Standing:
        """How far this client has come, and how far in a round that is about to be played."""
        membership, progress, before = (
            self.membership,
            self.membership.progress,
            self.membership.before,
        )
        run, starting = str(membership.name), membership.starting
        memory = None
        if starting is not None and starting.scheme.parameters is not None:
            memory = self._outside.memory.resume(run)
        return Standing(
            round=progress.round,
            base=progress.base,
            before=None if before is None else before.base,
            epoch=membership.epoch,
            next_status=self.node.ledger.status(run, number),
            agreed=None if memory is None else memory.contributors_of(number),
            given_up=None if memory is None else memory.why_closed(number),
        )

    def _make_key(self, message: bytes) -> bytes:
        self._require_same_proposal(message)
        return self._epochs.make_key(message)

    def _start(self, message: bytes) -> bytes:
        self._require_same_proposal(message)
        return self._epochs.start(message)

    def _state_for(self, message: bytes) -> bytes:
        """The global adapter for a client that missed a round, which nobody else can read."""
        membership, progress = self.membership, self.membership.progress
        terms = membership.terms(progress.round)
        envelope = verified(
            message, membership.roster, role=Role.AGGREGATOR, kind=FETCH_STATE, terms=terms
        )
        late = exact_values(envelope, terms, states={CLIENT})[CLIENT]
        if not isinstance(late, str) or late not in membership.taking_part:
            raise MessageError("only a client of the run is given its adapter")
        method = membership.settings.method
        party = membership.roster.party(late)
        return state_for(self.node.identity, party, terms, progress, method)

    def _take_state(self, message: bytes) -> bytes:
        """Take the global adapter that another client sent, if enough state that it is the one."""
        membership, number = self.membership, stated_in(message).round
        if not membership.progress.round <= number <= self.node.rounds:
            raise MessageError(
                f"this client has come to the end of round {membership.progress.round}"
            )
        terms = membership.terms(number)
        envelope = verified(
            message, membership.roster, role=Role.AGGREGATOR, kind=STATE, terms=terms
        )
        exact_values(envelope, terms, states=(), blobs=list(envelope.blobs))
        progress = state_from(
            envelope,
            self.node.identity,
            membership.roster,
            members=membership.taking_part,
            least=membership.settings.min_clients,
            method=membership.settings.method,
            num_params=len(self._initial),
        )
        membership.move_to(progress)
        return self._ready(membership.terms(number))

    def _finish(self, message: bytes) -> bytes:
        """What this client guarantees; the run is over for it."""
        membership = self.membership
        told = _told_at_the_end(message, membership.roster, membership.proposal)
        run, over = stated_in(message).run, stated_in(message).round
        said = membership.said_at_the_end(run)
        if said is not None:
            return said
        membership.require(run)
        self._require_true(told, over)
        if membership.starting is None or self._outside.closing is None:
            raise MessageError(NO_RUN)
        terms = replace(membership.starting.terms.of_run(), round=over)
        closed = self._outside.closing(self, terms, told)
        membership.close(closed)
        return closed

    def _require_true(self, told: Told, over: int) -> None:
        """Refuse what is told of a run where this client knows better.

        Raises:
            MessageError: for another adapter than it came to, more rounds than were planned, or
                another sum than it opened.
        """
        membership, progress = self.membership, self.membership.progress
        left = released_digest(membership.settings.method, progress.state)
        here = (progress.base, left)
        if not progress.round <= over <= self.node.rounds or (told.base, told.released) != here:
            raise MessageError(
                f"this client has come to the end of round {progress.round} of "
                f"{self.node.rounds}, and to another adapter than after round {over}"
            )
        starting, clients = membership.starting, set(membership.known)
        if starting is not None and starting.scheme.parameters is not None:
            memory = self._outside.memory.resume(str(membership.name))
            for row in told.rounds:
                opened = memory.contributors_of(row.round)
                if opened is not None and opened != row.clients:
                    raise MessageError(f"round {row.round} was the sum of {list(opened)}")
        least = membership.settings.min_clients
        for row in told.rounds:
            if len(row.clients) < least or not {*row.clients, *row.absent} <= clients:
                raise MessageError(f"round {row.round} must be one of clients of the run")

    def _require_same_proposal(self, message: bytes) -> None:
        stated, mine = stated_in(message).manifest.get(PROPOSAL), self.membership.proposal
        if stated != mine:
            raise MessageError(
                f"this client was given other settings (SHA-256 {mine}) than the run has "
                f"({stated!a:.80}); all parties must be given the same"
            )
