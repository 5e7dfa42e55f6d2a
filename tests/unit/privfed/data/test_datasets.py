import csv
import datetime
import json
import re

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.data.datasets import TextTable, load_table
from privfed.data.records import Record
from privfed.errors import ConfigError, DataError

ROWS = [
    {"note": "first text", "topic": "a", "ward": "north", "date": "2020-01-02"},
    {"note": "second text", "topic": "b", "ward": "south", "date": "2020-01-03"},
    {"note": "third text", "topic": "a", "ward": "north", "date": "2020-01-04"},
]


def test_every_format_gives_the_same_table(write, suffix):
    table = load_table(write(ROWS, suffix), text="note", label="topic", owner="ward")
    assert table == TextTable(
        texts=("first text", "second text", "third text"),
        labels=("a", "b", "a"),
        owners=("north", "south", "north"),
    )


def test_columns_that_were_not_asked_for_are_absent(write, suffix):
    table = load_table(write(ROWS, suffix), text="note")
    assert (table.labels, table.owners) == (None, None)


def test_values_that_look_like_numbers_or_dates_stay_as_written(write, suffix):
    rows = [
        {"note": "one", "ward": "007", "date": "2020-01-02"},
        {"note": "NA", "ward": "7", "date": "2020-01-03"},
    ]
    path = write(rows, suffix)
    assert load_table(path, text="note", owner="ward").owners == ("007", "7")
    assert load_table(path, text="note", owner="date").owners == ("2020-01-02", "2020-01-03")
    assert load_table(path, text="note").texts == ("one", "NA")


def test_whole_number_labels_stay_whole_beside_a_missing_one(write, suffix):
    """pandas makes floats of them."""
    rows = [
        {"note": "one", "topic": 1},
        {"note": "two", "topic": None},
        {"note": "three", "topic": 3},
    ]
    table = load_table(write(rows, suffix), text="note", label="topic", missing="drop")
    assert table.texts == ("one", "three")
    assert table.labels == ("1", "3")
    assert (table.numbers, table.missing, table.copies) == ((1, 3), 1, 0)


def test_only_equal_rows_are_copies(write, suffix):
    """Not those of another label, of other white space or of another case."""
    rows = [
        {"note": note, "topic": topic}
        for note, topic in [
            ("a b", "x"),
            ("a b", "y"),
            ("a  b", "x"),
            ("A b", "x"),
            ("a b", "x"),
            ("a b ", "x"),
            ("a b", "y"),
        ]
    ]
    table = load_table(write(rows, suffix), text="note", label="topic")
    assert table.texts == ("a b", "a b", "a  b", "A b", "a b ")
    assert table.labels == ("x", "y", "x", "x", "x")
    assert (table.numbers, table.missing, table.copies) == ((1, 2, 3, 4, 6), 0, 2)
    assert load_table(write(rows, suffix), text="note").texts == ("a b", "a  b", "A b", "a b ")


def test_with_owners_copies_are_removed_within_each(write, suffix):
    rows = [
        {"note": note, "ward": ward}
        for note, ward in [("a b", "x"), ("a b", "y"), ("a b", "x"), ("c", "y"), ("c", "y")]
    ]
    table = load_table(write(rows, suffix), text="note", owner="ward")
    assert table.texts == ("a b", "a b", "c")
    assert table.owners == ("x", "y", "y")


def test_with_persons_copies_are_removed_within_each(write, suffix):
    rows = [{"note": "a b", "ward": "x", "who": who} for who in ("p", "q", "p")]
    table = load_table(write(rows, suffix), text="note", owner="ward", person="who")
    assert table.persons == ("p", "q")


