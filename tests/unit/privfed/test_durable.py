"""A file is replaced whole or not at all, and is on the disk afterwards."""

import os

import pytest

from privfed.durable import replace_durably, write_durably


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "report.json"
    write_durably(path, b"old")
    return path


def made_of(path, content):
    source = path.with_suffix(".new")
    source.write_bytes(content)
    replace_durably(source, path)


WAYS = pytest.mark.parametrize("write", [write_durably, made_of])


@WAYS
def test_a_file_is_replaced_whole(target, write):
    write(target, b"new")
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


@WAYS
def test_the_file_is_flushed_whole_before_the_rename_and_the_folder_after_it(
    target, write, disk_steps
):
    disk_steps.clear()
    write(target, bytes(10))
    assert disk_steps == [("file", 10), "rename", "folder"]


class Killed(BaseException):
    """Stands for kill -9."""


@WAYS
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_kill_before_the_rename_leaves_the_old_file(target, write, step, monkeypatch):
    def killed(*arguments):
        raise Killed

    monkeypatch.setattr(os, step, killed)
    with pytest.raises(Killed):
        write(target, b"new")
    assert target.read_bytes() == b"old"


@WAYS
def test_a_full_disk_is_an_error_and_leaves_the_old_file(target, write, monkeypatch):
    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write(target, b"new")
    assert target.read_bytes() == b"old"


def test_what_a_killed_writer_left_is_overwritten(target):
    target.with_name("report.json.part").write_bytes(b"half of a longer one")
    write_durably(target, b"new")
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


def test_a_missing_source_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        replace_durably(tmp_path / "absent", tmp_path / "target")


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_durably(tmp_path / "absent" / "target", b"new")
