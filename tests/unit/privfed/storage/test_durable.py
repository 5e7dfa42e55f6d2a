"""A file is replaced whole or not at all, and is on the disk afterwards."""

import os
import subprocess
import sys

import pytest

from privfed.errors import FileError
from privfed.storage.durable import replace_durably, write_durably, writing


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
    with pytest.raises(FileError, match="target must be writable"):
        replace_durably(tmp_path / "absent", tmp_path / "target")


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileError, match="No such file"):
        write_durably(tmp_path / "absent" / "target", b"new")


SMALL_FILES = """
import resource, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from privfed.storage.durable import write_durably, writing
target = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
"""
"""No file may grow beyond 1000 bytes, to a writer as a disk that is full: in a process of its own,
since what a test prints may go to a file too."""


class TestWhatTheSystemSays:
    """Every way to fail is one FileError, which names the file, the reason and what to do."""

    @pytest.mark.parametrize(
        ("line", "name", "said"),
        [
            ("write_durably(target, bytes(2000))", "the old file", "File too large"),
            (
                "with writing(target): save_file({'a': np.zeros(500, np.float32)}, target)",
                "state",
                "Error while serializing: I/O error: File too large (os error 27)",
            ),
        ],
    )
    def test_no_room_leaves_what_was_there(self, tmp_path, line, name, said):
        """The class of safetensors' own error is another one."""
        target = tmp_path / name
        target.write_bytes(b"old")
        told = subprocess.run(
            [sys.executable, "-c", f"{SMALL_FILES}{line}", str(target)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.stderr.splitlines()[-1] == (
            f"privfed.errors.FileError: {target} must be writable, and is not (File too large); "
            "make room there, let this user write there, or choose another place"
        ).replace("File too large", said)
        if name == "the old file":
            assert target.read_bytes() == b"old"

    @pytest.mark.parametrize("place", ["file/below", "folder"])
    def test_a_path_that_cannot_be_a_file(self, tmp_path, place):
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()
        with pytest.raises(FileError, match=f"{place} must be writable, and is not"):
            write_durably(tmp_path / place, b"new")

    def test_other_errors_pass(self, tmp_path):
        with pytest.raises(ValueError, match="mine"), writing(tmp_path):
            raise ValueError("mine")
