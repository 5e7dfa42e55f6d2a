"""Files given on the command line: which are read, and what is said of all others."""

import json
import re
import sqlite3
from contextlib import closing
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants.__main__ import main
from accountants.cli.input_files import events_of_file, ledger_of_file, ledger_or_export
from accountants.errors import (
    InvalidValueError,
    LedgerCorruptError,
    LedgerMissingError,
    UnsupportedAnalysisError,
)
from accountants.event_json import event_to_json
from accountants.events import Laplace
from accountants.ledger.ledger import Ledger
from tests.unit.accountants.command_line import (
    ADD,
    OWNER,
    STEP,
    refused_command,
    write_export,
    write_ledger,
)


@pytest.fixture
def path(tmp_path):
    return write_ledger(tmp_path / "ward.ledger")


@pytest.fixture
def export_path(path, tmp_path):
    return write_export(path, tmp_path / "ward.json")


@pytest.fixture
def refused(capsys):
    return partial(refused_command, capsys)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must hold JSON"),
        ("{", "must hold JSON"),
        ("[" * 100_000, "must hold JSON"),
        ("[" + "9" * 5000 + "]", "must hold JSON"),
        ("{}", "must hold a JSON list of events"),
        ('[{"type": "tree"}]', "event 0 of .*'tree'"),
        ('[{"type": "gaussian", "noise_multiplier": 1}]', "event 0 of .*must have the fields"),
        (
            '[{"type": "gaussian", "noise_multiplier": 1, "steps": 1},'
            ' {"type": "gaussian", "noise_multiplier": NaN, "steps": 1}]',
            "event 1 of .*: noise_multiplier must be .* got nan",
        ),
        (
            '[{"type": "gaussian", "noise_multiplier": 9, "noise_multiplier": 1, "steps": 1}]',
            "a key comes twice",
        ),
    ],
)
def test_a_file_that_holds_no_events_is_refused(refused, tmp_path, text, reason):
    file = tmp_path / "events.json"
    file.write_text(text)
    line = refused("epsilon", *ADD, "--events", file, "--delta", "1e-5")
    assert str(file) in line
    assert re.search(reason, line)


def test_a_ledger_in_place_of_events_is_refused_with_what_to_write(refused, path, export_path):
    assert "is a ledger file" in refused("epsilon", *ADD, "--events", path, "--delta", "1e-5")
    assert "is an export" in refused("epsilon", *ADD, "--events", export_path, "--delta", "1e-5")
    for file in (path, export_path):
        line = refused("delta", *ADD, "--events", file, "--epsilon", "1")
        assert str(file) in line
        assert line.endswith("give it to --ledger\n")


def test_a_damaged_ledger_gives_no_number(refused, path, export_path):
    export_path.write_text(export_path.read_text().replace('"steps": 8', '"steps": 1', 1))
    path.write_bytes(path.read_bytes()[:5000])
    for file in (path, export_path):
        assert "restore a copy" in refused("epsilon", *ADD, "--ledger", file, "--delta", "1e-5")


def test_verify_refuses_a_damaged_file(refused, path):
    path.write_bytes(path.read_bytes()[:4096])
    assert "SQLite" in refused("verify", path)
    path.write_bytes(path.read_bytes()[:60])
    assert "restore a copy" in refused("verify", path)
    assert "No such file" in refused("verify", path.with_name("missing"))


def test_a_cut_export_raises_the_alarm(refused, export_path):
    export_path.write_text(export_path.read_text()[:-10])
    assert "restore a copy" in refused("verify", export_path)


@pytest.mark.parametrize("command", [("verify",), ("epsilon", *ADD, "--delta", "1e-5", "--ledger")])
def test_what_is_no_ledger_raises_no_alarm(refused, tmp_path, command):
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("CREATE TABLE notes (note TEXT)")
    contents = [b"", b"\x00\xff", b"notes", b"[]", b'{"schema": "other"}']
    for index, content in enumerate(contents):
        (tmp_path / f"{index}").write_bytes(content)
    for file in (other, tmp_path, *(tmp_path / f"{index}" for index in range(len(contents)))):
        assert refused(*command, file) == f"error: {file} is not a ledger or an export of one\n"


