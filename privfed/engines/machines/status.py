"""What a node last wrote of itself, for its operator: it needs no model to be read."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from privfed.storage.durable import write_durably

_STATUS: Final = "node.json"


def keep_status(folder: Path, happened: Mapping[str, Any]) -> None:
    """Write what happened, when, and by which process.

    Raises:
        FileError: if it cannot be written.
    """
    values = {**happened, "at": time.time(), "process": os.getpid()}
    write_durably(folder / _STATUS, json.dumps(values).encode())


def status_of(folder: Path) -> dict[str, Any] | None:
    """What a node last wrote; None if it never did."""
    try:
        found: dict[str, Any] = json.loads((folder / _STATUS).read_bytes())
    except (OSError, ValueError):
        return None
    return found