class TestMissing:
    ROWS = (
        {"note": "kept", "topic": "a", "ward": "x"},
        {"note": None, "topic": "a", "ward": "x"},
        {"note": "one", "topic": None, "ward": "x"},
        {"note": "two", "topic": "a", "ward": None},
        {"note": "   ", "topic": "a", "ward": "x"},
        {"note": "three", "topic": "", "ward": "x"},
        {"note": "four", "topic": "a", "ward": "\t"},
    )

    def test_rows_without_a_value_are_dropped_where_that_is_asked_for(self, write, suffix):
        path = write(self.ROWS, suffix)
        table = load_table(path, text="note", label="topic", owner="ward", missing="drop")
        assert table == TextTable(texts=("kept",), labels=("a",), owners=("x",))
        assert (table.numbers, table.missing, table.copies) == ((1,), 6, 0)

    def test_else_they_are_refused_by_column_and_number(self, write, suffix):
        with pytest.raises(DataError, match=r"column 'note' of row 2 .*5 other row.*= 'drop'"):
            load_table(write(self.ROWS, suffix), text="note", label="topic", owner="ward")

    def test_a_column_that_was_not_asked_for_may_be_missing(self, write, suffix):
        rows = [{"note": "one", "topic": None}, {"note": "two", "topic": "a"}]
        assert load_table(write(rows, suffix), text="note").texts == ("one", "two")

    def test_a_short_row_of_a_csv_file_lacks_its_last_fields(self, tmp_path):
        path = tmp_path / "data.csv"
        path.write_text("note,topic\none,a\ntwo\n\nthree,b\n")
        with pytest.raises(DataError, match="column 'topic' of row 2 "):
            load_table(str(path), text="note", label="topic")
        table = load_table(str(path), text="note", label="topic", missing="drop")
        assert (table.texts, table.numbers, table.missing) == (("one", "three"), (1, 3), 1)

    def test_a_field_that_is_not_there_and_nan_are_missing(self, tmp_path):
        path = tmp_path / "data.jsonl"
        path.write_text('{"note": "one", "ward": NaN}\n{"note": "two"}\n{"note": "c", "ward": 7}')
        table = load_table(str(path), text="note", owner="ward", missing="drop")
        assert (table.owners, table.missing) == (("7",), 2)
        path.write_text('{"note": NaN}\n{"note": "NA"}\n{"note": "nan"}')
        table = load_table(str(path), text="note", missing="drop")
        assert (table.texts, table.missing) == (("NA",), 2)

    def test_another_choice_is_refused(self, write):
        with pytest.raises(ConfigError, match="missing must be 'refuse' or 'drop', got 'ignore'"):
            load_table(write(ROWS), text="note", missing="ignore")


