"""A federation in one process: every client's program, the aggregator's, and a key holder beside.

It hands their bytes on, and writes what a run leaves after every round. The protocol is in
`protocol.kinds`, its two halves in `parties.client` and `parties.aggregator`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accountants import AccountingError, epsilon, verify_export
from privfed import run_settings
from privfed.agreement import budget_of
from privfed.engines.callback import Callback
from privfed.engines.play import Play
from privfed.engines.wiring import SharedStore, open_link, programs
from privfed.errors import EncryptionError, MessageError, ModelError, PrivfedError, RunFolderError
from privfed.identity.enrolment import Parties, open_parties
from privfed.methods.method import GlobalState, Method, released_digest
from privfed.models.vector import write_vector
from privfed.parties.aggregator import leaving
from privfed.parties.aggregator.reached import Reached
from privfed.parties.aggregator.run import AggregatorRun, Following
from privfed.parties.client.client import Client
from privfed.parties.client.kept_run import KeptRun
from privfed.parties.client.own_model import OwnModel, keep_own_model
from privfed.parties.client.program import Program
from privfed.parties.client.round import Progress
from privfed.parties.client.setup import Known, Prepared, prepare
from privfed.parties.client.starting import facts_in
from privfed.protocol.links import AddressLink, ProcessLink
from privfed.protocol.terms import RoundPlan
from privfed.reports.budget import COMPLETE, RUNNING, BudgetReport
from privfed.reports.round_record import Abandoned, RoundRecord, rounded_up
from privfed.reports.run_facts import RunFacts
from privfed.reports.run_record import RunRecord
from privfed.reports.run_results import write_results
from privfed.run_settings import FederationSettings
from privfed.storage.checkpoint import Checkpoint
from privfed.storage.durable import write_durably
from privfed.storage.run_folder import RunFolder, run_record
from privfed.storage.state_folder import client_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationResult:
    """What a run leaves.

    Attributes:
        folder: the run folder.
        adapter: folder with the adapter in PEFT format.
        report: the budget report; `report.html` and `report.json` in the folder show it.
        rounds: numbers of every round.
        ledgers: per client, the export of its ledger.
        own: per client whose own model is not the shared one, or that has held-out text of its own:
            its model and its figures, which lie in the client's folder, not in that of the run.
    """

    folder: Path
    adapter: Path
    report: BudgetReport
    rounds: tuple[RoundRecord, ...]
    ledgers: dict[str, dict[str, Any]]
    own: dict[str, OwnModel]


@dataclass(slots=True, kw_only=True)
class Simulation:
    """A simulated federation with everything built.

    Attributes:
        asked: as the caller gave it.
        settings: the same with all public sizes as numbers, of the clients that take part.
        folder: of the run.
        brought: what all clients bring.
        parties: everybody's keys.
        clients: every client's program, of those that were not left out.
        left_out: clients that take no further part, and from which round on.
        reached: how far a run that goes on had come.
        callbacks: told what happens.
        aggregator: its program.
    """

    asked: FederationSettings
    settings: FederationSettings
    folder: RunFolder
    brought: Prepared
    parties: Parties
    clients: Mapping[str, Program]
    left_out: Mapping[str, int]
    reached: Reached | None
    callbacks: Sequence[Callback] = ()
    aggregator: AggregatorRun = field(init=False)
    _links: list[ProcessLink | AddressLink] = field(default_factory=list)

    @classmethod
    def prepared(
        cls,
        federation: FederationSettings,
        clients: Sequence[Client],
        folder: RunFolder,
        checkpoint: Checkpoint | None,
        without: Sequence[str],
    ) -> "Simulation":
        """Check, load and calibrate.

        Args:
            federation: its settings.
            clients: who is asked to take part, with their records.
            folder: of the run.
            checkpoint: from which the run goes on; None for a new one.
            without: clients that it goes on without.
        """
        record = None if checkpoint is None else RunRecord.from_json(checkpoint.record)
        names = [client.id for client in clients]
        left_out = leaving.left_out_of(record, without, names, min_clients=federation.min_clients)
        here = [name for name in names if name not in left_out]
        parties = open_parties(
            names if federation.enrolment is None else here,
            federation.state,
            federation.enrolment,
            key_holder=federation.has_key_holder,
        )
        kept = None if checkpoint is None else _kept(folder, checkpoint)
        known = None
        if kept is not None and record is not None:
            facts = facts_in(kept.start, parties.roster, federation.proposal())
            known = Known(anchors=record.anchors, facts=facts)
        brought = prepare(
            federation,
            clients,
            parties.clients,
            start=federation.start if record is None else folder.start,
            known=known,
            left_out=left_out,
        )
        remaining = [client for client in brought.clients if client.id not in left_out]
        run_settings.check_clients(remaining, federation.privacy, federation.min_clients)
        if record is not None:
            _require_same_model(record, brought, folder.start)
        return cls(
            asked=federation,
            settings=federation.of_clients(brought.clients, brought.size_source),
            folder=folder,
            brought=brought,
            parties=parties,
            clients=programs(
                federation, brought, parties, SharedStore(folder=folder, goes_on=kept)
            ),
            left_out=left_out,
            reached=None
            if checkpoint is None or known is None
            else _reached(checkpoint, known, federation.method),
        )

    def begin(self, callbacks: Sequence[Callback]) -> None:
        """Have all clients ready and the report written, before anything is spent."""
        past = () if self.reached is None else self.reached.record.rounds
        self.callbacks = callbacks
        self.aggregator = self.new_aggregator()
        self.aggregator.begin(self.left_out)
        self._write_results()  # what cannot be reported must not be begun
        for callback in callbacks:
            callback.on_start(
                self.record.run,
                self.settings.rounds,
                list(self.clients),
                self.record.baseline,
                past,
            )

    def new_aggregator(self) -> AggregatorRun:
        """The aggregator's program, which reaches the clients of this process."""
        return AggregatorRun(
            identity=self.parties.aggregator,
            roster=self.parties.roster,
            proposal=self.asked.proposal(),
            described=self.asked.describe(),
            connect=self._connect if self.settings.has_key_holder else None,
            exchange=Play(
                self.clients,
                stacked_clients=self.settings.computation.stacked_clients,
                on_client=self._on_client,
            ).exchange,
            following=Following(
                keep=self._keep,
                on_refused=self._on_refused,
                on_round=self._on_round,
                on_abandoned=self._on_abandoned,
                advise=self._advise,
            ),
            reached=self.reached,
            declined=self._too_small(),
            notes=self._notes(),
        )

    @property
    def record(self) -> RunRecord:
        """How far the run has come."""
        return self.aggregator.record

    def finish(self) -> FederationResult:
        """What a complete run leaves; its last round wrote it."""
        report = BudgetReport.from_json((self.folder.path / "report.json").read_text())
        own = self._own_models(report)
        self.folder.write_json("run.json", run_record(self.record.to_json(), COMPLETE))
        return FederationResult(
            folder=self.folder.path,
            adapter=self.folder.adapter,
            report=report,
            rounds=self.record.rounds,
            ledgers=self._exports(),
            own=own,
        )

    def _own_models(self, report: BudgetReport) -> dict[str, OwnModel]:
        places = {
            client.id: client_folder(self.settings.state, client.id, client.dataset)
            for client in self.settings.clients
        }
        found = {
            name: keep_own_model(
                client.node, self.record.run, client.membership.progress.state, report, places[name]
            )
            for name, client in self.clients.items()
        }
        return {name: own for name, own in found.items() if own is not None}

    def stop(self, error: BaseException) -> None:
        """Leave what says how far the run came, and what is spent, before an error ends it.

        What interrupts the run is given that sentence as its message.
        """
        if self._is_new():
            return  # it has not begun, and leaves nothing
        number = self.record.over + 1
        try:
            begun = isinstance(error, KeyboardInterrupt) or any(
                ledger.status(self.record.run, number) for ledger in self.brought.ledgers.values()
            )
            where = f"{'in' if begun else 'before'} round {number}"
            if number > self.settings.rounds:
                where = "after the last round"
            reason = f": {error}" if isinstance(error, PrivfedError | AccountingError) else ""
            report = self._write_results(f"stopped {where}{reason}")
            self.folder.write_json("run.json", run_record(self.record.to_json(), report.status))
        except (PrivfedError, AccountingError, OSError) as unwritten:
            error.add_note(f"The report could not be brought up to date: {unwritten}")
            return
        if isinstance(error, KeyboardInterrupt):
            most = max(report.clients, key=lambda client: client.epsilon_spent)
            error.args = (
                f"stopped {where}, spent {rounded_up(most.epsilon_spent)} of "
                f"{most.epsilon_budget:g} (client {most.id!r}, the largest)",
            )

    def close(self) -> None:
        """End the connection to the key holder, and its process if it was started here."""
        for link in self._links:
            link.close()

    def _is_new(self) -> bool:
        return not hasattr(self, "aggregator") or self.aggregator.reached is None

    def _connect(self, run: str) -> ProcessLink | AddressLink:
        self._links.append(open_link(self.settings, self.parties, run))
        return self._links[-1]

    def _too_small(self) -> list[str]:
        """Clients that were asked and turned out to be too small to take part."""
        sized = {client.id for client in self.settings.clients}
        return [client.id for client in self.asked.clients if client.id not in sized]

    def _notes(self) -> tuple[str, ...]:
        """What is to be questioned of a new run, or of one that goes on without some."""
        known = {} if self.reached is None else self.reached.record.left_out
        if self.reached is not None and set(self.left_out) == set(known):
            return ()
        sizes = {c.id: c.size for c in self.settings.clients if c.id not in self.left_out}
        steps = self.settings.steps
        heavy = run_settings.weight_notes(self.settings.method.weights(sizes, steps), steps)
        return heavy if self.reached is not None else (*self.brought.notes, *heavy)

    def _on_client(self, client: str) -> None:
        for callback in self.callbacks:
            callback.on_client(self.record.over + 1, client)

    def _on_refused(self, client: str, error: MessageError) -> None:
        """Why a client's update was not accepted, in its own log."""
        log = self.clients[client].node.log
        log.error(f"round {self.record.over + 1}: did not take part", exc_info=error)

    def _on_round(self, record: RoundRecord) -> None:
        for callback in self.callbacks:
            callback.on_round(record)

    def _on_abandoned(self, abandoned: Abandoned) -> None:
        for callback in self.callbacks:
            callback.on_abandoned(abandoned)

    def _advise(self, abandoned: Abandoned) -> str | None:
        """What only one process of all clients can see: whose budget is used up."""
        number = abandoned.round + 1
        plan = RoundPlan(run=self.record.run, round=number, base_digest="")
        used_up = [
            name
            for name in self.aggregator.drawn(number)
            if name in self.clients and self.clients[name].node.has_no_budget_for(plan)
        ]
        if not used_up or number > self.settings.rounds:  # the last round uses all of it
            return None
        return (
            f"The budget of {used_up} is used up: their ledgers leave no room for another round, "
            "as when two runs spend one budget at once; agree on a larger budget, or train on "
            "other data"
        )

    def _keep(self, reached: Reached) -> Reached:
        """Count a round as over, once exports, adapter and report say so."""
        new = self._is_new()
        exports = self._exports()
        record = replace(
            reached.record,
            rounds=self._with_ledgers(reached.record),
            anchors={client: verify_export(export) for client, export in exports.items()},
        )
        kept = replace(reached, record=record)
        checkpoint = self._checkpoint(kept)
        if new:
            write_durably(self.folder.start, self.brought.start)
        else:
            self._results_of(checkpoint, exports, self._status(record))
        self.folder.save(checkpoint)
        return kept

    def _with_ledgers(self, record: RunRecord) -> tuple[RoundRecord, ...]:
        """The rounds; epsilon of the one that is just over by all ledgers, also where one is away.

        In one process they are at hand; between machines it is what each client stated last.
        """
        if not record.rounds or record.rounds[-1].round != record.over:
            return record.rounds
        privacy = self.settings.privacy
        spent = {
            client.id: epsilon(
                self.brought.ledgers[client.id].events(),
                budget_of(client, privacy).delta,
                privacy.neighbouring,
            ).upper
            for client in self.settings.clients
        }
        return (*record.rounds[:-1], replace(record.rounds[-1], epsilon=spent))

    def _checkpoint(self, reached: Reached) -> Checkpoint:
        """The run, with the adapter of a client that came to what most of them state."""
        for client in self.clients.values():
            progress = client.membership.progress
            left = released_digest(self.settings.method, progress.state)
            if (progress.base, left) == (reached.base, reached.released):
                return Checkpoint(
                    round=reached.record.over,
                    tensors=progress.state.tensors(),
                    record=reached.record.to_json(),
                )
        raise EncryptionError(
            f"what clients stated after round {reached.record.over} is not what they came to"
        )

    def _exports(self) -> dict[str, dict[str, Any]]:
        return {client: ledger.export() for client, ledger in self.brought.ledgers.items()}

    def _write_results(self, status: str | None = None) -> BudgetReport:
        """Write adapter, ledger exports and report as things stand."""
        if self.aggregator.reached is None:
            raise MessageError("the run has not begun")
        checkpoint = self._checkpoint(self.aggregator.reached)
        return self._results_of(checkpoint, self._exports(), status or self._status(self.record))

    def _status(self, record: RunRecord) -> str:
        return RUNNING if record.over < self.settings.rounds else COMPLETE

    def _results_of(
        self, checkpoint: Checkpoint, exports: Mapping[str, Mapping[str, Any]], status: str
    ) -> BudgetReport:
        state = GlobalState.of_tensors(checkpoint.tensors)
        write_vector(self.brought.model.adapter, self.settings.method.left(state))
        return write_results(
            self.folder,
            self.settings,
            model=self.brought.model,
            facts=self._facts(),
            checkpoint=checkpoint,
            exports=exports,
            status=status,
        )

    def _facts(self) -> RunFacts:
        """What the report says of how updates are summed; all clients hold it the same."""
        members = [client.membership for client in self.clients.values()]
        (starting, *_) = [one.starting for one in members if one.starting is not None]
        first, *_ = members[0].known.values()
        summing = self.aggregator.summing_or_none
        return RunFacts(
            agreement=starting.agreement,
            participants=tuple(client.id for client in self.settings.clients),
            base_model=first.base_model,
            scheme=starting.scheme,
            roster=self.parties.roster.digest().hex(),
            simulated_keys=self.parties.simulated,
            key={} if summing is None else summing.key,
            key_bytes=0 if summing is None else summing.key_bytes,
            in_one_process=True,
        )


