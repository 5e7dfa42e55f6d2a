"""One byte string for one JSON value, and refusals of all others."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.canonical import canonical_json, parse_canonical, require_plain_json
from privfed.errors import MessageError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
without_floats = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def test_by_hand():
    assert (
        canonical_json({"b": [1, 0.5, None], "a": "\u00fc"}) == b'{"a":"\\u00fc","b":[1,0.5,null]}'
    )


@given(json_values)
def test_no_value_is_lost_in_canonical_json(value):
    """So equal bytes mean equal values of equal types; in Python True == 1 == 1.0."""

    def shown(value):
        if isinstance(value, dict):
            return {key: shown(value[key]) for key in sorted(value)}
        return [shown(inner) for inner in value] if isinstance(value, list) else value

    try:
        raw = canonical_json(value)
    except ValueError:
        return
    assert repr(shown(json.loads(raw))) == repr(shown(value))


@pytest.mark.parametrize(("left", "right"), [(True, 1), (1, 1.0), (0, False), (0.0, -0.0)])
def test_python_equals_have_different_bytes(left, right):
    assert left == right
    assert canonical_json(left) != canonical_json(right)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_canonical_json_refuses_nan(value):
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": value})


def test_plain_json_may_be_nested_32_levels_deep():
    value = 1
    for _ in range(31):
        value = [value]
    require_plain_json(value)
    require_plain_json({"é": [None, True, 2**80, 0.5, "😀"]})
    with pytest.raises(MessageError, match="nested at most 32"):
        require_plain_json({"a": value})


@pytest.mark.parametrize("value", [b"raw", {1, 2}, float("nan"), [float("inf")], "\ud83d"])
def test_what_is_not_plain_json_is_refused(value):
    with pytest.raises(MessageError, match="plain JSON"):
        require_plain_json(value)


@given(without_floats)
def test_what_was_written_is_read_and_nothing_else_reads_as_it(value):
    content = canonical_json(value) + b"\n"
    assert parse_canonical(content, "it", most=len(content)) == value
    for other in (content[:-1], b" " + content, content + b"\n"):
        with pytest.raises(MessageError):
            parse_canonical(other, "it", most=len(content) + 1)


class TestParsing:
    def test_by_hand(self):
        assert parse_canonical(b'{"a":[1,"\\u00fc"]}\n', "it", most=99) == {"a": [1, "ü"]}

    @pytest.mark.parametrize(
        "content",
        [
            b'{"a":1}',
            b'{"a":1}\n\n',
            b'{"a": 1}\n',
            b'{"b":1,"a":2}\n',
            b'{"a":1,"a":1}\n',
            b'{"a":2,"a":1}\n',
            b'{"a":"\\u0041"}\n',
            b'{"a":"\\u00FC"}\n',
            '{"a":"ü"}\n'.encode(),
            b'{"a":1.0}\n',
            b'{"a":1e999}\n',
            b'{"a":NaN}\n',
            b'{"a":-0}\n',
            b"\xef\xbb\xbf{}\n",
            "{}\n".encode("utf-16"),
            b"",
            b"\n",
            b"{",
            b"[" * 60_000 + b"]" * 60_000 + b"\n",
            b'{"a":' * 30_000,
            b"9" * 5000 + b"\n",
        ],
    )
    def test_anything_else_is_refused(self, content):
        with pytest.raises(MessageError, match="it must be"):
            parse_canonical(content, "it", most=1 << 20)

    def test_the_size_is_limited_before_anything_is_read(self):
        with pytest.raises(MessageError, match="at most 3 bytes, 4 came"):
            parse_canonical(b"[1]\n", "it", most=3)
