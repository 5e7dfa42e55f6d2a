"""The base models of a run configuration: where they lie, and which clients hold another one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

from privfed.agreement import Declaration
from privfed.cli.toml_section import Section
from privfed.errors import ConfigError

_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
Declared = TypeVar("Declared", bound=Declaration)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherBases:
    """The tables [bases.NAME].

    Attributes:
        places: names on the model hub, or folders, by the public names of the tables.
        of_clients: by client, the name of the table that it stands in.
    """

    places: dict[str, str] = field(default_factory=dict)
    of_clients: dict[str, str] = field(default_factory=dict)

    def declared(self, clients: Sequence[Declared]) -> list[Declared]:
        """The clients, each with the base model that it holds.

        Raises:
            ConfigError: if a table names somebody else.
        """
        strange = sorted(set(self.of_clients).difference(client.id for client in clients))
        if strange:
            raise ConfigError(f"[bases] names {strange}, who take no part")
        return [replace(one, base=self.of_clients.get(one.id)) for one in clients]


def bases_of(root: Section, folder: Path) -> OtherBases:
    """The tables [bases.NAME]; a folder is relative to that of the file.

    Args:
        root: the whole file; the tables are taken.
        folder: of the file.

    Raises:
        ConfigError: for a table that cannot be used, or a client in two of them.
    """
    found = OtherBases()
    for name, values in root.take("bases", dict, {}).items():
        if not isinstance(values, dict):
            raise ConfigError(f"[bases] {name} must be a table, got {values!r}")
        section = Section(f"bases.{name}", values)
        found.places[name] = base_of(section.take("base", str), folder)
        for client in section.take_all("clients", str):
            if client in found.of_clients:
                raise ConfigError(f"[bases] names {client!r} twice; a client holds one base model")
            found.of_clients[client] = name
        section.end()
    return found


def base_of(base: str, folder: Path) -> str:
    """A folder with a model, relative to that of the configuration; a name on the hub as it is."""
    local = folder / base
    is_name = _HUB_NAME.fullmatch(base) is not None
    return base if is_name and not local.is_dir() else str(local.resolve())
