"""What a run leaves after every round: adapter, ledger exports and the budget report."""

from collections.abc import Mapping
from typing import Any

from privfed.methods.method import GlobalState, released_digest
from privfed.private_step.private_model import PrivateModel
from privfed.reports.adapter_folder import save_adapter
from privfed.reports.budget import BudgetReport
from privfed.reports.making import Moment, federation_report
from privfed.reports.render import render_html
from privfed.reports.run_facts import RunFacts
from privfed.reports.run_record import RunRecord
from privfed.run_settings import FederationSettings
from privfed.storage.checkpoint import Checkpoint
from privfed.storage.run_folder import RunFolder, ledger_file_name


def write_results(
    folder: RunFolder,
    settings: FederationSettings,
    *,
    model: PrivateModel,
    facts: RunFacts,
    checkpoint: Checkpoint,
    exports: Mapping[str, Mapping[str, Any]],
    status: str,
) -> BudgetReport:
    """Write ledger exports, adapter and report as they are after a round, or before the first.

    A kill between two of these files leaves one older than another; `privfed report` refuses that.

    Args:
        folder: of the run.
        settings: of the run.
        model: with the adapter that the run leaves in place.
        facts: of the run: who and what summed it.
        checkpoint: of the round; it is saved after this.
        exports: per client, its ledger.
        status: "complete", "running", or why the run stopped.
    """
    report = federation_report(
        settings,
        facts,
        RunRecord.from_json(checkpoint.record),
        exports,
        Moment(
            status=status,
            rounds_over=checkpoint.round,
            adapter_sha256=released_digest(
                settings.method, GlobalState.of_tensors(checkpoint.tensors)
            ),
        ),
    )
    for client, export in exports.items():
        folder.write_json(ledger_file_name(client), export)
    save_adapter(folder, model, report)
    folder.write_text("report.json", report.to_json())
    folder.write_text("report.html", render_html(report))
    return report
