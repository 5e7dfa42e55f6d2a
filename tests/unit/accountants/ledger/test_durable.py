"""Files and folders that survive a power cut, for their owner only."""

import os
import stat
from pathlib import Path

import pytest

from accountants.ledger import durable
from accountants.ledger.ledger import Ledger
from tests.unit.accountants.ledger.ledgers import OWNER


def fail(*_):
    raise OSError(28, "No space left on device")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


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


def test_a_file_is_whole_before_and_after_it_is_replaced(tmp_path, monkeypatch):
    file = tmp_path / "file"
    durable.replace_private(file, b"one")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        durable.replace_private(file, b"two")
    assert file.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [file]
    assert mode(file) == 0o600


def test_a_file_is_its_owners_whatever_the_mask(tmp_path):
    before = os.umask(0)
    try:
        durable.write_private(tmp_path / "file", b"content")
        durable.create_private_folders(tmp_path / "new" / "deep")
    finally:
        os.umask(before)
    assert mode(tmp_path / "file") == 0o600
    assert mode(tmp_path / "new") == mode(tmp_path / "new" / "deep") == 0o700


def test_a_file_is_written_anew(tmp_path):
    file = tmp_path / "file"
    for content in (b"a longer one", b"short", b""):
        durable.write_private(file, content)
        assert file.read_bytes() == content


@pytest.fixture
def steps(monkeypatch):
    """What reaches the disk, in order: files with their content, folders with their names."""
    seen = []
    fsync, rename = os.fsync, os.replace

    def synced(descriptor):
        found = Path(f"/proc/self/fd/{descriptor}").resolve()
        is_folder = found.is_dir()
        held = sorted(p.name for p in found.iterdir()) if is_folder else found.read_bytes()
        seen.append((found.name if is_folder else "a file", held))
        fsync(descriptor)

    def replaced(draft, path):
        seen.append(("renamed", path.name))
        rename(draft, path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return seen


def test_a_content_is_on_disk_before_its_name_and_its_name_before_the_return(tmp_path, steps):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "other").write_bytes(b"")
    durable.replace_private(folder / "file", b"content")
    assert steps == [
        ("a file", b"content"),
        ("renamed", "file"),
        ("folder", ["file", "other"]),
    ]


def test_a_content_that_is_only_written_is_on_disk_too(tmp_path, steps):
    durable.write_private(tmp_path / "file", b"content")
    assert steps == [("a file", b"content")]


def test_folders_that_are_there_are_left_as_they_are(tmp_path, steps):
    (tmp_path / "there").mkdir(mode=0o755)
    durable.create_private_folders(tmp_path / "there" / "new" / "deep")
    assert steps == [("there", ["new"]), ("new", ["deep"])]
    assert mode(tmp_path / "there") == 0o755
    steps.clear()
    durable.create_private_folders(tmp_path / "there" / "new" / "deep")
    assert steps == []


def test_a_folder_that_another_process_made_meanwhile_is_taken(tmp_path, monkeypatch):
    made = tmp_path / "new"
    monkeypatch.setattr(Path, "exists", lambda self: self != made)
    made.mkdir()
    durable.create_private_folders(made)
    assert made.is_dir()


def test_no_descriptor_is_left_open_where_the_disk_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", fail)
    before = len(os.listdir("/proc/self/fd"))
    for write in (durable.write_private, durable.replace_private):
        with pytest.raises(OSError, match="No space"):
            write(tmp_path / "file", b"content")
    with pytest.raises(OSError, match="No space"):
        durable.sync_folder(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
