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
from typing import Any

from accountants import Anchor
from privfed.agreement import Proposal
from privfed.encryption.ranges import RANGE
from privfed.errors import (
    ConfigError,
    MessageError,
    PrivfedError,
    SpoiledSumError,
    TooFewClientsError,
)
from privfed.identity.keys import Identity
from privfed.identity.roster import Roster
from privfed.parties.aggregator import abandoning, leaving
from privfed.parties.aggregator.ending import closed_statements
from privfed.parties.aggregator.epoch import Beginning, Epoch
from privfed.parties.aggregator.openers import ClientsAgree, ClientsOpen, HolderOpens, Link, Opener
from privfed.parties.aggregator.presence import Presence
from privfed.parties.aggregator.reached import Reached
from privfed.parties.aggregator.round import AggregatorRound, Released, abandon
from privfed.parties.aggregator.stated import Exchange
from privfed.parties.aggregator.summing import Summing
from privfed.protocol.participation import Participation
from privfed.protocol.ready import base_weights
from privfed.protocol.terms import RoundPlan
from privfed.reports.round_record import Abandoned, RoundRecord
from privfed.reports.run_record import RunRecord


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
    on_round: Callable[[RoundRecord], None] = lambda _: None
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
        presence: who is here.
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
    presence: Presence = field(init=False)
    _participation: Participation = field(init=False)
    _openers: dict[str, Opener] = field(default_factory=dict)
    _agreed: dict[int, set[tuple[str, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Nobody is known to be here yet."""
        self._participation = self.proposal.participation
        beginning = Beginning(
            identity=self.identity,
            roster=self.roster,
            proposal=self.proposal,
            summation=self.proposal.summation,
            exchange=self.exchange,
        )
        self.presence = Presence(beginning=beginning, patience_s=self.following.patience_s)

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

    def drawn(self, number: int) -> list[str]:
        """Clients that train in a round, of those that take part."""
        drawn = self._participation.of(number)
        return [name for name in self.members if name in drawn]

    @property
    def summing(self) -> Summing:
        """How updates are summed in this epoch."""
        epoch = self.presence.epoch
        if epoch.run not in self._openers:
            self._openers[epoch.run] = self._new_opener(epoch)
        return Summing(
            identity=self.identity,
            roster=self.roster,
            run_terms=epoch.terms,
            scheme=epoch.scheme,
            opener=self._openers[epoch.run],
            key=epoch.key,
            key_bytes=epoch.key_bytes,
            min_clients=self.proposal.min_clients,
        )

    @property
    def summing_or_none(self) -> Summing | None:
        """How updates are summed; None before the first epoch of this process."""
        return self.summing if self.presence.has_epoch else None

    def begin(self, left_out: Mapping[str, int] | None = None) -> None:
        """Begin a new run, or go on with one.

        Args:
            left_out: who takes no further part in a run that goes on, and from which round on.

        Raises:
            TooFewClientsError: if clients are not ready and nobody waits for them any more.
            ConfigError: if clients hold different things.
        """
        if self.reached is None:
            self._require_enough_drawn(1)
            self.presence.begin(self.members, list(self.declined))
            _ = self.summing  # a key holder that does not answer is found before anything is spent
            self.reached = self.following.keep(self._first(self.presence.epoch))
            return
        new = sorted(set(left_out or {}).difference(self.record.left_out))
        if new:
            record = replace(self.record, left_out=dict(left_out or {})).with_notes(self.notes)
            self.reached = replace(self.reached, record=record)
        if self.record.over == self.proposal.rounds and not new:
            return  # nothing is left but to finish
        self._require_enough_drawn(self.record.over + 1)
        self.presence.gather(
            self.reached, self.members, self._out, self.drawn(self.record.over + 1)
        )
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
        if self.presence.lost:
            reached = self._require_reached()
            self.presence.gather(reached, self.members, self._out, self.drawn(number))
        self._agreed.setdefault(number, abandoning.sums_of(self.presence.standings_of(number)))
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
        """What every client guarantees, signed, by name; of those who answer."""
        return closed_statements(self.presence, self._require_reached(), self.members)

    @property
    def participants(self) -> list[str]:
        """Clients that the run began with, in the order of the proposal."""
        return [name for name in self.proposal.names if name not in self.declined]

    @property
    def _out(self) -> list[str]:
        """Clients of the proposal that take no part (any more)."""
        return [*self.declined, *self.record.left_out]

    def _require_enough_drawn(self, first: int) -> None:
        """Refuse rounds whose draw leaves too few of those who take part.

        Raises:
            ConfigError: naming the round.
        """
        least = self.proposal.min_clients
        if self._participation.takes_all:
            return
        for number in range(first, self.proposal.rounds + 1):
            if len(drawn := self.drawn(number)) < least:
                raise ConfigError(
                    f"round {number} draws {len(drawn)} of the clients that take part, min_clients "
                    f"= {least} must train; begin a new run with those who are left, or draw more"
                )

    def _first(self, epoch: Epoch) -> Reached:
        """How far a run has come that has just begun."""
        ready = epoch.ready
        facts = {name: ready[name].facts for name in self.members}
        base, others = base_weights(facts)
        record = RunRecord(
            run=epoch.run,
            settings=self.described,
            base_sha256=base,
            start_sha256=facts[self.members[0]].start,
            notes=self.notes,
            noise_multipliers={name: one.noise_multiplier for name, one in facts.items()},
            first_range=epoch.public_range,
            public_range=epoch.public_range,
            anchors={name: ready[name].anchor for name in self.members},
            baseline=0.0 if epoch.metric_value is None else epoch.metric_value,
            rounds=(),
            abandoned=(),
            left_out={},
            other_bases=others,
        )
        return Reached(
            base=epoch.base,
            released=epoch.released,
            record=record,
            opened={},
            facts={name: one.facts for name, one in ready.items()},
        )

    def _go_on_without(self, new: Sequence[str]) -> None:
        """Make durable who takes no further part, before anybody goes on without them."""
        number = self.record.over + 1
        ended = leaving.ended_by_leaving(self.presence.standings_of(number), number, new)
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
            given_up = abandoning.given_up_before(
                self.presence.standings_of(number), number, self.members
            )
            given_up = given_up or abandoning.lost_before(
                self.presence.standings_of(number),
                number,
                here=set(self.drawn(number)).intersection(self.presence.epoch.ready),
                min_clients=self.proposal.min_clients,
            )
            if given_up is not None:
                return given_up
            try:
                return self._round(number).play()
            except TooFewClientsError as error:
                needed = {name for names in self._agreed[number] for name in names}
                if not self.presence.come_back(
                    self._require_reached(),
                    self.members,
                    self._out,
                    needed=needed,
                    drawn=self.drawn(number),
                    deadline=deadline,
                ):
                    raise error from None

    def _round(self, number: int) -> AggregatorRound:
        plan = RoundPlan(
            run=self.record.run, round=number, base_digest=self._require_reached().base
        )
        return AggregatorRound(
            summing=self.summing,
            exchange=self.presence.carry,
            plan=plan,
            public_range=self.record.public_range,
            clients=self.members,
            drawn=self.drawn(number),
            anchors=self.record.anchors,
            before=frozenset(self._agreed[number]),
            on_refused=self.following.on_refused,
            on_listed=lambda names: self._agreed[number].add(names),
        )

    def _save(self, released: Released, started: float) -> None:
        """Make a round durable, with what a quorum of clients stated of it."""
        record = self.record
        for name in set(self.members).difference(released.opened):
            self.presence.lost.add(name)  # it came to no adapter or another, and must be given this
        kept = replace(
            record,
            rounds=(*record.rounds, self._round_record(released, started)),
            public_range=released.public_range,
            anchors={**record.anchors, **_grown(record.anchors, released.anchors)},
        ).with_notes(self._range_notes(released.note))
        self.reached = self.following.keep(
            replace(
                self._require_reached(),
                base=released.base,
                released=released.released,
                record=kept,
                opened={**self._require_reached().opened, **released.statements},
            )
        )
        self.following.on_round(self.record.rounds[-1])

    def _round_record(self, released: Released, started: float) -> RoundRecord:
        return RoundRecord(
            round=released.round,
            clients=released.contributors,
            absent=tuple(sorted(set(self.drawn(released.round)).difference(released.contributors))),
            metric=self.proposal.metric,
            value=released.metric_value,
            signal_to_noise=released.signal_to_noise,
            figures=released.figures,
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
        return {name: one.epsilon for name, one in self.presence.epoch.ready.items()}

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
            self.presence.carry,
            self.members,
            round_number=abandoned.round,
            reason=abandoned.reason,
            missing=sorted({*abandoned.missing, *self.presence.lost.intersection(self.members)}),
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
            left=self._fewest_without(abandoned.missing, abandoned.round + 1),
            min_clients=self.proposal.min_clients,
            rounds=self.proposal.rounds,
        )
        return abandoning.stop(
            abandoned, f"{error}. The cause is in each client's own log. {advice}"
        )

    def _fewest_without(self, missing: Collection[str], first: int) -> int:
        """How many would train without some, in the round from `first` on with the fewest."""
        last = first if self._participation.takes_all else self.proposal.rounds
        left = (len(set(self.drawn(n)).difference(missing)) for n in range(first, last + 1))
        return min(left, default=0)

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


def _grown(known: Mapping[str, Anchor], stated: Mapping[str, Anchor]) -> dict[str, Anchor]:
    """The anchors that go on from what is known; one of a ledger that was put back does not."""
    return {
        name: anchor
        for name, anchor in stated.items()
        if name not in known or anchor.length >= known[name].length
    }
