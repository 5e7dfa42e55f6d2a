"""Which clients are here, and in which epoch; a round begins only while enough of them are.

Whoever does not answer, or was restarted and has no run open, is lost until it answers again. Then
a new epoch begins, with a new key. A client that missed a round is first given the adapter by
another; the aggregator relays it and can read nothing in it.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from privfed.errors import AwayError, MessageError
from privfed.parties.aggregator.epoch import Asked, Beginning, Epoch, reason_in
from privfed.parties.aggregator.reached import Reached
from privfed.parties.aggregator.stated import signed_by
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import CLIENT, FETCH_STATE, NO_RUN, REFUSAL, STATE, opened_by
from privfed.protocol.ready import Ready, Standing, terms_before
from privfed.protocol.signing import refused, signed_message

PAUSE_S: Final = 0.2
"""Between two questions to clients that are not there."""


@dataclass(slots=True, kw_only=True)
class Presence:
    """Who is here.

    Attributes:
        beginning: how an epoch begins.
        patience_s: how long a lost client is waited for, in seconds; 0 does not wait.
        standings: of the clients in the epoch, when it began; empty in that of a new run.
        asked_about: the round that they are about.
        lost: clients that take part and are not here.
    """

    beginning: Beginning
    patience_s: float
    standings: dict[str, Standing] = field(default_factory=dict)
    asked_about: int = 1
    lost: set[str] = field(default_factory=set)
    _epoch: Epoch | None = None

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
    def has_epoch(self) -> bool:
        """Whether an epoch has begun in this process."""
        return self._epoch is not None

    def carry(self, messages: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Reach the clients, and note who is lost: no answer came, or it has no run open."""
        replies = self.beginning.exchange(messages)
        for name, message in messages.items():
            if name not in replies or self._has_no_run(name, replies[name], message):
                self.lost.add(name)
        return replies

    def begin(self, members: Sequence[str], left_out: Sequence[str]) -> None:
        """Begin a new run, with all who take part in it.

        Args:
            members: who they are.
            left_out: who else was asked.

        Raises:
            AwayError: if one is not ready, and nobody waits any longer.
            PrivfedError: if they cannot begin together.
        """

        def begin() -> None:
            asked = self.beginning.hello(members, "")
            if asked.reasons:
                raise AwayError(
                    f"a run begins once all that were asked are ready, {reason_in(asked.reasons)}",
                    sorted(asked.reasons),
                )
            epoch = self.beginning.start(asked, left_out, run="", over=0, base="")
            self._take(epoch, asked, number=1)

        self._patiently(begin)

    def gather(
        self,
        reached: Reached,
        members: Sequence[str],
        left_out: Sequence[str],
        drawn: Collection[str],
    ) -> None:
        """Have enough clients ready for the next round, with one key where they hold it.

        Args:
            reached: how far the run has come.
            members: who takes part.
            left_out: who takes no part (any more).
            drawn: who trains in the next round.

        Raises:
            AwayError: if too few are ready, and nobody waits any longer.
            PrivfedError: if they cannot go on together.
        """
        self._patiently(lambda: self._go_on(reached, members, left_out, drawn))

    def come_back(
        self,
        reached: Reached,
        members: Sequence[str],
        left_out: Sequence[str],
        *,
        needed: Collection[str],
        drawn: Collection[str],
        deadline: float,
    ) -> bool:
        """Whether lost clients are there again in time, all that a round's sum needs.

        Args:
            reached: how far the run has come.
            members: who takes part.
            left_out: who takes no part (any more).
            needed: who must be there.
            drawn: who trains in the round.
            deadline: by `time.monotonic`.
        """
        lost = frozenset(self.lost)
        while lost and time.monotonic() < deadline:
            try:
                self._go_on(reached, members, left_out, drawn)
            except AwayError:
                pass  # they are asked again
            else:
                if self.lost.isdisjoint(needed) and not lost <= self.lost:
                    return True
            time.sleep(PAUSE_S)
        return False

    def _go_on(
        self,
        reached: Reached,
        members: Sequence[str],
        left_out: Sequence[str],
        drawn: Collection[str],
    ) -> None:
        """Begin a new epoch with those who are here, unless all of them hold its key already."""
        run, over = reached.record.run, reached.record.over
        asked = self.caught_up(reached, members, reached.is_at)
        unfit = {name: _why_not(one, reached) for name, one in asked.ready.items()}
        here = {name: one for name, one in asked.ready.items() if unfit[name] is None}
        least = self.beginning.proposal.min_clients
        train = set(here).intersection(drawn)
        if len(train) < least:
            reasons = {name: why for name, why in unfit.items() if why is not None}
            raise AwayError(
                f"at least {least} clients must be ready before round {over + 1}, {len(train)} "
                f"are: {reason_in({**reasons, **asked.reasons})}",
                sorted(set(drawn).difference(here)),
            )
        if self._needs_key(here):
            ready = replace(asked, ready=here)
            epoch = self.beginning.start(ready, left_out, run=run, over=over, base=reached.base)
            self._take(epoch, ready, over + 1)
        self.lost = set(members).difference(set(here).intersection(self.epoch.ready))
        began = set(drawn).difference(self.lost)
        if len(began) < least:
            raise AwayError(
                f"at least {least} clients must begin before round {over + 1}, of those that train "
                f"in it {sorted(began)} did",
                sorted(set(drawn).difference(began)),
            )

    def _needs_key(self, here: Mapping[str, Ready]) -> bool:
        """Whether somebody is here that is not in the epoch, or does not hold its key (any more).

        One whose `started` did not come is not in it, although it may hold its key.
        """
        if self._epoch is None or not set(here) <= set(self._epoch.ready):
            return True
        name = self._epoch.name
        return any(one.standing is None or one.standing.epoch != name for one in here.values())

    def standings_of(self, number: int) -> Mapping[str, Standing]:
        """How far the clients in the epoch had come in a round before it is played here."""
        return self.standings if number == self.asked_about else {}

    def _take(self, epoch: Epoch, asked: Asked, number: int) -> None:
        self._epoch, self.asked_about = epoch, number
        self.standings = {
            name: one.standing
            for name, one in asked.ready.items()
            if one.standing is not None and name in epoch.ready
        }
        self.lost = set(asked.ready).difference(epoch.ready)

    def _patiently(self, begin: Callable[[], None]) -> None:
        """Try to begin an epoch until those who must be there are, or nobody waits any longer."""
        deadline = time.monotonic() + self.patience_s
        while True:
            try:
                begin()
            except AwayError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(PAUSE_S)
            else:
                return

    def caught_up(
        self, reached: Reached, clients: Sequence[str], fits: Callable[[Standing | None], bool]
    ) -> Asked:
        """Ask who is here, and give those who missed a round the adapter that another holds.

        Args:
            reached: how far the run has come.
            clients: to ask.
            fits: whether a client needs no adapter, by where it stands.
        """
        asked = self.beginning.hello(clients, reached.record.run, reached.record.over)
        late = [name for name, one in asked.ready.items() if not fits(one.standing)]
        peers = [one for one in asked.ready.values() if reached.is_held_by(one.standing)]
        for name in late if reached.opened else ():
            for peer in peers:
                asked = self._given(reached, asked, peer, name)
                if fits(asked.ready[name].standing):
                    break
        return asked

    def _given(self, reached: Reached, asked: Asked, peer: Ready, late: str) -> Asked:
        """What was asked, with the `ready` of a client that was given the adapter of another."""
        identity, exchange = self.beginning.identity, self.beginning.exchange
        proposal = self.beginning.proposal.digest()
        number = 0 if peer.standing is None else peer.standing.round
        run, over = reached.record.run, reached.record.over
        before = terms_before(self.beginning.roster, proposal, run, over)
        terms = replace(before, round=number)
        question = signed_message(identity, terms, FETCH_STATE, manifest={CLIENT: late})
        state = exchange({peer.client: question}).get(peer.client, b"")
        statements = {opened_by(name): one for name, one in reached.opened.items()}
        relayed = signed_message(identity, terms, STATE, blobs={**statements, STATE: state})
        exchange({late: relayed})
        caught = self.beginning.hello([late], run, over)
        return Asked(
            ready={**asked.ready, **caught.ready},
            messages={**asked.messages, **caught.messages},
            reasons={**asked.reasons, **caught.reasons},
        )

    def _has_no_run(self, name: str, reply: bytes, message: bytes) -> bool:
        try:
            if statement_of(reply).kind != REFUSAL:
                return False
            reason = refused(signed_by(self.beginning.roster, name, reply), message)
        except MessageError:
            return True  # as if nothing had come
        return reason is not None and reason.endswith(NO_RUN)


def _why_not(one: Ready, reached: Reached) -> str | None:
    """Why a client cannot go on: it is not where the run is, or its ledger was put back."""
    if not reached.is_at(one.standing):
        return "it has another adapter than the run has come to"
    if one.facts != reached.facts.get(one.client, one.facts):
        return "it brings something else than when the run began"
    known = reached.record.anchors.get(one.client)
    if known is not None and one.anchor.length < known.length:
        return (
            f"its ledger has {one.anchor.length} entries and had {known.length}: an older copy was "
            "put back"
        )
    return None
