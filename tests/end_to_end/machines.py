"""A hub and organisations as the real commands start them: processes, a folder for each."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from typer.testing import CliRunner

from accountants import Ledger
from privfed.cli.main import app
from privfed.storage.state_folder import ledger_path

NAMES = ("north", "south", "west")
COUNTS = {"north": (24, 21), "south": (29, 26), "west": (27, 31)}
"""True number of records and public size: no number is that of two organisations."""
BUDGETS = {"north": (4.0, 1e-3), "south": (5.0, 2e-3), "west": (6.0, 4e-4)}
DATASET, STEPS = "wards", 2
ACCEPTED = "any client together with the hub opens every update"

_RUN = """title = "three organisations"
seed = 7
[model]
task = "classification"
base = {base}
labels = ["a", "b"]
max_length = 8
[data]
dataset = "wards"
held_out_source = "held-out.jsonl"
text = "text"
label = "label"
[data.public_sizes]
north = 21
south = 26
west = 31
[privacy]
epsilon = 3.0
delta = 1e-4
neighbouring = "add_remove"
record = "one made-up sentence"
expected_batch_size = 10
clipping_norm = 0.75
steps_per_round = 2
[privacy.clients]
north = {{ epsilon = 4.0, delta = 1e-3 }}
south = {{ epsilon = 5.0, delta = 2e-3 }}
west = {{ epsilon = 6.0, delta = 4e-4 }}
[adapter]
kind = "lora"
rank = 1
target_modules = ["query"]
[training]
learning_rate = 0.1
physical_batch_size = 12
[encryption]
kind = "bfv"
custody = "{custody}"
[federation]
rounds = {rounds}
min_clients = 3
device = "cpu"
[parties]
roster = "federation.roster"
authority = "{authority}"
[hub]
address = "127.0.0.1:{port}"
certificate = "hub.crt"
patience_s = {patience_s}
{holder}
"""
_NODE = """name = "{name}"
run = "run.toml"
agreement = "{agreement}"
accept = "{accepted}"
state = "state"
anchors = "anchors"
share_ledger = {share}
dataset = "wards"
epsilon = {epsilon}
delta = {delta}
[data]
source = "own.jsonl"
text = "text"
label = "label"
"""


def marker(name):
    """With what every text of an organisation begins."""
    return f"ward{len(name) * 7919}{name}"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def command(*words, inside=None, fails=False):
    """Run a command of the program here, and return what it printed, or its error."""
    before = Path.cwd()
    os.chdir(inside or before)
    try:
        done = CliRunner().invoke(app, list(map(str, words)))
    finally:
        os.chdir(before)
    if fails:
        assert done.exit_code != 0, done.output
        return f"{done.output}{done.exception}"
    if done.exit_code != 0:
        raise AssertionError((words, done.output, done.exception))
    return done.output


class Machines:
    """A federation on one machine, with a folder for each party.

    Args:
        folder: new.
        bert: folder with the base model.
        custody: who holds the key.
        rounds: planned.
        holder_listens: whether the key holder opens a port, and is no node.
        patience_s: how long the hub waits for a node that is lost.
        processes: of the node "south".
    """

    def __init__(
        self,
        folder,
        bert,
        *,
        custody="shared_key",
        rounds=3,
        holder_listens=False,
        patience_s=120.0,
        processes=1,
    ):
        self.processes = processes
        self.holder_listens, self.patience_s = holder_listens, patience_s
        self.folder, self.custody, self.rounds = folder, custody, rounds
        self.running = {}
        self.temporary = Path(tempfile.mkdtemp(prefix="pf"))  # short: sockets lie in it
        self.events = []
        self.port, self.holder_port = free_port(), free_port()
        for party in ("ministry", "hub", "holder", *NAMES):
            (folder / party).mkdir(parents=True)
        self._enrol()
        self._write_texts()
        self.agreement = self._agree(bert)

    def _enrol(self):
        new = ("roster", "identity")
        for name in NAMES:
            command(*new, name, "--role", "client", "--out", self.folder / name / "own.identity")
        hub = self.folder / "hub/own.identity"
        command(*new, "hub", "--role", "aggregator", "--host", "127.0.0.1", "--out", hub)
        holder = self.folder / "holder/own.identity"
        command(*new, "keys", "--role", "key_holder", "--out", holder)
        board = self.folder / "ministry/board.identity"
        command(*new, "board", "--role", "authority", "--out", board)
        files = [self.folder / p / "own.identity.party.json" for p in ("hub", "holder", *NAMES)]
        self.authority = json.loads(board.with_name("board.identity.party.json").read_text())[
            "signing_key"
        ]
        sign = ("roster", "sign", *files, "--federation", "wards", "--authority", board)
        command(*sign, "--out", self.folder / "ministry/federation.roster")
        certificate = (self.folder / "hub/own.identity.crt").read_bytes()
        (self.folder / "ministry/hub.crt").write_bytes(certificate)

    def _write_texts(self):
        words = ("river", "stone", "market", "window", "garden", "engine")

        def write(path, count, first, seed):
            choose = random.Random(seed)
            lines = [
                {
                    "text": f"{first} {index} {' '.join(choose.choices(words, k=3))}",
                    "label": "ab"[index % 2],
                }
                for index in range(count)
            ]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))

        for name in NAMES:
            write(self.folder / name / "own.jsonl", COUNTS[name][0], marker(name), len(name))
        write(self.folder / "ministry/held-out.jsonl", 6, "public", 3)

    def _agree(self, bert):
        ministry = self.folder / "ministry"
        holder = self.custody == "key_holder" and self.holder_listens
        (ministry / "run.toml").write_text(
            _RUN.format(
                base=json.dumps(str(bert)),
                custody=self.custody,
                rounds=self.rounds,
                patience_s=self.patience_s,
                authority=self.authority,
                port=self.port,
                holder=f'key_holder = "127.0.0.1:{self.holder_port}"' if holder else "",
            )
        )
        printed = command("agreement", ministry / "run.toml")
        (line,) = [line for line in printed.splitlines() if line.startswith("agreement:")]
        public = ("run.toml", "federation.roster", "hub.crt", "held-out.jsonl")
        for name in ("hub", "holder", *NAMES):
            for file in (*public, "start.safetensors", "agreement.json"):
                (self.folder / name / file).write_bytes((ministry / file).read_bytes())
        for name in NAMES:
            self.write_node(name, agreement=line.split()[-1])
        return line.split()[-1]

    def write_node(self, name, *, agreement):
        text = _NODE.format(
            name=name,
            agreement=agreement,
            accepted=ACCEPTED,
            share="false" if name == "north" else "true",
            epsilon=BUDGETS[name][0],
            delta=BUDGETS[name][1],
        )
        text = text.replace('run = "run.toml"', 'run = "run.toml"\nidentity = "own.identity"')
        if name == "south":
            text += f"\n[computation]\nprocesses = {self.processes}\n"
        (self.folder / name / f"{name}.toml").write_text(text)

    def edit(self, party, old, new, *, file=None):
        """Change a file of a party; by default that of a node."""
        path = self.folder / party / (file or f"{party}.toml")
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def start(self, party, *words):
        """Start a party's process; what it prints is kept, and events of the hub are read."""
        (self.folder / party).mkdir(exist_ok=True)
        log = (self.folder / party / "printed.txt").open("a")
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self.temporary),
        }
        self.running[party] = subprocess.Popen(
            [sys.executable, "-m", "privfed", *map(str, words)],
            cwd=self.folder / party,
            env=environment,
            stdout=subprocess.PIPE if party == "hub" else log,
            stderr=log,
            text=True,
        )
        log.close()
        if party == "hub":
            threading.Thread(
                target=self._read, args=(self.running[party].stdout,), daemon=True
            ).start()

    def _read(self, stream):
        with stream:
            for line in stream:
                self.events.append(json.loads(line))

    def start_node(self, name):
        self.start(name, "node", "run", f"{name}.toml", "--json")

    @property
    def serve(self):
        """The command of the hub."""
        words = ("serve", "run", "run.toml", "--identity", "own.identity", "--json")
        return (*words, "--listen", f"127.0.0.1:{self.port}")

    def start_hub(self, *more):
        self.start("hub", *self.serve, *more)

    def start_holder(self):
        words = ("key-holder", "--identity", "own.identity", "--roster", "federation.roster")
        reached = ("--hub", f"127.0.0.1:{self.port}", "--certificate", "hub.crt")
        if self.holder_listens:
            reached = ("--listen", f"127.0.0.1:{self.holder_port}")
        more = ("--authority", self.authority, "--results", "results")
        self.start("holder", *words, *reached, *more)

    def start_all(self):
        if self.custody == "key_holder":
            self.start_holder()
        for name in NAMES:
            self.start_node(name)
        self.start_hub()

    def wait_for(self, happened, timeout_s=150):
        """Wait until something is so, while no process has failed."""
        deadline = time.monotonic() + timeout_s
        while not happened():
            if time.monotonic() > deadline:
                raise AssertionError(f"it did not happen; {self.printed()}")
            time.sleep(0.1)

    def rounds_over(self):
        """Rounds that the hub called complete."""
        return sorted({one["round"] for one in self.events if one["event"] == "round"})

    def ended(self, party):
        return self.running[party].poll() is not None

    def finish(self, timeout_s=150):
        """Wait for hub and nodes; all must end well."""
        parties = ("hub", *NAMES)
        self.wait_for(lambda: all(self.ended(party) for party in parties), timeout_s)
        codes = {party: self.running[party].returncode for party in parties}
        assert set(codes.values()) == {0}, (codes, self.printed())

    def carrier(self, party):
        """Process id of what carries the bytes of a party; None if there is none."""
        module = "flower.link" if party == "hub" else "flower.pump"
        for path in Path("/proc").glob("[0-9]*"):
            try:
                words = (path / "cmdline").read_bytes()
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if parent == self.running[party].pid and module.encode() in words:
                return int(path.name)
        return None

    def kill(self, party):
        """Kill a party's process (-9)."""
        self.running[party].kill()
        self.running[party].wait()

    def kill_carrier(self, party):
        """Kill what carries its bytes (-9)."""
        os.kill(self.carrier(party), signal.SIGKILL)

    def printed(self):
        texts = {}
        for party in self.running:
            path = self.folder / party / "printed.txt"
            texts[party] = path.read_text()[-2000:] if path.exists() else ""
        return {"events": self.events[-5:], **texts}

    def close(self):
        for process in self.running.values():
            if process.poll() is None:
                process.terminate()
        for process in self.running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def left_behind(self):
        """What the parties left in the folder for temporary files, which is removed."""
        found = sorted(path.name for path in self.temporary.iterdir())
        shutil.rmtree(self.temporary)
        return found

    def left_over(self):
        """Command lines of processes that still work in this federation's folder."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.folder) in os.readlink(path / "cwd"):
                    found.append((path / "cmdline").read_bytes())
            except OSError:
                continue
        return found

    def replicas(self):
        """Of each party, how many processes take a part of its batches."""
        found = [
            path.parent.joinpath("cwd").resolve().name
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if b"privfed.private_step.replica" in path.read_bytes()
            and path.parent.joinpath("cwd").resolve().is_relative_to(self.folder)
        ]
        return Counter(found)

    def ledger(self, name):
        return Ledger.inspect(ledger_path(self.folder / name / "state", name, DATASET))

    def results(self, name):
        return self.folder / name / f"results-{name}"

    def report(self, party):
        folder = self.folder / "hub/runs/run" if party == "hub" else self.results(party)
        return json.loads((folder / "report.json").read_text())
