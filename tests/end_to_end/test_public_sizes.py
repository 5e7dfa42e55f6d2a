"""A size that is released: booked once for a data set, and never convolved with what follows."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant

from accountants import (
    AnchorFolder,
    BudgetExceededError,
    Ledger,
    Neighbouring,
    NoisedCount,
    PoissonGaussian,
)
from privfed import Budget, Callback, NoisySize
from privfed.errors import ConfigError, ReportError
from privfed.parties.client import public_size
from privfed.parties.client.joining import size_source
from privfed.private_step.randomness import SystemRandomness
from privfed.storage.run_folder import RunFolder
from privfed.verification import verify_and_render
from tests.organisations import with_share

NOISE_EPSILON = 0.25
RELEASED = {"client-0": 37, "client-1": 44, "client-2": 31, "client-3": 52}
TRUE = {"client-0": 43, "client-1": 39, "client-2": 48, "client-3": 35}


@pytest.fixture
def drawn(monkeypatch):
    """Chosen noise in place of a draw, and what was asked for."""
    asked = []
    left = list(RELEASED.values())

    def released(count, noise_epsilon, stream):
        asked.append((count, noise_epsilon))
        return left[len(asked) - 1]

    monkeypatch.setattr(public_size, "released_size", released)
    return asked


@pytest.fixture
def make(make_federation, topic_records):
    """A function that makes a federation whose sizes are released."""

    def made(minimum=1, **changes):
        federation = make_federation(**changes)
        clients = [
            replace(
                client,
                records=tuple(topic_records(TRUE[client.id], seed=50 + index)),
                public_size=NoisySize(noise_epsilon=NOISE_EPSILON, minimum=minimum),
            )
            for index, client in enumerate(federation.clients)
        ]
        return replace(federation, clients=clients)

    return made


def events_of(folder, client):
    """Everything in the export of a client's ledger, as JSON."""
    export = json.loads((folder / f"ledgers/{client}.json").read_text())
    return [e["body"]["ran"][0] for e in export["entries"] if e["kind"] == "commit"]


def test_it_sets_rate_and_noise_and_its_epsilon_is_added(make, drawn, tmp_path):
    federation = make()
    report = federation.run(tmp_path / "run").report
    assert drawn == [(count, NOISE_EPSILON) for count in TRUE.values()]
    batch = federation.privacy.expected_batch_size
    for client in report.clients:
        assert client.public_size == RELEASED[client.id]
        assert client.sample_rate == batch / RELEASED[client.id]
        first, *rounds = events_of(tmp_path / "run", client.id)
        assert first == {"type": "noised_count", "epsilon": NOISE_EPSILON, "steps": 1}
        accountant = PLDAccountant()
        for event in rounds:
            step = dp_accounting.GaussianDpEvent(event["noise_multiplier"])
            sampled = dp_accounting.PoissonSampledDpEvent(event["sample_rate"], step)
            accountant.compose(sampled, event["steps"])
        expected = NOISE_EPSILON + accountant.get_epsilon(client.delta)
        assert client.epsilon_spent == pytest.approx(expected, abs=2e-3)
        assert 0.99 * client.epsilon_budget <= client.epsilon_spent <= client.epsilon_budget
        assert client.epsilon_before == pytest.approx(NOISE_EPSILON)
    assert "released once for each data set with discrete Laplace noise" in str(report.published)
    assert "client-2 (epsilon 0.25)" in str(report.published)


def test_a_data_set_has_one_size_for_all_its_runs(make, drawn, tmp_path):
    federation = make(rounds=1)
    with_share(federation, 0.375).run(tmp_path / "first")
    dearer = [
        replace(client, public_size=NoisySize(noise_epsilon=0.5)) for client in federation.clients
    ]
    report = replace(federation, clients=dearer).run(tmp_path / "second").report
    assert len(drawn) == 4, "released once"
    assert {client.id: client.public_size for client in report.clients} == RELEASED
    counts = [e for e in events_of(tmp_path / "second", "client-1") if e["type"] == "noised_count"]
    assert counts == [{"type": "noised_count", "epsilon": NOISE_EPSILON, "steps": 1}]


