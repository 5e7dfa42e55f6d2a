"""How the program ends, other than well: told to stop, refused, or broken. Each is one line.

Where a signal is ignored when a program starts, as SIGINT is for the background jobs of a shell
without job control, Python does not answer it. So both signals that ask a program to end get a
handler here, whatever was inherited; it raises `Stopped`, so that every `finally` block runs.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from typer.core import TyperGroup

from privfed.errors import PrivfedError, Stopped, UnforeseenError, is_failure
from privfed.storage.state_folder import default_state_folder, failures_folder, make_private_folder

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_SIGNALLED: Final = 128
"""The exit status of a program that a signal ended is this plus its number, as in a shell."""


class Program(TyperGroup):
    """The commands. A command sets the root context's `obj` to its state folder, if it has one."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command.

        Raises:
            click.exceptions.Exit: if a signal ended it.
            UnforeseenError: for what nobody raised on purpose.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            number = error.signal if isinstance(error, Stopped) else signal.SIGINT
            tell(str(error) or "stopped")
            raise click.exceptions.Exit(_SIGNALLED + number) from None
        except BaseException as error:
            if _is_meant(error) or not is_failure(error):
                raise
            raise UnforeseenError(unforeseen(error, ctx.obj or default_state_folder())) from None


@contextlib.contextmanager
def failures_kept() -> Iterator[None]:
    """Let what fails in threads and destructors within a block be one line too.

    Python would print its traceback, which may quote private text.
    """

    def keep(failed: Any) -> None:
        if failed.exc_value is not None:
            tell(unforeseen(failed.exc_value, default_state_folder()))

    hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook = sys.unraisablehook = keep
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = hooks


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise `Stopped` within a block; a second one ends the program at once.

    Only for the main thread.
    """

    def stop(number: int, _frame: object) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tell(line: str) -> None:
    """Print one line on standard error."""
    Console(stderr=True).print(
        f"privfed: {line}", style="red", highlight=False, markup=False, soft_wrap=True
    )


def unforeseen(error: BaseException, state: Path) -> str:
    """Keep the whole traceback in a new private file below the state folder, and name that file.

    Returns:
        One line, in which nothing is of the error but its class.
    """
    kind = type(error).__name__
    path = failures_folder(state) / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    try:
        make_private_folder(path.parent)
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        with open(descriptor, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        return f"{kind}: nobody foresaw it, and its traceback cannot be written to {path}"
    return (
        f"{kind}: nobody foresaw it; the traceback is in {path}. It may quote private text: read "
        "it before you show it to anybody"
    )


def _is_meant(error: BaseException) -> bool:
    from accountants.errors import AccountingError

    meant = (PrivfedError, AccountingError, click.ClickException, click.Abort)
    return isinstance(error, (*meant, click.exceptions.Exit))
