"""How far a run has come, on the aggregator's own disk: what was stated, and no adapter.

One file, written whole or not at all after every round, so that an aggregator that is started again
goes on from there.
"""

import base64
import json
from pathlib import Path
from typing import Final

from privfed.errors import MessageError, RunFolderError
from privfed.parties.aggregator.reached import Reached
from privfed.protocol.ready import Facts
from privfed.reports.run_record import RunRecord
from privfed.storage.durable import write_durably, writing

SCHEMA: Final = 1


class ReachedFile:
    """The file.

    Args:
        path: in a folder that is made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, reached: Reached) -> Reached:
        """Make durable how far a run has come; returns what was kept.

        Raises:
            FileError: if it cannot be written; what was kept before is still there.
        """
        values = {
            "schema": SCHEMA,
            "base": reached.base,
            "released": reached.released,
            "record": reached.record.to_json(),
            "facts": {name: facts.to_json() for name, facts in reached.facts.items()},
            "opened": {
                name: base64.b64encode(message).decode() for name, message in reached.opened.items()
            },
        }
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(self._path, json.dumps(values, allow_nan=False).encode() + b"\n")
        return reached

    def load(self) -> Reached | None:
        """How far the run had come; None if none has begun.

        Raises:
            RunFolderError: if it cannot be read.
        """
        try:
            values = json.loads(self._path.read_bytes())
            if values["schema"] != SCHEMA:
                raise ValueError(f"schema {values['schema']}")
            return Reached(
                base=values["base"],
                released=values["released"],
                record=RunRecord.from_json(values["record"]),
                opened={
                    name: base64.b64decode(one, validate=True)
                    for name, one in values["opened"].items()
                },
                facts={name: Facts.from_json(one) for name, one in values["facts"].items()},
            )
        except FileNotFoundError:
            return None
        except (
            OSError,
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
            MessageError,
        ) as error:
            raise RunFolderError(
                f"{self._path} must say how far the run has come, it cannot be read "
                f"({type(error).__name__}); put it back, or start a new run"
            ) from error
