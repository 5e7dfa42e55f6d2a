"""Ledgers of the first version: found, joined once each, never written, and none starts at zero."""

import hashlib
import json
import os
import shlex
import shutil
import sqlite3
from contextlib import closing

import pytest

from accountants import (
    AnchorFolder,
    EarlierLedgers,
    Identity,
    Ledger,
    LedgerCorruptError,
    LedgerError,
    LedgerForeignError,
    LedgerRolledBackError,
    LedgerStateError,
    Neighbouring,
    PoissonGaussian,
    epsilon,
    events_of_export,
)
from accountants.__main__ import main
from accountants.ledger import storage
from accountants.ledger.earlier import assign
from tests.unit.accountants.first_version import (
    FIRST_ANCHOR,
    FIRST_EVENTS,
    FIRST_OWNER,
    grow,
    write_file,
    write_first,
    write_like_it,
)

OWNER = {
    "client": "ward",
    "dataset": "notes-7",
    "unit": "one note",
    "neighbouring": Neighbouring.ADD_REMOVE,
}
SEEDED = " (seeded coins: not private)"


def event(steps):
    return PoissonGaussian(noise_multiplier=2.5, sample_rate=0.2, steps=steps)


def always(history, planned):
    return None


@pytest.fixture
def client(tmp_path):
    """The folder of the client."""
    return tmp_path / "state" / "clients" / "ward"


@pytest.fixture
def old(client):
    """The path of a ledger of the first version, under the names of today."""
    return client / "notes-7" / "ledger.sqlite3"


@pytest.fixture
def opened(client):
    """A function that opens today's ledger, as a run does."""

    def open_(assume_unit=True, **changes):
        owner = OWNER | changes
        return Ledger.open_or_create(
            client / owner["dataset"] / "ledger-2.sqlite3",
            **owner,
            earlier=EarlierLedgers(folder=client, assume_unit=assume_unit),
        )

    return open_


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Joined


def test_one_with_the_names_of_today_is_joined_and_composed(old, opened):
    before = digest(write_first(old))
    ledger = opened()
    assert ledger.events() == FIRST_EVENTS
    assert ledger.runs() == []
    assert ledger.events("a") == ()
    ledger.reserve("a", 0, [event(7)], always)  # the same name and round as there: another run
    assert ledger.events() == (*FIRST_EVENTS, event(7))
    assert ledger.events("a") == (event(7),)
    assert opened().events() == ledger.events()
    kinds = [entry["kind"] for entry in ledger.export()["entries"]]
    assert kinds == ["open", "inherit", "reserve"]
    assert digest(old) == before


def test_an_export_has_what_was_joined_in_full(old, opened):
    write_first(old)
    ledger = opened()
    exported = json.loads(json.dumps(ledger.export()))
    assert events_of_export(exported) == FIRST_EVENTS
    inherited = exported["entries"][1]["body"]
    assert {name: inherited[name] for name in (*FIRST_OWNER, *FIRST_ANCHOR)} == (
        FIRST_OWNER | FIRST_ANCHOR
    )
    inherited["released"].pop()
    with pytest.raises(LedgerCorruptError, match="entry 1 was changed"):
        events_of_export(exported)


def test_admission_counts_what_was_joined(old, opened):
    write_first(old)
    seen = []
    opened().reserve("a", 0, [event(1)], lambda history, planned: seen.append(history))
    assert seen == [FIRST_EVENTS]


def test_a_new_client_has_none(opened):
    assert opened().events() == ()


def test_one_without_a_release_is_nothing_to_join_until_it_grows(old, opened):
    write_like_it(old, dataset="other")
    opened()
    grow(old, event(3))
    with pytest.raises(LedgerForeignError, match="is not; nothing of this client runs before"):
        opened()


def test_one_that_grew_is_joined_again_and_counts_once(old, opened):
    write_like_it(old, event(3))
    assert opened().events() == (event(3),)
    opened().reserve("new", 0, [event(50)], always)
    grow(old, event(4))
    assert opened().events() == (event(3), event(4), event(50))
    grow(old, event(5))
    assert opened().events() == (event(3), event(4), event(5), event(50))
    kinds = [entry["kind"] for entry in opened().export()["entries"]]
    assert kinds == ["open", "inherit", "reserve", "inherit", "inherit"]


