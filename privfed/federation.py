"""Federate this model over these clients under this privacy with this encryption.

`Federation.run` reads like the round of the protocol: every client reserves its budget, trains,
hides its update and commits; the aggregator adds what it cannot read; whoever holds the key
decrypts one sum; the strategy moves the global adapter; a checkpoint makes the round durable.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accountants import Anchor, Ledger, anchor_from_json
from privfed import preparation, results
from privfed.client.dpsgd import PrivateModel
from privfed.client.evaluation import held_out_figure
from privfed.client.node import ClientNode
from privfed.client.state import key_path
from privfed.encryption import fixedpoint
from privfed.engines.inprocess import collect_updates
from privfed.errors import MessageError, RunFolderError, TooFewClientsError
from privfed.messages import Envelope, RoundPlan
from privfed.models.tasks import Batch
from privfed.models.vector import read_vector, vector_digest, write_vector
from privfed.preparation import SumChannel
from privfed.reports.budget import BudgetReport
from privfed.reports.figures import RoundFigures
from privfed.run_folder import RunFolder
from privfed.server.aggregate import Aggregator
from privfed.server.checkpoint import Checkpoint
from privfed.settings import FederationSettings


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
        self, out: str | Path, *, resume: bool = False, callbacks: Sequence[Callback] = ()
    ) -> FederationResult:
        """Run all rounds and write the run folder.

        Args:
            out: run folder; must be new or empty unless resuming.
            resume: go on from the last complete round of the run in `out`.
            callbacks: told what happens, in order.

        Raises:
            PrivfedError: before any budget is spent, for settings, data or models that cannot be
                used; later, TooFewClientsError if a round gathers too few contributions.
            accountants.AccountingError: for a budget too small, or a ledger that is missing,
                damaged, foreign, or shorter than the checkpoint says.
        """
        notes = preparation.check_clients(self.clients, self.privacy, self.min_clients)
        folder = RunFolder(Path(out))
        checkpoint = folder.latest(self.describe()) if resume else None
        if not resume:
            folder.claim()
        elif checkpoint is not None and folder.is_complete():
            key_path(self.state, checkpoint.record["run"]).unlink(missing_ok=True)
            folder.release()
            raise RunFolderError(
                f"the run in {folder.path} is complete; there is nothing to resume"
            )
        try:
            running = _Running.start(self, folder, checkpoint, notes)
            running.write_report("running")  # what cannot be reported must not be begun
            running.announce(callbacks)
            while running.checkpoint.round < self.rounds:
                running.play_round(callbacks)
            return running.finish()
        finally:
            folder.release()


@dataclass(slots=True, kw_only=True)
class _Running:
    """A federation with everything built; `checkpoint` is the only thing that changes."""

    settings: FederationSettings
    folder: RunFolder
    model: PrivateModel
    nodes: list[ClientNode]
    ledgers: dict[str, Ledger]
    channel: SumChannel
    held_out: Batch
    checkpoint: Checkpoint

    @classmethod
    def start(
        cls,
        settings: FederationSettings,
        folder: RunFolder,
        checkpoint: Checkpoint | None,
        notes: Sequence[str],
    ) -> "_Running":
        """Check, build and calibrate; a fresh run ends with its first checkpoint."""
        model = preparation.build_private_model(
            settings.model,
            settings.adapter,
            settings.strategy,
            seed=settings.seed,
            device=settings.device,
        )
        held_out = settings.model.collate(settings.model.tokenizer(), settings.held_out)
        anchors = None if checkpoint is None else checkpoint.record["anchors"]
        ledgers = preparation.open_ledgers(
            settings.clients, settings.state, anchors, secret_coins=settings.secret_coins
        )
        fresh = checkpoint is None
        if checkpoint is None:
            checkpoint = _first_checkpoint(settings, model, held_out, ledgers, notes)
        running = cls(
            settings=settings,
            folder=folder,
            model=model,
            nodes=preparation.build_nodes(
                settings.clients,
                ledgers,
                checkpoint.record["noise_multipliers"],
                model,
                rounds=settings.rounds,
                privacy=settings.privacy,
                training=settings.training,
                coins=settings.coins,
                state=settings.state,
            ),
            ledgers=ledgers,
            channel=_channel(settings, model, checkpoint.record, resume=not fresh),
            held_out=held_out,
            checkpoint=checkpoint,
        )
        if fresh:
            folder.save(checkpoint)
        return running

    @property
    def run(self) -> str:
        """Identifier of the run."""
        return str(self.checkpoint.record["run"])

    def announce(self, callbacks: Sequence[Callback]) -> None:
        """Tell the callbacks what is about to run."""
        ids = [node.id for node in self.nodes]
        for callback in callbacks:
            callback.on_start(
                self.run,
                self.settings.rounds,
                ids,
                self.checkpoint.record["baseline"],
                self.rounds,
            )

    def play_round(self, callbacks: Sequence[Callback]) -> None:
        """One round, from the plan to the checkpoint."""
        started = time.perf_counter()
        state, plan = self.checkpoint.state, self._plan()
        manifest = {"base": plan.base_digest, "parameters": dict(self.channel.parameters)}
        cohort = [node.id for node in self.nodes]
        aggregator = Aggregator(
            plan,
            cohort,
            manifest,
            self._anchors(),
            self.channel.new_adder(),
            self.settings.min_clients,
        )

        def done(client: str) -> None:
            for callback in callbacks:
                callback.on_client(plan.round, client)

        codecs = {client: self.channel.codec(client, manifest) for client in cohort}
        collect_updates(self.nodes, plan, state, codecs, aggregator, done)
        message = self._sum(aggregator, plan)
        state = self.settings.strategy.next_state(state, self._mean_update(message, plan, manifest))
        self._save(plan.round, state, self._figures(plan, state, aggregator, message, started))
        for callback in callbacks:
            callback.on_round(self.rounds[-1])

    @property
    def rounds(self) -> tuple[RoundFigures, ...]:
        """Figures of the complete rounds."""
        return tuple(RoundFigures.from_json(row) for row in self.checkpoint.record["rounds"])

    def finish(self) -> FederationResult:
        """Write what a complete run leaves; its key is no longer needed."""
        report, exports = self.write_report("complete")
        key_path(self.settings.state, self.run).unlink(missing_ok=True)
        return FederationResult(
            folder=self.folder.path,
            adapter=self.folder.adapter,
            report=report,
            rounds=self.rounds,
            ledgers=exports,
        )

    def write_report(self, status: str) -> tuple[BudgetReport, dict[str, dict[str, Any]]]:
        """Write adapter, ledger exports and report as things stand."""
        write_vector(self.model.adapter, self.checkpoint.state)
        exports = {client: ledger.export() for client, ledger in self.ledgers.items()}
        report = results.write_results(
            self.folder,
            self.settings,
            model=self.model,
            channel=self.channel,
            record=self.checkpoint.record,
            exports=exports,
            status=status,
        )
        return report, exports

    def _anchors(self) -> dict[str, Anchor]:
        """What the last checkpoint knows of every client's ledger."""
        known = self.checkpoint.record["anchors"]
        return {client: anchor_from_json(anchor) for client, anchor in known.items()}

    def _plan(self) -> RoundPlan:
        number = self.checkpoint.round + 1
        return RoundPlan(
            run=self.run,
            round=number,
            base_digest=vector_digest(self.checkpoint.state),
            learning_rate=self.settings.training.learning_rate_of(number, self.settings.rounds),
        )

    def _sum(self, aggregator: Aggregator, plan: RoundPlan) -> bytes:
        """The encrypted sum; a round with too few contributions is closed before the run stops."""
        try:
            return aggregator.total()
        except TooFewClientsError as error:
            record = self.checkpoint.record
            abandoned = [*record["abandoned"], plan.round]
            self._checkpoint(plan.round, self.checkpoint.state, {**record, "abandoned": abandoned})
            self.write_report(f"stopped: {error}")
            raise TooFewClientsError(
                f"{error}. The cause is in each client's own log under "
                f"{self.settings.state / 'clients'}; `resume` goes on with the next round"
            ) from None

    def _mean_update(
        self, message: bytes, plan: RoundPlan, manifest: Mapping[str, Any]
    ) -> NDArray[np.float64]:
        """What the holders of the key make of the sum, shape (params,)."""
        envelope = Envelope.from_bytes(message)
        contributors = list(envelope.manifest.get("contributors") or ())
        expected = (plan.run, plan.round, "sum", {**manifest, "contributors": contributors})
        got = (envelope.run, envelope.round, envelope.kind, dict(envelope.manifest))
        cohort = {node.id for node in self.nodes}
        named = [client for client in cohort if contributors.count(client) == 1]
        if got != expected or sorted(named) != contributors:
            raise MessageError(f"the sum is not that of run {plan.run}, round {plan.round}")
        integers = self.channel.cipher.decrypt_sum(envelope.blobs, contributors)
        total = fixedpoint.decode(
            integers, public_range=self.channel.public_range, bits=self.channel.bits
        )
        return preparation.mean_update(self.channel, total, contributors)

    def _figures(
        self,
        plan: RoundPlan,
        state: NDArray[np.float32],
        aggregator: Aggregator,
        message: bytes,
        started: float,
    ) -> RoundFigures:
        write_vector(self.model.adapter, state)
        value = held_out_figure(
            self.model, self.held_out, self.settings.training.physical_batch_size
        )
        cohort = [node.id for node in self.nodes]
        return RoundFigures(
            round=plan.round,
            clients=tuple(aggregator.contributors),
            absent=tuple(sorted(set(cohort) - set(aggregator.contributors))),
            metric=self.settings.model.metric,
            value=value,
            bytes_up=aggregator.bytes_up,
            bytes_down=len(message) * len(cohort),
            seconds=round(time.perf_counter() - started, 2),
            epsilon={node.id: node.epsilon_spent() for node in self.nodes},
        )

    def _save(self, number: int, state: NDArray[np.float32], figures: RoundFigures) -> None:
        record = self.checkpoint.record
        rows = [*record["rounds"], figures.to_json()]
        self._checkpoint(number, state, {**record, "rounds": rows})

    def _checkpoint(self, number: int, state: NDArray[np.float32], record: dict[str, Any]) -> None:
        anchors = {client: ledger.anchor().to_json() for client, ledger in self.ledgers.items()}
        self.checkpoint = Checkpoint(
            round=number, state=state, record={**record, "anchors": anchors}
        )
        self.folder.save(self.checkpoint)


