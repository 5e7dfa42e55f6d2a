"""Clients that take steps of their own: drawn, noised, counted and reported as those they took."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from accountants import AnchorFolder, Ledger, Neighbouring, PoissonGaussian, canonical, epsilon
from privfed import Budget, FedNova, Plain
from privfed.errors import ReportError, RunFolderError
from privfed.private_step import dpsgd
from privfed.storage.state_folder import ledger_path
from privfed.verification import verify_and_render

STEPS = {"client-0": 1, "client-1": 2, "client-2": 3}
"""The second takes the federation's."""
OWN = {**STEPS, "client-1": None}
ROUNDS, BATCH = 4, 20
BUDGET = Budget(epsilon=4.5, delta=1e-3)


@pytest.fixture
def federation(make_federation):
    """Three clients alike in budget and public size, so that steps alone tell them apart."""
    made = make_federation(num_clients=3, rounds=ROUNDS, method=FedNova(), encryption=Plain())
    clients = [
        replace(client, budget=BUDGET, public_size=41, steps_per_round=OWN[client.id])
        for client in made.clients
    ]
    return replace(made, clients=clients)


@pytest.fixture
def run(federation, tmp_path):
    federation.run(tmp_path / "run")
    return tmp_path / "run"


def verified(federation, folder):
    return verify_and_render(folder, AnchorFolder(federation.anchors))


def edited(folder, change):
    """The report with a change."""
    path = folder / "report.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_every_client_takes_its_steps_and_no_other(federation, tmp_path, monkeypatch):
    sizes, real = {len(c.records): c.id for c in federation.clients}, dpsgd.poisson_sample
    taken = Counter()

    def drawn(stream, count, rate):
        taken[sizes[count]] += 1
        return real(stream, count, rate)

    monkeypatch.setattr(dpsgd, "poisson_sample", drawn)
    federation.run(tmp_path / "run")
    assert taken == {name: ROUNDS * steps for name, steps in STEPS.items()}


def test_ledger_and_report_state_its_own_steps(federation, run):
    report, _ = verified(federation, run)
    rows = {row.id: row for row in report.clients}
    for client in federation.clients:
        row, steps = rows[client.id], STEPS[client.id] * ROUNDS
        event = PoissonGaussian(
            noise_multiplier=row.noise_multiplier, sample_rate=BATCH / 41, steps=steps
        )
        ledger = Ledger.inspect(ledger_path(federation.state, client.id, client.dataset))
        assert canonical(ledger.events()) == (event,)
        spent = epsilon([event], BUDGET.delta, Neighbouring.ADD_REMOVE)
        assert row.epsilon_spent == pytest.approx(spent.upper, abs=1e-9)
        assert 0.99 * BUDGET.epsilon < row.epsilon_spent <= BUDGET.epsilon
        assert (row.steps, row.planned[0]["steps"]) == (steps, STEPS[client.id])
    assert report.mechanism.steps_per_round == STEPS
    sigmas = [rows[name].noise_multiplier for name in STEPS]
    assert sigmas == sorted(sigmas)
    assert sigmas[2] > 1.3 * sigmas[0], "more steps need more noise"


def test_what_all_compute_from_the_sum_counts_them(federation, tmp_path, monkeypatch):
    """The step, the noise of an update, and the range of all."""
    rounds, real = [], FedNova.next

    def noted(self, state, sums, contributors, round_):
        rounds.append(round_)
        return real(self, state, sums, contributors, round_)

    monkeypatch.setattr(FedNova, "next", noted)
    federation.run(tmp_path / "run")
    report, _ = verified(federation, tmp_path / "run")
    sigmas = {row.id: row.noise_multiplier for row in report.clients}
    for round_ in rounds:
        assert round_.steps == STEPS
        for name, steps in STEPS.items():
            deviation = 0.5 * steps**0.5 * sigmas[name] * 0.75 / BATCH
            assert round_.noise[name] == pytest.approx(deviation)
    # A client's weight undoes its steps, so that the noisiest decides.
    largest = 0.5 * 0.75 * (2 + 6 * max(sigmas.values()) / BATCH)
    assert report.encryption.public_range == pytest.approx(largest)


def test_the_run_says_them_too_and_the_page_shows_them(federation, run):
    clients = json.loads((run / "run.json").read_text())["settings"]["clients"]
    assert {client["id"]: client["steps_per_round"] for client in clients} == STEPS
    assert "client-0: 1; client-1: 2; client-2: 3" in (run / "report.html").read_text()
    weights = json.loads((run / "report.json").read_text())["training"]["weights"]
    assert weights == pytest.approx({"client-0": 1.0, "client-1": 1 / 2, "client-2": 1 / 3})


class TestAReportWithOtherSteps:
    def test_of_another_client(self, federation, run):
        def swapped(values):
            values["mechanism"]["steps_per_round"]["client-2"] = STEPS["client-0"]

        edited(run, swapped)
        with pytest.raises(ReportError, match=r"'client-2': the steps per round .* 3, got 1;"):
            verified(federation, run)

    def test_also_in_its_row(self, federation, run):
        """A row that agrees with itself: fewer steps, in less epsilon."""

        def cheaper(values):
            values["mechanism"]["steps_per_round"]["client-2"] = 1
            values["clients"][2]["planned"][0]["steps"] = 1
            values["clients"][2]["steps"] = ROUNDS

        edited(run, cheaper)
        with pytest.raises(ReportError, match=r"'client-2': the steps per round"):
            verified(federation, run)

    def test_also_where_run_json_says_so(self, federation, run):
        """Its ledger has them still."""

        def cheaper(values):
            values["mechanism"]["steps_per_round"]["client-2"] = 1
            values["clients"][2]["planned"][0]["steps"] = 1

        edited(run, cheaper)
        path = run / "run.json"
        record = json.loads(path.read_text())
        record["settings"]["clients"][2]["steps_per_round"] = 1
        path.write_text(json.dumps(record))
        with pytest.raises(ReportError, match="rounds of client 'client-2' was to release"):
            verified(federation, run)


def test_a_run_goes_on_with_the_same_steps_alone(federation, run):
    first, *others = federation.clients
    other = replace(federation, clients=[replace(first, steps_per_round=2), *others])
    with pytest.raises(RunFolderError, match="clients"):
        other.run(run, resume=True)
