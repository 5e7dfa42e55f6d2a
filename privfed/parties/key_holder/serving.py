"""The key holder's loop: one message in, one message out, until the stream ends.

What it refuses it refuses with a signed "refusal" that names the reason, and goes on: a bad message
costs that message, whatever it makes go wrong. Reasons that privfed did not write itself stay in
the key holder's own log, a file beside its results.
"""

import fcntl
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Final

from privfed.errors import EncryptionError, PrivfedError
from privfed.identity.keys import Identity
from privfed.parties.key_holder.key_holder import KeyHolder
from privfed.protocol import streams
from privfed.protocol.signing import refusal
from privfed.storage.durable import writing
from privfed.storage.own_log import OwnLog

LOG: Final = logging.getLogger("privfed.key_holder")
_IDLE_SECONDS: Final = 3600.0
_FIRST_SECONDS: Final = 30.0
_FIRST_BYTES: Final = 1 << 20
_LOCK_ATTEMPTS: Final = 100
_LOCK_SECONDS: Final = 0.1


def answer(holder: KeyHolder, identity: Identity, message: bytes) -> bytes:
    """The key holder's answer, or its signed refusal."""
    return _answered(holder, identity, message)[0]


def _answered(holder: KeyHolder, identity: Identity, message: bytes) -> tuple[bytes, bool]:
    """The answer, and whether the message was accepted."""
    try:
        return holder.receive(message), True
    except PrivfedError as error:
        LOG.warning("refused: %s", error)
        reason = f"{type(error).__name__}: {error}"
    except Exception as error:
        LOG.exception("failed at a message")
        reason = f"{type(error).__name__}: see the key holder's log"
    return refusal(identity, message, reason), False


@contextmanager
def only_holder_of(results: Path) -> Iterator[None]:
    """Keep other key holders away from a results folder: two could decrypt one round twice.

    Waits a little for one that is about to end, as after a crash of the aggregator.

    Raises:
        EncryptionError: if another one stays.
        FileError: if the folder cannot be written.
    """
    with writing(results):
        results.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (results / ".lock").open("wb")
    with lock:
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if attempt == _LOCK_ATTEMPTS - 1:
                    raise EncryptionError(
                        f"another key holder uses {results}; stop it, or give this one a folder "
                        "of its own and other runs"
                    ) from error
                time.sleep(_LOCK_SECONDS)
        yield


@contextmanager
def logged_in(results: Path) -> Iterator[None]:
    """Keep the key holder's log in its results folder, and show none of it elsewhere."""
    log, before = OwnLog(results / "key-holder.log", "the key holder"), LOG.propagate
    LOG.addHandler(log)
    LOG.propagate = False
    try:
        yield
    finally:
        LOG.propagate = before
        LOG.removeHandler(log)


def serve(
    holder: KeyHolder, identity: Identity, source: streams.Stream, sink: streams.Stream
) -> None:
    """Answer every message of a stream."""
    while (message := streams.receive(source)) is not None:
        streams.send(sink, answer(holder, identity, message))


def serve_address(
    holder: KeyHolder, identity: Identity, host: str, port: int
) -> ThreadingTCPServer:
    """A server of one message at a time; call `serve_forever` on it.

    A connection is given little until it has shown a message that the key holder accepts: who
    recorded none can neither keep the aggregator out nor make the key holder read much.

    Raises:
        OSError: if the address cannot be bound.
    """
    one_at_a_time = threading.Lock()

    class Handler(StreamRequestHandler):
        timeout = _FIRST_SECONDS

        def handle(self) -> None:
            try:
                most, known = _FIRST_BYTES, False
                while (message := streams.receive(self.rfile, most)) is not None:
                    with one_at_a_time:
                        reply, accepted = _answered(holder, identity, message)
                    streams.send(self.wfile, reply)
                    known = known or accepted
                    if not known:
                        return
                    most = streams.MOST_BYTES
                    self.connection.settimeout(_IDLE_SECONDS)
            except (PrivfedError, OSError) as error:
                LOG.warning("connection from %s ended: %s", self.client_address, error)

    class Server(ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
            """Python would print the traceback."""
            LOG.exception("connection from %s failed", client_address)

    return Server((host, port), Handler)
