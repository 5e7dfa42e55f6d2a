"""Hub and nodes as operators start them: processes of their own, over TLS, with Flower between."""

import re
import signal
import socket
import ssl
import sys
import threading
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from accountants import Neighbouring, epsilon
from privfed.engines.machines import sockets
from privfed.engines.machines.sources import require_same_data_set
from privfed.protocol import streams
from tests.end_to_end.machines import BUDGETS, COUNTS, NAMES, STEPS, Machines, command, marker
from tests.end_to_end.test_separate_processes import found_in, secret_halves

pytest.importorskip("flwr", reason="runs between machines need the extra privfed[flower]")


@pytest.fixture
def machines(tmp_path, bert_folder):
    made = []

    def make(**options):
        made.append(Machines(tmp_path / "parties", bert_folder, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
        assert each.left_over() == [], "no process stays behind"
        assert each.left_behind() == [], "nor anything of them"


def check(federation):
    """What holds after every run."""
    hub = federation.report("hub")
    assert {row["id"] for row in hub["clients"]} == set(NAMES)
    adapters, bases = set(), set()
    for name in NAMES:
        own = federation.report(name)
        budget, delta = BUDGETS[name]
        spent = epsilon(federation.ledger(name).events(), delta, Neighbouring.ADD_REMOVE).upper
        (row,) = own["clients"]
        assert row["epsilon_spent"] == spent <= budget
        (at_hub,) = [one for one in hub["clients"] if one["id"] == name]
        assert at_hub["epsilon_spent"] == spent
        assert (at_hub["signed"], at_hub["recomputed"]) == (True, name != "north")
        assert own["clients"][0]["public_size"] == COUNTS[name][1]
        assert "programs of their own" in str(own) or "machine" in str(own)
        files = federation.results(name) / "adapter"
        adapters.add((files / "adapter_model.safetensors").read_bytes())
        bases.add(own["adapter_sha256"])
    assert len(adapters) == len(bases) == 1
    assert hub["adapter_sha256"] in bases
    printed = command(
        "report", federation.folder / "hub/runs/run", "--authority", federation.authority
    )
    assert "Checked: the signature of every statement" in printed
    for name in NAMES:
        anchors = federation.folder / name / "anchors"
        assert "Checked against the ledger exports" in command(
            "report", federation.results(name), "--anchors", anchors
        )


WAYS = {
    "shared_key": {"processes": 2},
    "key_holder": {"custody": "key_holder"},
    "key_holder at an address": {"custody": "key_holder", "holder_listens": True},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_three_rounds_over_tls(machines, way):
    """Equal adapters, and every epsilon that of the ledger; nothing but the Fleet API answers."""
    federation = machines(**way)
    federation.start_all()
    federation.wait_for(lambda: federation.rounds_over() == [1])
    assert federation.replicas() == ({"south": 1} if federation.processes == 2 else {})
    for path in ("/v1/control/list-runs", "/v1/runtime/get-nodes", "/docs", "/openapi.json", "/"):
        assert asked(federation.port, "POST", path) == 404
    assert asked(federation.port, "POST", "/v1/fleet/pull-messages") in (401, 415)
    federation.finish()
    assert federation.rounds_over() == [1, 2, 3]
    check(federation)
    for name in NAMES:
        events = federation.ledger(name).events()
        assert sum(event.steps for event in events) == 3 * STEPS
        printed = (federation.folder / name / "printed.txt").read_text()
        assert marker(name) not in printed
    for path in (federation.folder / "hub").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(marker(name).encode() in content for name in NAMES), path


def asked(port, method, path):
    """Status of a request over TLS without a key of its own."""
    context = ssl._create_unverified_context()
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain) as stream,
    ):
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        stream.sendall(head.encode())
        return int(stream.recv(4096).split()[1])


def test_kills_of_every_process(machines):
    """Pump, node, link and hub die in turn; the run goes on and counts what was begun."""
    federation = machines(rounds=5)
    federation.start_all()
    federation.wait_for(lambda: 1 in federation.rounds_over())
    federation.kill_carrier("north")
    federation.wait_for(lambda: 2 in federation.rounds_over())
    federation.kill("south")
    federation.start_node("south")
    federation.wait_for(lambda: max(federation.rounds_over()) >= 3, 200)
    federation.kill_carrier("hub")
    federation.wait_for(lambda: max(federation.rounds_over()) >= 4, 200)
    federation.kill("hub")
    federation.start_hub("--resume")
    federation.finish(200)
    check(federation)
    for name in NAMES:
        steps = sum(event.steps for event in federation.ledger(name).events())
        assert steps <= 5 * STEPS, "no round was reserved twice"


def test_a_key_holder_that_dies(machines):
    """The hub ends with a sentence that says what to do, and that works."""
    federation = machines(custody="key_holder", rounds=4)
    federation.start_all()
    federation.wait_for(lambda: 1 in federation.rounds_over())
    federation.kill("holder")
    federation.wait_for(lambda: federation.ended("hub"))
    assert federation.running["hub"].returncode == 1
    told = federation.printed()["hub"]
    assert "--resume` goes on" in told
    assert "the key holder 'keys' must be connected" in told
    federation.start_holder()
    federation.start_hub("--resume")
    federation.finish()
    assert federation.rounds_over()[-1] == 4
    check(federation)


def test_a_node_that_is_lost_for_good(machines):
    """It costs the others one round at most; the hub says whom it lacks."""
    federation = machines(rounds=4, patience_s=4.0)
    federation.start_all()
    federation.wait_for(lambda: 1 in federation.rounds_over())
    over = federation.rounds_over()[-1]
    federation.kill("west")
    federation.wait_for(lambda: federation.ended("hub"))
    assert federation.running["hub"].returncode == 1
    assert "west" in federation.printed()["hub"]
    over = max(over, *federation.rounds_over())
    for name in ("north", "south"):
        begun = sum(event.steps for event in federation.ledger(name).events()) / STEPS
        assert over <= begun <= over + 1
    assert federation.ended("north") is federation.ended("south") is False, "they wait for the hub"


class Overheard:
    """Stands between a node and what carries its bytes, and keeps all of them."""

    def __init__(self, path, to):
        self.heard = {"in": b"", "out": b""}
        self._to = to
        self._server = sockets.listening(path)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._pass_on)
        self._thread.start()

    def _pass_on(self):
        with self._server:
            sockets.answer_all(self._server, self._answer, self._over.is_set)

    def _answer(self, message):
        with socket.socket(socket.AF_UNIX) as far:
            far.connect(str(self._to))
            with far.makefile("rwb") as stream:
                streams.send(stream, message)
                reply = streams.receive(stream)
        self.heard["in"] += message
        self.heard["out"] += reply
        return reply

    def close(self):
        self._over.set()
        self._thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/PID/mem")