def test_one_that_was_deleted_after_it_was_joined_still_counts(old, opened):
    write_first(old)
    opened()
    old.unlink()
    assert opened().events() == FIRST_EVENTS


def test_one_that_was_put_back_to_an_older_copy_is_refused(old, opened, tmp_path):
    write_like_it(old, event(3))
    shutil.copy(old, tmp_path / "backup")
    grow(old, event(4))
    opened()
    shutil.copy(tmp_path / "backup", old)
    with pytest.raises(LedgerRolledBackError, match="older copy was put back"):
        opened()
    grow(old, event(6))
    with pytest.raises(LedgerRolledBackError, match="put back and continued"):
        opened()


def test_several_of_one_data_set_all_count(client, old, opened):
    """Two of equal names, from two machines, are told apart by their runs."""
    write_like_it(old, event(3), run="one")
    write_like_it(client / "from the other machine" / "any name", event(4), run="two")
    assert sorted(opened().events(), key=lambda e: e.steps) == [event(3), event(4)]


def test_a_copy_of_one_counts_once_at_its_full_length(client, old, opened):
    write_like_it(old, event(3))
    copy = client / "notes-7" / "backup"
    shutil.copy(old, copy)
    grow(old, event(4))
    assert opened().events() == (event(3), event(4))
    grow(copy, event(5))
    with pytest.raises(LedgerRolledBackError, match="two copies of one earlier ledger"):
        opened()


def test_one_behind_a_link_is_found(client, tmp_path, opened):
    write_like_it(tmp_path / "disk" / "ledger.sqlite3", event(3))
    client.mkdir(parents=True)
    (client / "notes-7").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(client)
    assert opened().events() == (event(3),)


def test_joining_is_kept_in_the_second_place(old, client, tmp_path):
    write_first(old)
    anchors = AnchorFolder(tmp_path / "second")
    ledger = Ledger.create(
        client / "ledger-2",
        **OWNER,
        anchors=anchors,
        earlier=EarlierLedgers(folder=client, assume_unit=True),
    )
    assert anchors.find(ledger.id).anchor == ledger.anchor()
    assert ledger.anchor().length == 2


# Assigned


def command_of(error):
    """The words of the command that an error names."""
    text = str(error.value)
    start = text.index("python -m accountants ")
    return shlex.split(text[start : text.index(". If it is of other data")])[3:]


def test_one_of_another_name_blocks_its_client_until_it_is_assigned(client, opened, capsys):
    """A renamed file was a new data set, with a budget at zero."""
    old = write_like_it(client / "notes v2's" / "ledger.sqlite3", event(3), dataset="notes v2's")
    before = digest(old)
    for names in ({}, {"dataset": "quite another"}):
        with pytest.raises(LedgerForeignError, match="must be assigned to a data set") as refused:
            opened(**names)
    with pytest.raises(LedgerForeignError, match="must be assigned to a data set") as refused:
        opened()
    assert str(old) in str(refused.value)
    assert main(command_of(refused)) == 0
    assert opened().events() == (event(3),)
    assert opened(dataset="quite another").events() == ()
    assert digest(old) == before
    assert "split 1 of 4, seed 0" in capsys.readouterr().out


def test_one_of_other_data_counts_there_and_blocks_nothing(client, opened):
    old = write_like_it(client / "letters" / "ledger.sqlite3", event(3), dataset="letters")
    assign(old, Identity(**OWNER | {"dataset": "post"}))
    assert opened().events() == ()
    assert opened(dataset="post").events() == (event(3),)


def test_one_that_was_joined_by_its_names_is_assigned_for_other_data_sets_too(old, opened):
    write_first(old)
    with pytest.raises(LedgerForeignError, match="must be assigned"):
        opened(dataset="letters")
    opened()
    assert opened(dataset="letters").events() == ()


def test_all_that_are_not_assigned_are_counted_in_the_message(client, opened):
    for name in ("a", "b", "c"):
        write_like_it(client / name / "ledger.sqlite3", event(3), dataset=name, run=name)
    with pytest.raises(LedgerForeignError, match=r"a/ledger.sqlite3 and 2 more is not"):
        opened()
    paths = [str(client / name / "ledger.sqlite3") for name in ("a", "b", "c")]
    assert main(["assign", *paths, *names_on_the_command_line()]) == 0
    assert opened().events() == (event(3), event(3), event(3))


