"""The durable memory of what was released from one data set: reserve, run, commit, send.

A round is *reserved* before any random coin is drawn and *committed*, together with the bytes that
may leave, before anything is sent. Whatever happens between, a crash, a lost machine, a second
process, everything that may have left is counted: an unresolved reservation counts in full.

The file is SQLite. Every change is one `BEGIN IMMEDIATE` transaction, in which the whole history
is read and checked again, so two processes cannot both take the last of a budget. It is on disk
before the call returns: `synchronous=EXTRA` is `FULL` plus a sync of the folder after the rollback
journal is gone, without which a power cut could undo the last commit. No connection outlives a
call. Only the owner may read the file, its journal and the folder made for it.

The entries form a hash chain (`chain.py`). An edited, missing or reordered entry shows whenever
the file is read. A chain that was cut at its end, an older copy that was put back, and a chain
rewritten with fresh digests are whole in themselves: they show only against an `Anchor` that was
kept elsewhere, by hand or in an `AnchorFolder`. The ledger computes no epsilon.
"""

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from accountants import checks
from accountants.errors import (
    InvalidValueError,
    LedgerForeignError,
    LedgerMissingError,
    LedgerRolledBackError,
    LedgerStateError,
)
from accountants.events import Event
from accountants.guarantees import Neighbouring
from accountants.histories import Events, checked
from accountants.ledger import book as contents
from accountants.ledger import export as exports
from accountants.ledger import storage
from accountants.ledger.anchors import AnchorFolder
from accountants.ledger.book import Book, Reservation
from accountants.ledger.chain import WHAT_TO_DO, Anchor, Entry
from accountants.ledger.earlier import EarlierLedgers
from accountants.ledger.identity import EarlierIdentity, Identity

Admit = Callable[[Events, Events], object]
"""Called with (history, planned); raises to refuse the release."""


