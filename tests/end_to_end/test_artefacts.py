"""No file of a run folder states less than the ledgers count, whenever the run was killed."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from accountants import (
    AnchorFolder,
    Ledger,
    LedgerRolledBackError,
    Neighbouring,
    PoissonGaussian,
    epsilon,
)
from privfed import Callback, Plain
from privfed.engines.simulation import Simulation
from privfed.errors import ModelError, ReportError, RunFolderError, TooFewClientsError
from privfed.methods.method import vector_digest
from privfed.parties.client.node import ClientNode
from privfed.reports.budget import BudgetReport
from privfed.reports.headlines import headline
from privfed.reports.making import Moment, client_report
from privfed.reports.run_record import RunRecord
from privfed.storage.checkpoint import load_latest, save_checkpoint
from privfed.storage.state_folder import ledger_path
from privfed.verification import verify_and_render
from tests.end_to_end.crash_server import CLIENTS
from tests.organisations import with_share
from tests.unit.privfed.made_up_run import facts_of

SERVER = Path(__file__).with_name("artefact_server.py")
DELTAS = {name: budget.delta for name, (_, _, budget) in CLIENTS.items()}


def spent_by_ledger(state, client):
    """Epsilon of all that a client's ledger counts, open reservations included."""
    ledger = Ledger.inspect(ledger_path(state, client, "d"))
    return epsilon(ledger.events(), DELTAS[client], Neighbouring.ADD_REMOVE).upper


def claims_of(report):
    """What the report says of each client, in the column that its status makes the claim."""
    going_on = report.status == "running"
    return {c.id: c.epsilon_if_begun if going_on else c.epsilon_spent for c in report.clients}


def test_a_killed_run_never_claims_less_than_its_ledgers(tmp_path, bert_folder):
    trials = 18
    command = [sys.executable, str(SERVER), str(tmp_path), bert_folder, str(trials), "1"]
    subprocess.run(command, timeout=300, check=True, capture_output=True)
    refused = begun = 0
    for number in range(trials):
        folder = tmp_path / str(number)
        path = folder / "run/report.json"
        if not path.exists():
            with pytest.raises(RunFolderError):
                verify_and_render(folder / "run", AnchorFolder(folder / "anchors"))
            assert not list((folder / "state").rglob("ledger*")) or all(
                spent_by_ledger(folder / "state", f"client-{i}") == 0 for i in range(3)
            ), "something was reserved before a report stood"
            continue
        report = BudgetReport.from_json(path.read_text())
        finished = report.status == "complete"  # the last files of a whole run are being written
        assert finished or report.headline.startswith("NOT FINISHED")
        assert finished or report.status == "running"
        for client, claim in claims_of(report).items():
            spent = spent_by_ledger(folder / "state", client)
            assert claim >= spent - 1e-9, f"trial {number}: {client} claims too little"
            begun += spent > 0
        assert report.guarantee.epsilon == max(claims_of(report).values())
        refused += not _verifies(folder, report)
    assert begun > trials, "the kills came too early to say anything"
    assert 0 < refused < trials


def _verifies(folder, report):
    """Whether `privfed report` accepts; if it does, the exports hold all of the run."""
    try:
        verify_and_render(folder / "run", AnchorFolder(folder / "anchors"))
    except ReportError:
        return False
    for client in report.clients:
        assert client.epsilon_spent == spent_by_ledger(folder / "state", client.id)
    return True


class Stop(Callback):
    """Interrupts the run after a round, as Ctrl-C does."""

    def __init__(self, round_number):
        self.round_number = round_number

    def on_round(self, record):
        if record.round == self.round_number:
            raise KeyboardInterrupt


class StopWithin(Callback):
    """Interrupts the run within a round, after its first client."""

    def on_client(self, round_number, client):
        if round_number == 2:
            raise KeyboardInterrupt


