"""Epsilon from what ran: steps, rates and noise are read where they happen, not where they stand.

The ledgers, the report and the settings are not asked. A step is counted when its batch is drawn,
its sampling rate is the one that the draw was given, and its noise multiplier is what was really
added to the clipped sum over what a record could really move that sum. dp-accounting makes
epsilon of these, and the report must state neither less nor noticeably more.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, replace

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting.pld import PLDAccountant

from privfed import BFV, Callback, Computation, FedAvg, Plain
from privfed.parties.client.node import ClientNode
from privfed.private_step import dpsgd, stacked
from privfed.private_step.randomness import SecureNoise, SystemRandomness
from privfed.storage.checkpoint import load_latest
from tests.organisations import ORGANISATIONS, with_share

ROUNDS, STEPS, BATCH = 3, 2, 20
NORM = 0.05
"""Below the norm of every gradient, so that what a record can move the sum is reached."""

NAMES = [f"client-{index}" for index in range(4)]
COUNTS = {name: one.count for name, one in zip(NAMES, ORGANISATIONS, strict=False)}
RATES = {name: BATCH / one.public_size for name, one in zip(NAMES, ORGANISATIONS, strict=False)}
DELTAS = {name: one.budget.delta for name, one in zip(NAMES, ORGANISATIONS, strict=False)}


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


@dataclass(frozen=True)
class Draw:
    """One batch that was drawn: from how many records, and with what chance for each."""

    count: int
    rate: float


class Seen:
    """What happened at each client, in all runs of a test."""

    def __init__(self):
        self.owners = {}
        self.draws = defaultdict(list)
        self.deviations = defaultdict(list)
        self.normals = []
        self.norms = []
        self.largest = 0.0

    def owner(self, stream, purpose):
        """The client that a secret stream was made for; each purpose has its own."""
        client, made_for, _ = self.owners[id(stream)]
        assert made_for == purpose
        return client

    def draw(self, stream, count, rate):
        """A step begins."""
        self.draws[self.owner(stream, "sampling")].append(Draw(count, rate))
        self.norms.clear()

    def noise(self, added):
        """What was added to a client's sum, as a multiple of the normal numbers it drew."""
        self.largest = max(self.largest, *self.norms, 0.0)
        client, normal = self.normals.pop(0)
        deviation = float(added @ normal / (normal @ normal))
        torch.testing.assert_close(added, deviation * normal, rtol=1e-4, atol=1e-5)
        self.deviations[client].append(deviation)

    def epsilon(self, client):
        """Of everything that this client drew, by dp-accounting."""
        draws, noises = self.draws[client], self.deviations[client]
        assert len(draws) == len(noises), "every step has its batch and its noise"
        accountant = PLDAccountant()
        kinds = defaultdict(int)
        for draw, deviation in zip(draws, noises, strict=True):
            kinds[draw.rate, round(deviation / self.largest, 6)] += 1
        for (rate, multiplier), steps in kinds.items():
            step = dp_accounting.GaussianDpEvent(multiplier)
            accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, step), steps)
        return accountant.get_epsilon(DELTAS[client])

    def check(self, clients, steps, lost=()):
        """The report's epsilon is that of what ran, which were so many steps of each client.

        Of those who lost a round that they had reserved, the report must count more.
        """
        assert self.largest == pytest.approx(NORM, rel=1e-5)
        assert {client["id"]: len(self.draws[client["id"]]) for client in clients} == steps
        for client in clients:
            name = client["id"]
            assert set(self.draws[name]) == {Draw(COUNTS[name], RATES[name])}
            ran = self.epsilon(name)
            more = 0.3 if name in lost else 0
            assert ran + more - 1e-4 <= client["epsilon_spent"], name
            assert client["epsilon_spent"] <= ran + 2e-3 or name in lost, name
        assert len({client["epsilon_spent"] for client in clients}) == len(clients)


