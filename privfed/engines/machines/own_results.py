"""What a node leaves of its run for its own organisation: report, ledger export and adapter."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privfed.models.vector import write_vector
from privfed.parties.client.round import Progress
from privfed.private_step.private_model import PrivateModel
from privfed.reports.adapter_folder import save_adapter
from privfed.reports.budget import BudgetReport
from privfed.reports.render import render_html
from privfed.reports.run_record import RunRecord
from privfed.run_settings import FederationSettings
from privfed.storage.checkpoint import Checkpoint, save_checkpoint
from privfed.storage.durable import write_durably, writing
from privfed.storage.run_folder import RunFolder, ledger_file_name, run_record


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnResults:
    """Where they go.

    Attributes:
        folder: a run folder, as `privfed report` reads it.
        model: whose adapter the run leaves.
        settings: of this party.
        start: content of the file with the initial adapter.
    """

    folder: Path
    model: PrivateModel
    settings: FederationSettings
    start: bytes

    def write(
        self,
        report: BudgetReport,
        record: RunRecord,
        export: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        """Write all of it; a second time, over the first.

        Args:
            report: of this client.
            record: what it knows of the run.
            export: of its ledger.
            progress: where it has come to.

        Raises:
            FileError: if the folder cannot be written.
        """
        folder = RunFolder(self.folder)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (client,) = [row.id for row in report.clients]
        folder.write_json(ledger_file_name(client), export)
        write_vector(self.model.adapter, self.settings.method.left(progress.state))
        save_adapter(folder, self.model, report)
        write_durably(folder.start, self.start)
        folder.write_text("report.json", report.to_json())
        folder.write_text("report.html", render_html(report))
        checkpoint = Checkpoint(
            round=report.rounds_over, tensors=progress.state.tensors(), record=record.to_json()
        )
        save_checkpoint(self.folder / "checkpoints", checkpoint)
        folder.write_json("run.json", run_record(checkpoint.record, report.status))
