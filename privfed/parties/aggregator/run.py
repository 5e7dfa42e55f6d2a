"""The aggregator's program: a run from the first `hello` to the last `closed`.

It holds who takes part, what they stated and how far the run has come: no key, no adapter, no
update in clear. A round begins only while at least `min_clients` clients are known to be there,
since a round that is given up costs the others epsilon for nothing. A client that is lost in a
round and comes back within the deadline costs a new key; else the round is given up.
"""

import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from privfed.agreement import Proposal
from privfed.encryption.ranges import RANGE
from privfed.errors import (
    AwayError,
    MessageError,
    PrivfedError,
    SpoiledSumError,
    TooFewClientsError,
)
from privfed.identity.keys import Identity
from privfed.identity.roster import Roster
from privfed.parties.aggregator import abandoning, leaving
from privfed.parties.aggregator.epoch import Asked, Beginning, Epoch, reason_in
from privfed.parties.aggregator.openers import ClientsAgree, ClientsOpen, HolderOpens, Link, Opener
from privfed.parties.aggregator.round import AggregatorRound, Released, abandon
from privfed.parties.aggregator.stated import Exchange, signed_by
from privfed.parties.aggregator.summing import Summing
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import (
    CLIENT,
    CLOSED,
    FETCH_STATE,
    FINISH,
    GIVEN_UP,
    LEFT_OUT,
    NO_RUN,
    REFUSAL,
    ROUNDS,
    STATE,
    opened_by,
)
from privfed.protocol.ready import Standing, terms_before
from privfed.protocol.signing import refused, signed_message
from privfed.protocol.terms import RoundPlan
from privfed.reports.figures import Abandoned, RoundFigures
from privfed.reports.run_record import RunRecord

