"""The ledger: what counts, what is refused, and what damage shows."""

import json
import os
import shutil
import sqlite3
import stat
import threading
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants import (
    Anchor,
    Budget,
    BudgetExceededError,
    InvalidValueError,
    Ledger,
    LedgerCorruptError,
    LedgerError,
    LedgerForeignError,
    LedgerMissingError,
    LedgerRolledBackError,
    LedgerStateError,
    Neighbouring,
    PoissonGaussian,
    Reservation,
    ScheduleFilter,
    UnsupportedAnalysisError,
    anchor_from_json,
    event_to_json,
    verify_export,
)
from accountants.ledger import storage
from accountants.ledger.chain import linked

OWNER = {
    "client": "ward",
    "dataset": "notes-7",
    "unit": "one note",
    "neighbouring": "add_remove",
}


def event(steps):
    return PoissonGaussian(noise_multiplier=4.0, sample_rate=0.5, steps=steps)


LESS, STEP, MORE = event(3), event(8), event(9)


def always(history, planned):
    return None


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledgers" / "notes 7?#%.ledger"


@pytest.fixture
def ledger(path):
    return Ledger.create(path, **OWNER)


def play(ledger, run="a", rounds=3):
    """Rounds that were reserved and committed; the bytes name the round."""
    for number in range(rounds):
        reservation = ledger.reserve(run, number, [STEP], always)
        ledger.commit(reservation.id, [STEP], f"{run}{number}".encode())


def edit(path, *statements):
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement, *values in statements:
            assert connection.execute(statement, values).rowcount == 1


def forge(path, kind, body):
    """Append an entry whose digest is right, as a faulty or hostile program could."""
    with closing(sqlite3.connect(path)) as connection, connection:
        (seq, head) = connection.execute(
            "SELECT seq, digest FROM entries ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        storage.append(connection, linked(kind, body, Anchor(length=seq + 1, head=head)))


# What counts


def test_a_round_is_reserved_then_committed(ledger):
    assert ledger.events() == ()
    assert ledger.runs() == []
    assert ledger.status("a", 0) is None
    assert ledger.outgoing("a", 0) is None
    reservation = ledger.reserve("a", 0, [STEP], always)
    assert reservation == Reservation(id=1, run="a", round=0, planned=(STEP,))
    assert ledger.status("a", 0) == "reserved"
    assert ledger.outgoing("a", 0) is None
    assert ledger.events() == (STEP,)
    ledger.commit(reservation.id, [LESS], b"update")
    assert ledger.status("a", 0) == "committed"
    assert ledger.outgoing("a", 0) == b"update"
    assert ledger.events() == (LESS,)


def test_what_was_reserved_and_never_committed_counts_in_full(ledger):
    ledger.reserve("a", 0, [STEP, LESS], always)
    play(ledger, "b", 1)
    assert ledger.events() == (STEP, LESS, STEP)
    assert ledger.events("a") == (STEP, LESS)
    assert ledger.events("b") == (STEP,)
    assert ledger.events("c") == ()
    assert ledger.runs() == ["a", "b"]


def test_it_is_all_there_when_opened_again(path, ledger):
    play(ledger)
    again = Ledger.open(path, **OWNER)
    assert again.events() == ledger.events() == (STEP, STEP, STEP)
    assert again.anchor() == ledger.anchor()
    assert again.outgoing("a", 2) == b"a2"
    assert again.identity.to_json() == OWNER
    assert again.path == path


def test_bytes_of_the_last_round_of_each_run_are_kept(ledger):
    play(ledger, "a", 3)
    play(ledger, "b", 2)
    assert ledger.outgoing("a", 2) == b"a2"
    assert ledger.outgoing("b", 1) == b"b1"
    assert ledger.outgoing("a", 1) is None
    assert ledger.outgoing("b", 0) is None


def test_admission_sees_all_that_counts_and_can_refuse(ledger):
    ledger.reserve("a", 0, [STEP], always)
    play(ledger, "b", 1)
    asked = []

    def refuse(history, planned):
        asked.append((history, planned))
        raise BudgetExceededError("no", epsilon=3.0, allowed=2.0)

    before = ledger.anchor()
    with pytest.raises(BudgetExceededError):
        ledger.reserve("c", 0, iter([LESS]), refuse)
    assert asked == [((STEP, STEP), (LESS,))]
    assert ledger.anchor() == before
    assert ledger.status("c", 0) is None


def test_a_budget_holds_over_runs_and_lost_rounds(ledger):
    """Two of these rounds fit, three do not; the first was reserved by a run that died."""
    step = PoissonGaussian(noise_multiplier=5.0, sample_rate=1.0, steps=4)
    admission = ScheduleFilter(
        budget=Budget(epsilon=2.1, delta=1e-4),
        schedule=[step],
        neighbouring=Neighbouring.ADD_REMOVE,
    )
    ledger.reserve("died", 0, [step], admission.admit)
    ledger.reserve("next", 0, [step], admission.admit)
    with pytest.raises(BudgetExceededError):
        ledger.reserve("next", 1, [step], admission.admit)
    assert ledger.events() == (step, step)


operations = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 9), st.none() | st.integers(0, 9)),
    max_size=8,
)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(operations=operations)
def test_it_counts_like_a_list_in_memory(tmp_path_factory, operations):
    path = tmp_path_factory.mktemp("ledgers") / "ledger"
    ledger = Ledger.create(path, **OWNER)
    expected = []
    for number, (run, steps, ran) in enumerate(operations):
        counted = [event(steps)]
        reservation = ledger.reserve(run, number, counted, always)
        if ran is not None and ran > steps:
            with pytest.raises(LedgerStateError):
                ledger.commit(reservation.id, [event(ran)], b"")
        elif ran is not None:
            counted = [event(ran)] if ran else []
            ledger.commit(reservation.id, counted, bytes(ran))
        expected.extend((run, each) for each in counted)
    again = Ledger.open(path, **OWNER)
    assert again.events() == tuple(each for _, each in expected)
    for run in ("a", "b"):
        assert again.events(run) == tuple(each for name, each in expected if name == run)
    assert again.runs() == list(dict.fromkeys(run for run, _, _ in operations))


