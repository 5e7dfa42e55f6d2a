"""SIGINT and SIGTERM end every program alike, in good order, whatever it inherited."""

import json
import re
import signal
import subprocess
import sys
import time
import traceback

import pytest

from accountants import Ledger, Neighbouring, epsilon
from accountants.stopping import Stopped, stopped_by_signals
from privfed import Callback
from privfed.cli import main as cli
from privfed.cli import run_file as run_config
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.parties.client import node
from privfed.parties.key_holder.serving import only_holder_of
from privfed.reports.round_record import rounded_up
from privfed.storage.state_folder import ledger_path

CONFIGURATION = """
seed = 3
[model]
task = "classification"
base = "{base}"
labels = ["sport", "money", "culture"]
max_length = 12
[data]
source = "notes.jsonl"
dataset = "notes"
text = "note"
label = "topic"
held_out = 0.2
[data.partition]
rule = "column"
column = "ward"
[data.public_sizes]
east = 30
north = 29
west = 28
[privacy]
epsilon = 4.0
delta = 1e-3
neighbouring = "add_remove"
record = "one made-up sentence"
expected_batch_size = 10
steps_per_round = 2
[privacy.clients.north]
epsilon = 3.5
delta = 5e-4
[adapter]
kind = "lora"
rank = 1
target_modules = ["query"]
[training]
learning_rate = 0.5
[encryption]
custody = "{custody}"
[federation]
rounds = 9
device = "cpu"
"""
BUDGETS = {"east": (4.0, 1e-3), "north": (3.5, 5e-4), "west": (4.0, 1e-3)}
PROGRAM = [sys.executable, "-m", "privfed"]
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
IGNORED = pytest.mark.parametrize("ignored", [True, False], ids=["ignored", "usual"])


@pytest.fixture
def config(tmp_path, bert_folder, topic_records):
    """A function that writes a configuration, beside 120 notes of three wards."""
    topics, wards = ("sport", "money", "culture"), ("east", "north", "west")
    rows = [
        {"note": record.text, "topic": topics[record.label], "ward": wards[position % 3]}
        for position, record in enumerate(topic_records(120, seed=1))
    ]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(custody="shared_key"):
        path = tmp_path / "wards.toml"
        path.write_text(CONFIGURATION.format(base=bert_folder, custody=custody))
        return path

    return write


