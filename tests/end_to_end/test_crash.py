"""kill -9 at random points never leaves epsilon under-counted or randomness reused."""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from accountants import Ledger, Neighbouring, epsilon
from privfed.protocol.envelopes import Envelope
from privfed.storage.state_folder import ledger_path
from tests.end_to_end.crash_server import CLIENTS

SERVER = Path(__file__).with_name("crash_server.py")


@pytest.mark.parametrize(
    ("seed", "custody", "together"),
    [(1, "shared_key", 1), (2, "shared_key", 1), (3, "key_holder", 1), (4, "shared_key", 5)],
)
def test_a_run_that_is_killed_again_and_again(tmp_path, bert_folder, seed, custody, together):
    """`together` clients train in one pass; a kill in it loses the round of all of them."""
    settings = [str(tmp_path), bert_folder, "12", str(seed), custody, str(together)]
    command = [sys.executable, str(SERVER), *settings]
    with (tmp_path / "printed.txt").open("wb") as printed:
        # A file and no pipe: key holders inherit it, and outlive a killed run by a moment.
        done = subprocess.run(command, stdout=printed, stderr=printed, timeout=300, check=False)
    assert done.returncode == 0, (tmp_path / "printed.txt").read_text()
    outcomes = json.loads((tmp_path / "trials.json").read_text())
    errors = tmp_path / "errors.txt"
    refused = errors.read_text() if errors.exists() else ""
    assert sum(os.WIFSIGNALED(status) for status in outcomes) >= 6, "too few kills to say anything"
    assert outcomes[-1] == 0, f"the run did not finish: {outcomes}, {refused}"
    assert all("TooFewClientsError" in line for line in refused.splitlines()), refused

    sent = defaultdict(set)
    ciphertexts, seeds = [], []
    for path in (tmp_path / "sent").iterdir():
        envelope = Envelope.from_bytes(path.read_bytes())
        statement = envelope.statement
        sent[statement.sender, statement.run, statement.round].add(path.name.partition(".")[2])
        ciphertexts.append(bytes(envelope.blobs["ciphertexts"]))
        seeds += [bytes(envelope.blobs["seeds"][:64])] if custody == "shared_key" else []
    assert sent
    assert all(len(digests) == 1 for digests in sent.values()), "a round was sent in two versions"
    assert len(set(seeds)) == len(seeds), "two messages share the randomness of their encryption"
    assert len(set(ciphertexts)) == len(ciphertexts), "a message was sent twice"
    assert len(ciphertexts) > len(sent), "no round was encrypted afresh: the kills came too early"
    check_sums(tmp_path, custody, fewest=12 if together == 1 else 6)
    check_leftovers(tmp_path)

    for client in {key[0] for key in sent}:
        ledger = Ledger.inspect(ledger_path(tmp_path / "state", client, "d"))
        exported = ledger.export()
        committed = {
            entry["body"]["outgoing_sha256"]
            for entry in exported["entries"]
            if entry["kind"] == "commit"
        }
        mine = {next(iter(digests)) for key, digests in sent.items() if key[0] == client}
        assert mine <= committed, "a message was sent that no commit covers"
        steps = sum(event.steps for event in ledger.events())
        assert steps >= 2 * len(mine), "each round has two steps"
        report = tmp_path / "run/report.json"
        if report.exists():
            clients = json.loads(report.read_text())["clients"]
            (row,) = [row for row in clients if row["id"] == client]
            assert row["epsilon_spent"] == pytest.approx(
                epsilon(ledger.events(), CLIENTS[client][2].delta, Neighbouring.ADD_REMOVE).upper
            )
            assert row["steps"] == steps


def check_sums(folder, custody, *, fewest):
    """Every opened sum is that of the committed numbers, over all attempts at its round."""
    rows = []
    for path in (folder / "opened").iterdir():
        rows += [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["round"] for row in rows}) >= fewest
    assert all(row["exact"] for row in rows), "a sum is not that of what was committed"
    if custody == "key_holder":
        results = defaultdict(set)
        for row in rows:
            results[row["round"]].add(row["message"])
        twice = [number for number, messages in results.items() if len(messages) > 1]
        assert not twice, f"rounds {twice} were decrypted twice"


def check_leftovers(folder):
    """Killed runs leave no key on the disk, and no key holder in memory."""
    assert not list(folder.rglob("*.key"))
    for _ in range(100):
        left = key_holders_of(folder)
        if not left:
            return
        time.sleep(0.1)
    pytest.fail(f"key holders outlived their runs: {left}")


def key_holders_of(folder):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"key-holder" in command and any(str(folder).encode() in part for part in command):
            found.append(path.parent.name)
    return found