# What is refused


def test_a_round_is_reserved_once(ledger):
    ledger.reserve("a", 0, [STEP], always)
    with pytest.raises(LedgerStateError, match="reserved and never committed") as open_round:
        ledger.reserve("a", 0, [STEP], always)
    assert str(open_round.value).endswith("it counts in full; go on with the next round")
    assert "bytes" not in str(open_round.value)
    play(ledger, "b", 1)
    with pytest.raises(LedgerStateError, match="already committed; send its stored bytes again"):
        ledger.reserve("b", 0, [STEP], always)
    assert len(ledger.events()) == 2


@pytest.mark.parametrize("answer", [False, True, np.False_, np.True_])
def test_a_predicate_reserves_nothing(ledger, answer):
    before = ledger.anchor()
    with pytest.raises(
        InvalidValueError, match="^admit must raise to refuse, .* it returned "
    ) as no:
        ledger.reserve("a", 0, [STEP], lambda history, planned: answer)
    assert str(no.value).endswith(repr(answer))
    assert (ledger.anchor(), ledger.status("a", 0)) == (before, None)
    assert ledger.reserve("a", 0, [STEP], lambda history, planned: 0.0).id == 1


def test_a_filter_in_place_of_its_method_reserves_nothing(ledger):
    admission = ScheduleFilter(
        budget=Budget(epsilon=100.0, delta=1e-5),
        schedule=[STEP],
        neighbouring=Neighbouring.ADD_REMOVE,
    )
    with pytest.raises(InvalidValueError, match="got ScheduleFilter; pass filter.admit$"):
        ledger.reserve("a", 0, [STEP], admission)
    with pytest.raises(InvalidValueError, match="^admit must be a function .* got NoneType$"):
        ledger.reserve("a", 0, [STEP], None)
    assert ledger.events() == ()
    assert ledger.reserve("a", 0, [STEP], admission.admit).round == 0


