"""The log of one party, on its own disk, and nothing of it anywhere else.

What goes wrong while private text is read may quote that text: an exception of a library, a
warning, a message on standard error. All of it belongs in the party's own log. Python would show
it elsewhere: `logging` prints a record that it cannot write, with its traceback, and records that
have no handler; `warnings`, libraries and a loss of one's own write to the standard streams that
all parties share.
"""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

from privfed.errors import is_failure

_STREAMS: Final = (
    ("stdout", 1, contextlib.redirect_stdout),
    ("stderr", 2, contextlib.redirect_stderr),
)
"""Python's name of a standard stream, the descriptor that other code uses, what leads it away."""


class OwnLog(logging.Handler):
    """Appends to a file that only its owner can read.

    A record that cannot be written, as on a full disk, is lost: one fixed sentence says so, once.
    The file is opened anew for each record, so nothing waits in a buffer to be written later.

    Args:
        path: of the file, which is made when there is something to write.
        owner: whose log it is, for that sentence.
    """

    def __init__(self, path: Path, owner: str) -> None:
        super().__init__()
        self.path = path
        self._owner = owner
        self._told = False
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def open(self) -> TextIO:
        """The file, to append to.

        Raises:
            OSError: if it cannot be opened.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return open(
            os.open(self.path, flags, 0o600), "a", encoding="utf-8", errors="backslashreplace"
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record, or lose it."""
        try:
            text = self.format(record)
            with self.open() as file:
                file.write(f"{text}\n")
        except Exception:  # noqa: BLE001 - whatever it is, it may quote the record
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002 - it is not shown
        """Say once that the log cannot be written, and nothing of the record."""
        if self._told:
            return
        self._told = True
        with contextlib.suppress(Exception):
            sys.stderr.write(
                f"the log of {self._owner} cannot be written: make room at {self.path}, and let "
                "this user write there; what it would say is shown nowhere else\n"
            )


@contextlib.contextmanager
def told_in(logs: Sequence[logging.Logger], what: str) -> Iterator[None]:
    """End a block that fails: why is told in these logs, and nowhere else.

    What libraries log, warn of or print within the block is not shown either; warnings, and what
    was printed, are in the first of the logs.

    Args:
        logs: of the parties whose private text the block reads, with an `OwnLog` each.
        what: failed, for the log; public words.
    """
    failure: BaseException | None = None
    with kept_in(logs):
        try:
            yield
        except BaseException as error:
            if not is_failure(error):
                raise
            failure = error
    if failure is not None:
        for log in logs:
            log.error(what, exc_info=failure)


@contextlib.contextmanager
def kept_in(logs: Sequence[logging.Logger]) -> Iterator[None]:
    """Let nothing that libraries say within a block be shown: their loggers are off meanwhile.

    Args:
        logs: get the warnings; the first gets what was printed.
    """
    before = logging.root.manager.disable
    caught: list[warnings.WarningMessage] = []
    try:
        logging.disable(logging.CRITICAL)
        with warnings.catch_warnings(record=True) as caught, _printed_to(logs[0]):
            yield
    finally:
        logging.disable(before)
        for warning in caught:
            for log in logs:
                log.warning("%s: %s", warning.category.__name__, warning.message)


@contextlib.contextmanager
def _printed_to(log: logging.Logger) -> Iterator[None]:
    """Lead the standard streams to a log's file: Python's, and the descriptors of other code."""
    with contextlib.ExitStack() as stack:
        file = _file_of(log)
        stack.callback(_whatever_the_disk_says, file.close)
        for name, descriptor, redirected in _STREAMS:
            flushed = getattr(sys, name).flush if getattr(sys, name) else bool
            _whatever_the_disk_says(flushed)
            stack.enter_context(redirected(file))
            with contextlib.suppress(OSError):  # a program may have no such stream
                stack.enter_context(_descriptor_to(file, descriptor))
            stack.callback(_whatever_the_disk_says, flushed)  # half a line of who kept the stream
        yield


@contextlib.contextmanager
def _descriptor_to(file: TextIO, descriptor: int) -> Iterator[None]:
    kept = os.dup(descriptor)
    try:
        os.dup2(file.fileno(), descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


def _file_of(log: logging.Logger) -> TextIO:
    for handler in log.handlers:
        if isinstance(handler, OwnLog):
            with contextlib.suppress(OSError):
                return handler.open()
    return open(os.devnull, "w", encoding="utf-8")


def _whatever_the_disk_says(call: Callable[[], object]) -> None:
    with contextlib.suppress(OSError, ValueError):  # full; closed
        call()
