"""Under which data set each source of text was used here, so that no other name counts from zero.

A file in the node's state folder, of digests: what lies in a source is not in it, and it is never
sent. Not proof against a file that was changed and moved; it is against a mistake, and against a
public file that gives an old source a new name.
"""

import hashlib
import json
from pathlib import Path
from typing import Final

from privfed.errors import ConfigError
from privfed.storage.durable import write_durably
from privfed.storage.state_folder import make_private_folder

_FILE: Final = "sources.json"


def require_same_data_set(state: Path, source: Path, dataset: str) -> None:
    """Refuse a source, by its place or its content, that was used under another data set's name.

    Args:
        state: the state folder.
        source: file with the text.
        dataset: name under which the ledger counts.

    Raises:
        ConfigError: with the name under which it was used.
    """
    path = state / _FILE
    known: dict[str, str] = json.loads(path.read_bytes()) if path.exists() else {}
    with source.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    place = hashlib.sha256(str(source.resolve()).encode()).hexdigest()
    for key in (content, place):
        if known.get(key, dataset) != dataset:
            raise ConfigError(
                f"{source} was used as the data set {known[key]!r}, and would now be counted as "
                f"{dataset!r}, from zero. Where these are other records for a reason that you can "
                f"defend, take their entries out of {path}"
            )
    make_private_folder(state)
    write_durably(path, json.dumps({**known, content: dataset, place: dataset}).encode())
