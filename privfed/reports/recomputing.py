"""Whether a row of a report is what the client's ledger, or what it says itself, comes to."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from accountants import Budget, Event, Neighbouring, event_from_json
from accountants.histories import is_within
from accountants.ledger.book import Book
from accountants.ledger.export import book_of_export
from privfed.errors import ReportError
from privfed.reports.budget import BudgetReport
from privfed.reports.build import bounds_of, client_guarantee, times
from privfed.reports.clients import ClientGuarantee

TOLERANCE: Final = 1e-6
"""Of epsilon computed twice; other processors round the last bits of an FFT otherwise."""


def require_of_ledger(
    report: BudgetReport, claimed: ClientGuarantee, export: Mapping[str, Any]
) -> None:
    """Refuse a row that is not what the export of its client's ledger gives.

    Args:
        report: with the row.
        claimed: the row.
        export: of the ledger.

    Raises:
        ReportError: naming the client and what differs.
        accountants.LedgerError: if the export was changed.
    """
    found = client_guarantee(
        export,
        client=claimed.id,
        run=report.run,
        public_size=claimed.public_size,
        budget=_budget(claimed),
        planned=_planned(report, claimed),
        status=report.status,
    )
    bounds = ("epsilon_spent", "epsilon_lower", "epsilon_before", "epsilon_if_begun")
    _require_bounds(claimed, {name: getattr(found, name) for name in bounds}, "its ledger gives")
    _require_attack(claimed, found.attack)
    same = {name: getattr(claimed, name) for name in (*bounds, "attack", "signed", "recomputed")}
    if replace(found, **same) != claimed:
        raise ReportError(f"client {claimed.id!r}: the report does not agree with its ledger")
    _require_rate(report, claimed)
    _require_rounds(report, claimed, alone_in=_alone_in(book_of_export(export), report.run))


def require_of_itself(report: BudgetReport, claimed: ClientGuarantee) -> None:
    """Refuse a row whose bounds are not those of the releases that it lists itself.

    Args:
        report: with the row.
        claimed: the row.

    Raises:
        ReportError: naming the client and what differs.
        accountants.AccountingError: if what it lists is no release, or of no known relation.
    """
    events = tuple(event_from_json(event) for event in claimed.releases)
    found = bounds_of(
        events,
        planned=_planned(report, claimed),
        budget=_budget(claimed),
        relation=Neighbouring(claimed.neighbouring),
        status=report.status,
    )
    bounds = ("epsilon_spent", "epsilon_lower", "epsilon_if_begun")
    numbers = {name: getattr(found, name) for name in bounds}
    _require_bounds(claimed, numbers, "the releases that it lists give")
    _require_attack(claimed, found.attack)
    mine = times(_planned(report, claimed), claimed.rounds)
    if not is_within(mine, events) or sum(event.steps for event in mine) != claimed.steps:
        raise ReportError(
            f"client {claimed.id!r}: {claimed.rounds} rounds of what it planned must be its "
            f"{claimed.steps} steps, and among its releases"
        )
    _require_rate(report, claimed)
    _require_rounds(report, claimed, alone_in=None)


def _budget(claimed: ClientGuarantee) -> Budget:
    return Budget(epsilon=claimed.epsilon_budget, delta=claimed.delta)


def _planned(report: BudgetReport, claimed: ClientGuarantee) -> list[Event]:
    """What a round of the run releases, by the row; its steps are the client's in the report."""
    if not claimed.planned:
        raise ReportError(f"client {claimed.id!r} must state what a round releases")
    steps = {
        "noise_multiplier": claimed.noise_multiplier,
        "sample_rate": claimed.sample_rate,
        "steps": report.mechanism.steps_per_round.get(claimed.id),
    }
    first = {name: claimed.planned[0].get(name) for name in steps}
    if first != steps:
        raise ReportError(
            f"client {claimed.id!r}: the private steps of a round must be {steps}, got {first}"
        )
    return [event_from_json(event) for event in claimed.planned]


def _require_rate(report: BudgetReport, claimed: ClientGuarantee) -> None:
    """Refuse a public size that is not the one of which the ledger holds the sampling rate."""
    rate = report.mechanism.expected_batch_size / claimed.public_size
    if claimed.sample_rate != rate:
        raise ReportError(
            f"client {claimed.id!r}: its sampling rate must be B / public size = {rate!r}, got "
            f"{claimed.sample_rate!r}"
        )


def _require_rounds(
    report: BudgetReport, claimed: ClientGuarantee, *, alone_in: frozenset[int] | None
) -> None:
    """Epsilon grows from round to round; rounds that were begun and not closed come on top.

    So does what other runs released meanwhile, which is in `epsilon_before` too.

    Args:
        report: with the rounds.
        claimed: the row.
        alone_in: rounds that the client reserved; None if something else was counted meanwhile.
    """
    before = 0.0 if alone_in is None else claimed.epsilon_before
    spent = [before, *(row.epsilon[claimed.id] for row in report.rounds)]
    more = claimed.epsilon_spent - spent[-1]
    all_closed = alone_in is not None and alone_in <= {row.round for row in report.rounds}
    if spent != sorted(spent) or more < -TOLERANCE or (all_closed and more > TOLERANCE):
        raise ReportError(
            f"client {claimed.id!r}: epsilon per round must grow to {claimed.epsilon_spent!r}, "
            f"got {spent}"
        )


def _alone_in(book: Book, run: str) -> frozenset[int] | None:
    """Rounds of this run, if nothing else was counted since it first reserved one; or None."""
    own = {id_: one.round for id_, one in book.reservations.items() if one.run == run}
    if not own:
        return None
    first = min(own)
    later = [entry.seq for entry in book.entries if entry.seq > first and entry.kind != "commit"]
    return frozenset(own.values()) if set(later) <= set(own) else None


def _require_bounds(claimed: ClientGuarantee, found: Mapping[str, float], source: str) -> None:
    for name, bound in found.items():
        if not abs(getattr(claimed, name) - bound) <= TOLERANCE:
            raise ReportError(
                f"client {claimed.id!r}: the report says {name} = {getattr(claimed, name)!r}, "
                f"{source} {bound!r}"
            )


def _require_attack(claimed: ClientGuarantee, found: Mapping[str, float]) -> None:
    if claimed.attack.keys() != found.keys():
        raise ReportError(
            f"client {claimed.id!r}: the attack bounds must be {sorted(found)}, got "
            f"{sorted(claimed.attack)}"
        )
    for name, bound in found.items():
        if not abs(claimed.attack[name] - bound) <= TOLERANCE:
            raise ReportError(f"client {claimed.id!r}: its attack bound {name} must be {bound!r}")
