"""What a client signs when its part of a run is over, and what of it is believed.

`closed` carries the client's own report, and the export of its ledger where its operator allows. A
client cannot be forced to say the truth of its own data, but what it says is tied to its name, may
not contradict itself, and where its export is there, every number is computed again.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from accountants import AccountingError, Anchor, anchor_from_json
from accountants.ledger.export import book_of_export
from privfed.checks import is_number
from privfed.errors import MessageError, ReportError
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.protocol.envelopes import Envelope, Statement
from privfed.protocol.kinds import AGREEMENT, CLOSED, EPSILON, LEDGER, OPENED, ROSTER
from privfed.protocol.signing import require_signature, signed_message
from privfed.protocol.terms import Terms
from privfed.reports.budget import COMPLETE, BudgetReport, Scope
from privfed.reports.clients import ClientGuarantee, LastStatement
from privfed.reports.headlines import headline_of
from privfed.reports.recomputing import TOLERANCE, require_of_itself, require_of_ledger

REPORT: Final = "report"
"""Name of the blob with the client's own report, as JSON."""
EXPORT: Final = "ledger"
"""Name of the blob with the export of its ledger, as JSON; it may be left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """What a client stated and signed when its part was over; it does not contradict itself.

    Attributes:
        client: its name.
        agreement: digest (hex) of what it holds to be agreed.
        report: its own.
        export: of its ledger, from which all numbers of the report were computed again; or None.
    """

    client: str
    agreement: str
    report: BudgetReport
    export: Mapping[str, Any] | None

    @property
    def row(self) -> ClientGuarantee:
        """What it guarantees."""
        return self.report.clients[0]


def closed_message(
    identity: Identity, terms: Terms, report: BudgetReport, export: Mapping[str, Any] | None
) -> bytes:
    """A client's statement that its part of a run is over.

    Args:
        identity: of the client.
        terms: of the run (`RunTerms.of_run`), with the rounds that are over as their round.
        report: its own, as `client_report` makes it.
        export: of its ledger, if its operator allows that it leaves.

    Raises:
        ReportError: if the report is not that of this client and moment.
    """
    _require_own(report, identity.party.name, terms.run, terms.round)
    blobs = {REPORT: report.to_json().encode()}
    if export is not None:
        blobs[EXPORT] = json.dumps(export, allow_nan=False).encode()
    return signed_message(identity, terms, CLOSED, blobs=blobs)


def read_closed(message: bytes, roster: Roster, *, client: str, run: str) -> Closed:
    """What a client's `closed` states, once it is known to be its own and consistent.

    Args:
        message: untrusted bytes.
        roster: who is enrolled.
        client: who must have signed it.
        run: which it must be about.

    Raises:
        MessageError: if it is not this client's `closed` of this run.
        ReportError: naming the client, if what it states contradicts itself or its ledger.
    """
    envelope = Envelope.from_bytes(message)
    statement = envelope.statement
    _require_from(statement, envelope.signature, roster, client=client, run=run, kind=CLOSED)
    if not {REPORT} <= set(envelope.blobs) <= {REPORT, EXPORT}:
        raise MessageError(
            f"{client!r} must send its report, and its ledger if it may, got the blobs "
            f"{sorted(envelope.blobs)!r:.200}"
        )
    try:
        report = BudgetReport.from_json(bytes(envelope.blobs[REPORT]).decode())
        _require_own(report, client, run, statement.round)
        if report.encryption.roster != roster.digest().hex():
            raise ReportError("it is of a run with another roster")
        export = None
        if EXPORT in envelope.blobs:
            export = json.loads(bytes(envelope.blobs[EXPORT]))
            require_of_ledger(report, report.clients[0], export)
        else:
            require_of_itself(report, report.clients[0])
    except (
        ReportError,
        AccountingError,
        ArithmeticError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise ReportError(
            f"what client {client!r} states and signs of its part of the run is refused: {error}"
        ) from error
    agreement = str(statement.manifest[AGREEMENT])
    return Closed(client=client, agreement=agreement, report=report, export=export)


def read_opened(message: bytes, roster: Roster, *, client: str, run: str) -> LastStatement:
    """What a client's `opened` states of its ledger.

    Args:
        message: untrusted bytes.
        roster: who is enrolled.
        client: who must have signed it.
        run: which it must be about.

    Raises:
        MessageError: if it is not this client's `opened` of this run, or states no epsilon and no
            anchor.
    """
    envelope = Envelope.from_bytes(message)
    statement = envelope.statement
    _require_from(statement, envelope.signature, roster, client=client, run=run, kind=OPENED)
    epsilon: Any = statement.manifest.get(EPSILON)
    if not is_number(epsilon) or not 0 <= epsilon < math.inf:
        raise MessageError(f"{client!r} must state an epsilon >= 0, got {epsilon!r:.80}")
    try:
        anchor = anchor_from_json(statement.manifest.get(LEDGER))
    except AccountingError as error:
        raise MessageError(f"{client!r} must state the anchor of its ledger: {error}") from error
    return LastStatement(
        round=statement.round,
        epsilon=float(epsilon),
        ledger_length=anchor.length,
        ledger_head=anchor.head,
    )


def require_continues(closed: Closed, last: LastStatement) -> None:
    """Refuse a client's `closed` that says less than an `opened` of its own.

    Raises:
        ReportError: naming the client.
    """
    row = closed.row
    if row.epsilon_spent < last.epsilon - TOLERANCE or row.ledger_length < last.ledger_length:
        raise ReportError(
            f"client {row.id!r} stated epsilon {last.epsilon!r} with {last.ledger_length} entries "
            f"after round {last.round}, and closes with {row.epsilon_spent!r} and "
            f"{row.ledger_length}: a ledger never counts less than before"
        )
    if closed.export is None:
        return
    try:
        anchor = Anchor(length=last.ledger_length, head=last.ledger_head)
        book_of_export(closed.export).check_continues(anchor)
    except AccountingError as error:
        raise ReportError(
            f"the ledger of client {row.id!r} does not continue what it signed after round "
            f"{last.round}: {error}"
        ) from error


def _require_from(
    statement: Statement, signature: bytes, roster: Roster, *, client: str, run: str, kind: str
) -> None:
    require_signature(statement, signature, roster, role=Role.CLIENT)
    said = statement.sender, statement.run, statement.kind
    if said != (client, run, kind):
        raise MessageError(
            f"expected a {kind!r} of {client!r} in run {run!r}, got a {statement.kind!r:.80} of "
            f"{statement.sender!r} in run {statement.run!r:.80}"
        )
    if statement.manifest.get(ROSTER) != roster.digest().hex():
        raise MessageError(f"{client!r} states another roster than that of this federation")
    if not isinstance(statement.manifest.get(AGREEMENT), str):
        raise MessageError(f"{client!r} states no digest of what was agreed")


def _require_own(report: BudgetReport, client: str, run: str, rounds_over: int) -> None:
    """Refuse a report that is not this client's own, of this run and moment."""
    if report.scope is not Scope.CLIENT or report.clients[0].id != client:
        rows = [row.id for row in report.clients]
        raise ReportError(
            f"it must be the report of {client!r} alone, this is a {report.scope!s} report with "
            f"rows of {rows}"
        )
    if (report.run, report.rounds_over) != (run, rounds_over):
        raise ReportError(
            f"it must be of run {run!r} after {rounds_over} rounds, this is of {report.run!r} "
            f"after {report.rounds_over}"
        )
    played = [row.round for row in report.rounds]
    whole = report.status != COMPLETE or report.rounds_over == report.rounds_planned
    if not whole or played != sorted(set(played)) or not set(played) <= {*range(rounds_over + 1)}:
        raise ReportError(
            f"it must tell of its rounds in order, and be complete only after all of them; it is "
            f"{report.status!r:.80} after {rounds_over} of {report.rounds_planned}, with {played}"
        )
    if report.headline != headline_of(report, private=report.randomness.secret):
        raise ReportError(f"its headline does not follow from its row: {report.headline!r}")
