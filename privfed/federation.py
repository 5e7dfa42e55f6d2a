"""Federate this model over these clients under this privacy with this encryption.

`Federation.run` reads like the round of the protocol: every client reserves its budget, trains,
hides its update and commits; the aggregator adds what it cannot read; whoever holds the key
decrypts one sum; the strategy moves the global adapter; a checkpoint makes the round durable.
"""

import hashlib
import secrets
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accountants import (
    AccountingError,
    AnchorFolder,
    Ledger,
    epsilon,
    verify_export,
)
from privfed import results, run_settings
from privfed.agreement import Agreement, budget_of, range_from_public_settings
from privfed.encryption.ranges import RANGE
from privfed.engines import abandoning, leaving
from privfed.engines.play import Play, Shared
from privfed.engines.wiring import Places, Wiring, wire
from privfed.errors import (
    EncryptionError,
    MessageError,
    ModelError,
    PrivfedError,
    RunFolderError,
    SpoiledSumError,
    TooFewClientsError,
)
from privfed.identity.enrolment import open_parties
from privfed.models.start_file import start_bytes
from privfed.models.tasks import Batch
from privfed.models.vector import (
    frozen_digest,
    layout_digest,
    num_trainable,
    read_vector,
    vector_digest,
    write_vector,
)
from privfed.parties.aggregator.round import AggregatorRound, Released, abandon
from privfed.parties.client import joining
from privfed.parties.client.client import Client
from privfed.parties.client.node import ClientNode
from privfed.parties.client.round import Progress, Rules
from privfed.parties.client.run import ClientRun
from privfed.private_step.evaluation import held_out_figure, require_readable
from privfed.private_step.private_model import PrivateModel
from privfed.protocol.terms import RoundPlan
from privfed.reports.budget import COMPLETE, RUNNING, BudgetReport
from privfed.reports.figures import Abandoned, RoundFigures, rounded_up
from privfed.reports.run_record import RunRecord
from privfed.run_settings import FederationSettings
from privfed.storage.checkpoint import Checkpoint
from privfed.storage.durable import write_durably
from privfed.storage.run_folder import RunFolder, run_record
from privfed.storage.state_folder import require_second_place


