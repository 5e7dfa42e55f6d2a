"""The second place: what it keeps and refuses, and that it is written before a call returns."""

import fcntl
import json
import os
import shutil
import stat
import threading

import pytest

from accountants import (
    Anchor,
    AnchorFolder,
    InvalidValueError,
    KeptAnchor,
    Ledger,
    LedgerCorruptError,
    LedgerError,
    LedgerMissingError,
    LedgerRolledBackError,
    LedgerStateError,
    Neighbouring,
    PoissonGaussian,
)
from accountants.ledger import anchors, storage

OWNER = {
    "client": "ward",
    "dataset": "notes-7",
    "unit": "one note",
    "neighbouring": Neighbouring.ADD_REMOVE,
}


def event(steps):
    return PoissonGaussian(noise_multiplier=4.0, sample_rate=0.5, steps=steps)


PLANNED, RAN = event(8), event(5)


def always(history, planned):
    return None


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "notes" / "ledger"


@pytest.fixture
def second(tmp_path):
    return AnchorFolder(tmp_path / "second")


@pytest.fixture
def opened(path, second):
    """A function that opens the ledger, or makes it, with its second place."""

    def open_(where=path, second=second):
        return Ledger.open_or_create(where, **OWNER, anchors=second)

    return open_


def play(ledger, run="a", rounds=3):
    for number in range(rounds):
        reservation = ledger.reserve(run, number, [PLANNED], always)
        ledger.commit(reservation.id, [RAN], f"{run}{number}".encode())


def fail(*_):
    raise OSError(28, "No space left on device")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# What it keeps


def test_it_holds_the_anchor_after_every_call_that_changes_the_ledger(path, opened, second):
    ledger, lengths = opened(), []

    def kept():
        found = second.find(ledger.id)
        assert found == KeptAnchor(
            id=ledger.id, identity=ledger.identity, path=path, anchor=ledger.anchor()
        )
        lengths.append(found.anchor.length)

    kept()
    for number in range(2):
        reservation = ledger.reserve("a", number, [PLANNED], always)
        kept()
        ledger.commit(reservation.id, [RAN], b"x")
        kept()
    assert lengths == [1, 2, 3, 4, 5]


def test_a_reader_finds_path_and_anchor_by_the_id(path, opened, tmp_path):
    ledger = opened()
    play(ledger)
    found = AnchorFolder(tmp_path / "second").find(ledger.id)
    assert Ledger.inspect(found.path).verify(found.anchor) == ledger.anchor()
    assert AnchorFolder(tmp_path / "second").find("0" * 32) is None
    assert AnchorFolder(tmp_path / "nowhere").find(ledger.id) is None
    with pytest.raises(InvalidValueError, match="^the id of a ledger must be 32"):
        AnchorFolder(tmp_path).find("../../etc/passwd")


def test_only_the_owner_may_read_it(opened, second):
    before = os.umask(0)
    try:
        play(opened())
    finally:
        os.umask(before)
    entries = [second.folder, *second.folder.rglob("*")]
    assert {mode(each) for each in entries if each.is_dir()} == {0o700}
    assert {mode(each) for each in entries if each.is_file()} == {0o600}
    assert len(entries) == 6  # three folders; an anchor, its lock, and the id at its path


def test_a_round_costs_two_small_syncs_a_step_and_no_look_at_other_ledgers(
    opened, second, path, monkeypatch
):
    opened(path.with_name("other"))
    ledger, synced, fsync = opened(), [], os.fsync

    def watch(descriptor):
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, fail)
    reservation = ledger.reserve("a", 0, [PLANNED], always)
    assert len(synced) == 2
    ledger.commit(reservation.id, [RAN], b"x" * 10**6)
    assert len(synced) == 4
    assert ledger.outgoing("a", 0) == b"x" * 10**6
    assert len(synced) == 4
    assert max(synced) < 10_000


def test_the_ledger_is_written_first_then_the_anchor_then_the_call_returns(
    opened, second, monkeypatch
):
    ledger, steps, publish = opened(), [], anchors.publish

    def watch(draft, target):
        steps.append((Ledger.inspect(ledger.path).anchor(), second.find(ledger.id).anchor))
        publish(draft, target)

    monkeypatch.setattr(anchors, "publish", watch)
    reservation = ledger.reserve("a", 0, [PLANNED], always)
    ledger.commit(reservation.id, [RAN], b"x")
    assert [(held.length, kept.length) for held, kept in steps] == [(2, 1), (3, 2)]


