"""Sockets between a party and the process that carries its bytes: on one machine, for one user."""

import contextlib
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from privfed.errors import ConfigError, MessageError
from privfed.protocol import streams

OWN: Final = "privfed-own-"
"""With what the names of such folders begin; nobody would call one of his so."""
_LONGEST_PATH: Final = 100
_LOOK_S: Final = 0.5


def remove_own(folder: Path) -> None:
    """Remove a private folder that a party made for a process that carries bytes, and no other."""
    if folder.name.startswith(OWN):
        shutil.rmtree(folder, ignore_errors=True)


def listening(path: Path, group: str | None = None) -> socket.socket:
    """A socket that its user alone can open, or a group too.

    Args:
        path: where it is made.
        group: name of the group; None for nobody else.

    Raises:
        ConfigError: if it cannot be made there.
    """
    if len(str(path)) > _LONGEST_PATH:
        raise ConfigError(
            f"the path of a socket must have at most {_LONGEST_PATH} characters, {path} has more; "
            "name a shorter one (socket)"
        )
    server = socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            server.bind(str(path))
        finally:
            os.umask(before)
        if group is not None:
            shutil.chown(path, group=group)
            path.chmod(0o660)
        server.listen(1)
    except (OSError, LookupError) as error:
        server.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"a socket must be possible at {path}, but: {reason}") from error
    server.settimeout(_LOOK_S)
    return server


def answer_all(
    server: socket.socket, answer: Callable[[bytes], bytes], over: Callable[[], bool]
) -> None:
    """Answer message after message, one at a time.

    Args:
        server: as `listening` makes it.
        answer: the reply to a message.
        over: whether it is time to end, asked between two messages.
    """
    while not over():
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        connection.settimeout(None)
        gone = contextlib.suppress(OSError, MessageError)  # whoever asked asks again
        with gone, connection, connection.makefile("rwb") as stream:
            while (message := streams.receive(stream)) is not None:
                streams.send(stream, answer(message))
