"""Check a run folder against itself: every epsilon is recomputed from the ledger exports."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from accountants import Budget, PoissonGaussian
from privfed.errors import ReportError, RunFolderError
from privfed.reports import statements
from privfed.reports.budget import BudgetReport, ClientGuarantee
from privfed.reports.build import client_guarantee
from privfed.reports.render import render_html
from privfed.run_folder import RunFolder, ledger_file_name

_TOLERANCE = 1e-6


def verify_and_render(path: Path) -> BudgetReport:
    """Verify a finished run and render its report again.

    What is checked: the chain of digests of each export; epsilon, sigma, q, steps, releases and
    head of every client against it; epsilon of the last round; the headline. Not checked: other
    figures and text, budgets and public sizes, and whether an export is the client's whole
    ledger, which only the client can say.

    Args:
        path: run folder.

    Raises:
        RunFolderError: if there is no finished run.
        ReportError: if the report is incomplete or does not agree with the ledgers.
        accountants.LedgerError: if an export was changed.
    """
    report_path = path / "report.json"
    if not report_path.is_file():
        raise RunFolderError(f"{path} holds no report.json; is it the folder of a finished run?")
    report = BudgetReport.from_json(report_path.read_text(encoding="utf-8"))
    to_the_last = not _gave_up_last(path, report)
    for claimed in report.clients:
        _require_equal(claimed, _recomputed(path, report.run, claimed))
        _require_rounds(report, claimed, to_the_last=to_the_last)
    _require_headline(report)
    RunFolder(path).write_text("report.html", render_html(report))
    return report


def _gave_up_last(path: Path, report: BudgetReport) -> bool:
    """Whether rounds after the last complete one were abandoned: counted, and in no row."""
    try:
        record = json.loads((path / "run.json").read_text(encoding="utf-8"))
        abandoned = [int(entry["round"]) for entry in record["abandoned"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError(f"{path / 'run.json'} cannot be read ({type(error).__name__})") from error
    return max(abandoned, default=0) > max((row["round"] for row in report.rounds), default=0)


def _require_rounds(report: BudgetReport, claimed: ClientGuarantee, *, to_the_last: bool) -> None:
    spent = [claimed.epsilon_before, *(row["epsilon"][claimed.id] for row in report.rounds)]
    too_high = spent[-1] > claimed.epsilon_spent + _TOLERANCE
    known = to_the_last and claimed.unresolved == 0
    if spent != sorted(spent) or too_high or (known and _far(claimed, spent[-1])):
        raise ReportError(
            f"client {claimed.id!r}: epsilon per round must grow to {claimed.epsilon_spent!r}, "
            f"got {spent}"
        )


def _far(claimed: ClientGuarantee, last: float) -> bool:
    return bool(abs(last - claimed.epsilon_spent) > _TOLERANCE)


def _require_headline(report: BudgetReport) -> None:
    delta = max(client.delta for client in report.clients)
    honest = {
        statements.headline(epsilon=report.guarantee["epsilon"], delta=delta, private=private)
        for private in (True, False)
    }
    if report.headline not in honest:
        raise ReportError(f"the headline does not follow from the ledgers: {report.headline!r}")


def _recomputed(path: Path, run: str, claimed: ClientGuarantee) -> ClientGuarantee:
    export_path = path / ledger_file_name(claimed.id)
    try:
        export: dict[str, Any] = json.loads(export_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"the ledger export {export_path} cannot be read: {error}") from error
    return client_guarantee(
        export,
        run=run,
        public_size=claimed.public_size,
        budget=Budget(epsilon=claimed.epsilon_budget, delta=claimed.delta),
        planned=PoissonGaussian(
            noise_multiplier=claimed.noise_multiplier, sample_rate=claimed.sample_rate, steps=1
        ),
    )


def _require_equal(claimed: ClientGuarantee, found: ClientGuarantee) -> None:
    for name in ("epsilon_spent", "epsilon_lower", "epsilon_before"):
        if abs(getattr(claimed, name) - getattr(found, name)) > _TOLERANCE:
            raise ReportError(
                f"client {claimed.id!r}: the report says {name} = {getattr(claimed, name)!r}, its "
                f"ledger gives {getattr(found, name)!r}"
            )
    same = replace(
        found,
        epsilon_spent=claimed.epsilon_spent,
        epsilon_lower=claimed.epsilon_lower,
        epsilon_before=claimed.epsilon_before,
    )
    if same != replace(claimed, releases=tuple(claimed.releases)):
        raise ReportError(f"client {claimed.id!r}: the report does not agree with its ledger")
