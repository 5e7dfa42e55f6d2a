"""`python -m accountants`: what it prints, what it refuses, and how."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import accountants
from accountants import (
    Budget,
    Ledger,
    Neighbouring,
    PoissonGaussian,
    certified,
    event_to_json,
    noise_multiplier,
)
from accountants.__main__ import main
from accountants.cli.printing import RELATIONS, rounded_down, rounded_up
from accountants.events import Gaussian, Laplace
from tests.unit.accountants.command_line import (
    ADD,
    OWNER,
    SCHEDULE,
    STEP,
    refused_command,
    rows,
    run_command,
    write_export,
    write_ledger,
)
from tests.unit.accountants.first_version import FIRST_EVENTS, write_first

DP_SGD = PoissonGaussian(noise_multiplier=1.0, sample_rate=0.01, steps=1000)


@pytest.fixture
def path(tmp_path):
    return write_ledger(tmp_path / "ward.ledger")


@pytest.fixture
def export_path(path, tmp_path):
    return write_export(path, tmp_path / "ward.json")


@pytest.fixture
def run(capsys):
    return partial(run_command, capsys)


@pytest.fixture
def refused(capsys):
    return partial(refused_command, capsys)


# epsilon


def test_epsilon_is_the_certified_bound(run):
    bounds = certified.epsilon([DP_SGD], 1e-5, Neighbouring.ADD_REMOVE)
    printed = rows(run("epsilon", *ADD, *SCHEDULE, "--delta", "1e-5"))
    assert printed["epsilon"] == f"at most {rounded_up(bounds.upper)}, at delta 1e-05"
    assert printed["method"] == bounds.method
    assert printed["neighbours"] == "one data set has one unit more than the other (add_remove)"
    assert "a person with k records is protected less" in printed["unit"]
    assert "a shuffled epoch is no Poisson sample" in printed["assumes"]
    exact = json.loads(run("epsilon", *ADD, *SCHEDULE, "--delta", "1e-5", "--json"))
    assert (exact["epsilon_lower"], exact["epsilon"]) == (bounds.lower, bounds.upper)
    assert exact["delta"] == 1e-5
    assert exact["method"] == bounds.method
    assert exact["neighbouring"] == "add_remove"
    assert exact["events"] == [event_to_json(DP_SGD)]


def test_a_lower_bound_is_printed_rounded_down(run):
    """Golden: Balle & Wang 2018, sigma = 1, delta = 1e-5 gives 4.377178."""
    text = run("epsilon", *ADD, "--phase", "1,1,1", "--delta", "1e-5")
    assert "at most 4.37718," in text
    assert "can go below 4.37717\n" in text


def test_all_phases_and_files_are_composed(run, tmp_path):
    events = [Gaussian(noise_multiplier=5.0, steps=2), DP_SGD]
    for index, event in enumerate(events):
        (tmp_path / f"{index}.json").write_text(json.dumps([event_to_json(event)]))
    files = [argument for i in range(2) for argument in ("--events", tmp_path / f"{i}.json")]
    phases = ("--phase", "1.1,0.02,30", "--phase", "3,1,4")
    out = json.loads(run("epsilon", *ADD, *SCHEDULE, *phases, *files, "--delta", "1e-5", "--json"))
    wanted = [
        PoissonGaussian(noise_multiplier=1.1, sample_rate=0.02, steps=30),
        PoissonGaussian(noise_multiplier=3.0, sample_rate=1.0, steps=4),
        DP_SGD,
        *events,
    ]
    assert out["events"] == [event_to_json(event) for event in wanted]
    assert out["epsilon"] == certified.epsilon(wanted, 1e-5, Neighbouring.ADD_REMOVE).upper


def test_no_protection_is_said_in_a_word(run):
    arguments = ("epsilon", *ADD, "--phase", "0,1,1", "--delta", "1e-5")
    assert rows(run(*arguments))["epsilon"].startswith("at most infinity")
    assert json.loads(run(*arguments, "--json"))["epsilon"] == "infinity"


def test_a_ledger_or_an_export_is_counted_whole(run, path, export_path):
    ledger = Ledger.inspect(path)
    events = ledger.events()
    assert events == (STEP, STEP, STEP, STEP, Laplace(noise_multiplier=2.0))
    for file in (path, export_path):
        arguments = ("epsilon", *ADD, "--ledger", file, "--delta", "1e-5")
        exact = json.loads(run(*arguments, "--json"))
        assert exact["epsilon"] == certified.epsilon(events, 1e-5, Neighbouring.ADD_REMOVE).upper
        assert exact["events"] == [event_to_json(event) for event in events]
        assert exact["ledger"] == {"id": ledger.id} | OWNER | ledger.anchor().to_json()
        row = rows(run(*arguments))["ledger"]
        assert row.startswith("'ward', 'notes-7', 8 entries; reserved rounds count in full; ")
        assert "a rollback is not checked here" in row
        delta = json.loads(run("delta", *ADD, "--ledger", file, "--epsilon", "2", "--json"))
        assert delta["delta"] == certified.delta(events, 2.0, Neighbouring.ADD_REMOVE).upper
    assert "ledger" not in rows(run("epsilon", *ADD, *SCHEDULE, "--delta", "1e-5"))


@pytest.mark.parametrize("name", ["replace_one", "zero_out"])
def test_a_ledger_states_its_relation(run, refused, tmp_path, name):
    own, event = Neighbouring(name), Gaussian(noise_multiplier=3.0, steps=2)
    ledger = Ledger.create(tmp_path / "ledger", **OWNER | {"neighbouring": own})
    ledger.reserve("only", 0, [event], lambda *_: None)
    (tmp_path / "export").write_text(json.dumps(ledger.export()))
    for file in (tmp_path / "ledger", tmp_path / "export"):
        for command, at, value in (("epsilon", "--delta", 1e-5), ("delta", "--epsilon", 1.25)):
            arguments = (command, "--ledger", file, at, value)
            bounds = getattr(certified, command)(ledger.events(), value, own)
            exact = json.loads(run(*arguments, "--json"))
            assert (exact[command], exact["neighbouring"]) == (bounds.upper, name)
            assert exact["neighbours"] == RELATIONS[own]
            assert rows(run(*arguments))["neighbours"] == f"{RELATIONS[own]} ({name})"
            assert json.loads(run(*arguments, "--json", "--neighbouring", name)) == exact
            line = refused(*arguments, *ADD)
            assert f"must be the relation of the ledger {file}, '{name}', got 'add_remove'" in line


def test_a_ledger_of_the_first_version_states_no_relation(run, capsys, tmp_path):
    arguments = ["epsilon", "--ledger", str(write_first(tmp_path / "old")), "--delta", "1e-5"]
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "a ledger of the first version states no relation" in capsys.readouterr().err
    exact = json.loads(run(*arguments, "--neighbouring", "replace_one", "--json"))
    wanted = certified.epsilon(FIRST_EVENTS, 1e-5, Neighbouring.REPLACE_ONE).upper
    assert (exact["epsilon"], exact["neighbouring"]) == (wanted, "replace_one")


def test_an_empty_ledger_has_cost_nothing(run, tmp_path):
    Ledger.create(tmp_path / "ledger", **OWNER)
    text = run("epsilon", *ADD, "--ledger", tmp_path / "ledger", "--delta", "1e-5")
    assert rows(text)["epsilon"] == "at most 0, at delta 1e-05"


@pytest.mark.parametrize("name", ["add_remove", "replace_one", "zero_out"])
def test_a_group_has_the_number_of_a_group(run, name):
    """Golden: sigma = 2 and two records move a sum as sigma = 1 and one: 4.377178 (add_remove)."""
    event, relation = Gaussian(noise_multiplier=2.0), Neighbouring(name)
    terms = ("--phase", "2,1,1", "--group-size", "2", "--neighbouring", name)
    exact = json.loads(run("epsilon", *terms, "--delta", "1e-5", "--json"))
    assert exact["epsilon"] == certified.epsilon([event], 1e-5, relation, group_size=2).upper
    assert exact["group_size"] == 2
    if name == "add_remove":
        assert 4.377178 <= exact["epsilon"] <= 4.37718
    delta = json.loads(run("delta", *terms, "--epsilon", "1", "--json"))
    assert delta["delta"] == certified.delta([event], 1.0, relation, group_size=2).upper
    printed = rows(run("delta", *terms, "--epsilon", "1"))
    assert "up to 2 units" in printed["neighbours"]
    assert printed["unit"].endswith("a person with up to 2 of them, and not for more")


def test_a_group_size_out_of_range_is_refused(refused):
    for value in ("0", "-1"):
        line = refused("epsilon", *ADD, *SCHEDULE, "--delta", "1e-5", "--group-size", value)
        assert "group_size must be" in line


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--phase", "nan,0.5,1", "--delta", "1e-5"), "noise_multiplier must be"),
        (("--phase", "1,0.5,0", "--delta", "1e-5"), "steps must be"),
        (("--phase", "1,1.5,1", "--delta", "1e-5"), "sample_rate must be"),
        (("--phase", "1,0.5,1", "--delta", "1"), "delta must be"),
        (("--phase", "1,0.5,1", "--delta", "nan"), "delta must be"),
        (("--events", "/nowhere/events.json", "--delta", "1e-5"), "No such file"),
        (("--events", "/", "--delta", "1e-5"), "directory"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(refused, arguments, reason):
    assert reason in refused("epsilon", *ADD, *arguments)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (ZeroDivisionError("division by zero"), "out of the range of floating point"),
        (OverflowError("too large"), "OverflowError: too large"),
    ],
)
def test_a_computation_that_breaks_off_gives_no_number(refused, monkeypatch, failure, reason):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(certified, "epsilon", fail)
    assert reason in refused("epsilon", *ADD, *SCHEDULE, "--delta", "1e-5")


# delta


def test_delta_is_the_certified_bound(run):
    bounds = certified.delta([DP_SGD], 2.0, Neighbouring.REPLACE_ONE)
    arguments = ("delta", *SCHEDULE, "--epsilon", "2", "--neighbouring", "replace_one")
    text = run(*arguments)
    assert rows(text)["delta"] == f"at most {rounded_up(bounds.upper)}, at epsilon 2.0"
    assert f"can go below {rounded_down(bounds.lower)}\n" in text
    assert "(replace_one)" in text
    exact = json.loads(run(*arguments, "--json"))
    assert (exact["delta_lower"], exact["delta"]) == (bounds.lower, bounds.upper)
    assert exact["epsilon"] == 2.0


def test_delta_of_the_gaussian_is_its_closed_form(run):
    """Golden: Phi(-1/2) - e Phi(-3/2) = 0.12693673750664 at sigma = 1, epsilon = 1."""
    text = run("delta", *ADD, "--phase", "1,1,1", "--epsilon", "1")
    assert "at most 0.126937," in text
    assert "can go below 0.126936\n" in text


def test_delta_refuses_an_epsilon_out_of_range(refused):
    for value in ("-1", "nan", "inf"):
        line = refused("delta", *ADD, *SCHEDULE, "--epsilon", value)
        assert "epsilon must be" in line


# calibrate


def test_calibrate_gives_the_noise_of_the_library(run):
    arguments = ("calibrate", *ADD, "--epsilon", "2", "--delta", "1e-5")
    arguments += ("--sample-rate", "0.01", "--steps", "100")
    sigma = noise_multiplier(
        Budget(epsilon=2.0, delta=1e-5), 0.01, 100, neighbouring=Neighbouring.ADD_REMOVE
    )
    printed = run(*arguments)
    assert float(printed.split()[2].rstrip(",")) >= sigma
    assert f"noise multiplier  {rounded_up(sigma)}, times the clipping norm" in printed
    assert "budget            epsilon 2.0 at delta 1e-05" in printed
    assert "(add_remove)" in printed
    exact = json.loads(run(*arguments, "--json"))
    assert exact["noise_multiplier"] == sigma
    assert exact["events"][0]["noise_multiplier"] == sigma


def test_calibrate_knows_the_relation(run):
    arguments = ("calibrate", "--epsilon", "5", "--delta", "1e-5", "--sample-rate", "1")
    arguments += ("--steps", "3", "--neighbouring", "replace_one", "--json")
    budget = Budget(epsilon=5.0, delta=1e-5)
    wanted = noise_multiplier(budget, 1.0, 3, neighbouring=Neighbouring.REPLACE_ONE)
    assert json.loads(run(*arguments))["noise_multiplier"] == wanted


def test_calibrate_refuses_a_budget_out_of_range(refused):
    rest = ("--sample-rate", "0.01", "--steps", "10")
    assert "epsilon must be" in refused(
        "calibrate", *ADD, "--epsilon", "0", "--delta", "1e-5", *rest
    )
    assert "delta must be" in refused("calibrate", *ADD, "--epsilon", "1", "--delta", "1", *rest)


# verify


def test_verify_says_what_a_ledger_and_its_export_hold(run, path, export_path):
    anchor = Ledger.inspect(path).anchor()
    for file, kind in ((path, "ledger"), (export_path, "export")):
        text = run("verify", file)
        printed = rows(text)
        assert printed["whole"].startswith(f"this {kind}:")
        assert printed["client"] == "'ward'"
        assert printed["dataset"] == "'notes-7'"
        assert printed["unit"] == "'one note, ü'"
        assert printed["neighbouring"] == "'add_remove'"
        assert printed["id"] == repr(Ledger.inspect(path).id)
        assert printed["entries"] == "8"
        assert printed["head"] == anchor.head
        assert "'first': 3 committed, 0 only reserved\n" in text
        assert "'second': 0 committed, 1 only reserved\n" in text
        assert printed["rollback"].startswith("not checked: without --anchor")
        again = run("verify", file, "--anchor", printed["anchor"])
        assert rows(again)["rollback"] == "none: it continues the anchor"


def test_verify_of_a_ledger_without_runs(run, tmp_path):
    Ledger.create(tmp_path / "ledger", **OWNER)
    assert rows(run("verify", tmp_path / "ledger"))["runs"] == "none"


def test_verify_changes_nothing(run, path):
    path.chmod(0o644)
    before = path.read_bytes()
    run("verify", path)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (before, 0o644)


def test_verify_sees_a_rollback_with_an_anchor_only(run, refused, path, export_path, tmp_path):
    shutil.copy(path, tmp_path / "backup")
    older = export_path.read_text()
    Ledger.inspect(path).reserve("third", 0, [STEP], lambda *_: None)
    found = Ledger.inspect(path).anchor()
    anchor = f"{found.length}:{found.head}"
    shutil.copy(tmp_path / "backup", path)
    for file in (path, export_path):
        assert "cannot be seen" in run("verify", file)
        assert "at least the 9 entries" in refused("verify", file, "--anchor", anchor)
    other = f"8:{'0' * 64}"
    assert "entry 7 must have the digest" in refused("verify", path, "--anchor", other)
    cut = json.loads(older)
    cut["entries"].pop()
    export_path.write_text(json.dumps(cut | {"head": cut["entries"][-1]["digest"]}))
    assert rows(run("verify", export_path))["entries"] == "7"


def test_verify_says_which_entry_was_changed(refused, export_path):
    text = export_path.read_text()
    export_path.write_text(text.replace('"steps": 8', '"steps": 1', 1))
    assert "entry 1 was changed" in refused("verify", export_path)


# export


def test_export_writes_what_the_ledger_exports(run, path, tmp_path):
    wanted = Ledger.inspect(path).export()
    assert json.loads(run("export", path)) == wanted
    assert run("export", path, "--output", tmp_path / "new.json") == ""
    assert json.loads((tmp_path / "new.json").read_text()) == wanted
    assert "this export" in run("verify", tmp_path / "new.json")


def test_export_never_writes_over_a_file(refused, path):
    before = path.read_bytes()
    assert "exists" in refused("export", path, "--output", path)
    assert path.read_bytes() == before


# The process


def python(*arguments, **options):
    folder = str(Path(accountants.__file__).parents[1])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": folder},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **options,
    )


def test_it_runs_as_a_process(path):
    done = python("-m", "accountants", "verify", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert rows(done.stdout)["entries"] == "8"
    path.write_bytes(path.read_bytes()[:5000])
    done = python("-m", "accountants", "verify", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def computing(tmp_path):
    """A function that starts a computation of minutes, and returns when it reads its events."""
    processes, events = [], tmp_path / "events"
    os.mkfifo(events)

    def start(inherited):
        command = [sys.executable, "-m", "accountants", "epsilon", *ADD, "--delta", "1e-5"]
        process = subprocess.Popen(
            [*command, "--events", str(events)],
            env=os.environ | {"PYTHONPATH": str(Path(accountants.__file__).parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, inherited),
        )
        processes.append(process)
        return process, open(events, "w")

    yield start
    for process in processes:
        with process:
            process.kill()


def many_events():
    """So many different ones that their composition takes minutes."""
    for steps in range(1, 20_000):
        sigma = 1 + steps * 1e-4
        yield event_to_json(PoissonGaussian(noise_multiplier=sigma, sample_rate=0.3, steps=steps))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("inherited", [signal.SIG_IGN, signal.SIG_DFL], ids=["ignored", "usual"])
@pytest.mark.parametrize("reading", [True, False], ids=["while it reads", "while it computes"])
def test_a_signal_ends_it_whatever_it_inherited(computing, number, inherited, reading):
    """SIGINT is ignored in the background jobs of a shell without job control."""
    process, events = computing(inherited)
    with events:
        if not reading:
            json.dump(list(many_events()), events)
            events.close()
            time.sleep(2)
        assert process.poll() is None
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (128 + number, "", "error: interrupted\n")


LIGHT = """
import sys, types
package = types.ModuleType("accountants")  # without what its __init__ imports
package.__path__ = [{folder!r}]
sys.modules["accountants"] = package
from accountants.__main__ import main
assert main(["verify", {path!r}]) == 0 == main(["export", {path!r}])
try:
    main(["--help"])
except SystemExit:
    heavy = {{"numpy", "scipy", "dp_accounting"}} & set(sys.modules)
    sys.exit(f"imported {{heavy}}" if heavy else 0)
"""


def test_help_and_ledgers_need_no_numerical_library(path):
    folder = str(Path(accountants.__file__).parent)
    done = python("-c", LIGHT.format(folder=folder, path=str(path)))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_goes_away_gets_no_traceback(path):
    command = f'"{sys.executable}" -m accountants export "$0" | true; exit "${{PIPESTATUS[0]}}"'
    folder = str(Path(accountants.__file__).parents[1])
    ledger = Ledger.inspect(path)
    for number in range(200):  # more than a pipe holds
        ledger.reserve("long", number, [STEP], lambda *_: None)
    done = subprocess.run(
        ["bash", "-c", command, path],
        env=os.environ | {"PYTHONPATH": folder},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, "")
