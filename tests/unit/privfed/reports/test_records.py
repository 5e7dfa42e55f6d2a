"""A record is read field by field, strictly, and says where it is not whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pytest

from privfed.errors import ReportError
from privfed.reports.records import record_of_json, require_whole


class Kind(StrEnum):
    ONE = "one"
    TWO = "two"


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int
    kind: Kind
    private: bool
    inner: Inner
    rows: tuple[Inner, ...]
    weights: Mapping[str, float]
    anything: Mapping[str, Any]
    perhaps: Inner | None
    absent: tuple[str, ...]


JSON = {
    "count": 3,
    "kind": "two",
    "private": False,
    "inner": {"rate": 0.5, "names": ["a", "b"]},
    "rows": [{"rate": 0.25, "names": ["c"]}, {"rate": 2, "names": ["d"]}],
    "weights": {"a": 0.125},
    "anything": {"deep": [{"er": 1}], "flag": True},
    "perhaps": None,
    "absent": [],
}
WHOLE = Outer(
    count=3,
    kind=Kind.TWO,
    private=False,
    inner=Inner(rate=0.5, names=("a", "b")),
    rows=(Inner(rate=0.25, names=("c",)), Inner(rate=2, names=("d",))),
    weights={"a": 0.125},
    anything={"deep": [{"er": 1}], "flag": True},
    perhaps=None,
    absent=(),
)


def test_a_record_is_read_from_json():
    assert record_of_json(Outer, JSON, "report") == WHOLE
    require_whole(WHOLE)


def test_what_may_be_none_may_be_there():
    found = record_of_json(Outer, {**JSON, "perhaps": JSON["inner"]}, "report")
    assert found.perhaps == WHOLE.inner
    require_whole(found)


def test_what_is_a_record_already_is_left():
    given = {**JSON, "rows": [WHOLE.rows[1], JSON["rows"][0]]}
    assert record_of_json(Outer, given, "report").rows == WHOLE.rows[::-1]
    assert record_of_json(Outer, WHOLE, "report") is WHOLE


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"inner": {"rate": 0.5}}, r"'inner' lacks \['names'\]"),
        ({"inner": {**JSON["inner"], "more": 1}}, r"'inner' must not have \['more'\]"),
        ({"rows": [3]}, "'rows' must be an object, got 3"),
        ({"perhaps": []}, "'perhaps' must be an object"),
    ],
)
def test_a_record_with_other_fields_is_refused(changes, named):
    with pytest.raises(ReportError, match=named):
        record_of_json(Outer, {**JSON, **changes}, "report")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"count": None}, "lacks 'count'"),
        ({"count": 3.0}, "'count' must be of the kind int"),
        ({"count": True}, "'count' must be of the kind int"),
        ({"kind": "three"}, "'kind' must be of the kind Kind, got 'three'"),
        ({"kind": ["one"]}, "'kind' must be of the kind Kind"),
        ({"private": 0}, "'private' must be of the kind bool"),
        ({"inner": {"rate": "0.5", "names": ["a"]}}, "'inner.rate' must be of the kind float"),
        ({"inner": {"rate": float("inf"), "names": ["a"]}}, "'inner.rate' must be finite"),
        ({"inner": {"rate": False, "names": ["a"]}}, "'inner.rate' must be of the kind float"),
        ({"inner": {"rate": 1.0, "names": []}}, "lacks 'inner.names'"),
        ({"inner": {"rate": 1.0, "names": "ab"}}, "'inner.names' must be of the kind tuple"),
        ({"inner": {"rate": 1.0, "names": ["a", 7]}}, "'inner.names.1' must be of the kind str"),
        ({"rows": [{"rate": 0.25, "names": ["c", ""]}]}, "lacks 'rows.0.names.1'"),
        ({"rows": {}}, "lacks 'rows'"),
        ({"weights": {"a": "b"}}, "'weights.a' must be of the kind float"),
        ({"weights": [1.0]}, "'weights' must be of the kind Mapping"),
        ({"anything": {"deep": [{"er": None}]}}, "lacks 'anything.deep.0.er'"),
        ({"anything": {"deep": float("nan")}}, "'anything.deep' must be finite"),
        ({"absent": ""}, "lacks 'absent'"),
    ],
)
def test_a_gap_and_a_value_of_another_kind_are_named(changes, named):
    with pytest.raises(ReportError, match=named):
        require_whole(record_of_json(Outer, {**JSON, **changes}, "report"))


def test_a_name_goes_before_that_of_the_field():
    with pytest.raises(ReportError, match="'first.rate'"):
        require_whole(Inner(rate=None, names=("a",)), "first")
