"""Files and folders that survive a power cut: each is there whole, or not at all.

A content is on the disk when its file was synced; a name when its folder was synced after it. So
what is new is written beside the final name, synced and renamed over the old, and then the folder
is synced. A kill at any moment leaves the old file or the new one, and once a call has returned it
is the new one. Everything here raises OSError as the system does; who calls says what that means.
"""

import errno
import os
import secrets
from contextlib import suppress
from io import FileIO
from pathlib import Path

PRIVATE = 0o600
"""Permission bits of a file that is its owner's alone."""


def write_durably(
    path: Path, content: bytes, *, mode: int | None, draft: Path | None = None
) -> None:
    """Put a file in the place of another, or of none; it is on the disk when this returns.

    Args:
        path: in a folder that exists.
        content: all of it.
        mode: permission bits, whatever the umask; None for those that the umask leaves.
        draft: where it is written first, in the folder of `path`. By default each call has a name
            of its own, so that writers at the same moment do not meet; one name for all keeps
            what killed writers left behind from piling up.

    Raises:
        OSError: if it cannot be written; what was at `path` is still there, unless only the sync of
            the folder failed.
    """
    if draft is None:
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        write_draft(draft, content, mode=mode)
        publish(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def create_durably(path: Path, content: bytes, *, mode: int | None) -> None:
    """Write a file that must not be there yet; it is on the disk when this returns.

    Args:
        path: where nothing is, not even a link, in a folder that exists.
        content: all of it.
        mode: as in `write_durably`; never wider while the content is written.

    Raises:
        FileExistsError: if something is at `path`; it is left as it is.
        OSError: if it cannot be written; what this call had begun to write is removed.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(path, flags, _narrow(mode))
    try:
        _fill(descriptor, content, mode)
        sync_folder(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def append_durably(file: FileIO, content: bytes, *, at: int) -> None:
    """Write behind the first bytes of a file, over all that stands there; on the disk after it.

    Args:
        file: open for writing, unbuffered; whoever else may write to it must be locked out.
        content: all of it.
        at: how many bytes are kept. Where a kill left part of a content, that is behind them.

    Raises:
        OSError: if it cannot be written; the bytes before `at` are still there.
    """
    file.truncate(at)
    file.seek(at)
    if file.write(content) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file.fileno())


def write_draft(draft: Path, content: bytes, *, mode: int | None) -> None:
    """Write a file anew, for `publish`; its content is on the disk when this returns.

    Args:
        draft: what is there is overwritten.
        content: all of it.
        mode: as in `write_durably`.

    Raises:
        OSError: if it cannot be written; what is there then is of no use.
    """
    _fill(os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, _narrow(mode)), content, mode)


def publish(draft: Path, path: Path) -> None:
    """Give a draft its name; on the disk when this returns.

    Args:
        draft: synced, by `write_draft`, or by `sync_file` where another library wrote it.
        path: in the same folder; what is there is replaced.
    """
    os.replace(draft, path)
    sync_folder(path.parent)


def create_private_folders(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for their owner only."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
        sync_folder(each.parent)


def sync_file(path: Path) -> None:
    """Bring the content of a file to the disk, whoever wrote it."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _narrow(mode: int | None) -> int:
    """Permission bits to open a new file with; the umask takes its own off."""
    return 0o666 if mode is None else PRIVATE


def _fill(descriptor: int, content: bytes, mode: int | None) -> None:
    """Write all of a file, give it its permissions, sync and close it."""
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        if mode is not None:
            os.fchmod(descriptor, mode)
        os.fsync(descriptor)