def stored(rows, path):
    """Rows in the format of the path's ending; an array for `.json`."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return str(path)


FORMATS = (".jsonl", ".json", ".csv", ".parquet")


class TestOneRuleForAllFormats:
    @settings(max_examples=60)
    @given(data=st.data())
    def test_one_table_gives_the_same_records_or_the_same_refusal(self, data, tmp_path_factory):
        """A Parquet column has one type, so each example draws one for all its rows."""
        names = data.draw(
            st.sampled_from(
                [
                    st.sampled_from(["1", "1.0", "007", "-0.0", "true", "True", " a", "a", "1e3"]),
                    st.booleans(),
                    st.integers(-(2**60), 2**60),
                    st.integers(-(2**40), 2**40).map(float) | st.just(float("nan")),
                    st.sampled_from([1e16, 1.0, -0.0, 3e22]),
                ]
            )
        )
        text = st.sampled_from(["a", " a", "a, b", 'say "a"', "a\nb", "\u00e4\U0001f600", "", " "])
        row = st.fixed_dictionaries(
            {"note": text | st.none(), "ward": names | st.none(), "other": st.just("x")}
        )
        rows = data.draw(st.lists(row, min_size=1, max_size=6))
        missing = data.draw(st.sampled_from(["refuse", "drop"]))
        folder = tmp_path_factory.mktemp("formats")
        outcomes = []
        for suffix in FORMATS:
            path = stored(rows, folder / f"data{suffix}")
            try:
                table = load_table(path, text="note", owner="ward", missing=missing)
            except DataError as error:
                outcomes.append(str(error).replace(suffix, ""))
            else:
                outcomes.append((table, table.numbers, table.missing, table.copies))
        assert outcomes.count(outcomes[0]) == len(FORMATS), outcomes

    @pytest.mark.parametrize("suffix", FORMATS)
    @pytest.mark.parametrize(
        ("value", "name"),
        [
            (True, "true"),
            (False, "false"),
            (12, "12"),
            (3.0, "3"),
            ("007", "007"),
            ("1.50", "1.50"),
        ],
    )
    def test_names_have_one_spelling(self, tmp_path, suffix, value, name):
        rows = [{"note": "one", "ward": value, "topic": value}]
        path = stored(rows, tmp_path / f"data{suffix}")
        table = load_table(path, text="note", owner="ward", label="topic")
        assert (table.owners, table.labels) == ((name,), (name,))

    @pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
    @pytest.mark.parametrize(
        ("column", "value", "kind"),
        [
            ("note", ["private words"], "list"),
            ("note", {"private": "words"}, "dict"),
            ("note", 4711, "int"),
            ("note", 47.5, "float"),
            ("note", True, "bool"),
            ("ward", ["private words"], "list"),
            ("ward", {"private": "words"}, "dict"),
            ("ward", 47.5, "a float with a fraction"),
        ],
    )
    def test_what_is_no_text_or_name_is_refused_by_type_column_and_row(
        self, tmp_path, suffix, column, value, kind
    ):
        rows = [{"note": None, "ward": None}, {"note": "one", "ward": "x", column: value}]
        path = stored(rows, tmp_path / f"data{suffix}")
        with pytest.raises(
            DataError, match=f"column '{column}' of .*got {kind} in row 2"
        ) as caught:
            load_table(path, text="note", owner="ward", missing="drop")
        assert not re.search("private|words|4711|47.5|True", str(caught.value))

    @pytest.mark.parametrize("column", ["note", "ward"])
    def test_bytes_and_dates_of_a_parquet_file_are_refused(self, tmp_path, column):
        for value, kind in ((b"private words", "bytes"), (datetime.date(2020, 1, 2), "date")):
            rows = [{"note": "one", "ward": "x", column: value}]
            path = stored(rows, tmp_path / "data.parquet")
            with pytest.raises(DataError, match=f"column '{column}' .*got {kind} in row 1"):
                load_table(path, text="note", owner="ward")

    @pytest.mark.parametrize("column", ["note", "ward"])
    def test_half_a_surrogate_pair_is_refused_by_its_row(self, tmp_path, column):
        rows = [{"note": "a", "ward": "x"}, {"note": "b", "ward": "x", column: "private \ud83d"}]
        path = stored(rows, tmp_path / "data.jsonl")
        with pytest.raises(
            DataError, match=f"column '{column}' .*surrogate pair in row 2"
        ) as caught:
            load_table(path, text="note", owner="ward")
        assert "private" not in str(caught.value)

    def test_a_column_of_another_type_does_not_matter_where_it_is_not_asked_for(self, tmp_path):
        rows = [{"note": "one", "when": datetime.datetime(2020, 1, 2), "list": [1]}]
        path = stored(rows, tmp_path / "data.parquet")
        assert load_table(path, text="note").texts == ("one",)


@pytest.mark.parametrize("other", ["label", "owner"])
def test_one_column_for_two_roles_is_refused(write, other):
    with pytest.raises(DataError, match="note"):
        load_table(write(ROWS), text="note", **{other: "note"})


def test_a_table_without_text_is_refused(write):
    with pytest.raises(DataError, match="holds no text in column 'note'"):
        load_table(write([{"note": None}, {"note": " "}]), text="note", missing="drop")


class TestRecords:
    TABLE = TextTable(texts=("p", "q", "r"), labels=("b", "a", "c"))

    def test_labels_become_indices_into_the_public_set(self):
        assert self.TABLE.records([2, 0], ("a", "b", "c")) == (Record("r", 2), Record("p", 1))

    def test_without_labels_there_are_none(self):
        assert TextTable(texts=("p",)).records([0], ("a",)) == (Record("p"),)
        assert self.TABLE.records([1], None) == (Record("q"),)

    def test_an_unknown_label_is_refused_without_naming_it(self):
        table = TextTable(texts=("p", "q"), labels=("a", "rare-disease"))
        with pytest.raises(DataError, match=r"1 label value.*\['a'\]") as caught:
            table.records([0, 1], ("a",))
        assert "rare-disease" not in str(caught.value)

    def test_the_first_row_with_an_unknown_label_is_named(self):
        table = TextTable(texts=("p", "q"), labels=("a", "rare"), numbers=(3, 8))
        with pytest.raises(DataError, match="the first in row 8"):
            table.records([0, 1], ("a",))

    def test_labels_are_compared_in_the_spelling_of_a_table(self):
        table = TextTable(texts=("p", "q", "r"), labels=("1", "true", "0"))
        records = table.records([0, 1, 2], ("True", "0.0", "1.0"))
        assert [record.label for record in records] == [2, 0, 1]
        with pytest.raises(ConfigError, match="names must differ in more than"):
            table.records([0], ("1", "1.0"))

    def test_a_label_of_a_row_that_was_not_chosen_does_not_matter(self):
        assert self.TABLE.records([0, 1], ("a", "b")) == (Record("p", 1), Record("q", 0))
