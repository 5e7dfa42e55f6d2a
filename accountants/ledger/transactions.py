"""Transactions over a ledger file and its second place: both checked before, both brought on after.

The ledger is written first, then its anchor gets its name in the second place, then the call
returns, so that after any crash the ledger continues its anchor (`anchors.py`).
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from accountants.errors import LedgerRolledBackError
from accountants.ledger import book as contents
from accountants.ledger import storage
from accountants.ledger.anchors import AnchorFolder
from accountants.ledger.book import Book
from accountants.ledger.chain import WHAT_TO_DO, Anchor, Entry
from accountants.ledger.identity import Identity
from accountants.ledger.ownership import checked_id_of


class Transactions:
    """All that is done to one ledger; each transaction sees that it is still the same, or grown.

    Args:
        path: of the file.
        identity: whose releases it must count.
        id_: of the ledger; another one in its place is refused.
        anchors: the second place, if there is one.
        seen: what it must continue, as it was read last.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity,
        id_: str,
        anchors: AnchorFolder | None,
        seen: Anchor | None,
    ) -> None:
        self._path = path
        self._identity = identity
        self._id = id_
        self._anchors = anchors
        self._seen = seen

    def read(self) -> Book:
        """What the file says, checked."""
        with self.session("BEGIN") as (_, book):
            return book

    @contextmanager
    def session(self, begin: str) -> Iterator[tuple[sqlite3.Connection, Book]]:
        """One transaction over the checked contents of the file.

        SQLite lets nobody commit while it lasts, so that anchors kept by others meanwhile are of
        what was read here.
        """
        seen = self._seen
        with storage.session(self._path, begin) as connection:
            book = contents.read(storage.read_entries(connection))
            if checked_id_of(self._path, book, self._identity) != self._id:
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
    def writing(self) -> Iterator[tuple[sqlite3.Connection, Book, Callable[[Entry], None]]]:
        """A transaction in which `append(entry)` writes the next entry.

        The second place is tried before the entry is written. The entry is committed on leaving,
        and its anchor gets its name in the second place after that.
        """
        kept = list[Anchor]()
        with ExitStack() as second_place:
            with self.session("BEGIN IMMEDIATE") as (connection, book):

                def append(entry: Entry) -> None:
                    kept.append(Anchor(length=entry.seq + 1, head=entry.digest))
                    if self._anchors is not None:
                        keeping = self._anchors.keeping(book, self._path, kept[-1])
                        second_place.enter_context(keeping)
                    storage.append(connection, entry)

                yield connection, book, append
            if kept:
                self._seen = kept[-1]

    def keep_anchor(self) -> None:
        """Bring the second place up to the ledger: after a crash, a move, or on a first use."""
        if self._anchors is None or self._anchors.holds(self.read(), self._path):
            return
        with ExitStack() as second_place, self.session("BEGIN IMMEDIATE") as (_, book):
            second_place.enter_context(self._anchors.keeping(book, self._path, book.anchor()))
