"""One organisation's node: a long-lived process with its text, model, keys and ledger.

It is a client's `Program` behind a socket, and holds no connection to anybody but the process that
carries its bytes. It plays one run, that which its operator confirmed, and ends with it.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from privfed.engines.machines import sockets
from privfed.engines.machines.own_results import OwnResults
from privfed.engines.machines.status import keep_status
from privfed.errors import ConfigError, IdentityError, MessageError, PrivfedError
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.parties.client.client import Client
from privfed.parties.client.kept_run import RunFiles
from privfed.parties.client.memories import Memories
from privfed.parties.client.node import ClientNode
from privfed.parties.client.own_model import keep_own_model
from privfed.parties.client.own_report import OwnReport
from privfed.parties.client.program import Outside, Program, after_the_end
from privfed.parties.client.round import Progress
from privfed.parties.client.setup import Known, Prepared, prepare
from privfed.parties.client.starting import facts_in
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import CLOSED, EPSILON, METRIC_VALUE, OPENED, REFUSAL, STARTED
from privfed.protocol.ready import Facts
from privfed.reports.budget import BudgetReport
from privfed.reports.run_record import RunRecord
from privfed.run_settings import FederationSettings
from privfed.storage.own_log import told_in
from privfed.storage.state_folder import client_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One thing that happened at a node, for its operator.

    Attributes:
        what: "began", "round", "closed" or "refused".
        round: over, or about which something was refused.
        metric: of the adapter on held-out text after the round; None if it is no number.
        epsilon: that the organisation's ledger counts now; None where it is not about that.
        run: identifier.
        seconds: since the round before.
    """

    what: str
    round: int = 0
    metric: float | None = None
    epsilon: float | None = None
    run: str = ""
    seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class Node:
    """A node.

    Attributes:
        client: what the organisation brings.
        settings: of this party.
        identity: its keys.
        roster: who is enrolled.
        share_ledger: whether the export of its ledger may leave at the end.
        results: folder for its report and adapter.
        told: follows what happens.
    """

    client: Client
    settings: FederationSettings
    identity: Identity
    roster: Roster
    share_ledger: bool
    results: Path
    told: Callable[[Told], None]
    files: RunFiles = field(init=False)
    _program: Program | None = None
    _proposal: str = field(init=False)
    _since: float = field(default_factory=time.monotonic)
    _closed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Check who this is, and take the client's runs for this process.

        Raises:
            IdentityError: if the roster has other keys for it.
            RunFolderError: if another process plays a run on this data set.
        """
        require_enrolled(self.roster, self.identity, self.client.id)
        self._proposal = self.settings.proposal().digest()
        self.files = RunFiles(self.folder)

    @property
    def folder(self) -> Path:
        """Where the client keeps what outlives a run."""
        return client_folder(self.settings.state, self.client.id, self.client.dataset)

    @property
    def is_over(self) -> bool:
        """Whether its run is over."""
        return self._closed.is_set()

    def prepare(self) -> Prepared | None:
        """Load and check all that a run needs; None where the run is over already.

        Raises:
            PrivfedError, accountants.AccountingError: as `parties.client.setup.prepare`.
        """
        if self.files.played(self._proposal):
            return None
        kept, known = self.files.kept(), None
        if kept is None and (self.results / "report.json").exists():
            raise ConfigError(
                f"{self.results} holds the results of an earlier run; move them away, or name "
                "another folder (results)"
            )
        memories = Memories(self.settings.anchors, self.client.id)
        if kept is not None:
            if self.settings.encryption.custody is not None:
                memories.resume(kept.run)
            known = Known(anchors={}, facts=self._facts_of(kept.start))
        brought = prepare(
            self.settings,
            [self.client],
            {self.client.id: self.identity},
            start=self.settings.start,
            known=known,
        )
        if self.client.id not in brought.nodes:
            raise ConfigError("; ".join(brought.notes) or "this client cannot take part")
        results = OwnResults(
            folder=self.results,
            model=brought.nodes[self.client.id].model,
            settings=self.settings,
            start=brought.start,
        )
        evaluate = partial(brought.evaluate, base=self.client.base)
        closing = OwnReport(
            baseline=evaluate(brought.initial),
            notes=brought.notes,
            size_source=brought.size_source,
            share_ledger=self.share_ledger,
            keep=partial(self._keep, results, brought.nodes[self.client.id]),
        )
        self._program = Program(
            node=brought.nodes[self.client.id],
            facts=brought.facts[self.client.id],
            settings=self.settings,
            proposal=self._proposal,
            roster=self.roster,
            initial=brought.initial,
            outside=Outside(store=self.files, memory=memories, evaluate=evaluate, closing=closing),
        )
        return brought

    def _keep(
        self,
        results: OwnResults,
        node: ClientNode,
        report: BudgetReport,
        record: RunRecord,
        export: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        """Write what the run leaves to this organisation, and its own model beside the ledger.

        Whether that succeeds is its own affair: nobody else may see by it how its own text fares.
        """
        results.write(report, record, export, progress)
        with told_in([node.log], "the client's own model was not kept"):
            keep_own_model(node, record.run, progress.state, report, self.folder)

    def _facts_of(self, start: bytes) -> Mapping[str, Facts]:
        """What clients brought to the run that is open, which must be this one.

        Raises:
            ConfigError: if it is another.
        """
        try:
            return facts_in(start, self.roster, self.settings.proposal())
        except MessageError as error:
            raise ConfigError(
                "a run with other public files is open on this data set; end it with its own "
                "files, or forget it with `privfed node give-up` (the ledger keeps what it counts)"
            ) from error

    def answer(self, message: bytes) -> bytes:
        """The reply to a message of the hub."""
        reply = after_the_end(message, self.files, self.identity, self.roster, self._proposal)
        if reply is None:
            if self._program is None:
                raise ConfigError("a node must be prepared before it answers")
            reply = self._program.handle(message)
        self._follow(reply)
        return reply

    def listen(self, path: Path, group: str | None = None) -> None:
        """Answer whoever carries messages, until the run is over.

        Args:
            path: of the socket.
            group: that may open it besides this user.
        """
        with sockets.listening(path, group) as server:
            sockets.answer_all(server, self.answer, lambda: self.is_over)
        path.unlink(missing_ok=True)

    def _follow(self, reply: bytes) -> None:
        """Tell the operator what a reply is about."""
        said = statement_of(reply)
        now = time.monotonic()
        happened = None
        if said.kind == OPENED:
            happened = Told(
                what="round",
                round=said.round,
                metric=said.manifest[METRIC_VALUE],
                epsilon=said.manifest[EPSILON],
                run=said.run,
                seconds=now - self._since,
            )
            self._since = now
        elif said.kind == STARTED:
            happened, self._since = Told(what="began", run=said.run), now
        elif said.kind == CLOSED:
            happened = Told(what="closed", run=said.run, round=said.round)
        elif said.kind == REFUSAL:
            happened = Told(what="refused", run=said.run, round=said.round)
        if happened is not None:
            if happened.what != "refused":
                self._keep_status(happened)
            self.told(happened)
        if said.kind == CLOSED:
            self._closed.set()

    def _keep_status(self, happened: Told) -> None:
        try:
            keep_status(self.folder, asdict(happened))
        except PrivfedError as error:
            if self._program is not None:
                self._program.node.log.warning("the status cannot be written: %s", error)


def require_enrolled(roster: Roster, identity: Identity, name: str) -> None:
    """Refuse keys that are not those of a client of this roster.

    Raises:
        IdentityError: saying which.
    """
    party = roster.party(name)
    if party.role is not Role.CLIENT:
        raise IdentityError(
            f"{name!r} must be enrolled as client, the roster has it as {party.role}"
        )
    if party != identity.party:
        raise IdentityError(
            f"{name!r} must have the keys that the roster names, this identity file holds others; "
            "enrol it anew, or take the file that belongs to this roster"
        )
