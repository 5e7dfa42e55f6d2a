"""kill -9 at random points never leaves epsilon under-counted or randomness reused."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from accountants import Ledger, epsilon
from privfed.client.state import ledger_path
from privfed.messages import Envelope

SERVER = Path(__file__).with_name("crash_server.py")


@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_that_is_killed_again_and_again(tmp_path, bert_folder, seed):
    command = [sys.executable, str(SERVER), str(tmp_path), bert_folder, "12", str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    outcomes = json.loads((tmp_path / "trials.json").read_text())
    errors = tmp_path / "errors.txt"
    refused = errors.read_text() if errors.exists() else ""
    assert sum(os.WIFSIGNALED(status) for status in outcomes) >= 6, "too few kills to say anything"
    assert outcomes[-1] == 0, f"the run did not finish: {outcomes}, {refused}"
    assert all("TooFewClientsError" in line for line in refused.splitlines()), refused

    sent = defaultdict(set)
    seeds = set()
    num_seeds = 0
    for path in (tmp_path / "sent").iterdir():
        message = path.read_bytes()
        envelope = Envelope.from_bytes(message)
        sent[envelope.sender, envelope.run, envelope.round].add(path.name)
        seeds.add(envelope.blobs["seeds"][:64])
        num_seeds += 1
    assert sent
    assert all(len(digests) == 1 for digests in sent.values()), "a round was sent in two versions"
    assert len(seeds) == num_seeds, "two messages share the randomness of their encryption"

    for client in {key[0] for key in sent}:
        ledger = Ledger.open(
            ledger_path(tmp_path / "state", client, "d"),
            client=client,
            dataset="d",
            description="the client's own data",
        )
        exported = ledger.export()
        committed = {
            entry["body"]["outgoing_sha256"]
            for entry in exported["entries"]
            if entry["kind"] == "commit"
        }
        mine = {next(iter(digests)) for key, digests in sent.items() if key[0] == client}
        assert mine <= committed, "a message was sent that no commit covers"
        steps = sum(event.steps for event in ledger.events())
        assert steps >= len(mine)
        report = tmp_path / "run/report.json"
        if report.exists():
            clients = json.loads(report.read_text())["clients"]
            (row,) = [row for row in clients if row["id"] == client]
            assert row["epsilon_spent"] == pytest.approx(epsilon(ledger.events(), 1e-3).upper)
            assert row["steps"] == steps
