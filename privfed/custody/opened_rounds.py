"""What one client must never forget of a run: whose sums it agreed to, and which rounds are closed.

The difference of two sums of one round with different contributors is somebody's update. So a
client agrees to one set of contributors in a round, for ever, whatever else is put back as it was:
its state folder, the run folder, the key holder's results. A round that was given up is closed: the
client never again encrypts, agrees or opens in it.

One file per client and run, which only grows, by one line of JSON at a time:

    {"clients": ["east", "north", "west"]}     who may contribute; the first line
    {"round": 1, "absent": []}                 agreed to, or opened, the sum of all but these
    {"round": 2, "closed": {...}}              given up, and why

A line is on the disk before the client acts on it. So a last line that is not whole, after a kill
or a power cut, was never acted on, and is dropped. Whatever else does not read is refused.
"""

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from accountants import durable
from privfed.errors import EncryptionError


@dataclass(slots=True, kw_only=True)
class _Kept:
    """The lines of a file.

    Attributes:
        clients: who may contribute, sorted.
        sums: contributors by round.
        closed: why, by round.
        size: bytes of all whole lines.
    """

    clients: tuple[str, ...]
    sums: dict[int, tuple[str, ...]] = field(default_factory=dict)
    closed: dict[int, dict[str, Any]] = field(default_factory=dict)
    size: int

    @classmethod
    def read(cls, content: bytes) -> "_Kept":
        """Raises ValueError, KeyError or TypeError for what is no such file."""
        first, *lines = content[: content.rfind(b"\n") + 1].splitlines()
        clients = json.loads(first)["clients"]
        kept = cls(clients=tuple(map(str, clients)), size=content.rfind(b"\n") + 1)
        for line in lines:
            values = json.loads(line)
            number = values["round"]
            if type(number) is not int or number in kept.closed:
                raise ValueError("no number, or a line about a closed round")
            if "closed" in values:
                kept.closed[number] = dict(values["closed"])
            elif number in kept.sums or not set(values["absent"]) <= set(clients):
                raise ValueError("a second sum of one round, or one of strangers")
            else:
                absent = frozenset(values["absent"])
                kept.sums[number] = tuple(name for name in kept.clients if name not in absent)
        return kept

    def require_not_over(self, number: int) -> None:
        """Refuse a closed round, and one that the client left behind without a sum."""
        if number in self.closed:
            raise EncryptionError(
                f"round {number} was given up and is closed: nothing more is encrypted, agreed to "
                "or opened in it; go on with the next round"
            )
        last = max((*self.sums, *self.closed), default=0)
        if number < last and number not in self.sums:
            raise EncryptionError(
                f"round {number} is over: this client was in round {last} already"
            )


class OpenedRounds:
    """The memory of one client in one run. Make one with `create`, or for a resume with `resume`.

    Nothing is kept in this object: each call reads the file, under a lock, so that two processes
    of one client cannot agree to two sums either.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def create(cls, path: Path, clients: Sequence[str]) -> "OpenedRounds":
        """Begin the memory of a new run.

        Args:
            path: of the file, which must not exist; its folder is made if missing.
            clients: who may contribute.

        Raises:
            EncryptionError: if there is one already, or it cannot be written.
        """
        line = _line({"clients": sorted(clients)})
        try:
            durable.create_private_folders(path.parent)
            durable.create_durably(path, line, mode=durable.PRIVATE)
        except OSError as error:
            raise EncryptionError(
                f"a client must be able to remember whose sums it opened, {path} cannot be made: "
                f"{error.strerror}; make the folder writable, or choose another ($PRIVFED_ANCHORS)"
            ) from error
        return cls(path)

    @classmethod
    def resume(cls, path: Path) -> "OpenedRounds":
        """The memory of a run that goes on.

        Raises:
            EncryptionError: if it is missing, cannot be written, or is damaged.
        """
        memory = cls(path)
        with memory._locked():
            return memory

    def contributors_of(self, round_number: int) -> tuple[str, ...] | None:
        """Contributors of the sum that was agreed to or opened in this round; None if none was.

        Raises:
            EncryptionError: if the file cannot be read.
        """
        with self._locked() as (_, kept):
            return kept.sums.get(round_number)

    def why_closed(self, round_number: int) -> dict[str, Any] | None:
        """What was recorded when this round was closed; None if it was not.

        Raises:
            EncryptionError: if the file cannot be read.
        """
        with self._locked() as (_, kept):
            return kept.closed.get(round_number)

    def require_not_over(self, round_number: int) -> None:
        """Refuse a round that is closed, or was left behind.

        Raises:
            EncryptionError: if it is, or the file cannot be read.
        """
        with self._locked() as (_, kept):
            kept.require_not_over(round_number)

    def require(self, round_number: int, contributors: tuple[str, ...]) -> None:
        """Record durably that this sum is about to be agreed to or opened.

        Raises:
            EncryptionError: if a sum of other contributors was in this round, if the round is over,
                or if this cannot be recorded.
        """
        with self._locked() as (file, kept):
            kept.require_not_over(round_number)
            known = kept.sums.get(round_number, contributors)
            if known != contributors:
                raise EncryptionError(
                    f"round {round_number} was opened or agreed to as the sum of {list(known)}; a "
                    f"sum of {list(contributors)} would show by its difference what single clients "
                    "sent, and is not opened"
                )
            summed = frozenset(contributors)
            if not summed <= set(kept.clients):
                raise EncryptionError(
                    f"a sum must be one of clients of this run, {list(contributors)} are not: "
                    f"it began with {list(kept.clients)}"
                )
            if round_number not in kept.sums:
                absent = [name for name in kept.clients if name not in summed]
                self._append(file, kept, {"round": round_number, "absent": absent})

    def close(self, round_number: int, why: Mapping[str, Any]) -> None:
        """Record durably that this client is done with a round, whether or not it opened it.

        Args:
            round_number: a round that is closed already stays as it was recorded first.
            why: JSON values, kept with it.

        Raises:
            EncryptionError: if this cannot be recorded.
        """
        with self._locked() as (file, kept):
            if round_number not in kept.closed:
                self._append(file, kept, {"round": round_number, "closed": dict(why)})

    @contextmanager
    def _locked(self) -> Iterator[tuple[FileIO, _Kept]]:
        try:
            file = FileIO(self._path, "r+")
        except OSError as error:
            raise EncryptionError(
                f"a client must remember whose sums it opened in this run, its record {self._path} "
                f"cannot be used: {error.strerror}; name the folder in which the run was begun "
                "($PRIVFED_ANCHORS), or start a new run"
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                kept = _Kept.read(file.readall())
            except OSError as error:
                raise EncryptionError(
                    f"the record of opened rounds {self._path} cannot be read: {error.strerror}"
                ) from error
            except (ValueError, KeyError, TypeError) as error:
                raise EncryptionError(
                    f"the record of opened rounds {self._path} is damaged; start a new run"
                ) from error
            yield file, kept

    def _append(self, file: FileIO, kept: _Kept, values: Mapping[str, Any]) -> None:
        try:
            durable.append_durably(file, _line(values), at=kept.size)
        except OSError as error:
            raise EncryptionError(
                f"the record of opened rounds {self._path} cannot be written: {error.strerror}; "
                "nothing was agreed to or opened"
            ) from error


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"
