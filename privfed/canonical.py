"""One byte string for one JSON value, and refusals of all others."""

import json
from collections.abc import Iterable
from typing import Final, NoReturn

from privfed.errors import MessageError

_MAX_DEPTH: Final = 32


def canonical_json(value: object) -> bytes:
    """One byte string for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def parse_canonical(content: bytes, what: str, *, most: int) -> object:
    """JSON that is byte for byte what `canonical_json` writes, and a newline; no floats.

    Duplicate keys, other orders, spaces and escapes are all refused by this one comparison, so
    that what was signed and what is read cannot differ.

    Raises:
        MessageError: if it is longer than `most` bytes or anything else.
    """
    if len(content) > most:
        raise MessageError(f"{what} must have at most {most} bytes, {len(content)} came")
    try:
        value: object = json.loads(
            content.decode("ascii"), parse_float=_no_float, parse_constant=_no_float
        )
        canonical = canonical_json(value) + b"\n"
    except (ValueError, RecursionError) as error:
        raise MessageError(f"{what} must be JSON, but: {error}; ask for the file again") from error
    if canonical != content:
        raise MessageError(
            f"{what} must be exactly as privfed wrote it, this one was edited or reformatted; "
            "ask for the file again"
        )
    return value


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:20]} is not allowed")


def require_plain_json(value: object) -> None:
    """Refuse what could not be handled safely later on, whoever sent it.

    Raises:
        MessageError: for nesting beyond 32 levels, NaN and infinite numbers (1e999 is one), and
            text that UTF-8 cannot hold.
    """
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [inner for outer in level for inner in _inner(outer)]
    if level:
        raise MessageError(f"JSON must be nested at most {_MAX_DEPTH} levels deep")
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise MessageError(f"a value must be plain JSON: {type(error).__name__}") from error


def _inner(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
