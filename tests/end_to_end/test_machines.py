"""Hub and nodes as operators start them: processes of their own, over TLS, with Flower between."""

import socket
import ssl

import pytest

from accountants import Neighbouring, epsilon
from tests.end_to_end.machines import BUDGETS, COUNTS, NAMES, STEPS, Machines, command, marker

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
    "shared_key": {},
    "key_holder": {"custody": "key_holder"},
    "key_holder at an address": {"custody": "key_holder", "holder_listens": True},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_three_rounds_over_tls(machines, way):
    """Equal adapters, and every epsilon that of the ledger; nothing but the Fleet API answers."""
    federation = machines(**way)
    federation.start_all()
    federation.wait_for(lambda: federation.rounds_over() == [1])
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
