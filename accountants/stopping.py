"""How a program is told to end: SIGINT and SIGTERM, whatever it inherited.

Where a signal is ignored when a program starts, as SIGINT is for the background jobs of a shell
without job control, Python does not answer it. So both signals that ask a program to end get a
handler here; it raises `Stopped`, so that every `finally` block runs.
"""

import contextlib
import signal
from collections.abc import Iterator
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_SIGNALLED: Final = 128


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM came, and the program ends in good order.

    Whoever knows how far things had come puts a sentence that says so into `args`.

    Attributes:
        signal: which of the two.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = signal.Signals(number)


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


def exit_status(error: KeyboardInterrupt) -> int:
    """That of a program which a signal ended: 128 plus its number, as in a shell."""
    return _SIGNALLED + (error.signal if isinstance(error, Stopped) else signal.SIGINT)
