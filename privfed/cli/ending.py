"""How the program ends, other than well: told to stop, refused, or broken. Each is one line.

What tells it to stop is in `accountants/stopping.py`, whose command ends in the same way.
"""

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from typer.core import TyperGroup

from accountants.stopping import exit_status
from privfed.errors import PrivfedError, UnforeseenError, is_failure
from privfed.storage.state_folder import default_state_folder, failures_folder, make_private_folder

_TOLD_BY_TYPER: Final = (typer.Exit, typer.Abort, *typer.BadParameter.__bases__)
"""The last is `UsageError`, of every wrong use of a command; typer has no public name for it."""


class Program(TyperGroup):
    """The commands. A command sets the root context's `obj` to its state folder, if it has one."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Args:
            ctx: of click, or of the click that typer has carried within itself since 0.26.

        Raises:
            typer.Exit: if a signal ended it.
            UnforeseenError: for what nobody raised on purpose.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            tell(str(error) or "stopped")
            raise typer.Exit(exit_status(error)) from None
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

    return isinstance(error, (PrivfedError, AccountingError, *_TOLD_BY_TYPER))