def test_nothing_private_is_where_it_must_not_be(machines, tmp_path_factory, request):
    """Not in what leaves a node, nor in the memory of the hub and of what carries bytes."""
    federation = machines(rounds=4)
    place = tmp_path_factory.mktemp("s")
    federation.edit("north", "[data]", f'pump = false\nsocket = "{place / "own"}"\n[data]')
    overheard = Overheard(place / "pump", place / "own")
    request.addfinalizer(overheard.close)
    federation.start_all()
    federation.start(
        "pump-north",
        *("node", "pump", "--hub", f"127.0.0.1:{federation.port}", "--socket", place / "pump"),
        *("--certificate", "../north/hub.crt", "--key", "../north/own.identity.transport"),
    )
    federation.wait_for(lambda: 2 in federation.rounds_over())
    federation.running["south"].send_signal(signal.SIGSTOP)  # the hub waits for it
    secrets = {f"text of {name}": marker(name).encode() for name in NAMES}
    for party in ("holder", *NAMES):
        halves = secret_halves(federation.folder / party / "own.identity")
        secrets |= {f"{what} of {party}": content for what, content in halves.items()}
    (kept,) = federation.folder.glob("south/state/clients/south/wards/runs/*/round-00002.*")
    secrets["adapter"] = load_file(kept)["adapter"][:12].tobytes()
    run = kept.parent.name
    for name in NAMES:
        payload = federation.ledger(name).last_outgoing(run)
        secrets[f"update of {name}"] = payload[40:88]
    assert len(set(secrets.values())) == len(secrets)
    held = found_in(federation.running["south"].pid, secrets)
    assert {"text of south", "signing key of own of south", "adapter", "update of south"} <= held
    assert "text of north" not in held
    hub, pump = federation.running["hub"].pid, federation.carrier("south")
    for process in (hub, federation.carrier("hub"), pump, federation.carrier("pump-north")):
        assert found_in(process, secrets) == set(), process
        maps = Path(f"/proc/{process}/maps").read_text()
        assert not re.search("torch|tenseal", maps), process
    own = secret_halves(federation.folder / "hub/own.identity")
    assert found_in(hub, own) == set(own), "the search finds what is there"
    assert found_in(federation.carrier("hub"), own) == set(), "the link holds no key of the hub"
    federation.running["south"].send_signal(signal.SIGCONT)
    federation.finish()
    assert len(overheard.heard["out"]) > 100_000
    for name in NAMES:
        assert marker(name).encode() not in overheard.heard["out"] + overheard.heard["in"]


