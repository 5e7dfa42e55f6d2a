"""The text that digests are over, and anchors: one form, and what has none is refused."""

import math

import pytest

from accountants import Anchor, InvalidValueError, anchor_from_json
from accountants.ledger.chain import canonical_json, checked_anchor


def test_equal_values_have_one_text():
    assert canonical_json({"b": [1, 0.1], "a": "ü"}) == '{"a":"\\u00fc","b":[1,0.1]}'
    assert canonical_json({"a": "ü", "b": [1, 0.1]}) == canonical_json({"b": [1, 0.1], "a": "ü"})


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [math.inf],
        {"a": -math.inf},
        {1, 2},
        b"bytes",
        {("a",): 1},
        {"a": 1, 2: 3},
        10**5000,
        nested(100_000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(InvalidValueError, match="a value must be one that JSON can hold"):
        canonical_json(value)


def test_an_anchor_is_refused_without_writing_out_a_long_number():
    with pytest.raises(InvalidValueError, match="must have 'length' and 'head' only"):
        anchor_from_json({"length": 10**5000})
    with pytest.raises(InvalidValueError, match="^anchor_length must be a whole number from 1"):
        Anchor(length=10**5000, head="ab" * 32)
    with pytest.raises(InvalidValueError, match="^anchor_head must be 64"):
        Anchor(length=1, head=10**5000)


def test_an_anchor_is_text_that_a_report_can_print():
    anchor = Anchor(length=12, head="ab" * 32)
    assert str(anchor) == "12:" + "ab" * 32
    assert Anchor.parse(str(anchor)) == anchor


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12",
        "12:",
        ":" + "ab" * 32,
        "0:" + "ab" * 32,
        "-1:" + "ab" * 32,
        "+1:" + "ab" * 32,
        "1_0:" + "ab" * 32,
        " 1:" + "ab" * 32,
        "\u0661:" + "ab" * 32,
        "1.0:" + "ab" * 32,
        "9" * 5000 + ":" + "ab" * 32,
        "1:" + "AB" * 32,
        "1:" + "ab" * 32 + "\n",
        "1:" + "ab" * 31,
        "1:2:" + "ab" * 32,
        None,
        12,
    ],
)
def test_what_is_no_anchor_as_text_is_refused(text):
    with pytest.raises(
        InvalidValueError, match="^anchor_head must be|^an anchor must be|^anchor_l"
    ):
        Anchor.parse(text)


def test_only_an_anchor_is_taken_for_one():
    anchor = Anchor(length=1, head="ab" * 32)
    assert checked_anchor(anchor) is anchor
    for value in (None, (1, "ab" * 32), anchor.to_json(), 10**5000):
        with pytest.raises(InvalidValueError, match="^anchor must be an Anchor, .*_from_json$"):
            checked_anchor(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"length": 0, "head": "0" * 64},
        {"length": 1, "head": "0"},
        {"length": 1},
        {"length": 1, "head": "G" * 64},
        {"length": 1.5, "head": "0" * 64},
    ],
)
def test_what_is_no_anchor_is_refused(value):
    with pytest.raises(InvalidValueError):
        anchor_from_json(value)
