"""Federate this model over these clients under this privacy with this encryption.

`Federation.run` reads like the round of the protocol: every client reserves its budget, trains,
hides its update and commits; the aggregator adds what it cannot read; whoever holds the key
decrypts one sum; the strategy moves the global adapter; a checkpoint makes the round durable.
"""

import hashlib
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
from privfed.channel import Public, SumChannel, open_channel
from privfed.client.evaluation import held_out_figure, require_readable
from privfed.client.node import ClientNode
from privfed.client.private_model import PrivateModel
from privfed.errors import RunFolderError, TooFewClientsError
from privfed.messages import RoundPlan, canonical_json
from privfed.models.tasks import Batch
from privfed.models.vector import (
    frozen_digest,
    layout_digest,
    num_trainable,
    read_vector,
    vector_digest,
    write_vector,
)
from privfed.parties import Parties, open_parties
from privfed.reports.budget import BudgetReport
from privfed.reports.figures import RoundFigures
from privfed.rounds import Outcome, play
from privfed.run_folder import RunFolder
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
            folder.release()
            raise RunFolderError(
                f"the run in {folder.path} is complete; there is nothing to resume"
            )
        try:
            running = _Running.start(self, folder, checkpoint, notes)
            try:
                if checkpoint is None:
                    folder.save(running.checkpoint)
                running.write_report("running")  # what cannot be reported must not be begun
                running.announce(callbacks)
                while running.checkpoint.round < self.rounds:
                    running.play_round(callbacks)
                return running.finish()
            finally:
                running.channel.close()
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
        """Check, build and calibrate; the checkpoint of a fresh run is not saved yet."""
        model = preparation.build_private_model(
            settings.model,
            settings.adapter,
            settings.strategy,
            settings.computation,
            examples_per_record=settings.privacy.examples_per_record,
            physical_batch_size=settings.training.physical_batch_size,
            num_clients=len(settings.clients),
            seed=settings.seed,
            device=settings.device,
        )
        held_out = _held_out(settings, model)
        anchors = None if checkpoint is None else checkpoint.record["anchors"]
        ledgers = preparation.open_ledgers(
            settings.clients, settings.state, anchors, secret_coins=settings.secret_coins
        )
        parties = open_parties(
            [client.id for client in settings.clients],
            settings.state,
            settings.enrolment,
            key_holder=settings.has_key_holder,
        )
        if checkpoint is None:
            checkpoint = _first_checkpoint(settings, model, held_out, ledgers, notes)
        return cls(
            settings=settings,
            folder=folder,
            model=model,
            nodes=preparation.build_nodes(
                settings.clients,
                ledgers,
                checkpoint.record["noise_multipliers"],
                model,
                identities=parties.clients,
                rounds=settings.rounds,
                privacy=settings.privacy,
                training=settings.training,
                coins=settings.coins,
                state=settings.state,
            ),
            ledgers=ledgers,
            channel=_channel(settings, model, checkpoint.record, parties),
            held_out=held_out,
            checkpoint=checkpoint,
        )

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

        def done(client: str) -> None:
            for callback in callbacks:
                callback.on_client(plan.round, client)

        try:
            outcome = play(
                self.channel,
                self.nodes,
                plan,
                state,
                public_range=self.checkpoint.record["public_range"],
                anchors=self._anchors(),
                on_client=done,
                stacked_clients=self.settings.computation.stacked_clients,
            )
        except TooFewClientsError as error:
            raise self._abandoned(plan, error) from None
        state = self.settings.strategy.next_state(state, outcome.mean_update)
        average = self._averaged(plan.round, state)
        left = state if average is None else average
        figures = self._figures(plan, left, outcome, started)
        self._save(plan.round, state, average, outcome, figures)
        for callback in callbacks:
            callback.on_round(self.rounds[-1])

    @property
    def rounds(self) -> tuple[RoundFigures, ...]:
        """Figures of the complete rounds."""
        return tuple(RoundFigures.from_json(row) for row in self.checkpoint.record["rounds"])

    def finish(self) -> FederationResult:
        """Write what a complete run leaves."""
        report, exports = self.write_report("complete")
        return FederationResult(
            folder=self.folder.path,
            adapter=self.folder.adapter,
            report=report,
            rounds=self.rounds,
            ledgers=exports,
        )

    def write_report(self, status: str) -> tuple[BudgetReport, dict[str, dict[str, Any]]]:
        """Write adapter, ledger exports and report as things stand."""
        write_vector(self.model.adapter, self.checkpoint.released)
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
        )

    def _abandoned(self, plan: RoundPlan, error: TooFewClientsError) -> TooFewClientsError:
        """Close a round with too few contributions, before the run stops."""
        record = self.checkpoint.record
        abandoned = [*record["abandoned"], plan.round]
        self._checkpoint(
            plan.round,
            self.checkpoint.state,
            self.checkpoint.average,
            {**record, "abandoned": abandoned},
        )
        self.write_report(f"stopped: {error}")
        return TooFewClientsError(
            f"{error}. The cause is in each client's own log under "
            f"{self.settings.state / 'clients'}; `resume` goes on with the next round"
        )

    def _averaged(self, number: int, state: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """The average with the adapter after a round, where the round counts."""
        rule, average = self.settings.averaging, self.checkpoint.average
        if rule is None or not rule.counts(number):
            return average
        counted = sum(rule.counts(figures.round) for figures in self.rounds)
        return rule.with_next(state if average is None else average, counted, state)

    def _figures(
        self, plan: RoundPlan, left: NDArray[np.float32], outcome: Outcome, started: float
    ) -> RoundFigures:
        write_vector(self.model.adapter, left)
        value = held_out_figure(
            self.model, self.held_out, self.settings.training.physical_batch_size
        )
        cohort = {node.id for node in self.nodes}
        return RoundFigures(
            round=plan.round,
            clients=outcome.contributors,
            absent=tuple(sorted(cohort.difference(outcome.contributors))),
            metric=self.settings.model.metric,
            value=value,
            bytes_up=outcome.bytes_up,
            bytes_down=outcome.bytes_down,
            bytes_holder=outcome.bytes_holder,
            seconds=round(time.perf_counter() - started, 2),
            seconds_clients=round(outcome.client_seconds, 4),
            seconds_aggregator=round(outcome.aggregator_seconds, 4),
            seconds_opening=round(outcome.opening_seconds, 4),
            epsilon={node.id: node.epsilon_spent() for node in self.nodes},
        )

    def _save(
        self,
        number: int,
        state: NDArray[np.float32],
        average: NDArray[np.float32] | None,
        outcome: Outcome,
        figures: RoundFigures,
    ) -> None:
        record = self.checkpoint.record
        narrowed = self.channel.next_range(
            outcome.mean_update, len(outcome.contributors), record["largest_range"]
        )
        rows = [*record["rounds"], figures.to_json()]
        record = {**record, "rounds": rows, "public_range": narrowed}
        self._checkpoint(number, state, average, record)

    def _checkpoint(
        self,
        number: int,
        state: NDArray[np.float32],
        average: NDArray[np.float32] | None,
        record: dict[str, Any],
    ) -> None:
        anchors = {client: ledger.anchor().to_json() for client, ledger in self.ledgers.items()}
        self.checkpoint = Checkpoint(
            round=number, state=state, average=average, record={**record, "anchors": anchors}
        )
        self.folder.save(self.checkpoint)


def _held_out(settings: FederationSettings, model: PrivateModel) -> Batch:
    encoded = settings.model.collate(settings.model.tokenizer(), settings.held_out)
    require_readable(model, encoded)
    size = settings.training.physical_batch_size
    return model.with_frozen_states(encoded, size, held_out=True)


def _first_checkpoint(
    settings: FederationSettings,
    model: PrivateModel,
    held_out: Batch,
    ledgers: Mapping[str, Ledger],
    notes: Sequence[str],
) -> Checkpoint:
    sigmas = preparation.calibrate(settings.clients, ledgers, settings.privacy, settings.rounds)
    derived = preparation.range_from_public_settings(settings.privacy, settings.training, sigmas)
    largest = settings.encryption.public_range or derived
    record = {
        "run": secrets.token_hex(8),
        "settings": settings.describe(),
        "notes": [*notes, *preparation.weight_notes(_weights(settings))],
        "noise_multipliers": sigmas,
        "largest_range": largest,
        "public_range": largest,
        "anchors": {client: ledger.anchor().to_json() for client, ledger in ledgers.items()},
        "baseline": held_out_figure(model, held_out, settings.training.physical_batch_size),
        "rounds": [],
        "abandoned": [],
    }
    return Checkpoint(round=0, state=read_vector(model.adapter), record=record)


def _channel(
    settings: FederationSettings, model: PrivateModel, record: Mapping[str, Any], parties: Parties
) -> SumChannel:
    weights = _weights(settings)
    agreed = canonical_json({"settings": settings.describe(), "weights": weights})
    public = Public(
        run=record["run"],
        num_params=num_trainable(model.adapter),
        base_model=frozen_digest(model.adapter),
        layout=layout_digest(model.adapter),
        settings=hashlib.sha256(agreed).hexdigest(),
        weights=weights,
        min_clients=settings.min_clients,
    )
    return open_channel(public, settings.encryption, parties, settings.state)


def _weights(settings: FederationSettings) -> dict[str, float]:
    sizes = {client.id: client.public_size for client in settings.clients}
    return settings.strategy.weights(sizes)
