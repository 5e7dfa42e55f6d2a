"""Connections to a key holder: a process that this one starts, or an address.

The key holder is a party of its own. Started here it is a process of its own: no memory is shared,
and all that passes is signed messages over its standard input and output.
"""

import contextlib
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from privfed.errors import ConfigError, EncryptionError, MessageError
from privfed.protocol import streams

_STOP_SECONDS: Final = 5.0
_TIMEOUT_SECONDS: Final = 3600.0
_MOST_PORT_DIGITS: Final = 5
_RESUME: Final = "start the run again with resume: the round gets a new key"


class ProcessLink:
    """A key holder on this machine, started as `python -m privfed key-holder`.

    Args:
        identity: file with its secret identity.
        roster: file.
        authority: public key (hex) by which the roster is trusted.
        results: folder where it keeps the last result of each run.
        min_clients: fewest contributors that it decrypts for.
    """

    def __init__(
        self, *, identity: Path, roster: Path, authority: str, results: Path, min_clients: int
    ) -> None:
        command = [sys.executable, "-m", "privfed", "key-holder"]
        command += ["--identity", str(identity), "--roster", str(roster)]
        command += ["--authority", authority, "--results", str(results)]
        command += ["--min-clients", str(min_clients)]
        # In a session of its own: Ctrl-C at a terminal asks this process to end, not both at once.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    @property
    def process_id(self) -> int:
        """Of the key holder."""
        return self._process.pid

    def ask(self, message: bytes) -> bytes:
        """Send one message and wait for the answer.

        Raises:
            EncryptionError: if the process has ended, or its answer is no message.
        """
        source, sink = self._process.stdout, self._process.stdin
        if source is None or sink is None:
            raise EncryptionError("the key holder's process has no pipes")
        try:
            streams.send(sink, message)
            reply = streams.receive(source)
        except (OSError, ValueError, MessageError) as error:
            raise self._stopped(error) from error
        except KeyboardInterrupt:
            # It would wait for somebody to read its answer. What it decrypted is on its disk.
            self._process.kill()
            raise
        if reply is None:
            raise self._stopped("no answer came")
        return reply

    def _stopped(self, reason: object) -> EncryptionError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        return EncryptionError(
            f"the key holder's process must answer, but: {reason} (exit status "
            f"{self._process.poll()}); its own message stands above. Then {_RESUME}"
        )

    def close(self) -> None:
        """End the process: it stops when its input does."""
        if self._process.stdin is not None:
            # A process that ended early left bytes that nobody will read; `ask` has told so.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class AddressLink:
    """A key holder that listens elsewhere (`privfed key-holder --listen`).

    Args:
        address: "host:port".

    Raises:
        ConfigError: if it is no address, or nobody answers there.
    """

    def __init__(self, address: str) -> None:
        host, port = parse_address(address)
        try:
            self._socket = socket.create_connection((host, port), timeout=_TIMEOUT_SECONDS)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"a key holder must listen at {address}, but: {error}; start `privfed key-holder "
                f"--listen {address}` there"
            ) from error
        self._stream = self._socket.makefile("rwb")

    def ask(self, message: bytes) -> bytes:
        """Send one message and wait for the answer.

        Raises:
            EncryptionError: if the connection is gone.
        """
        try:
            streams.send(self._stream, message)
            reply = streams.receive(self._stream)
        except (OSError, ValueError, MessageError) as error:
            raise EncryptionError(
                f"the connection to the key holder must stay open, but: {error}; {_RESUME}"
            ) from error
        if reply is None:
            raise EncryptionError(f"the key holder closed the connection; {_RESUME}")
        return reply

    def close(self) -> None:
        """Close the connection."""
        # After a break there are bytes left that nobody will read; `ask` has told so.
        with contextlib.suppress(OSError):
            self._stream.close()
        self._socket.close()


def parse_address(address: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        ConfigError: if it is not "host:port".
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    numbered = port.isascii() and port.isdecimal() and len(port) <= _MOST_PORT_DIGITS
    if not host or not numbered or int(port) >= 1 << 16:
        raise ConfigError(
            f"an address must be host:port, got {address!r}; write it like [::1]:7000"
        )
    return host, int(port)
