"""Who takes part with what public size, as the table [data] of a run configuration says.

No text is read: names and sizes are public, or released under noise when the run begins.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from privfed.cli.run_file_partition import Rule, check_number
from privfed.cli.toml_section import Section
from privfed.data.datasets import name_index
from privfed.data.public_size import NoisySize, check_public_size
from privfed.errors import ConfigError

_MOST_NAMED: Final = 20
Sizes = Mapping[str, int | NoisySize]
"""Public size of each client, by its public name."""


def sizes_of(section: Section, rule: Rule) -> Sizes:
    """The public size of every declared client; none has one by default."""
    everyone = section.take("public_size", (int, dict), None)
    listed = section.take("public_sizes", dict, {})
    names = rule.clients or tuple(listed)
    if not names:
        raise ConfigError(
            "[data.partition] needs the key 'clients', their public names, or [data.public_sizes] "
            "must list them: names are not taken from the rows, which are private"
        )
    name_index(names)
    require_declared("data.public_sizes", listed, names)
    without = [name for name in names if listed.get(name, everyone) is None]
    if without:
        raise ConfigError(
            f"{len(without)} client(s) have no public size, such as {without[0]!r}; give each one "
            "in [data.public_sizes], or [data] public_size for all: a number declared before "
            "training, or { noise_epsilon = ... } to release the true one under noise"
        )
    return {
        name: _size("public_sizes", name, listed[name], rule.minimum)
        if name in listed
        else _size("public_size", name, everyone, rule.minimum)
        for name in sorted(names)
    }


def declared_sizes(section: Section) -> Sizes:
    """The public sizes of a run between machines: all stand in [data.public_sizes], by client."""
    listed = section.take("public_sizes", dict)
    check_number(len(listed))
    return {name: _size("public_sizes", name, listed[name], 1) for name in sorted(listed)}


def _size(key: str, client: str, value: Any, minimum: int) -> int | NoisySize:
    """One size as the file gives it: a number, or a table that says how it is released."""
    if not isinstance(value, dict):
        return check_public_size(client, value)
    place = f"data.{key}.{client}" if key == "public_sizes" else f"data.{key}"
    table = Section(place, value)
    size = NoisySize(noise_epsilon=table.take("noise_epsilon", float), minimum=minimum)
    table.end()
    return size


def require_declared(table: str, named: Iterable[str], declared: Iterable[str]) -> None:
    """Refuse a table that names a client which is not declared; it need not take part."""
    if unknown := sorted(set(named).difference(declared)):
        known = sorted(declared)
        more = f" and {len(known) - _MOST_NAMED} more" if len(known) > _MOST_NAMED else ""
        raise ConfigError(
            f"[{table}] names unknown client(s) {unknown}; those declared in [data] are "
            f"{known[:_MOST_NAMED]}{more}"
        )


def taking_part(sizes: Sizes, rule: Rule) -> Sizes:
    """Without clients whose declared size is too small: a public rule, never the true number.

    A size that is yet to be released is compared when it is.
    """
    taking = {
        client: size
        for client, size in sizes.items()
        if isinstance(size, NoisySize) or size >= rule.minimum
    }
    if not taking:
        raise ConfigError(
            f"[data.partition] minimum = {rule.minimum} leaves out every client; lower it"
        )
    check_number(len(taking))
    return taking
