"""What the entries of a ledger say: what was planned, what ran and what was sent.

Entry 0 ("open") says whose data this is; "reserve" says what one round is about to release;
"commit" says what of it ran, with the SHA-256 of the bytes that may leave; "inherit" says what a
ledger of an earlier version released from the same data. A release counts from its reservation on,
and by what ran once it is committed. Everything here is pure.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from accountants import checks
from accountants.errors import (
    InvalidValueError,
    LedgerRolledBackError,
    LedgerStateError,
    UnsupportedAnalysisError,
)
from accountants.event_json import event_from_json, event_to_json
from accountants.events import Event
from accountants.histories import Events, is_within
from accountants.ledger.chain import (
    WHAT_TO_DO,
    Anchor,
    Entry,
    checked_anchor,
    checked_bodies,
    damaged,
    is_digest,
    linked,
    require_fields,
)
from accountants.ledger.identity import SCHEMA, EarlierIdentity, Identity, identity_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One round's release, counted as if it happened from the moment it is reserved.

    Attributes:
        id: number of its entry; `Ledger.commit` takes it.
        run: which run, as its configuration names it.
        round: which round of the run, from 0.
        planned: what may be released at most.
    """

    id: int
    run: str
    round: int
    planned: Events


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What ran of one reservation, and what it sent.

    Attributes:
        ran: what was released; never above the reservation.
        outgoing_sha256: digest of the bytes that may leave, hexadecimal.
        outgoing_bytes: how many bytes they are.
    """

    ran: Events
    outgoing_sha256: str
    outgoing_bytes: int

    def is_of(self, outgoing: bytes) -> bool:
        """Whether these are the bytes that were committed."""
        return (
            len(outgoing) == self.outgoing_bytes
            and hashlib.sha256(outgoing).hexdigest() == self.outgoing_sha256
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """What a ledger of an earlier version released from the data of this one.

    Attributes:
        source: which one; see `source_of`.
        identity: whose releases it counted, in its own words.
        anchor: its length and head when it was joined.
        released: all that counted then.
    """

    source: str
    identity: EarlierIdentity
    anchor: Anchor
    released: Events


@dataclass(slots=True, kw_only=True)
class Book:
    """What a whole, checked chain says; `read` builds it.

    Attributes:
        identity: whose releases these are.
        id: random, of this very ledger; None for one of the first version.
        entries: the chain.
        reservations: by id, in order.
        commits: by the id of their reservation, in order of commitment.
        rounds: the id of the reservation of each (run, round).
        inherited: by its source, what each earlier ledger released.
    """

    identity: Identity | EarlierIdentity
    id: str | None
    entries: tuple[Entry, ...]
    reservations: dict[int, Reservation] = field(default_factory=dict)
    commits: dict[int, Commit] = field(default_factory=dict)
    rounds: dict[tuple[str, int], int] = field(default_factory=dict)
    inherited: dict[str, Inheritance] = field(default_factory=dict)

    def anchor(self) -> Anchor:
        """Length and head of the chain."""
        return Anchor(length=len(self.entries), head=self.entries[-1].digest)

    def runs(self) -> list[str]:
        """Runs that have entries, in order of their first."""
        return list(dict.fromkeys(r.run for r in self.reservations.values()))

    def events(self, run: str | None = None) -> Events:
        """All that counts as released: what was committed, and what is still reserved.

        Without a run, also all that earlier ledgers of the same data released.
        """
        counted: list[Event] = []
        if run is None:
            for inheritance in self.inherited.values():
                counted.extend(inheritance.released)
        for reservation in self.reservations.values():
            if run is None or reservation.run == run:
                commit = self.commits.get(reservation.id)
                counted.extend(reservation.planned if commit is None else commit.ran)
        return tuple(counted)

    def latest_commits(self) -> set[int]:
        """The ids of the last commit of each run; only their bytes must still be held."""
        return set(self._last_commits().values())

    def last_commit(self, run: str) -> int | None:
        """The id of the last commit of a run; None if it has none."""
        return self._last_commits().get(run)

    def _last_commits(self) -> dict[str, int]:
        return {self.reservations[id_].run: id_ for id_ in self.commits}

    def check_continues(self, anchor: Anchor) -> None:
        """Refuse a chain that does not continue the one the anchor was taken from."""
        checked_anchor(anchor)
        if len(self.entries) < anchor.length:
            raise LedgerRolledBackError(
                f"the ledger must hold at least the {anchor.length} entries of its anchor, and "
                f"holds {len(self.entries)}: an older copy was put back, or its end was cut off; "
                + WHAT_TO_DO
            )
        found = self.entries[anchor.length - 1].digest
        if found != anchor.head:
            raise LedgerRolledBackError(
                f"entry {anchor.length - 1} must have the digest {anchor.head} of the anchor, "
                f"and has {found}: an older copy was put back and continued, or the ledger was "
                "rewritten; " + WHAT_TO_DO
            )

    def check_reservation(self, run: str, round: int, planned: Events) -> None:
        """Refuse an empty reservation, or a second one of a round."""
        if not planned:
            raise LedgerStateError(
                f"a reservation must plan at least one event, got none for round {round} of run "
                f"{run!r}; a round that releases nothing needs no reservation"
            )
        known = self.rounds.get((run, round))
        if known is not None:
            state = (
                "committed; send its stored bytes again, or go on with the next round"
                if known in self.commits
                else "reserved and never committed; if another process works on this run, let it "
                "finish; else it counts in full; go on with the next round"
            )
            raise LedgerStateError(
                f"a round must be reserved once: round {round} of run {run!r} is already {state}"
            )

    def check_commit(self, reservation_id: int, ran: Events) -> Reservation:
        """The reservation that a commit of `ran` would resolve; refuse one that does not fit."""
        reservation = self.reservations.get(reservation_id)
        if reservation is None:
            raise LedgerStateError(
                f"a commit must name a reservation of this ledger, got {reservation_id!r}; "
                "reserve the round before it runs"
            )
        if reservation_id in self.commits:
            raise LedgerStateError(
                f"a reservation must be committed once: {reservation_id} (round "
                f"{reservation.round} of run {reservation.run!r}) already is; send its stored "
                "bytes again"
            )
        if not is_within(ran, reservation.planned):
            raise LedgerStateError(
                f"what ran must be within the reservation {reservation.planned}, got {ran}; the "
                "release must not be sent"
            )
        return reservation


def opening(identity: Identity, id_: str) -> Entry:
    """Entry 0 of a new chain."""
    return linked("open", {"schema": SCHEMA, "id": id_} | identity.to_json(), None)


def reserving(after: Anchor, run: str, round: int, planned: Events) -> Entry:
    """The entry that reserves a round."""
    body = {"run": run, "round": round, "planned": [event_to_json(event) for event in planned]}
    return linked("reserve", body, after)


def committing(after: Anchor, reservation_id: int, ran: Events, outgoing: bytes) -> Entry:
    """The entry that resolves a reservation."""
    body = {
        "reservation": reservation_id,
        "ran": [event_to_json(event) for event in ran],
        "outgoing_sha256": hashlib.sha256(outgoing).hexdigest(),
        "outgoing_bytes": len(outgoing),
    }
    return linked("commit", body, after)


def inheriting(after: Anchor, earlier: Book) -> Entry:
    """The entry that joins a ledger of the first version, with all that it counts now."""
    body = {
        "source": source_of(earlier),
        **earlier.identity.to_json(),
        **earlier.anchor().to_json(),
        "released": [event_to_json(event) for event in earlier.events()],
    }
    return linked("inherit", body, after)


def source_of(earlier: Book) -> str:
    """What stands for the id of a ledger of the first version: the digest of its entry 1.

    Its entry 0 would be the same in another ledger of the same names; entry 1 reserves a round of a
    run, and runs have names of their own.
    """
    return earlier.entries[1].digest


def read(entries: Sequence[Entry]) -> Book:
    """Check a whole chain, of this version or the first, and say what it means.

    Raises:
        LedgerCorruptError: for a broken link, a body that does not parse, a schema that is not
            known, or a step that does not follow from the entries before it.
        UnsupportedAnalysisError: for a type of event that this version does not know.
    """
    bodies = checked_bodies(entries)
    id_, identity = _opened(entries[0].kind, bodies[0])
    book = Book(identity=identity, id=id_, entries=tuple(entries))
    for entry, body in zip(entries[1:], bodies[1:], strict=True):
        try:
            _apply(book, entry, body)
        except (InvalidValueError, LedgerStateError) as error:
            raise damaged(f"entry {entry.seq} does not follow: {error}") from error
        except UnsupportedAnalysisError as error:
            raise UnsupportedAnalysisError(
                f"entry {entry.seq} of the ledger cannot be read by this version: {error}"
            ) from error
    return book


def _opened(kind: str, body: dict[str, Any]) -> tuple[str | None, Identity | EarlierIdentity]:
    if kind != "open":
        raise damaged(f"entry 0 must be of kind 'open', not {kind!r}")
    try:
        return identity_of(body)
    except InvalidValueError as error:
        raise damaged(f"entry 0 names nobody: {error}") from error


def _apply(book: Book, entry: Entry, body: dict[str, Any]) -> None:
    """Add one entry after the first to what the book says."""
    if entry.kind == "reserve":
        _apply_reservation(book, entry.seq, body)
    elif entry.kind == "commit":
        _apply_commit(book, body)
    elif entry.kind == "inherit" and isinstance(book.identity, Identity):
        _apply_inheritance(book, body)
    else:
        raise InvalidValueError(
            f"kind must be 'reserve', 'commit' or 'inherit', got {entry.kind!r}"
        )


def _apply_reservation(book: Book, seq: int, body: dict[str, Any]) -> None:
    require_fields(body, {"run", "round", "planned"})
    run, round_ = checks.text(run=body["run"]), checks.index(round=body["round"])
    planned = _events(body["planned"])
    book.check_reservation(run, round_, planned)
    book.reservations[seq] = Reservation(id=seq, run=run, round=round_, planned=planned)
    book.rounds[run, round_] = seq


def _apply_commit(book: Book, body: dict[str, Any]) -> None:
    require_fields(body, {"reservation", "ran", "outgoing_sha256", "outgoing_bytes"})
    reservation_id = checks.index(reservation=body["reservation"])
    size = checks.index(outgoing_bytes=body["outgoing_bytes"])
    ran, digest = _events(body["ran"]), _digest(outgoing_sha256=body["outgoing_sha256"])
    book.check_commit(reservation_id, ran)
    book.commits[reservation_id] = Commit(ran=ran, outgoing_sha256=digest, outgoing_bytes=size)


def _apply_inheritance(book: Book, body: dict[str, Any]) -> None:
    """A later entry of one source is of the same ledger, grown, and replaces the one before."""
    names = ("client", "dataset", "description")
    require_fields(body, {"source", *names, "length", "head", "released"})
    source = _digest(source=body["source"])
    anchor = Anchor(length=body["length"], head=body["head"])
    known = book.inherited.get(source)
    if anchor.length <= (1 if known is None else known.anchor.length):
        raise InvalidValueError(
            f"an earlier ledger must have grown since it was joined, got {anchor.length} entries"
        )
    book.inherited[source] = Inheritance(
        source=source,
        identity=EarlierIdentity(**{name: body[name] for name in names}),
        anchor=anchor,
        released=_events(body["released"]),
    )


def _digest(**named: object) -> str:
    ((name, value),) = named.items()
    if not is_digest(value):
        raise InvalidValueError(f"{name} must be a SHA-256 digest, got {checks.shown(value)}")
    return str(value)


def _events(values: object) -> Events:
    if not isinstance(values, list):
        raise InvalidValueError(f"events must be a list, got {values!r}")
    return tuple(event_from_json(value) for value in values)