def _first_checkpoint(
    settings: FederationSettings,
    model: PrivateModel,
    held_out: Batch,
    ledgers: Mapping[str, Ledger],
    notes: Sequence[str],
) -> Checkpoint:
    record = {
        "run": secrets.token_hex(8),
        "settings": settings.describe(),
        "notes": list(notes),
        "noise_multipliers": preparation.calibrate(
            settings.clients, ledgers, settings.privacy, settings.rounds
        ),
        "anchors": {client: ledger.anchor().to_json() for client, ledger in ledgers.items()},
        "baseline": held_out_figure(model, held_out, settings.training.physical_batch_size),
        "rounds": [],
        "abandoned": [],
    }
    return Checkpoint(round=0, state=read_vector(model.adapter), record=record)


def _channel(
    settings: FederationSettings, model: PrivateModel, record: Mapping[str, Any], *, resume: bool
) -> SumChannel:
    sizes = {client.id: client.public_size for client in settings.clients}
    derived = preparation.range_from_public_settings(
        settings.privacy, settings.training, record["noise_multipliers"]
    )
    return preparation.open_channel(
        settings.encryption,
        model,
        weights=settings.strategy.weights(sizes),
        public_range=settings.encryption.public_range or derived,
        min_clients=settings.min_clients,
        run=record["run"],
        state=settings.state,
        resume=resume,
    )