class Ledger:
    """What was released from one data set, in one file. Use `create` or `open`.

    >>> from tempfile import TemporaryDirectory
    >>> from accountants.events import Gaussian
    >>> folder = TemporaryDirectory()
    >>> ledger = Ledger.create(
    ...     folder.name + "/ledger",
    ...     client="ward",
    ...     dataset="notes",
    ...     unit="one note",
    ...     neighbouring=Neighbouring.ADD_REMOVE,
    ... )
    >>> plan = [Gaussian(noise_multiplier=4.0, steps=8)]
    >>> reservation = ledger.reserve("first run", 0, plan, admit=lambda history, planned: None)
    >>> ledger.commit(reservation.id, [Gaussian(noise_multiplier=4.0, steps=5)], b"the update")
    >>> ledger.events()
    (Gaussian(noise_multiplier=4.0, steps=5),)
    >>> folder.cleanup()

    Safe to use from several threads and processes at once. Methods raise LedgerCorruptError for
    a damaged or edited file, LedgerMissingError if it is gone, LedgerRolledBackError if it went
    back behind what this object has seen or its second place knows, LedgerStateError if another
    process keeps it busy for more than 30 seconds, and LedgerError if it or its second place
    cannot be read or written.
    """

    def __init__(
        self, path: Path, identity: Identity, id_: str, anchors: AnchorFolder | None = None
    ) -> None:
        self._path = path
        self._identity = identity
        self._id = id_
        self._anchors = anchors
        self._seen: Anchor | None = None

    def __repr__(self) -> str:
        whose = f"client={self._identity.client!r}, dataset={self._identity.dataset!r}"
        return f"Ledger(path={str(self._path)!r}, {whose})"

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        client: str,
        dataset: str,
        unit: str,
        neighbouring: Neighbouring,
        anchors: AnchorFolder | None = None,
        earlier: EarlierLedgers | None = None,
    ) -> "Ledger":
        """Make a new ledger; folders that are missing are made for the owner only.

        Args:
            path: where; nothing may be there.
            client: who holds the data.
            dataset: which data set.
            unit: public words: what one record is, which may be added, removed or replaced.
            neighbouring: which data sets must be hard to tell apart.
            anchors: the second place, where its last anchor is kept after every change.
            earlier: ledgers of the first version; those of this data are joined at once.

        Raises:
            LedgerStateError: if there is a file already.
            LedgerMissingError: if the second place knows that a ledger was here.
            LedgerForeignError: as `open`, for earlier ledgers.
        """
        identity = Identity(client=client, dataset=dataset, unit=unit, neighbouring=neighbouring)
        if earlier is not None:
            earlier.of(identity)  # refuses before there is a file with these words
        first = contents.opening(identity, secrets.token_hex(16))
        book, where = contents.read([first]), Path(path)
        with ExitStack() as second_place:
            if anchors is not None:
                anchors.check_not_lost(where)
                second_place.enter_context(anchors.keeping(book, where, book.anchor()))
            storage.create_file(where, first)
        return cls._opened(where, identity, anchors, earlier)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        client: str,
        dataset: str,
        unit: str,
        neighbouring: Neighbouring,
        anchors: AnchorFolder | None = None,
        earlier: EarlierLedgers | None = None,
    ) -> "Ledger":
        """Open a ledger and verify all of it; never makes one.

        Args:
            path: where it is.
            client: as it was created.
            dataset: as it was created.
            unit: as it was created.
            neighbouring: as it was created.
            anchors: the second place. The ledger must continue its last anchor there, now and
                whenever it is read, and be the one that is known to lie at this path.
            earlier: ledgers of the first version; those of this data are joined, or joined again
                if they grew.

        Raises:
            LedgerMissingError: if there is no file.
            LedgerForeignError: if it is of another client, data set, unit or relation, or of the
                first version; and if an earlier ledger is not assigned, or to another unit. Where
                nothing was released, the message names the files to remove for another unit.
            LedgerCorruptError: if it is damaged, edited, or of an unknown schema.
            LedgerRolledBackError: if it does not continue the anchor in the second place, or
                another ledger lay here; likewise for an earlier ledger that was joined.
        """
        identity = Identity(client=client, dataset=dataset, unit=unit, neighbouring=neighbouring)
        return cls._opened(Path(path), identity, anchors, earlier)

    @classmethod
    def _opened(
        cls,
        path: Path,
        identity: Identity,
        anchors: AnchorFolder | None,
        earlier: EarlierLedgers | None,
    ) -> "Ledger":
        if anchors is not None:
            anchors.check_not_lost(path)
        book = storage.verified_book(path)
        id_ = _checked_id(path, book, identity, _way_to_other_words(path, book, anchors))
        if anchors is not None:
            anchors.check_same(path, book)
        storage.make_private(path)
        ledger = cls(path, identity, id_, anchors)
        ledger._seen = book.anchor()
        ledger._keep_anchor()
        if earlier is not None:
            ledger._join(earlier)
        return ledger

    @classmethod
    def inspect(cls, path: str | os.PathLike[str]) -> "Ledger":
        """Open a ledger whoever it belongs to, and verify all of it; for a reader who only looks.

        A run uses `open`, which refuses the ledger of other data. Nothing is written, but what a
        killed writer left half done is undone, as by every reader.

        Raises:
            LedgerMissingError: if there is no file.
            LedgerForeignError: for a ledger of the first version.
            LedgerCorruptError: if it is damaged, edited, or of an unknown schema.
        """
        path = Path(path)
        book = storage.verified_book(path)
        found = book.identity
        if isinstance(found, EarlierIdentity):
            raise _of_first_version(path)
        return cls(path, found, _checked_id(path, book, found))

    @classmethod
    def open_or_create(
        cls,
        path: str | os.PathLike[str],
        *,
        client: str,
        dataset: str,
        unit: str,
        neighbouring: Neighbouring,
        anchors: AnchorFolder | None = None,
        earlier: EarlierLedgers | None = None,
    ) -> "Ledger":
        """Open the ledger, or make it if there is no file; arguments and errors are those of both.

        Only for a first run: where an anchor or a checkpoint says that a ledger existed, `open`.
        """

        def using(make: Callable[..., "Ledger"]) -> "Ledger":
            return make(
                path,
                client=client,
                dataset=dataset,
                unit=unit,
                neighbouring=neighbouring,
                anchors=anchors,
                earlier=earlier,
            )

        try:
            return using(cls.open)
        except LedgerMissingError:
            pass
        try:
            return using(cls.create)
        except LedgerStateError:  # another process made it in between
            return using(cls.open)

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self._path

    @property
    def identity(self) -> Identity:
        """Whose releases this ledger counts."""
        return self._identity

    @property
    def id(self) -> str:
        """32 random hexadecimal digits: two ledgers of equal names have different ones."""
        return self._id

    def reserve(self, run: str, round: int, planned: Iterable[Event], admit: Admit) -> Reservation:
        """Count a round's release before it happens; on disk, in both places, when this returns.

        Args:
            run: which run, as its configuration names it.
            round: which round of it, from 0.
            planned: the most that the round will release; at least one event, of any type.
            admit: called as `admit(history, planned)` inside the transaction, with all that
                counts at that moment; it raises to refuse, and then nothing is written. A bool
                in return is refused too: True and False would both have let the release happen.

        Raises:
            LedgerStateError: if the round is already reserved or committed, or nothing is planned.
            InvalidValueError: for a run without a name, a round that is no whole number, or an
                `admit` that cannot be called or returns a bool.
            UnsupportedAnalysisError: for something planned that is no event.
            Exception: whatever `admit` raises.
        """
        run, round, planned = checks.text(run=run), checks.index(round=round), checked(planned)
        _check_callable(admit)
        with self._writing() as (connection, book, keep):
            book.check_reservation(run, round, planned)
            _check_answer(admit(book.events(), planned))
            entry = contents.reserving(book.anchor(), run, round, planned)
            keep(entry)
            storage.append(connection, entry)
        return Reservation(id=entry.seq, run=run, round=round, planned=planned)

    def commit(self, reservation_id: int, ran: Iterable[Event], outgoing: bytes) -> None:
        """Say what ran of a reservation and keep the bytes that may now be sent.

        Both are on disk, or neither, when this returns; then the second place knows it too. Bytes
        of earlier rounds of the same run are dropped; those of the last commit of a run are kept,
        to be sent again after a crash.

        Args:
            reservation_id: `Reservation.id`.
            ran: what was released; less than reserved only for causes that do not depend on the
                data.
            outgoing: the message of the round.

        Raises:
            LedgerStateError: for an unknown or committed reservation, or more than was reserved.
            InvalidValueError: for a message that is not bytes.
            UnsupportedAnalysisError: for something that is no event.
        """
        reservation_id, ran = checks.index(reservation_id=reservation_id), checked(ran)
        if not isinstance(outgoing, bytes):
            raise InvalidValueError(f"outgoing must be bytes, got {type(outgoing).__name__}")
        with self._writing() as (connection, book, keep):
            run = book.check_commit(reservation_id, ran).run
            entry = contents.committing(book.anchor(), reservation_id, ran, outgoing)
            keep(entry)
            storage.append(connection, entry)
            stale = [r.id for r in book.reservations.values() if r.run == run]
            storage.replace_payload(connection, stale, reservation_id, outgoing)

    def events(self, run: str | None = None) -> Events:
        """All that counts as released, or that of one run: commits, and open reservations."""
        return self._read().events(run)

    def runs(self) -> list[str]:
        """The runs that have entries, in order of their first."""
        return self._read().runs()

    def status(self, run: str, round: int) -> str | None:
        """None, "reserved" or "committed"."""
        book = self._read()
        reservation_id = book.rounds.get((run, round))
        if reservation_id is None:
            return None
        return "committed" if reservation_id in book.commits else "reserved"

    def outgoing(self, run: str, round: int) -> bytes | None:
        """The bytes that a committed round may send; None if it has none, or they were dropped.

        The second place knows of the commit when this returns, also after a crash before it did.
        """
        self._keep_anchor()
        with self._session("BEGIN") as (connection, book):
            reservation_id = book.rounds.get((run, round))
            if reservation_id is None:
                return None
            return storage.read_payload(connection, book, reservation_id)

    def last_outgoing(self, run: str) -> bytes | None:
        """The bytes of the last commit of a run; None if it has none."""
        with self._session("BEGIN") as (connection, book):
            last = book.last_commit(run)
            return None if last is None else storage.read_payload(connection, book, last)

    def anchor(self) -> Anchor:
        """Length and head of the chain, to be kept elsewhere: with the checkpoint, at a peer."""
        return self._read().anchor()

    def verify(self, anchor: Anchor | None = None) -> Anchor:
        """Check the file, every entry and every stored message; the present anchor if all holds.

        Args:
            anchor: if given, the ledger must continue the one it was taken from. Without one,
                damage and edits show, a rollback to an older copy does not.

        Raises:
            LedgerCorruptError: for damage, edits, or steps that do not follow.
            UnsupportedAnalysisError: for a type of event that this version does not know.
            LedgerRolledBackError: if the ledger does not continue the anchor.
            InvalidValueError: for something else than an `Anchor`.
        """
        with self._session("BEGIN") as (connection, book):
            storage.check_storage(connection, book)
            if anchor is not None:
                book.check_continues(anchor)
            return book.anchor()

    def export(self) -> dict[str, object]:
        """The whole ledger as a JSON object; `verify_export` and `events_of_export` read it."""
        return exports.export(self._read())

    def _read(self) -> Book:
        with self._session("BEGIN") as (_, book):
            return book

    @contextmanager
    def _session(self, begin: str) -> Iterator[tuple[sqlite3.Connection, Book]]:
        """One transaction over the checked contents of the file.

        SQLite lets nobody commit while it lasts, so that anchors kept by others meanwhile are of
        what was read here.
        """
        seen = self._seen
        with storage.session(self._path, begin) as connection:
            book = contents.read(storage.read_entries(connection))
            if _checked_id(self._path, book, self._identity) != self._id:
                raise LedgerRolledBackError(
                    f"the ledger {self._path} must be the one with the id {self._id}, and has the "
                    f"id {book.id}: it was replaced while it was in use; {WHAT_TO_DO}"
                )
            if seen is not None:
                book.check_continues(seen)
            if self._anchors is not None:
                self._anchors.check(book)
            self._seen = book.anchor()
            yield connection, book

    @contextmanager
    def _writing(self) -> Iterator[tuple[sqlite3.Connection, Book, Callable[[Entry], None]]]:
        """A transaction that appends an entry, and calls `keep(entry)` before it does.

        The entry is committed on leaving, and its anchor gets its name in the second place after
        that; if it could not, nothing was appended.
        """
        kept = list[Anchor]()
        with ExitStack() as second_place:
            with self._session("BEGIN IMMEDIATE") as (connection, book):

                def keep(entry: Entry) -> None:
                    kept.append(Anchor(length=entry.seq + 1, head=entry.digest))
                    if self._anchors is not None:
                        keeping = self._anchors.keeping(book, self._path, kept[-1])
                        second_place.enter_context(keeping)

                yield connection, book, keep
            if kept:
                self._seen = kept[-1]

    def _keep_anchor(self) -> None:
        """Bring the second place up to the ledger: after a crash, a move, or on a first use."""
        if self._anchors is None or self._anchors.holds(self._read(), self._path):
            return
        with ExitStack() as second_place, self._session("BEGIN IMMEDIATE") as (_, book):
            second_place.enter_context(self._anchors.keeping(book, self._path, book.anchor()))

    def _join(self, earlier: EarlierLedgers) -> None:
        """Count what earlier ledgers of this data released, once each, as they are now."""
        for old in earlier.to_join(self._identity):
            with self._writing() as (connection, book, keep):
                known = book.inherited.get(contents.source_of(old))
                if known is not None:
                    old.check_continues(known.anchor)
                if known is None or known.anchor != old.anchor():
                    entry = contents.inheriting(book.anchor(), old)
                    keep(entry)
                    storage.append(connection, entry)


