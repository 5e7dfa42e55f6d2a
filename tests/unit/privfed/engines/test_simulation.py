"""A simulated federation between two rounds: what it keeps, of whom, and what it advises."""

import json
from dataclasses import replace

import pytest

from privfed import Callback, Plain
from privfed.engines import simulation
from privfed.engines.simulation import _require_same_model
from privfed.errors import (
    ConfigError,
    EncryptionError,
    MessageError,
    ModelError,
    RunFolderError,
    TooFewClientsError,
)
from privfed.methods.method import vector_digest
from privfed.parties.client.node import ClientNode
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import SUM
from privfed.reports.round_record import Abandoned, Reason
from privfed.storage.checkpoint import load_latest

NAMES = [f"client-{index}" for index in range(4)]


@pytest.fixture
def running(prepared):
    """Begun, and nothing is played yet."""
    running = prepared(encryption=Plain())
    running.begin([])
    return running


def latest(running):
    return load_latest(running.folder.path / "checkpoints")


def without_reply(running, kind, name):
    """From now on, one client's reply to one kind of message does not come."""
    beginning = running.aggregator.presence.beginning
    genuine = beginning.exchange

    def exchange(messages):
        replies = dict(genuine(messages))
        if statement_of(next(iter(messages.values()))).kind == kind:
            replies.pop(name, None)
        return replies

    running.aggregator.presence.beginning = replace(beginning, exchange=exchange)


class TestKeeping:
    def test_before_the_first_round(self, running):
        kept = latest(running)
        assert (kept.round, kept.record) == (0, running.record.to_json())
        assert vector_digest(kept.tensors["adapter"]) == vector_digest(running.brought.initial)
        assert running.folder.start.read_bytes() == running.brought.start
        report = json.loads((running.folder.path / "report.json").read_text())
        assert report["status"] == "running", "what cannot be reported must not be begun"

    def test_after_a_round_all_says_the_same(self, running):
        running.aggregator.play_round()
        kept = latest(running)
        assert (kept.round, kept.record) == (1, running.record.to_json())
        assert vector_digest(kept.tensors["adapter"]) == running.aggregator.reached.base
        for name, ledger in running.brought.ledgers.items():
            assert running.record.anchors[name] == ledger.anchor()
        report = json.loads((running.folder.path / "report.json").read_text())
        assert len(report["rounds"]) == 1

    def test_what_cannot_be_reported_is_not_over(self, running, monkeypatch):
        """The checkpoint is written last, so that a resume plays the round again."""

        def fail(*_, **__):
            raise OSError("no room")

        monkeypatch.setattr(simulation, "write_results", fail)
        with pytest.raises(OSError, match="no room"):
            running.aggregator.play_round()
        assert running.record.over == 0
        assert latest(running).round == 0

    def test_epsilon_is_by_all_ledgers_also_where_one_is_away(self, running):
        """It had sent an update, and did not say what it had spent by that."""
        without_reply(running, SUM, "client-2")
        running.aggregator.play_round()
        spent = {name: node.epsilon_spent() for name, node in running.brought.nodes.items()}
        assert running.record.rounds[0].epsilon == spent
        assert spent["client-2"] > 0
        assert len(set(spent.values())) == 4
        anchor = running.brought.ledgers["client-2"].anchor()
        assert running.record.anchors["client-2"] == anchor, "nor how long its ledger is"

    def test_and_that_of_an_earlier_round_stays_what_it_was(self, running):
        running.aggregator.play_round()
        first = running.record.rounds[0]
        running.aggregator.play_round()
        assert running.record.rounds[0] == first
        assert running.record.rounds[1].epsilon["client-1"] > first.epsilon["client-1"]


class TestTheCheckpoint:
    def test_it_is_of_a_client_that_came_to_what_most_state(self, running):
        running.aggregator.play_round()
        right = running.clients["client-1"].membership.progress
        mine = running.clients["client-0"].membership.run
        mine.progress = replace(
            mine.progress,
            base="e" * 64,
            state=replace(right.state, adapter=right.state.adapter + 1),
        )
        kept = running._checkpoint(running.aggregator.reached)
        assert vector_digest(kept.tensors["adapter"]) == right.base != mine.progress.base
        assert kept.round == 1

    def test_the_released_adapter_must_be_theirs_too(self, running):
        reached = replace(running.aggregator.reached, released="e" * 64)
        with pytest.raises(EncryptionError, match="after round 0 is not what they came to"):
            running._checkpoint(reached)

    def test_nobody_came_to_it(self, running):
        running.aggregator.play_round()
        for program in running.clients.values():
            program.membership.run.progress = replace(program.membership.progress, base="e" * 64)
        with pytest.raises(EncryptionError, match="after round 1 is not what they came to"):
            running._checkpoint(running.aggregator.reached)


