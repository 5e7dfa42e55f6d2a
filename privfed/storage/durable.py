"""Files that are there whole or not at all, with errors that say what to do.

How they come to survive a crash or a power cut: `accountants/durable.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from accountants import durable
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
    with writing(path):
        durable.write_durably(path, content, mode=None, draft=path.with_name(path.name + ".part"))


def replace_durably(source: Path, target: Path) -> None:
    """Rename a file that another library wrote, so that a crash leaves one of the two whole.

    Args:
        source: in the folder of `target`.
        target: what is there is replaced.

    Raises:
        FileError: as `write_durably`.
    """
    with writing(target):
        durable.sync_file(source)
        durable.publish(source, target)
