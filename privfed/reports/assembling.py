"""The report of a federation whose clients ran apart, from what each of them states and signs.

The rows are the clients' own; the epsilon of the federation is the largest of them. What all must
have agreed on has to be equal. What each may state for itself is shown where it differs, under the
names of those who state it, and never in the more favourable words. A client that did not close its
part has no bound here, and then the federation has none.

Nothing of this needs a model, a key or a ledger.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, Final

from privfed.canonical import canonical_json
from privfed.errors import ReportError
from privfed.identity.roster import Roster
from privfed.reports import merging
from privfed.reports.budget import SCHEMA, BudgetReport, Scope, largest_epsilon
from privfed.reports.clients import ClientGuarantee, NotClosed
from privfed.reports.closed import Closed, read_closed, read_opened, require_continues
from privfed.reports.headlines import federation_headline, how_no_bound_reads, how_to_read
from privfed.reports.sections import Guarantee


def assemble(
    closed: Mapping[str, bytes],
    opened: Mapping[str, bytes],
    roster: Roster,
    *,
    run: str,
    clients: Sequence[str],
) -> BudgetReport:
    """The federation's report from signed statements.

    Args:
        closed: by client, its `closed`; at least one.
        opened: by client, its last `opened`, where there is one.
        roster: who is enrolled.
        run: identifier of the run.
        clients: all that took part, in the order of the rows.

    Raises:
        MessageError: if a statement is not signed by its client, or about another run.
        ReportError: naming the client, if one contradicts itself or states something else than the
            others of what was agreed; or if somebody took part who is not among `clients`.
    """
    if strangers := sorted({*closed, *opened}.difference(clients)):
        raise ReportError(f"statements must be of clients that took part, {strangers} did not")
    parts = [
        read_closed(closed[name], roster, client=name, run=run)
        for name in clients
        if name in closed
    ]
    if not parts:
        raise ReportError("at least one client must have closed its part; there is no report yet")
    last = {
        name: read_opened(message, roster, client=name, run=run) for name, message in opened.items()
    }
    for part in parts:
        if part.client in last:
            require_continues(part, last[part.client])
    for what, value_of in _AGREED.items():
        _require_alike(what, parts, value_of)
    _require_all_named(parts, clients)
    missing = [NotClosed(id=name, last=last.get(name)) for name in clients if name not in closed]
    return _put_together(parts, missing)


def _put_together(parts: Sequence[Closed], not_closed: Sequence[NotClosed]) -> BudgetReport:
    # Where words may differ, those of a client whose randomness can be repeated: the worst case.
    shown = min(parts, key=lambda part: part.report.randomness.secret).report
    rows = [replace(part.row, signed=True, recomputed=part.export is not None) for part in parts]
    status = merging.status_of(parts)
    line = federation_headline(
        rows,
        not_closed,
        repeatable=[part.client for part in parts if not part.report.randomness.secret],
        status=status,
        over=shown.rounds_over,
        planned=shown.rounds_planned,
    )
    return replace(
        shown,
        schema=SCHEMA,
        scope=Scope.FEDERATION,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        status=status,
        headline=line,
        guarantee=_guarantee(shown.guarantee, rows, not_closed, status),
        clients=tuple(rows),
        not_closed=tuple(not_closed),
        encryption=replace(shown.encryption, measured=merging.measured(parts)),
        published=merging.published(parts),
        not_covered=merging.named(parts, lambda report: report.not_covered),
        warnings=merging.named(parts, lambda report: report.warnings),
        differences=merging.differences(parts),
        rounds=merging.rounds(parts),
        baseline=merging.baseline(parts),
    )


def _guarantee(
    shown: Guarantee,
    rows: Sequence[ClientGuarantee],
    not_closed: Sequence[NotClosed],
    status: str,
) -> Guarantee:
    if not_closed:
        reading = how_no_bound_reads(not_closed)
        return replace(shown, epsilon=None, delta=None, reading=reading)
    epsilon, delta = largest_epsilon(rows, status), max(row.delta for row in rows)
    reading = how_to_read(epsilon=epsilon, delta=delta)
    return replace(shown, epsilon=epsilon, delta=delta, reading=reading)


def _agreed_part(section: str) -> Callable[[Closed], Any]:
    """Of a section, all that clients must state alike."""
    own = merging.OWN.get(section, frozenset())

    def value_of(part: Closed) -> Any:
        values = merging.flat(asdict(part.report)[section])
        return {name: value for name, value in values.items() if name not in own}

    return value_of


def _who_took_part(part: Closed) -> Any:
    return [[row.round, row.clients, row.absent, row.metric] for row in part.report.rounds]


def _what_is_claimed(part: Closed) -> Any:
    guarantee = part.report.guarantee
    return [guarantee.unit, guarantee.neighbouring, guarantee.covers, guarantee.adversary]


_AGREED: Final[Mapping[str, Callable[[Closed], Any]]] = {
    "agreement": lambda part: part.agreement,
    "title": lambda part: part.report.title,
    "rounds planned": lambda part: part.report.rounds_planned,
    "rounds that are over": lambda part: part.report.rounds_over,
    "rounds": _who_took_part,
    "guarantee": _what_is_claimed,
    "views": lambda part: [asdict(view) for view in part.report.views],
    "mechanism": _agreed_part("mechanism"),
    "encryption": lambda part: asdict(replace(part.report.encryption, measured=None)),
    "training": _agreed_part("training"),
    "base model": lambda part: part.report.base_sha256,
    "adapter": lambda part: part.report.adapter_sha256,
}
"""What all clients must state alike, to the letter."""


def _require_alike(what: str, parts: Sequence[Closed], value_of: Callable[[Closed], Any]) -> None:
    values = {part.client: canonical_json(value_of(part)) for part in parts}
    (most, _), *_ = Counter(values.values()).most_common(1)
    others = [client for client, value in values.items() if value != most]
    if others:
        alike = [client for client in values if client not in others]
        raise ReportError(
            f"all clients must state the same {what}: that of {', '.join(others)} is not that of "
            f"{', '.join(alike)}"
        )


def _require_all_named(parts: Sequence[Closed], clients: Sequence[str]) -> None:
    """Refuse to leave out a client that took part by what others sign, or to take in a stranger."""
    report = parts[0].report
    took_part = set(report.training.participants)
    if strangers := sorted(part.client for part in parts if part.client not in took_part):
        raise ReportError(f"{strangers} closed a run in which they take no part by its agreement")
    if missing := sorted(took_part.difference(clients)):
        raise ReportError(
            f"{missing} took part in the run, by what its clients sign, and must have a row too"
        )
