"""The hub: the aggregator's program, which reaches the nodes through a process that carries bytes.

It holds the aggregator's signing key, ciphertexts and what clients stated: no key to decrypt with,
no adapter and no text. It imports neither torch nor TenSEAL, and parses nothing of the network
itself.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from privfed.agreement import Proposal
from privfed.engines.machines.carried import Carried
from privfed.errors import IdentityError, MessageError, ReportError
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.parties.aggregator.kept_run import ReachedFile
from privfed.parties.aggregator.openers import Link
from privfed.parties.aggregator.reached import Reached
from privfed.parties.aggregator.run import AggregatorRun, Following
from privfed.reports.assembling import assemble
from privfed.reports.budget import BudgetReport
from privfed.reports.statement_folder import kept_statements, write_statements

REACHED: Final = "reached.json"
_PAUSE_S: Final = 0.5


@dataclass(slots=True, kw_only=True)
class Hub:
    """One run.

    Attributes:
        identity: of the aggregator.
        roster: who is enrolled.
        proposal: what all were given.
        carried: the way to the nodes.
        folder: of the run: how far it has come, statements, report.
        following: what follows the run; how far it has come is kept here.
        connect: opens the connection to the key holder for a run; None without one.
        resume: whether it goes on with the run in the folder.
        without: clients that take no (further) part.
        besides: who must be connected besides clients: a key holder that opens no port.
    """

    identity: Identity
    roster: Roster
    proposal: Proposal
    carried: Carried
    folder: Path
    following: Callable[["Hub"], Following]
    connect: Callable[[str], Link] | None
    resume: bool = False
    without: Sequence[str] = ()
    besides: Sequence[str] = ()
    run: AggregatorRun = field(init=False)

    def __post_init__(self) -> None:
        """Check who this is, and read how far the run has come.

        Raises:
            IdentityError: if the roster names another aggregator.
            RunFolderError: if what was kept cannot be read.
        """
        require_aggregator(self.roster, self.identity)
        for name in self.proposal.names:
            if self.roster.party(name).role is not Role.CLIENT:
                raise IdentityError(f"{name!r} must be enrolled as client")
        kept = ReachedFile(self.folder / REACHED)
        reached = kept.load() if self.resume else None
        self.run = AggregatorRun(
            identity=self.identity,
            roster=self.roster,
            proposal=self.proposal,
            described=self.proposal.to_json(),
            connect=self.connect,
            exchange=self.carried.exchange,
            following=self.following(self),
            reached=reached,
            declined=tuple(self.without) if reached is None else _declined(self.proposal, reached),
        )

    def wait(self, waiting: Callable[[Sequence[str]], None]) -> None:
        """Wait until all that the run needs at first are connected.

        Args:
            waiting: told who is missing, whenever that changes.
        """
        told: list[str] | None = None
        new = self.run.reached is None
        needed = {*self.besides, *(self.run.members if new else ())}
        while missing := sorted(needed.difference(self.carried.present())):
            if missing != told:
                waiting(missing)
                told = missing
            time.sleep(_PAUSE_S)

    def begin(self) -> None:
        """Begin a new run, or go on with one."""
        left_out = None
        if self.run.reached is not None:
            record = self.run.record
            new = set(self.without).difference(record.left_out, self.run.declined)
            left_out = {**record.left_out, **dict.fromkeys(sorted(new), record.over + 1)}
        self.run.begin(left_out)

    def play(self) -> None:
        """All rounds that are left."""
        while self.run.record.over < self.proposal.rounds:
            self.run.play_round()

    def finish(self) -> BudgetReport:
        """The federation's report, from what clients state and sign at the end."""
        run, clients = self.run.record.run, self.run.participants
        said = {**kept_statements(self.folder, clients), **self.run.finish()}
        opened = self.run.reached.opened if self.run.reached is not None else {}

        def fit(closed: Mapping[str, bytes]) -> bool:
            try:
                assemble(closed, opened, self.roster, run=run, clients=clients)
            except (MessageError, ReportError):
                return False
            return True

        closed = most_that_fit(said, clients, fit)
        report = assemble(closed, opened, self.roster, run=run, clients=clients)
        write_statements(self.folder, report, closed, opened, self.roster)
        return report


def most_that_fit(
    said: Mapping[str, bytes], clients: Sequence[str], fit: Callable[[Mapping[str, bytes]], bool]
) -> dict[str, bytes]:
    """What most clients say alike: one that contradicts itself or them is as if it said nothing.

    Args:
        said: by client.
        clients: all of them.
        fit: whether statements can stand in one report.
    """
    best: dict[str, bytes] = {}
    names = [name for name in clients if name in said]
    for start in range(len(names)):
        found: dict[str, bytes] = {}
        for name in (*names[start:], *names[:start]):
            if fit({**found, name: said[name]}):
                found[name] = said[name]
        if len(found) > len(best):
            best = found
        if len(best) == len(names):
            break
    return best


def require_aggregator(roster: Roster, identity: Identity) -> None:
    """Refuse keys that are not those of the roster's aggregator.

    Raises:
        IdentityError: saying whose they are.
    """
    if identity.party not in roster.of_role(Role.AGGREGATOR):
        raise IdentityError(
            "the hub must have the keys of the aggregator that the roster names, these are those "
            f"of {identity.party.name!r}"
        )


def _declined(proposal: Proposal, reached: Reached) -> tuple[str, ...]:
    """Clients that took no part from the beginning of a run that goes on."""
    return tuple(name for name in proposal.names if name not in reached.facts)