@pytest.fixture
def started():
    """A function that starts the program; none outlives the test."""
    processes = []

    def start(*arguments, ignored):
        """`ignored` as a shell without job control starts its background jobs."""
        ignore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
        processes.append(
            subprocess.Popen(
                [*PROGRAM, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                **(ignore if ignored else {}),
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        with process:
            process.kill()


def spent(state):
    """What the ledgers say, reserved rounds included."""
    return {
        client: epsilon(
            Ledger.inspect(ledger_path(state, client, "notes")).events(),
            delta,
            Neighbouring.ADD_REMOVE,
        ).upper
        for client, (_, delta) in BUDGETS.items()
    }


class TestARun:
    @SIGNALS
    @pytest.mark.parametrize("custody", ["shared_key", "key_holder"])
    def test_it_says_how_far_it_came_and_goes_on(self, config, started, tmp_path, custody, number):
        arguments = ["run", config(custody), "--out", tmp_path / "out", "--state", tmp_path / "own"]
        process = started(*arguments, ignored=True)
        for line in process.stdout:
            if re.match(r" +2 +3/3 ", line):
                break
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + number, errors
        (line,) = errors.splitlines()
        found = re.fullmatch(
            r"privfed: stopped in round (\d), spent ([\d.]+) of ([\d.]+) "
            r"\(client '(\w+)', the largest\); `(privfed run .* --resume)` goes on",
            line,
        )
        assert found is not None, line
        now = spent(tmp_path / "own")
        largest = max(now, key=now.get)
        assert found[4] == largest
        assert (found[2], float(found[3])) == (rounded_up(now[largest]), BUDGETS[largest][0])
        assert int(found[1]) >= 3
        assert found[5].endswith(f"--out {tmp_path / 'out'} --state {tmp_path / 'own'} --resume")
        resumed = started(*arguments, "--resume", ignored=False)
        out, errors = resumed.communicate(timeout=120)
        assert resumed.returncode == 0, errors
        rows = [int(row.split()[0]) for row in out.splitlines() if re.match(r" +\d+ +\d/3 ", row)]
        assert rows[-1] == 9

    @SIGNALS
    def test_before_a_round_nothing_is_spent(self, config, tmp_path, monkeypatch, capfd, number):
        def loading(*arguments):
            signal.raise_signal(number)

        monkeypatch.setattr(run_config, "load_federation", loading)
        monkeypatch.setattr(sys, "argv", ["privfed", "run", str(config())])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 128 + number
        assert capfd.readouterr() == (
            "",
            "privfed: stopped before a round began, so nothing was spent\n",
        )

    def test_a_second_signal_ends_it_at_once(self, config, started, tmp_path):
        """Also while it is busy with ending; what it left can be gone on with."""
        arguments = ["run", config("key_holder"), "--out", tmp_path / "out"]
        process = started(*arguments, "--state", tmp_path / "own", ignored=True)
        for line in process.stdout:
            if re.match(r" +1 +3/3 ", line):
                break
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        ways = {number: {-number, 128 + number} for number in (signal.SIGINT, signal.SIGTERM)}
        assert process.returncode in set.union(*ways.values())
        resumed = started(*arguments, "--state", tmp_path / "own", "--resume", ignored=False)
        _, errors = resumed.communicate(timeout=120)
        assert resumed.returncode == 0, errors

    def test_what_a_client_was_failing_at_is_not_shown(
        self, make_federation, tmp_path, monkeypatch
    ):
        """Ctrl-C while a client's failure is dealt with; Python would show both."""

        def update(self, plan, state, start):
            raise ValueError("patient Smith")

        def interrupted(self, *arguments, **keywords):
            raise KeyboardInterrupt

        monkeypatch.setattr(node.ClientNode, "update", update)
        monkeypatch.setattr("logging.Logger.error", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            make_federation(rounds=2).run(tmp_path / "run")
        assert "patient" not in "".join(traceback.format_exception(caught.value))
        assert str(caught.value).startswith("stopped in round 1, spent ")

    def test_what_could_not_be_encoded_is_not_shown(self, make_federation, tmp_path, monkeypatch):
        """The same, before a round begins."""

        def encode(*arguments):
            raise ValueError("patient Smith")

        def interrupted(self, *arguments, **keywords):
            raise KeyboardInterrupt

        monkeypatch.setattr("privfed.parties.client.joining.usable_records", encode)
        monkeypatch.setattr("logging.Logger.error", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            make_federation(rounds=2).run(tmp_path / "run")
        assert "patient" not in "".join(traceback.format_exception(caught.value))

    def test_a_program_of_ones_own_is_told_too(self, make_federation, tmp_path):
        class Stop(Callback):
            def on_client(self, number, client):
                if (number, client) == (2, "client-1"):
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt, match=r"stopped in round 2, spent \d.*of 5 \(client"):
            make_federation().run(tmp_path / "run", callbacks=[Stop()])


class TestAKeyHolder:
    @pytest.fixture
    def arguments(self, tmp_path):
        """Of a key holder that is enrolled."""
        holder = Identity.generate("vault", Role.KEY_HOLDER)
        authority = Identity.generate("ministry", Role.AUTHORITY)
        holder.save(tmp_path / "vault")
        Roster.signed("wards", [holder.party], authority).save(tmp_path / "roster")
        return [
            *("key-holder", "--identity", tmp_path / "vault", "--roster", tmp_path / "roster"),
            *("--authority", authority.party.signing_key.hex(), "--results", tmp_path / "results"),
            *("--listen", "127.0.0.1:0"),
        ]

    @SIGNALS
    @IGNORED
    def test_it_ends_within_a_second(self, started, arguments, tmp_path, number, ignored):
        process = started(*arguments, ignored=ignored)
        assert "listens on" in process.stderr.readline()
        began = time.perf_counter()
        process.send_signal(number)
        out, errors = process.communicate(timeout=20)
        assert time.perf_counter() - began < 3, "a second, on a machine that is busy with others"
        assert process.returncode == 128 + number
        assert (out, errors) == ("", "privfed: stopped\n")
        with only_holder_of(tmp_path / "results"):
            pass


class TestTheHandlers:
    @pytest.mark.parametrize("before", [signal.SIG_IGN, signal.SIG_DFL, signal.default_int_handler])
    @SIGNALS
    def test_both_raise_the_same_whatever_was_inherited(self, number, before):
        kept = signal.signal(number, before)
        try:
            with pytest.raises(Stopped) as caught, stopped_by_signals():
                signal.raise_signal(number)
            assert caught.value.signal is number
            assert signal.getsignal(number) is before
        finally:
            signal.signal(number, kept)

    @SIGNALS
    def test_the_second_one_has_its_usual_effect(self, number):
        with stopped_by_signals():
            with pytest.raises(Stopped):
                signal.raise_signal(number)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
