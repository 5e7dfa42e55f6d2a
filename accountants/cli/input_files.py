"""What files given on the command line hold: events, a ledger, or an export of one.

A file may hold anything; what is not expected is refused with a message that names the file.
"""

import json
from pathlib import Path
from typing import Any

from accountants.errors import InvalidValueError, UnsupportedAnalysisError
from accountants.event_json import event_from_json
from accountants.events import Event
from accountants.ledger import storage
from accountants.ledger.book import Book
from accountants.ledger.chain import damaged
from accountants.ledger.export import book_of_export
from accountants.ledger.identity import SCHEMA

_SQLITE_MAGIC = b"SQLite format 3\0"

# Bytes 68 to 71 of an SQLite file say whose it is: sqlite.org/fileformat.html, section 1.3.
_APPLICATION_ID_AT = slice(68, 72)
_APPLICATION_ID = b"pfld"

# Stands in the header and the first entry of every export.
_MARK = SCHEMA.split("/")[0].encode()


def events_of_file(path: Path) -> list[Event]:
    """The events of a JSON list.

    Raises:
        InvalidValueError: for anything else; of a ledger it says how to read it.
        UnsupportedAnalysisError: for a type of event that this version does not know.
        OSError: if the file cannot be read.
    """
    content = path.read_bytes()
    if content.startswith(_SQLITE_MAGIC):
        raise _not_events(path, "a ledger file")
    values = _json(path, content)
    if isinstance(values, dict) and _MARK in content:
        raise _not_events(path, "an export of a ledger")
    if not isinstance(values, list):
        raise InvalidValueError(f"{path} must hold a JSON list of events")
    return [_event_of_file(path, index, value) for index, value in enumerate(values)]


def ledger_or_export(path: Path) -> tuple[str, Book]:
    """What kind of file this is, and what it says; verified.

    Raises:
        InvalidValueError: for a file that is neither.
        LedgerError: for a damaged ledger or export.
        UnsupportedAnalysisError: for a type of event that this version does not know.
        OSError: if the file cannot be read.
    """
    if _is_ledger(path):
        return "ledger", storage.verified_book(path)
    content = b"" if path.is_dir() else path.read_bytes()
    if _MARK not in content:
        raise InvalidValueError(f"{path} is not a ledger or an export of one")
    try:
        return "export", book_of_export(_json(path, content))
    except InvalidValueError as error:
        raise damaged(str(error)) from error


def ledger_of_file(path: Path) -> Book:
    """What the ledger in a file says, of this version or the first; verified.

    Raises:
        InvalidValueError: for a file that holds none.
        LedgerError: for a damaged ledger, or no file.
        UnsupportedAnalysisError: for a type of event that this version does not know.
        OSError: if the file cannot be read.
    """
    if path.exists() and not _is_ledger(path):
        raise InvalidValueError(f"{path} is not a ledger file")
    return storage.verified_book(path)


def _is_ledger(path: Path) -> bool:
    """Whether a file begins as a ledger does, cut off as it may be."""
    if path.is_dir():
        return False
    with open(path, "rb") as file:
        start = file.read(_APPLICATION_ID_AT.stop)
    # An SQLite file that ends before its application id may have been one.
    return start.startswith(_SQLITE_MAGIC) and _APPLICATION_ID.startswith(start[_APPLICATION_ID_AT])


def _not_events(path: Path, kind: str) -> InvalidValueError:
    return InvalidValueError(f"{path} is {kind}, and no JSON list of events; give it to --ledger")


def _event_of_file(path: Path, index: int, value: object) -> Event:
    try:
        return event_from_json(value)
    except (InvalidValueError, UnsupportedAnalysisError) as error:
        raise type(error)(f"event {index} of {path}: {error}") from error


def _json(path: Path, content: bytes) -> Any:
    """The JSON value of a file; a key that comes twice is refused, as readers would differ."""
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_unambiguous)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{path} must hold JSON, and does not: {error}") from error


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"a key comes twice in an object with the keys {sorted(value)}")
    return value