def test_a_resume_goes_on_with_the_released_sizes(make, drawn, tmp_path, monkeypatch):
    federation = make()
    real = RunFolder.save

    def stop_after_two(self, checkpoint):
        real(self, checkpoint)
        if checkpoint.round == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "save", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        federation.run(tmp_path / "run")
    monkeypatch.undo()
    result = federation.run(tmp_path / "run", resume=True)
    assert len(drawn) == 4
    assert [row.round for row in result.rounds] == [1, 2, 3]


def test_a_release_that_a_crash_lost_is_counted_and_made_again(make, drawn, tmp_path, monkeypatch):
    federation = make(rounds=1)
    with monkeypatch.context() as patched:
        failing = SimpleNamespace(dumps=lambda values: 1 / 0)  # after the draw
        patched.setattr(public_size, "json", failing)
        with pytest.raises(ZeroDivisionError):
            federation.run(tmp_path / "run")
    drawn.clear()
    report = federation.run(tmp_path / "again").report
    before = {client.id: client.epsilon_before for client in report.clients}
    assert before["client-0"] == pytest.approx(2 * NOISE_EPSILON)
    assert before["client-1"] == pytest.approx(NOISE_EPSILON)


def test_who_is_too_small_takes_no_part_and_is_named(make, drawn, tmp_path):
    report = make(minimum=35).run(tmp_path / "run").report
    assert [client.id for client in report.clients] == ["client-0", "client-1", "client-3"]
    assert "client 'client-2' takes no part: its released size 31 lies below 35" in str(
        report.warnings
    )


def test_too_few_of_enough_size_are_refused(make, drawn, tmp_path):
    with pytest.raises(ConfigError, match="fewer than min_clients"):
        make(minimum=40).run(tmp_path / "run")


def test_a_budget_that_the_release_would_use_up_is_refused(make, tmp_path):
    federation = make()
    *others, last = federation.clients
    tight = replace(last, budget=Budget(epsilon=NOISE_EPSILON, delta=last.budget.delta))
    with pytest.raises(BudgetExceededError, match="releasing the size of client 'client-3'"):
        replace(federation, clients=[*others, tight]).run(tmp_path / "run")


def test_nothing_is_released_by_a_run_that_cannot_begin(make, drawn, tmp_path):
    from privfed import LoRA
    from privfed.errors import ModelError

    with pytest.raises(ModelError):
        replace(make(), adapter=LoRA(rank=2, target_modules=("nothing",))).run(tmp_path / "run")
    assert drawn == []


def test_the_sum_is_what_the_theorem_says():
    """(e1, 0) and, whatever the count was, (e2, delta): together (e1 + e2, delta)."""
    from accountants import epsilon

    steps = PoissonGaussian(noise_multiplier=1.1, sample_rate=0.3, steps=7)
    alone = epsilon([steps], 1e-4, Neighbouring.ADD_REMOVE)
    both = epsilon([NoisedCount(epsilon=0.4), steps], 1e-4, Neighbouring.ADD_REMOVE)
    assert both.upper == pytest.approx(alone.upper + 0.4)
    assert both.upper >= alone.upper + 0.4


def test_the_report_says_what_was_released_not_what_was_asked_for(make, tmp_path):
    """An earlier run released at 0.25; a later one asks for 0.01 and gets that number again."""
    whose = {"dataset": "topics", "unit": "u", "neighbouring": Neighbouring.ADD_REMOVE}
    earlier, later = make().clients[:2], NoisySize(noise_epsilon=0.01)
    ledgers = {}
    for client in earlier:
        ledger = Ledger.create(tmp_path / f"{client.id}.sqlite3", client=client.id, **whose)
        budget = Budget(epsilon=4.0, delta=1e-3)
        public_size.public_size(
            client.public_size, TRUE[client.id], ledger, budget, SystemRandomness()
        )
        ledgers[client.id] = ledger
    clients = [replace(client, public_size=later) for client in earlier]
    said = size_source(clients, ledgers, "declared")
    assert "client-0 (epsilon 0.25), client-1 (epsilon 0.25)." in said


