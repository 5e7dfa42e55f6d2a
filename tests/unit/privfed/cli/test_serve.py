"""`privfed serve`: what the hub checks before it begins, and what its link is told."""

import socket
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from privfed.cli.main import app
from privfed.cli.public_file import load_public_run, make_public_files
from privfed.engines.machines import carrier as carrier_module
from privfed.engines.machines.hub import REACHED, Hub
from privfed.errors import ConfigError, IdentityError, PrivfedError, RunFolderError
from privfed.identity.roster import Roster
from privfed.identity.transport import as_pem, new_transport_key, self_signed_certificate
from tests.unit.privfed.cli.between import NAMES, write
from tests.unit.privfed.cli.configurations import changed
from tests.unit.privfed.cli.test_node import FakeCarrier


def invoke(*words):
    done = CliRunner().invoke(app, ["serve", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def made(place):
    """The digest of the agreement, which is made for a run."""
    (place / "start.safetensors").write_bytes(b"no hub reads it")
    (place / "agreement.json").unlink(missing_ok=True)
    make_public_files(place / "run.toml")
    return load_public_run(place / "run.toml").settings.proposal().digest()


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@pytest.fixture
def words(place, port):
    """The run, and who serves it."""
    made(place)
    return place / "run.toml", "--identity", place / "hub.identity", "--listen", f"127.0.0.1:{port}"


class TestCheck:
    def test_says_all_that_it_found(self, place, words, port, enrolled):
        printed = invoke("check", *words)
        assert load_public_run(words[0]).settings.proposal().digest() in printed
        roster = Roster.load(place / "wards.roster", authority=bytes.fromhex(enrolled[1]))
        assert roster.digest().hex() in printed
        assert "east, north, west; 4 rounds" in printed
        assert "shared_key" in printed
        assert f"127.0.0.1:{port} is free; nodes reach it as hub.example:7443" in printed
        with socket.create_server(("127.0.0.1", port)):
            pass

    def test_custody_is_that_of_the_run(self, place, public, words):
        write(place / "run.toml", changed(public, "encryption/custody", "key_holder"))
        made(place)
        assert "key_holder" in invoke("check", *words)

    def test_where_it_listens_by_default(self, place, public, port):
        write(place / "run.toml", changed(public, "hub/address", f"hub.example:{port}"))
        made(place)
        printed = invoke("check", place / "run.toml", "--identity", place / "hub.identity")
        assert f":{port} is free; nodes reach it as hub.example:{port}" in printed

    def test_a_port_that_is_taken(self, words, port):
        with (
            socket.create_server(("127.0.0.1", port)),
            pytest.raises(ConfigError, match=f"listen at 127.0.0.1:{port}"),
        ):
            invoke("check", *words)

    def test_keys_that_are_not_the_aggregators(self, place, words):
        with pytest.raises(IdentityError, match="keys of the aggregator"):
            invoke("check", words[0], "--identity", place / f"{NAMES[0]}.identity")

    def test_a_certificate_that_is_not_its_own(self, place, words):
        pem, _ = new_transport_key()
        other = self_signed_certificate(pem, "hub", ["127.0.0.1"], 2, datetime.now(UTC))
        (place / "hub.crt").write_bytes(other)
        with pytest.raises(IdentityError, match="certificate must be of the transport key"):
            invoke("check", *words)

    def test_one_that_is_not_there(self, place, words):
        (place / "hub.crt").unlink()
        with pytest.raises(ConfigError, match="hub.crt must be readable"):
            invoke("check", *words)

    def test_an_agreement_that_is_not_there(self, place, words):
        (place / "agreement.json").unlink()
        with pytest.raises(ConfigError, match="privfed agreement"):
            invoke("check", *words)

    def test_an_agreement_of_another_authority(self, place, public, words):
        write(place / "run.toml", changed(public, "parties/authority", "ab" * 32))
        with pytest.raises(PrivfedError):
            invoke("check", *words)

    def test_too_little_room(self, words, monkeypatch):
        monkeypatch.setattr("privfed.cli.serve._LEAST_FREE", 1 << 60)
        with pytest.raises(ConfigError, match="GB must be free"):
            invoke("check", *words)


class TestRun:
    @pytest.fixture
    def hubs(self, monkeypatch):
        """Hubs that were made, which stop instead of waiting; no process is started."""
        monkeypatch.setattr(carrier_module, "Carrier", FakeCarrier)
        FakeCarrier.made = []
        found = []

        def stops(self, waiting):
            found.append(self)
            raise ConfigError("stopped here")

        monkeypatch.setattr(Hub, "wait", stops)
        return found

    def test_its_link_is_told_who_is_enrolled(self, place, words, hubs, tmp_path, port, enrolled):
        with pytest.raises(ConfigError, match="stopped here"):
            invoke("run", *words, "--out", tmp_path / "run", "--without", "west")
        (carrier,) = FakeCarrier.made
        assert carrier.module == "privfed.engines.flower.link"
        assert carrier.did == ["start", "stop"], "also where the run stopped"
        told = carrier.settings
        roster = Roster.load(place / "wards.roster", authority=bytes.fromhex(enrolled[1]))
        keys = {name: as_pem(roster.party(name).transport_key).decode() for name in NAMES}
        assert told["nodes"] == keys
        assert (told["host"], told["port"]) == ("127.0.0.1", port)
        assert told["certificate"] == str(place / "hub.crt")
        assert told["key"] == str(place / "hub.identity.transport")
        (hub,) = hubs
        assert hub.folder == tmp_path / "run"
        assert (hub.without, hub.resume, hub.connect) == (["west"], False, None)
        assert list(hub.besides) == []
        assert hub.carried._timeout_s == 1234.5
        assert hub.following(hub).patience_s == 67.0

    def test_a_key_holder_without_a_port_is_one_more_node(
        self, place, public, words, hubs, tmp_path
    ):
        write(place / "run.toml", changed(public, "encryption/custody", "key_holder"))
        made(place)
        with pytest.raises(ConfigError, match="stopped here"):
            invoke("run", *words, "--out", tmp_path / "run")
        assert set(FakeCarrier.made[0].settings["nodes"]) == {*NAMES, "keys"}
        assert hubs[0].besides == ["keys"]
        assert hubs[0].connect("0a").name == "keys"

    def test_one_at_an_address_is_none(self, place, public, words, hubs, tmp_path):
        public = changed(public, "encryption/custody", "key_holder")
        write(place / "run.toml", changed(public, "hub/key_holder", "keys.example:99"))
        made(place)
        with pytest.raises(ConfigError, match="stopped here"):
            invoke("run", *words, "--out", tmp_path / "run")
        assert set(FakeCarrier.made[0].settings["nodes"]) == set(NAMES)
        assert list(hubs[0].besides) == []

    def test_a_run_that_lies_there_is_not_overwritten(self, words, hubs, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / REACHED).write_bytes(b"{}")
        with pytest.raises(RunFolderError, match="--resume"):
            invoke("run", *words, "--out", tmp_path / "run")
        assert FakeCarrier.made == []

    def test_nor_does_one_go_on_that_is_not_there(self, words, hubs, tmp_path):
        with pytest.raises(RunFolderError, match="no run to go on with"):
            invoke("run", *words, "--out", tmp_path / "run", "--resume")
        assert FakeCarrier.made == []


def test_of_a_run_that_has_not_begun_there_is_no_status(place, tmp_path):
    with pytest.raises(RunFolderError, match="no run has begun"):
        invoke("status", place / "run.toml", "--out", tmp_path / "none")