def test_threads_share_it(opened, second):
    ledger, failures = opened(), []

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
    assert second.find(ledger.id).anchor == ledger.anchor()
    assert ledger.anchor().length == 1 + 3 * 4 * 2


def test_a_ledger_that_had_no_second_place_gets_one(path, opened, second):
    play(Ledger.create(path, **OWNER))
    ledger = opened()
    assert second.find(ledger.id).anchor == ledger.anchor()
    path.unlink()
    with pytest.raises(LedgerMissingError, match="counting must not start at zero"):
        opened()


# Put back


def test_a_backup_that_was_put_back_is_refused(path, opened, tmp_path):
    play(opened(), "a", 1)
    shutil.copy(path, tmp_path / "backup")
    play(opened(), "b", 2)
    shutil.copy(tmp_path / "backup", path)
    with pytest.raises(LedgerRolledBackError, match="at least the 7 entries") as refused:
        opened()
    assert "restore a copy at least as new as the last release" in str(refused.value)
    assert str(tmp_path / "second" / "ledgers") in str(refused.value)


def test_a_backup_that_was_put_back_and_went_on_is_refused(path, opened, tmp_path):
    """With another program, which knows of no second place."""
    play(opened(), "a", 1)
    shutil.copy(path, tmp_path / "backup")
    play(opened(), "b", 2)
    shutil.copy(tmp_path / "backup", path)
    play(Ledger.open(path, **OWNER), "c", 3)
    with pytest.raises(LedgerRolledBackError, match="entry 6 must have the digest"):
        opened()


@pytest.mark.parametrize(
    "use",
    [
        lambda ledger: ledger.events(),
        lambda ledger: ledger.verify(),
        lambda ledger: ledger.export(),
        lambda ledger: ledger.outgoing("a", 0),
        lambda ledger: ledger.reserve("c", 0, [PLANNED], always),
        lambda ledger: ledger.commit(3, [RAN], b"x"),
    ],
)
def test_every_use_of_an_open_ledger_looks_at_the_second_place(path, opened, tmp_path, use):
    """This object has not seen what another process released, and the file holds it no more."""
    play(opened(), "a", 1)
    ledger = opened()
    ledger.reserve("b", 0, [PLANNED], always)
    shutil.copy(path, tmp_path / "backup")
    play(opened(), "d", 1)
    shutil.copy(tmp_path / "backup", path)
    before = path.read_bytes()
    with pytest.raises(LedgerRolledBackError, match="at least the 6 entries"):
        use(ledger)
    assert path.read_bytes() == before


def test_a_backup_is_refused_by_an_anchor_given_by_hand(path, opened, tmp_path):
    """As printed in a report, where both places are on the disk that was put back."""
    play(opened(), "a", 1)
    shutil.copytree(tmp_path / "state", tmp_path / "old" / "state")
    shutil.copytree(tmp_path / "second", tmp_path / "old" / "second")
    play(opened(), "b", 2)
    printed = str(opened().anchor())
    for name in ("state", "second"):
        shutil.rmtree(tmp_path / name)
        shutil.copytree(tmp_path / "old" / name, tmp_path / name)
    restored = opened()  # the named limit: both places put back together look like the past
    assert restored.events() == (RAN,)
    with pytest.raises(LedgerRolledBackError, match="older copy was put back"):
        restored.verify(Anchor.parse(printed))


def test_of_two_copies_that_both_go_on_the_second_is_refused(path, opened, tmp_path):
    play(opened(), "a", 1)
    copy = tmp_path / "copied" / "ledger"
    copy.parent.mkdir()
    shutil.copy(path, copy)
    play(opened(copy), "b", 1)
    with pytest.raises(LedgerRolledBackError):
        opened()


def test_of_two_copies_that_go_on_at_once_only_one_does(path, opened, second, tmp_path):
    """Both looked at the second place before the other one wrote to it."""
    play(opened(), "a", 1)
    copy = tmp_path / "copied" / "ledger"
    copy.parent.mkdir()
    shutil.copy(path, copy)
    one, other = opened(), opened(copy)

    def meanwhile(history, planned):
        other.reserve("b", 0, [PLANNED], always)

    with pytest.raises(LedgerRolledBackError):
        one.reserve("c", 0, [PLANNED], meanwhile)
    assert second.find(one.id).anchor == other.anchor()
    assert Ledger.inspect(path).events() == (RAN,)