def _checked_id(path: Path, book: Book, wanted: Identity, way_out: str = "") -> str:
    """The id of a ledger that is of this data, in this unit.

    Args:
        path: where it lies.
        book: what it says.
        wanted: whose releases it must count.
        way_out: what else can be done about another unit or relation, for the message.

    Raises:
        LedgerForeignError: if it is of other data, or of another unit or relation.
    """
    found = book.identity
    if isinstance(found, EarlierIdentity) or book.id is None:
        raise _of_first_version(path)
    for name in ("client", "dataset"):
        if getattr(found, name) != getattr(wanted, name):
            raise LedgerForeignError(
                f"the ledger {path} must be for the {name} {getattr(wanted, name)!r}, and is for "
                f"{getattr(found, name)!r}; open the ledger of this data, with the words it "
                "was created with"
            )
    for name in ("unit", "neighbouring"):
        stated, kept = wanted.to_json()[name], found.to_json()[name]
        if stated != kept:
            raise LedgerForeignError(
                f"the ledger {path} must be opened with the {name} it was created with, {kept!r}, "
                f"and not {stated!r}: a budget of one unit and relation says nothing about "
                f"another; use the words that it was created with{way_out}"
            )
    return book.id


def _way_to_other_words(path: Path, book: Book, anchors: AnchorFolder | None) -> str:
    """How to begin anew in other words, where nothing was released; empty where something was.

    Raises:
        LedgerRolledBackError: if the second place knows that it held more, or that another ledger
            lay here.
    """
    if len(book.entries) > 1 or book.id is None:
        return ""
    files = [path]
    if anchors is not None:
        anchors.check_same(path, book)
        anchors.check(book)
        files += anchors.files_about(path, book.id)
    return (
        ". It counts no release: if none was ever made under these words, and they are a mistake, "
        f"end every program that uses it, remove {', '.join(map(str, files))}, and open it again"
    )


def _of_first_version(path: Path) -> LedgerForeignError:
    return LedgerForeignError(
        f"the ledger {path} must be of this version, and is of the first, which is only read; "
        "open or create a new ledger, and let it join this one (EarlierLedgers)"
    )


def _check_callable(admit: object) -> None:
    if not callable(admit):
        advice = "; pass filter.admit" if hasattr(admit, "admit") else ""
        raise InvalidValueError(
            "admit must be a function of the history and what is planned, got "
            f"{type(admit).__name__}{advice}"
        )


def _check_answer(answer: object) -> None:
    """Refuse what a predicate returns, whose False would let the release happen."""
    if type(answer).__name__ == "bool":  # by name, as ledgers need no numpy
        raise InvalidValueError(
            "admit must raise to refuse, or return something else than a bool; it returned "
            f"{answer!r}"
        )