@pytest.fixture
def seen(monkeypatch):
    watch = Seen()
    make = SystemRandomness.stream

    def stream(self, client, purpose):
        made = make(self, client, purpose)
        watch.owners[id(made)] = (client, purpose, made)  # kept, so that no other takes its id
        return made

    monkeypatch.setattr(SystemRandomness, "stream", stream)
    for module in (dpsgd, stacked):
        _watch_draws(monkeypatch, watch, module)
        _watch_clipping(monkeypatch, watch, module)
    _watch_noise(monkeypatch, watch)
    return watch


def _watch_draws(monkeypatch, watch, module):
    real = module.poisson_sample

    def drawn(stream, count, rate):
        watch.draw(stream, count, rate)
        return real(stream, count, rate)

    monkeypatch.setattr(module, "poisson_sample", drawn)


def _watch_clipping(monkeypatch, watch, module):
    """The largest norm of a record's gradient after it was scaled."""
    real = module.clip_factors

    def scaled(rule, squared, *arguments):
        factors = real(rule, squared, *arguments)
        norms = (factors.double().square() * squared).sum(dim=0).sqrt()
        watch.norms.append(float(norms.max()))
        return factors

    monkeypatch.setattr(module, "clip_factors", scaled)


def _watch_noise(monkeypatch, watch):
    normal, alone = SecureNoise.normal, dpsgd.HiddenNoiseOptimizer.add_noise
    together = stacked._make_private

    def drawn(self, count, device):
        numbers = normal(self, count, device)
        watch.normals.append((watch.owner(self._stream, "noise"), numbers.clone()))
        return numbers

    def add_noise(self):
        before = torch.cat([parameter.summed_grad.flatten() for parameter in self.params])
        alone(self)
        after = torch.cat([parameter.grad.flatten().double() for parameter in self.params])
        if isinstance(self._noise, SecureNoise):  # the gate tries steps without any
            watch.noise(after - before)

    def make_private(client, total, votes):
        before = total.clone()
        together(client, total, votes)
        watch.noise(total * BATCH - before)

    monkeypatch.setattr(SecureNoise, "normal", drawn)
    monkeypatch.setattr(dpsgd.HiddenNoiseOptimizer, "add_noise", add_noise)
    monkeypatch.setattr(stacked, "_make_private", make_private)


@pytest.fixture
def make(make_federation):
    """A function that makes a federation whose gradients are all clipped."""

    def made(**changes):
        federation = make_federation(**{"encryption": Plain(), **changes})
        return replace(federation, privacy=replace(federation.privacy, clipping_norm=NORM))

    return made


def reported(folder):
    return json.loads((folder / "report.json").read_text())["clients"]


class StopAfter(Callback):
    """Interrupts the run after a round."""

    def __init__(self, number):
        self.number = number

    def on_round(self, record):
        if record.round == self.number:
            raise KeyboardInterrupt


def each(steps, **others):
    return {**dict.fromkeys(NAMES, steps), **others}


@pytest.mark.parametrize("stacked_clients", [1, 3])
def test_of_a_whole_run(make, seen, tmp_path, stacked_clients):
    make(computation=Computation(stacked_clients=stacked_clients)).run(tmp_path / "run")
    seen.check(reported(tmp_path / "run"), each(ROUNDS * STEPS))
    for client, one in zip(reported(tmp_path / "run"), ORGANISATIONS, strict=False):
        assert 0.99 * one.budget.epsilon <= seen.epsilon(client["id"]) <= one.budget.epsilon


def test_of_two_runs_on_the_same_data(make, seen, tmp_path):
    """Other rounds, and other noise: what is spent is that of both."""
    with_share(make(rounds=1), 0.25).run(tmp_path / "first")
    make(rounds=2).run(tmp_path / "second")
    assert len(set(seen.deviations["client-2"])) > 1
    seen.check(reported(tmp_path / "second"), each((1 + 2) * STEPS))


def test_of_a_run_that_was_stopped(make, seen, tmp_path):
    """Three rounds were planned and two were run, of which the report speaks."""
    with pytest.raises(KeyboardInterrupt):
        make().run(tmp_path / "run", callbacks=[StopAfter(2)])
    seen.check(reported(tmp_path / "run"), each(2 * STEPS))


