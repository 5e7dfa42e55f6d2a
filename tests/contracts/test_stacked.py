"""Federations of stacked clients are those of one client after the other."""

import hashlib
import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from accountants import BudgetExceededError
from privfed import Plain
from privfed.parties.client.node import ClientNode
from privfed.private_step import stacked
from privfed.private_step.randomness import RandomStream
from privfed.settings.computation import Computation
from privfed.settings.training import SGD
from privfed.storage.checkpoint import load_latest


class KeyedRandomness:
    """Repeatable streams that depend on the client and its own earlier draws, not on the order."""

    secret = False

    def __init__(self):
        self.drawn = Counter()
        self.order = {}

    def stream(self, client, purpose):
        self.drawn[client, purpose] += 1
        self.order.setdefault(client, []).append(purpose)
        text = f"{client}/{purpose}/{self.drawn[client, purpose]}"
        return RandomStream(hashlib.sha256(text.encode()).digest(), bytes(16))


STEP = 2.0**-11
"""Of the twelve bits in which an update is summed, as a share of its range."""


def log_in(folder):
    return "".join(path.read_text() for path in folder.rglob("client.log"))


class TestAFederation:
    @pytest.fixture
    def run(self, make_federation, tmp_path):
        def run(stacked_clients, name=None, **changes):
            name = name or f"stack-{stacked_clients}"
            federation = make_federation(
                **{
                    "randomness": KeyedRandomness(),
                    "encryption": Plain(),
                    "computation": Computation(stacked_clients=stacked_clients),
                    "state_folder": tmp_path / "state" / name,
                    **changes,
                }
            )
            training = replace(federation.training, optimizer=SGD(momentum=0.5))
            federation = replace(federation, training=training)
            return federation, federation.run(tmp_path / name)

        return run

    @pytest.mark.parametrize("stacked_clients", [2, 3, 8])
    def test_its_rounds_are_those_of_one_client_after_the_other(
        self, run, tmp_path, stacked_clients
    ):
        (first, alone), (second, together) = run(1), run(stacked_clients)
        assert second.randomness.order == first.randomness.order
        assert first.randomness.order["client-0"] == 3 * ["sampling", "noise", "rounding"]
        folders = [tmp_path / "stack-1", tmp_path / f"stack-{stacked_clients}"]
        one, other = (load_latest(folder / "checkpoints") for folder in folders)
        # Rounding differs in the last bits of a float32 only; where it meets the border between
        # two numbers of the grid, an update differs by a step of the grid, once in thousands.
        step = one.record["first_range"] * STEP
        apart = np.abs(one.tensors["adapter"].astype(np.float64) - other.tensors["adapter"])
        assert apart.max() <= 3 * step
        assert np.mean(apart > 1e-5) < 0.01
        assert [row.clients for row in alone.rounds] == [row.clients for row in together.rounds]
        spent = [[client.epsilon_spent for client in r.report.clients] for r in (alone, together)]
        assert spent[0] == spent[1]

    def test_a_client_over_its_budget_drops_alone(self, run, tmp_path, monkeypatch):
        real = ClientNode.reserve

        def reserve(self, plan):
            if (self.id, plan.round) == ("client-1", 2):
                raise BudgetExceededError("over", epsilon=5.0, allowed=4.0)
            return real(self, plan)

        monkeypatch.setattr(ClientNode, "reserve", reserve)
        federation, result = run(2)
        assert [row.absent for row in result.rounds] == [(), ("client-1",), ()]
        assert federation.randomness.drawn["client-1", "noise"] == 2
        assert "BudgetExceededError" in log_in(tmp_path / "state/stack-2/clients/client-1")
        assert "BudgetExceededError" not in log_in(tmp_path / "state/stack-2/clients/client-0")

    def test_all_reserve_before_anybody_draws(self, run, monkeypatch):
        seen = []
        reserve, train = ClientNode.reserve, stacked.train_stacked
        monkeypatch.setattr(
            ClientNode,
            "reserve",
            lambda self, plan: (seen.append("reserve"), reserve(self, plan))[1],
        )
        from privfed.engines import stacked as engine

        def noted(model, clients):
            seen.append(len(clients))
            return train(model, clients)

        monkeypatch.setattr(engine, "train_stacked", noted)
        run(3, rounds=1)
        assert seen == [*4 * ["reserve"], 3, 1]

    def test_what_fails_in_a_pass_drops_the_clients_of_that_pass(self, run, tmp_path, monkeypatch):
        from privfed.engines import stacked as engine

        real = engine.train_stacked

        def fail(model, clients):
            if len(clients) == 1:
                raise RuntimeError("secret cause")
            return real(model, clients)

        monkeypatch.setattr(engine, "train_stacked", fail)
        _, result = run(3)
        assert all(row.absent == ("client-3",) for row in result.rounds)
        logs = tmp_path / "state/stack-3/clients"
        told = [
            folder.name for folder in sorted(logs.iterdir()) if "secret cause" in log_in(folder)
        ]
        assert told == ["client-3"]
        lost = next(client for client in result.report.clients if client.id == "client-3")
        assert lost.unresolved == 3
        run_folder = (tmp_path / "stack-3").rglob("*.*")
        assert "secret cause" not in "".join(p.read_text(errors="replace") for p in run_folder)

    def test_an_update_that_is_not_finite_drops_its_client_alone(self, run, monkeypatch):
        from privfed.engines import stacked as engine

        real = engine.train_stacked

        def diverge(model, clients):
            trained = real(model, clients)
            trained[1] = math.nan
            return trained

        monkeypatch.setattr(engine, "train_stacked", diverge)
        _, result = run(4, rounds=1)
        assert [row.absent for row in result.rounds] == [("client-1",)]

    def test_after_a_crash_too_few_commits_cost_that_round_and_no_other(
        self, run, make_federation, tmp_path, monkeypatch
    ):
        """Killed at the third commit of round 2: two have committed it, two have lost it."""
        real = ClientNode.commit
        commits = []

        def commit(self, *arguments):
            commits.append(self.id)
            if len(commits) == 7:
                raise KeyboardInterrupt
            real(self, *arguments)

        randomness = KeyedRandomness()
        with monkeypatch.context() as patch:
            patch.setattr(ClientNode, "commit", commit)
            with pytest.raises(KeyboardInterrupt):
                run(4, name="crash", randomness=randomness)
        federation = make_federation(
            randomness=randomness,
            encryption=Plain(),
            computation=Computation(stacked_clients=4),
            state_folder=tmp_path / "state/crash",
        )
        training = replace(federation.training, optimizer=SGD(momentum=0.5))
        federation = replace(federation, training=training)
        result = federation.run(tmp_path / "crash", resume=True)
        assert [row.round for row in result.rounds] == [1, 3], "of two there is no sum"
        unresolved = {client.id: client.unresolved for client in result.report.clients}
        assert unresolved == {"client-0": 0, "client-1": 0, "client-2": 1, "client-3": 1}
        exports = sorted((tmp_path / "crash/ledgers").iterdir())
        kinds = [[e["kind"] for e in json.loads(p.read_text())["entries"]] for p in exports]
        assert [entries.count("reserve") for entries in kinds] == [3, 3, 3, 3]
        assert [entries.count("commit") for entries in kinds] == [3, 3, 2, 2]
