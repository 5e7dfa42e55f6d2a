"""JSON that loses nothing, in a written form that is fixed, and what is refused."""

import json

import pytest
from hypothesis import given

from accountants import InvalidValueError, UnsupportedAnalysisError
from accountants.event_json import event_from_json, event_to_json
from accountants.histories import checked
from tests.unit.accountants.any_events import EXAMPLES, WIRE, any_event, examples


@pytest.mark.parametrize(("event", "written"), WIRE, ids=lambda value: type(value).__name__)
def test_the_written_form_is_fixed(event, written):
    """Ledgers hold it for years."""
    assert event_to_json(event) == written
    assert event_from_json(written) == event


@examples
@given(event=any_event)
def test_json_gives_back_every_bit(event):
    again = event_from_json(json.loads(json.dumps(event_to_json(event), allow_nan=False)))
    assert type(again) is type(event)
    assert repr(again) == repr(event)
    assert again == event


@pytest.mark.parametrize("name", ["tree", "Gaussian", "gaussian ", "", None, 1, ["gaussian"], {}])
def test_an_unknown_type_is_refused_by_name(name):
    value = {"type": name, "noise_multiplier": 1.0, "steps": 1}
    with pytest.raises(UnsupportedAnalysisError) as refusal:
        event_from_json(value)
    assert f"got {name!r}; use the version of the package that wrote it" in str(refusal.value)


@pytest.mark.parametrize("value", [None, [], "gaussian", 1, {}, {"steps": 1}])
def test_what_is_no_event_object_is_refused(value):
    with pytest.raises(InvalidValueError, match="a JSON object with a 'type'"):
        event_from_json(value)


@pytest.mark.parametrize(("event", "written"), WIRE, ids=lambda value: type(value).__name__)
def test_a_missing_or_extra_field_is_refused(event, written):
    """Also one that construction would fill in: a default is no record."""
    for name in written.keys() - {"type"}:
        with pytest.raises(InvalidValueError, match="must have the fields"):
            event_from_json({k: v for k, v in written.items() if k != name})
    with pytest.raises(InvalidValueError, match="must have the fields.*'more'"):
        event_from_json(written | {"more": 1})


@pytest.mark.parametrize("key", [1, None, ("a",), 10**5000], ids=lambda key: type(key).__name__)
def test_a_key_that_is_no_text_is_refused(key):
    value = event_to_json(EXAMPLES[0])
    with pytest.raises(InvalidValueError, match="a 'gaussian' event must have the fields"):
        event_from_json(value | {key: 1, "more": 2})
    del value["steps"]
    with pytest.raises(InvalidValueError, match="a 'gaussian' event must have the fields"):
        event_from_json(value | {key: 1})


def test_numbers_too_long_to_write_out_are_refused():
    """Python refuses to write them into a message, with a ValueError of its own."""
    long = 10**5000
    value = event_to_json(EXAMPLES[0])
    for name in ("noise_multiplier", "steps"):
        with pytest.raises(InvalidValueError, match=f"^{name} must be"):
            event_from_json(value | {name: long})
    with pytest.raises(InvalidValueError, match="a JSON object with a 'type'"):
        event_from_json([long])
    with pytest.raises(UnsupportedAnalysisError, match="an event must be of a type in"):
        event_from_json(value | {"type": long})
    with pytest.raises(UnsupportedAnalysisError, match="an event must be one of"):
        checked([long])
