"""Where a client keeps what outlives a run: ledger, log, identity, and its memory of rounds.

All of it lies outside the run folder, readable by its owner only: a run folder is meant to be
handed on, a ledger belongs to the client and its data set. What must survive that the state folder
is put back as it was (how far a ledger had come, whose sums were opened) lies in a second place.
"""

import contextlib
import logging
import os
from pathlib import Path
from urllib.parse import quote

from accountants import EarlierLedgers
from privfed.errors import ConfigError, FileError
from privfed.storage.durable import writing
from privfed.storage.own_log import OwnLog


def default_state_folder() -> Path:
    """$PRIVFED_STATE, else $XDG_STATE_HOME/privfed, else ~/.local/state/privfed."""
    if chosen := os.environ.get("PRIVFED_STATE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "privfed"


def default_anchor_folder() -> Path:
    """$PRIVFED_ANCHORS, else $XDG_DATA_HOME/privfed/anchors, else ~/.local/share/privfed/...."""
    if chosen := os.environ.get("PRIVFED_ANCHORS"):
        return Path(chosen)
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return data / "privfed" / "anchors"


def require_second_place(anchors: Path, *others: Path) -> None:
    """Refuse a second place that would be put back together with what it is to outlive.

    Args:
        anchors: the second place.
        others: state folder and run folder.

    Raises:
        ConfigError: if it is one of the others, or below one.
    """
    place = anchors.resolve()
    for other in others:
        if place.is_relative_to(other.resolve()):
            raise ConfigError(
                f"what clients must remember when {other} is put back as it was must lie outside "
                f"it, {anchors} does not; choose another folder ($PRIVFED_ANCHORS)"
            )


def client_folder(state: Path, client: str, dataset: str) -> Path:
    """The folder of one client and data set."""
    return state / "clients" / _file_name("client id", client) / _file_name("dataset", dataset)


def ledger_path(state: Path, client: str, dataset: str) -> Path:
    """The ledger of one client and data set.

    Another name than that of ledgers of the first version, `earlier_ledgers`, which are only read.
    """
    return client_folder(state, client, dataset) / "ledger-2.sqlite3"


def earlier_ledgers(state: Path, client: str, *, assume_unit: bool) -> EarlierLedgers:
    """The ledgers of the first version of one client, of whatever data set.

    Args:
        state: the state folder.
        client: public name.
        assume_unit: whether one with today's names counts in today's unit; see `EarlierLedgers`.
    """
    folder = state / "clients" / _file_name("client id", client)
    return EarlierLedgers(folder=folder, assume_unit=assume_unit)


def identity_path(state: Path, name: str) -> Path:
    """The secret identity of a party that a simulation runs here."""
    return state / "identities" / f"{_file_name('party', name)}.identity"


def opened_path(anchors: Path, run: str, client: str) -> Path:
    """Whose sums one client agreed to or opened in the rounds of a run; in the second place."""
    folder = anchors / "opened" / _file_name("run", run)
    return folder / f"{_file_name('client id', client)}.jsonl"


def results_folder(state: Path, run: str | None = None) -> Path:
    """Where a key holder that runs here keeps the last result of each run, or of one run."""
    folder = state / "key-holder"
    return folder if run is None else folder / _file_name("run", run)


def failures_folder(state: Path) -> Path:
    """Where the causes of failures lie that nobody foresaw; they may quote private text."""
    return state / "failures"


def log_path(state: Path, client: str, dataset: str) -> Path:
    """The log of one client and data set."""
    return client_folder(state, client, dataset) / "client.log"


def local_logger(state: Path, client: str, dataset: str) -> logging.Logger:
    """A log on the client's own disk: the only place where the cause of a failure is written."""
    path = log_path(state, client, dataset)
    logger = logging.getLogger(f"privfed.private_step.{path}")
    if not logger.handlers:
        with contextlib.suppress(FileError):  # the log says so when it is to be written
            make_private_folder(path.parent)
        logger.addHandler(OwnLog(path, f"client {client!r}"))
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger


def make_private_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for its owner only.

    Raises:
        FileError: if it cannot be made.
    """
    with writing(folder):
        for missing in reversed([folder, *folder.parents]):
            missing.mkdir(exist_ok=True, mode=0o700)


def _file_name(role: str, name: str) -> str:
    if not name or name != name.strip() or len(name) > 120:
        raise ConfigError(f"the {role} must be 1 to 120 characters without outer spaces: {name!r}")
    quoted = quote(name, safe=" -_.@")
    if len(quoted) > 240:
        raise ConfigError(f"the {role} is too long for a file name once it is quoted: {name!r}")
    return quoted.replace(".", "%2E", 1) if quoted.startswith(".") else quoted
