"""Files that hold secrets: written once and closed to others, read only if they stayed so."""

import os
import stat
from pathlib import Path

from accountants import durable
from privfed.errors import IdentityError


def write_private(path: str | os.PathLike[str], content: bytes) -> None:
    """Write secrets to a new file that only its owner can read (mode 0600).

    Args:
        path: where nothing is yet, not even a link.
        content: the whole content; it is on disk when this returns.

    Raises:
        IdentityError: if something is already at `path` or it cannot be written; what this call
            had begun to write is removed.
    """
    write_new(path, content, mode=0o600)


def write_new(path: str | os.PathLike[str], content: bytes, *, mode: int) -> None:
    """Write a file that must not be there yet, whole or not at all.

    Args:
        path: where nothing is yet, not even a link.
        content: the whole content; it is on disk when this returns.
        mode: permission bits, whatever the umask; never wider while the content is written.

    Raises:
        IdentityError: if something is already at `path` or it cannot be written; what this call
            had begun to write is removed.
    """
    name = os.fspath(path)
    try:
        durable.create_durably(Path(path), content, mode=mode)
    except FileExistsError as error:
        raise IdentityError(
            f"a key, roster or certificate must go into a new file, {name!r} exists; "
            "choose another path"
        ) from error
    except (OSError, ValueError) as error:
        raise _unwritable(name, error) from error


def read_private(path: str | os.PathLike[str], *, most: int) -> bytes:
    """The content of a regular file that is this user's alone.

    Args:
        path: the file itself; a link to it is refused.
        most: the largest size in bytes that it may have.

    Raises:
        IdentityError: if there is no such file, it is a link, another user's, open to others, or
            larger than `most`.
    """
    name = os.fspath(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise IdentityError(
            f"a private file must be readable and no link, {name!r} is not: {error}; "
            "check the path and who owns the file"
        ) from error
    try:
        _check_closed(os.fstat(descriptor), name)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(most + 1)
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise IdentityError(
            f"a private file must have at most {most} bytes here, {name!r} has more; "
            "it must be another file, check the path"
        )
    return content


def _check_closed(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise IdentityError(
            f"a private file must be a regular file of this user, {name!r} is not; "
            "run as its owner, or check the path"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise IdentityError(
            f"a private file must be closed to everyone but its owner, {name!r} has "
            f"mode {mode:04o}; if nobody read it, chmod 600, otherwise make new keys"
        )


def _unwritable(name: str, error: Exception) -> IdentityError:
    return IdentityError(
        f"the folder of a new file must exist and be writable, {name!r} cannot be written: "
        f"{error}; make the folder or choose another path"
    )
