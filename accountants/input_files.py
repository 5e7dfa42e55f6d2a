"""What files given on the command line hold: events, a ledger, or an export of one.

A file may hold anything; what is not expected is refused with a message that names the file.
"""

import json
from pathlib import Path
from typing import Any

from accountants.chain import damaged
from accountants.errors import InvalidValueError, UnsupportedAnalysisError
from accountants.events import Event, event_from_json
from accountants.ledger import Ledger

_SQLITE_MAGIC = b"SQLite format 3\0"


def events_of_file(path: Path) -> list[Event]:
    """The events of a JSON list.

    Raises:
        InvalidValueError: for anything else.
        UnsupportedAnalysisError: for a type of event that this version does not know.
        OSError: if the file cannot be read.
    """
    values = _json_of_file(path)
    if not isinstance(values, list):
        raise InvalidValueError(f"{path} must hold a JSON list of events")
    return [_event_of_file(path, index, value) for index, value in enumerate(values)]


def ledger_or_export(path: Path) -> tuple[str, Any]:
    """What kind of file this is, and its contents as an export; a ledger file is verified.

    Raises:
        LedgerError: for a damaged ledger, or a file that is neither.
        OSError: if the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(len(_SQLITE_MAGIC))
    if start == _SQLITE_MAGIC:
        return "ledger", Ledger.inspect(path).export()
    try:
        return "export", _json_of_file(path)
    except InvalidValueError as error:
        raise damaged(f"{path} is neither a ledger file nor an export: {error}") from error


def _event_of_file(path: Path, index: int, value: object) -> Event:
    try:
        return event_from_json(value)
    except (InvalidValueError, UnsupportedAnalysisError) as error:
        raise type(error)(f"event {index} of {path}: {error}") from error


def _json_of_file(path: Path) -> Any:
    """The JSON value of a file; a key that comes twice is refused, as readers would differ."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unambiguous)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{path} must hold JSON, and does not: {error}") from error


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"a key comes twice in an object with the keys {sorted(value)}")
    return value