_PAUSE_S: Final = 0.2
"""Between two questions to clients that are not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How far a run has come; what an aggregator makes durable after every round.

    Attributes:
        base: SHA-256 (hex) of the global adapter.
        released: of the adapter that the run leaves if it ends here.
        record: all else.
        opened: what clients stated last of a complete round, with their signatures.
    """

    base: str
    released: str
    record: RunRecord
    opened: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """What follows a run: it is told, and it waits.

    Attributes:
        keep: makes durable how far the run has come; a round is over once this returns what it
            kept.
        on_refused: told of an update that is not accepted, and why.
        on_round: told of a complete round.
        on_abandoned: told of one that was given up.
        advise: what else is known of why a run stops after a round that was given up; or None.
        patience_s: how long a lost client is waited for, in seconds; 0 does not wait.
    """

    keep: Callable[[Reached], Reached]
    on_refused: Callable[[str, MessageError], None] = lambda _, __: None
    on_round: Callable[[RoundFigures], None] = lambda _: None
    on_abandoned: Callable[[Abandoned], None] = lambda _: None
    advise: Callable[[Abandoned], str | None] = lambda _: None
    patience_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class AggregatorRun:
    """One run.

    Attributes:
        identity: of the aggregator.
        roster: who is enrolled.
        proposal: what all were given.
        described: the settings, for the record.
        connect: opens the connection to the key holder for a run; None without one.
        exchange: reaches the clients.
        following: see `Following`.
        reached: how far the run has come; None before it began.
        declined: clients of the proposal that take no part from the beginning.
        notes: what the reader of a report should question, known before the run.
    """

    identity: Identity
    roster: Roster
    proposal: Proposal
    described: Mapping[str, Any]
    connect: Callable[[str], Link] | None
    exchange: Exchange
    following: Following
    reached: Reached | None = None
    declined: Collection[str] = ()
    notes: tuple[str, ...] = ()
    _epoch: Epoch | None = None
    _opener: Opener | None = None
    _standings: dict[str, Standing] = field(default_factory=dict)
    _lost: set[str] = field(default_factory=set)
    _agreed: dict[int, set[tuple[str, ...]]] = field(default_factory=dict)

    @property
    def record(self) -> RunRecord:
        """How far the run has come."""
        return self._require_reached().record

    @property
    def members(self) -> list[str]:
        """Clients that take part, in the order of the proposal."""
        out = set(self.declined)
        if self.reached is not None:
            out |= set(self.record.left_out)
        return [name for name in self.proposal.names if name not in out]

    @property
    def epoch(self) -> Epoch:
        """What the last `start` began.

        Raises:
            MessageError: before the first.
        """
        if self._epoch is None:
            raise MessageError("the run has not begun")
        return self._epoch

    @property
    def summing(self) -> Summing:
        """How updates are summed in this epoch."""
        epoch = self.epoch
        if self._opener is None:
            self._opener = self._new_opener(epoch)
        return Summing(
            identity=self.identity,
            roster=self.roster,
            run_terms=epoch.terms,
            scheme=epoch.scheme,
            opener=self._opener,
            key=epoch.key,
            key_bytes=epoch.key_bytes,
            min_clients=self.proposal.min_clients,
        )

    @property
    def summing_or_none(self) -> Summing | None:
        """How updates are summed; None before the first epoch of this process."""
        return None if self._epoch is None else self.summing

    def begin(self, left_out: Mapping[str, int] | None = None) -> None:
        """Begin a new run, or go on with one.

        Args:
            left_out: who takes no further part in a run that goes on, and from which round on.

        Raises:
            TooFewClientsError: if clients are not ready and nobody waits for them any more.
            ConfigError: if clients hold different things.
        """
        if self.reached is None:
            self._begin_new()
            return
        new = sorted(set(left_out or {}).difference(self.record.left_out))
        if new:
            record = replace(self.record, left_out=dict(left_out or {})).with_notes(self.notes)
            self.reached = replace(self.reached, record=record)
        if self.record.over == self.proposal.rounds and not new:
            return  # nothing is left but to finish
        self._gather()
        _ = self.summing
        if new:
            self._go_on_without(new)

    def play_round(self) -> None:
        """One round, from the plan to what is kept of it.

        Raises:
            TooFewClientsError, SpoiledSumError: if the run must not go on after this round.
            PrivfedError: if it cannot be ended otherwise.
        """
        started, number = time.perf_counter(), self.record.over + 1
        if self._lost:
            self._gather()
        self._agreed.setdefault(number, abandoning.sums_of(self._standings, number))
        try:
            released = self._played(number)
        except (TooFewClientsError, SpoiledSumError) as error:
            abandoned, earlier = abandoning.because_of(error, number), self.record.abandoned
            self._give_up(abandoned)
            if abandoning.must_stop(abandoned, earlier, rounds=self.proposal.rounds):
                raise self._stop_after(abandoned, earlier, error) from None
            return
        if isinstance(released, Abandoned):
            self._give_up(released)
        else:
            self._save(released, started)

    def finish(self) -> dict[str, bytes]:
        """Ask every client what it guarantees.

        Returns:
            Their signed messages, by name; of those who answered.
        """
        record = self.record
        before = terms_before(self.roster, self.proposal.digest(), record.run)
        terms = replace(before, round=record.over)
        told = {
            ROUNDS: [row.to_json() for row in record.rounds],
            GIVEN_UP: [row.to_json() for row in record.abandoned],
            LEFT_OUT: dict(record.left_out),
        }
        message = signed_message(self.identity, terms, FINISH, manifest=told)
        closed: dict[str, bytes] = {}
        deadline = time.monotonic() + self.following.patience_s
        while True:
            asked = [name for name in self.members if name not in closed]
            for name, reply in self._carry(dict.fromkeys(asked, message)).items():
                if self._is_closed(name, reply):
                    closed[name] = reply
            if len(closed) == len(self.members) or time.monotonic() >= deadline:
                return closed
            time.sleep(_PAUSE_S)

    def _is_closed(self, name: str, reply: bytes) -> bool:
        """Whether a client said it; whoever assembles the statements reads what it says."""
        try:
            statement = signed_by(self.roster, name, reply).statement
        except MessageError:
            return False
        return (statement.kind, statement.run) == (CLOSED, self.record.run)

    def _begin_new(self) -> None:
        def begin() -> None:
            members = self.members
            asked = self._beginning().hello(members, "")
            if asked.reasons:
                raise AwayError(
                    f"a run begins once all that were asked are ready, {reason_in(asked.reasons)}",
                    sorted(asked.reasons),
                )
            out = list(self.declined)
            self._take(self._beginning().start(asked, out, run="", over=0, base=""), asked)

        self._patiently(begin)
        epoch = self.epoch
        _ = self.summing  # a key holder that does not answer is found before anything is spent
        self.reached = self.following.keep(
            Reached(
                base=epoch.base,
                released=epoch.released,
                record=self._first_record(epoch),
                opened={},
            )
        )

    def _first_record(self, epoch: Epoch) -> RunRecord:
        ready = epoch.ready
        first = next(iter(ready.values())).facts
        return RunRecord(
            run=epoch.run,
            settings=self.described,
            base_sha256=first.base_weights,
            start_sha256=first.start,
            notes=self.notes,
            noise_multipliers={name: ready[name].facts.noise_multiplier for name in self.members},
            largest_range=epoch.public_range,
            public_range=epoch.public_range,
            anchors={name: ready[name].anchor for name in self.members},
            baseline=0.0 if epoch.figure is None else epoch.figure,
            rounds=(),
            abandoned=(),
            left_out={},
        )

    def _gather(self) -> None:
        """Have enough clients ready for the next round, with one key where they hold it."""
        self._patiently(self._go_on)

    def _go_on(self) -> None:
        """Begin a new epoch with those who are here, unless all of them hold its key already.

        Raises:
            AwayError: if too few are here.
        """
        asked = self._caught_up(self._beginning().hello(self.members, self.record.run))
        reached, members = self._require_reached(), self.members
        run, over, least = self.record.run, self.record.over, self.proposal.min_clients
        here = {name: one for name, one in asked.ready.items() if self._is_at(one.standing)}
        if len(here) < least:
            raise AwayError(
                f"at least {least} clients must be ready before round {over + 1}, {len(here)} "
                f"are: {reason_in(asked.reasons)}",
                sorted(set(members).difference(here)),
            )
        ready = Asked(ready=here, messages=asked.messages, reasons=asked.reasons)
        if self._needs_key(here):
            out = [*self.declined, *self.record.left_out]
            self._take(
                self._beginning().start(ready, out, run=run, over=over, base=reached.base), ready
            )
        self._lost = set(members).difference(set(here).intersection(self.epoch.ready))

    def _needs_key(self, here: Mapping[str, Any]) -> bool:
        """Whether somebody is here that does not hold the key of the epoch."""
        if self._epoch is None:
            return True
        name = self._epoch.name
        return any(one.standing is None or one.standing.epoch != name for one in here.values())

    def _patiently(self, begin: Callable[[], None]) -> None:
        """Try to begin an epoch until those who must be there are, or nobody waits any longer."""
        deadline = time.monotonic() + self.following.patience_s
        while True:
            try:
                begin()
            except AwayError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return

    def _caught_up(self, asked: Asked) -> Asked:
        """Give those who missed a round the adapter that another client holds."""
        late = [name for name, one in asked.ready.items() if not self._is_at(one.standing)]
        peers = [one for one in asked.ready.values() if self._holds_the_adapter(one.standing)]
        opened = self._require_reached().opened
        if not late or not peers or not opened:
            return asked
        peer = peers[0]
        number = peer.standing.round if peer.standing is not None else 0
        before = terms_before(self.roster, self.proposal.digest(), self.record.run)
        terms = replace(before, round=number)
        statements = {opened_by(name): one for name, one in opened.items()}
        for name in late:
            question = signed_message(self.identity, terms, FETCH_STATE, manifest={CLIENT: name})
            state = self.exchange({peer.client: question}).get(peer.client, b"")
            relayed = signed_message(
                self.identity, terms, STATE, blobs={**statements, STATE: state}
            )
            replies = self.exchange({name: relayed})
            caught = self._beginning().heard(replies, relayed, [name], before)
            asked = Asked(
                ready={**asked.ready, **caught.ready},
                messages={**asked.messages, **replies},
                reasons={**asked.reasons, **caught.reasons},
            )
        return asked

    def _is_at(self, standing: Standing | None) -> bool:
        """Whether a client can go on: from where the run is, or by going back to it."""
        ahead = standing is not None and standing.round > self.record.over
        return ahead or self._holds_the_adapter(standing)

    def _holds_the_adapter(self, standing: Standing | None) -> bool:
        """Whether a client holds the adapter of the run; rounds given up since changed nothing."""
        if standing is None or standing.round > self.record.over:
            return False
        return standing.base == self._require_reached().base

    def _take(self, epoch: Epoch, asked: Asked) -> None:
        """Go on in a new epoch."""
        if self._opener is not None and self._epoch is not None:
            self._opener = self._opener if epoch.scheme == self._epoch.scheme else None
        self._epoch = epoch
        self._standings = {
            name: one.standing
            for name, one in asked.ready.items()
            if one.standing is not None and name in epoch.ready
        }
        self._lost = set(asked.ready).difference(epoch.ready)

    def _go_on_without(self, new: Sequence[str]) -> None:
        """Make durable who takes no further part, before anybody goes on without them."""
        number = self.record.over + 1
        ended = leaving.ended_by_leaving(self._standings, number, new)
        if ended is None:
            self.reached = self.following.keep(self._require_reached())
        else:
            self._give_up(ended)

    def _played(self, number: int) -> Released | Abandoned:
        """Play a round, again with a new key if a client was lost in it and comes back.

        Returns:
            What it released; or why nobody is asked to train for it (any more).
        """
        deadline = time.monotonic() + self.following.patience_s
        while True:
            given_up = abandoning.given_up_before(self._standings, number, self.members)
            given_up = given_up or abandoning.lost_before(
                self._standings,
                number,
                here=len(self.epoch.ready),
                min_clients=self.proposal.min_clients,
            )
            if given_up is not None:
                return given_up
            try:
                return self._round(number).play()
            except TooFewClientsError as error:
                if not self._back(number, deadline):
                    raise error from None

    def _back(self, number: int, deadline: float) -> bool:
        """Whether lost clients are there again, all that a round's sum needs, with a new key."""
        needed = {name for names in self._agreed[number] for name in names}
        lost = frozenset(self._lost)
        while lost and time.monotonic() < deadline:
            try:
                self._go_on()
            except AwayError:
                pass  # they are asked again
            else:
                if needed.isdisjoint(self._lost) and not lost <= self._lost:
                    return True
            time.sleep(_PAUSE_S)
        return False

    def _round(self, number: int) -> AggregatorRound:
        plan = RoundPlan(
            run=self.record.run, round=number, base_digest=self._require_reached().base
        )
        return AggregatorRound(
            summing=self.summing,
            exchange=self._carry,
            plan=plan,
            public_range=self.record.public_range,
            clients=self.members,
            anchors=self.record.anchors,
            before=frozenset(self._agreed[number]),
            on_refused=self.following.on_refused,
            on_listed=lambda names: self._agreed[number].add(names),
        )

    def _carry(self, messages: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Reach the clients, and note who is lost: no answer came, or it has no run open."""
        replies = self.exchange(messages)
        for name, message in messages.items():
            if name not in replies or self._has_no_run(name, replies[name], message):
                self._lost.add(name)
        return replies

    def _has_no_run(self, name: str, reply: bytes, message: bytes) -> bool:
        try:
            if statement_of(reply).kind != REFUSAL:
                return False
            reason = refused(signed_by(self.roster, name, reply), message)
        except MessageError:
            return True  # as if nothing had come
        return reason is not None and reason.endswith(NO_RUN)

    def _save(self, released: Released, started: float) -> None:
        """Make a round durable, with what a quorum of clients stated of it."""
        record = self.record
        for name in set(self.members).difference(released.anchors):
            self._lost.add(name)  # it did not open the sum, and must be given the adapter
        kept = replace(
            record,
            rounds=(*record.rounds, self._figures(released, started)),
            public_range=released.public_range,
            anchors={**record.anchors, **released.anchors},
        ).with_notes(self._range_notes(released.note))
        self.reached = self.following.keep(
            Reached(
                base=released.base,
                released=released.released,
                record=kept,
                opened={**self._require_reached().opened, **released.statements},
            )
        )
        self.following.on_round(self.record.rounds[-1])

    def _figures(self, released: Released, started: float) -> RoundFigures:
        return RoundFigures(
            round=released.round,
            clients=released.contributors,
            absent=tuple(sorted(set(self.members).difference(released.contributors))),
            metric=self.proposal.metric,
            value=released.figure,
            bytes_up=released.bytes_up,
            bytes_down=released.bytes_down,
            bytes_holder=released.bytes_holder,
            seconds=round(time.perf_counter() - started, 2),
            seconds_aggregator=round(released.aggregator_seconds, 4),
            seconds_opening=round(released.opening_seconds, 4),
            epsilon={**self._epsilon_before(), **released.epsilon},
        )

    def _epsilon_before(self) -> dict[str, float]:
        """What every client stated last."""
        if self.record.rounds:
            return dict(self.record.rounds[-1].epsilon)
        return {name: one.epsilon for name, one in self.epoch.ready.items()}

    def _range_notes(self, note: str | None) -> tuple[str, ...]:
        """A warning, once in a run, where the public range does not fit what was released."""
        known = any(one.startswith(RANGE) for one in self.record.notes)
        if known or note is None:
            return ()
        warnings.warn(note, UserWarning, stacklevel=2)
        return (note,)

    def _give_up(self, abandoned: Abandoned) -> None:
        """Close a round at every client that is there, then make that durable.

        Who is lost is not waited for: the others' records suffice.
        """
        abandon(
            self.summing,
            self._carry,
            self.members,
            round_number=abandoned.round,
            reason=abandoned.reason,
            missing=sorted({*abandoned.missing, *self._lost.intersection(self.members)}),
        )
        reached = self._require_reached()
        record = replace(reached.record, abandoned=(*reached.record.abandoned, abandoned))
        self.reached = self.following.keep(replace(reached, record=record))
        self.following.on_abandoned(abandoned)

    def _stop_after(
        self, abandoned: Abandoned, earlier: Sequence[Abandoned], error: PrivfedError
    ) -> PrivfedError:
        """The error of a run that must not go on after this round, with what can be done."""
        known = self.following.advise(abandoned)
        if known is not None:
            return TooFewClientsError(f"{error}. {known}", abandoned.missing)
        advice = abandoning.advice(
            abandoned,
            earlier,
            clients=self.members,
            min_clients=self.proposal.min_clients,
            rounds=self.proposal.rounds,
        )
        return abandoning.stop(
            abandoned, f"{error}. The cause is in each client's own log. {advice}"
        )

    def _beginning(self) -> Beginning:
        return Beginning(
            identity=self.identity,
            roster=self.roster,
            proposal=self.proposal,
            summation=self.proposal.summation,
            exchange=self.exchange,
        )

    def _new_opener(self, epoch: Epoch) -> Opener:
        if self.connect is not None:
            return HolderOpens(self.connect(epoch.run), self.identity, self.roster)
        if epoch.scheme.parameters is None:
            return ClientsOpen()
        return ClientsAgree(self.identity, self.roster)

    def _require_reached(self) -> Reached:
        if self.reached is None:
            raise MessageError("the run has not begun")
        return self.reached