def test_a_unit_of_several_examples_is_not_assumed(old, opened):
    write_first(old)
    with pytest.raises(LedgerForeignError, match="--unit 'one person'"):
        opened(assume_unit=False, unit="one person")
    assign(old, Identity(**OWNER | {"unit": "one person"}))
    assert opened(assume_unit=False, unit="one person").events() == FIRST_EVENTS


@pytest.mark.parametrize(
    "other", [{"unit": "one person"}, {"neighbouring": Neighbouring.REPLACE_ONE}]
)
def test_one_that_counts_the_same_data_in_another_unit_is_refused(old, opened, other):
    write_first(old)
    assign(old, Identity(**OWNER | other))
    with pytest.raises(LedgerForeignError, match="a budget of one unit says nothing about another"):
        opened()


def test_one_of_another_client_is_not_taken_by_its_data_set(client, opened):
    """It was put into this folder by hand, so that its owner must say why."""
    old = client / "notes-7" / "ledger.sqlite3"
    write_first(old)
    with pytest.raises(LedgerForeignError, match="must be assigned"):
        opened(client="ward-b")
    assert main(["assign", str(old), "--client", "ward-b", *names_on_the_command_line()]) == 0
    assert opened(client="ward-b").events() == FIRST_EVENTS


def names_on_the_command_line():
    return ["--dataset", "notes-7", "--unit", "one note", "--neighbouring", "add_remove"]


def test_an_opening_in_the_wrong_unit_assigns_nothing(old, opened):
    ledger = opened()
    write_first(old)
    with pytest.raises(LedgerForeignError, match="says nothing about another"):
        opened(unit="one person")
    assert not list(old.parent.glob("*.assigned.json"))
    assert opened().id == ledger.id
    assert opened().events() == FIRST_EVENTS


def test_a_refused_opening_makes_no_ledger(old, opened):
    write_like_it(old, event(3), dataset="other")
    with pytest.raises(LedgerForeignError):
        opened()
    assert [path.name for path in old.parent.iterdir()] == [old.name]


def test_the_last_word_of_its_owner_holds(old, opened):
    write_first(old)
    assign(old, Identity(**OWNER | {"dataset": "wrong"}))
    assign(old, Identity(**OWNER))
    assert opened().events() == FIRST_EVENTS


def test_an_assignment_is_about_one_ledger(old, opened):
    write_like_it(old, event(3), dataset="a", run="one")
    assign(old, Identity(**OWNER | {"dataset": "other data"}))
    opened()
    old.unlink()
    write_like_it(old, event(4), dataset="a", run="two")
    with pytest.raises(LedgerForeignError, match="must be assigned"):
        opened()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": "privfed-assignment/9"}'])
def test_a_damaged_assignment_says_what_to_do(old, opened, content):
    write_first(old)
    assign(old, Identity(**OWNER)).write_text(content)
    with pytest.raises(LedgerError, match="assign it again"):
        opened()
    assign(old, Identity(**OWNER))
    assert opened().events() == FIRST_EVENTS


def test_what_is_no_earlier_ledger_with_releases_is_not_assigned(old, opened, capsys):
    ledger = opened()
    write_like_it(old)
    for path in (ledger.path, old):
        with pytest.raises(LedgerForeignError):
            assign(path, Identity(**OWNER))
        assert main(["assign", str(path), *names_on_the_command_line()]) == 1
    assert "counts none" in capsys.readouterr().err
    assert not list(old.parent.glob("*.assigned.json"))


def test_an_assignment_that_cannot_be_written_says_so(old, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "No space left on device")

    write_first(old)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(LedgerError, match="No space left"):
        assign(old, Identity(**OWNER))
    assert [path.name for path in old.parent.iterdir()] == [old.name]


# Runs with seeded coins


