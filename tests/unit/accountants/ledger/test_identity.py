"""Whose releases a ledger counts: names as texts, one unit, one relation."""

import json

import pytest

from accountants.errors import InvalidValueError, LedgerCorruptError
from accountants.guarantees import Neighbouring
from accountants.ledger.identity import (
    EARLIER_SCHEMA,
    SCHEMA,
    EarlierIdentity,
    Identity,
    check_schema,
    checked_id,
    identity_of,
)
from tests.unit.accountants.ledger.ledgers import OWNER


@pytest.mark.parametrize("field", ["client", "dataset", "unit"])
def test_names_are_texts(field):
    with pytest.raises(InvalidValueError, match=f"^{field} must be text"):
        Identity(**OWNER | {field: " "})
    with pytest.raises(InvalidValueError, match="^neighbouring must be one of"):
        Identity(**OWNER | {"neighbouring": None})


IDENTITY = Identity(**OWNER)
EARLIER = EarlierIdentity(client="ward", dataset="notes-7", description="split 1 of 4")
ID = "0123456789abcdef" * 2


def test_the_relation_may_be_given_by_its_name():
    assert IDENTITY.neighbouring is Neighbouring.ADD_REMOVE
    assert Identity(**OWNER | {"neighbouring": Neighbouring.ADD_REMOVE}) == IDENTITY
    assert IDENTITY.to_json() == OWNER


def test_names_come_back_from_the_first_entry():
    opening = {"schema": SCHEMA, "id": ID} | IDENTITY.to_json()
    assert identity_of(opening) == (ID, IDENTITY)
    assert identity_of(json.loads(json.dumps(opening))) == (ID, IDENTITY)


def test_the_first_version_had_a_description_and_no_id():
    assert identity_of({"schema": EARLIER_SCHEMA} | EARLIER.to_json()) == (None, EARLIER)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": None},
        {"unit": " "},
        {"neighbouring": "swap"},
        {"more": 1},
        {"description": "split 1 of 4"},
    ],
)
def test_a_first_entry_with_another_field_is_refused(changes):
    opening = {"schema": SCHEMA, "id": ID} | OWNER
    with pytest.raises(InvalidValueError):
        identity_of(opening | changes)


@pytest.mark.parametrize("missing", ["id", "client", "dataset", "unit", "neighbouring"])
def test_a_first_entry_without_a_field_is_refused(missing):
    opening = {"schema": SCHEMA, "id": ID} | OWNER
    del opening[missing]
    with pytest.raises(InvalidValueError, match="a body must have the fields"):
        identity_of(opening)


def test_the_first_version_is_read_by_its_own_fields():
    opening = {"schema": EARLIER_SCHEMA} | EARLIER.to_json()
    for other in (opening | {"unit": "one note"}, opening | {"id": ID}, {"schema": EARLIER_SCHEMA}):
        with pytest.raises(InvalidValueError, match="a body must have the fields"):
            identity_of(other)


@pytest.mark.parametrize("field", ["client", "dataset", "description"])
def test_names_of_the_first_version_are_texts(field):
    for value in ("", 7):
        with pytest.raises(InvalidValueError, match=f"^{field} must be text"):
            EarlierIdentity(**EARLIER.to_json() | {field: value})


@pytest.mark.parametrize("schema", [None, "privfed-ledger/3", "other/2", 2])
def test_an_unknown_schema_is_refused_by_name(schema):
    for known in (SCHEMA, EARLIER_SCHEMA):
        check_schema(known)
    for refuse in (check_schema, lambda schema: identity_of({"schema": schema} | OWNER)):
        with pytest.raises(
            LedgerCorruptError, match=f"or 'privfed-ledger/1', got {schema!r}; read"
        ):
            refuse(schema)


def test_data_are_the_same_whatever_their_unit_and_relation():
    for changes in ({"unit": "one person"}, {"neighbouring": "replace_one"}):
        assert IDENTITY.has_data_of(Identity(**OWNER | changes))
    for changes in ({"client": "clinic"}, {"dataset": "notes-8"}):
        assert not IDENTITY.has_data_of(Identity(**OWNER | changes))


@pytest.mark.parametrize(
    "value",
    [None, 7, ID[:-1], ID + "0", ID.upper(), "g" * 32, "../" + ID[3:], [*ID], 10**5000],
    ids=lambda value: str(type(value).__name__),
)
def test_an_id_is_32_hexadecimal_digits(value):
    assert checked_id(ID) == ID
    with pytest.raises(InvalidValueError, match="^the id of a ledger must be 32 lower-case"):
        checked_id(value)
