"""A process that carries bytes for a party, started and watched by it.

It ends when its standard input does, so that none is left behind by whatever ends the party. One
that dies is started again, after a pause that grows.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from accountants.durable import PRIVATE, write_durably

_SHORTEST_S: Final = 1.0
_LONGEST_S: Final = 30.0
_STOP_S: Final = 15.0
_PASSED: Final = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TMPDIR", "TZ")
_QUIET: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "PYTHONUNBUFFERED": "1",
    "MALLOC_ARENA_MAX": "2",
}


def _environment(home: Path) -> dict[str, str]:
    """Of the process: what Python needs, and nothing else that its party was given."""
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    return {**passed, **_QUIET, "HOME": str(home), "FLWR_HOME": str(home / "flower")}


class Carrier:
    """A module that is run as a process, with its settings in a file.

    Args:
        module: that is run.
        settings: JSON values.
        folder: private, for the settings and for what the process logs.
        said: told each line that the process prints, and that it died.
    """

    def __init__(
        self,
        module: str,
        settings: Mapping[str, Any],
        folder: Path,
        said: Callable[[str], None],
    ) -> None:
        name = module.rpartition(".")[2]
        self._command = [sys.executable, "-m", module, str(folder / f"{name}.json")]
        self._log = folder / f"{name}.log"
        self._home = folder
        self._said = said
        self._ending = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        content = json.dumps(dict(settings)).encode()
        write_durably(folder / f"{name}.json", content, mode=PRIVATE)
        self._watch = threading.Thread(target=self._keep_running, daemon=True)

    @property
    def process_id(self) -> int | None:
        """Of the process that runs now; None between two."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def start(self) -> None:
        """Start the process, and again whenever it dies."""
        self._watch.start()

    def stop(self) -> None:
        """End the process; it finishes what it is at, or is killed."""
        self._ending.set()
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._watch.is_alive():
            self._watch.join(_STOP_S)

    def _keep_running(self) -> None:
        pause = _SHORTEST_S
        while not self._ending.is_set():
            told = self._run_once()
            if self._ending.is_set():
                return
            pause = _SHORTEST_S if told else min(2 * pause, _LONGEST_S)
            self._said(f"the process that carries messages ended; it starts again in {pause:g} s")
            self._ending.wait(pause)

    def _run_once(self) -> bool:
        """One life of the process; whether it said anything but its last words."""
        with self._log.open("ab") as log:
            os.chmod(self._log, 0o600)
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_environment(self._home),
                start_new_session=True,  # Ctrl-C ends the party, which ends this
            )
            if self._ending.is_set() and self._process.stdin is not None:
                self._process.stdin.close()  # it was told to end while it started
            lines = 0
            if self._process.stdout is not None:
                for line in self._process.stdout:
                    lines += 1
                    self._said(line.strip())
            self._process.wait()
            return lines > 1
