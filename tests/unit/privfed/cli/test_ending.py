"""However the program ends, it is one line, and what may be private lies in a private file."""

import gc
import signal
import stat
import sys
import threading

import pytest
import typer
from typer.testing import CliRunner

from accountants import BudgetExceededError
from accountants.stopping import Stopped
from privfed.cli import ending
from privfed.cli.ending import Program, tell, unforeseen
from privfed.errors import ConfigError, UnforeseenError

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
PANIC = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
"""What a panic in Rust is in Python; the real class cannot be imported."""

UNFORESEEN = (
    "{}: nobody foresaw it; the traceback is in {}. It may quote private text: read it before you "
    "show it to anybody"
)


def ended(error, state=None, *, options=()):
    """The result of a program whose only command raises this and knows no options."""
    app = typer.Typer(cls=Program)

    @app.callback()
    def place(context: typer.Context):
        context.obj = state

    @app.command()
    def fail():
        raise error

    return CliRunner().invoke(app, ["fail", *options])


class TestAProgram:
    @pytest.mark.parametrize(
        "error",
        [
            ConfigError("refused"),
            BudgetExceededError("over", epsilon=5.0, allowed=4.0),
            PermissionError("patient Smith"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_what_was_raised_on_purpose_stays_and_else_only_its_class(self, error, tmp_path):
        result = ended(error, tmp_path / "own")
        meant = not isinstance(error, PermissionError)
        assert type(result.exception) is (type(error) if meant else UnforeseenError)
        assert "patient" not in str(result.exception)
        assert (tmp_path / "own").exists() is not meant

    def test_a_panic_of_a_library_in_rust_is_a_failure(self, tmp_path):
        result = ended(PANIC("patient Smith"), tmp_path / "own")
        assert type(result.exception) is UnforeseenError
        (told,) = (tmp_path / "own/failures").iterdir()
        assert str(result.exception) == UNFORESEEN.format("PanicException", told)

    def test_without_a_state_folder_it_is_the_usual_one(self, tmp_path):
        result = ended(ValueError("patient Smith"))
        (told,) = (tmp_path / "state/failures").iterdir()
        assert str(told) in str(result.exception)

    def test_a_wrong_use_of_a_command_is_told_by_the_command_line_itself(self):
        result = ended(PermissionError("never reached"), options=["--bogus"])
        assert result.exit_code == 2
        assert "--bogus" in result.output

    @SIGNALS
    def test_a_signal_is_the_exit_status_and_says_how_far_it_came(self, number):
        stopped = Stopped(number)
        stopped.args = ("stopped in round 3",)
        result = ended(stopped)
        assert (result.exit_code, result.stderr) == (128 + number, "privfed: stopped in round 3\n")

    def test_ctrl_c_without_a_handler_is_a_signal_too(self):
        result = ended(KeyboardInterrupt())
        assert (result.exit_code, result.stderr) == (130, "privfed: stopped\n")


class TestWhatNobodyForesaw:
    def test_the_file_is_private_and_holds_everything(self, tmp_path):
        try:
            raise ZeroDivisionError("patient Smith")
        except ZeroDivisionError as error:
            line = unforeseen(error, tmp_path / "state")
        (told,) = (tmp_path / "state/failures").iterdir()
        assert line == UNFORESEEN.format("ZeroDivisionError", told)
        assert stat.S_IMODE(told.stat().st_mode) == 0o600
        assert stat.S_IMODE(told.parent.stat().st_mode) == 0o700
        assert "patient Smith" in told.read_text()
        assert "test_the_file_is_private" in told.read_text()

    def test_a_second_one_in_the_same_second_is_added(self, tmp_path, monkeypatch):
        monkeypatch.setattr(ending.time, "strftime", lambda form: "20260102-030405")
        lines = {unforeseen(ValueError(text), tmp_path) for text in ("first", "second \ud83d")}
        assert len(lines) == 1
        (told,) = (tmp_path / "failures").iterdir()
        assert told.name.startswith("20260102-030405-")
        assert "first" in told.read_text()
        assert "second \\ud83d" in told.read_text()

    def test_nowhere_to_tell_it(self, tmp_path):
        (tmp_path / "file").touch()
        line = unforeseen(ValueError("patient Smith"), tmp_path / "file")
        assert line.startswith("ValueError: nobody foresaw it, and its traceback cannot be written")
        assert "patient" not in line


class TestOutsideOfACommand:
    def test_a_thread_that_fails_is_told_in_a_private_file(self, tmp_path, capfd):
        def broken():
            raise ValueError("patient Smith")

        with ending.failures_kept():
            thread = threading.Thread(target=broken)
            thread.start()
            thread.join()
        (told,) = (tmp_path / "state/failures").iterdir()
        assert capfd.readouterr() == ("", f"privfed: {UNFORESEEN.format('ValueError', told)}\n")
        assert "patient Smith" in told.read_text()

    def test_so_is_what_fails_in_a_destructor(self, tmp_path, capfd):
        class Broken:
            def __del__(self):
                raise ValueError("patient Smith")

        with ending.failures_kept():
            Broken()
            gc.collect()
        (told,) = (tmp_path / "state/failures").iterdir()
        assert capfd.readouterr() == ("", f"privfed: {UNFORESEEN.format('ValueError', told)}\n")

    def test_afterwards_the_hooks_are_those_of_before(self):
        before = threading.excepthook, sys.unraisablehook
        with pytest.raises(ZeroDivisionError), ending.failures_kept():
            raise ZeroDivisionError
        assert (threading.excepthook, sys.unraisablehook) == before


def test_a_line_is_not_wrapped_and_not_read_as_markup(capfd):
    line = "[red]" + 300 * "x" + "[/y]"
    tell(line)
    assert capfd.readouterr() == ("", f"privfed: {line}\n")
