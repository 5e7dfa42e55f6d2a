"""Check a run folder: every epsilon is recomputed, and no file may be older than another.

What a run leaves after a round (exports, adapter, report, checkpoint, `run.json`) is written one
after the other, so a kill, or somebody who puts an older file back, can leave two of them of
different moments. A report that is older than what it reports on would state an epsilon that is too
small: it is refused. Where the ledgers themselves lie on this machine, they are asked too.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accountants import (
    AccountingError,
    AnchorFolder,
    Ledger,
    LedgerMissingError,
    anchor_from_json,
    epsilon,
)
from accountants.ledger.book import Book
from accountants.ledger.export import book_of_export
from privfed.errors import PrivfedError, ReportError, RunFolderError
from privfed.parties.client.public_size import is_released_size
from privfed.reports.adapter_folder import require_adapter_of
from privfed.reports.budget import BudgetReport, Scope
from privfed.reports.clients import ClientGuarantee
from privfed.reports.headlines import headline_of
from privfed.reports.recomputing import require_of_ledger
from privfed.reports.render import render_html
from privfed.reports.round_record import rounded_up
from privfed.reports.run_record import RunRecord
from privfed.reports.statement_folder import verify_statements
from privfed.storage.checkpoint import load_latest
from privfed.storage.run_folder import RunFolder, ledger_file_name


def verify_and_render(
    path: Path, anchors: AnchorFolder, *, authority: str | None = None
) -> tuple[BudgetReport, list[str]]:
    """Verify the report of a run and render it again.

    A report that was put together from signed statements is checked against those; see
    `reports/statement_folder.py`. For a report that was computed from ledgers:

    What is checked: the chain of digests of each export; epsilon, sigma, q, steps, releases, attack
    bounds and head of every client against it; sigma, q, steps, budgets and declared sizes against
    `run.json`, released sizes against the ledger; epsilon of the last round; the headline; that
    exports, adapter, `run.json` and checkpoint are of the same moment as the report, and name the
    same base models; and, for every
    client whose ledger lies on this machine, that the report counts all of this run. Not checked:
    other numbers and text.

    Args:
        path: run folder.
        anchors: where this machine keeps the last anchors of its ledgers.
        authority: public key (hex) of who signed the roster, where clients signed what they state.

    Returns:
        The report, and notes about what came after it: other runs on the same data.

    Raises:
        RunFolderError: if there is no report.
        ReportError: if the report is incomplete, older than something it is about, or does not
            agree with the ledgers.
        accountants.LedgerError: if an export was changed, or a ledger was rolled back.
    """
    if not (path / "report.json").is_file():
        raise RunFolderError(f"{path} holds no report.json; is it the folder of a run that began?")
    try:
        report, notes = _verified(path, anchors, authority)
    except (PrivfedError, AccountingError):
        raise
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ReportError(
            f"the report and the ledger exports in {path} must be as a run wrote them, and are "
            f"not ({type(error).__name__}); take the folder from where the run was"
        ) from error
    RunFolder(path).write_text("report.html", render_html(report))
    return report, notes


def _verified(
    path: Path, anchors: AnchorFolder, authority: str | None
) -> tuple[BudgetReport, list[str]]:
    report = BudgetReport.from_json((path / "report.json").read_text(encoding="utf-8"))
    if report.scope is Scope.FEDERATION:
        return verify_statements(path, authority=authority)
    exports = {client.id: _export(path, client.id) for client in report.clients}
    record = _read_json(path / "run.json")
    for claimed in report.clients:
        _require_settings(report, claimed, record, book_of_export(exports[claimed.id]))
        require_of_ledger(report, claimed, exports[claimed.id])
    _require_headline(report, record)
    _require_bases(report, record)
    _require_one_moment(path, report, record, exports)
    require_adapter_of(report, path / "adapter")
    notes = [
        note for client in report.clients for note in _of_ledger(report, client, exports, anchors)
    ]
    return report, notes


def _require_settings(
    report: BudgetReport, claimed: ClientGuarantee, record: Mapping[str, Any], book: Book
) -> None:
    """Refuse numbers that the run was not calibrated to; what one more round costs rests on them.

    The ledger holds sigma and q of rounds that were begun, and nothing of them before the first.
    """
    settings = record["settings"]
    (client,) = [client for client in settings["clients"] if client["id"] == claimed.id]
    _require_size(claimed, client["public_size"], book)
    batch, steps = settings["privacy"]["expected_batch_size"], report.mechanism.steps_per_round
    said = {
        "noise multiplier": (claimed.noise_multiplier, record["noise_multipliers"][claimed.id]),
        "sample rate": (claimed.sample_rate, batch / claimed.public_size),
        "steps per round": (steps.get(claimed.id), client["steps_per_round"]),
        "epsilon of the budget": (claimed.epsilon_budget, client["epsilon_budget"]),
        "delta of the budget": (claimed.delta, client["delta"]),
    }
    for name, (found, wanted) in said.items():
        if found != wanted:
            raise ReportError(
                f"client {claimed.id!r}: the {name} in the report must be that of run.json, "
                f"{wanted!r}, got {found!r}; take the report from where the run was"
            )


def _require_size(claimed: ClientGuarantee, asked: int | dict[str, Any], book: Book) -> None:
    """Refuse a size that was neither declared nor released."""
    size, is_declared = claimed.public_size, isinstance(asked, int)
    if size == asked or (not is_declared and is_released_size(size, book)):
        return
    wanted = f"{asked!r} of run.json" if is_declared else "the one that its ledger released"
    raise ReportError(
        f"client {claimed.id!r}: the public size in the report must be {wanted}, got {size!r}; "
        "take the report from where the run was"
    )


def _require_headline(report: BudgetReport, record: Mapping[str, Any]) -> None:
    """Refuse a headline that does not follow from ledgers and settings."""
    private = record["settings"]["secret_randomness"]
    if (report.headline, report.randomness.secret) != (
        headline_of(report, private=private),
        private,
    ):
        raise ReportError(f"the headline does not follow from the ledgers: {report.headline!r}")


def _require_bases(report: BudgetReport, record: Mapping[str, Any]) -> None:
    """Refuse base models that the clients did not begin with, whoever of them stayed."""
    found = report.base_sha256, report.training.other_bases or {}
    wanted = record["base_sha256"], record["other_bases"]
    if found != wanted:
        raise ReportError(
            f"the base models in the report must be those of run.json, {wanted!r}, got {found!r}; "
            "take the report from where the run was"
        )


def _require_one_moment(
    path: Path,
    report: BudgetReport,
    record: Mapping[str, Any],
    exports: Mapping[str, Mapping[str, Any]],
) -> None:
    """Refuse a report beside a checkpoint or `run.json` of another round or run."""
    checkpoint = load_latest(path / "checkpoints")
    if checkpoint is None:
        raise ReportError(f"{path} holds a report and no checkpoint; put it back beside the report")
    kept = checkpoint.record
    same = all(record[name] == value for name, value in kept.items())
    was = RunRecord.from_json(kept)
    found = report.run, report.rounds, report.warnings
    same = same and found == (was.run, was.rounds, was.warnings)
    if not same or checkpoint.round != report.rounds_over or record["status"] != report.status:
        raise ReportError(
            f"report.json, run.json and the last checkpoint in {path} must be of one moment: after "
            f"{report.rounds_over}, {_over(record)} and {checkpoint.round} rounds they are not, or "
            "of other runs. The run was interrupted while it wrote them, or an older file was put "
            "back; `privfed run --resume` writes all of them anew"
        )
    for client, anchor in [*record["anchors"].items(), *checkpoint.record["anchors"].items()]:
        if report.scope is Scope.SIMULATION or client in exports:
            book_of_export(exports[client]).check_continues(anchor_from_json(anchor))


def _over(record: Mapping[str, Any]) -> int:
    return len(record["rounds"]) + len(record["abandoned"])


def _of_ledger(
    report: BudgetReport,
    claimed: ClientGuarantee,
    exports: Mapping[str, Mapping[str, Any]],
    anchors: AnchorFolder,
) -> Iterable[str]:
    """What the client's own ledger counts beyond the report, if it lies on this machine.

    Raises:
        ReportError: if that belongs to this run.
        accountants.LedgerRolledBackError: if the ledger does not hold what was exported.
    """
    kept = anchors.find(claimed.ledger_id)
    if kept is None:
        yield (
            f"No ledger of client {claimed.id} with the id {claimed.ledger_id} is known in "
            f"{anchors.folder}: not compared; what came after this report does not show."
        )
        return
    try:
        ledger = Ledger.inspect(kept.path)
    except LedgerMissingError:
        yield f"The ledger of client {claimed.id} is no longer at {kept.path}: not compared."
        return
    exported = book_of_export(exports[claimed.id])
    ledger.verify(exported.anchor())
    ledger.verify(kept.anchor)
    present = epsilon(ledger.events(), claimed.delta, ledger.identity.neighbouring).upper
    if ledger.events(report.run) != exported.events(report.run):
        raise ReportError(
            f"the report is older than the ledger of client {claimed.id!r} ({kept.path}), which "
            f"counts more of this run: epsilon spent is at most {rounded_up(present)} of "
            f"{claimed.epsilon_budget:g} at delta {claimed.delta:g}. `privfed run --resume` goes "
            "on and writes the report anew"
        )
    if ledger.anchor() != exported.anchor():
        yield (
            f"Since this report the ledger of client {claimed.id} counted other runs on the same "
            f"data: epsilon spent on it is at most {rounded_up(present)} now."
        )


def _export(path: Path, client: str) -> dict[str, Any]:
    return _read_json(path / ledger_file_name(client))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} cannot be read: {type(error).__name__}") from error
    if not isinstance(values, dict):
        raise ReportError(f"{path} must hold a JSON object")
    return values
