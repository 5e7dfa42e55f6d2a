"""From ledgers and round figures to a budget report."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import accountants
from accountants import (
    Budget,
    Event,
    Neighbouring,
    PoissonGaussian,
    ScheduleFilter,
    epsilon,
    event_to_json,
    events_of_export,
    verify_export,
)
from privfed.errors import ReportError
from privfed.reports.budget import SCHEMA, BudgetReport, ClientGuarantee
from privfed.reports.figures import RoundFigures

_PACKAGES = (
    "privfed",
    "torch",
    "transformers",
    "peft",
    "opacus",
    "tenseal",
    "dp-accounting",
    "numpy",
)


def client_guarantee(
    export: Mapping[str, Any],
    *,
    run: str,
    public_size: int,
    budget: Budget,
    neighbouring: Neighbouring,
    planned: PoissonGaussian,
) -> ClientGuarantee:
    """One client's guarantee, computed from its ledger's export.

    Args:
        export: of the ledger.
        run: whose rounds are "this run".
        public_size: as declared.
        budget: as agreed.
        neighbouring: as agreed.
        planned: a round as it was calibrated; stands in for sigma and q where none was begun.

    Raises:
        accountants.LedgerError: if the export's chain of digests does not hold.
        ReportError: if the rounds of the run differ in noise or sampling rate.
    """
    verify_export(export)
    spent = epsilon(events_of_export(export), budget.delta, neighbouring)
    everything = events_of_export(export)
    mine = events_of_export(export, run=run)
    others = list(everything)
    for event in mine:
        others.remove(event)
    kinds = {(event.noise_multiplier, event.sample_rate) for event in _of_dp_sgd(mine) or [planned]}
    if len(kinds) != 1:
        raise ReportError(f"the rounds of client {export['client']!r} differ: {sorted(kinds)}")
    ((sigma, rate),) = kinds
    begun = {entry["seq"] for entry in export["entries"] if entry["body"].get("run") == run}
    done = {entry["body"].get("reservation") for entry in export["entries"]} & begun
    return ClientGuarantee(
        id=export["client"],
        dataset=export["dataset"],
        public_size=public_size,
        epsilon_spent=spent.upper,
        epsilon_lower=spent.lower,
        epsilon_before=epsilon(others, budget.delta, neighbouring).upper,
        epsilon_budget=budget.epsilon,
        delta=budget.delta,
        rounds=len(begun),
        steps=sum(event.steps for event in mine),
        unresolved=len(begun - done),
        noise_multiplier=sigma,
        sample_rate=rate,
        releases=tuple(event_to_json(event) for event in everything),
        ledger_length=len(export["entries"]),
        ledger_head=export["head"],
    )


def _of_dp_sgd(events: Iterable[Event]) -> list[PoissonGaussian]:
    found = []
    for event in events:
        if not isinstance(event, PoissonGaussian):
            raise ReportError(f"the rounds of a run must be DP-SGD steps, got {event!r}")
        found.append(event)
    return found


def build_report(
    clients: Sequence[ClientGuarantee],
    rounds: Sequence[RoundFigures],
    **sections: Any,
) -> BudgetReport:
    """Put a report together; `sections` are the remaining fields of `BudgetReport`."""
    return BudgetReport(
        schema=SCHEMA,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        clients=tuple(clients),
        rounds=tuple(figures.to_json() for figures in rounds),
        versions=software_versions(),
        **sections,
    )


def software_versions() -> dict[str, str]:
    """Versions of what took part in the numbers."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def accounting_section(neighbouring: str) -> dict[str, Any]:
    """How epsilon was computed."""
    return {
        "accountant": accountants.ACCOUNTANT,
        "bound": "the tightest epsilon lies between the two bounds shown for every client; the "
        "upper one is the claim. Discretisation, rounding of the FFT, wrapped and truncated mass "
        "are bounded and added to it",
        "neighbouring relation": neighbouring,
        "directions": "adding and removing, the larger of the two",
        "one bound for all": "the same function calibrated the noise, admitted every round "
        "before it began and wrote this report",
        "stop rule": "a client refuses a round that would exceed its budget; the schedule was "
        "fixed before training",
        "why it holds": ScheduleFilter.theorem,
        "counted": "every committed round, and every round that was reserved and never finished, "
        "of all runs in the client's ledger for this data set",
    }
