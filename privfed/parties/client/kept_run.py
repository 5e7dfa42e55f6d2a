"""What a client keeps of a run on its own disk, so that a restart costs nothing but time.

    runs/open                       the name of the run that is open
    runs/RUN/start                  the message that began it
    runs/RUN/left_out               clients that took no further part since
    runs/RUN/round-00003.safetensors  the adapter after the last round, and after the one before
    runs/RUN.PROPOSAL.closed        what the client said when it was over; .again: its operator let
                                    another run of these settings begin
    runs/.lock                      held by the process that plays it

Keys are not kept: a client that is restarted gets a new one.
"""

import fcntl
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

from privfed.errors import RunFolderError
from privfed.identity.names import is_hex
from privfed.methods.method import GlobalState
from privfed.parties.client.round import Progress
from privfed.storage.checkpoint import Checkpoint, load_latest, save_checkpoint
from privfed.storage.durable import write_durably, writing
from privfed.storage.state_folder import make_private_folder

_OPEN: Final = "open"
_START: Final = "start"
_LEFT_OUT: Final = "left_out"
_LOCK: Final = ".lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRun:
    """A run that is open.

    Attributes:
        run: identifier.
        start: the message that began it.
        left_out: clients that take no part (any more); None for those that it began without.
        progress: how far this client had come; None if it had not begun its first round.
        before: and before that round; None if nothing is kept of it.
    """

    run: str
    start: bytes
    left_out: tuple[str, ...] | None
    progress: Progress | None
    before: Progress | None


class RunStore(Protocol):
    """Where a client keeps a run."""

    def kept(self) -> KeptRun | None:
        """The run that is open, if there is one."""
        ...

    def begin(self, run: str, start: bytes) -> None:
        """Keep, durably, that a run is open; one in which nothing was released is forgotten."""
        ...

    def leave_out(self, run: str, names: Sequence[str]) -> None:
        """Keep, durably, who takes no part (any more)."""
        ...

    def save(self, run: str, progress: Progress) -> None:
        """Keep, durably, how far this client has come."""
        ...

    def close(self, run: str, proposal: str, message: bytes) -> None:
        """The run is over: what this client said at its end is kept, and nothing else."""
        ...

    def played(self, proposal: str) -> bool:
        """Whether a run of these settings is over; its operator allowed no other."""
        ...

    def closed(self, run: str) -> bytes | None:
        """What this client said at the end of a run; None if that is not over."""
        ...


class RunFiles:
    """The runs of one client and data set, on its own disk. One process at a time may have them.

    Args:
        folder: of the client.

    Raises:
        RunFolderError: if another process has them.
        FileError: if they cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "runs"
        make_private_folder(self._folder)
        with writing(self._folder):
            self._lock: IO[bytes] = (self._folder / _LOCK).open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise RunFolderError(
                f"another process plays a run on the data set in {folder}; wait for it, or stop it"
            ) from None

    def kept(self) -> KeptRun | None:
        """The run that is open, if there is one.

        Raises:
            RunFolderError: if it cannot be read.
        """
        try:
            if not (self._folder / _OPEN).exists():
                return None
            run = (self._folder / _OPEN).read_text()
            if not is_hex(run):
                raise ValueError("no name of a run")
            if self.closed(run) is not None:  # a crash came before it was forgotten
                self.give_up(run)
                return None
            start = (self._folder / run / _START).read_bytes()
            since = self._folder / run / _LEFT_OUT
            left_out = tuple(json.loads(since.read_bytes())) if since.exists() else None
        except (OSError, TypeError, ValueError) as error:
            raise RunFolderError(
                f"the run that is open in {self._folder} cannot be read ({type(error).__name__})"
            ) from error
        latest = load_latest(self._folder / run)
        before = None if latest is None else load_latest(self._folder / run, back=1)
        return KeptRun(
            run=run,
            start=start,
            left_out=left_out,
            progress=None if latest is None else _progress_of(latest),
            before=None if before is None else _progress_of(before),
        )

    def begin(self, run: str, start: bytes) -> None:
        """Keep, durably, that a run is open."""
        make_private_folder(self._folder / run)
        write_durably(self._folder / run / _START, start)
        write_durably(self._folder / _OPEN, run.encode())

    def leave_out(self, run: str, names: Sequence[str]) -> None:
        """Keep, durably, who takes no part (any more)."""
        write_durably(self._folder / run / _LEFT_OUT, json.dumps(list(names)).encode())

    def save(self, run: str, progress: Progress) -> None:
        """Keep, durably, how far this client has come; what was kept of later rounds goes."""
        save_checkpoint(self._folder / run, _checkpoint_of(progress))

    def close(self, run: str, proposal: str, message: bytes) -> None:
        """The run is over: what this client said at its end is kept, and nothing else."""
        write_durably(self._folder / f"{run}.{proposal}.closed", message)
        self.give_up(run)

    def played(self, proposal: str) -> bool:
        """Whether a run of these settings is over; its operator allowed no other."""
        return any(self._folder.glob(f"*.{proposal}.closed"))

    def allow_again(self, proposal: str) -> None:
        """Let another run of these settings begin. What the last one released stays counted."""
        with writing(self._folder):
            for path in self._folder.glob(f"*.{proposal}.closed"):
                path.rename(f"{path}.again")

    def closed(self, run: str) -> bytes | None:
        """What this client said at the end of a run; None if that is not over."""
        if not is_hex(run):
            return None
        endings = ("closed", "closed.again")
        found = [path for end in endings for path in self._folder.glob(f"{run}.*.{end}")]
        return found[0].read_bytes() if found else None

    def give_up(self, run: str) -> None:
        """Forget a run that does not go on. What it released stays in the ledger."""
        with writing(self._folder):
            (self._folder / _OPEN).unlink(missing_ok=True)
            shutil.rmtree(self._folder / run, ignore_errors=True)

    def release(self) -> None:
        """Let another process have them; the end of this process does so too."""
        self._lock.close()


def _checkpoint_of(progress: Progress) -> Checkpoint:
    return Checkpoint(
        round=progress.round,
        tensors=progress.state.tensors(),
        record={"public_range": progress.public_range},
    )


def _progress_of(kept: Checkpoint) -> Progress:
    try:
        state = GlobalState.of_tensors(kept.tensors)
        return Progress(
            round=kept.round,
            state=state,
            base=state.digest(),
            public_range=float(kept.record["public_range"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError("what is kept of a run must be as privfed wrote it") from error
