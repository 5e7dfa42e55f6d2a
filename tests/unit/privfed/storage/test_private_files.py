"""Files that hold secrets: written once, closed to others, and read only if they stayed so."""

import os
import stat

import pytest

from accountants import durable
from privfed.errors import IdentityError
from privfed.storage import private_files
from privfed.storage.private_files import read_private, write_new, write_private


def test_round_trip_and_mode(tmp_path):
    path = tmp_path / "secret"
    write_private(path, b"content")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_private(path, most=7) == b"content"


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_the_umask_does_not_matter(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_private(tmp_path / "private", b"x")
        write_new(tmp_path / "public", b"x", mode=0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "secret"
    write_private(path, b"first")
    with pytest.raises(IdentityError, match="choose another path"):
        write_private(path, b"second")
    assert path.read_bytes() == b"first"


def test_no_link_is_followed_when_writing(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(IdentityError, match="new file"):
        write_private(tmp_path / "link", b"x")
    assert not (tmp_path / "target").exists()


def test_a_missing_folder(tmp_path):
    with pytest.raises(IdentityError, match="make the folder"):
        write_private(tmp_path / "none" / "secret", b"x")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_what_failed_half_way_is_removed(tmp_path, monkeypatch, error):
    def fail(descriptor):
        raise error

    monkeypatch.setattr(private_files.os, "fsync", fail)
    expected = IdentityError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_private(tmp_path / "secret", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_folder_cannot_be_flushed_is_removed(tmp_path, monkeypatch):
    def fail(folder):
        raise OSError("disk full")

    monkeypatch.setattr(durable, "sync_folder", fail)
    with pytest.raises(IdentityError, match="disk full"):
        write_private(tmp_path / "secret", b"x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o666, 0o601])
def test_a_file_open_to_others_is_refused(tmp_path, mode):
    path = tmp_path / "secret"
    write_private(path, b"x")
    path.chmod(mode)
    with pytest.raises(IdentityError, match=f"mode {mode:04o}"):
        read_private(path, most=10)


def test_a_link_is_not_read(tmp_path):
    write_private(tmp_path / "secret", b"x")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(IdentityError, match="no link"):
        read_private(tmp_path / "link", most=10)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    for name in ("pipe", "folder"):
        with pytest.raises(IdentityError, match="regular file of this user"):
            read_private(tmp_path / name, most=10)


def test_a_file_of_another_user_is_not_read(tmp_path, monkeypatch):
    write_private(tmp_path / "secret", b"x")
    monkeypatch.setattr(private_files.os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(IdentityError, match="of this user"):
        read_private(tmp_path / "secret", most=10)


def test_a_missing_or_too_long_file(tmp_path):
    with pytest.raises(IdentityError, match="check the path"):
        read_private(tmp_path / "none", most=10)
    with pytest.raises(IdentityError, match="check the path"):
        read_private("a\0b", most=10)
    write_private(tmp_path / "long", b"x" * 11)
    with pytest.raises(IdentityError, match="at most 10 bytes"):
        read_private(tmp_path / "long", most=10)


def test_no_descriptor_is_left_open(tmp_path):
    write_private(tmp_path / "secret", b"x")
    (tmp_path / "secret").chmod(0o644)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(IdentityError):
            read_private(tmp_path / "secret", most=10)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_was_written_is_on_disk_when_it_returns(tmp_path, disk_steps):
    write_private(tmp_path / "secret", b"seven b")
    assert disk_steps == [("file", 7), "folder"]
