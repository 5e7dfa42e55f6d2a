"""The files of one run. A run folder is meant to be handed on: no key and no ledger is in it.

run.json             settings, versions, numbers of every round
start.safetensors    the initial adapter with its frozen factors
beginning.message    what all clients stated before the first round, with their signatures
checkpoints/         the last two, for a resume
adapter/             the global adapter in PEFT format
ledgers/CLIENT.json  exports
report.json, report.html
.lock                held by the process that drives the run
"""

import fcntl
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

from privfed.errors import RunFolderError
from privfed.storage.checkpoint import Checkpoint, load_latest, save_checkpoint
from privfed.storage.durable import write_durably, writing

SCHEMA: Final = 1
_PACKAGES = (
    "privfed",
    "torch",
    "transformers",
    "peft",
    "opacus",
    "tenseal",
    "dp-accounting",
    "numpy",
)
START: Final = "start.safetensors"
BEGINNING: Final = "beginning.message"
_LOCK: Final = ".lock"
_BEFORE_THE_FIRST: Final = (
    *("checkpoints", START, f"{START}.part", BEGINNING, f"{BEGINNING}.part", _LOCK),
)
"""What may lie in the folder of a run that was killed before its first checkpoint."""
_LONGEST_SHOWN: Final = 60


class RunFolder:
    """The folder of one run.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.adapter = path / "adapter"
        self.start = path / START
        self._lock: IO[bytes] | None = None

    def claim(self) -> None:
        """Take a new or empty folder.

        Raises:
            RunFolderError: if anything is in it.
            FileError: if it cannot be made or written.
        """
        with writing(self.path):
            # A run that failed before it began leaves its lock file and nothing else.
            taken = self.path.exists() and (
                not self.path.is_dir() or any(p.name != _LOCK for p in self.path.iterdir())
            )
        if taken:
            raise RunFolderError(
                f"the output folder {self.path} is not empty: choose another one, or resume the "
                "run in it (--resume)"
            )
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self.take_lock()

    def latest(self, settings: Mapping[str, Any]) -> Checkpoint | None:
        """The checkpoint to resume from; None if the run died before its first.

        Raises:
            RunFolderError: if there is no run here, or one with other settings.
            FileError: if the folder cannot be written.
        """
        if not self.path.is_dir():
            raise RunFolderError(f"there is no run to resume in {self.path}")
        self.take_lock()
        try:
            return self._matching(settings)
        except BaseException:
            self.release()
            raise

    def _matching(self, settings: Mapping[str, Any]) -> Checkpoint | None:
        checkpoint = load_latest(self.path / "checkpoints")
        if checkpoint is None:
            strange = [p.name for p in self.path.iterdir() if p.name not in _BEFORE_THE_FIRST]
            if strange:
                raise RunFolderError(
                    f"{self.path} holds no checkpoint to resume from, but {sorted(strange)}"
                )
            return None
        changed = differences(checkpoint.record["settings"], _as_json(settings))
        if changed:
            raise RunFolderError(
                f"the run in {self.path} has other settings ({'; '.join(changed)}); resume it "
                "with its own settings, or choose another output folder"
            )
        return checkpoint

    def release(self) -> None:
        """Let another process have the folder; the end of this process does so too."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def take_lock(self) -> None:
        """Two processes that drive one run would decrypt two sums of the same round."""
        with writing(self.path):
            self._lock = (self.path / _LOCK).open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            self._lock = None
            raise RunFolderError(
                f"another process is running in {self.path}; wait for it, or choose another folder"
            ) from None

    def is_complete(self) -> bool:
        """Whether the run here wrote all it leaves."""
        path = self.path / "run.json"
        try:
            return path.is_file() and json.loads(path.read_text())["status"] == "complete"
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def keep_beginning(self, message: bytes) -> None:
        """Write the message that began the run."""
        write_durably(self.path / BEGINNING, message)

    def beginning(self) -> bytes:
        """The message that began the run.

        Raises:
            RunFolderError: if it is not there.
        """
        try:
            return (self.path / BEGINNING).read_bytes()
        except OSError as error:
            raise RunFolderError(
                f"{self.path / BEGINNING} must hold the message that began the run, it cannot be "
                f"read ({error.strerror}); put it back"
            ) from error

    def save(self, checkpoint: Checkpoint) -> None:
        """Make a round durable, then write `run.json` from it."""
        save_checkpoint(self.path / "checkpoints", checkpoint)
        self.write_json("run.json", run_record(checkpoint.record, "running"))

    def write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file whole or not at all."""
        path = self.path / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(values, indent=2, allow_nan=False) + "\n"
        write_durably(path, text.encode())

    def write_text(self, name: str, text: str) -> None:
        """Write a text file whole or not at all."""
        write_durably(self.path / name, text.encode())


@contextmanager
def only_one_in(path: Path) -> Iterator[None]:
    """Keep other processes away from a run folder, which is made if it is missing.

    Raises:
        RunFolderError: if another process has it.
    """
    folder = RunFolder(path)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    folder.take_lock()
    try:
        yield
    finally:
        folder.release()


def ledger_file_name(client: str) -> str:
    """Name of a ledger export below the run folder."""
    return f"ledgers/{quote(client, safe=' -_.@')}.json"


def run_record(record: Mapping[str, Any], status: str) -> dict[str, Any]:
    """What `run.json` holds."""
    return {"schema": SCHEMA, "status": status, **record, "versions": software_versions()}


def software_versions() -> dict[str, str]:
    """Versions of what took part in the numbers."""
    return dict(_versions())


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def differences(old: object, new: object, key: str = "") -> list[str]:
    """The settings that differ, by their dotted keys, each with both of its (public) values."""
    old, new = _by_name(old), _by_name(new)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            difference
            for name in sorted({*old, *new})
            for difference in differences(
                old.get(name), new.get(name), f"{key}.{name}" if key else name
            )
        ]
    return [] if old == new else [f"{key} was {_shown(old)} and is {_shown(new)}"]


def _by_name(value: object) -> object:
    """The list of clients under their ids; any other value itself."""
    if isinstance(value, list) and all(
        isinstance(item, Mapping) and "id" in item for item in value
    ):
        return {item["id"]: item for item in value}
    return value


def _shown(value: object) -> str:
    """A value as JSON, which for a long list is cut."""
    text = json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
