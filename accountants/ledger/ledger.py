"""The durable memory of what was released from one data set: reserve, run, commit, send.

A round is *reserved* before any random coin is drawn and *committed*, together with the bytes that
may leave, before anything is sent. Whatever happens between, a crash, a lost machine, a second
process, everything that may have left is counted: an unresolved reservation counts in full.

Every change is one transaction, in which the whole history is read and checked again, so two
processes cannot both take the last of a budget. It is on disk before the call returns, and no
connection outlives a call (`storage.py`). Only the owner may read the file and what is beside it.

The entries form a hash chain (`chain.py`). An edited, missing or reordered entry shows whenever
the file is read. A chain that was cut at its end, an older copy that was put back, and a chain
rewritten with fresh digests are whole in themselves: they show only against an `Anchor` that was
kept elsewhere, by hand or in an `AnchorFolder`. The ledger computes no epsilon.
"""

import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from accountants import checks
from accountants.errors import InvalidValueError, LedgerMissingError, LedgerStateError
from accountants.events import Event
from accountants.guarantees import Neighbouring
from accountants.histories import Events, checked
from accountants.ledger import book as contents
from accountants.ledger import export as exports
from accountants.ledger import storage
from accountants.ledger.anchors import AnchorFolder
from accountants.ledger.book import Reservation
from accountants.ledger.chain import Anchor
from accountants.ledger.earlier import EarlierLedgers
from accountants.ledger.identity import EarlierIdentity, Identity
from accountants.ledger.ownership import checked_id_of, of_first_version, way_to_other_words
from accountants.ledger.transactions import Transactions

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
        self,
        path: Path,
        identity: Identity,
        id_: str,
        anchors: AnchorFolder | None = None,
        seen: Anchor | None = None,
    ) -> None:
        self._path = path
        self._identity = identity
        self._id = id_
        self._transactions = Transactions(path, identity, id_, anchors, seen)

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
        id_ = checked_id_of(path, book, identity, way_to_other_words(path, book, anchors))
        if anchors is not None:
            anchors.check_same(path, book)
        storage.make_private(path)
        ledger = cls(path, identity, id_, anchors, seen=book.anchor())
        ledger._transactions.keep_anchor()
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
            raise of_first_version(path)
        return cls(path, found, checked_id_of(path, book, found))

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
        with self._transactions.writing() as (_, book, append):
            book.check_reservation(run, round, planned)
            _check_answer(admit(book.events(), planned))
            entry = contents.reserving(book.anchor(), run, round, planned)
            append(entry)
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
        with self._transactions.writing() as (connection, book, append):
            run = book.check_commit(reservation_id, ran).run
            entry = contents.committing(book.anchor(), reservation_id, ran, outgoing)
            append(entry)
            stale = [r.id for r in book.reservations.values() if r.run == run]
            storage.replace_payload(connection, stale, reservation_id, outgoing)

    def events(self, run: str | None = None) -> Events:
        """All that counts as released, or that of one run: commits, and open reservations."""
        return self._transactions.read().events(run)

    def runs(self) -> list[str]:
        """The runs that have entries, in order of their first."""
        return self._transactions.read().runs()

    def status(self, run: str, round: int) -> str | None:
        """None, "reserved" or "committed"."""
        book = self._transactions.read()
        reservation_id = book.rounds.get((run, round))
        if reservation_id is None:
            return None
        return "committed" if reservation_id in book.commits else "reserved"

    def outgoing(self, run: str, round: int) -> bytes | None:
        """The bytes that a committed round may send; None if it has none, or they were dropped.

        The second place knows of the commit when this returns, also after a crash before it did.
        """
        self._transactions.keep_anchor()
        with self._transactions.session("BEGIN") as (connection, book):
            reservation_id = book.rounds.get((run, round))
            if reservation_id is None:
                return None
            return storage.read_payload(connection, book, reservation_id)

    def last_outgoing(self, run: str) -> bytes | None:
        """The bytes of the last commit of a run; None if it has none."""
        with self._transactions.session("BEGIN") as (connection, book):
            last = book.last_commit(run)
            return None if last is None else storage.read_payload(connection, book, last)

    def anchor(self) -> Anchor:
        """Length and head of the chain, to be kept elsewhere: with the checkpoint, at a peer."""
        return self._transactions.read().anchor()

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
        with self._transactions.session("BEGIN") as (connection, book):
            storage.check_storage(connection, book)
            if anchor is not None:
                book.check_continues(anchor)
            return book.anchor()

    def export(self) -> dict[str, object]:
        """The whole ledger as a JSON object; `verify_export` and `events_of_export` read it."""
        return exports.export(self._transactions.read())

    def _join(self, earlier: EarlierLedgers) -> None:
        """Count what earlier ledgers of this data released, once each, as they are now."""
        for old in earlier.to_join(self._identity):
            with self._transactions.writing() as (_, book, append):
                known = book.inherited.get(contents.source_of(old))
                if known is not None:
                    old.check_continues(known.anchor)
                if known is None or known.anchor != old.anchor():
                    entry = contents.inheriting(book.anchor(), old)
                    append(entry)


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
