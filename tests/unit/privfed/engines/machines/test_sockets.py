"""Sockets on one machine, for one user: message after message, one at a time."""

import contextlib
import grp
import os
import socket
import stat
import threading

import pytest

from privfed.engines.machines import sockets
from privfed.engines.machines.sockets import answer_all, listening
from privfed.errors import ConfigError
from privfed.protocol import streams


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(sockets, "_LOOK_S", 0.02)


@contextlib.contextmanager
def asking(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        with client.makefile("rwb") as stream:
            yield stream


def ask(path, message):
    with asking(path) as stream:
        streams.send(stream, message)
        return streams.receive(stream)


class Answering:
    """A party that answers at a path until it is told to end."""

    def __init__(self, path, answer=lambda message: message[::-1]):
        self.path, self.over = path, threading.Event()
        self._server = listening(path)
        arguments = (self._server, answer, self.over.is_set)
        self._thread = threading.Thread(target=answer_all, args=arguments, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self.over.set()
        self._thread.join(10)
        self._server.close()
        assert not self._thread.is_alive()


class TestTheSocket:
    def test_is_its_users_alone(self, tmp_path):
        with listening(tmp_path / "s"):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600

    def test_other_files_of_the_process_are_made_as_before(self, tmp_path):
        before = os.umask(0o027)
        try:
            listening(tmp_path / "s").close()
            with pytest.raises(ConfigError, match="must be possible"):
                listening(tmp_path / "none/s")
            assert os.umask(0o027) == 0o027
        finally:
            os.umask(before)

    def test_takes_the_place_of_one_that_was_left(self, tmp_path):
        listening(tmp_path / "s").close()
        with Answering(tmp_path / "s"):
            assert ask(tmp_path / "s", b"abc") == b"cba"

    def test_a_path_that_is_too_long_is_refused_before_anything_is_made(self, tmp_path):
        """The system would cut it, or say less."""
        path = tmp_path / ("x" * 101)
        with pytest.raises(ConfigError, match="at most 100 characters.*socket"):
            listening(path)
        assert not path.exists()

    def test_the_longest_is_allowed(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        from pathlib import Path

        listening(Path("x" * 100)).close()

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(ConfigError, match="a socket must be possible at .*/none/s"):
            listening(tmp_path / "none/s")


class TestAnswering:
    def test_message_after_message_and_connection_after_connection(self, tmp_path):
        with Answering(tmp_path / "s"):
            with asking(tmp_path / "s") as stream:
                for message in (b"abc", b"", b"de"):
                    streams.send(stream, message)
                    assert streams.receive(stream) == message[::-1]
            assert ask(tmp_path / "s", b"xyz") == b"zyx"

    def test_who_breaks_off_stops_nobody_else(self, tmp_path):
        """In the middle of a message, and before its answer."""
        with Answering(tmp_path / "s"):
            with asking(tmp_path / "s") as stream:
                stream.write(b"\x09\x00\x00\x00\x00\x00\x00\x00abc")
            with asking(tmp_path / "s") as stream:
                streams.send(stream, b"x" * 3_000_000)
            with asking(tmp_path / "s") as stream:
                stream.write(b"\xff" * 8)
            assert ask(tmp_path / "s", b"abc") == b"cba"

    def test_a_slow_message_is_waited_for(self, tmp_path):
        """Longer than it looks whether it is over."""
        with Answering(tmp_path / "s"), asking(tmp_path / "s") as stream:
            stream.write(b"\x02\x00\x00\x00\x00\x00\x00\x00a")
            stream.flush()
            threading.Event().wait(0.1)
            stream.write(b"b")
            stream.flush()
            assert streams.receive(stream) == b"ba"

    def test_it_ends_between_two_connections(self, tmp_path):
        """Also after an answer that ended it."""
        over = threading.Event()

        def last(message):
            over.set()
            return b"goodbye"

        with listening(tmp_path / "s") as server:
            arguments = (server, last, over.is_set)
            thread = threading.Thread(target=answer_all, args=arguments, daemon=True)
            thread.start()
            assert ask(tmp_path / "s", b"the end") == b"goodbye"
            thread.join(10)
            assert not thread.is_alive()

    def test_one_that_is_over_answers_nobody(self, tmp_path):
        with listening(tmp_path / "s") as server:
            answer_all(server, lambda _: pytest.fail("asked"), lambda: True)

    def test_what_the_party_raises_ends_it(self, tmp_path):
        """It is no fault of a connection."""
        raised = []

        def fails(_):
            raise ConfigError("not prepared")

        def serve(server):
            try:
                answer_all(server, fails, lambda: False)
            except ConfigError as error:
                raised.append(str(error))

        with listening(tmp_path / "s") as server:
            thread = threading.Thread(target=serve, args=(server,), daemon=True)
            thread.start()
            assert ask(tmp_path / "s", b"x") is None
            thread.join(10)
        assert raised == ["not prepared"]


def test_a_group_may_open_it_too(tmp_path):
    group = grp.getgrgid(os.getgid()).gr_name
    with sockets.listening(tmp_path / "own") as alone:
        assert alone.fileno() >= 0
        assert (tmp_path / "own").stat().st_mode & 0o777 == 0o600
    with sockets.listening(tmp_path / "shared", group):
        found = (tmp_path / "shared").stat()
        assert (found.st_mode & 0o777, found.st_gid) == (0o660, os.getgid())
    with pytest.raises(ConfigError, match="no-such-group"):
        sockets.listening(tmp_path / "none", "no-such-group")


def test_only_a_folder_that_is_its_own_is_removed(tmp_path):
    own, other = tmp_path / f"{sockets.OWN}hub-x", tmp_path / "privfed"
    for folder in (own, other):
        folder.mkdir()
        (folder / "file").write_text("x")
        sockets.remove_own(folder)
    assert not own.exists()
    assert (other / "file").exists()