class Callback:
    """What a caller may follow. Override what you need; every value here is public."""

    def on_start(
        self,
        run: str,
        rounds: int,
        clients: Sequence[str],
        baseline: float,
        past: Sequence[RoundFigures],
    ) -> None:
        """Everything is prepared; training begins, after the `past` rounds of a resumed run."""

    def on_client(self, round_number: int, client: str) -> None:
        """A client is done with the round, whether or not it took part."""

    def on_round(self, figures: RoundFigures) -> None:
        """A round is complete and durable."""

    def on_abandoned(self, abandoned: Abandoned) -> None:
        """A round was given up; it is counted, and changed nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationResult:
    """What a run leaves.

    Attributes:
        folder: the run folder.
        adapter: folder with the adapter in PEFT format.
        report: the budget report; `report.html` and `report.json` in the folder show it.
        rounds: figures of every round.
        ledgers: per client, the export of its ledger.
    """

    folder: Path
    adapter: Path
    report: BudgetReport
    rounds: tuple[RoundFigures, ...]
    ledgers: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation(FederationSettings):
    """A federation that is about to run; its fields are those of `FederationSettings`."""

    def run(
        self,
        out: str | Path,
        *,
        resume: bool = False,
        without: Sequence[str] = (),
        callbacks: Sequence[Callback] = (),
    ) -> FederationResult:
        """Run all rounds and write the run folder.

        Args:
            out: run folder; must be new or empty unless resuming.
            resume: go on from the last complete round of the run in `out`.
            without: clients that a resumed run goes on without, for good; `min_clients` must stay.
            callbacks: told what happens, in order.

        Raises:
            PrivfedError: before any budget is spent, for settings, data or models that cannot be
                used; later, TooFewClientsError if a round gathers too few contributions, and
                TooFewClientsError or SpoiledSumError after two abandoned rounds in a row.
            accountants.AccountingError: for a budget too small, or a ledger that is missing,
                damaged, foreign, or shorter than the checkpoint says.
        """
        run_settings.check_clients(self.clients, self.privacy, self.min_clients)
        require_second_place(self.anchors, self.state, Path(out))
        folder = RunFolder(Path(out))
        checkpoint = folder.latest(self.describe()) if resume else None
        if not resume:
            folder.claim()
        elif checkpoint is not None and folder.is_complete():
            folder.release()
            raise RunFolderError(
                f"the run in {folder.path} is complete; there is nothing to resume"
            )
        try:
            left_out = leaving.left_out_of(
                checkpoint, without, self.clients, min_clients=self.min_clients
            )
            running = _Running.start(self, folder, checkpoint, left_out)
            try:
                if checkpoint is None:
                    write_durably(folder.start, running.initial)
                    folder.save(running.checkpoint)
                running.leave_out(left_out)
                running.write_results()  # what cannot be reported must not be begun
                running.announce(callbacks)
                while running.checkpoint.round < self.rounds:
                    running.play_round(callbacks)
                return running.finish()
            except BaseException as error:
                running.stop(error)
                raise
            finally:
                running.wiring.close()
        except KeyboardInterrupt as error:
            raise error from None  # what a client was failing at may quote its text
        finally:
            folder.release()


@dataclass(slots=True, kw_only=True)
class _Running:
    """A federation with everything built; `checkpoint` is the only thing that changes."""

    settings: FederationSettings
    folder: RunFolder
    model: PrivateModel
    runs: dict[str, ClientRun]
    ledgers: dict[str, Ledger]
    wiring: Wiring
    initial: bytes
    checkpoint: Checkpoint

    @classmethod
    def start(
        cls,
        settings: FederationSettings,
        folder: RunFolder,
        checkpoint: Checkpoint | None,
        left_out: Collection[str],
    ) -> "_Running":
        """Check, build and calibrate; the checkpoint of a fresh run is not saved yet."""
        described, asked = settings.describe(), settings.clients
        begun = None if checkpoint is None else RunRecord.from_json(checkpoint.record)
        given = settings.start if checkpoint is None else folder.start
        model, initial = _model_and_start(settings, given, num_clients=len(asked) - len(left_out))
        start = hashlib.sha256(initial).hexdigest()
        held_out = _held_out(settings, model)
        encoded = joining.encoded_records(
            [client for client in asked if client.id not in left_out],
            model,
            settings.privacy,
            settings.training,
            settings.state,
        )
        ledgers = joining.open_ledgers(
            asked,
            settings.privacy,
            settings.state,
            AnchorFolder(settings.anchors),
            None if begun is None else begun.anchors,
            secret_coins=settings.secret_coins,
        )
        settings, notes = _sized(settings, ledgers)
        ledgers = {client.id: ledgers[client.id] for client in settings.clients}
        remaining = [client for client in settings.clients if client.id not in left_out]
        run_settings.check_clients(remaining, settings.privacy, settings.min_clients)
        parties = open_parties(
            [client.id for client in remaining],
            settings.state,
            settings.enrolment,
            key_holder=settings.has_key_holder,
        )
        resumed = checkpoint is not None
        if checkpoint is None:
            checkpoint = _first_checkpoint(
                settings, described, model, held_out, ledgers, notes, start
            )
        record = RunRecord.from_json(checkpoint.record)
        _require_same_base(record.base_sha256, model.base_sha256)
        _require_same_start(record.start_sha256, start, folder.start)
        nodes = joining.build_nodes(
            remaining,
            encoded,
            ledgers,
            record.noise_multipliers,
            model,
            identities=parties.clients,
            rounds=settings.rounds,
            privacy=settings.privacy,
            training=settings.training,
            coins=settings.coins,
            state=settings.state,
        )
        wiring = wire(
            record.run,
            _agreement(settings, remaining, model, start),
            settings.encryption,
            parties,
            Places(state=settings.state, anchors=settings.anchors, resumed=resumed),
        )
        return cls(
            settings=settings,
            folder=folder,
            model=model,
            runs=_client_runs(settings, nodes, wiring, model, held_out, checkpoint),
            ledgers=ledgers,
            wiring=wiring,
            initial=initial,
            checkpoint=checkpoint,
        )

    @property
    def run(self) -> str:
        """Identifier of the run."""
        return self.record.run

    def announce(self, callbacks: Sequence[Callback]) -> None:
        """Tell the callbacks what is about to run."""
        ids = list(self.runs)
        for callback in callbacks:
            callback.on_start(
                self.run,
                self.settings.rounds,
                ids,
                self.record.baseline,
                self.record.rounds,
            )

    def play_round(self, callbacks: Sequence[Callback]) -> None:
        """One round, from the plan to the checkpoint."""
        started = time.perf_counter()
        number = self.checkpoint.round + 1

        def done(client: str) -> None:
            for callback in callbacks:
                callback.on_client(number, client)

        play = Play(
            self.runs, stacked_clients=self.settings.computation.stacked_clients, on_client=done
        )
        abandoned = abandoning.given_up_before(self.wiring, number)
        abandoned = abandoned or abandoning.lost_before(
            self._statuses(number), number, min_clients=self.settings.min_clients
        )
        if abandoned is not None:
            self._give_up(abandoned, self.record, callbacks)
            return
        try:
            released = self._round(number, play).play()
        except (TooFewClientsError, SpoiledSumError) as error:
            abandoned, earlier = abandoning.because_of(error, number), self.record.abandoned
            self._give_up(abandoned, self.record, callbacks)
            if abandoning.must_stop(abandoned, earlier, rounds=self.settings.rounds):
                raise self._stop_after(abandoned, earlier, error) from None
            return
        self._save(released, started)
        for callback in callbacks:
            callback.on_round(self.record.rounds[-1])

    def _round(self, number: int, play: Play) -> AggregatorRound:
        return AggregatorRound(
            summing=self.wiring.summing,
            exchange=play.exchange,
            plan=self._plan(number),
            public_range=self.record.public_range,
            clients=list(self.runs),
            anchors=self.record.anchors,
            before=self.wiring.sums_of(number),
            on_refused=self._tell,
        )

    def _tell(self, client: str, error: MessageError) -> None:
        """Why a client's update was not accepted, in its own log."""
        number = self.checkpoint.round + 1
        log = self.runs[client].node.log
        log.error(f"round {number}: did not take part", exc_info=error)

    @property
    def record(self) -> RunRecord:
        """What the checkpoint says of the run."""
        return RunRecord.from_json(self.checkpoint.record)

    def finish(self) -> FederationResult:
        """What a complete run leaves; its last round wrote it."""
        self.folder.write_json("run.json", run_record(self.checkpoint.record, COMPLETE))
        return FederationResult(
            folder=self.folder.path,
            adapter=self.folder.adapter,
            report=BudgetReport.from_json((self.folder.path / "report.json").read_text()),
            rounds=self.record.rounds,
            ledgers={client: ledger.export() for client, ledger in self.ledgers.items()},
        )

    def stop(self, error: BaseException) -> None:
        """Leave what says how far the run came, and what is spent, before an error ends it.

        What interrupts the run is given that sentence as its message.
        """
        number = self.checkpoint.round + 1
        try:
            begun = isinstance(error, KeyboardInterrupt) or any(
                ledger.status(self.run, number) for ledger in self.ledgers.values()
            )
            where = f"{'in' if begun else 'before'} round {number}"
            if number > self.settings.rounds:
                where = "after the last round"
            reason = f": {error}" if isinstance(error, PrivfedError | AccountingError) else ""
            report = self.write_results(f"stopped {where}{reason}")
            self.folder.write_json("run.json", run_record(self.checkpoint.record, report.status))
        except (PrivfedError, AccountingError, OSError) as unwritten:
            error.add_note(f"The report could not be brought up to date: {unwritten}")
            return
        if isinstance(error, KeyboardInterrupt):
            most = max(report.clients, key=lambda client: client.epsilon_spent)
            error.args = (
                f"stopped {where}, spent {rounded_up(most.epsilon_spent)} of "
                f"{most.epsilon_budget:g} (client {most.id!r}, the largest)",
            )

    def write_results(self, status: str | None = None) -> BudgetReport:
        """Write adapter, ledger exports and report as things stand."""
        exports = {client: ledger.export() for client, ledger in self.ledgers.items()}
        return self._results_of(self.checkpoint, exports, status or self._status(self.checkpoint))

    def _status(self, checkpoint: Checkpoint) -> str:
        return RUNNING if checkpoint.round < self.settings.rounds else COMPLETE

    def _results_of(
        self, checkpoint: Checkpoint, exports: Mapping[str, Mapping[str, Any]], status: str
    ) -> BudgetReport:
        write_vector(self.model.adapter, checkpoint.released)
        return results.write_results(
            self.folder,
            self.settings,
            model=self.model,
            facts=self.wiring.facts,
            checkpoint=checkpoint,
            exports=exports,
            status=status,
        )

    def _statuses(self, number: int) -> dict[str, str | None]:
        """How far every client that takes part had come in a round, by its ledger."""
        return {name: run.node.ledger.status(self.run, number) for name, run in self.runs.items()}

    def _plan(self, number: int) -> RoundPlan:
        return RoundPlan(
            run=self.run,
            round=number,
            base_digest=vector_digest(self.checkpoint.state),
        )

    def leave_out(self, left_out: Mapping[str, int]) -> None:
        """Make durable who takes no further part, before anybody goes on without them."""
        new = sorted(set(left_out).difference(self.record.left_out))
        if not new:
            return
        number = self.checkpoint.round + 1
        ended = leaving.ended_by_leaving(
            self.wiring, number, new, committed="committed" in self._statuses(number).values()
        )
        heavy = run_settings.weight_notes(self.wiring.agreement.weights)
        record = replace(self.record, left_out=left_out).with_notes(heavy)
        if ended is None:
            self._checkpoint(
                self.checkpoint.round, self.checkpoint.state, self.checkpoint.average, record
            )
        else:
            self._give_up(ended, record)

    def _stop_after(
        self, abandoned: Abandoned, earlier: Sequence[Abandoned], error: PrivfedError
    ) -> PrivfedError:
        """The error of a run that must not go on after this round, with what can be done."""
        advice = abandoning.advice(
            abandoned,
            earlier,
            clients=list(self.runs),
            min_clients=self.settings.min_clients,
            rounds=self.settings.rounds,
        )
        plan = self._plan(self.checkpoint.round + 1)
        used_up = [name for name, run in self.runs.items() if run.node.has_no_budget_for(plan)]
        if used_up and abandoned.round < self.settings.rounds:  # the last round uses all of it
            return TooFewClientsError(
                f"{error}. The budget of {used_up} is used up: their ledgers leave no room for "
                "another round, as when two runs spend one budget at once; agree on a larger "
                "budget, or train on other data",
                abandoned.missing,
            )
        return abandoning.stop(
            abandoned, f"{error}. The cause is in each client's own log. {advice}"
        )

    def _give_up(
        self,
        abandoned: Abandoned,
        record: RunRecord,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        """Close a round at every remaining client, then make that durable."""
        play = Play(self.runs, stacked_clients=1, on_client=lambda _: None)
        abandon(
            self.wiring.summing,
            play.exchange,
            list(self.runs),
            round_number=abandoned.round,
            reason=abandoned.reason,
            missing=abandoned.missing,
        )
        self._checkpoint(
            abandoned.round,
            self.checkpoint.state,
            self.checkpoint.average,
            replace(record, abandoned=(*record.abandoned, abandoned)),
        )
        for callback in callbacks:
            callback.on_abandoned(abandoned)

    def _figures(self, released: Released, started: float) -> RoundFigures:
        return RoundFigures(
            round=released.round,
            clients=released.contributors,
            absent=tuple(sorted(set(self.runs).difference(released.contributors))),
            metric=self.settings.model.metric,
            value=released.figure,
            bytes_up=released.bytes_up,
            bytes_down=released.bytes_down,
            bytes_holder=released.bytes_holder,
            seconds=round(time.perf_counter() - started, 2),
            seconds_aggregator=round(released.aggregator_seconds, 4),
            seconds_opening=round(released.opening_seconds, 4),
            epsilon=self._spent(),
        )

    def _spent(self) -> dict[str, float]:
        """Epsilon of every client of the run, by its ledger; those that were left out too."""
        privacy = self.settings.privacy
        return {
            client.id: epsilon(
                self.ledgers[client.id].events(),
                budget_of(client, privacy).delta,
                privacy.neighbouring,
            ).upper
            for client in self.settings.clients
        }

    def _save(self, released: Released, started: float) -> None:
        """Make a round durable, in the state that a client of the quorum holds."""
        progress = self.runs[released.opened[0]].progress
        if (progress.base, progress.public_range) != (released.base, released.public_range):
            raise EncryptionError(
                f"what clients stated after round {released.round} is not what they came to"
            )
        record = replace(
            self.record,
            rounds=(*self.record.rounds, self._figures(released, started)),
            public_range=released.public_range,
        ).with_notes(self._range_notes(released.note))
        self._checkpoint(released.round, progress.state, progress.average, record)

    def _range_notes(self, note: str | None) -> tuple[str, ...]:
        """A warning, once in a run, where the public range does not fit what was released."""
        known = any(one.startswith(RANGE) for one in self.record.notes)
        if known or note is None:
            return ()
        warnings.warn(note, UserWarning, stacklevel=2)
        return (note,)

    def _checkpoint(
        self,
        number: int,
        state: NDArray[np.float32],
        average: NDArray[np.float32] | None,
        record: RunRecord,
    ) -> None:
        """Count a round as over, once exports, adapter and report say so."""
        exports = {client: ledger.export() for client, ledger in self.ledgers.items()}
        anchors = {client: verify_export(export) for client, export in exports.items()}
        record = replace(record, anchors=anchors)
        checkpoint = Checkpoint(round=number, state=state, average=average, record=record.to_json())
        self._results_of(checkpoint, exports, self._status(checkpoint))
        self.folder.save(checkpoint)
        self.checkpoint = checkpoint


def _model_and_start(
    settings: FederationSettings, start: Path | None, *, num_clients: int
) -> tuple[PrivateModel, bytes]:
    """The model that all clients share, and the file from which it starts: as given, or new."""
    model = joining.build_private_model(
        settings.model,
        settings.adapter,
        settings.strategy,
        settings.computation,
        examples_per_record=settings.privacy.examples_per_record,
        physical_batch_size=settings.training.physical_batch_size,
        num_clients=num_clients,
        seed=settings.seed,
        device=settings.device,
        start=start,
    )
    if start is None:
        return model, start_bytes(model.adapter, model.added)
    return model, start.read_bytes()


def _held_out(settings: FederationSettings, model: PrivateModel) -> Batch:
    encoded = settings.model.collate(settings.model.tokenizer(), settings.held_out)
    require_readable(model, encoded)
    size = settings.training.physical_batch_size
    return model.with_frozen_states(encoded, size, held_out=True)


def _sized(
    settings: FederationSettings, ledgers: Mapping[str, Ledger]
) -> tuple[FederationSettings, list[str]]:
    """The settings with all public sizes as numbers, and warnings for the report.

    Who turns out to be too small takes no part.
    """
    asked, privacy = settings.clients, settings.privacy
    sized = joining.with_public_sizes(asked, ledgers, privacy, settings.coins)
    small = joining.left_out_for_size(asked, sized, ledgers, privacy)
    clients = [client for client in sized if client.id not in small]
    run_settings.check_clients(clients, privacy, settings.min_clients)
    source = joining.size_source(asked, ledgers, settings.public_size_source)
    changed = replace(settings, clients=clients, public_size_source=source)
    return changed, [*small.values(), *joining.delta_notes(clients, privacy)]


def _first_checkpoint(
    settings: FederationSettings,
    described: Mapping[str, Any],
    model: PrivateModel,
    held_out: Batch,
    ledgers: Mapping[str, Ledger],
    notes: Sequence[str],
    start: str,
) -> Checkpoint:
    sigmas = joining.calibrate(settings.clients, ledgers, settings.privacy, settings.rounds)
    derived = range_from_public_settings(settings.privacy, settings.training, sigmas)
    largest = settings.encryption.public_range or derived
    record = RunRecord(
        run=secrets.token_hex(8),
        settings=described,
        base_sha256=model.base_sha256,
        start_sha256=start,
        notes=(*notes, *run_settings.weight_notes(_weights(settings, settings.clients))),
        noise_multipliers=sigmas,
        largest_range=largest,
        public_range=largest,
        anchors={client: ledger.anchor() for client, ledger in ledgers.items()},
        baseline=held_out_figure(model, held_out, settings.training.physical_batch_size),
        rounds=(),
        abandoned=(),
        left_out={},
    )
    return Checkpoint(round=0, state=read_vector(model.adapter), record=record.to_json())


def _require_same_base(began_with: str | None, found: str | None) -> None:
    """A resumed run must train the very model that it began with."""
    if found != began_with:
        raise ModelError(
            f"the base model must have the frozen parameters that the run began with (SHA-256 "
            f"{began_with}), it has others ({found}); put back the weights that were there, or "
            "start a new run"
        )


def _require_same_start(began_with: str, found: str, path: Path) -> None:
    if found != began_with:
        raise RunFolderError(
            f"{path} is not the initial adapter that the run began with; put that back"
        )


def _agreement(
    settings: FederationSettings, remaining: Sequence[Client], model: PrivateModel, start: str
) -> Agreement:
    """Of those who take part: weights and keys are theirs alone."""
    return Agreement(
        settings=settings.agreed(),
        clients=tuple(client.describe(settings.privacy) for client in remaining),
        weights=_weights(settings, remaining),
        base_model=frozen_digest(model.adapter),
        layout=layout_digest(model.adapter),
        num_params=num_trainable(model.adapter),
        start=start,
        min_clients=settings.min_clients,
    )


def _client_runs(
    settings: FederationSettings,
    nodes: Sequence[ClientNode],
    wiring: Wiring,
    model: PrivateModel,
    held_out: Batch,
    checkpoint: Checkpoint,
) -> dict[str, ClientRun]:
    """Every client's program, as far as the checkpoint says that it had come."""

    def evaluate(adapter: NDArray[np.float32]) -> float:
        write_vector(model.adapter, adapter)
        return held_out_figure(model, held_out, settings.training.physical_batch_size)

    record, rule = RunRecord.from_json(checkpoint.record), settings.averaging
    complete = [figures.round for figures in record.rounds]
    progress = Progress(
        round=checkpoint.round,
        state=checkpoint.state,
        base=vector_digest(checkpoint.state),
        average=checkpoint.average,
        averaged=0 if rule is None else sum(map(rule.counts, complete)),
        public_range=record.public_range,
    )
    rules = Rules(
        strategy=settings.strategy,
        averaging=rule,
        summation=settings.encryption,
        weights=wiring.agreement.weights,
        largest_range=record.largest_range,
        evaluate=evaluate,
    )
    once = Shared()
    return {
        node.id: ClientRun(
            node=node,
            upload=wiring.uploads[node.id],
            rules=rules,
            progress=progress,
            roster=wiring.parties.roster,
            once=once,
        )
        for node in nodes
    }


def _weights(settings: FederationSettings, clients: Sequence[Client]) -> dict[str, float]:
    sizes = {client.id: client.size for client in clients}
    return settings.strategy.weights(sizes)
