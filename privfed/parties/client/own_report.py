"""What a client says at the end of a run: its own report, signed, and its ledger if it may leave.

The numbers are those of its own ledger. How the rounds went (who took part, what a round weighed in
bytes) the aggregator saw and the client did not: it states that in `finish`, and the client hands
it on beside its own numbers.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from accountants import Event, epsilon
from accountants.ledger.book import Book
from accountants.ledger.export import book_of_export
from privfed import run_settings
from privfed.errors import MessageError
from privfed.methods.method import released_digest
from privfed.parties.client.membership import Membership
from privfed.parties.client.node import ClientNode
from privfed.parties.client.program import Program
from privfed.parties.client.round import Progress
from privfed.parties.client.told import Told
from privfed.protocol.ready import base_weights
from privfed.protocol.terms import Terms
from privfed.reports.budget import COMPLETE, BudgetReport
from privfed.reports.closed import closed_message
from privfed.reports.making import Moment, client_report
from privfed.reports.round_record import RoundRecord
from privfed.reports.run_facts import RunFacts
from privfed.reports.run_record import RunRecord
from privfed.run_settings import FederationSettings

_TOLD: Final = (
    "Who took part in a round, what it weighed, its metric on held-out text and its signal to "
    "noise are as the aggregator told them; epsilon after each round is this client's, by its own "
    "ledger."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnReport:
    """Makes what one client says at the end of a run.

    Attributes:
        baseline: metric of the initial adapter on held-out text.
        notes: what the reader should question, known to this client before the run.
        size_source: where its public size comes from.
        share_ledger: whether its operator lets the export of its ledger leave, so that others can
            compute its epsilon again.
        keep: keeps report, record of the run, export and progress for the client itself, before
            anything is said; None keeps nothing.
    """

    baseline: float
    notes: tuple[str, ...]
    size_source: str
    share_ledger: bool
    keep: Callable[[BudgetReport, RunRecord, Mapping[str, Any], Progress], None] | None = None

    def __call__(self, program: Program, terms: Terms, told: Told) -> bytes:
        """The signed message.

        Args:
            program: of the client.
            terms: of the message.
            told: how the rounds went.

        Raises:
            ReportError, MessageError: if that does not fit the client's ledger.
        """
        membership, node = program.membership, program.node
        starting, progress = membership.starting, membership.progress
        if starting is None:
            raise MessageError("only a run that has begun can end")
        told.require_figures_of(membership.settings.method.figures(progress.state))
        export: dict[str, Any] = json.loads(json.dumps(node.ledger.export()))
        book = book_of_export(export)
        base, others = base_weights(membership.known)
        weights = run_settings.weight_notes(starting.agreement.weights, membership.settings.steps)
        record = RunRecord(
            run=starting.run,
            settings=membership.settings.describe(),
            base_sha256=base,
            start_sha256=membership.facts.start,
            notes=(*self.notes, *weights, _TOLD),
            noise_multipliers={n: one.noise_multiplier for n, one in starting.facts.items()},
            first_range=starting.first_range,
            public_range=progress.public_range,
            anchors={node.id: book.anchor()},
            baseline=self.baseline,
            rounds=tuple(_own_record(row, node, starting.run, book) for row in told.rounds),
            abandoned=told.abandoned,
            left_out=told.left_out,
            other_bases=others,
        )
        facts = RunFacts(
            agreement=starting.agreement,
            participants=tuple(membership.known),
            base_model=next(iter(membership.known.values())).base_model,
            scheme=starting.scheme,
            roster=membership.roster.digest().hex(),
            simulated_keys=False,
            key={},
            key_bytes=0,
            in_one_process=False,
        )
        moment = Moment(
            status=_status(terms.round, node.rounds),
            rounds_over=terms.round,
            adapter_sha256=released_digest(membership.settings.method, progress.state),
        )
        report = client_report(
            self._settings(membership), facts, record, export, moment, client=node.id
        )
        report = _without_paths(report, record.base_of(node.id))
        if self.keep is not None:
            self.keep(report, record, export, progress)
        return closed_message(node.identity, terms, report, export if self.share_ledger else None)

    def _settings(self, membership: Membership) -> FederationSettings:
        """The settings on this client's base, with its size; nothing is said of the others."""
        settings, mine = membership.settings, membership.facts.client
        (own,) = [client for client in settings.clients if client.id == mine["id"]]
        sized = replace(own, public_size=mine["public_size"])
        known = [sized if client is own else client for client in settings.clients]
        on_its_base = replace(settings, model=settings.task_on(own.base))
        return on_its_base.of_clients(known, self.size_source)


def _without_paths(report: BudgetReport, digest: str) -> BudgetReport:
    """The report without the place of the base model on this machine; its digest names it.

    A place says how this organisation's disk is laid out, whether or not something is still there.
    """
    model = dict(report.training.model)
    place = Path(str(model.get("base", "")))
    if place.is_absolute() or place.exists():
        model["base"] = f"local files, SHA-256 {digest}"
    return replace(report, training=replace(report.training, model=model))


def _own_record(row: RoundRecord, node: ClientNode, run: str, book: Book) -> RoundRecord:
    """A round, with what this client had spent after it by its own ledger, and no other."""
    budget, relation = node.filter.budget, node.filter.neighbouring
    spent = epsilon(events_until(book, run, row.round), budget.delta, relation).upper
    return replace(row, epsilon={node.id: spent})


def events_until(book: Book, run: str, round_number: int) -> tuple[Event, ...]:
    """All that a ledger counted when a round of a run was over.

    Args:
        book: of the ledger.
        run: identifier.
        round_number: of the round, whether or not the client took part in it.
    """
    own = [one for one in book.reservations.values() if one.run == run]
    first = min((one.id for one in own), default=len(book.entries))
    until = max((one.id for one in own if one.round <= round_number), default=first - 1)
    later = {one.id for one in book.reservations.values() if one.id > until}
    kept = {id_: one for id_, one in book.reservations.items() if id_ not in later}
    return replace(book, reservations=kept).events()


def _status(over: int, planned: int) -> str:
    return COMPLETE if over == planned else f"stopped before round {over + 1}"
