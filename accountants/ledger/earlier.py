"""Ledgers of the first version: found below a client's folder, and joined, so none starts at zero.

They were named by client, data set and a description that changed with the split, the seed or the
number of clients, and stated no unit. Their files are read and never written. Each belongs to one
data set of today: by its names, where they are still the same, or by what its owner says
(`assign`), which is kept in a file beside it. While one is not assigned, no ledger of its client
opens, since what it counts may be of the same data.
"""

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from accountants.durable import PRIVATE, write_durably
from accountants.errors import (
    InvalidValueError,
    LedgerCorruptError,
    LedgerError,
    LedgerForeignError,
    LedgerRolledBackError,
)
from accountants.ledger import storage
from accountants.ledger.book import Book, source_of
from accountants.ledger.chain import require_fields
from accountants.ledger.identity import NOT_PRIVATE, EarlierIdentity, Identity

SCHEMA = "privfed-assignment/1"
"""Name of the form of the files that say whose releases an earlier ledger counts."""

# Of an SQLite file, bytes 60 to 63 are the number of its schema and 68 to 71 say whose it is:
# sqlite.org/fileformat.html, section 1.3.
_MAGIC, _HEADER = b"SQLite format 3\0", 72
_NUMBER_AT, _NUMBER = slice(60, 64), (1).to_bytes(4)
_APPLICATION_ID_AT, _APPLICATION_ID = slice(68, 72), b"pfld"


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierLedgers:
    """Where the ledgers of the first version of one client lie, and what may be taken for granted.

    Attributes:
        folder: the client's; all that lies in and below it is looked at.
        assume_unit: whether a ledger with today's names of client and data set counts in today's
            unit, though it did not state one: true of a unit that is a single example.
        name: of the files of that version; a damaged file of this name blocks the client too.
    """

    folder: Path
    assume_unit: bool
    name: str = "ledger.sqlite3"

    def of(self, identity: Identity) -> dict[Path, Book]:
        """What every earlier ledger of this data says, verified; nothing is written.

        Raises:
            LedgerForeignError: if one is not assigned, or counts this data in another unit or
                relation.
            LedgerError: if one is damaged or cannot be read.
        """
        found = {path: _verified(path) for path in self.paths()}
        found = {path: book for path, book in found.items() if len(book.entries) > 1}
        owners = {path: self._owner(path, book, identity) for path, book in found.items()}
        _refuse_unassigned([path for path, owner in owners.items() if owner is None], identity)
        ours = [path for path, owner in owners.items() if owner and owner.has_data_of(identity)]
        for path in ours:
            _check_unit(path, owners[path], identity)
        return {path: found[path] for path in ours}

    def to_join(self, identity: Identity) -> list[Book]:
        """What every earlier ledger of this data says, each once though there be copies.

        One that has the names of this data is assigned to it on the way.

        Raises:
            LedgerRolledBackError: if two are copies of one that went on differently.
            LedgerError: as `of`, and if an assignment cannot be written.
        """
        ours = self.of(identity)
        for path, book in ours.items():
            if _assigned(path, book) is None:
                _write_assignment(path, book, identity)
        return _longest(list(ours.values()))

    def paths(self) -> list[Path]:
        """The files that are ledgers of the first version, or bear their name, in order.

        Raises:
            LedgerError: if a file or folder cannot be read, since it may be one.
        """
        try:
            return sorted(filter(self._may_be_one, _files_below(self.folder)))
        except OSError as error:
            raise LedgerError(
                f"all that lies below {self.folder} must be readable, since it may hold ledgers of "
                f"an earlier version, and is not ({error}); use it as its owner"
            ) from error

    def _may_be_one(self, path: Path) -> bool:
        unfinished = path.name.startswith(".") and path.suffix == ".new"
        return not unfinished and (path.name == self.name or _is_earlier(path))

    def _owner(self, path: Path, book: Book, identity: Identity) -> Identity | None:
        owner = _assigned(path, book)
        if owner is None and self.assume_unit and _has_names(book, identity):
            return identity
        return owner


def assign(path: Path, identity: Identity) -> Path:
    """Say whose releases a ledger of the first version counts; the last word holds.

    What was joined to a ledger already stays joined.

    Args:
        path: the earlier ledger; it is not changed.
        identity: the client, data set, unit and relation of the ledger that is to join it.

    Returns:
        The file beside it that says so.

    Raises:
        LedgerForeignError: for a ledger of this version, which names its data itself, and where
            one of both is of a run with seeded coins.
        LedgerError: if it is damaged, or the file cannot be written.
    """
    book = _verified(path)
    if len(book.entries) < 2:
        raise LedgerForeignError(
            f"a ledger that is assigned must count a release, and {path} counts none; nothing "
            "waits for it"
        )
    if not _is_as_private(book, identity):
        raise _mixed(path, identity)
    return _write_assignment(path, book, identity)


