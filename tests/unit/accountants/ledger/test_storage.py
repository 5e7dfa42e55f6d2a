"""The file: whole or not there, its owner's alone, synced, and refused where it was damaged."""

import os
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace

import pytest

from accountants.errors import LedgerCorruptError, LedgerError, LedgerMissingError, LedgerStateError
from accountants.ledger import storage
from accountants.ledger.book import committing, opening, read, reserving
from accountants.ledger.chain import Anchor
from accountants.ledger.identity import Identity
from accountants.ledger.ledger import Ledger
from tests.unit.accountants.first_version import FIRST_EVENTS, write_first
from tests.unit.accountants.ledger.ledgers import OWNER, STEP, always, edit, play


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledgers" / "notes 7?#%.ledger"


@pytest.fixture
def ledger(path):
    return Ledger.create(path, **OWNER)


def test_a_ledger_that_goes_away_is_not_made_again(path, ledger):
    path.unlink()
    with pytest.raises(LedgerMissingError):
        ledger.reserve("a", 0, [STEP], always)
    assert not path.exists()


def test_a_ledger_that_goes_away_at_the_last_moment_is_not_made_again(path, monkeypatch):
    path.parent.mkdir()
    monkeypatch.setattr(type(path), "exists", lambda _: True)
    monkeypatch.setattr(type(path), "is_file", lambda _: True)
    with pytest.raises(LedgerError, match="nothing was written"):
        Ledger.open(path, **OWNER)
    assert os.listdir(path.parent) == []


def test_creating_twice_is_refused_and_changes_nothing(path, ledger):
    play(ledger)
    with pytest.raises(LedgerStateError, match="needs a free path"):
        Ledger.create(path, **OWNER)
    assert len(Ledger.open_or_create(path, **OWNER).events()) == 3
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_only_the_owner_may_read_it(tmp_path, monkeypatch):
    journals = []

    def connect(target, **options):
        connection = sqlite3_connect(target, **options)
        journal = tmp_path / "new" / "deep" / "ledger-journal"

        def watch(statement):
            if statement == "COMMIT" and journal.exists():
                journals.append(stat.S_IMODE(journal.stat().st_mode))

        connection.set_trace_callback(watch)
        return connection

    sqlite3_connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", connect)
    before = os.umask(0)
    try:
        path = tmp_path / "new" / "deep" / "ledger"
        play(Ledger.create(path, **OWNER))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
    assert len(journals) == 6
    assert set(journals) == {0o600}


