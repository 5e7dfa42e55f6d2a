"""How the ledger lies on disk: a SQLite file with two tables, and one transaction per call.

`entries` holds the hash chain, `outbox` the bytes of the last commit of each run. The header of
the file carries an application id and the number of the schema, so that neither another program's
database nor a later schema is read as a ledger. Files of the first schema are read, never written.

A change is a `BEGIN IMMEDIATE` transaction that is on disk when it ends: `synchronous=EXTRA` is
`FULL` plus a sync of the folder after the rollback journal is gone, without which a power cut could
undo the last commit.
"""

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from accountants.durable import create_private_folders, sync_folder
from accountants.errors import LedgerError, LedgerMissingError, LedgerStateError
from accountants.ledger.book import Book, read
from accountants.ledger.chain import WHAT_TO_DO, Entry, damaged
from accountants.ledger.identity import EARLIER_SCHEMA, SCHEMA, check_schema

BUSY_TIMEOUT_S = 30.0
"""How long to wait for another process that is writing."""

_APPLICATION_ID = int.from_bytes(b"pfld")
_SCHEMA_NAME, _SCHEMA_NUMBER = SCHEMA.split("/")
_TABLES = (
    "CREATE TABLE entries (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT NULL,"
    " previous TEXT NOT NULL, digest TEXT NOT NULL)",
    "CREATE TABLE outbox (reservation INTEGER PRIMARY KEY, payload BLOB NOT NULL)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_SCHEMA_NUMBER}",
)
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_UNAVAILABLE = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}


def create_file(path: Path, first: Entry) -> None:
    """Make a ledger file that holds one entry: all of it appears at once, or nothing does.

    Raises:
        LedgerStateError: if the path is taken, also by another process at the same moment.
    """
    create_private_folders(path.parent)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        with closing(_connect(draft)) as connection, _transaction(connection, "BEGIN IMMEDIATE"):
            for statement in _TABLES:
                connection.execute(statement)
            append(connection, first)
        os.link(draft, path)
    except FileExistsError:
        raise LedgerStateError(
            f"a new ledger needs a free path, and {path} exists; open it, or choose another path"
        ) from None
    finally:
        draft.unlink()
    sync_folder(path.parent)


@contextmanager
def session(path: Path, begin: str) -> Iterator[sqlite3.Connection]:
    """One transaction over the file, committed on leaving and undone by any exception.

    Args:
        path: a ledger file; it is never created here.
        begin: "BEGIN" to read, "BEGIN IMMEDIATE" to write.

    Raises:
        LedgerMissingError: if there is no file.
        LedgerCorruptError: if it is no ledger, damaged, or of an unknown schema.
        LedgerStateError: if another process keeps it busy for too long, or for writing to a ledger
            of the first version.
        LedgerError: if it cannot be read or written, for instance on a full disk.
    """
    if not path.exists():
        raise _missing(path)
    if not path.is_file():
        raise damaged(f"{path} is not a file")
    try:
        with closing(_connect(path)) as connection, _transaction(connection, begin):
            number = _check_header(connection)
            if begin != "BEGIN":  # before SQLite makes the journal, which gets the same permissions
                _check_writable(path, number)
                make_private(path)
            yield connection
    except sqlite3.Error as error:
        raise _translated(error, path) from error


def make_private(path: Path) -> None:
    """Take other users' access away; SQLite gives its journal the permissions of the file.

    Raises:
        LedgerError: if the permissions cannot be changed, as by another user than the owner.
    """
    try:
        mode = path.stat().st_mode
        if mode & 0o077:
            path.chmod(mode & 0o700)
    except OSError as error:
        raise LedgerError(
            f"the ledger {path} must be its owner's alone, and its permissions cannot be changed "
            f"({error}); nothing was written; use it as its owner"
        ) from error


def read_entries(connection: sqlite3.Connection) -> list[Entry]:
    """All entries, in order; not yet checked."""
    rows = connection.execute("SELECT seq, kind, body, previous, digest FROM entries ORDER BY seq")
    return [
        Entry(seq=seq, kind=kind, body=body, previous=previous, digest=digest)
        for seq, kind, body, previous, digest in rows
    ]


