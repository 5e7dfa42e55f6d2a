"""The way from the hub to the nodes: a socket of the process that carries messages.

    hub                                   carrier
    {"ask": "present"}               ->   {"present": [NAME, ...]}
    {"ask": "exchange", "to": [NAME, ...], "timeout_s": S}, then each message
                                     ->   {"from": NAME}, PIECE and bytes, ..., WHOLE or LOST; ...;
                                          {"from": null}

Replies are kept in files until they are read, so that memory holds one of them, however many
clients there are.
"""

import json
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from privfed.canonical import canonical_json
from privfed.errors import EncryptionError, MessageError
from privfed.protocol import streams
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import HELLO

PIECE, WHOLE, LOST = b"p", b"w", b"l"
"""With what every frame of a reply begins: a piece follows, all came, or one did not come."""
_GREETING_S: Final = 60.0
_PAUSE_S: Final = 0.5
_CONNECT_S: Final = 60.0


class Spooled(Mapping[str, bytes]):
    """Replies by client, each in a file, read when it is asked for.

    Args:
        folder: private, in which they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=folder, prefix="replies-")
        self._files: dict[str, Path] = {}

    def keep(self, name: str, frames: Iterator[bytes]) -> None:
        """Keep a reply; one that breaks off, or is too long, is none."""
        path, length = Path(self._folder.name) / str(len(self._files)), 0
        with path.open("wb") as file:
            for frame in frames:
                length += len(frame)
                if length <= streams.MOST_BYTES:
                    file.write(frame[len(PIECE) :])
                if frame[:1] == LOST:
                    return
        if length <= streams.MOST_BYTES and name not in self._files:
            self._files[name] = path

    def drop(self, name: str) -> None:
        """Forget a reply, if there is one."""
        self._files.pop(name, None)

    def __getitem__(self, name: str) -> bytes:
        return self._files[name].read_bytes()

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files


class Carried:
    """The hub's end of that socket.

    Where the carrier died, nobody answered; it is started again by whoever watches it, and the
    aggregator asks again.

    Args:
        path: of the socket, in a private folder.
        timeout_s: how long a client may take for one message.
    """

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._stream: streams.Stream | None = None

    def present(self) -> list[str]:
        """Clients whose nodes are connected, sorted; nobody while the carrier is being started."""
        try:
            stream = self._connected()
            streams.send(stream, canonical_json({"ask": "present"}))
            return list(json.loads(_required(stream))["present"])
        except (OSError, MessageError, ValueError, LookupError, TypeError):
            self._stream = None
            return []

    def exchange(self, messages: Mapping[str, bytes]) -> Spooled:
        """Carry one message to each client, and the replies of those who answered in time."""
        replies = Spooled(self._path.parent)
        if not messages:
            return replies
        kinds = {statement_of(message).kind for message in messages.values()}
        timeout_s = _GREETING_S if kinds == {HELLO} else self._timeout_s
        try:
            stream = self._connected()
            asked = {"ask": "exchange", "timeout_s": timeout_s, "to": list(messages)}
            streams.send(stream, canonical_json(asked))
            for message in messages.values():
                streams.send(stream, message)
            while (name := json.loads(_required(stream))["from"]) is not None:
                replies.keep(name if name in messages else "", _until_whole(stream))
        except (OSError, MessageError, ValueError, LookupError, TypeError):
            self._stream = None
        replies.drop("")
        return replies

    def _connected(self) -> streams.Stream:
        deadline = time.monotonic() + _CONNECT_S
        while self._stream is None:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._path))
            except OSError:
                connection.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
            else:
                self._stream = connection.makefile("rwb")
                connection.close()  # the stream keeps it open
        return self._stream


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedLink:
    """A connection to a key holder that is a node like the clients' and opens no port.

    Attributes:
        carried: the way to the nodes.
        name: of the key holder.
    """

    carried: Carried
    name: str

    def ask(self, message: bytes) -> bytes:
        """Send one message and wait for the answer.

        Raises:
            EncryptionError: if none came.
        """
        reply = self.carried.exchange({self.name: message}).get(self.name)
        if reply is None:
            raise EncryptionError(
                f"the key holder {self.name!r} must be connected and answer, it did not; start "
                "it, then start the run again with resume: the round gets a new key"
            )
        return reply


def _until_whole(stream: streams.Stream) -> Iterator[bytes]:
    while (frame := _required(stream))[:1] == PIECE:
        yield frame
    yield frame


def _required(stream: streams.Stream) -> bytes:
    content = streams.receive(stream)
    if content is None:
        raise MessageError("the process that carries messages ended")
    return content