def test_only_an_anchor_verifies(ledger):
    for value in (False, 1, ledger.anchor().to_json()):
        with pytest.raises(InvalidValueError, match="^anchor must be an Anchor"):
            ledger.verify(value)
        with pytest.raises(InvalidValueError, match="^anchor must be an Anchor"):
            verify_export(ledger.export(), value)


def test_a_ledger_shows_whose_it_is_without_reading_the_file(path, ledger):
    path.unlink()
    assert repr(ledger) == f"Ledger(path={str(path)!r}, client='ward', dataset='notes-7')"


def test_more_than_was_reserved_cannot_be_committed(ledger):
    reservation = ledger.reserve("a", 0, [STEP], always)
    with pytest.raises(LedgerStateError, match="within the reservation"):
        ledger.commit(reservation.id, [MORE], b"x")
    with pytest.raises(LedgerStateError, match="within the reservation"):
        ledger.commit(reservation.id, [STEP, LESS], b"x")
    assert ledger.status("a", 0) == "reserved"
    assert ledger.outgoing("a", 0) is None


def test_a_reservation_is_committed_once(ledger):
    play(ledger, rounds=1)
    with pytest.raises(LedgerStateError, match="committed once"):
        ledger.commit(1, [STEP], b"other")
    assert ledger.outgoing("a", 0) == b"a0"


@pytest.mark.parametrize("unknown", [0, 7])
def test_only_a_reservation_can_be_committed(ledger, unknown):
    with pytest.raises(LedgerStateError, match="must name a reservation"):
        ledger.commit(unknown, [], b"")


def test_arguments_are_checked_by_name(path, ledger):
    with pytest.raises(InvalidValueError, match=r"^run must be"):
        ledger.reserve("", 0, [STEP], always)
    for number in (-1, 1.0, float("nan"), True):
        with pytest.raises(InvalidValueError, match=r"^round must be"):
            ledger.reserve("a", number, [STEP], always)
    with pytest.raises(LedgerStateError, match="at least one event"):
        ledger.reserve("a", 0, [], always)
    with pytest.raises(UnsupportedAnalysisError, match="an event must be one of"):
        ledger.reserve("a", 0, [event_to_json(STEP)], always)
    with pytest.raises(UnsupportedAnalysisError, match="an event must be one of"):
        ledger.commit(1, ["gaussian"], b"")
    with pytest.raises(InvalidValueError, match=r"^reservation_id must be"):
        ledger.commit("1", [STEP], b"")
    with pytest.raises(InvalidValueError, match="outgoing must be bytes"):
        ledger.commit(1, [STEP], "text")
    with pytest.raises(InvalidValueError, match=r"^client must be"):
        Ledger.open(path, **OWNER | {"client": ""})
    assert ledger.events() == ()


# The file


def test_a_missing_ledger_is_refused_and_not_made(path):
    with pytest.raises(LedgerMissingError, match="unknown"):
        Ledger.open(path, **OWNER)
    assert not path.parent.exists()


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


def test_open_or_create_makes_the_first(path):
    assert Ledger.open_or_create(path, **OWNER).events() == ()
    assert path.exists()


@pytest.mark.parametrize("field", ["client", "dataset"])
def test_a_foreign_ledger_is_refused(path, ledger, field):
    with pytest.raises(LedgerForeignError, match=f"the {field} 'other'"):
        Ledger.open(path, **OWNER | {field: "other"})
    with pytest.raises(LedgerForeignError):
        Ledger.open_or_create(path, **OWNER | {field: "other"})


@pytest.mark.parametrize(
    ("field", "other"), [("unit", "one patient"), ("neighbouring", "replace_one")]
)
def test_another_unit_or_relation_on_the_same_data_is_refused(path, ledger, field, other):
    play(ledger)
    for use in (Ledger.open, Ledger.open_or_create):
        with pytest.raises(LedgerForeignError, match="says nothing about another; use the") as no:
            use(path, **OWNER | {field: other})
        assert f"the {field} it was created with, {OWNER[field]!r}, and not {other!r}" in str(
            no.value
        )
    assert len(Ledger.open(path, **OWNER).events()) == 3


