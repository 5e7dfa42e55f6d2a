"""`privfed plan` answers without what trains, writes what it says, and refuses in a line."""

import json
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from typer.testing import CliRunner

from accountants import (
    Budget,
    Ledger,
    Neighbouring,
    NoisedCount,
    PoissonGaussian,
    noise_multiplier,
)
from privfed.cli.main import app
from privfed.cli.plan_file import plan_of_file
from privfed.errors import ConfigError
from privfed.storage.state_folder import ledger_path
from tests.unit.privfed.cli.configurations import MISSING, as_toml, changed

RELATION = Neighbouring.ADD_REMOVE
QUESTION = ("--size", "1500", "--epsilon", "3", "--delta", "1e-5")
HEAVY = ("torch", "transformers", "peft", "opacus", "tenseal", "matplotlib", "pandas", "datasets")


def invoke(*arguments):
    """Run the command in this process; what it raises is raised here."""
    words = [str(argument) for argument in ("plan", *arguments)]
    return CliRunner().invoke(app, words, catch_exceptions=False)


def numbers(*arguments):
    done = invoke(*arguments, "--json")
    assert done.exit_code == 0
    return json.loads(done.output)


LOADED = f"""
import sys
from privfed.cli.main import main
sys.argv = ["privfed", "plan", *sys.argv[1:]]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print([name for name in {HEAVY} if name in sys.modules])
"""


def test_nothing_that_trains_is_loaded():
    arguments = [sys.executable, "-c", LOADED, *QUESTION, "--parameters", "2000"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr == ""
    assert done.stdout.endswith("\n[]\n")
    assert "noise multiplier" in done.stdout


def test_nor_for_a_configuration(settings, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(as_toml(changed(settings, "parties", MISSING)), encoding="utf-8")
    arguments = [sys.executable, "-c", LOADED, str(path), "--state", str(tmp_path / "state")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr == ""
    assert done.stdout.endswith("\n[]\n")
    assert not (tmp_path / "state").exists()


class TestNumbersAlone:
    def test_one_size_is_that_of_three_clients_and_the_answer_says_so(self):
        done = invoke(*QUESTION)
        assert done.exit_code == 0
        said = " ".join(done.output.split())
        assert "3 clients of this size are taken" in said
        assert "of each client and not of all" in said
        found = numbers(*QUESTION)
        batch, rounds = found["expected_batch_size"], found["rounds"]
        budget = Budget(epsilon=3.0, delta=1e-5)
        wanted = noise_multiplier(budget, batch / 1500, rounds, neighbouring=RELATION)
        assert [one["noise_multiplier"] for one in found["clients"].values()] == 3 * [wanted]

    def test_sizes_are_repeated_or_multiplied_or_named(self):
        more = ("--epsilon", "3", "--delta", "1e-5", "--batch", "50", "--rounds", "2")

        def sizes(*arguments):
            clients = numbers(*arguments, *more)["clients"]
            return {name: one["public_size"] for name, one in clients.items()}

        assert sizes("--size", "70", "--size", "90") == {"client-1": 70, "client-2": 90}
        assert sizes("--size", "70", "--clients", "4") == {f"client-{n}": 70 for n in range(1, 5)}
        assert sizes("--size", "a=70", "--size", "b=90") == {"a": 70, "b": 90}

    def test_flags_reach_the_plan(self):
        found = numbers(
            *("--size", "a=400", "--size", "b=300", "--size", "c=200", "--size", "d=40"),
            *("--epsilon", "2", "--delta", "1e-4", "--batch", "50", "--rounds", "6"),
            *("--steps-per-round", "3", "--clipping-norm", "0.5", "--minimum", "41"),
            *("--clients-per-round", "2", "--parameters", "900", "--seconds-per-example", "0.25"),
        )
        assert found["clients"]["a"]["steps_per_round"] == 3
        assert found["clients"]["a"]["rounds"] == 4
        assert (found["clipping_norm"], found["left_out"]) == (0.5, {"d": 40})
        assert found["clients_per_round"] == 2
        assert found["gradients"]["of_client"]["a"] == 50 * 3 * 4
        assert found["gradients"]["seconds_per_example"] == 0.25
        assert found["signal"]["noise"] == pytest.approx(30 * found["signal"]["noise_per_entry"])

    def test_noise_leaves_rounds_open(self):
        found = numbers(*QUESTION, "--batch", "150", "--noise", "2")
        assert found["rounds"] > 20
        assert found["clients"]["client-1"]["noise_multiplier"] <= 2

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ((), "needs public sizes"),
            (("--size", "1500", "--epsilon", "3"), "needs --delta"),
            (("--size", "15x", *QUESTION[2:]), "--size must be a whole number, or NAME=N"),
            (("--size", "a=5", "--size", "a=6", *QUESTION[2:]), "names 'a' twice"),
            (("--size", "5", "--size", "6", "--clients", "2", *QUESTION[2:]), "one --size"),
            ((*QUESTION, "--clients", "0"), "--clients must be at least 1"),
            ((*QUESTION, "--epsilon", "nan"), "epsilon must be a finite number"),
            ((*QUESTION, "--clients", "2", "--write", "x.toml"), "needs at least 3 clients"),
            ((*QUESTION, "--write", "x.toml"), "must say what one record is"),
        ],
    )
    def test_what_cannot_be_is_refused(self, arguments, words):
        with pytest.raises(ConfigError, match=words):
            invoke(*arguments)

    @pytest.mark.parametrize(
        "impossible",
        [
            ("--epsilon", "1e-9"),
            ("--size", "1", "--clients", "3"),
            ("--delta", "0"),
            ("--delta", "1"),
            ("--epsilon", "nan"),
        ],
    )
    def test_an_impossible_target_is_one_line_and_exit_code_one(self, impossible):
        words = ["plan", *("--size", "1500") * ("--size" not in impossible), *QUESTION[2:]]
        call = [sys.executable, "-m", "privfed", *words, *impossible]
        done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=120)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.strip().splitlines()
        assert " must " in line
        assert "; " in line