class TestAdvice:
    def abandoned(self, number):
        return Abandoned(round=number, reason=Reason.TOO_FEW, missing=("client-3",))

    def test_nothing_more_is_known(self, running):
        assert running._advise(self.abandoned(1)) is None

    @pytest.fixture
    def used_up(self, running, monkeypatch):
        """The ledger of one client has no room for another round; which rounds were asked about."""
        asked = []

        def admits(self, plan):
            asked.append((self.id, plan.run, plan.round))
            return self.id == "client-2"

        monkeypatch.setattr(ClientNode, "has_no_budget_for", admits)
        return asked

    def test_whose_budget_is_used_up_is_named(self, running, used_up):
        advice = running._advise(self.abandoned(2))
        assert advice.startswith("The budget of ['client-2'] is used up")
        assert used_up == [(name, running.record.run, 3) for name in NAMES], "for the next round"

    def test_not_after_the_last_round(self, running, used_up):
        """Three are planned, and calibrated to use all of it."""
        assert running._advise(self.abandoned(3)) is None

    def test_it_is_in_the_error_that_stops_the_run(self, running):
        """By the ledgers themselves: another run spent all of it meanwhile."""
        for name in NAMES[:2]:
            node = running.brought.nodes[name]
            for number in (1, 2, 3):
                node.ledger.reserve("another run", number, node.releases(), node.filter.admit)
        with pytest.raises(TooFewClientsError, match=r"budget of \['client-0', 'client-1'\]"):
            running.aggregator.play_round()
        assert running.record.abandoned[0].missing == ("client-0", "client-1")


class TestStopping:
    def test_a_run_that_has_not_begun_leaves_nothing(self, prepared):
        running = prepared(encryption=Plain())
        before = sorted(running.folder.path.rglob("*"))
        running.stop(KeyboardInterrupt())
        assert sorted(running.folder.path.rglob("*")) == before

    def test_who_interrupts_is_told_what_is_spent(self, running):
        running.aggregator.play_round()
        error = KeyboardInterrupt()
        running.stop(error)
        (text,) = error.args
        assert text.startswith("stopped in round 2, spent ")
        spent = {name: node.epsilon_spent() for name, node in running.brought.nodes.items()}
        assert f"client {max(spent, key=spent.get)!r}, the largest" in text
        status = json.loads((running.folder.path / "run.json").read_text())["status"]
        assert status == "stopped in round 2"

    def test_an_error_before_anything_of_the_round_was_reserved(self, running):
        running.stop(EncryptionError("no"))
        status = json.loads((running.folder.path / "run.json").read_text())["status"]
        assert status == "stopped before round 1: no"

    def test_what_is_private_is_not_in_the_status(self, running):
        running.stop(ValueError("patient Smith"))
        assert "Smith" not in (running.folder.path / "run.json").read_text()

    def test_a_report_that_cannot_be_written_is_said(self, running, monkeypatch):
        def fail(*_, **__):
            raise OSError("no room")

        monkeypatch.setattr(simulation, "write_results", fail)
        error = EncryptionError("no")
        running.stop(error)
        assert error.__notes__ == ["The report could not be brought up to date: no room"]


class TestTheSameModel:
    def test_as_it_began(self, running):
        _require_same_model(running.record, running.brought, running.folder.start)

    def test_another_base_model(self, running):
        record = replace(running.record, base_sha256="e" * 64)
        with pytest.raises(ModelError, match="e{64}.*put back the weights"):
            _require_same_model(record, running.brought, running.folder.start)

    def test_another_start(self, running):
        brought = replace(running.brought, start=running.brought.start + b"x")
        with pytest.raises(RunFolderError, match="not the initial adapter that the run began with"):
            _require_same_model(running.record, brought, running.folder.start)


def test_clients_bring_their_records(make_federation):
    with pytest.raises(ConfigError, match="clients must hold Client"):
        make_federation(clients=["client-0"])


def test_who_follows_is_told_in_order(prepared):
    told = []

    class Told(Callback):
        def on_start(self, run, rounds, clients, baseline, past):
            told.append(("start", rounds, clients, past))

        def on_client(self, round_number, client):
            told.append((round_number, client))

        def on_round(self, record):
            told.append(("round", record.round))

        def on_abandoned(self, abandoned):
            told.append(("abandoned", abandoned.round))

    running = prepared(encryption=Plain())
    running.begin([Told()])
    running.aggregator.play_round()
    assert told == [
        ("start", 3, NAMES, ()),
        *[(1, name) for name in NAMES],
        ("round", 1),
    ]
    without_reply(running, SUM, "client-2")
    without_reply(running, SUM, "client-1")
    running.aggregator.play_round()
    assert told[-1] == ("abandoned", 2)


def test_a_round_that_is_given_up_changes_no_row_before_it(running):
    """Every ledger counts it; what was spent after the round before is what it was."""
    running.aggregator.play_round()
    (row,) = running.record.rounds
    without_reply(running, SUM, "client-2")
    without_reply(running, SUM, "client-1")
    running.aggregator.play_round()
    assert running.record.rounds == (row,)
    assert running.record.abandoned[0].round == 2
    assert running.brought.nodes["client-3"].epsilon_spent() > row.epsilon["client-3"]


def test_an_update_that_is_refused_is_in_its_clients_log_alone(running, tmp_path):
    running._on_refused("client-2", MessageError("out of range"))
    logs = {path.parts[-3]: path.read_text() for path in tmp_path.rglob("client.log")}
    assert [name for name, text in logs.items() if "out of range" in text] == ["client-2"]
    assert "round 1: did not take part" in logs["client-2"]
