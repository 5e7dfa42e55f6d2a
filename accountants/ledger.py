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
kept elsewhere. The ledger computes no epsilon.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from accountants import book as contents
from accountants import checks, storage
from accountants import export as exports
from accountants.book import Book, Events, Identity, Reservation
from accountants.chain import Anchor
from accountants.errors import (
    InvalidValueError,
    LedgerForeignError,
    LedgerMissingError,
    LedgerStateError,
)
from accountants.events import Event, checked

Admit = Callable[[Events, Events], object]
"""Called with (history, planned); raises to refuse the release."""


class Ledger:
    """What was released from one data set, in one file. Use `create` or `open`.

    >>> from tempfile import TemporaryDirectory
    >>> from accountants.events import Gaussian
    >>> folder = TemporaryDirectory()
    >>> whose = {"client": "ward", "dataset": "notes", "description": "training split"}
    >>> ledger = Ledger.create(folder.name + "/ledger", **whose)
    >>> plan = [Gaussian(noise_multiplier=4.0, steps=8)]
    >>> reservation = ledger.reserve("first run", 0, plan, admit=lambda history, planned: None)
    >>> ledger.commit(reservation.id, [Gaussian(noise_multiplier=4.0, steps=5)], b"the update")
    >>> ledger.events()
    (Gaussian(noise_multiplier=4.0, steps=5),)
    >>> folder.cleanup()

    Safe to use from several threads and processes at once. Methods raise LedgerCorruptError for
    a damaged or edited file, LedgerMissingError if it is gone, LedgerRolledBackError if it went
    back behind what this object has seen, and LedgerStateError if another process keeps it busy
    for more than 30 seconds.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self._path = path
        self._identity = identity
        self._seen: Anchor | None = None

    def __repr__(self) -> str:
        whose = f"client={self._identity.client!r}, dataset={self._identity.dataset!r}"
        return f"Ledger(path={str(self._path)!r}, {whose})"

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], *, client: str, dataset: str, description: str
    ) -> "Ledger":
        """Make a new, empty ledger; folders that are missing are made for the owner only.

        Args:
            path: where; nothing may be there.
            client: who holds the data.
            dataset: which data set.
            description: public text that says which split of which data this is.

        Raises:
            LedgerStateError: if there is a file already.
        """
        identity = Identity(client=client, dataset=dataset, description=description)
        storage.create_file(Path(path), contents.opening(identity))
        return cls.open(path, client=client, dataset=dataset, description=description)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, client: str, dataset: str, description: str
    ) -> "Ledger":
        """Open a ledger and verify all of it; never makes one.

        Raises:
            LedgerMissingError: if there is no file.
            LedgerForeignError: if it belongs to another client, data set or description.
            LedgerCorruptError: if it is damaged, edited, or of an unknown schema.
        """
        identity = Identity(client=client, dataset=dataset, description=description)
        ledger = cls(Path(path), identity)
        ledger.verify()
        storage.make_private(Path(path))
        return ledger

    @classmethod
    def inspect(cls, path: str | os.PathLike[str]) -> "Ledger":
        """Open a ledger whoever it belongs to, and verify all of it; for a reader who only looks.

        A run uses `open`, which refuses the ledger of other data. Nothing is written, but what a
        killed writer left half done is undone, as by every reader.

        Raises:
            LedgerMissingError: if there is no file.
            LedgerCorruptError: if it is damaged, edited, or of an unknown schema.
        """
        with storage.session(Path(path), "BEGIN") as connection:
            found = contents.read(storage.read_entries(connection)).identity
        ledger = cls(Path(path), found)
        ledger.verify()
        return ledger

    @classmethod
    def open_or_create(
        cls, path: str | os.PathLike[str], *, client: str, dataset: str, description: str
    ) -> "Ledger":
        """Open the ledger, or make it if there is no file.

        Only for a first run: where an anchor or a checkpoint says that a ledger existed, `open`.
        """
        try:
            return cls.open(path, client=client, dataset=dataset, description=description)
        except LedgerMissingError:
            pass
        try:
            return cls.create(path, client=client, dataset=dataset, description=description)
        except LedgerStateError:  # another process made it in between
            return cls.open(path, client=client, dataset=dataset, description=description)

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self._path

    @property
    def identity(self) -> Identity:
        """Whose releases this ledger counts."""
        return self._identity

    def reserve(self, run: str, round: int, planned: Iterable[Event], admit: Admit) -> Reservation:
        """Count a round's release before it happens; on disk when this returns.

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
        with self._session("BEGIN IMMEDIATE") as (connection, book):
            book.check_reservation(run, round, planned)
            check_answer(admit(book.events(), planned))
            entry = contents.reserving(book.anchor(), run, round, planned)
            storage.append(connection, entry)
        self._seen = Anchor(length=entry.seq + 1, head=entry.digest)
        return Reservation(id=entry.seq, run=run, round=round, planned=planned)

    def commit(self, reservation_id: int, ran: Iterable[Event], outgoing: bytes) -> None:
        """Say what ran of a reservation and keep the bytes that may now be sent.

        Both are on disk, or neither, when this returns. Bytes of earlier rounds of the same run
        are dropped; those of the last commit of a run are kept, to be sent again after a crash.

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
        with self._session("BEGIN IMMEDIATE") as (connection, book):
            run = book.check_commit(reservation_id, ran).run
            entry = contents.committing(book.anchor(), reservation_id, ran, outgoing)
            storage.append(connection, entry)
            stale = [r.id for r in book.reservations.values() if r.run == run]
            storage.replace_payload(connection, stale, reservation_id, outgoing)
        self._seen = Anchor(length=entry.seq + 1, head=entry.digest)

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
        """The bytes that a committed round may send; None if it has none, or they were dropped."""
        with self._session("BEGIN") as (connection, book):
            reservation_id = book.rounds.get((run, round))
            if reservation_id is None:
                return None
            return storage.read_payload(connection, book, reservation_id)

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
        """One transaction over the checked contents of the file."""
        seen = self._seen
        with storage.session(self._path, begin) as connection:
            book = contents.read(storage.read_entries(connection))
            self._check_identity(book.identity)
            if seen is not None:
                book.check_continues(seen)
            self._seen = book.anchor()
            yield connection, book

    def _check_identity(self, found: Identity) -> None:
        for name, wanted in self._identity.to_json().items():
            if getattr(found, name) != wanted:
                raise LedgerForeignError(
                    f"the ledger {self._path} must be for the {name} {wanted!r}, and is for "
                    f"{getattr(found, name)!r}; open the ledger of this data, with the words it "
                    "was created with"
                )


def _check_callable(admit: object) -> None:
    if not callable(admit):
        advice = "; pass filter.admit" if hasattr(admit, "admit") else ""
        raise InvalidValueError(
            "admit must be a function of the history and what is planned, got "
            f"{type(admit).__name__}{advice}"
        )


def check_answer(answer: object) -> None:
    """Refuse what a predicate returns, whose False would let the release happen.

    Raises:
        InvalidValueError: for a bool, that of numpy included.
    """
    if type(answer).__name__ == "bool":  # by name, as ledgers need no numpy
        raise InvalidValueError(
            "admit must raise to refuse, or return something else than a bool; it returned "
            f"{answer!r}"
        )
