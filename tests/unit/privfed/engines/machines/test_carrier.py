"""A process beside a party: started again when it dies, ended with its party however that ends."""

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from privfed.engines.machines import carrier as carrier_module
from privfed.engines.machines.carrier import Carrier

# A process that ended leaves its pipes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

MODULES = {
    "lives": """
        import json, os, sys
        print("began with", json.load(open(sys.argv[1]))["word"], flush=True)
        print("process", os.getpid(), flush=True)
        sys.stdin.buffer.read()
        open(sys.argv[1] + ".ended", "w").close()
    """,
    "dies": """
        import sys
        print("one", flush=True)
        print("  two  ", flush=True)
        print("to its log", file=sys.stderr)
        sys.exit(3)
    """,
    "fails_at_once": """
        print("last words", flush=True)
    """,
    "stubborn": """
        import time
        print("began", flush=True)
        time.sleep(600)
    """,
    "shows": """
        import os, sys
        names = ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK", "FLWR_HOME")
        print(*(os.environ[name] for name in names), flush=True)
        print(os.getsid(0) == os.getpid(), flush=True)
        sys.stdin.buffer.read()
    """,
    "knows": """
        import os, sys
        print(*sorted(os.environ), flush=True)
        print(os.environ["HOME"], flush=True)
        sys.stdin.buffer.read()
    """,
}
AGAIN = "the process that carries messages ended; it starts again in {} s"


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder from which processes import the modules above."""
    folder = tmp_path / "modules"
    folder.mkdir()
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    before = os.environ.get("PYTHONPATH")
    path = f"{folder}:{before}" if before else str(folder)
    monkeypatch.setenv("PYTHONPATH", path)
    return folder


class Heard:
    """What a carrier's party is told, and how long it waits for that."""

    def __init__(self):
        self.lines = []

    def __call__(self, line):
        self.lines.append(line)

    def wait(self, condition, seconds=20.0):
        deadline = time.monotonic() + seconds
        while not condition(self.lines):
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.01)


@pytest.fixture
def started(modules, tmp_path):
    """A function that starts one of the modules; all are stopped in the end."""
    made = []

    def start(module, **settings):
        folder = tmp_path / "home"
        folder.mkdir(exist_ok=True)
        heard = Heard()
        made.append(Carrier(module, settings, folder, heard))
        made[-1].start()
        return made[-1], heard, folder

    yield start
    for one in made:
        one.stop()
        assert one.process_id is None


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def test_it_is_told_its_settings_and_what_it_prints_is_heard(started):
    carrier, heard, _ = started("lives", word="seven")
    heard.wait(lambda lines: len(lines) == 2)
    assert heard.lines == ["began with seven", f"process {carrier.process_id}"]


def test_its_settings_are_its_users_alone(started):
    _, heard, folder = started("lives", word="secret", more=[1, None])
    heard.wait(lambda lines: len(lines) == 2)
    path = folder / "lives.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {"word": "secret", "more": [1, None]}


def test_so_is_its_log(started):
    _, heard, folder = started("dies")
    heard.wait(lambda lines: len(lines) >= 3)
    log = folder / "dies.log"
    assert log.read_text() == "to its log\n"
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_flower_is_kept_quiet_and_at_home(started):
    _, heard, folder = started("shows")
    heard.wait(lambda lines: len(lines) == 2)
    assert heard.lines[0] == f"0 1 {folder / 'flower'}"
    assert heard.lines[1] == "True", "Ctrl-C at a terminal reaches the party alone"


def test_it_is_given_nothing_else_that_its_party_was(started, monkeypatch):
    """Not a secret of its environment, and not the way to its user's files."""
    monkeypatch.setenv("PRIVFED_PASSPHRASE", "secret")
    _, heard, folder = started("knows")
    heard.wait(lambda lines: len(lines) == 2)
    names = heard.lines[0].split()
    assert "PRIVFED_PASSPHRASE" not in names
    assert "PRIVFED_STATE" not in names
    assert "PATH" in names
    assert heard.lines[1] == str(folder)


def test_stopped_it_ends_by_itself(started):
    carrier, heard, folder = started("lives", word="x")
    heard.wait(lambda lines: len(lines) == 2)
    process = carrier.process_id
    carrier.stop()
    assert not is_alive(process)
    assert (folder / "lives.json.ended").exists(), "it finished what it was at"
    assert len(heard.lines) == 2, "that is no death"


def test_stopped_twice_or_before_it_began(modules, tmp_path):
    carrier = Carrier("lives", {"word": "x"}, tmp_path, lambda _: None)
    carrier.stop()
    carrier.stop()
    assert carrier.process_id is None