def verified_book(path: Path) -> Book:
    """What the ledger in a file says, of this version or the first; all of it verified.

    Raises:
        LedgerError: as `session`, and for entries or stored messages that do not hold.
        UnsupportedAnalysisError: for a type of event that this version does not know.
    """
    with session(path, "BEGIN") as connection:
        book = read(read_entries(connection))
        check_storage(connection, book)
        return book


def append(connection: sqlite3.Connection, entry: Entry) -> None:
    """Write the next entry."""
    connection.execute(
        "INSERT INTO entries VALUES (?, ?, ?, ?, ?)",
        (entry.seq, entry.kind, entry.body, entry.previous, entry.digest),
    )


def replace_payload(
    connection: sqlite3.Connection, stale: list[int], reservation_id: int, payload: bytes
) -> None:
    """Keep the bytes of one commit, in place of those of the reservations in `stale`."""
    connection.executemany("DELETE FROM outbox WHERE reservation = ?", [(old,) for old in stale])
    connection.execute("INSERT INTO outbox VALUES (?, ?)", (reservation_id, payload))


def read_payload(connection: sqlite3.Connection, book: Book, reservation_id: int) -> bytes | None:
    """The stored bytes of a commit, checked against its digest; None if there are none."""
    row = connection.execute(
        "SELECT payload FROM outbox WHERE reservation = ?", (reservation_id,)
    ).fetchone()
    if row is None:
        return None
    commit = book.commits.get(reservation_id)
    if commit is None or not isinstance(row[0], bytes) or not commit.is_of(row[0]):
        raise damaged(f"the stored bytes of reservation {reservation_id} are not those committed")
    return row[0]


def check_storage(connection: sqlite3.Connection, book: Book) -> None:
    """Check the pages of the file, and that every message that must be held is, unchanged."""
    problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise damaged(f"SQLite reports {problem!r}")
    held = [row[0] for row in connection.execute("SELECT reservation FROM outbox")]
    for reservation_id in held:
        read_payload(connection, book, reservation_id)
    lost = book.latest_commits() - set(held)
    if lost:
        raise damaged(f"the bytes of the last commit are gone, of reservations {sorted(lost)}")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
    )
    connection.execute("PRAGMA synchronous = EXTRA")
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _check_header(connection: sqlite3.Connection) -> str:
    """The number of the schema, of a file that is a ledger."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != _APPLICATION_ID:
        raise damaged("the file is not a ledger: its application id is another one's")
    number = str(connection.execute("PRAGMA user_version").fetchone()[0])
    check_schema(f"{_SCHEMA_NAME}/{number}")
    return number


def _check_writable(path: Path, number: str) -> None:
    if number != _SCHEMA_NUMBER:
        raise LedgerStateError(
            f"a ledger that is written to must be of schema {SCHEMA!r}, and {path} is of "
            f"{EARLIER_SCHEMA!r}, which is only read; make a new ledger, which counts what this "
            "one holds, in its client's folder"
        )


def _translated(error: sqlite3.Error, path: Path) -> LedgerError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _BUSY:
        return LedgerStateError(
            f"the ledger {path} must be free within {BUSY_TIMEOUT_S:g} seconds, and another "
            f"process holds it ({error}); nothing was written. Let the other run on this data "
            "finish, or end a process that hangs (fuser names those that have the file open); "
            "then run this again"
        )
    if code == sqlite3.SQLITE_CANTOPEN and not path.exists():
        return _missing(path)
    if code in _UNAVAILABLE:
        return LedgerError(
            f"the ledger {path} must be readable and writable, and SQLite reports {error}; "
            "nothing was written; check the disk and the permissions of the file and its folder"
        )
    return damaged(f"SQLite cannot read {path} ({error})")


def _missing(path: Path) -> LedgerMissingError:
    return LedgerMissingError(
        f"a ledger must exist at {path}, and there is none, so what was spent on this data is "
        "unknown; if nothing was ever released from it, create a ledger, otherwise "
        + WHAT_TO_DO.removeprefix("stop using it, keep it, and ")
    )