def test_it_is_private_from_its_first_moment(path, monkeypatch):
    monkeypatch.setattr(storage, "make_private", lambda _: None)
    before = os.umask(0)
    try:
        Ledger.create(path, **OWNER)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_access_of_others_is_taken_away(path, ledger):
    path.chmod(0o644)
    Ledger.open(path, **OWNER)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_write_is_synced(ledger, monkeypatch):
    levels = []

    def watch(history, planned):
        (frame,) = opened[-1].execute("PRAGMA synchronous").fetchone()
        levels.append(frame)

    opened, sqlite3_connect = [], sqlite3.connect

    def connect(*args, **options):
        opened.append(sqlite3_connect(*args, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", connect)
    ledger.reserve("a", 0, [STEP], watch)
    assert levels == [3]  # EXTRA: FULL, and the folder after the journal is gone


def test_a_busy_ledger_says_so(path, ledger, monkeypatch):
    monkeypatch.setattr(storage, "BUSY_TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerStateError, match="another process holds it") as busy:
            ledger.reserve("a", 0, [STEP], always)
        assert "nothing was written. Let the other run on this data finish" in str(busy.value)
        assert ledger.events() == ()
    assert ledger.reserve("a", 0, [STEP], always).id == 1  # as it says, after the other is done


def test_the_wait_for_another_process_is_half_a_minute():
    assert storage.BUSY_TIMEOUT_S == 30


def test_inspecting_changes_neither_content_nor_permissions(path, ledger):
    play(ledger)
    path.chmod(0o644)
    before = path.read_bytes()
    Ledger.inspect(path).export()
    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_ledger_that_cannot_be_made_private_is_not_written(path, ledger, monkeypatch):
    def refuse(self, mode):
        raise PermissionError(1, "Operation not permitted")

    path.chmod(0o644)
    monkeypatch.setattr(type(path), "chmod", refuse)
    for use in (lambda: ledger.reserve("a", 0, [STEP], always), lambda: Ledger.open(path, **OWNER)):
        with pytest.raises(LedgerError, match="its owner's alone"):
            use()
    assert Ledger.inspect(path).events() == ()


# Damage


@pytest.mark.parametrize("content", [b"", b"not a database, but rather long text\n" * 99])
def test_a_file_that_is_no_ledger_is_refused(tmp_path, content):
    path = tmp_path / "ledger"
    path.write_bytes(content)
    with pytest.raises(LedgerCorruptError, match="restore a copy"):
        Ledger.open_or_create(path, **OWNER)
    assert path.read_bytes() == content


def test_the_database_of_another_program_is_refused(tmp_path):
    path = tmp_path / "ledger"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE entries (seq, kind, body, previous, digest)")
    with pytest.raises(LedgerCorruptError, match="not a ledger"):
        Ledger.open(path, **OWNER)


def test_a_folder_is_no_ledger(tmp_path):
    with pytest.raises(LedgerCorruptError, match="not a file"):
        Ledger.open(tmp_path, **OWNER)


def test_damaged_pages_are_refused(path, ledger):
    play(ledger, rounds=30)
    content = bytearray(path.read_bytes())
    for start in range(4096, len(content) - 512, 4096):
        content[start : start + 512] = os.urandom(512)
    path.write_bytes(content)
    with pytest.raises(LedgerCorruptError):
        Ledger.open(path, **OWNER)


def test_a_file_cut_short_is_refused(path, ledger):
    play(ledger, rounds=30)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(LedgerCorruptError):
        Ledger.open(path, **OWNER)


def test_an_unknown_schema_is_refused_by_name(path, ledger):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA user_version = 3")
    with pytest.raises(LedgerCorruptError, match="got 'privfed-ledger/3'"):
        Ledger.open(path, **OWNER)


def swap(first, second):
    move = "UPDATE entries SET seq = ? WHERE seq = ?"
    return [(move, -1, first), (move, first, second), (move, second, -1)]


@pytest.mark.parametrize(
    "statements",
    [
        [("UPDATE entries SET body = replace(body, '\"steps\":8', '\"steps\":1') WHERE seq = 1",)],
        [("UPDATE entries SET body = replace(body, '8', ' 8') WHERE seq = 1",)],
        [("UPDATE entries SET body = 'x' WHERE seq = 1",)],
        [("UPDATE entries SET body = x'00' WHERE seq = 1",)],
        [("UPDATE entries SET kind = 'commit' WHERE seq = 1",)],
        [("UPDATE entries SET digest = ? WHERE seq = 1", "f" * 64)],
        [("UPDATE entries SET previous = ? WHERE seq = 2", "f" * 64)],
        [("UPDATE entries SET body = replace(body, 'ward', 'work') WHERE seq = 0",)],
        [("DELETE FROM entries WHERE seq = 0",)],
        [("DELETE FROM entries WHERE seq = 3",)],
        [("DELETE FROM entries WHERE seq = 6",)],
        swap(1, 3),
        swap(5, 6),
        [("UPDATE entries SET seq = 7 WHERE seq = 6",)],
        [("UPDATE outbox SET payload = ?", b"a3")],
        [("UPDATE outbox SET payload = ?", b"a2 ")],
        [("UPDATE outbox SET payload = 'a2'",)],
        [("UPDATE outbox SET reservation = 1",)],
        [("UPDATE outbox SET reservation = 77",)],
        [("DELETE FROM outbox",)],
        [("INSERT INTO outbox VALUES (2, ?)", b"x")],
    ],
    ids=lambda statements: statements[0][0][:48],
)
def test_an_edit_removal_or_new_order_is_refused(path, ledger, statements):
    play(ledger)
    ledger.verify()
    edit(path, *statements)
    with pytest.raises(LedgerCorruptError):
        Ledger.open(path, **OWNER)


def test_an_edit_under_a_running_process_is_refused_too(path, ledger):
    play(ledger)
    edit(path, ("UPDATE entries SET body = replace(body, ':8', ':1') WHERE seq = 1",))
    with pytest.raises(LedgerCorruptError):
        ledger.reserve("a", 3, [STEP], always)
    edit(path, ("UPDATE entries SET body = replace(body, ':1', ':8') WHERE seq = 1",))
    edit(path, ("UPDATE outbox SET payload = ?", b"a3"))
    with pytest.raises(LedgerCorruptError):
        ledger.outgoing("a", 2)


# Without the class


FIRST = opening(Identity(**OWNER), "0123456789abcdef" * 2)
NEXT = reserving(Anchor(length=1, head=FIRST.digest), "a", 0, (STEP,))


@pytest.fixture
def file(tmp_path):
    storage.create_file(tmp_path / "new" / "file", FIRST)
    return tmp_path / "new" / "file"


def held(path):
    with storage.session(path, "BEGIN") as connection:
        return storage.read_entries(connection)


def test_a_new_file_holds_its_first_entry(file):
    assert held(file) == [FIRST]
    assert os.listdir(file.parent) == ["file"]
    assert file.read_bytes()[68:72] == b"pfld"


def test_a_file_that_cannot_be_made_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "append", fail)
    with pytest.raises(OSError, match="No space"):
        storage.create_file(tmp_path / "file", FIRST)
    assert os.listdir(tmp_path) == []


def test_entries_come_in_the_order_of_their_numbers(file):
    with storage.session(file, "BEGIN IMMEDIATE") as connection:
        storage.append(connection, replace(NEXT, seq=7))
        storage.append(connection, NEXT)
    assert held(file) == [FIRST, NEXT, replace(NEXT, seq=7)]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_what_breaks_off_has_written_nothing(file, error):
    def write():
        with storage.session(file, "BEGIN IMMEDIATE") as connection:
            storage.append(connection, NEXT)
            raise error

    with pytest.raises(error):
        write()
    assert held(file) == [FIRST]


def test_a_session_that_only_reads_cannot_be_seen(file):
    """It takes nobody's access away, and two of them do not wait for each other."""
    file.chmod(0o644)
    with storage.session(file, "BEGIN") as one, storage.session(file, "BEGIN") as other:
        assert storage.read_entries(one) == storage.read_entries(other) == [FIRST]
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def sqlite_error(code):
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (sqlite3.SQLITE_BUSY, LedgerStateError, "must be free within 30 seconds"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, LedgerStateError, "must be free within 30 seconds"),
        (sqlite3.SQLITE_LOCKED, LedgerStateError, "must be free within 30 seconds"),
        (sqlite3.SQLITE_FULL, LedgerError, "nothing was written; check the disk"),
        (sqlite3.SQLITE_READONLY, LedgerError, "nothing was written; check the disk"),
        (sqlite3.SQLITE_IOERR_WRITE, LedgerError, "nothing was written; check the disk"),
        (sqlite3.SQLITE_CANTOPEN, LedgerError, "nothing was written; check the disk"),
        (sqlite3.SQLITE_CORRUPT, LedgerCorruptError, "SQLite cannot read .* restore a copy"),
        (sqlite3.SQLITE_NOTADB, LedgerCorruptError, "SQLite cannot read .* restore a copy"),
        (None, LedgerCorruptError, "SQLite cannot read .* restore a copy"),
    ],
)
def test_an_error_of_sqlite_is_said_in_words(file, code, kind, words):
    error = sqlite3.DatabaseError("what SQLite says") if code is None else sqlite_error(code)
    with pytest.raises(kind, match=words) as found, storage.session(file, "BEGIN"):
        raise error
    assert type(found.value) is kind
    assert found.value.__cause__ is error
    assert "what SQLite says" in str(found.value)


