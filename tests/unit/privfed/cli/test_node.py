"""`privfed node`: nothing begins that the operator did not confirm, and checking costs nothing."""

import configparser
import json
import os
import shlex
import socket
import ssl
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from accountants import Ledger
from privfed.cli import node as cli_node
from privfed.cli.main import app
from privfed.cli.node_file import load_node_file
from privfed.cli.public_file import load_public_run, make_public_files
from privfed.engines.machines import carrier as carrier_module
from privfed.engines.machines.node import Node
from privfed.errors import ConfigError, IdentityError
from privfed.storage.durable import write_durably
from privfed.storage.state_folder import client_folder, ledger_path
from tests.unit.privfed.cli.between import ACCEPTED, write
from tests.unit.privfed.cli.configurations import MISSING, changed


def invoke(*words):
    """What a command prints; what it raises is raised here."""
    done = CliRunner().invoke(app, ["node", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def agreed(place):
    """Digest of the run that all were given."""
    make_public_files(place / "run.toml")
    return load_public_run(place / "run.toml").settings.proposal().digest()


@pytest.fixture
def values(agreed):
    """The tables of an organisation's file: it confirmed the run."""
    return {
        "name": "north",
        "run": "run.toml",
        "agreement": agreed,
        "accept": ACCEPTED,
        "dataset": "wards",
        "epsilon": 5.75,
        "delta": 3e-3,
        "hub": "127.0.0.1:1",
        "state": "state",
        "anchors": "anchors",
        "data": {"source": "own.jsonl", "text": "words", "label": "kind", **READING},
    }


READING = {"missing": "drop", "encoding": "latin-1"}


@pytest.fixture
def file(place, values):
    return write(place / "north.toml", values)


class FakeCarrier:
    """Takes the place of the process that carries messages."""

    made: list = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, module, settings, folder, said):
        self.module, self.settings, self.folder, self.said = module, settings, folder, said
        self.did = []
        FakeCarrier.made.append(self)

    def start(self):
        assert self.folder.stat().st_mode & 0o077 == 0
        self.did.append("start")

    def stop(self):
        self.did.append("stop")


@pytest.fixture
def carriers(monkeypatch):
    monkeypatch.setattr(carrier_module, "Carrier", FakeCarrier)
    FakeCarrier.made = []
    return FakeCarrier


class TestCheck:
    def test_says_what_a_run_costs_and_spends_nothing(self, file, place, agreed):
        printed = invoke("check", file)
        assert agreed in printed
        assert "29 is published" in printed
        assert "19 that can be trained on" in printed
        assert "127.0.0.1:1 does not answer yet" in printed
        assert "confirmed" in printed
        assert "of 5.5 (delta 0.002)" in printed
        (row,) = [line for line in printed.splitlines() if line.startswith("epsilon:")]
        words = row.replace(",", " ").split()
        before, after = [float(word) for word in words if _is_number(word)][:2]
        assert before == 0.0
        assert 4.0 < after <= 5.5
        settings = load_node_file(file).settings
        path = ledger_path(settings.state, "north", "wards")
        assert Ledger.inspect(path).events() == ()
        assert invoke("check", file) == printed, "a second time nothing is different"

    @pytest.mark.parametrize("confirmed", [MISSING, "00" * 32])
    def test_ends_with_what_was_not_confirmed(self, place, values, agreed, confirmed):
        """After all that an operator wants to know before."""
        path = write(place / "north.toml", changed(values, "agreement", confirmed))
        done = CliRunner().invoke(app, ["node", "check", str(path)])
        assert isinstance(done.exception, ConfigError)
        assert agreed in str(done.exception)
        assert "epsilon:" in done.output
        assert "confirmed:" not in done.output

    def test_a_certificate_of_another_hub_is_refused(self, place, file):
        other = (place / "hub.crt").read_text().replace("A", "B", 3)
        (place / "hub.crt").write_text(other)
        with pytest.raises(IdentityError, match="certificate"):
            invoke("check", file)

    def test_a_noisy_size_is_not_drawn_yet(self, place, public, values):
        write(
            place / "run.toml",
            changed(public, "data/public_sizes/north", {"noise_epsilon": 0.5}),
        )
        (place / "agreement.json").unlink()
        make_public_files(place / "run.toml")
        digest = load_public_run(place / "run.toml").settings.proposal().digest()
        file = write(place / "north.toml", {**values, "agreement": digest})
        printed = invoke("check", file)
        assert "released once, under noise" in printed
        assert "multiplier" not in printed
        assert not ledger_path(place / "state", "north", "wards").exists()


def _is_number(word):
    try:
        float(word)
    except ValueError:
        return False
    return True


class TestTheHub:
    """By TLS with the certificate that was handed out, and by no other."""

    @pytest.fixture
    def serving(self, place):
        """Port of a server that shows a party's certificate."""
        stop = []

        def serve(certificate, key):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(place / certificate, place / key)
            server = socket.create_server(("127.0.0.1", 0))
            server.settimeout(20)

            def answer():
                try:
                    connection, _ = server.accept()
                    with connection:
                        context.wrap_socket(connection, server_side=True).close()
                except OSError:
                    pass

            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            stop.append((thread, server))
            return server.getsockname()[1]

        yield serve
        for thread, server in stop:
            thread.join(20)
            server.close()

    def said(self, place, values, port):
        file = write(place / "north.toml", {**values, "hub": f"127.0.0.1:{port}"})
        return cli_node._hub_answers(load_node_file(file))

    def test_the_hub_itself(self, place, values, serving):
        said = self.said(place, values, serving("hub.crt", "hub.identity.transport"))
        assert "answers with the hub's certificate" in said

    def test_somebody_else(self, place, values, serving):
        invoked = CliRunner().invoke(
            app,
            [
                *("roster", "identity", "false", "--role", "aggregator", "--host", "127.0.0.1"),
                *("--out", str(place / "false.identity")),
            ],
        )
        assert invoked.exit_code == 0, invoked.output
        port = serving("false.identity.crt", "false.identity.transport")
        assert "another certificate" in self.said(place, values, port)


class TestRun:
    @pytest.mark.parametrize("confirmed", [MISSING, "00" * 32])
    def test_nothing_begins_that_was_not_confirmed(
        self, place, values, carriers, monkeypatch, confirmed
    ):
        monkeypatch.setattr(cli_node, "_node", lambda *given: pytest.fail("a node was made"))
        path = write(place / "north.toml", changed(values, "agreement", confirmed))
        with pytest.raises(ConfigError, match=r"confirmed"):
            invoke("run", path)
        assert carriers.made == []
        assert not (place / "state").exists()

    def test_what_carries_messages_is_told_no_secret_of_the_federation(
        self, place, file, carriers, monkeypatch
    ):
        listened = []
        monkeypatch.setattr(cli_node, "_LINGER_S", 0.0, raising=False)
        monkeypatch.setattr(Node, "listen", lambda self, path, group=None: listened.append(path))
        printed = invoke("run", file)
        (carrier,) = carriers.made
        assert carrier.module == "privfed.engines.flower.pump"
        assert carrier.did == ["start", "stop"]
        assert carrier.settings == {
            "hub": "127.0.0.1:1",
            "certificate": str((place / "hub.crt").resolve()),
            "key": str(place / "north.identity.transport"),
            "socket": str(listened[0]),
        }
        assert str(place / "results-north" / "report.html") in printed
        assert "public size 29" in printed

    def test_it_ends_also_where_the_node_fails(self, file, carriers, monkeypatch):
        def fails(self, path, group=None):
            raise ConfigError("no such place")

        monkeypatch.setattr(Node, "listen", fails)
        for _ in range(2):
            with pytest.raises(ConfigError, match="no such place"):
                invoke("run", file)
        assert [carrier.did for carrier in carriers.made] == [["start", "stop"]] * 2

    def test_another_process_may_carry_them(self, place, values, carriers, monkeypatch):
        listened = []
        monkeypatch.setattr(cli_node, "_LINGER_S", 0.0, raising=False)
        monkeypatch.setattr(Node, "listen", lambda self, path, group=None: listened.append(path))
        where = place / "n.sock"
        file = write(place / "north.toml", {**values, "pump": False, "socket": str(where)})
        lines = invoke("run", file, "--json").splitlines()
        assert listened == [where]
        assert all(carrier.did == [] for carrier in carriers.made)
        first = json.loads(lines[0])
        assert (first["event"], first["public_size"]) == ("prepared", 29)
        assert {json.loads(line)["event"] for line in lines} <= {"prepared", "note"}


class TestThePump:
    def test_carries_for_a_node_elsewhere_until_it_is_stopped(self, place, carriers, monkeypatch):
        def interrupted(self, *given):
            raise KeyboardInterrupt

        monkeypatch.setattr(threading.Event, "wait", interrupted)
        where = place / "n.sock"
        words = ["--hub", "h:1", "--certificate", place / "hub.crt", "--socket", where]
        words = ["node", "pump", *words, "--key", place / "north.identity.transport"]
        CliRunner().invoke(app, [str(word) for word in words])
        (carrier,) = carriers.made
        assert carrier.did == ["start", "stop"]
        assert carrier.settings["socket"] == str(where)
        assert carrier.settings["hub"] == "h:1"


class TestStatus:
    def test_of_one_that_took_part_in_nothing(self, file):
        assert "nothing yet" in invoke("status", file)
        assert json.loads(invoke("status", file, "--json")) is None

    def test_of_one_that_plays(self, file):
        folder = client_folder(load_node_file(file).settings.state, "north", "wards")
        folder.mkdir(parents=True)
        found = {"what": "round", "run": "0a", "round": 3, "epsilon": 1.25, "metric": 0.5}
        found |= {"at": 0.0, "process": os.getpid()}
        write_durably(folder / "node.json", json.dumps(found).encode())
        printed = invoke("status", file)
        assert printed.startswith("running")
        assert "round 3" in printed
        assert "1.25" in printed
        assert json.loads(invoke("status", file, "--json")) == found
        ended = {**found, "process": 2**22 + 1, "epsilon": None}
        write_durably(folder / "node.json", json.dumps(ended).encode())
        printed = invoke("status", file)
        assert printed.startswith("not running")
        assert "epsilon" not in printed


class TestTheUnit:
    def test_a_percent_sign_is_no_specifier(self, tmp_path):
        path = tmp_path / "100%n.toml"
        path.write_text("")
        assert invoke("unit", path).count("100%%n") == 2

    @pytest.mark.parametrize("name", ["north.toml", "the north.toml"])
    def test_runs_this_node(self, tmp_path, name):
        path = tmp_path / name
        path.write_text("")
        unit = configparser.ConfigParser(interpolation=None, strict=True)
        unit.optionxform = str
        unit.read_string(invoke("unit", path))
        assert set(unit.sections()) == {"Unit", "Service", "Install"}
        service = unit["Service"]
        *program, node, run, file = shlex.split(service["ExecStart"])
        assert (node, run, Path(file)) == ("node", "run", path.resolve())
        assert Path(program[0]).is_absolute()
        assert Path(service["WorkingDirectory"]) == tmp_path.resolve()
        assert service["Restart"] == "on-failure", "a run that is over is not begun again"
        assert service["UMask"] == "0077"
        assert service["NoNewPrivileges"] == "yes"
