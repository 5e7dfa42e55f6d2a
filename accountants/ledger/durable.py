"""Files and folders that survive a power cut, for their owner only.

A new name is on disk when its folder was synced after it; a content when its file was.
"""

import os
import secrets
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """Write a file anew, readable by its owner only; its content is on disk when this returns.

    Raises:
        OSError: if it cannot be written; what is there then is of no use.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def replace_private(path: Path, content: bytes) -> None:
    """Put a file in the place of another, or of none: after a crash, either is whole.

    Raises:
        OSError: if it cannot be written; the file before it is still there.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        write_private(draft, content)
        publish(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def publish(draft: Path, path: Path) -> None:
    """Give a draft its name; on disk when this returns."""
    os.replace(draft, path)
    sync_folder(path.parent)


def create_private_folders(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for their owner only."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
        sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