def test_a_file_that_goes_away_during_a_session_is_missing(file):
    def use():
        with storage.session(file, "BEGIN"):
            file.unlink()
            raise sqlite_error(sqlite3.SQLITE_CANTOPEN)

    with pytest.raises(LedgerMissingError, match="a ledger must exist at"):
        use()


def test_the_first_version_is_read_and_not_written(tmp_path):
    path = write_first(tmp_path / "old")
    path.chmod(0o644)
    assert storage.verified_book(path).events() == FIRST_EVENTS

    def write():
        with storage.session(path, "BEGIN IMMEDIATE") as connection:
            storage.append(connection, NEXT)

    with pytest.raises(LedgerStateError, match="of schema 'privfed-ledger/2', .* is only read"):
        write()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize(("before", "after"), [(0o754, 0o700), (0o666, 0o600), (0o400, 0o400)])
def test_only_the_access_of_others_is_taken(file, before, after):
    file.chmod(before)
    storage.make_private(file)
    assert stat.S_IMODE(file.stat().st_mode) == after


def committed(*outgoing):
    """A chain of rounds with these messages, all of one run."""
    entries = [FIRST]
    for number, message in enumerate(outgoing):
        for make in (
            lambda at, number=number: reserving(at, "a", number, (STEP,)),
            lambda at, number=number, message=message: committing(
                at, 2 * number + 1, (STEP,), message
            ),
        ):
            entries.append(make(Anchor(length=len(entries), head=entries[-1].digest)))
    return entries


