"""Files that are there whole or not at all, also after a crash or a power cut.

What is new is written beside the final name, flushed to the disk and renamed over the old; then the
folder is flushed too, since the name is kept there. A kill at any moment leaves the old or the new
file, and once a call has returned it is the new one.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from privfed.errors import FileError


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what the system says against writing in this block into one error that says what to do.

    Args:
        place: the file or folder that the block writes.

    Raises:
        FileError: for an OSError, or what safetensors makes of one.
    """
    try:
        yield
    except FileError:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(
            f"{place} must be writable, and is not ({reason}); make room there, let this user "
            "write there, or choose another place"
        ) from error


def write_durably(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; it is on the disk when this returns.

    Args:
        path: in a folder that exists; what is there is replaced.
        content: all of it.

    Raises:
        FileError: if it cannot be written; what was at `path` is still there, unless only the
            flush of the folder failed.
    """
    half_made = path.with_name(path.name + ".part")
    with writing(path):
        with half_made.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _rename(half_made, path)


def replace_durably(source: Path, target: Path) -> None:
    """Rename a file that another library wrote, so that a crash leaves one of the two whole.

    Args:
        source: in the folder of `target`.
        target: what is there is replaced.

    Raises:
        FileError: as `write_durably`.
    """
    with writing(target):
        with source.open("rb+") as file:
            os.fsync(file.fileno())
        _rename(source, target)


def _rename(source: Path, target: Path) -> None:
    os.replace(source, target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
