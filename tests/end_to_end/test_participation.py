"""Clients that are drawn in public: each trains in its own rounds, and pays for these alone."""

import json
from collections import Counter

import numpy as np
import pytest

from accountants import AnchorFolder, epsilon, noise_multiplier
from privfed import BFV, Scaffold
from privfed.engines.play import Play
from privfed.errors import ConfigError, ReportError, TooFewClientsError
from privfed.parties.client.node import ClientNode
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import REFUSAL, TRAIN
from privfed.settings.encryption import Custody
from privfed.storage.checkpoint import load_latest
from privfed.storage.state_folder import default_anchor_folder
from privfed.verification import verify_and_render
from tests.organisations import ORGANISATIONS

NAMES = [f"client-{number}" for number in range(5)]


@pytest.fixture
def partly(make_federation):
    """A function that makes a federation of five, three of which train in each of four rounds."""

    def make(**changes):
        return make_federation(**{"num_clients": 5, "rounds": 4, "clients_per_round": 3, **changes})

    return make


def verify(folder):
    """What `privfed report` does on the machine where the ledgers lie."""
    return verify_and_render(folder, AnchorFolder(default_anchor_folder()))


def draw(federation):
    return {number: federation.proposal().participation.of(number) for number in range(1, 5)}


def reserved(export):
    return [entry["body"]["round"] for entry in export["entries"] if entry["kind"] == "reserve"]


@pytest.mark.parametrize("custody", list(Custody), ids=lambda custody: custody.value)
def test_each_trains_in_its_rounds_and_all_follow(partly, tmp_path, custody):
    federation = partly(encryption=BFV(custody=custody))
    result = federation.run(tmp_path / "run")
    drawn = draw(federation)
    assert [set(record.clients) for record in result.rounds] == list(map(set, drawn.values()))
    assert [record.absent for record in result.rounds] == [()] * 4
    for name in NAMES:
        mine = [number for number, there in drawn.items() if name in there]
        assert reserved(result.ledgers[name]) == mine
    assert sorted(Counter(n for there in drawn.values() for n in there).values()) == [2, 2, 2, 3, 3]
    section = json.loads((tmp_path / "run/report.json").read_text())["training"]
    assert section["participation"].startswith("3 clients in each, drawn in public")


def test_noise_is_that_of_the_rounds_in_which_a_client_trains(partly, tmp_path):
    """Not of all planned rounds, and not less for being drawn: the budget is used, and no more."""
    federation = partly()
    result = federation.run(tmp_path / "run")
    times = Counter(name for there in draw(federation).values() for name in there)
    privacy = federation.privacy
    for row, one in zip(result.report.clients, ORGANISATIONS, strict=False):
        sigma = noise_multiplier(
            one.budget,
            privacy.expected_batch_size / one.public_size,
            privacy.steps_per_round * times[row.id],
            neighbouring=privacy.neighbouring,
        )
        assert row.noise_multiplier == sigma
        assert row.rounds == times[row.id]
        assert 0.999 * one.budget.epsilon < row.epsilon_spent <= one.budget.epsilon


def test_who_is_not_drawn_refuses_to_train_whatever_it_is_asked(partly, tmp_path, monkeypatch):
    federation, refused = partly(), []
    real = Play.exchange

    def exchange(self, messages):
        kinds = {statement_of(message).kind for message in messages.values()}
        if kinds == {TRAIN}:
            (message,) = set(messages.values())
            for name in set(NAMES).difference(messages):
                reply = self._programs[name].handle(message)
                refused.append((name, statement_of(reply).kind))
        return real(self, messages)

    monkeypatch.setattr(Play, "exchange", exchange)
    result = federation.run(tmp_path / "run")
    assert len(refused) == 8
    assert {kind for _, kind in refused} <= {REFUSAL, "absent"}
    for name in NAMES:
        mine = [number for number, there in draw(federation).items() if name in there]
        assert reserved(result.ledgers[name]) == mine