def test_two_ledgers_of_equal_names_have_different_ids(path, ledger):
    other = Ledger.create(path.with_name("other"), **OWNER)
    assert other.identity == ledger.identity
    assert other.id != ledger.id
    for each in (other, ledger):
        assert set(each.id) <= set("0123456789abcdef")
        assert len(each.id) == 32
        assert each.export()["id"] == Ledger.open(each.path, **OWNER).id == each.id


def test_a_ledger_replaced_by_one_of_equal_names_under_a_running_process_shows(path, ledger):
    other = Ledger.create(path.with_name("other"), **OWNER)
    play(other)
    os.replace(other.path, path)
    with pytest.raises(LedgerRolledBackError, match=f"id {ledger.id}, and has the id {other.id}"):
        ledger.reserve("a", 0, [STEP], always)


def test_a_moved_ledger_goes_on(path, ledger, tmp_path):
    """Neither where it lies nor how many others take part says whose it is."""
    play(ledger)
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    os.replace(path, moved)
    assert Ledger.open_or_create(moved, **OWNER).events() == (STEP, STEP, STEP)


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


def test_a_busy_ledger_says_so(path, ledger, monkeypatch):
    monkeypatch.setattr(storage, "BUSY_TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerStateError, match="another process holds it") as busy:
            ledger.reserve("a", 0, [STEP], always)
        assert "nothing was written. Let the other run on this data finish" in str(busy.value)
        assert ledger.events() == ()
    assert ledger.reserve("a", 0, [STEP], always).id == 1  # as it says, after the other is done


def test_a_round_that_another_process_works_on_is_not_taken_for_lost(path, ledger):
    """Two processes that resume one run: the second is told of the first."""
    ledger.reserve("a", 0, [STEP], always)
    with pytest.raises(LedgerStateError, match="if another process works on this run, let it"):
        Ledger.open(path, **OWNER).reserve("a", 0, [STEP], always)


def test_the_wait_for_another_process_is_half_a_minute():
    assert storage.BUSY_TIMEOUT_S == 30


def test_threads_share_a_ledger(ledger):
    failures = []

    def work(run):
        try:
            play(ledger, run, 4)
        except LedgerError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"run{i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(ledger.events()) == 12
    ledger.verify()


# Looking only


def test_a_ledger_can_be_inspected_without_knowing_whose_it_is(path, ledger):
    play(ledger)
    found = Ledger.inspect(path)
    assert found.identity.to_json() == OWNER
    assert found.events() == ledger.events()
    assert found.verify(ledger.anchor()) == ledger.anchor()
    assert found.export() == ledger.export()


def test_inspecting_changes_neither_content_nor_permissions(path, ledger):
    play(ledger)
    path.chmod(0o644)
    before = path.read_bytes()
    Ledger.inspect(path).export()
    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_inspecting_refuses_what_is_no_whole_ledger(path, ledger):
    with pytest.raises(LedgerMissingError):
        Ledger.inspect(path.with_name("other"))
    play(ledger)
    edit(path, ("DELETE FROM outbox",))
    with pytest.raises(LedgerCorruptError, match="bytes of the last commit"):
        Ledger.inspect(path)


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


def reserve_body(**changes):
    return {"run": "z", "round": 0, "planned": [event_to_json(STEP)]} | changes


def commit_body(**changes):
    body = {
        "reservation": 1,
        "ran": [event_to_json(STEP)],
        "outgoing_sha256": "0" * 64,
        "outgoing_bytes": 0,
    }
    return body | changes


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("reserve", reserve_body(run="a", round=0)),
        ("reserve", reserve_body(run="")),
        ("reserve", reserve_body(round=-1)),
        ("reserve", reserve_body(round=1.0)),
        ("reserve", reserve_body(planned=[])),
        ("reserve", reserve_body(planned=event_to_json(STEP))),
        ("reserve", reserve_body(planned=[event_to_json(STEP) | {"steps": 0}])),
        ("reserve", reserve_body(more=1)),
        ("commit", commit_body(reservation=0)),
        ("commit", commit_body(reservation=9)),
        ("commit", commit_body(reservation="1")),
        ("commit", commit_body(ran=[event_to_json(MORE)])),
        ("commit", commit_body(outgoing_sha256="0" * 63)),
        ("commit", commit_body(outgoing_bytes=-1)),
        ("commit", {"reservation": 1}),
        ("open", {"schema": "privfed-ledger/2", "id": "0" * 32} | OWNER),
        ("refund", {}),
    ],
)
def test_an_entry_that_does_not_follow_is_refused_although_its_digest_is_right(
    path, ledger, kind, body
):
    ledger.reserve("a", 0, [STEP], always)
    forge(path, kind, body)
    with pytest.raises(LedgerCorruptError, match="entry 2 does not follow"):
        Ledger.open(path, **OWNER)