def test_what_a_client_that_is_too_small_released_is_stated(make, drawn, tmp_path):
    """No table holds it, and it is more than the headline's epsilon."""
    federation = make(minimum=35, rounds=1)
    dear = NoisySize(noise_epsilon=7.0, minimum=35)
    large = Budget(epsilon=9.0, delta=2e-3)
    clients = [
        replace(client, public_size=dear, budget=large) if client.id == "client-2" else client
        for client in federation.clients
    ]
    report = replace(federation, clients=clients).run(tmp_path / "run").report
    assert report.largest_epsilon <= 6.0
    (note,) = [note for note in report.warnings if "takes no part" in note]
    assert "epsilon spent on its data set is at most 7.00" in note
    assert "at delta 0.002" in note


def test_leaving_out_counts_who_is_too_small_already(make, drawn, tmp_path):
    """Four were asked, one is too small: without another, two would train for no sum."""

    class Stop(Callback):
        def on_round(self, record):
            raise KeyboardInterrupt

    federation = make(minimum=35)
    with pytest.raises(KeyboardInterrupt):
        federation.run(tmp_path / "run", callbacks=[Stop()])
    before = (tmp_path / "run/run.json").read_text()
    with pytest.raises(ConfigError, match="2 client.* fewer than min_clients = 3"):
        federation.run(tmp_path / "run", resume=True, without=["client-0"])
    assert (tmp_path / "run/run.json").read_text() == before
    result = federation.run(tmp_path / "run", resume=True)
    assert [row.round for row in result.rounds] == [1, 2, 3]


def test_a_size_that_was_not_released_is_refused(make, drawn, tmp_path):
    """Before the first round, when no ledger holds a sampling rate of the run."""

    class Leave(Callback):
        def on_start(self, *arguments):
            raise KeyboardInterrupt

    federation = make()
    with pytest.raises(KeyboardInterrupt):
        federation.run(tmp_path / "run", callbacks=[Leave()])
    anchors, path = AnchorFolder(federation.anchors), tmp_path / "run/report.json"
    verify_and_render(tmp_path / "run", anchors)
    values = json.loads(path.read_text())
    values["clients"][1] |= {"public_size": 57, "sample_rate": 20 / 57}
    path.write_text(json.dumps(values))
    with pytest.raises(
        ReportError, match="'client-1': .* the one that its ledger released, got 57"
    ):
        verify_and_render(tmp_path / "run", anchors)


def test_two_processes_at_once_release_one_size(tmp_path, monkeypatch):
    """The second one must not take the first one's reservation for what a crash left."""
    whose = {"client": "c", "dataset": "d", "unit": "u", "neighbouring": Neighbouring.ADD_REMOVE}
    path = tmp_path / "ledger.sqlite3"
    Ledger.create(path, **whose)
    drawing, go_on = threading.Event(), threading.Event()

    def draw(count, noise_epsilon, stream):
        drawing.set()
        assert go_on.wait(20)
        return count + 3

    def release():
        declared, budget = NoisySize(noise_epsilon=NOISE_EPSILON), Budget(epsilon=4.0, delta=1e-3)
        ledger = Ledger.open(path, **whose)
        return public_size.public_size(declared, 43, ledger, budget, SystemRandomness())

    monkeypatch.setattr(public_size, "released_size", draw)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(release)
        assert drawing.wait(20)
        second = pool.submit(release)
        time.sleep(0.3)
        go_on.set()
        assert first.result() == second.result() == release() == 43 + 3
    assert Ledger.open(path, **whose).events() == (NoisedCount(epsilon=NOISE_EPSILON),)