def test_an_interrupted_run_says_so_first_and_what_is_spent(make_federation, tmp_path):
    federation = make_federation()
    with pytest.raises(KeyboardInterrupt) as caught:
        federation.run(tmp_path / "run", callbacks=[StopWithin()])
    report, notes = verify_and_render(tmp_path / "run", AnchorFolder(federation.anchors))
    assert not notes
    assert report.status == "stopped in round 2"
    assert report.headline.startswith("NOT FINISHED: 1 of 3 rounds are over, the run stopped in")
    spent = {client.id: client.epsilon_spent for client in report.clients}
    row = report.rounds[-1].epsilon
    assert spent["client-0"] > row["client-0"], "its second round is in the ledger"
    assert spent["client-3"] == row["client-3"], "it had not begun"
    most = max(report.clients, key=lambda client: client.epsilon_spent)
    assert report.guarantee.epsilon == most.epsilon_spent
    assert most.id == "client-3", "the client with the largest budget, even if it has not begun"
    said = re.fullmatch(
        r"stopped in round 2, spent ([\d.]+) of 6 \(client 'client-3', the largest\)",
        str(caught.value),
    )
    assert most.epsilon_spent <= float(said[1]) < most.epsilon_spent + 2e-3
    assert "NOT FINISHED" in (tmp_path / "run/report.html").read_text()
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "stopped in round 2"

    result = federation.run(tmp_path / "run", resume=True)
    assert result.report.status == "complete"
    assert result.report.headline.startswith("Whatever anyone")
    assert verify_and_render(tmp_path / "run", AnchorFolder(federation.anchors))[1] == []


def test_between_two_rounds_the_next_one_counts_as_begun(make_federation, tmp_path):
    seen = []

    class Look(Callback):
        def on_start(self, *arguments):
            seen.append(BudgetReport.from_json((tmp_path / "run/report.json").read_text()))

        def on_round(self, record):
            seen.append(BudgetReport.from_json((tmp_path / "run/report.json").read_text()))

    result = make_federation().run(tmp_path / "run", callbacks=[Look()])
    assert [report.status for report in seen] == ["running"] * 3 + ["complete"]
    for before, after in pairwise(seen):
        for earlier, later in zip(before.clients, after.clients, strict=True):
            assert earlier.epsilon_spent < earlier.epsilon_if_begun
            assert earlier.epsilon_if_begun == pytest.approx(later.epsilon_spent, rel=1e-6)
        assert before.guarantee.epsilon >= max(c.epsilon_spent for c in after.clients) - 1e-6
        assert not before.clients[0].attack, "the curve takes seconds, it waits for the end"
    assert all(client.attack for client in result.report.clients)


class TestOneMoment:
    """A file that is older than another is refused."""

    @pytest.fixture
    def stages(self, make_federation, tmp_path):
        """The run folder as it was after round 1, and as it is at the end."""
        federation = make_federation()
        federation = federation if federation.rounds == 3 else make_federation(rounds=3)

        class Keep(Callback):
            def on_round(self, record):
                if record.round == 1:
                    shutil.copytree(tmp_path / "run", tmp_path / "old")

        federation.run(tmp_path / "run", callbacks=[Keep()])
        return tmp_path / "old", tmp_path / "run", AnchorFolder(federation.anchors)

    @pytest.mark.parametrize(
        "older", ["report.json", "run.json", "ledgers/client-1.json", "adapter", "checkpoints"]
    )
    def test_an_older_file_is_refused(self, stages, older):
        old, run, anchors = stages
        verify_and_render(run, anchors)
        if (run / older).is_dir():
            shutil.rmtree(run / older)
            shutil.copytree(old / older, run / older)
        else:
            shutil.copy(old / older, run / older)
        with pytest.raises(ReportError):
            verify_and_render(run, anchors)

    def test_a_whole_folder_put_back_is_refused_where_the_ledger_lies(self, stages, tmp_path):
        old, _, anchors = stages
        with pytest.raises(ReportError, match=r"older than the ledger .* epsilon spent is at most"):
            verify_and_render(old, anchors)
        report, notes = verify_and_render(old, AnchorFolder(tmp_path / "another machine"))
        assert report.headline.startswith("NOT FINISHED"), "elsewhere it says what it is"
        assert len(notes) == len(report.clients)
        assert all("another machine: not compared" in note for note in notes)

    def test_an_adapter_with_other_values_is_refused(self, stages):
        _, run, anchors = stages
        (weights,) = (run / "adapter").glob("*.safetensors")
        weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
        with pytest.raises(ReportError, match="changed"):
            verify_and_render(run, anchors)


