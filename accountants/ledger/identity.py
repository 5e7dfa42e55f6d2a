"""Whose releases a ledger counts: client, data set, unit, and which data are neighbours.

A budget belongs to a data set, in one unit: the epsilon of single messages says nothing about that
of persons. All else may change from run to run: where the data lie, which part of them is read,
seeds, models, and how many others take part. Ledgers of the first version named a description in
place of the unit, which held such things; they are only read (`earlier.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accountants import checks
from accountants.errors import InvalidValueError, LedgerCorruptError
from accountants.guarantees import Neighbouring, neighbouring_of
from accountants.ledger.chain import require_fields

SCHEMA = "privfed-ledger/2"
"""Name of the form of entries and exports that this version writes."""

EARLIER_SCHEMA = "privfed-ledger/1"
"""Name of the form that this version only reads."""

NOT_PRIVATE = " (seeded coins: not private)"
"""Ends the unit, once the description, of a ledger whose releases are worth no epsilon."""

_ID_DIGITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose releases a ledger counts; public text, none of it derived from the data.

    Attributes:
        client: who holds the data.
        dataset: which data set; a budget belongs to it, not to a run.
        unit: what one record is, in words: what may be added, removed or replaced.
        neighbouring: which data sets must be hard to tell apart.

    Raises:
        InvalidValueError: for text that is empty or that UTF-8 cannot hold, or no relation.
    """

    client: str
    dataset: str
    unit: str
    neighbouring: Neighbouring

    def __post_init__(self) -> None:
        checks.text(client=self.client)
        checks.text(dataset=self.dataset)
        checks.text(unit=self.unit)
        object.__setattr__(self, "neighbouring", neighbouring_of(self.neighbouring))

    def to_json(self) -> dict[str, str]:
        """The identity as a JSON object."""
        return {
            "client": self.client,
            "dataset": self.dataset,
            "unit": self.unit,
            "neighbouring": self.neighbouring.value,
        }

    def has_data_of(self, other: "Identity") -> bool:
        """Whether both are about the same data, whatever their units."""
        return (self.client, self.dataset) == (other.client, other.dataset)


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierIdentity:
    """Whose releases a ledger of the first version counts.

    Attributes:
        client: who holds the data.
        dataset: which data set, as it was named then.
        description: which split of which data; it stated no unit.

    Raises:
        InvalidValueError: for text that is empty or that UTF-8 cannot hold.
    """

    client: str
    dataset: str
    description: str

    def __post_init__(self) -> None:
        checks.text(client=self.client)
        checks.text(dataset=self.dataset)
        checks.text(description=self.description)

    def to_json(self) -> dict[str, str]:
        """The identity as a JSON object."""
        return {
            "client": self.client,
            "dataset": self.dataset,
            "description": self.description,
        }


def check_schema(schema: object) -> None:
    """Refuse, by name, a schema that this version cannot read.

    Raises:
        LedgerCorruptError: for any but the two known.
    """
    if schema not in (SCHEMA, EARLIER_SCHEMA):
        raise LedgerCorruptError(
            f"the schema must be {SCHEMA!r} or {EARLIER_SCHEMA!r}, got {schema!r}; read it with "
            "the version of the package that wrote it"
        )


def identity_of(opening: Mapping[str, Any]) -> tuple[str | None, Identity | EarlierIdentity]:
    """The id and the identity in the first entry of a ledger; one of the first version has no id.

    Raises:
        LedgerCorruptError: for an unknown schema.
        InvalidValueError: for a missing, extra or invalid field.
    """
    check_schema(opening.get("schema"))
    names = {name: value for name, value in opening.items() if name not in ("schema", "id")}
    if opening["schema"] == EARLIER_SCHEMA:
        require_fields(opening, {"schema", "client", "dataset", "description"})
        return None, EarlierIdentity(**names)
    require_fields(opening, {"schema", "id", "client", "dataset", "unit", "neighbouring"})
    return checked_id(opening["id"]), Identity(**names)


def checked_id(value: object) -> str:
    """The id of a ledger: 32 lower-case hexadecimal digits, which are safe as a file name.

    Raises:
        InvalidValueError: for anything else.
    """
    if (
        not isinstance(value, str)
        or len(value) != _ID_DIGITS
        or not set(value) <= set("0123456789abcdef")
    ):
        raise InvalidValueError(
            f"the id of a ledger must be {_ID_DIGITS} lower-case hexadecimal digits, got "
            f"{checks.shown(value)}"
        )
    return value
