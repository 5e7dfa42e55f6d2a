"""Whose a row is, as the table [data.partition] of a run configuration says.

Clients are the values of a column; or one pool is dealt to them by a public seed, for a simulation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from privfed.cli.toml_section import Section
from privfed.data import partition
from privfed.data.records import Record
from privfed.encryption.parameters import MAX_CLIENTS
from privfed.errors import ConfigError

Deal = Callable[[Sequence[Record], int], dict[str, list[int]]]
"""From the records of a pool and a public seed to the positions of each client's, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Whose a row is.

    Attributes:
        kind: "column", or how one pool is dealt.
        clients: their public names; for "column" none where the public sizes name them.
        column: that names each row's client, for "column" alone.
        others: "refuse" or "drop" rows of a client that is not declared, for "column".
        minimum: least public size of a client that takes part, for "column".
        deal: what deals the pool; None for "column".
    """

    kind: str
    clients: tuple[str, ...]
    column: str | None = None
    others: str = "refuse"
    minimum: int = 1
    deal: Deal | None = None


def read_rule(section: Section, labels: Sequence[str] | None) -> Rule:
    """What the table says; all of it is taken.

    Args:
        section: that table.
        labels: of a classification; None without one.
    """
    kind = section.take("rule", str)
    if kind == "column":
        rule = _by_column(section)
    elif kind in _DEALT:
        if kind == "dirichlet" and labels is None:
            raise ConfigError("[data.partition] rule 'dirichlet' needs a classification task")
        count = section.take("clients", int)
        if count < 1:
            raise ConfigError(f"[data.partition] clients must be at least 1, got {count}")
        check_number(count)
        names = partition.client_names(count)
        rule = Rule(kind=kind, clients=names, deal=_DEALT[kind](section, count))
    else:
        known = sorted(["column", *_DEALT])
        raise ConfigError(f"[data.partition] rule must be one of {known}, got {kind!r}")
    section.end()
    return rule


def check_number(count: int) -> None:
    """Before any text is read: a sum has room for so many."""
    if count > MAX_CLIENTS:
        raise ConfigError(
            f"at most {MAX_CLIENTS} clients can take part in a federation, got {count}; declare "
            "fewer, or leave small ones out with [data.partition] minimum"
        )


def _by_column(section: Section) -> Rule:
    rule = Rule(
        kind="column",
        column=section.take("column", str),
        clients=section.take_all("clients", str, ()),
        others=section.take("others", str, "refuse"),
        minimum=section.take("minimum", int, 1),
    )
    if rule.others not in ("refuse", "drop"):
        raise ConfigError(
            f"[data.partition] others must be 'refuse' or 'drop', got {rule.others!r}"
        )
    return rule


def _iid(section: Section, count: int) -> Deal:
    del section
    return lambda records, seed: partition.iid(len(records), count, seed)


def _dirichlet(section: Section, count: int) -> Deal:
    alpha, minimum = section.take("alpha", float), section.take("minimum", int, 1)
    return lambda records, seed: partition.dirichlet(_labels(records), count, alpha, minimum, seed)


def _quantity_skew(section: Section, count: int) -> Deal:
    alpha, minimum = section.take("alpha", float), section.take("minimum", int, 1)
    return lambda records, seed: partition.quantity_skew(len(records), count, alpha, minimum, seed)


def _feature_shift(section: Section, count: int) -> Deal:
    """The feature is the number of characters of a text."""
    random_share = section.take("random_share", float)
    return lambda records, seed: partition.feature_shift(
        np.array([[len(record.text)] for record in records]),
        _labels(records),
        count,
        random_share,
        seed,
    )


def _labels(records: Sequence[Record]) -> list[int]:
    """All equal without a classification."""
    return [record.label or 0 for record in records]


_DEALT: Final[Mapping[str, Callable[[Section, int], Deal]]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "quantity_skew": _quantity_skew,
    "feature_shift": _feature_shift,
}
