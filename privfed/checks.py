"""What every setting must be: checks that name the field and show nothing private."""

import reprlib
import sys
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Final, get_args

from privfed.errors import ConfigError

MOST: Final = 1_000_000
"""Of rounds, of steps in a round and of records in memory at once; more is a slip of the pen."""

_MOST_RECORDS: Final = 2**53
"""Sampling rates are quotients of floats, which hold whole numbers exactly up to here."""


def require_positive(**values: float) -> None:
    """Refuse any value that is not a finite number above zero, naming it."""
    for name, value in values.items():
        if not is_number(value) or not 0 < value <= sys.float_info.max:
            raise ConfigError(f"{name} must be a finite number above 0, got {value!r}")


def require_within(low: float, high: float, /, **values: float) -> None:
    """Refuse any value that is not a number in [low, high], where float32 can work with it."""
    for name, value in values.items():
        if not is_number(value) or not low <= value <= high:
            raise ConfigError(
                f"{name} must be a number in [{low:g}, {high:g}], got {value!r}: training is in "
                "float32, which loses smaller and larger ones"
            )


def require_below_one(**values: float) -> None:
    """Refuse any value that is not a number in [0, 1), naming it."""
    for name, value in values.items():
        if not is_number(value) or not 0 <= value < 1:
            raise ConfigError(f"{name} must be in [0, 1), got {value!r}")


def require_count(most: int = _MOST_RECORDS, /, **values: int) -> None:
    """Refuse any value that is not a whole number from one to `most`, naming it."""
    for name, value in values.items():
        if type(value) is not int or value < 1:
            raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")
        if value > most:
            raise ConfigError(f"{name} must be at most {most}, got {value!r}")


def require_type(kind: type | UnionType, /, **values: object) -> None:
    """Refuse any value that is not of this type, naming it."""
    for name, value in values.items():
        if not isinstance(value, kind):
            raise ConfigError(f"{name} must be {_names(kind)}, got {_shown(value)}")


def require_items(kind: type | UnionType, /, **values: object) -> None:
    """Refuse what is no sequence of such items, naming it; no item is shown, it may be private."""
    for name, value in values.items():
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(
                f"{name} must be a list or tuple of {_names(kind)}, got one {type(value).__name__}"
            )
        for position, item in enumerate(value):
            if not isinstance(item, kind):
                raise ConfigError(
                    f"{name} must hold {_names(kind)} only, got {type(item).__name__} at position "
                    f"{position}"
                )


def require_methods(*methods: str, **values: object) -> None:
    """Refuse an object without these methods, and a class in the place of one, naming it."""
    for name, value in values.items():
        missing = [method for method in methods if not callable(getattr(value, method, None))]
        if isinstance(value, type) or missing:
            raise ConfigError(
                f"{name} must be an object with {', '.join(methods)}, got {_shown(value)}"
            )


def is_number(value: object) -> bool:
    """Whether it is one of Python's own numbers, which JSON can write; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _names(kind: type | UnionType) -> str:
    kinds = get_args(kind) or (kind,)
    return " or ".join("None" if each is NoneType else each.__name__ for each in kinds)


def _shown(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}; make an object of it: {value.__name__}(...)"
    return reprlib.repr(value)
