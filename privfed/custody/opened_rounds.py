"""Whose sum was opened in the last round, kept over a crash.

A client that crashes after it opened a round's sum may be asked for the round again, under a new
key. The difference of two sums of one round with different contributors is somebody's update, so
the second sum must have the contributors of the first: clients send the same committed numbers
again, and the same sum comes out.
"""

import json
from pathlib import Path

from privfed.durable import write_durably, writing
from privfed.errors import EncryptionError


class OpenedRounds:
    """The last opened round of one run and its contributors, in a file.

    Args:
        path: of the file; its folder is made if missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def contributors_of(self, round_number: int) -> tuple[str, ...] | None:
        """Contributors of the sum that was opened in this round; None if none was.

        Raises:
            EncryptionError: if a later round was opened already, or the file is damaged.
        """
        if not self._path.exists():
            return None
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            last, contributors = int(kept["round"]), tuple(map(str, kept["contributors"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EncryptionError(
                f"the record of opened rounds {self._path} cannot be read; start a new run"
            ) from error
        if last > round_number:
            raise EncryptionError(f"round {round_number} is over: round {last} was opened already")
        return contributors if last == round_number else None

    def require(self, round_number: int, contributors: tuple[str, ...]) -> None:
        """Record durably that this sum is about to be opened.

        Raises:
            EncryptionError: if a sum of other contributors was opened in this round.
        """
        known = self.contributors_of(round_number)
        if known is not None and known != contributors:
            raise EncryptionError(
                f"round {round_number} was opened as the sum of {list(known)} before; a sum of "
                f"{list(contributors)} would show by its difference what single clients sent, and "
                "is not opened"
            )
        if known is None:
            self._write({"round": round_number, "contributors": list(contributors)})

    def _write(self, values: dict[str, object]) -> None:
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._path, json.dumps(values).encode())
