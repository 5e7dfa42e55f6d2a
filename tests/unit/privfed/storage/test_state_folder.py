"""What outlives a run lies outside the run folder, under safe names, for its owner only."""

import logging
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import ConfigError
from privfed.storage.state_folder import (
    client_folder,
    default_anchor_folder,
    default_state_folder,
    identity_path,
    ledger_path,
    local_logger,
    make_private_folder,
    opened_path,
    require_second_place,
    results_folder,
)

STATE = Path("/state")
readable = st.text(min_size=1, max_size=20).filter(lambda text: text == text.strip())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def _open_umask():
    """The usual umask, under which a careless file is readable by everyone."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def logger(tmp_path):
    """A function that opens a log; its file is closed at the end."""
    opened = []

    def make(client="ada", dataset="notes"):
        opened.append(local_logger(tmp_path / "state", client, dataset))
        return opened[-1]

    yield make
    for log in opened:
        for handler in list(log.handlers):
            handler.close()
            log.removeHandler(handler)


class TestTheDefaultFolder:
    def test_privfed_state_goes_first(self, monkeypatch):
        monkeypatch.setenv("PRIVFED_STATE", "/a/b")
        monkeypatch.setenv("XDG_STATE_HOME", "/c")
        assert default_state_folder() == Path("/a/b")

    @pytest.mark.parametrize("unset", [None, ""])
    def test_then_the_users_state_folder(self, monkeypatch, unset):
        monkeypatch.setenv("XDG_STATE_HOME", "/c")
        if unset is None:
            monkeypatch.delenv("PRIVFED_STATE")
        else:
            monkeypatch.setenv("PRIVFED_STATE", unset)
        assert default_state_folder() == Path("/c/privfed")

    @pytest.mark.parametrize("unset", [None, ""])
    def test_then_the_home_folder(self, monkeypatch, unset):
        monkeypatch.delenv("PRIVFED_STATE")
        monkeypatch.setenv("HOME", "/home/ada")
        if unset is None:
            monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_STATE_HOME", unset)
        assert default_state_folder() == Path("/home/ada/.local/state/privfed")


class TestNames:
    def test_a_plain_name_stays_readable(self):
        path = ledger_path(STATE, "St. Anna-2", "notes_2026")
        assert path == STATE / "clients" / "St. Anna-2" / "notes_2026" / "ledger-2.sqlite3"
        assert identity_path(STATE, "St. Anna-2") == STATE / "identities" / "St. Anna-2.identity"
        assert results_folder(STATE) == STATE / "key-holder"

    @pytest.mark.parametrize("name", ["..", ".", "../..", "/etc", "a/b", "a\\b", "a\0b", "~", "C:"])
    def test_no_identity_lies_outside_its_folder(self, name):
        path = identity_path(STATE, name)
        assert path.parent == STATE / "identities"
        assert Path(os.path.normpath(path)) == path

    @pytest.mark.parametrize("name", ["..", ".", "../..", "/etc", "a/b", "a\\b", "a\0b", "~", "C:"])
    def test_no_name_leaves_the_folder(self, name):
        folder = client_folder(STATE, name, name)
        assert folder.parent.parent == STATE / "clients"
        assert Path(os.path.normpath(folder)) == folder
        assert "\0" not in str(folder)
        assert "\\" not in str(folder)

    def test_no_name_is_hidden(self):
        assert client_folder(STATE, ".a", ".b") == STATE / "clients" / "%2Ea" / "%2Eb"

    @given(readable, readable)
    def test_different_names_have_different_folders(self, first, second):
        same = client_folder(STATE, first, "d") == client_folder(STATE, second, "d")
        assert same == (first == second)

    def test_a_client_and_a_data_set_do_not_mix(self):
        assert client_folder(STATE, "a", "b/c") != client_folder(STATE, "a/b", "c")

    @pytest.mark.parametrize("name", ["", " ", " a", "a ", "a\n", "x" * 121])
    def test_a_name_that_cannot_be_used_is_refused_with_its_role(self, name):
        with pytest.raises(ConfigError, match="client id must be 1 to 120 characters"):
            client_folder(STATE, name, "d")
        with pytest.raises(ConfigError, match="dataset must be"):
            client_folder(STATE, "c", name)
        with pytest.raises(ConfigError, match="party must be"):
            identity_path(STATE, name)

    @pytest.mark.parametrize("letter", ["x", "é", "病", "\U0001f3e5"])
    @pytest.mark.parametrize("length", [1, 40, 120])
    def test_a_name_that_is_accepted_is_one_that_a_disk_can_hold(self, tmp_path, letter, length):
        """A name on disk has at most 255 bytes; what does not fit is refused, not an OSError."""
        try:
            folder = client_folder(tmp_path, letter * length, "d")
        except ConfigError:
            assert length > 1
            return
        folder.mkdir(parents=True)


class TestTheSecondPlace:
    def test_it_is_chosen_by_the_environment(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PRIVFED_ANCHORS", str(tmp_path / "here"))
        assert default_anchor_folder() == tmp_path / "here"
        monkeypatch.delenv("PRIVFED_ANCHORS")
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        assert default_anchor_folder() == tmp_path / "data/privfed/anchors"
        monkeypatch.delenv("XDG_DATA_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "ada"))
        assert default_anchor_folder() == tmp_path / "ada/.local/share/privfed/anchors"

    def test_each_client_of_each_run_has_a_file(self):
        paths = {opened_path(STATE, run, client) for run in ("r", "s") for client in ("a", "a/b")}
        assert len(paths) == 4
        assert all(path.parent.parent == STATE / "opened" for path in paths)

    def test_it_lies_outside_what_may_be_put_back(self, tmp_path):
        state, run = tmp_path / "state", tmp_path / "run"
        require_second_place(tmp_path / "anchors", state, run)
        require_second_place(tmp_path / "state-anchors", state, run)
        for inside in (state, state / "anchors", run / "a" / "b", run / ".." / "run"):
            with pytest.raises(ConfigError, match="must lie outside"):
                require_second_place(inside, state, run)
        (tmp_path / "link").symlink_to(state)
        with pytest.raises(ConfigError, match="must lie outside"):
            require_second_place(tmp_path / "link" / "anchors", state, run)


@pytest.mark.usefixtures("_open_umask")
class TestPermissions:
    def test_every_new_folder_is_its_owners_alone(self, tmp_path):
        make_private_folder(tmp_path / "state" / "clients" / "ada")
        for part in ("state", "state/clients", "state/clients/ada"):
            assert mode(tmp_path / part) == 0o700, part

    def test_folders_that_were_there_above_keep_their_mode(self, tmp_path):
        tmp_path.chmod(0o755)
        make_private_folder(tmp_path / "state")
        assert mode(tmp_path) == 0o755

    def test_a_log_is_its_owners_alone(self, logger, tmp_path):
        logger().info("hello")
        folder = tmp_path / "state/clients/ada/notes"
        assert mode(folder) == 0o700
        assert mode(folder / "client.log") == 0o600

    def test_a_ledger_and_an_identity_are_their_owners_alone(self, tmp_path):
        from accountants import Ledger, Neighbouring
        from privfed.identity.keys import Identity, Role

        ledger, identity = ledger_path(tmp_path, "ada", "notes"), identity_path(tmp_path, "ada")
        make_private_folder(ledger.parent)
        Ledger.create(
            ledger,
            client="ada",
            dataset="notes",
            unit="one note",
            neighbouring=Neighbouring.ADD_REMOVE,
        )
        make_private_folder(identity.parent)
        Identity.generate("ada", Role.CLIENT).save(identity)
        assert (mode(ledger), mode(identity)) == (0o600, 0o600)
        assert (mode(ledger.parent), mode(identity.parent)) == (0o700, 0o700)

    def test_there_is_no_place_for_a_key(self):
        """Secret keys of runs and rounds exist in memory only; nothing names a file for them."""
        from privfed.storage import state_folder as state

        assert not [name for name in vars(state) if "key" in name]


class TestTheLog:
    def test_a_cause_goes_to_the_clients_own_file_and_nowhere_else(self, logger, tmp_path, capsys):
        seen = []

        class Elsewhere(logging.Handler):
            def emit(self, record):
                seen.append(record)

        root, handler = logging.getLogger(), Elsewhere()
        root.addHandler(handler)
        try:
            logger("ada").warning("cause %d", 7)
            logger("bob").warning("cause %d", 8)
        finally:
            root.removeHandler(handler)
        assert not seen
        assert capsys.readouterr() == ("", "")
        texts = {
            client: (tmp_path / f"state/clients/{client}/notes/client.log").read_text()
            for client in ("ada", "bob")
        }
        assert "WARNING cause 7" in texts["ada"]
        assert "WARNING cause 8" in texts["bob"]
        assert "cause 8" not in texts["ada"]

    def test_opening_it_twice_writes_every_line_once(self, logger, tmp_path):
        assert logger() is logger()
        logger().info("once")
        text = (tmp_path / "state/clients/ada/notes/client.log").read_text()
        assert text.count("once") == 1

    def test_what_was_there_stays(self, logger, tmp_path):
        path = tmp_path / "state/clients/ada/notes/client.log"
        path.parent.mkdir(parents=True)
        path.write_text("earlier\n")
        logger().info("later")
        assert path.read_text().splitlines()[0] == "earlier"
        assert path.read_text().endswith("later\n")