class TestBeforeTheFirstRound:
    """No ledger holds sigma or q of the run yet; `run.json` does."""

    @pytest.fixture
    def federation(self, make_federation):
        return make_federation()

    @pytest.fixture
    def reports(self, federation, tmp_path):
        """As a kill and as an interruption before round 1 leave a run folder; both verify."""

        class Leave(Callback):
            def on_start(self, *arguments):
                shutil.copytree(tmp_path / "stopped", tmp_path / "killed")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            federation.run(tmp_path / "stopped", callbacks=[Leave()])
        folders = tmp_path / "killed", tmp_path / "stopped"
        for folder, status in zip(folders, ("running", "stopped in round 1"), strict=True):
            report, _ = verify_and_render(folder, AnchorFolder(federation.anchors))
            assert report.status == status
            assert {client.rounds for client in report.clients} == {0}
        return folders

    def test_more_noise_than_was_calibrated_is_refused(self, federation, reports):
        """All that is said of one more round fits the noise that the report states."""
        path = reports[0] / "report.json"
        values = json.loads(path.read_text())
        client = min(values["clients"], key=lambda client: client["epsilon_if_begun"])
        sigma = client["noise_multiplier"]
        event = PoissonGaussian(
            noise_multiplier=2 * sigma, sample_rate=client["sample_rate"], steps=2
        )
        begun = epsilon([event], client["delta"], Neighbouring.ADD_REMOVE).upper
        assert begun < client["epsilon_if_begun"]
        client |= {"noise_multiplier": 2 * sigma, "epsilon_if_begun": begun}
        path.write_text(json.dumps(values))
        with pytest.raises(ReportError) as refused:
            verify_and_render(reports[0], AnchorFolder(federation.anchors))
        assert str(refused.value) == (
            f"client {client['id']!r}: the noise multiplier in the report must be that of "
            f"run.json, {sigma!r}, got {2 * sigma!r}; take the report from where the run was"
        )

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"noise_multiplier": 9.5}, "noise multiplier"),
            ({"sample_rate": 0.125}, "sample rate"),
            ({"public_size": 64}, "public size in the report must be 33 of run.json, got 64"),
            ({"public_size": 64, "sample_rate": 20 / 64}, "public size"),
            ({"epsilon_budget": 0.75}, "epsilon of the budget"),
            ({"delta": 3e-4}, "delta of the budget"),
        ],
        ids=lambda item: " ".join(item) if isinstance(item, dict) else "",
    )
    def test_any_other_number_of_a_client_is_refused(self, federation, reports, changes, named):
        path = reports[1] / "report.json"
        values = json.loads(path.read_text())
        values["clients"][2] |= changes
        path.write_text(json.dumps(values))
        with pytest.raises(ReportError, match=f"^client 'client-2': the {named}"):
            verify_and_render(reports[1], AnchorFolder(federation.anchors))

    def test_other_steps_are_refused(self, federation, reports):
        path = reports[1] / "report.json"
        values = json.loads(path.read_text())
        values["mechanism"]["steps_per_round"]["client-2"] = 1
        path.write_text(json.dumps(values))
        with pytest.raises(ReportError, match=r"steps per round .* run\.json, 2, got 1;"):
            verify_and_render(reports[1], AnchorFolder(federation.anchors))