def test_verify_refuses_a_key_that_comes_twice(refused, export_path):
    """Other readers may take the first of both; the digests are of the last."""
    export_path.write_text(
        export_path.read_text().replace('"client": "ward"', '"client": "x", "client": "ward"', 1)
    )
    assert "a key comes twice" in refused("verify", export_path)


@pytest.fixture(scope="module")
def exported_text(tmp_path_factory):
    ledger = Ledger.create(tmp_path_factory.mktemp("ledgers") / "ledger", **OWNER)
    reservation = ledger.reserve("first", 0, [STEP], lambda *_: None)
    ledger.commit(reservation.id, [STEP], b"update")
    return json.dumps(ledger.export())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_character_of_an_export_can_change_unseen(exported_text, tmp_path_factory, data):
    place = data.draw(st.integers(0, len(exported_text) - 1))
    character = data.draw(st.sampled_from('0123456789abf"{}[],:. \\eE-+n'))
    changed = exported_text[:place] + character + exported_text[place + 1 :]
    file = tmp_path_factory.mktemp("exports") / "export.json"
    file.write_text(changed)
    try:
        same = repr(json.loads(changed)) == repr(json.loads(exported_text))
    except ValueError:
        same = False
    assert main(["verify", str(file)]) == (0 if same else 1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["schema", "entries", "head", "client", "type", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(content=st.binary(max_size=40) | json_values.map(lambda v: json.dumps(v).encode()))
def test_whatever_a_file_holds_the_answer_is_one_line(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("files") / "file"
    file.write_bytes(content)
    for arguments in (["verify"], ["epsilon", *ADD, "--delta", "1e-5", "--events"], ["export"]):
        if content.strip() != b"[]":
            assert main([*arguments, str(file)]) == 1


def test_export_refuses_what_is_no_ledger(refused, export_path):
    for file in (export_path, export_path.parent):
        assert refused("export", file) == f"error: {file} is not a ledger file\n"
    assert "must exist" in refused("export", export_path.with_name("none"))


# What is read.


def test_events_are_read_in_their_order(tmp_path):
    events = [STEP, Laplace(noise_multiplier=2.0), STEP]
    file = tmp_path / "events.json"
    file.write_text(json.dumps([event_to_json(event) for event in events]))
    assert events_of_file(file) == events
    file.write_text("[]")
    assert events_of_file(file) == []


def test_a_file_of_events_that_speaks_of_ledgers_is_no_export(tmp_path):
    """Only an object can be an export; what a list holds is refused by its own rules."""
    file = tmp_path / "events.json"
    file.write_text('["privfed-ledger"]')
    with pytest.raises(InvalidValueError, match="^event 0 of "):
        events_of_file(file)


def test_an_event_of_a_later_version_is_refused_by_its_own_error(tmp_path):
    file = tmp_path / "events.json"
    file.write_text(json.dumps([event_to_json(STEP), {"type": "tree"}]))
    with pytest.raises(UnsupportedAnalysisError, match=rf"^event 1 of {file}: .*'tree'"):
        events_of_file(file)


def test_a_ledger_and_its_export_say_the_same(path, export_path):
    (kind, book), (other, exported) = ledger_or_export(path), ledger_or_export(export_path)
    assert (kind, other) == ("ledger", "export")
    assert book == exported == ledger_of_file(path)
    assert book.identity.to_json() == OWNER
    assert book.runs() == ["first", "second"]


def test_a_ledger_cut_off_within_its_header_is_still_taken_for_one(path):
    """It may be the ledger of this data, so that no advice may be to make a new one."""
    whole = path.read_bytes()
    for length in (68, 70, 72, 100):
        path.write_bytes(whole[:length])
        for read in (ledger_or_export, ledger_of_file):
            with pytest.raises(LedgerCorruptError):
                read(path)
    path.write_bytes(whole[:15])
    for read in (ledger_or_export, ledger_of_file):
        with pytest.raises(InvalidValueError, match="is not a ledger"):
            read(path)


def test_only_the_application_id_makes_a_database_a_ledger(path):
    content = bytearray(path.read_bytes())
    content[68:72] = b"pflx"
    path.write_bytes(content)
    with pytest.raises(InvalidValueError, match="is not a ledger file"):
        ledger_of_file(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(LedgerMissingError):
        ledger_of_file(missing)
    for read in (events_of_file, ledger_or_export):
        with pytest.raises(FileNotFoundError):
            read(missing)