def test_a_shorter_anchor_never_replaces_a_longer_one(path, opened, second, tmp_path):
    play(opened(), "a", 1)
    old = Ledger.inspect(path)
    shutil.copy(path, tmp_path / "backup")
    play(opened(), "b", 1)
    book = storage.verified_book(tmp_path / "backup")
    for anchor in (book.anchor(), Anchor(length=99, head="ab" * 32)):
        with (
            pytest.raises(LedgerRolledBackError),
            second.keeping(book, path, anchor),
        ):
            raise AssertionError
    assert second.find(old.id).anchor == opened().anchor()


# Gone, moved or replaced


def test_a_deleted_ledger_does_not_start_at_zero(path, opened, second):
    play(opened())
    path.unlink()
    for use in (Ledger.open, Ledger.create, Ledger.open_or_create):
        with pytest.raises(LedgerMissingError, match="count the whole budget") as refused:
            use(path, **OWNER, anchors=second)
    assert not path.exists()
    (file,) = (second.folder / "paths").iterdir()
    assert f"if nothing was ever released from it, remove {file}" in str(refused.value)
    file.unlink()
    assert opened().events() == ()


def test_a_deleted_folder_does_not_start_at_zero_either(path, opened):
    play(opened())
    shutil.rmtree(path.parent)
    with pytest.raises(LedgerMissingError, match="deleted or moved away"):
        opened()
    assert not path.parent.exists()


def test_a_moved_ledger_goes_on_and_its_old_place_stays_taken(path, opened, second, tmp_path):
    play(opened())
    moved = tmp_path / "moved"
    os.replace(path, moved)
    ledger = opened(moved)
    assert ledger.events() == (RAN, RAN, RAN)
    assert second.find(ledger.id).path == moved
    with pytest.raises(LedgerMissingError, match=f"it was last seen at {moved} "):
        opened()
    os.replace(moved, path)
    assert opened().events() == (RAN, RAN, RAN)
    with pytest.raises(LedgerMissingError, match=f"it was last seen at {path} "):
        opened(moved)


def test_one_place_has_one_name(path, opened, tmp_path, monkeypatch):
    play(opened())
    (tmp_path / "link").symlink_to(path.parent)
    path.unlink()
    monkeypatch.chdir(tmp_path / "state")
    for other in (tmp_path / "link" / path.name, path.relative_to(tmp_path / "state")):
        with pytest.raises(LedgerMissingError):
            opened(other)


def test_a_ledger_replaced_by_a_new_one_of_equal_names_is_refused(path, opened, second):
    """Deleted, and made again by a program that knows of no second place."""
    old = opened()
    play(old)
    path.unlink()
    new = Ledger.create(path, **OWNER)
    with pytest.raises(LedgerRolledBackError, match="was replaced by another") as refused:
        opened()
    assert old.id in str(refused.value)
    assert new.id in str(refused.value)
    (file,) = (second.folder / "paths").iterdir()
    assert f"remove {file}" in str(refused.value)


def test_ledgers_of_equal_names_in_two_places_are_two(path, opened, tmp_path):
    first, other = opened(), opened(tmp_path / "demo" / "ledger")
    play(first, rounds=2)
    play(other, rounds=1)
    assert opened().events() == (RAN, RAN)
    assert opened(tmp_path / "demo" / "ledger").events() == (RAN,)


# A second place that cannot be written


def no_room(monkeypatch):
    monkeypatch.setattr(os, "fsync", fail)


def no_folder(second):
    shutil.rmtree(second.folder)
    second.folder.write_text("a file")


@pytest.mark.parametrize("harm", [no_room, no_folder], ids=["full", "no folder"])
def test_it_is_refused_before_anything_is_written(path, opened, second, monkeypatch, harm):
    ledger = opened()
    reservation = ledger.reserve("a", 0, [PLANNED], always)
    before, held = path.read_bytes(), ledger.anchor()
    harm(monkeypatch if harm is no_room else second)
    uses = [
        lambda: ledger.reserve("a", 1, [PLANNED], always),
        lambda: ledger.commit(reservation.id, [RAN], b"x"),
        lambda: Ledger.create(path.with_name("new"), **OWNER, anchors=second),
    ]
    for use in uses:
        with pytest.raises(LedgerError, match=str(second.folder)):
            use()
    assert path.read_bytes() == before
    assert Ledger.inspect(path).anchor() == held
    assert not path.with_name("new").exists()


def test_the_refusal_says_what_to_do(opened, second, monkeypatch):
    ledger = opened()
    no_room(monkeypatch)
    with pytest.raises(LedgerError, match="No space left.*; nothing was written to the ledger; ma"):
        ledger.reserve("a", 0, [PLANNED], always)
    monkeypatch.undo()
    assert ledger.reserve("a", 0, [PLANNED], always).id == 1


