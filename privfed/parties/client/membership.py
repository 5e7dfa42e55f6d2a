"""The run that a client has open: what it knows of it in memory, and keeps of it on its disk."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from accountants import Ledger
from privfed.errors import MessageError
from privfed.identity.roster import Roster
from privfed.parties.client.kept_run import KeptRun, RunStore
from privfed.parties.client.round import Progress
from privfed.parties.client.run import ClientRun, Once
from privfed.parties.client.starting import Starting, begun, facts_in
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import LEFT_OUT, NO_RUN
from privfed.protocol.ready import Facts, terms_before
from privfed.protocol.terms import Terms
from privfed.run_settings import FederationSettings

RUN_IS_OVER: Final = "this client has played the run that its operator allowed"


class Membership:
    """A client's part in at most one run.

    Args:
        store: keeps the run; one that is open there goes on.
        settings: of this party.
        proposal: digest (hex) of the public part of the settings, which all were given.
        roster: who is enrolled.
        ledger: of the client.
        facts: what it brings.
        once: shares work with other clients of this process.

    Raises:
        MessageError: if the client does not bring to a run that goes on what it brought before.
    """

    def __init__(
        self,
        *,
        store: RunStore,
        settings: FederationSettings,
        proposal: str,
        roster: Roster,
        ledger: Ledger,
        facts: Facts,
        once: Once,
    ) -> None:
        self.settings = settings
        self.roster = roster
        self.facts = facts
        self.proposal = proposal
        self.starting: Starting | None = None
        self.known: Mapping[str, Facts] = {}
        self._store = store
        self._ledger = ledger
        self._once = once
        self._run: ClientRun | None = None
        self._kept = store.kept()
        if self._kept is not None:
            self._remember(self._kept)

    @property
    def name(self) -> str | None:
        """Identifier of the run that is open; None if none is."""
        return None if self._kept is None else self._kept.run

    @property
    def run(self) -> ClientRun:
        """The run, with the key of its epoch.

        Raises:
            MessageError: if this process has none.
        """
        if self._run is None:
            raise MessageError(NO_RUN)
        return self._run

    @property
    def epoch(self) -> str:
        """Whose key is in memory; empty if none is."""
        return "" if self._run is None or self.starting is None else self.starting.epoch

    @property
    def progress(self) -> Progress:
        """How far this client has come in the run that is open."""
        if self._run is not None:
            return self._run.progress
        kept = self._require_kept()
        if kept.progress is None:
            raise MessageError("this client was stopped before it had begun")
        return kept.progress

    @property
    def before(self) -> Progress | None:
        """How far it had come before its last round, if it may have to go back."""
        if self._run is not None:
            return self._run.before
        return None if self._kept is None else self._kept.before

    @property
    def has_begun(self) -> bool:
        """Whether anything was released in the run that is open, or may have been."""
        if self._kept is None:
            return False
        moved = self._run is not None or self._kept.progress is not None
        released = bool(self._ledger.events(self._kept.run))
        return released or (moved and self.progress.round > 0)

    def require(self, run: str) -> None:
        """Refuse a message about another run than the one that is open.

        Raises:
            MessageError: if it is, or none is open.
        """
        if self._require_kept().run != run:
            raise MessageError(f"the run {self.name} is open here, and no other")

    def require_allowed(self, run: str) -> None:
        """Refuse to begin another run than the one that is open, or after the one that is over.

        Raises:
            MessageError: with the reason.
        """
        over = self._store.played(self.proposal) or (run and self.said_at_the_end(run) is not None)
        if over:
            raise MessageError(RUN_IS_OVER)
        if self.name not in (None, run) and self.has_begun:
            raise MessageError(f"the run {self.name} is open here, and another cannot begin")

    @property
    def taking_part(self) -> frozenset[str]:
        """Clients that were not left out."""
        return frozenset(() if self.starting is None else self.starting.facts)

    def terms(self, over: int) -> Terms:
        """Of messages about the run outside of its epochs, when so many rounds are over."""
        return terms_before(self.roster, self.proposal, self._require_kept().run, over)

    def enter(
        self, starting: Starting, message: bytes, left_out: Sequence[str], run: ClientRun
    ) -> None:
        """Go on in a new epoch; a run that is new is kept first.

        Args:
            starting: what the epoch begins with.
            message: that began it.
            left_out: clients that take no part (any more).
            run: with its key.
        """
        if self.name != starting.run:
            self._store.begin(starting.run, message)
            self._store.save(starting.run, run.progress)
            self.known = starting.facts
            self._kept = KeptRun(
                run=starting.run, start=message, left_out=None, progress=run.progress, before=None
            )
        else:
            if self.starting is None or starting.agreement != self.starting.agreement:
                self._store.leave_out(starting.run, left_out)
            if (run.progress.round, run.progress.base) != (
                self.progress.round,
                self.progress.base,
            ):
                self.keep(run.progress)  # it went back, or on over rounds that were given up
        self.starting, self._run = starting, run

    def keep(self, progress: Progress) -> None:
        """Make durable how far this client has come."""
        self._store.save(self._require_kept().run, progress)

    def move_to(self, progress: Progress) -> None:
        """Go on from an adapter that another client sent; the key is that of an epoch before."""
        self.keep(progress)
        self._kept = replace(self._require_kept(), progress=progress, before=None)
        self._run = None

    def close(self, said: bytes) -> None:
        """The run is over for this client, which said so."""
        self._store.close(self._require_kept().run, self.proposal, said)
        self._run, self._kept = None, None

    def said_at_the_end(self, run: str) -> bytes | None:
        """What this client said at the end of a run; None if that is not over."""
        return self._store.closed(run)

    def _remember(self, kept: KeptRun) -> None:
        """What all clients of a run that goes on stated when it began."""
        envelope = Envelope.from_bytes(kept.start)
        left_out = tuple(envelope.statement.manifest[LEFT_OUT])
        since = set(kept.left_out or ()).difference(left_out)

        def read() -> tuple[Starting, Mapping[str, Facts]]:
            starting = begun(envelope, left_out, self.settings, self.roster, None, since)
            return starting, facts_in(kept.start, self.roster, self.settings.proposal())

        self.starting, self.known = self._once(kept.start, read)
        own = self.facts.client["id"]
        if self.known.get(own) != self.facts:
            raise MessageError(f"client {own!r} must bring to a run what it brought when it began")

    def _require_kept(self) -> KeptRun:
        if self._kept is None:
            raise MessageError(NO_RUN)
        return self._kept