def _files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder and below it; links are followed, each folder is read once."""
    seen = set[str]()
    for here, below, names in os.walk(folder, onerror=_raise_unless_missing, followlinks=True):
        if (real := os.path.realpath(here)) in seen:
            below.clear()
            continue
        seen.add(real)
        yield from (path for name in names if (path := Path(here, name)).is_file())


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a client that is new has no folder
        raise error


def _is_earlier(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(_HEADER)
    return (
        start.startswith(_MAGIC)
        and start[_NUMBER_AT] == _NUMBER
        and start[_APPLICATION_ID_AT] == _APPLICATION_ID
    )


def _verified(path: Path) -> Book:
    try:
        book = storage.verified_book(path)
    except LedgerCorruptError as error:
        raise LedgerCorruptError(f"the earlier ledger {path}: {error}") from error
    if not isinstance(book.identity, EarlierIdentity):
        raise LedgerForeignError(
            f"an earlier ledger must be of the first version, and {path} is of this one; it names "
            "its data itself"
        )
    return book


def _has_names(book: Book, identity: Identity) -> bool:
    found = book.identity
    names = (found.client, found.dataset) == (identity.client, identity.dataset)
    return names and _is_as_private(book, identity)


def _is_as_private(book: Book, identity: Identity) -> bool:
    found = book.identity
    seeded = isinstance(found, EarlierIdentity) and found.description.endswith(NOT_PRIVATE)
    return seeded == identity.unit.endswith(NOT_PRIVATE)


def _mixed(path: Path, identity: Identity) -> LedgerForeignError:
    return LedgerForeignError(
        f"a ledger of a run with seeded coins, which is worth no epsilon, must not be joined to "
        f"another one, or the other way round: {path}, to the unit {identity.unit!r}"
    )


def _assignment_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.assigned.json")


def _assigned(path: Path, book: Book) -> Identity | None:
    """Whose releases it counts, as was written beside it; None if nothing was about this one."""
    file, names = _assignment_file(path), ("client", "dataset", "unit", "neighbouring")
    try:
        record = json.loads(file.read_bytes())
        require_fields(record, {"schema", "source", *names})
        if record["schema"] != SCHEMA:
            raise InvalidValueError(f"its schema must be {SCHEMA!r}")
        owner = Identity(**{name: record[name] for name in names})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise LedgerError(
            f"{file} must say whose releases {path} counts, and cannot be read ({error}); assign "
            "it again"
        ) from error
    if record["source"] != source_of(book):
        return None
    if not _is_as_private(book, owner):
        raise _mixed(path, owner)
    return owner


def _write_assignment(path: Path, book: Book, identity: Identity) -> Path:
    file = _assignment_file(path)
    record = {"schema": SCHEMA, "source": source_of(book), **identity.to_json()}
    try:
        content = (json.dumps(record, indent=1, sort_keys=True) + "\n").encode()
        write_durably(file, content, mode=PRIVATE)
    except OSError as error:
        raise LedgerError(
            f"{file}, which says whose releases an earlier ledger counts, must be writable, and "
            f"is not ({error}); nothing else was written"
        ) from error
    return file


def _refuse_unassigned(paths: list[Path], identity: Identity) -> None:
    if not paths:
        return
    words = {"dataset": identity.dataset, "unit": identity.unit}
    command = [
        *("python", "-m", "accountants", "assign", str(paths[0])),
        *(word for name, value in words.items() for word in (f"--{name}", value)),
        *("--neighbouring", identity.neighbouring.value),
    ]
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    raise LedgerForeignError(
        f"every earlier ledger of client {identity.client!r} must be assigned to a data set, and "
        f"{paths[0]}{more} is not; nothing of this client runs before. If it counts releases of "
        f"{identity.dataset!r} in the unit {identity.unit!r}, run: {shlex.join(command)}. If it is "
        "of other data, or of another unit, give the names of those"
    )


def _check_unit(path: Path, owner: Identity | None, identity: Identity) -> None:
    if owner != identity:
        raise LedgerForeignError(
            f"all releases of the data set {identity.dataset!r} must be counted in one unit and "
            f"relation, and {path} is assigned to {owner}, not to {identity}: a budget of one unit "
            "says nothing about another; use the words it was assigned with"
        )


def _longest(books: list[Book]) -> list[Book]:
    """Of copies of one ledger the longest, which must continue the others."""
    newest: dict[str, Book] = {}
    for book in sorted(books, key=lambda each: len(each.entries), reverse=True):
        longest = newest.setdefault(source_of(book), book)
        try:
            longest.check_continues(book.anchor())
        except LedgerRolledBackError as error:
            raise LedgerRolledBackError(
                f"two copies of one earlier ledger of {book.identity} went on differently: {error}"
            ) from error
    return list(newest.values())