def test_a_failure_after_the_ledger_was_written_counts_the_round(opened, second, monkeypatch):
    ledger = opened()
    monkeypatch.setattr(anchors, "publish", fail)
    with pytest.raises(LedgerError, match="though the ledger was; what was reserved in it counts"):
        ledger.reserve("a", 0, [PLANNED], always)
    monkeypatch.undo()
    assert ledger.events() == (PLANNED,)
    assert second.find(ledger.id).anchor.length == 1
    assert second.find(opened().id).anchor.length == 2


def test_no_byte_leaves_before_the_second_place_knows_of_its_commit(opened, second, monkeypatch):
    ledger = opened()
    reservation = ledger.reserve("a", 0, [PLANNED], always)
    monkeypatch.setattr(anchors, "publish", fail)
    with pytest.raises(LedgerError):
        ledger.commit(reservation.id, [RAN], b"x")
    with pytest.raises(LedgerError):
        ledger.outgoing("a", 0)
    monkeypatch.undo()
    assert second.find(ledger.id).anchor.length == 2
    assert ledger.outgoing("a", 0) == b"x"
    assert second.find(ledger.id).anchor.length == 3


def test_what_admission_refuses_leaves_the_second_place_alone(opened, second):
    ledger = opened()

    def refuse(history, planned):
        raise InvalidValueError("no")

    with pytest.raises(InvalidValueError):
        ledger.reserve("a", 0, [PLANNED], refuse)
    assert second.find(ledger.id).anchor.length == 1
    assert not list(second.folder.rglob("*.new"))


def test_a_draft_that_a_killed_writer_left_is_in_nobodys_way(opened, second):
    ledger = opened()
    (second.folder / "ledgers" / f"{ledger.id}.json.new").write_text("half")
    play(ledger, rounds=1)
    assert second.find(ledger.id).anchor == ledger.anchor()
    assert not list(second.folder.rglob("*.new"))


def test_a_creation_that_is_refused_leaves_no_anchor(path, second):
    Ledger.create(path, **OWNER)
    with pytest.raises(LedgerStateError, match="needs a free path"):
        Ledger.create(path, **OWNER, anchors=second)
    assert not list(second.folder.rglob("*.json*"))


def test_a_busy_second_place_says_so(opened, second, monkeypatch):
    ledger = opened()
    monkeypatch.setattr(anchors, "BUSY_TIMEOUT_S", 0.05)
    with open(second.folder / "ledgers" / f"{ledger.id}.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LedgerStateError, match="let it finish, or end it, then run this again"):
            ledger.reserve("a", 0, [PLANNED], always)
        assert ledger.events() == ()
    ledger.reserve("a", 0, [PLANNED], always)


# Damage


@pytest.mark.parametrize(
    "edit",
    [
        lambda record: "",
        lambda record: "[]",
        lambda record: "{}",
        lambda record: json.dumps(record | {"schema": "privfed-anchor/9"}),
        lambda record: json.dumps(record | {"length": 0}),
        lambda record: json.dumps(record | {"head": "0"}),
        lambda record: json.dumps(record | {"id": "0" * 32}),
        lambda record: json.dumps(record | {"path": 7}),
        lambda record: json.dumps(record | {"more": 7}),
        lambda record: json.dumps({k: v for k, v in record.items() if k != "unit"}),
    ],
)
def test_a_damaged_anchor_is_refused_by_name(opened, second, edit):
    ledger = opened()
    play(ledger)
    file = second.folder / "ledgers" / f"{ledger.id}.json"
    file.write_text(edit(json.loads(file.read_text())))
    for use in (ledger.events, opened):
        with pytest.raises(LedgerCorruptError, match=f"{file}.*must be as it was written"):
            use()
    file.unlink()
    assert opened().events() == (RAN, RAN, RAN)


def test_a_damaged_path_is_refused_by_name(opened, second):
    opened()
    (file,) = (second.folder / "paths").iterdir()
    file.write_text('{"schema": "privfed-anchor/1", "id": "../x"}')
    with pytest.raises(LedgerCorruptError, match=str(file)):
        opened()


def test_what_cannot_be_read_is_refused(opened, second):
    ledger = opened()
    file = second.folder / "ledgers" / f"{ledger.id}.json"
    file.unlink()
    file.mkdir()
    with pytest.raises(LedgerError, match="must be readable"):
        opened()


def test_it_says_what_it_is(second):
    assert repr(second) == f"AnchorFolder({str(second.folder)!r})"
