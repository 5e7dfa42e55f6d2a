"""From a client's ledger to its row in a budget report, and how its epsilon was computed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import accountants
from accountants import (
    Budget,
    Event,
    Neighbouring,
    PoissonGaussian,
    ScheduleFilter,
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
    planned: PoissonGaussian,
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
        one_more = epsilon([*events, planned], budget.delta, relation).upper
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
    run: str,
    public_size: int,
    budget: Budget,
    planned: PoissonGaussian,
    status: str,
) -> ClientGuarantee:
    """One client's guarantee, computed from its ledger's export.

    Args:
        export: of the ledger.
        run: whose rounds are "this run".
        public_size: as declared or released.
        budget: as agreed.
        planned: a round as it was calibrated; stands in for sigma and q where none was begun.
        status: of the report. While the run goes on, one more round counts as begun; the curve of
            what an attacker can reach takes seconds, and is computed once all rounds are over.

    Raises:
        accountants.LedgerError: if the export's chain of digests does not hold.
        ReportError: if the rounds of the run differ in noise or sampling rate.
    """
    book = book_of_export(export)
    whose, id_ = book.identity, book.id
    if not isinstance(whose, Identity) or id_ is None:
        raise ReportError(
            "a report needs ledgers of this version, which state their unit; the export of client "
            f"{whose.client!r} is of the first version"
        )
    everything, mine, relation = book.events(), book.events(run), whose.neighbouring
    others = list(everything)
    for event in mine:
        others.remove(event)
    round_event = _one_kind(whose.client, mine, planned)
    bounds = bounds_of(everything, planned=planned, budget=budget, relation=relation, status=status)
    begun = {id_ for id_, reservation in book.reservations.items() if reservation.run == run}
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
        noise_multiplier=round_event.noise_multiplier,
        sample_rate=round_event.sample_rate,
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


def _one_kind(client: str, mine: Iterable[Event], planned: PoissonGaussian) -> PoissonGaussian:
    """A round of this run, all of which have the same noise and sampling rate."""
    rounds = _of_dp_sgd(mine) or [planned]
    kinds = {(event.noise_multiplier, event.sample_rate) for event in rounds}
    if len(kinds) != 1:
        raise ReportError(f"the rounds of client {client!r} differ: {sorted(kinds)}")
    return rounds[0]


def _of_dp_sgd(events: Iterable[Event]) -> list[PoissonGaussian]:
    found = []
    for event in events:
        if not isinstance(event, PoissonGaussian):
            raise ReportError(f"the rounds of a run must be DP-SGD steps, got {event!r}")
        found.append(event)
    return found


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
