"""One table of a TOML file: keys are taken one by one, by their type, and none is left over."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from privfed.errors import ConfigError

Choice = TypeVar("Choice", bound=StrEnum)
Chosen = TypeVar("Chosen")
Made = TypeVar("Made")


class Section:
    """One table of the file; keys are taken one by one, and none may be left over.

    Args:
        name: of the table, for messages; empty for the top level.
        values: as parsed.
    """

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self.name = name
        self._place = f"[{name}]" if name else "the top level"
        self._left = dict(values)

    def take(self, key: str, kind: type | tuple[type, ...], *default: Any) -> Any:
        """The value of a key, of the kind or one of the kinds; required unless a default is given.

        Raises:
            ConfigError: if it is missing or of another type.
        """
        if key not in self._left:
            if default:
                return default[0]
            raise ConfigError(f"{self._place} needs the key {key!r}")
        value = self._left.pop(key)
        if kind is float and type(value) is int:
            return float(value)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if type(value) not in kinds:
            where = f"[{self.name}] {key}" if self.name else f"{key!r} at the top level"
            names = " or ".join(known.__name__ for known in kinds)
            raise ConfigError(f"{where} must be of type {names}, got {value!r}")
        return value

    def take_all(self, key: str, kind: type, *default: Any) -> Any:
        """The items of a list as a tuple; required unless a default is given.

        Raises:
            ConfigError: if it is missing, no list, or an item is of another type.
        """
        if key not in self._left and default:
            return default[0]
        items = self.take(key, list)
        if not all(type(item) is kind for item in items):
            raise ConfigError(
                f"[{self.name}] {key} must be a list of items of type {kind.__name__}, got {items}"
            )
        return tuple(items)

    def section(self, key: str, *default: Mapping[str, Any]) -> "Section":
        """A table inside this one."""
        return Section(f"{self.name}.{key}" if self.name else key, self.take(key, dict, *default))

    def optional(self, key: str) -> "Section | None":
        """A table inside this one, if it is there."""
        return self.section(key) if key in self._left else None

    def build(self, kind: type[Made], *, renamed: Mapping[str, str] = {}, **given: object) -> Made:
        """A dataclass from the keys of its fields; what a key does not say is its own default.

        Args:
            kind: of the dataclass; its fields are numbers, texts, truth values, enumerations of
                texts, and tuples of one type.
            renamed: fields whose key has another name.
            given: fields that no key stands for, by name.

        Raises:
            ConfigError: if a field without a default is missing, or one is of another type.
        """
        names = [field.name for field in fields(kind) if field.name not in given]  # type: ignore[arg-type]
        return kind(**given, **self.values(kind, names, renamed))

    def values(
        self, kind: type, names: Sequence[str], renamed: Mapping[str, str] = {}
    ) -> dict[str, Any]:
        """What the keys say of some fields of a dataclass; see `build`."""
        types, found = get_type_hints(kind), {}
        for field in fields(kind):
            key = renamed.get(field.name, field.name)
            if field.name in names and (key in self._left or not _has_default(field)):
                wanted = [one for one in _members(types[field.name]) if one is not NoneType]
                found[field.name] = self._of_type(key, wanted)
        return found

    def _of_type(self, key: str, wanted: Sequence[Any]) -> Any:
        (first, *others) = wanted
        if get_origin(first) is tuple:
            return self.take_all(key, get_args(first)[0])
        if isinstance(first, type) and issubclass(first, StrEnum):
            return choose(self, key, first)
        return self.take(key, tuple(wanted) if others else first)

    def choose(self, key: str, kinds: Mapping[str, Chosen], *default: str) -> Chosen:
        """What a key names, of some that are known.

        Raises:
            ConfigError: if it names none of them.
        """
        name = self.take(key, str, *default)
        if name not in kinds:
            raise ConfigError(f"{self._place} {key} must be one of {list(kinds)}, got {name!r}")
        return kinds[name]

    def look(self, key: str) -> str:
        """The text of a key that is taken later; empty if it has none."""
        return str(self._left.get(key, ""))

    def has(self, key: str) -> bool:
        """Whether the file gives a key that was not taken yet."""
        return key in self._left

    def fill(self, table: str, key: str, value: object) -> bool:
        """Give a key of a table inside a value if it has none; whether that was so."""
        inside = self._left.get(table)
        if not isinstance(inside, dict) or key in inside:
            return False
        self._left[table] = {**inside, key: value}
        return True

    def end(self) -> None:
        """Refuse what was not taken."""
        if self._left:
            raise ConfigError(f"{self._place} has unknown key(s) {sorted(self._left)}")


def _has_default(field: Field[Any]) -> bool:
    """Whether a dataclass says what a field is where it is not given."""
    return field.default is not MISSING or field.default_factory is not MISSING


def _members(kind: Any) -> tuple[Any, ...]:
    """The types of a field: of a union its members, of a literal those of its values."""
    if get_origin(kind) is Literal:
        return tuple({type(value) for value in get_args(kind)})
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def choose(section: Section, key: str, kind: type[Choice], *default: Choice) -> Choice:
    """The member of an enumeration that a key names.

    Raises:
        ConfigError: if it names none.
    """
    return section.choose(
        key, {member.value: member for member in kind}, *(member.value for member in default)
    )


def parsed(path: Path) -> Section:
    """The top level of a TOML file.

    Raises:
        ConfigError: if there is none.
    """
    try:
        return Section("", tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"the configuration {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no readable TOML file: {error}") from error
