"""The folder of a report that was put together from signed statements, and whether it is true.

report.json, report.html
roster.json             whose keys signed
statements/NAME.closed  what a client states of its part of the run, and signs
statements/NAME.opened  the last that a client signed of a round
run.json                names the authority of the roster, where nobody else does

The report is put together again from the statements; it must be the same in everything but the time
at which it was written.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Final
from urllib.parse import quote

from privfed.errors import IdentityError, ReportError, RunFolderError
from privfed.identity.roster import Roster
from privfed.protocol.kinds import CLOSED, OPENED
from privfed.reports.assembling import assemble
from privfed.reports.budget import BudgetReport
from privfed.reports.render import render_html
from privfed.storage.durable import write_durably, writing

STATEMENTS: Final = "statements"
ROSTER_FILE: Final = "roster.json"
_REPORT: Final = "report.json"
SET_ASIDE: Final = "set_aside"


def write_statements(
    folder: Path,
    report: BudgetReport,
    closed: Mapping[str, bytes],
    opened: Mapping[str, bytes],
    roster: Roster,
) -> None:
    """Write a report beside all that it was put together from, each file whole or not at all.

    Args:
        folder: of the run.
        report: as `assemble` made it from the rest.
        closed: by client, its `closed`.
        opened: by client, its last `opened`.
        roster: whose keys signed.

    Raises:
        FileError: if the folder cannot be written.

    Statements that are in this report no more are moved to `set_aside`.
    """
    statements = folder / STATEMENTS
    names = {
        statement_file_name(client, kind)
        for kind, messages in ((CLOSED, closed), (OPENED, opened))
        for client in messages
    }
    with writing(statements):
        statements.mkdir(parents=True, exist_ok=True)
    write_durably(folder / ROSTER_FILE, roster.to_bytes())
    for kind, messages in ((CLOSED, closed), (OPENED, opened)):
        for client, message in messages.items():
            write_durably(statements / statement_file_name(client, kind), message)
    write_durably(folder / _REPORT, report.to_json().encode())
    write_durably(folder / "report.html", render_html(report).encode())
    with writing(folder / SET_ASIDE):
        for path in statements.iterdir():
            if path.name not in names:  # an earlier report had it, this one has not
                (folder / SET_ASIDE).mkdir(exist_ok=True)
                path.rename(folder / SET_ASIDE / path.name)


def kept_statements(folder: Path, clients: Sequence[str]) -> dict[str, bytes]:
    """What clients said at the end of a run, as far as it lies in its folder already."""
    return _statements(folder / STATEMENTS, CLOSED, list(clients))


def statement_file_name(client: str, kind: str) -> str:
    """Name of a client's statement below `statements`."""
    return f"{quote(client, safe=' -_.@')}.{kind}"


def verify_statements(folder: Path, *, authority: str | None) -> tuple[BudgetReport, list[str]]:
    """Put the report of a folder together again from its statements; both must be the same.

    Signatures are checked against the roster, what each client states against itself, and every
    number of those whose ledger export is there against that.

    Args:
        folder: of the run.
        authority: public key (hex) of who signed the roster, learnt another way than from the
            folder; None takes what `run.json` says, and a note tells so.

    Returns:
        The report, and notes on what the reader has to know of how it was checked.

    Raises:
        RunFolderError: if there is no report.
        ReportError: if the report is not what the statements come to.
        MessageError: if the roster or a statement is not signed by whom it must be.
        IdentityError: if the authority's key is none, or the roster cannot be read.
    """
    if not (folder / _REPORT).is_file():
        raise RunFolderError(f"{folder} holds no report.json; is it the folder of a run?")
    report = BudgetReport.from_json((folder / _REPORT).read_text(encoding="utf-8"))
    named, notes = (authority, []) if authority else _authority_of(folder / "run.json")
    roster = Roster.load(folder / ROSTER_FILE, authority=_key(named))
    clients = [*(row.id for row in report.clients), *(one.id for one in report.not_closed)]
    closed, opened = (_statements(folder / STATEMENTS, kind, clients) for kind in (CLOSED, OPENED))
    _require_none_beside(folder / STATEMENTS, {CLOSED: closed, OPENED: opened})
    _require_same(report, assemble(closed, opened, roster, run=report.run, clients=clients))
    for row in report.clients:
        if not row.recomputed:
            notes.append(
                f"The epsilon of {row.id} is as it states and signs it; it gave no ledger export, "
                "so that nobody else can compute it."
            )
    return report, notes


def _authority_of(path: Path) -> tuple[str, list[str]]:
    try:
        named = json.loads(path.read_text(encoding="utf-8"))["settings"]["authority"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ReportError(
            f"the key of who signed the roster must be given (--authority), or stand in {path}, "
            f"where it is not ({type(error).__name__})"
        ) from error
    note = (
        f"The roster was checked against the authority {named}, which run.json names: who can "
        "change this folder can change that too. Ask the authority for its key, and give it "
        "(--authority)."
    )
    return str(named), [note]


def _key(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise IdentityError(
            f"the authority must be given by its public key in hexadecimal, got {text!r:.80}"
        ) from error


def _statements(folder: Path, kind: str, clients: list[str]) -> dict[str, bytes]:
    paths = {name: folder / statement_file_name(name, kind) for name in clients}
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}


def _require_none_beside(folder: Path, found: Mapping[str, Mapping[str, bytes]]) -> None:
    """Refuse a statement of somebody who has no row: it may be the one that looks worst."""
    known = {
        statement_file_name(name, kind) for kind, messages in found.items() for name in messages
    }
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if strange := sorted(present - known):
        raise ReportError(f"{folder} holds statements that are not in the report: {strange}")


def _require_same(report: BudgetReport, again: BudgetReport) -> None:
    for field in fields(BudgetReport):
        if field.name == "created":
            continue
        if getattr(report, field.name) != getattr(again, field.name):
            raise ReportError(
                f"the report must be what its statements come to, its {field.name!r} is not: one "
                "of them is older than the other, or was changed; put it together again from the "
                "statements"
            )
