"""Where a client keeps what outlives a run: its ledger, its log, its identity.

All of it lies outside the run folder, readable by its owner only: a run folder is meant to be
handed on, a ledger belongs to the client and its data set.
"""

import logging
import os
from pathlib import Path
from urllib.parse import quote

from privfed.errors import ConfigError


def default_state_folder() -> Path:
    """$PRIVFED_STATE, else $XDG_STATE_HOME/privfed, else ~/.local/state/privfed."""
    if chosen := os.environ.get("PRIVFED_STATE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "privfed"


def client_folder(state: Path, client: str, dataset: str) -> Path:
    """The folder of one client and data set."""
    return state / "clients" / _file_name("client id", client) / _file_name("dataset", dataset)


def ledger_path(state: Path, client: str, dataset: str) -> Path:
    """The ledger of one client and data set."""
    return client_folder(state, client, dataset) / "ledger.sqlite3"


def identity_path(state: Path, name: str) -> Path:
    """The secret identity of a party that a simulation runs here."""
    return state / "identities" / f"{_file_name('party', name)}.identity"


def opened_path(state: Path, run: str) -> Path:
    """Whose sum the clients of a run opened last."""
    return state / "opened" / f"{_file_name('run', run)}.json"


def results_folder(state: Path, run: str | None = None) -> Path:
    """Where a key holder that runs here keeps the last result of each run, or of one run."""
    folder = state / "key-holder"
    return folder if run is None else folder / _file_name("run", run)


def log_path(state: Path, client: str, dataset: str) -> Path:
    """The log of one client and data set."""
    return client_folder(state, client, dataset) / "client.log"


def local_logger(state: Path, client: str, dataset: str) -> logging.Logger:
    """A log on the client's own disk: the only place where the cause of a failure is written."""
    path = log_path(state, client, dataset)
    make_private_folder(path.parent)
    logger = logging.getLogger(f"privfed.client.{path}")
    if not logger.handlers:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        handler = logging.FileHandler(path, delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger


def make_private_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for its owner only."""
    for missing in reversed([folder, *folder.parents]):
        missing.mkdir(exist_ok=True, mode=0o700)


def _file_name(role: str, name: str) -> str:
    if not name or name != name.strip() or len(name) > 120:
        raise ConfigError(f"the {role} must be 1 to 120 characters without outer spaces: {name!r}")
    quoted = quote(name, safe=" -_.@")
    if len(quoted) > 240:
        raise ConfigError(f"the {role} is too long for a file name once it is quoted: {name!r}")
    return quoted.replace(".", "%2E", 1) if quoted.startswith(".") else quoted
