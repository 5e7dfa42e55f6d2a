import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.data.cells import CellError, as_name, as_text, is_missing


@pytest.mark.parametrize("cell", [None, float("nan"), "nan", "NaN", "", " ", "\t\n", "\u00a0"])
def test_nothing_is_missing(cell):
    assert is_missing(cell)


@pytest.mark.parametrize("cell", [0, 0.0, False, "0", "NA", "None", "Nan", "null", [], {}, b""])
def test_everything_else_is_something(cell):
    assert not is_missing(cell)


@pytest.mark.parametrize(
    ("cells", "name"),
    [
        ((1, 1.0, "1", "1.0", "1.00"), "1"),
        ((0, -0.0, 0.0, "0", "-0.0"), "0"),
        ((-12, -12.0, "-12", "-12.0"), "-12"),
        ((True, "true", "True", "TRUE"), "true"),
        ((False, "false", "False"), "false"),
        ((1e16, "1e+16"), "1e+16"),
    ],
)
def test_one_name_has_one_spelling(cells, name):
    assert {as_name(cell) for cell in cells} == {name}


@given(st.text(alphabet="01.-+eEx tT", min_size=1))
def test_strings_are_names_as_they_stand_but_for_whole_floats(text):
    named = as_name(text)
    if named != text:
        assert float(text).is_integer()
        assert float(named) == float(text)
        assert "." not in named


@pytest.mark.parametrize(
    "name", ["007", "1.5", " 1.0", "1.0 ", "01.0", "1.0.0", ".0", "1.", "Tr ue"]
)
def test_names_that_only_look_alike_stay_apart(name):
    assert as_name(name) == name


@pytest.mark.parametrize("cell", [1, 1.5, True, None, b"a", ["a"], {"a": 1}])
def test_text_is_a_string(cell):
    with pytest.raises(CellError, match=f"must be text .*got {type(cell).__name__}$"):
        as_text(cell)


@pytest.mark.parametrize("cell", [b"a", ["a"], {"a": 1}, None, 1j])
def test_a_name_is_a_string_a_boolean_or_a_whole_number(cell):
    with pytest.raises(CellError, match=f"got {type(cell).__name__}$"):
        as_name(cell)


@pytest.mark.parametrize("cell", [1.5, -0.1, float("inf"), 5e-324])
def test_a_fraction_names_nobody(cell):
    with pytest.raises(CellError, match="a float with a fraction"):
        as_name(cell)


@pytest.mark.parametrize("read", [as_text, as_name])
def test_half_a_surrogate_pair_is_refused_without_quoting_it(read):
    with pytest.raises(CellError, match="half of a surrogate pair") as caught:
        read("private \ud83d")
    assert "private" not in str(caught.value)
    assert caught.value.__cause__ is None
