"""One rule for the cells of every format: what is missing, what is text, what is a name.

CSV knows strings only, JSON has numbers and booleans, and Parquet has types of its own. A name (of
a label, a client, a person) is therefore compared in one spelling: the whole number 1, the float
1.0, and the strings "1" and "1.0" are the name "1"; True, "True" and "TRUE" are "true". Every
other string is itself ("007" is not "7").

Whether a cell is missing, and what it says, depends on that cell alone.
"""

import math
import re
from typing import Final

_WHOLE: Final = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+")
"""A whole number as programs write it whose column holds floats."""

_NAN: Final = ("nan", "NaN")
"""How programs write NaN into a CSV file, which knows strings only."""


class CellError(ValueError):
    """A cell that cannot be used; the message says why, and never what the cell holds."""


def is_missing(value: object) -> bool:
    """Whether a cell holds nothing: null, NaN (also as a string), or white space alone."""
    if isinstance(value, str):
        return value in _NAN or not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def as_text(value: object) -> str:
    """Text, as it stands.

    Raises:
        CellError: if it is no string, or one that UTF-8 cannot hold.
    """
    if not isinstance(value, str):
        raise CellError(f"must be text (str), got {type(value).__name__}")
    return _encodable(value)


def as_name(value: object) -> str:
    """The name of a label, a client or a person, in one spelling for all formats.

    Raises:
        CellError: if it is neither a string, a boolean nor a whole number.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not value.is_integer():
            raise CellError(
                "must be text, a whole number or a boolean, got a float with a fraction"
            )
        value = repr(value)
    if not isinstance(value, str):
        raise CellError(f"must be text, a whole number or a boolean, got {type(value).__name__}")
    whole = _WHOLE.fullmatch(value)
    if whole is not None:
        return "0" if whole[1] == "-0" else whole[1]
    return value.lower() if value.lower() in ("true", "false") else _encodable(value)


def _encodable(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise CellError("must be whole characters, got half of a surrogate pair") from None
    return value