@pytest.fixture
def killed(monkeypatch):
    """A function that runs until client-1 has taken its steps of round 2, and not committed."""

    def run(federation, folder):
        real, commits = ClientNode.commit, []

        def commit(self, *arguments):
            commits.append(self.id)
            if commits.count("client-1") == 2:
                raise Killed
            real(self, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(ClientNode, "commit", commit)
            with pytest.raises(Killed):
                federation.run(folder)

    return run


def test_of_a_run_that_was_killed_and_resumed(make, seen, killed, tmp_path):
    """What was committed is sent afresh, what was not is lost, and neither is trained again."""
    federation = make()
    killed(federation, tmp_path / "run")
    result = federation.run(tmp_path / "run", resume=True)
    assert [row.absent for row in result.rounds] == [(), ("client-1",), ()]
    seen.check(reported(tmp_path / "run"), each(ROUNDS * STEPS))


def test_of_a_run_that_was_killed_with_clients_in_one_pass(make, seen, killed, tmp_path):
    """All had reserved the round, and client-3 had taken no step of it: it is counted at all."""
    federation = make(computation=Computation(stacked_clients=3))
    killed(federation, tmp_path / "run")
    result = federation.run(tmp_path / "run", resume=True)
    assert [row.round for row in result.rounds] == [1, 3], "nobody trained for a sum of one"
    steps = each(ROUNDS * STEPS, **{"client-3": 2 * STEPS})
    seen.check(reported(tmp_path / "run"), steps, lost=["client-3"])


def test_of_a_run_with_an_abandoned_round(make, seen, tmp_path, monkeypatch):
    """A client stays away when the sum of round 2 is to be opened: all had taken their steps."""
    real = ClientNode.answer

    def answer(self, terms, *arguments):
        if (self.id, terms.round) == ("client-2", 2):
            raise RuntimeError("secret cause")
        return real(self, terms, *arguments)

    monkeypatch.setattr(ClientNode, "answer", answer)
    result = make(encryption=BFV()).run(tmp_path / "run")
    assert [row.round for row in result.rounds] == [1, 3]
    seen.check(reported(tmp_path / "run"), each(ROUNDS * STEPS))


@pytest.mark.parametrize("weighting", ["uniform", "public_size"])
def test_the_adapter_moves_by_the_mean_of_the_updates_with_public_weights(
    make, tmp_path, monkeypatch, weighting
):
    """Weights follow the public sizes, never the true numbers, and are each client's own."""
    real, updates = ClientNode.update, {}

    def update(self, plan, state, start):
        updates[self.id] = real(self, plan, state, start)
        return updates[self.id].copy()

    class Start(Callback):
        def on_start(self, *arguments):
            states.append(load_latest(tmp_path / "run/checkpoints").tensors["adapter"])

    states = []
    monkeypatch.setattr(ClientNode, "update", update)
    federation = make(method=FedAvg(weighting=weighting), rounds=1)
    federation.run(tmp_path / "run", callbacks=[Start()])
    checkpoint = load_latest(tmp_path / "run/checkpoints")
    sizes = [one.public_size for one in ORGANISATIONS[:4]]
    weights = np.array(sizes if weighting == "public_size" else [1] * 4, dtype=float)
    moves = np.stack([updates[name] for name in NAMES])
    expected = weights @ moves / weights.sum()
    moved = checkpoint.tensors["adapter"].astype(np.float64) - states[0]
    # Each update is rounded to a grid of 2^12 numbers over its range, at random and without bias.
    grid = 2 * checkpoint.record["first_range"] / 2**12
    most = 4 * grid * weights.max() / weights.sum()
    assert np.abs(moved - expected).max() <= most
    for other in (sizes[::-1], list(COUNTS.values()), [1, 1, 1, 1]):
        mistaken = np.array(other, dtype=float) @ moves / sum(other)
        same = np.allclose(np.array(other) / sum(other), weights / weights.sum())
        assert same or np.abs(mistaken - expected).max() > 3 * np.abs(moved - expected).max()