def test_the_bytes_of_one_commit_take_the_place_of_others(file):
    entries = committed(b"one", b"two")
    book = read(entries)
    with storage.session(file, "BEGIN IMMEDIATE") as connection:
        for entry in entries[1:]:
            storage.append(connection, entry)
        storage.replace_payload(connection, [], 1, b"one")
        assert storage.read_payload(connection, book, 1) == b"one"
        assert storage.read_payload(connection, book, 3) is None
        storage.replace_payload(connection, [1], 3, b"two")
        assert storage.read_payload(connection, book, 1) is None
        assert storage.read_payload(connection, book, 3) == b"two"
        storage.check_storage(connection, book)
    assert storage.verified_book(file) == book


@pytest.mark.parametrize(
    ("reservation", "payload", "reason"),
    [
        (3, b"TWO", "stored bytes of reservation 3 are not those committed"),
        (3, b"", "stored bytes of reservation 3 are not those committed"),
        (5, b"two", "stored bytes of reservation 5 are not those committed"),
        (1, b"one", r"bytes of the last commit are gone, of reservations \[3\]"),
    ],
)
def test_bytes_that_must_be_held_are_held_unchanged(file, reservation, payload, reason):
    entries = committed(b"one", b"two")
    with storage.session(file, "BEGIN IMMEDIATE") as connection:
        for entry in entries[1:]:
            storage.append(connection, entry)
        storage.replace_payload(connection, [], reservation, payload)
    with pytest.raises(LedgerCorruptError, match=reason):
        storage.verified_book(file)


def test_damage_that_no_entry_shows_is_seen(file):
    """The header counts one unused page (bytes 36 to 39), and there is none."""
    content = bytearray(file.read_bytes())
    assert content[36:40] == bytes(4)
    content[39] = 1
    file.write_bytes(content)
    assert held(file) == [FIRST]
    with pytest.raises(LedgerCorruptError, match="SQLite reports .*restore a copy"):
        storage.verified_book(file)


def test_a_new_ledger_and_its_folders_survive_a_power_cut(tmp_path, monkeypatch):
    """Each folder with a new name in it is synced, after the name is there."""
    path = tmp_path / "new" / "deep" / "ledger"
    names = {folder.parent: folder for folder in (path, *path.parents[:2])}
    synced, fsync = [], os.fsync

    def watch(descriptor):
        inode = os.fstat(descriptor).st_ino
        synced.extend(
            folder
            for folder, name in names.items()
            if name.exists() and folder.stat().st_ino == inode
        )
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    Ledger.create(path, **OWNER)
    assert synced == [tmp_path, tmp_path / "new", tmp_path / "new" / "deep"]
