"""Records of a report, strictly: each field of its kind, none empty, and no others in JSON."""

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from privfed.errors import ReportError

Record = TypeVar("Record")

_MAY_BE_EMPTY: Final = {
    "warnings",
    "rounds",
    "releases",
    "absent",
    "figures",
    "attack",
    "not_closed",
    "differences",
}
_NONE: Final = type(None)


def record_of_json(kind: type[Record], value: object, name: str) -> Record:
    """A record of this kind from JSON values; `require_whole` says whether they are of its kinds.

    Args:
        kind: a dataclass; its fields may be records, tuples and mappings of such.
        value: JSON values; what is a record already is left as it is.
        name: of the record, for errors.

    Raises:
        ReportError: naming a field that is missing or unknown, or is no list or object.
    """
    if isinstance(value, kind):
        return value
    hints = get_type_hints(kind)
    if not isinstance(value, Mapping):
        raise ReportError(f"the report's {name!r} must be an object, got {value!r:.80}")
    if missing := sorted(set(hints).difference(value)):
        raise ReportError(f"the report's {name!r} lacks {missing}")
    if unknown := sorted(set(value).difference(hints)):
        raise ReportError(f"the report's {name!r} must not have {unknown!r:.200}")
    return kind(**{key: _of_json(hint, value[key], key) for key, hint in hints.items()})


def _of_json(hint: Any, value: object, name: str) -> Any:
    kind, inside = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        return None if value is None else _of_json(_without_none(inside), value, name)
    if is_dataclass(kind) and isinstance(kind, type):
        return record_of_json(kind, value, name)
    if isinstance(kind, type) and issubclass(kind, StrEnum) and value in [*kind]:
        return kind(str(value))
    if kind is tuple and isinstance(value, list):
        return tuple(_of_json(inside[0], item, name) for item in value)
    return value


def require_whole(record: Any, name: str = "") -> None:
    """Refuse a record with a gap, a value of another kind, or a number that is not finite.

    Raises:
        ReportError: with the dotted name of the field.
    """
    hints = get_type_hints(type(record))
    for field in fields(record):
        path = f"{name}.{field.name}" if name else field.name
        _require(hints[field.name], getattr(record, field.name), path)


def _require(hint: Any, value: object, name: str) -> None:
    kind, inside = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        if value is None:
            return
        hint = _without_none(inside)
        kind, inside = get_origin(hint) or hint, get_args(hint)
    _require_filled(value, name)
    if not _is_of(kind, value):
        wanted = getattr(kind, "__name__", kind)
        raise ReportError(f"the report's {name!r} must be of the kind {wanted}, got {value!r:.80}")
    if is_dataclass(value):
        require_whole(value, name)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _require(inside[1] if inside else Any, inner, f"{name}.{key}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for position, inner in enumerate(value):
            _require(inside[0] if inside else Any, inner, f"{name}.{position}")


def _require_filled(value: object, name: str) -> None:
    may_be_empty = name.rpartition(".")[2] in _MAY_BE_EMPTY and not isinstance(value, str)
    empty = isinstance(value, (str, tuple, list, Mapping)) and not value
    if value is None or (empty and not may_be_empty):
        raise ReportError(f"the report lacks {name!r}; it is refused rather than shown with a gap")
    if isinstance(value, float) and not math.isfinite(value):
        raise ReportError(f"the report's {name!r} must be finite, got {value!r}")


def _is_of(kind: Any, value: object) -> bool:
    if kind is Any:
        return True
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, kind)


def _without_none(inside: tuple[Any, ...]) -> Any:
    (hint,) = [one for one in inside if one is not _NONE]
    return hint