def test_what_is_not_private_is_not_counted_as_if_it_were(old, opened):
    write_like_it(old, event(3), description="all" + SEEDED)
    with pytest.raises(LedgerForeignError, match="must be assigned"):
        opened()
    with pytest.raises(LedgerForeignError, match="seeded coins.*worth no epsilon"):
        assign(old, Identity(**OWNER))
    assert opened(unit="one note" + SEEDED).events() == (event(3),)


def test_what_is_private_is_not_joined_to_what_is_not(old, opened):
    write_first(old)
    with pytest.raises(LedgerForeignError, match="must be assigned"):
        opened(unit="one note" + SEEDED)


def test_an_assignment_by_hand_does_not_make_it_private(old, opened):
    write_like_it(old, event(3), description="all" + SEEDED)
    file = assign(old, Identity(**OWNER | {"unit": "one note" + SEEDED}))
    file.write_text(file.read_text().replace(SEEDED, ""))
    with pytest.raises(LedgerForeignError, match="seeded coins"):
        opened()


# Damage


def test_an_edited_one_blocks_its_client(old, opened):
    write_first(old)
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("UPDATE entries SET body = replace(body, ':8', ':1') WHERE seq = 1")
    with pytest.raises(LedgerCorruptError, match=f"{old}.*entry 1 was changed"):
        opened()


def test_one_without_its_last_message_blocks_its_client(old, opened):
    write_first(old)
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("DELETE FROM outbox")
    with pytest.raises(LedgerCorruptError, match="bytes of the last commit"):
        opened()


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"overwritten"])
def test_a_file_of_its_name_that_is_none_blocks_its_client(old, opened, content):
    old.parent.mkdir(parents=True)
    old.write_bytes(content)
    with pytest.raises(LedgerCorruptError, match=str(old)):
        opened()


def test_files_beside_it_and_drafts_of_killed_writers_are_none(old, opened):
    write_first(old)
    (old.parent / "client.log").write_text("a log")
    (old.parent / "empty").write_bytes(b"")
    write_file(old.with_name(f".{old.name}.0123456789abcdef.new"), [])
    assert opened().events() == FIRST_EVENTS


def test_what_cannot_be_read_may_be_one(client, old, opened, monkeypatch):
    write_first(old)
    listed = os.scandir

    def refuse(folder):
        if str(folder) == str(old.parent):
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(LedgerError, match="must be readable"):
        EarlierLedgers(folder=client, assume_unit=True).paths()


def test_it_is_only_read(old):
    write_first(old)
    before = digest(old)
    with pytest.raises(LedgerForeignError, match="is of the first, which is only read"):
        Ledger.open(old, **OWNER)
    with pytest.raises(LedgerForeignError, match="is of the first, which is only read"):
        Ledger.inspect(old)
    with (
        pytest.raises(LedgerStateError, match="only read"),
        storage.session(old, "BEGIN IMMEDIATE"),
    ):
        pass
    assert digest(old) == before


# Looking at it


def test_the_command_line_reads_it_and_a_ledger_that_joined_it(old, opened, capsys):
    write_first(old)
    ledger = opened()
    assert main(["verify", str(old)]) == 0
    assert "training split, ü 2024" in capsys.readouterr().out
    assert main(["verify", str(ledger.path)]) == 0
    shown = capsys.readouterr().out
    assert "joined" in shown
    assert f"8:{FIRST_ANCHOR['head']}" in shown
    for path in (old, ledger.path):
        arguments = ["epsilon", "--ledger", str(path), "--delta", "1e-5", "--json"]
        assert main([*arguments, "--neighbouring", "add_remove"]) == 0
        found = json.loads(capsys.readouterr().out)
        wanted = epsilon(FIRST_EVENTS, 1e-5, Neighbouring.ADD_REMOVE).upper
        assert found["epsilon"] == pytest.approx(wanted, rel=1e-9)


def test_an_entry_that_joins_one_twice_is_refused_although_its_digest_is_right(old, opened):
    write_first(old)
    ledger = opened()
    entry = ledger.export()["entries"][1]
    from accountants.ledger.chain import linked

    with closing(sqlite3.connect(ledger.path)) as connection, connection:
        storage.append(connection, linked("inherit", entry["body"], ledger.anchor()))
    with pytest.raises(LedgerCorruptError, match="must have grown since it was joined"):
        opened()