def test_stopped_while_it_starts(modules, tmp_path, monkeypatch):
    """As when the hub or the node cannot be made, right after its carrier was started."""
    monkeypatch.setattr(carrier_module, "_STOP_S", 0.2)
    begun, stopping, genuine = threading.Event(), threading.Event(), subprocess.Popen

    def slow(*arguments, **about):
        begun.set()
        assert stopping.wait(10)
        return genuine(*arguments, **about)

    monkeypatch.setattr(subprocess, "Popen", slow)
    carrier = Carrier("lives", {"word": "x"}, tmp_path, lambda _: None)
    carrier.start()
    assert begun.wait(10)
    threading.Timer(0.05, stopping.set).start()
    carrier.stop()
    carrier._watch.join(3)
    left = carrier.process_id
    if left is not None:
        carrier._process.stdin.close()
        carrier._watch.join(10)
        carrier._process.stdout.close()
    assert left is None


def test_one_that_does_not_end_is_killed(started, monkeypatch):
    monkeypatch.setattr(carrier_module, "_STOP_S", 0.3)
    carrier, heard, _ = started("stubborn")
    heard.wait(lambda lines: lines == ["began"])
    process = carrier.process_id
    carrier.stop()
    deadline = time.monotonic() + 10
    while is_alive(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(process)


class TestOneThatDies:
    def test_is_started_again(self, started, monkeypatch):
        monkeypatch.setattr(carrier_module, "_SHORTEST_S", 0.02)
        _, heard, _ = started("dies")
        heard.wait(lambda lines: lines.count("one") >= 3)
        assert heard.lines[:6] == ["one", "two", AGAIN.format("0.02")] * 2

    def test_what_it_logged_before_is_kept(self, started, monkeypatch):
        monkeypatch.setattr(carrier_module, "_SHORTEST_S", 0.02)
        _, heard, folder = started("dies")
        heard.wait(lambda lines: lines.count("one") >= 3)
        assert (folder / "dies.log").read_text().count("to its log\n") >= 2

    def test_so_is_one_that_was_killed(self, started, monkeypatch):
        monkeypatch.setattr(carrier_module, "_SHORTEST_S", 0.02)
        carrier, heard, _ = started("lives", word="x")
        heard.wait(lambda lines: len(lines) == 2)
        first = carrier.process_id
        os.kill(first, signal.SIGKILL)
        heard.wait(lambda lines: len(lines) == 5)
        assert heard.lines[2:4] == [AGAIN.format("0.02"), "began with x"]
        assert carrier.process_id not in (first, None)
        assert is_alive(carrier.process_id)

    def test_it_waits_longer_for_one_that_only_fails_and_not_for_ever(self, started, monkeypatch):
        monkeypatch.setattr(carrier_module, "_SHORTEST_S", 0.01)
        monkeypatch.setattr(carrier_module, "_LONGEST_S", 0.05)
        _, heard, _ = started("fails_at_once")
        heard.wait(lambda lines: len(lines) >= 8)
        pauses = [line for line in heard.lines if line != "last words"][:4]
        assert pauses == [AGAIN.format(pause) for pause in ("0.02", "0.04", "0.05", "0.05")]

    def test_stopped_in_the_pause_it_is_not_started_again(self, started, monkeypatch):
        monkeypatch.setattr(carrier_module, "_SHORTEST_S", 600.0)
        carrier, heard, _ = started("dies")
        heard.wait(lambda lines: len(lines) == 3)
        assert carrier.process_id is None
        before = time.monotonic()
        carrier.stop()
        assert time.monotonic() - before < 5, "nor is the pause waited for"
        assert heard.lines.count("one") == 1


def test_a_killed_party_leaves_no_process(modules, tmp_path):
    """Nothing tells the process but that its standard input ends."""
    program = f"""
        import threading
        from pathlib import Path
        from privfed.engines.machines.carrier import Carrier
        def say(line):
            print(line, flush=True)
        Carrier("lives", {{"word": "x"}}, Path({str(tmp_path)!r}), say).start()
        threading.Event().wait()
    """
    party = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    )
    with party:
        assert party.stdout.readline() == "began with x\n"
        child = int(party.stdout.readline().split()[-1])
        assert is_alive(child)
        party.kill()
    deadline = time.monotonic() + 10
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (tmp_path / "lives.json.ended").exists()


def test_no_thread_is_left(started):
    carrier, heard, _ = started("lives", word="x")
    heard.wait(lambda lines: len(lines) == 2)
    before = threading.active_count()
    carrier.stop()
    assert threading.active_count() == before - 1
