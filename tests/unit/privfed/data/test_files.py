"""Rows as they stand in a file or on the hub; no error quotes what it read."""

import errno
import importlib.util
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from privfed.data.datasets import load_table
from privfed.data.files import is_hub_name, read_rows
from privfed.errors import ConfigError, DataError

ROWS = [
    {"note": "first text", "topic": "a", "ward": "north", "date": "2020-01-02"},
    {"note": "second text", "topic": "b", "ward": "south", "date": "2020-01-03"},
    {"note": "third text", "topic": "a", "ward": "north", "date": "2020-01-04"},
]


def test_rows_come_as_they_are_written(write, suffix):
    rows = read_rows(write(ROWS, suffix), {"text": "note", "client": "ward"}, "utf-8")
    assert [(row["note"], row["ward"]) for row in rows] == [
        ("first text", "north"),
        ("second text", "south"),
        ("third text", "north"),
    ]


def test_only_the_wanted_columns_of_a_parquet_file_are_read(write):
    """Others may be of types that have no Python value."""
    rows = read_rows(write(ROWS, ".parquet"), {"text": "note"}, "utf-8")
    assert rows[1] == {"note": "second text"}


def test_fields_of_a_csv_file_stay_text_and_short_rows_lack_some(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text('note,when\n"one, two",007\n\n"say ""so"""\n')
    rows = read_rows(str(path), {"text": "note"}, "utf-8")
    assert rows == [{"note": "one, two", "when": "007"}, {"note": 'say "so"'}]


def test_a_long_document_is_one_field(tmp_path):
    """The csv module would refuse more than 131,072 characters."""
    path = tmp_path / "data.csv"
    path.write_text("note\n" + "x" * 200_000 + "\n")
    assert len(read_rows(str(path), {"text": "note"}, "utf-8")[0]["note"]) == 200_000


def test_objects_may_lack_columns_that_others_have(tmp_path):
    path = tmp_path / "data.json"
    path.write_text('[{"note": "one"}, {"note": "two", "topic": 3}]')
    rows = read_rows(str(path), {"text": "note", "label": "topic"}, "utf-8")
    assert rows == [{"note": "one"}, {"note": "two", "topic": 3}]


@pytest.mark.parametrize(
    ("source", "is_one"),
    [
        ("ag_news", True),
        ("owner/name", True),
        ("owner/corpus-1.1", True),
        ("owner/c4.en:train[:1%]", True),
        ("notes.xlsx", False),
        ("owner/notes.jsonl", False),
        ("./ag_news", False),
        ("/data/notes", False),
        ("a/b/c", False),
        ("two words", False),
        ("", False),
    ],
)
def test_what_reads_as_a_name_on_the_hub(source, is_one):
    assert is_hub_name(source) is is_one


class TestEncodings:
    TEXT = "Gr\u00fc\u00dfe aus Malm\u00f6"

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16"])
    @pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
    def test_a_file_is_read_in_its_encoding(self, tmp_path, suffix, encoding):
        content = {
            ".jsonl": json.dumps({"note": self.TEXT}, ensure_ascii=False),
            ".json": "\n [" + json.dumps({"note": self.TEXT}, ensure_ascii=False) + "]",
            ".csv": f"note\n{self.TEXT}\n",
        }[suffix]
        path = tmp_path / f"data{suffix}"
        path.write_bytes(content.encode(encoding))
        asked = "utf-8" if encoding == "utf-8-sig" else encoding
        assert load_table(str(path), text="note", encoding=asked).texts == (self.TEXT,)

    @pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
    def test_another_encoding_is_refused_with_a_hint(self, tmp_path, suffix):
        path = tmp_path / f"data{suffix}"
        path.write_bytes(f'note\n"{self.TEXT}"'.encode("latin-1"))
        with pytest.raises(DataError, match=r"\[data\] encoding, such as 'latin-1'") as caught:
            load_table(str(path), text="note")
        assert "Malm" not in str(caught.value)

    @pytest.mark.parametrize("name", ["utf-9", "rot13", "hex", ""])
    def test_an_unknown_encoding_is_refused(self, write, name):
        with pytest.raises(ConfigError, match="encoding must be one that Python knows"):
            load_table(write(ROWS), text="note", encoding=name)


@pytest.mark.parametrize(
    ("role", "columns"),
    [
        ("text", {"text": "body"}),
        ("label", {"text": "note", "label": "body"}),
        ("client", {"text": "note", "owner": "body"}),
    ],
)
def test_an_unknown_column_is_named_with_its_role(write, suffix, role, columns):
    with pytest.raises(DataError, match=f"no column 'body' for the {role}, among its 4"):
        load_table(write(ROWS, suffix), **columns)


def test_without_a_header_the_first_row_is_not_quoted(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("private words,a\nmore private words,b\n")
    with pytest.raises(DataError, match="first line of a CSV file must name the columns") as caught:
        load_table(str(path), text="note")
    assert "private" not in str(caught.value)


def test_a_column_that_differs_in_case_or_spaces_is_hinted_at(write, suffix):
    with pytest.raises(DataError, match="one differs only in upper and lower case or in spaces"):
        load_table(write(ROWS, suffix), text=" Note")


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("note,note,,\none,two,,\n")
    with pytest.raises(DataError, match="several columns 'note'"):
        load_table(str(path), text="note")
    table = pyarrow.table([["one"], ["two"], ["x"]], names=["note", "note", "topic"])
    pyarrow.parquet.write_table(table, tmp_path / "data.parquet")
    with pytest.raises(DataError, match="several columns 'note'"):
        load_table(str(tmp_path / "data.parquet"), text="note")
    path.write_text("note,,\none,,\n")
    assert load_table(str(path), text="note").texts == ("one",)


def test_a_missing_file_is_named(tmp_path, suffix):
    with pytest.raises(DataError, match=rf"absent\{suffix} does not exist"):
        load_table(str(tmp_path / f"absent{suffix}"), text="note")


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".jsonl", b'{"note": "private words"'),
        (".jsonl", b'{"note": "private words"}\n[1, 2]\n'),
        (".csv", b'note\n"private words'),
        (".jsonl", b'"private words"'),
        (".json", b'[{"note": "private words"}, "private words"]'),
        (".json", b'[{"note": "private words"'),
        (".json", b"[" * 100_000 + b"private words"),
        (".jsonl", b'{"note": ' + b"1" * 5000 + b"}"),
        (".csv", b"private words\n\xff\xfe\n"),
        (".csv", b""),
        (".csv", b"note\n"),
        (".jsonl", b"\n"),
        (".json", b"[]"),
        (".parquet", b"private words"),
    ],
)
def test_a_damaged_file_is_refused_without_quoting_it(tmp_path, suffix, content):
    path = tmp_path / f"data{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read|no column|holds no rows") as caught:
        load_table(str(path), text="note")
    assert "private words" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_line_that_is_no_whole_value_is_named_with_what_is_read(tmp_path):
    path = tmp_path / "data.json"
    path.write_text('\n{"note": "one"}\n{"note":\n"private words"}\n')
    with pytest.raises(DataError, match="row 2 is no whole JSON value .*one array of objects"):
        load_table(str(path), text="note")
    path.write_text('{"note": "one"}\n[1, 2]\n')
    with pytest.raises(DataError, match="row 2 must be a JSON object.*got list"):
        load_table(str(path), text="note")


def test_a_file_that_the_system_refuses_says_why(tmp_path, monkeypatch):
    (tmp_path / "data.csv").write_text("note\none\n")

    def denied(self, *arguments, **settings):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(DataError, match="cannot be read as csv: Permission denied; check"):
        load_table(str(tmp_path / "data.csv"), text="note")


def test_a_row_with_more_fields_than_the_header_is_refused(tmp_path):
    """An unquoted comma in the first text must not shift the columns of the whole table."""
    path = tmp_path / "data.csv"
    path.write_text("note,topic\nfirst, and more,a\nsecond, and more,b\n")
    with pytest.raises(DataError, match=r"cannot be read as csv: row 1 has more fields \(3\)"):
        load_table(str(path), text="note")


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
