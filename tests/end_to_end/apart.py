"""Starts the parties of `separate_parties.py`, and starts again whoever dies."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from accountants import Ledger
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.parties.client.setup import prepare
from privfed.storage.state_folder import client_folder, ledger_path, opened_path
from tests.end_to_end.separate_parties import settings_of

SCRIPT = Path(__file__).with_name("separate_parties.py")


class Nursery:
    """The process from which clients and key holders are forked; one for all tests."""

    def __init__(self):
        self._process = None

    def fileno(self):
        """Of what it says, for `select`."""
        return self._process.stdout.fileno()

    def ask_for(self, name, folder):
        """Have a party started."""
        if self._process is None:
            self._process = started("nursery", folder)
            assert self._process.stdout.readline() == b"ready\n"
        self._process.stdin.write(f"{name} {folder}\n".encode())

    def heard(self):
        """The next thing that it said, as words: "began PID NAME" or "ended PID"."""
        return self._process.stdout.readline().decode().split()

    def close(self):
        """End it."""
        if self._process is not None:
            end(self._process)


class Apart:
    """A small federation whose parties are processes.

    Args:
        nursery: that starts clients and key holder.
        folder: of all parties; each uses its own part.
        bert: folder with the base model.
        clients: names.
        custody: who holds the key.
        rounds: planned.
        deaths: points at which parties kill themselves, by party.
        patience_s: how long the aggregator waits for a lost client.
        gone: parties that are not started again.
        without: a client that is left out, and after how many rounds.
        alone: clients that are started from nothing, with these additions to their environment.

    Attributes:
        again: beginnings of an aggregator's last line after which it is started again.
    """

    def __init__(
        self,
        nursery,
        folder,
        bert,
        clients,
        custody,
        *,
        deaths,
        patience_s,
        rounds=3,
        gone=(),
        alone=None,
        without=(None, None),
    ):
        self._nursery, self._asked, self.alive = nursery, 0, {}
        self.folder, self.clients, self.gone = folder, clients, gone
        self._environments = alone or {}
        self._alone = []
        self.holder = custody == "key_holder"
        self.deaths = deaths
        self.restarts = []
        self.again = ()
        plan = {
            "bert": bert,
            "clients": list(clients),
            "custody": custody,
            "rounds": rounds,
            "patience_s": patience_s,
            "without": without,
            "port": free_port(),
        }
        (folder / "plan.json").write_text(json.dumps(plan))
        for name, points in deaths.items():
            (folder / f"{name}.die.json").write_text(json.dumps(points))
        self._enrol()
        self._make_public_files()

    def _enrol(self):
        authority = Identity.generate("board", Role.AUTHORITY)
        parties = [Identity.generate(name, Role.CLIENT) for name in self.clients]
        parties.append(Identity.generate("aggregator", Role.AGGREGATOR))
        parties.append(Identity.generate("holder", Role.KEY_HOLDER))
        for identity in parties:
            identity.save(self.folder / f"{identity.party.name}.identity")
        roster = Roster.signed("apart", [i.party for i in parties], authority)
        roster.save(self.folder / "roster.json")
        (self.folder / "authority.hex").write_text(authority.party.signing_key.hex())

    def _make_public_files(self):
        """The initial adapter and the proposal; nobody's text is needed for them."""
        settings = settings_of(self.folder)
        brought = prepare(replace(settings, start=None), [], {}, start=None)
        (self.folder / "start.safetensors").write_bytes(brought.start)
        (self.folder / "proposal.json").write_text(json.dumps(settings.proposal().to_json()))

    def play(self, timeout_s=240):
        """Run until the aggregator has ended or given up; returns its last line."""
        deadline = time.monotonic() + timeout_s
        names = [*self.clients, *(["holder"] if self.holder else [])]
        for name in names:
            if name in self._environments:
                self._alone.append(started(name, self.folder, self._environments[name]))
            else:
                self._ask_for(name)
        self.aggregator = started("aggregator", self.folder)
        while time.monotonic() < deadline:
            readable, _, _ = select.select([self._nursery, self.aggregator.stdout], [], [], 1)
            if self._nursery in readable:
                name = self._heard()
                if name is not None:
                    self.restarts.append(name)
                    if name not in self.gone:
                        self._ask_for(name)
            if self.aggregator.stdout in readable:
                line = self.aggregator.stdout.readline().decode()
                if line.startswith(("done", "stopped")) and not line.startswith(self.again):
                    return line.strip()
                end(self.aggregator)
                self.restarts.append("aggregator")
                self.aggregator = started("aggregator", self.folder)
        raise AssertionError(f"the run did not end; restarted {self.restarts}, {self.errors()}")

    def _heard(self):
        """Who died, if that is what the nursery says next."""
        words = self._nursery.heard()
        if words[0] == "began":
            self._asked -= 1
            self.alive[words[1]] = words[2]
            return None
        return self.alive.pop(words[1])

    def _ask_for(self, name):
        self._nursery.ask_for(name, self.folder)
        self._asked += 1

    def errors(self):
        """What ended a party that did not die as it should."""
        return {p.stem: p.read_text() for p in self.folder.glob("*.error")}

    def close(self):
        """End all processes that were started."""
        if hasattr(self, "aggregator"):
            end(self.aggregator)
        while self._asked:
            self._heard()
        for child in self.alive:
            os.kill(int(child), signal.SIGKILL)
        while self.alive:
            self._heard()
        for process in self._alone:
            process.kill()
            end(process)

    def known(self):
        """What clients and key holder knew and wrote down, by party and name."""
        found = {}
        for path in self.folder.glob("*.known.json"):
            for what, content in json.loads(path.read_text()).items():
                found[path.name.partition(".")[0], what] = bytes.fromhex(content)
        return found

    def ledger(self, name):
        """Of one client."""
        return Ledger.inspect(ledger_path(self.folder / name / "state", name, f"wards of {name}"))

    def opened(self, name):
        """The rounds of the run that a client recorded, as JSON values."""
        path = opened_path(self.folder / name / "anchors", self.reached()["record"]["run"], name)
        return [json.loads(line) for line in path.read_text().splitlines()[1:]]

    def ended(self, name):
        """What a client had come to when it closed."""
        return json.loads((self.folder / f"{name}.ended.json").read_text())

    def runs_folder(self, name):
        """Where a client keeps its runs."""
        return client_folder(self.folder / name / "state", name, f"wards of {name}") / "runs"

    def reached(self):
        """How far the aggregator had come, as JSON values."""
        return json.loads((self.folder / "hub/reached.json").read_text())


def started(role, folder, environment=None):
    """A process of `separate_parties.py`."""
    command = [sys.executable, str(SCRIPT), role, str(folder)]
    around, pipe = {**os.environ, **(environment or {})}, subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, cwd=folder, env=around)


def end(process):
    """Let a process end that ends when its input does."""
    process.stdin.close()
    process.stdout.close()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]
