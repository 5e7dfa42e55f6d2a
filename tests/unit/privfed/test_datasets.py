import importlib.util
import json

import pandas as pd
import pytest

from privfed.data.datasets import TextTable, load_table
from privfed.data.records import Record
from privfed.errors import DataError

ROWS = [
    {"note": "first text", "topic": "a", "ward": "north", "date": "2020-01-02"},
    {"note": "second text", "topic": "b", "ward": "south", "date": "2020-01-03"},
    {"note": "third text", "topic": "a", "ward": "north", "date": "2020-01-04"},
]


@pytest.fixture
def write(tmp_path):
    """A function that writes rows in a format and returns the path as text."""

    def make(rows, suffix=".jsonl"):
        path = tmp_path / f"data{suffix}"
        if suffix == ".csv":
            pd.DataFrame(rows).to_csv(path, index=False)
        elif suffix == ".parquet":
            pd.DataFrame(rows).to_parquet(path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return make


@pytest.fixture(params=[".jsonl", ".json", ".csv", ".parquet"])
def suffix(request):
    return request.param


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


def test_whole_number_labels_stay_whole_beside_a_missing_one(write):
    rows = [
        {"note": "one", "topic": 1},
        {"note": "two", "topic": None},
        {"note": "three", "topic": 3},
    ]
    table = load_table(write(rows), text="note", label="topic")
    assert table.texts == ("one", "three")
    assert table.labels == ("1", "3")


def test_copies_are_removed_over_the_whole_table(write, suffix):
    rows = [{"note": note} for note in ("a b", "c", "a  b", " a b")]
    assert load_table(write(rows, suffix), text="note").texts == ("a b", "c")


def test_with_owners_copies_are_removed_within_each(write, suffix):
    rows = [
        {"note": note, "ward": ward}
        for note, ward in [("a b", "x"), ("a b", "y"), ("a  b", "x"), ("c", "y"), ("c ", "y")]
    ]
    table = load_table(write(rows, suffix), text="note", owner="ward")
    assert table.texts == ("a b", "a b", "c")
    assert table.owners == ("x", "y", "y")


def test_with_owners_a_copy_with_leading_space_is_a_copy(write):
    rows = [{"note": note, "ward": "x"} for note in ("a b", " a b", "\n a b")]
    assert load_table(write(rows), text="note", owner="ward").texts == ("a b",)


def test_rows_without_text_label_or_owner_are_left_out(write):
    rows = [
        {"note": None, "topic": "a", "ward": "x"},
        {"note": "one", "topic": None, "ward": "x"},
        {"note": "two", "topic": "a", "ward": None},
        {"note": "   ", "topic": "a", "ward": "x"},
        {"note": "kept", "topic": "a", "ward": "x"},
    ]
    table = load_table(write(rows), text="note", label="topic", owner="ward")
    assert table == TextTable(texts=("kept",), labels=("a",), owners=("x",))


@pytest.mark.parametrize(
    ("role", "columns"),
    [
        ("text", {"text": "body"}),
        ("label", {"text": "note", "label": "body"}),
        ("client", {"text": "note", "owner": "body"}),
    ],
)
def test_an_unknown_column_is_named_with_its_role(write, suffix, role, columns):
    with pytest.raises(DataError, match=f"no column 'body' for the {role}.*'note'"):
        load_table(write(ROWS, suffix), **columns)


@pytest.mark.parametrize("other", ["label", "owner"])
def test_one_column_for_two_roles_is_refused(write, other):
    with pytest.raises(DataError, match="note"):
        load_table(write(ROWS), text="note", **{other: "note"})


def test_a_missing_file_is_named(tmp_path, suffix):
    with pytest.raises(DataError, match=rf"absent\{suffix} does not exist"):
        load_table(str(tmp_path / f"absent{suffix}"), text="note")


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".jsonl", b'{"note": "private words"'),
        (".jsonl", b'{"note": "private words"}\n[1, 2]\n'),
        (".csv", b'note\n"private words'),
        (".csv", b"private words\n\xff\xfe\n"),
        (".csv", b""),
        (".parquet", b"private words"),
    ],
)
def test_a_damaged_file_is_refused_without_quoting_it(tmp_path, suffix, content):
    path = tmp_path / f"data{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read|no column") as caught:
        load_table(str(path), text="note")
    assert "private words" not in str(caught.value)


def test_a_row_with_more_fields_than_the_header_is_refused(tmp_path):
    """An unquoted comma in the first text must not shift the columns of the whole table."""
    path = tmp_path / "data.csv"
    path.write_text("note,topic\nfirst, and more,a\nsecond, and more,b\n")
    with pytest.raises(DataError, match="cannot be read as csv"):
        load_table(str(path), text="note")


def test_a_table_without_text_is_refused(write):
    with pytest.raises(DataError, match="holds no text in column 'note'"):
        load_table(write([{"note": None}, {"note": " "}]), text="note")


class TestAnotherSource:
    """What is no data file is the name of a data set on the hub."""

    def test_another_format_is_refused_by_name(self, tmp_path):
        path = tmp_path / "data.xlsx"
        path.write_text("note")
        with pytest.raises(DataError, match=r"data\.xlsx"):
            load_table(str(path), text="note")

    def test_an_unknown_data_set_is_refused_by_name(self):
        with pytest.raises(DataError, match="'nobody/no-such-data' is neither"):
            load_table("nobody/no-such-data:test", text="note")

    def test_an_empty_name_is_refused(self):
        with pytest.raises(DataError):
            load_table("", text="note")

    def test_without_the_library_the_command_that_installs_it_is_given(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(DataError, match=r"pip install 'privfed\[hub\]'"):
            load_table("ag_news", text="note")

    @pytest.mark.parametrize(
        ("source", "split"), [("ag_news", "train"), ("ag_news:test[:10%]", "test[:10%]")]
    )
    def test_the_split_stands_behind_a_colon(self, monkeypatch, source, split):
        datasets = pytest.importorskip("datasets", reason="the extra privfed[hub] is not installed")
        asked = []

        def load_dataset(name, split):
            asked.append((name, split))
            return ROWS

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        assert load_table(source, text="note").texts[0] == "first text"
        assert asked == [("ag_news", split)]


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

    def test_a_label_of_a_row_that_was_not_chosen_does_not_matter(self):
        assert self.TABLE.records([0, 1], ("a", "b")) == (Record("p", 1), Record("q", 0))