def test_a_run_that_is_stopped_draws_the_same(partly, tmp_path):
    from tests.contracts.test_methods import StopAfter
    from tests.contracts.test_stacked import KeyedRandomness

    whole = partly(
        randomness=KeyedRandomness(), method=Scaffold(), state_folder=tmp_path / "state-1"
    )
    whole.run(tmp_path / "whole")
    stopped = partly(
        randomness=KeyedRandomness(), method=Scaffold(), state_folder=tmp_path / "state-2"
    )
    for number in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            stopped.run(tmp_path / "run", resume=number > 1, callbacks=[StopAfter(number)])
    stopped.run(tmp_path / "run", resume=True)
    one, other = (load_latest(tmp_path / name / "checkpoints") for name in ("whole", "run"))
    assert one.tensors.keys() == other.tensors.keys()
    for name, values in one.tensors.items():
        assert np.array_equal(values, other.tensors[name])


class TestAReport:
    """Of runs in which clients sat out: also the first round, also one that was given up."""

    def test_it_is_confirmed_where_a_round_was_given_up(self, partly, tmp_path, monkeypatch):
        federation = partly()
        last = sorted(draw(federation)[4])[0]
        real = ClientNode.update

        def update(self, plan, *arguments):
            if (plan.round, self.id) == (4, last):
                raise RuntimeError("as any failure")
            return real(self, plan, *arguments)

        monkeypatch.setattr(ClientNode, "update", update)
        with pytest.raises(TooFewClientsError):
            federation.run(tmp_path / "run")
        report, _ = verify(tmp_path / "run")
        assert {row.id: row.unresolved for row in report.clients}[last] == 1

    def test_its_last_row_is_what_was_spent(self, partly, tmp_path):
        partly().run(tmp_path / "run")
        report, _ = verify(tmp_path / "run")
        path = tmp_path / "run/report.json"
        values = json.loads(path.read_text())
        for row in report.clients:
            spent = [record["epsilon"][row.id] for record in values["rounds"]]
            assert spent[-1] == row.epsilon_spent
            assert spent[0] >= row.epsilon_before
        values["rounds"][-1]["epsilon"]["client-0"] *= 0.9
        path.write_text(json.dumps(values))
        with pytest.raises(ReportError):
            verify(tmp_path / "run")

    def test_advice_names_no_client_that_has_played_all_its_rounds(
        self, partly, tmp_path, monkeypatch
    ):
        federation, real = partly(), ClientNode.update

        def update(self, plan, *arguments):
            if plan.round == 3:
                raise RuntimeError("as any failure")
            return real(self, plan, *arguments)

        monkeypatch.setattr(ClientNode, "update", update)
        with pytest.raises(TooFewClientsError) as caught:
            federation.run(tmp_path / "run")
        assert "is used up" not in str(caught.value)
        assert "--without" not in str(caught.value), "then round 4 would have too few"


class TestWhatIsRefused:
    @pytest.mark.parametrize("number", [2, 6, 0, -1, True, 3.0, "3"])
    def test_a_number_that_cannot_be_drawn(self, partly, number):
        with pytest.raises(ConfigError, match="clients_per_round must be a whole number from"):
            partly(clients_per_round=number)

    def test_rounds_in_which_not_all_can_be_drawn(self, partly):
        with pytest.raises(ConfigError, match="1 rounds of clients_per_round = 3 leave some of 5"):
            partly(rounds=1)

    def test_to_go_on_without_a_client_whose_rounds_would_have_too_few(self, partly, tmp_path):
        from tests.contracts.test_methods import StopAfter

        federation = partly()
        with pytest.raises(KeyboardInterrupt):
            federation.run(tmp_path / "run", callbacks=[StopAfter(1)])
        with pytest.raises(ConfigError, match=r"round \d draws 2 of the clients that take part"):
            federation.run(tmp_path / "run", resume=True, without=["client-1"])
        federation.run(tmp_path / "run", resume=True)


def test_epsilon_is_that_of_every_round_in_which_one_trained(partly, tmp_path):
    """No amplification: the bound of the plain composition of its own rounds."""
    result = partly().run(tmp_path / "run")
    for row, one in zip(result.report.clients, ORGANISATIONS, strict=False):
        events = list(_events(result.ledgers[row.id]))
        assert row.epsilon_spent == epsilon(events, one.budget.delta, _relation(row)).upper
        assert sum(event.steps for event in events) == 2 * row.rounds


def _events(export):
    from accountants.ledger.export import book_of_export

    return book_of_export(export).events()


def _relation(row):
    from accountants import Neighbouring

    return Neighbouring(row.neighbouring)