def _kept(folder: RunFolder, checkpoint: Checkpoint) -> KeptRun:
    """What every client of a run that goes on would have kept of it."""
    record, state = (
        RunRecord.from_json(checkpoint.record),
        GlobalState.of_tensors(checkpoint.tensors),
    )
    progress = Progress(
        round=checkpoint.round,
        state=state,
        base=state.digest(),
        public_range=record.public_range,
    )
    return KeptRun(
        run=record.run, start=folder.beginning(), left_out=None, progress=progress, before=None
    )


def _reached(checkpoint: Checkpoint, known: Known, method: Method) -> Reached:
    state = GlobalState.of_tensors(checkpoint.tensors)
    return Reached(
        base=state.digest(),
        released=released_digest(method, state),
        record=RunRecord.from_json(checkpoint.record),
        opened={},
        facts=known.facts,
    )


def _require_same_model(record: RunRecord, brought: Prepared, start: Path) -> None:
    """A resumed run must train the very models that it began with."""
    for name, node in brought.nodes.items():
        began, found = record.base_of(name), node.model.base_sha256
        if found != began:
            raise ModelError(
                f"the base model of {name!r} must have the frozen parameters that the run began "
                f"with (SHA-256 {began}), it has others ({found}); put back the weights that were "
                "there, or start a new run"
            )
    if hashlib.sha256(brought.start).hexdigest() != record.start_sha256:
        raise RunFolderError(
            f"{start} is not the initial adapter that the run began with; put that back"
        )