class TestAConfiguration:
    @pytest.fixture
    def write(self, settings, tmp_path):
        """A function that writes the settings, changed, and gives their path."""

        def make(*changes, name="run.toml"):
            values = changed(settings, "parties", MISSING)
            for place, value in changes:
                values = changed(values, place, value)
            path = tmp_path / name
            path.write_text(as_toml(values), encoding="utf-8")
            return path

        return make

    def test_it_is_read_as_a_run_reads_it(self, write, tmp_path):
        found = plan_of_file(write(), tmp_path / "state").plan
        assert found.sizes == {"west": 21, "north": 25, "east": 21, "south": 21}
        assert (found.epsilon, found.delta, found.rounds) == (4, 1e-3, 2)
        assert (found.expected_batch_size, found.steps_per_round) == (10, 2)
        assert (found.clipping_norm, found.minimum, found.min_clients) == (0.5, 11, 4)
        assert found.own["south"].budget == Budget(epsilon=1.5, delta=1e-4)
        assert found.method.describe()["method"] == "tail-averaging"
        assert (found.encryption.bits, found.training.learning_rate) == (10, 0.5)
        assert (found.record, found.dataset) == ("one made-up sentence", "notes-2026")

    def test_what_it_leaves_out_is_open(self, write, tmp_path):
        path = write(("privacy/expected_batch_size", MISSING), ("federation/rounds", MISSING))
        found = plan_of_file(path, tmp_path / "state").plan
        assert found.expected_batch_size is found.rounds is None

    def test_flags_and_open_come_before_the_file(self, write, tmp_path):
        state = ("--state", tmp_path / "state")
        assert numbers(write(), *state, "--rounds", "3")["rounds"] == 3
        found = numbers(write(), *state, "--open", "rounds", "--noise", "9")
        assert found["rounds"] > 2
        with pytest.raises(ConfigError, match="--open must be one of"):
            invoke(write(), *state, "--open", "noise")

    def test_what_a_ledger_counts_is_counted_and_the_ledger_not_touched(self, write, tmp_path):
        past = PoissonGaussian(noise_multiplier=3.0, sample_rate=0.5, steps=2)
        path = ledger_path(tmp_path / "state", "north", "notes-2026")
        ledger = Ledger.create(
            path, client="north", dataset="notes-2026", unit="u", neighbouring=RELATION
        )
        ledger.reserve("run", 1, [past], admit=lambda history, planned: None)
        before = {file: file.read_bytes() for file in path.parent.iterdir()}
        found = plan_of_file(write(), tmp_path / "state").plan
        assert found.histories == {"north": (past,)}
        budget = Budget(epsilon=4.0, delta=1e-3)
        wanted = noise_multiplier(budget, 10 / 25, 4, [past], neighbouring=RELATION)
        assert found.answer().noise_multipliers["north"] == wanted
        assert {file: file.read_bytes() for file in path.parent.iterdir()} == before
        assert [str(file) for file in (tmp_path / "state").rglob("*.sqlite3")] == [str(path)]

    def test_a_size_to_be_released_needs_a_guess_and_costs_epsilon(self, write, tmp_path):
        path, state = write(("data/public_sizes/north", {"noise_epsilon": 0.5})), tmp_path / "s"
        with pytest.raises(ConfigError, match=r"give guesses, such as --size north=1000"):
            plan_of_file(path, state)
        found = plan_of_file(path, state, {"north": 40}).plan
        assert found.sizes["north"] == 40
        assert found.histories == {"north": (NoisedCount(epsilon=0.5),)}
        with pytest.raises(ConfigError, match="whose sizes the configuration declares"):
            plan_of_file(path, state, {"north": 40, "east": 30})
        with pytest.raises(ConfigError, match="as NAME=N, got '40'"):
            invoke(path, "--size", "40")

    def test_the_file_of_a_run_between_machines_is_read_too(self, public, tmp_path):
        path = tmp_path / "public.toml"
        path.write_text(as_toml(public), encoding="utf-8")
        found = plan_of_file(path, tmp_path / "state")
        assert dict(found.plan.sizes) == public["data"]["public_sizes"]
        assert not found.by_column

    def test_written_numbers_are_read_again(self, write, tmp_path):
        path = write(("privacy/expected_batch_size", MISSING), ("federation/rounds", MISSING))
        state = ("--state", tmp_path / "state")
        first = numbers(path, *state, "--write", tmp_path / "planned.toml")
        assert first["chosen_by_rule"].keys() == {"rounds", "expected_batch_size"}
        again = numbers(tmp_path / "planned.toml", *state)
        assert again["clients"] == first["clients"]
        assert again["chosen_by_rule"] == {}
        with pytest.raises(ConfigError, match="exists already"):
            invoke(path, *state, "--write", tmp_path / "planned.toml")
        with pytest.raises(ConfigError, match="must lie beside"):
            invoke(path, *state, "--write", tmp_path / "state.toml" / ".." / ".." / "other.toml")

    def test_its_notebook_runs_and_comes_to_the_same(self, write, tmp_path):
        path, state = write(), tmp_path / "state"
        book = tmp_path / "why.ipynb"
        found = numbers(path, "--state", state, "--notebook", book, "--parameters", "300")
        text = executed(book)
        for client in found["clients"].values():
            assert f"{client['noise_multiplier']:g}" in text


def test_the_notebook_of_numbers_alone_runs(tmp_path):
    book = tmp_path / "why.ipynb"
    found = numbers(*QUESTION, "--batch", "300", "--rounds", "3", "--notebook", book)
    text = executed(book)
    assert f"{found['clients']['client-1']['noise_multiplier']:g}" in text
    assert "keeps epsilon 3" in text
    assert "does not keep epsilon 3" in text
    assert "<svg" in text


def executed(path):
    """All that a notebook puts out, run where it lies; it is valid."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}}).execute()
    return "\n".join(
        str(output.get("text") or output.get("data", {}))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def test_curves_are_drawn_into_a_new_file_and_printed(tmp_path):
    path = tmp_path / "curves.svg"
    more = (*QUESTION, "--batch", "300", "--rounds", "3")
    done = invoke(*more, "--curves", path)
    assert path.read_text().startswith("<svg")
    assert "noise of a step in an entry" in done.output
    with pytest.raises(ConfigError, match="exists already"):
        invoke(*more, "--curves", path)
    found = numbers(*more, "--curves", "-")
    assert len(found["curves"]["noise"]) == 7
    assert not (tmp_path / "-").exists()