def test_a_second_commit_is_refused_although_its_digest_is_right(path, ledger):
    play(ledger, rounds=1)
    forge(path, "commit", commit_body(ran=[]))
    with pytest.raises(LedgerCorruptError, match="committed once"):
        Ledger.open(path, **OWNER)


def test_an_event_of_a_later_version_is_refused_by_name(path, ledger):
    forge(path, "reserve", reserve_body(planned=[{"type": "tree"}]))
    with pytest.raises(UnsupportedAnalysisError, match=r"^entry 1 .*'tree'"):
        Ledger.open(path, **OWNER)


# Anchors


def test_an_anchor_survives_json_and_proves_a_prefix(ledger):
    anchors = [ledger.anchor()]
    for number in range(2):
        ledger.reserve("a", number, [STEP], always)
        anchors.append(ledger.anchor())
    assert [a.length for a in anchors] == [1, 2, 3]
    for anchor in anchors:
        assert anchor_from_json(json.loads(json.dumps(anchor.to_json()))) == anchor
        assert ledger.verify(anchor) == anchors[-1]


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


def test_a_cut_end_shows_against_an_anchor_only(path, ledger):
    play(ledger)
    ledger.reserve("a", 3, [STEP], always)
    anchor = ledger.anchor()
    edit(path, ("DELETE FROM entries WHERE seq = 7",))
    cut = Ledger.open(path, **OWNER)
    with pytest.raises(LedgerRolledBackError, match="at least the 8 entries"):
        cut.verify(anchor)


def test_an_older_copy_shows_against_an_anchor(path, ledger, tmp_path):
    play(ledger, "a", 1)
    shutil.copy(path, tmp_path / "backup")
    play(ledger, "b", 2)
    anchor = ledger.anchor()
    shutil.copy(tmp_path / "backup", path)
    restored = Ledger.open(path, **OWNER)
    with pytest.raises(LedgerRolledBackError, match="older copy was put back"):
        restored.verify(anchor)
    play(restored, "c", 2)
    assert restored.anchor().length == anchor.length
    with pytest.raises(LedgerRolledBackError, match="put back and continued"):
        restored.verify(anchor)


def test_a_ledger_rewritten_with_right_digests_shows_against_an_anchor_only(path, ledger):
    for number in range(3):
        ledger.reserve("a", number, [STEP], always)
    anchor = ledger.anchor()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM entries WHERE seq > 0")
    for number, steps in enumerate([1, 8, 8]):
        forge(
            path,
            "reserve",
            reserve_body(run="a", round=number, planned=[event_to_json(event(steps))]),
        )
    rewritten = Ledger.open(path, **OWNER)
    assert rewritten.events() == (event(1), STEP, STEP)
    with pytest.raises(LedgerRolledBackError):
        rewritten.verify(anchor)


@pytest.mark.parametrize("use", [Ledger.events, Ledger.anchor, Ledger.verify, Ledger.export])
def test_a_running_process_notices_an_older_copy_by_itself(path, ledger, tmp_path, use):
    shutil.copy(path, tmp_path / "backup")
    play(ledger, rounds=1)
    shutil.copy(tmp_path / "backup", path)
    with pytest.raises(LedgerRolledBackError):
        use(ledger)
