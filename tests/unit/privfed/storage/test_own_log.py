"""What may quote private text goes to the own log, or nowhere: on no stream, in no other log."""

import logging
import os
import shutil
import stat
import sys
import warnings

import pytest

from privfed.storage.own_log import OwnLog, kept_in, told_in

MARK = "patient Smith"
PANIC = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})


@pytest.fixture
def own(tmp_path):
    """A function that makes the log of a client, in a folder of its own."""

    def make(name="ada", path=None):
        path = path or tmp_path / name / "client.log"
        if not path.is_symlink():
            path.parent.mkdir(exist_ok=True)
        log = logging.Logger(f"test.{name}")
        log.addHandler(OwnLog(path, f"client {name!r}"))
        return log

    return make


@pytest.fixture
def elsewhere():
    """What reaches the handlers of everybody."""
    seen = []

    class Elsewhere(logging.Handler):
        def emit(self, record):
            seen.append(record.getMessage())

    handler = Elsewhere()
    logging.getLogger().addHandler(handler)
    yield seen
    logging.getLogger().removeHandler(handler)


def text_of(log):
    return log.handlers[0].path.read_text()


def failed(log):
    """What a client logs when it drops out."""
    try:
        raise ValueError(f"no such label: {MARK}")
    except ValueError:
        log.exception("round 1: did not take part, %s", MARK)


def full(tmp_path):
    path = tmp_path / "full.log"
    path.symlink_to("/dev/full")
    return path


def below_a_file(tmp_path):
    (tmp_path / "file").touch()
    return tmp_path / "file/client.log"


def removed(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    shutil.rmtree(folder)
    return folder / "client.log"


class TestALogThatCannotBeWritten:
    @pytest.mark.parametrize("place", [full, below_a_file, removed])
    def test_one_sentence_says_so_once_and_nothing_of_the_record(
        self, tmp_path, capfd, elsewhere, place
    ):
        path = place(tmp_path)
        log = logging.Logger("test")
        log.addHandler(OwnLog(path, "client 'ada'"))
        for _ in range(3):
            failed(log)
        assert capfd.readouterr() == (
            "",
            f"the log of client 'ada' cannot be written: make room at {path}, and let this user "
            "write there; what it would say is shown nowhere else\n",
        )
        assert not elsewhere

    def test_a_record_that_cannot_be_put_in_words(self, own, capfd):
        class Odd:
            def __str__(self):
                raise RuntimeError(MARK)

        own().error("%s", Odd())
        own("bob").error("%d", MARK)
        out, errors = capfd.readouterr()
        assert MARK not in out + errors
        assert errors.count("cannot be written") == 2

    def test_there_may_be_no_standard_error(self, tmp_path, monkeypatch, capfd):
        monkeypatch.setattr(sys, "stderr", None)
        log = logging.Logger("test")
        log.addHandler(OwnLog(full(tmp_path), "client 'ada'"))
        failed(log)
        assert capfd.readouterr() == ("", "")


def test_what_is_written_is_the_owners_alone(own):
    log = own()
    failed(log)
    assert "ERROR round 1: did not take part, patient Smith\nTraceback" in text_of(log)
    assert "ValueError: no such label: patient Smith" in text_of(log)
    assert stat.S_IMODE(log.handlers[0].path.stat().st_mode) == 0o600


def test_half_a_character_is_written(own):
    log = own()
    log.error("\ud83d")
    assert r"\ud83d" in text_of(log)


class TestABlock:
    @pytest.mark.parametrize("kind", [ValueError, MemoryError, PANIC])
    def test_its_failure_is_told_in_every_log_and_nowhere_else(self, own, capfd, elsewhere, kind):
        logs = [own("ada"), own("bob")]
        with told_in(logs, "round 7: did not take part"):
            raise kind(MARK)
        for log in logs:
            assert "ERROR round 7: did not take part\nTraceback" in text_of(log)
            assert MARK in text_of(log)
        assert capfd.readouterr() == ("", "")
        assert not elsewhere

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
    def test_the_wish_to_stop_passes(self, own, kind):
        with pytest.raises(kind), told_in([own()], "round 7: did not take part"):
            raise kind

    def test_what_libraries_say_is_shown_nowhere_else(
        self, own, capfd, elsewhere, recwarn, monkeypatch
    ):
        """As tokenizers do, which tell the length of a record that is too long."""
        log = own()
        shouting = logging.getLogger("test.shouting")
        stream = logging.StreamHandler(sys.stderr)
        shouting.addHandler(stream)
        before = os.fstat(1), os.fstat(2)
        kept_stream = open(1, "w", closefd=False)  # noqa: SIM115 - a program's own, none of pytest's
        monkeypatch.setattr(sys, "stdout", kept_stream)
        try:
            with kept_in([log]):
                shouting.critical("1: %s", MARK)
                logging.getLogger("test.quiet").critical("2: %s", MARK)
                warnings.warn(f"3: {MARK}", UserWarning, stacklevel=1)
                print("4:", MARK, file=sys.stderr)
                os.write(2, f"5: {MARK}\n".encode())
                print("6:", MARK)
                os.write(1, f"7: {MARK}\n".encode())
                kept_stream.write(f"8: {MARK}")  # half a line, in a stream that was kept
        finally:
            shouting.removeHandler(stream)
        assert capfd.readouterr() == ("", "")
        assert not elsewhere
        assert not recwarn.list
        for number in range(3, 9):
            assert f"{number}: {MARK}" in text_of(log)
        assert os.path.samestat(before[0], os.fstat(1)), "standard output is what it was"
        assert os.path.samestat(before[1], os.fstat(2)), "standard error is what it was"
        logging.getLogger("test.quiet").warning("heard again")
        print("printed again", flush=True)
        print("said again", file=sys.stderr)
        assert elsewhere == ["heard again"]
        out, errors = capfd.readouterr()
        assert out == "printed again\n"
        assert "said again" in errors

    @pytest.mark.parametrize("place", [full, below_a_file])
    def test_a_log_that_cannot_be_written_shows_none_of_it(self, tmp_path, capfd, place):
        log = logging.Logger("test")
        log.addHandler(OwnLog(place(tmp_path), "client 'ada'"))
        with told_in([log], "round 7: did not take part"):
            print(MARK, file=sys.stdout)
            print(MARK, file=sys.stderr)
            raise ValueError(MARK)
        out, errors = capfd.readouterr()
        assert out == ""
        assert MARK not in errors
        assert errors.count("\n") == 1

    def test_a_warning_that_is_an_error_fails_the_block(self, own):
        log = own()
        with told_in([log], "failed"):
            warnings.warn(MARK, UserWarning, stacklevel=1)
        assert "UserWarning: patient Smith" in text_of(log)
        assert "ERROR failed" in text_of(log)