def test_a_later_run_on_the_same_data_is_told_and_no_error(make_federation, tmp_path):
    federation = make_federation(rounds=1)
    with_share(federation, 0.25).run(tmp_path / "first")
    federation.run(tmp_path / "second")
    anchors = AnchorFolder(federation.anchors)
    report, notes = verify_and_render(tmp_path / "first", anchors)
    assert len(notes) == len(report.clients)
    assert all("counted other runs on the same data" in note for note in notes)
    assert verify_and_render(tmp_path / "second", anchors)[1] == []


class TestOtherRunsMeanwhile:
    """An interrupted run, another one on the same data, and a resume of the first."""

    @pytest.fixture
    def interrupted(self, make_federation, tmp_path):
        made = make_federation(num_clients=3, rounds=30, encryption=Plain())
        clients = [replace(client, public_size=400) for client in made.clients]
        federation = replace(made, clients=clients)
        with pytest.raises(KeyboardInterrupt):
            federation.run(tmp_path / "first", callbacks=[Stop(1)])
        return federation

    def other(self, federation, share, folder):
        replace(with_share(federation, share), rounds=1).run(folder)

    def test_an_honest_report_is_accepted(self, interrupted, tmp_path):
        self.other(interrupted, 0.9, tmp_path / "second")
        with pytest.raises(KeyboardInterrupt):
            interrupted.run(tmp_path / "first", resume=True, callbacks=[Stop(2)])
        report, notes = verify_and_render(tmp_path / "first", AnchorFolder(interrupted.anchors))
        first = report.clients[0]
        assert first.epsilon_before > report.rounds[0].epsilon[first.id], "it came later"
        assert notes == []

    def test_a_budget_that_the_other_one_passed_is_said(self, interrupted, tmp_path):
        self.other(interrupted, 1.5, tmp_path / "second")
        with pytest.raises(TooFewClientsError, match="budget of .* is used up"):
            interrupted.run(tmp_path / "first", resume=True)
        report, _ = verify_and_render(tmp_path / "first", AnchorFolder(interrupted.anchors))
        assert report.headline.startswith("NOT FINISHED")
        assert report.clients[0].epsilon_spent > 5.9 > report.clients[0].epsilon_budget == 4.0
        assert report.clients[0].rounds == 1, "nothing more was reserved"


def test_a_run_record_from_before_an_abandoned_round_is_refused(
    make_federation, tmp_path, monkeypatch
):
    answer = ClientNode.answer

    def stay_away(self, terms, *arguments):
        if self.id == "client-1" and terms.round == 2:
            raise RuntimeError
        return answer(self, terms, *arguments)

    class Keep(Callback):
        def on_round(self, record):
            if record.round == 1:
                shutil.copy(tmp_path / "run/run.json", tmp_path / "old.json")

        def on_abandoned(self, abandoned):
            raise KeyboardInterrupt

    monkeypatch.setattr(ClientNode, "answer", stay_away)
    monkeypatch.setattr(Simulation, "stop", lambda self, error: None)  # as kill -9 does
    federation = make_federation()
    with pytest.raises(KeyboardInterrupt):
        federation.run(tmp_path / "run", callbacks=[Keep()])
    verify_and_render(tmp_path / "run", AnchorFolder(federation.anchors))
    shutil.copy(tmp_path / "old.json", tmp_path / "run/run.json")
    with pytest.raises(ReportError, match="one moment: after 2, 1 and 2 rounds"):
        verify_and_render(tmp_path / "run", AnchorFolder(federation.anchors))


def test_a_base_model_with_other_weights_does_not_resume(make_federation, bert_folder, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    base = tmp_path / "base"
    shutil.copytree(bert_folder, base)
    federation = make_federation(model=replace(make_federation().model, base=str(base)))
    with pytest.raises(KeyboardInterrupt):
        federation.run(tmp_path / "run", callbacks=[Stop(1)])
    weights = load_file(base / "model.safetensors")
    name = next(name for name in weights if "encoder" in name)
    with torch.no_grad():
        weights[name] = weights[name] + 0.01
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="must have the frozen parameters that the run began with"):
        federation.run(tmp_path / "run", resume=True)


