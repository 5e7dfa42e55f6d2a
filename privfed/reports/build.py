"""From a client's ledger to its row in a budget report, and how its epsilon was computed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import accountants
from accountants import (
    Budget,
    Event,
    Neighbouring,
    ScheduleFilter,
    canonical,
    epsilon,
    event_to_json,
)
from accountants.ledger.export import book_of_export
from accountants.ledger.identity import Identity
from accountants.tradeoff import curve
from privfed.errors import ReportError
from privfed.reports.budget import COMPLETE, RUNNING
from privfed.reports.clients import ClientGuarantee
from privfed.reports.sections import Accounting

FALSE_POSITIVE_RATES: Final = (0.001, 0.01, 0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What releases come to; see `ClientGuarantee`.

    Attributes:
        epsilon_spent: upper bound.
        epsilon_lower: lower bound.
        epsilon_if_begun: upper bound with one more round, while the run goes on.
        attack: bounds on what an attack reaches; empty until the run has ended.
    """

    epsilon_spent: float
    epsilon_lower: float
    epsilon_if_begun: float
    attack: Mapping[str, float]


def bounds_of(
    events: tuple[Event, ...],
    *,
    planned: Sequence[Event],
    budget: Budget,
    relation: Neighbouring,
    status: str,
) -> Bounds:
    """Bounds on all that a client released.

    Args:
        events: its releases.
        planned: one more round of the run.
        budget: of the run; a client refuses a round that would exceed it.
        relation: of the ledger.
        status: of the report; see `client_guarantee`.
    """
    spent = epsilon(events, budget.delta, relation)
    begun = spent.upper
    if status == RUNNING:
        one_more = epsilon([*events, *planned], budget.delta, relation).upper
        begun = max(spent.upper, min(one_more, budget.epsilon))
    return Bounds(
        epsilon_spent=spent.upper,
        epsilon_lower=spent.lower,
        epsilon_if_begun=begun,
        attack=attack_bounds(events, relation) if status == COMPLETE else {},
    )


def client_guarantee(
    export: Mapping[str, Any],
    *,
    client: str,
    run: str,
    public_size: int,
    budget: Budget,
    planned: Sequence[Event],
    status: str,
) -> ClientGuarantee:
    """One client's guarantee, computed from its ledger's export.

    Args:
        export: of the ledger.
        client: its name.
        run: whose rounds are "this run".
        public_size: as declared or released.
        budget: as agreed.
        planned: what a round releases, as it was calibrated; at least one event.
        status: of the report. While the run goes on, one more round counts as begun; the curve of
            what an attacker can reach takes seconds, and is computed once all rounds are over.

    Raises:
        accountants.LedgerError: if the export's chain of digests does not hold.
        ReportError: if the ledger is another's, or rounds of the run released something else than
            was planned.
    """
    book = book_of_export(export)
    whose, id_ = book.identity, book.id
    if not isinstance(whose, Identity) or id_ is None:
        raise ReportError(
            "a report needs ledgers of this version, which state their unit; the export of client "
            f"{whose.client!r} is of the first version"
        )
    if whose.client != client:
        raise ReportError(
            f"what is said of {client!r} must be from its ledger, this is of {whose.client!r}"
        )
    everything, mine, relation = book.events(), book.events(run), whose.neighbouring
    others = list(everything)
    for event in mine:
        others.remove(event)
    begun = {id_ for id_, reservation in book.reservations.items() if reservation.run == run}
    _require_planned(client, mine, planned, len(begun))
    steps: Mapping[str, Any] = event_to_json(planned[0])
    bounds = bounds_of(everything, planned=planned, budget=budget, relation=relation, status=status)
    return ClientGuarantee(
        id=whose.client,
        dataset=whose.dataset,
        unit=whose.unit,
        neighbouring=relation.value,
        public_size=public_size,
        epsilon_spent=bounds.epsilon_spent,
        epsilon_lower=bounds.epsilon_lower,
        epsilon_before=epsilon(others, budget.delta, relation).upper,
        epsilon_if_begun=bounds.epsilon_if_begun,
        epsilon_budget=budget.epsilon,
        delta=budget.delta,
        rounds=len(begun),
        steps=sum(event.steps for event in mine),
        unresolved=len(begun - set(book.commits)),
        noise_multiplier=steps["noise_multiplier"],
        sample_rate=steps["sample_rate"],
        planned=tuple(event_to_json(event) for event in planned),
        releases=tuple(event_to_json(event) for event in everything),
        attack=bounds.attack,
        ledger_id=id_,
        ledger_length=len(book.entries),
        ledger_head=book.anchor().head,
        signed=False,
        recomputed=True,
    )


@lru_cache(maxsize=4096)  # clients of equal histories have equal curves
def attack_bounds(events: tuple[Event, ...], relation: Neighbouring) -> Mapping[str, float]:
    """What the best attack on one record can reach, from the certified trade-off of the releases.

    Returns:
        The most true positives at each of `FALSE_POSITIVE_RATES`, and the largest advantage, as in
        `ClientGuarantee.attack`.
    """
    found = curve(events, FALSE_POSITIVE_RATES, relation)
    rates = map("{:g}".format, FALSE_POSITIVE_RATES)
    bounds = dict(zip(rates, found.true_positive_rates, strict=True))
    return {**bounds, "advantage": found.advantage}


def times(planned: Iterable[Event], rounds: int) -> tuple[Event, ...]:
    """What so many rounds release, in normal form."""
    return canonical(replace(event, steps=event.steps * rounds) for event in planned if rounds)


def _require_planned(
    client: str, mine: Iterable[Event], planned: Sequence[Event], rounds: int
) -> None:
    """Refuse rounds of a run that released something else than was calibrated."""
    if canonical(mine) != times(planned, rounds):
        raise ReportError(
            f"each of {rounds} rounds of client {client!r} was to release {list(planned)}, they "
            f"released {list(mine)}"
        )


def accounting_section(neighbouring: str) -> Accounting:
    """How epsilon was computed.

    Args:
        neighbouring: relation of the ledgers.
    """
    return Accounting(
        accountant=accountants.ACCOUNTANT,
        bound="the tightest epsilon lies between the two bounds shown for every client; the "
        "upper one is the claim. Discretisation, rounding of the FFT, wrapped and truncated mass "
        "are bounded and added to it",
        neighbouring=neighbouring,
        directions="adding and removing, the larger of the two",
        one_bound="the same function calibrated the noise, admitted every round "
        "before it began and wrote this report",
        stop_rule="a client refuses a round that would exceed its budget; the schedule was "
        "fixed before training",
        theorem=ScheduleFilter.theorem,
        counted="every committed round, and every round that was reserved and never finished, "
        "of all runs in the client's ledger for this data set",
    )