class TestRefusals:
    """One sentence at the right party, and nothing is spent."""

    @pytest.fixture
    def federation(self, machines):
        return machines()

    def refused(self, federation, party, *words):
        """The one line with which a command ends."""
        return command(*words, inside=federation.folder / party, fails=True)

    def node(self, federation, old, new):
        federation.edit("north", old, new)
        return self.refused(federation, "north", "node", "run", "north.toml")

    def test_a_run_that_nobody_confirmed(self, federation):
        line = f'agreement = "{federation.agreement}"'
        assert federation.agreement in self.node(federation, line, "")

    def test_another_agreement_than_was_confirmed(self, federation):
        told = self.node(federation, federation.agreement, "ab" * 32)
        assert f"confirmed the agreement {'ab' * 32}" in told
        assert federation.agreement in told

    def test_a_public_file_that_was_changed(self, federation):
        """What differs is named, with both values."""
        federation.edit("north", "rounds = 3", "rounds = 4", file="run.toml")
        told = self.node(federation, "", "")
        assert "settings.rounds was 3 and is 4" in told

    def test_a_custody_that_was_not_accepted(self, federation):
        assert "opens your updates" in self.node(federation, "any client together", "nobody")

    def test_another_data_set_than_the_ledger_counts_for(self, federation):
        """Under a new name earlier runs would not be counted."""
        told = self.node(federation, 'dataset = "wards"', 'dataset = "wards-2"')
        assert "under another name what earlier runs spent is not counted" in told

    def test_a_larger_budget_than_is_allowed(self, federation):
        told = self.node(federation, "epsilon = 4.0", "epsilon = 3.5")
        assert "a budget of epsilon 4, your file allows at most 3.5" in told

    def test_a_source_that_was_used_under_another_name(self, federation):
        known = federation.folder / "north/state"
        source = federation.folder / "north/own.jsonl"
        require_same_data_set(known, source, "wards-1")
        assert "was used as the data set 'wards-1'" in self.node(federation, "", "")

    def test_a_missing_initial_adapter(self, federation):
        (federation.folder / "north/start.safetensors").unlink()
        assert "start.safetensors must lie beside" in self.node(federation, "", "")

    def test_another_initial_adapter(self, federation):
        """It is part of what was agreed on."""
        path = federation.folder / "north/start.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        assert "settings.files.start was" in self.node(federation, "", "")

    def test_another_roster(self, federation):
        path = federation.folder / "north/federation.roster"
        path.write_bytes(path.read_bytes() + b" ")
        assert "settings.files.roster was" in self.node(federation, "", "")

    def test_an_authority_that_is_a_file(self, federation):
        old = f'authority = "{federation.authority}"'
        federation.edit("north", old, 'authority = "board.party.json"', file="run.toml")
        assert "64 hex digits" in self.node(federation, "", "")

    def test_a_run_that_is_open_with_other_files(self, federation):
        """It is named, and can be given up."""
        runs = federation.folder / "north/state/clients/north/wards/runs"
        (runs / ("ab" * 16)).mkdir(parents=True)
        (runs / "open").write_text("ab" * 16)
        (runs / ("ab" * 16) / "start").write_bytes(b"of another run")
        told = self.node(federation, "", "")
        assert "is open on this data set" in told or "opened" in told
        given_up = command("node", "give-up", "north.toml", inside=federation.folder / "north")
        assert f"run {'ab' * 16} is given up" in given_up
        assert "no run is open" in command(
            "node", "give-up", "north.toml", inside=federation.folder / "north"
        )

    def test_ckks(self, federation):
        """A hub that deviates opens every update."""
        old = 'kind = "bfv"\ncustody = "shared_key"'
        federation.edit("north", old, 'kind = "ckks"', file="run.toml")
        assert "hides nothing from a hub that deviates" in self.node(federation, "", "")

    def test_keys_of_another(self, federation):
        other = federation.folder / "south/own.identity"
        told = self.node(federation, '"own.identity"', f'"{other}"')
        assert "'north' must have the keys that the roster names" in told

    def test_the_certificate_of_another_hub(self, federation):
        hub = federation.folder / "other.identity"
        new = ("roster", "identity", "hub", "--role", "aggregator", "--host", "127.0.0.1")
        command(*new, "--out", hub)
        certificate = hub.with_name("other.identity.crt").read_bytes()
        (federation.folder / "north/hub.crt").write_bytes(certificate)
        assert "certificate" in self.node(federation, "", "")

    def test_a_port_in_use(self, federation):
        with socket.create_server(("127.0.0.1", federation.port)):
            told = self.refused(federation, "hub", *federation.serve)
        assert f"listen at 127.0.0.1:{federation.port}" in told

    def test_a_run_to_resume_that_is_not_there(self, federation):
        told = self.refused(federation, "hub", *federation.serve, "--resume")
        assert "there is no run to go on with" in told

    def test_a_key_holder_as_hub(self, federation):
        """The roster names another aggregator."""
        serve = [w.replace("own.identity", "../holder/own.identity") for w in federation.serve]
        assert "keys of the aggregator" in self.refused(federation, "hub", *serve)