class TestTheFolderOfOneClient:
    """As an organisation keeps it whose program ran alone: its own ledger and its own report."""

    @pytest.fixture
    def federation(self, make_federation):
        return make_federation(rounds=1)

    @pytest.fixture
    def folder(self, federation, tmp_path):
        run = tmp_path / "run"
        federation.run(run)
        checkpoint = load_latest(run / "checkpoints")
        moment = Moment(
            status="complete",
            rounds_over=1,
            adapter_sha256=vector_digest(checkpoint.tensors["adapter"]),
        )
        own = client_report(
            federation,
            replace(facts_of(federation), simulated_keys=False, in_one_process=False),
            RunRecord.from_json(checkpoint.record),
            json.loads((run / "ledgers/client-1.json").read_text()),
            moment,
            client="client-1",
        )
        (run / "report.json").write_text(own.to_json())
        for other in (0, 2, 3):
            (run / f"ledgers/client-{other}.json").unlink()
        self.keep_own(run)
        return run

    def keep_own(self, run):
        """Of what a client knows of a run: its own noise, what it spent, its own anchor."""

        def own(record):
            for name in ("noise_multipliers", "anchors"):
                record[name] = {"client-1": record[name]["client-1"]}
            for row in record["rounds"]:
                row["epsilon"] = {"client-1": row["epsilon"]["client-1"]}
            return record

        values = own(json.loads((run / "run.json").read_text()))
        (run / "run.json").write_text(json.dumps(values))
        kept = load_latest(run / "checkpoints")
        save_checkpoint(run / "checkpoints", replace(kept, record=own(dict(kept.record))))

    def test_it_is_checked_from_its_own_ledger(self, federation, folder):
        report, notes = verify_and_render(folder, AnchorFolder(federation.anchors))
        assert [client.id for client in report.clients] == ["client-1"]
        assert notes == []
        assert "Budget report of client-1" in (folder / "report.html").read_text()

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"headline": "All is well."}, "headline"),
            ({"rounds_over": 0}, "one moment"),
            ({"warnings": ["nothing"]}, "one moment"),
            ({"scope": "simulation"}, "headline"),
        ],
        ids=str,
    )
    def test_what_does_not_follow_is_refused(self, federation, folder, change, named):
        values = json.loads((folder / "report.json").read_text())
        (folder / "report.json").write_text(json.dumps({**values, **change}))
        with pytest.raises(ReportError, match=named):
            verify_and_render(folder, AnchorFolder(federation.anchors))

    def test_an_older_ledger_is_refused(self, federation, folder):
        path = folder / "run.json"
        values = json.loads(path.read_text())
        values["anchors"]["client-1"]["length"] += 2
        path.write_text(json.dumps(values))
        with pytest.raises((ReportError, LedgerRolledBackError)):
            verify_and_render(folder, AnchorFolder(federation.anchors))


def test_a_row_that_was_taken_out_of_a_simulation_is_refused(make_federation, tmp_path):
    """Also the claim and the headline would follow from what is left."""
    federation = make_federation(rounds=1)
    federation.run(tmp_path / "run")
    path = tmp_path / "run/report.json"
    values = json.loads(path.read_text())
    most = max(values["clients"], key=lambda client: client["epsilon_spent"])
    values["clients"].remove(most)
    left = max(client["epsilon_spent"] for client in values["clients"])
    delta = max(client["delta"] for client in values["clients"])
    values["guarantee"] |= {"epsilon": left, "delta": delta}
    values["headline"] = headline(
        epsilon=left, delta=delta, private=True, status="complete", over=1, planned=1
    )
    path.write_text(json.dumps(values))
    with pytest.raises(ReportError):
        verify_and_render(tmp_path / "run", AnchorFolder(federation.anchors))
