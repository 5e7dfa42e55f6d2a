"""Files and folders that survive a power cut: whole or not there, and their permissions."""

import os
import stat
from io import FileIO
from pathlib import Path

import pytest

from accountants.durable import (
    PRIVATE,
    append_durably,
    create_durably,
    create_private_folders,
    publish,
    sync_file,
    sync_folder,
    write_draft,
    write_durably,
)

WRITES = pytest.mark.parametrize("write", [write_draft, write_durably, create_durably])


def fail(*_):
    raise OSError(28, "No space left on device")


class Killed(BaseException):
    """Stands for a signal that ends the program."""


def kill(*_):
    raise Killed


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "folder"
    found.mkdir()
    return found


@pytest.fixture
def umask():
    """A function that sets it for this test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


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


# Written in place of what was there


def test_a_content_is_on_disk_before_its_name_and_its_name_before_the_return(folder, steps):
    (folder / "other").write_bytes(b"")
    write_durably(folder / "file", b"content", mode=PRIVATE)
    assert steps == [
        ("a file", b"content"),
        ("renamed", "file"),
        ("folder", ["file", "other"]),
    ]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("harm", [fail, kill])
def test_a_file_is_whole_before_and_after_it_is_replaced(folder, monkeypatch, step, harm):
    file = folder / "file"
    write_durably(file, b"one", mode=PRIVATE)
    monkeypatch.setattr(os, step, harm)
    with pytest.raises((OSError, Killed)):
        write_durably(file, b"two", mode=PRIVATE)
    assert file.read_bytes() == b"one"
    assert list(folder.iterdir()) == [file]
    monkeypatch.undo()
    write_durably(file, b"two", mode=PRIVATE)
    assert file.read_bytes() == b"two"


def test_what_a_killed_writer_left_under_the_name_of_a_draft_is_overwritten(folder):
    file, draft = folder / "file", folder / "file.part"
    draft.write_bytes(b"half of a longer one")
    write_durably(file, b"new", mode=PRIVATE, draft=draft)
    assert file.read_bytes() == b"new"
    assert list(folder.iterdir()) == [file]


def test_a_draft_that_is_no_file_is_left_as_it_is(folder):
    draft = folder / "file.part"
    draft.mkdir()
    with pytest.raises(IsADirectoryError):
        write_durably(folder / "file", b"new", mode=PRIVATE, draft=draft)
    assert list(folder.iterdir()) == [draft]


def test_a_draft_is_written_anew(folder, steps):
    draft = folder / "draft"
    for content in (b"a longer one", b"short", b""):
        write_draft(draft, content, mode=PRIVATE)
        assert draft.read_bytes() == content
    assert steps == [("a file", b"a longer one"), ("a file", b"short"), ("a file", b"")]


def test_what_another_library_wrote_is_synced_and_published(folder, steps):
    (folder / "draft").write_bytes(b"content")
    sync_file(folder / "draft")
    publish(folder / "draft", folder / "file")
    assert steps == [("a file", b"content"), ("renamed", "file"), ("folder", ["file"])]
    with pytest.raises(FileNotFoundError):
        sync_file(folder / "absent")


# Made where nothing was


def test_a_new_file_and_its_name_are_on_disk(folder, steps):
    create_durably(folder / "file", b"content", mode=PRIVATE)
    assert steps == [("a file", b"content"), ("folder", ["file"])]


@pytest.mark.parametrize("there", ["a file", "a folder", "a link to nothing"])
def test_a_new_file_replaces_nothing_and_follows_no_link(folder, tmp_path, there):
    path = folder / "file"
    if there == "a file":
        path.write_bytes(b"old")
    elif there == "a folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        create_durably(path, b"new", mode=PRIVATE)
    assert list(folder.iterdir()) == [path]
    assert not (tmp_path / "elsewhere").exists()
    assert there != "a file" or path.read_bytes() == b"old"


@pytest.mark.parametrize("harm", [fail, kill])
@pytest.mark.parametrize("step", ["fsync", "fchmod"])
def test_a_new_file_that_cannot_be_written_is_removed(folder, monkeypatch, step, harm):
    monkeypatch.setattr(os, step, harm)
    with pytest.raises((OSError, Killed)):
        create_durably(folder / "file", b"content", mode=PRIVATE)
    assert list(folder.iterdir()) == []


# Appended


def test_bytes_are_appended_and_on_disk(folder, steps):
    path = folder / "file"
    path.write_bytes(b"one")
    with FileIO(path, "r+") as file:
        append_durably(file, b" two", at=3)
        append_durably(file, b" three", at=7)
    assert steps == [("a file", b"one two"), ("a file", b"one two three")]


def test_what_a_kill_left_behind_the_whole_part_goes(folder):
    path = folder / "file"
    path.write_bytes(b"one and half of a longer o")
    with FileIO(path, "r+") as file:
        append_durably(file, b" two", at=3)
    assert path.read_bytes() == b"one two"


def test_bytes_that_are_only_written_in_part_are_an_error(folder):
    class Full(FileIO):
        def write(self, content):
            return super().write(content[:2])

    with Full(folder / "file", "w") as file, pytest.raises(OSError, match="No space left"):
        append_durably(file, b"content", at=0)


# Permissions


@WRITES
@pytest.mark.parametrize("bits", [0o600, 0o644, 0o640])
@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_permissions_are_those_asked_for_whatever_the_mask(folder, umask, write, bits, mask):
    umask(mask)
    write(folder / "file", b"content", mode=bits)
    assert mode(folder / "file") == bits


@WRITES
def test_without_permissions_the_mask_decides(folder, umask, write):
    for mask in (0, 0o022, 0o077):
        umask(mask)
        write(folder / f"file {mask}", b"content", mode=None)
        assert mode(folder / f"file {mask}") == 0o666 & ~mask


@WRITES
def test_permissions_are_never_wider_while_the_content_is_written(
    folder, umask, monkeypatch, write
):
    umask(0)
    seen, fchmod = [], os.fchmod

    def watch(descriptor, bits):
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fchmod(descriptor, bits)

    monkeypatch.setattr(os, "fchmod", watch)
    write(folder / "file", b"content", mode=0o644)
    assert seen == [0o600]


# Folders


def test_folders_are_their_owners_whatever_the_mask(tmp_path, umask):
    umask(0)
    create_private_folders(tmp_path / "new" / "deep")
    assert mode(tmp_path / "new") == mode(tmp_path / "new" / "deep") == 0o700


def test_folders_that_are_there_are_left_as_they_are(tmp_path, steps):
    (tmp_path / "there").mkdir(mode=0o755)
    create_private_folders(tmp_path / "there" / "new" / "deep")
    assert steps == [("there", ["new"]), ("new", ["deep"])]
    assert mode(tmp_path / "there") == 0o755
    steps.clear()
    create_private_folders(tmp_path / "there" / "new" / "deep")
    assert steps == []


def test_a_folder_that_another_process_made_meanwhile_is_taken(tmp_path, monkeypatch):
    made = tmp_path / "new"
    monkeypatch.setattr(Path, "exists", lambda self: self != made)
    made.mkdir()
    create_private_folders(made)
    assert made.is_dir()


def test_no_descriptor_is_left_open_where_the_disk_fails(folder, monkeypatch):
    monkeypatch.setattr(os, "fsync", fail)
    before = len(os.listdir("/proc/self/fd"))
    for number, write in enumerate((write_draft, write_durably, create_durably)):
        with pytest.raises(OSError, match="No space"):
            write(folder / f"file {number}", b"content", mode=PRIVATE)
    with pytest.raises(OSError, match="No space"):
        sync_folder(folder)
    assert len(os.listdir("/proc/self/fd")) == before
