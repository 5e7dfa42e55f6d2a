"""Control variates on losses whose answer is known, and against the paper's own form."""

import json
from dataclasses import replace

import numpy as np
import pytest

from privfed import SGD, AdamW, Scaffold, TrainingConfig
from privfed.errors import ConfigError
from privfed.methods.method import DELTA, Trained
from tests.unit.privfed.methods import vectors
from tests.unit.privfed.methods.quadratics import OPTIMUM, fixed_point

WEIGHTS = {"a": 1.0, "b": 0.5, "c": 0.25}
STEPS, RATE = 3, 0.125


def round_(number, weights=WEIGHTS):
    return vectors.round_of(number, weights, length=4, steps=STEPS, learning_rate=RATE)


class Client:
    """One that trains by what it is told: its update is a fixed one, less its correction."""

    def __init__(self, method, name, updates):
        self.method, self.name, self.updates, self.kept = method, name, updates, None
        self.shifts = []

    def train(self, state, round_):
        correction = self.method.correction(state, self.kept, self.name, round_)
        self.shifts.append(correction.shift.astype(np.float64))
        delta = self.updates[round_.number] - STEPS * RATE * self.shifts[-1]
        trained = Trained(received=state, delta=delta, kept=self.kept)
        vectors = self.method.local(trained, self.name, round_)
        self.kept = self.method.keeps(trained, vectors, self.name, round_)
        return vectors[DELTA]


def clients_of(method, rounds=8, weights=WEIGHTS):
    random = np.random.default_rng(5)
    return {
        name: Client(method, name, {n: random.normal(size=4) for n in range(1, rounds + 1)})
        for name in weights
    }


def play(method, clients, summed, weights=WEIGHTS, state=None, first=1):
    """Rounds in which all train, and those in `summed` (one list a round) are in the sum."""
    state = state or method.begin(np.zeros(4, np.float32))
    for number, there in enumerate(summed, start=first):
        sent = {
            name: client.train(state, round_(number, weights)) for name, client in clients.items()
        }
        sums = {DELTA: sum(weights[name] * sent[name] for name in there)}
        state = method.next(state, sums, there, round_(number, weights))
    return state


class Paper:
    """The paper's two sums, written down from its Algorithm 1, with weights and in float64."""

    def __init__(self):
        self.x, self.c = np.zeros(4), np.zeros(4)
        self.own = {name: np.zeros(4) for name in WEIGHTS}
        self.shifts = {name: [] for name in WEIGHTS}

    def play(self, clients, number, there):
        moves, changes = np.zeros(4), np.zeros(4)
        total = sum(WEIGHTS[name] for name in there)
        for name in WEIGHTS:
            shift = self.c - self.own[name]
            self.shifts[name].append(shift)
            y = self.x + clients[name].updates[number] - STEPS * RATE * shift
            new = self.own[name] - self.c + (self.x - y) / (STEPS * RATE)
            if name in there:
                moves += WEIGHTS[name] * (y - self.x) / total
                changes += WEIGHTS[name] * (new - self.own[name]) / sum(WEIGHTS.values())
                self.own[name] = new
        self.x, self.c = self.x + moves, self.c + changes


SUMMED = [["a", "b", "c"], ["a", "c"], ["b", "c"], ["a", "b"], ["a", "b", "c"], ["c"], ["a", "c"]]


def test_one_sum_gives_what_the_paper_sends_two_for():
    """Also where clients trained and were not in the sum: their variates count from the next."""
    method, paper = Scaffold(weighting="public_size"), Paper()
    clients = clients_of(method)
    state = play(method, clients, SUMMED)
    for number, there in enumerate(SUMMED, start=1):
        paper.play(clients, number, there)
    np.testing.assert_allclose(state.adapter, paper.x, atol=1e-5)
    np.testing.assert_allclose(state.memory["control"], paper.c, atol=1e-5)
    for name, client in clients.items():
        np.testing.assert_allclose(client.shifts, paper.shifts[name], atol=1e-5)
        assert np.abs(client.shifts[1:]).min() > 0


class TestTwoQuadratics:
    def test_it_comes_to_rest_at_the_optimum(self):
        assert fixed_point(Scaffold()) == pytest.approx(OPTIMUM, abs=1e-6)

    def test_also_after_rounds_that_clients_missed(self):
        """A variate that counted though its client was not in the sum would stay wrong for ever."""

        def away(number):
            return ["steep"] if number in (2, 5, 6) else ["flat"] if number == 9 else []

        assert fixed_point(Scaffold(), away=away) == pytest.approx(OPTIMUM, abs=1e-6)

    @pytest.mark.parametrize("largest", [0.5, 0.2, 0.1])
    def test_also_where_updates_are_clipped_at_first(self, largest):
        """What a client keeps is of what it sent: else the c_i no longer add up to c, for good."""
        found = fixed_point(Scaffold(), largest=largest)
        assert found == pytest.approx(OPTIMUM, abs=1e-6)


class TestWhatAClientKeeps:
    def test_it_is_its_variate_and_the_one_before(self):
        method, state = Scaffold(), Scaffold().begin(np.zeros(4, np.float32))
        delta = np.array([0.375, -0.75, 0.0, 1.5])
        trained = Trained(received=state, delta=2 * delta, kept=None)
        kept = method.keeps(trained, {DELTA: delta}, "b", round_(3))
        assert kept["control"].tolist() == [-1.0, 2.0, 0.0, -4.0]
        assert kept["before"].tolist() == [0.0] * 4
        assert kept["round"].tolist() == [3]

    def test_what_it_was_before_counts_where_the_round_was_given_up(self):
        method = Scaffold()
        clients = clients_of(method)
        state = play(method, clients, [["a", "b", "c"]])
        own = clients["b"].kept["control"].astype(np.float64)
        control = state.memory["control"].astype(np.float64)
        clients["b"].train(state, round_(2))  # and nobody opened that
        shift = method.correction(state, clients["b"].kept, "b", round_(3)).shift
        np.testing.assert_allclose(shift, control - own, atol=1e-6)

    def test_nothing_of_it_is_in_what_all_hold(self):
        method = Scaffold()
        clients = clients_of(method)
        state = play(method, clients, SUMMED)
        for client in clients.values():
            for values in state.memory.values():
                assert not np.array_equal(values, client.kept["control"])


def test_all_begin_anew_once_a_client_has_left():
    """Else c would hold the share of one that is gone, and pull the others away for good."""
    method, fewer = Scaffold(), {"a": 1.0, "b": 0.5}
    clients = clients_of(method)
    state = play(method, clients, SUMMED[:3])
    del clients["c"]
    for client in clients.values():
        client.shifts.clear()
    state = play(method, clients, [["a", "b"], ["a", "b"]], fewer, state, first=4)
    assert not np.any([client.shifts[0] for client in clients.values()])
    mean = sum(fewer[name] * client.shifts[1] for name, client in clients.items())
    np.testing.assert_allclose(mean, np.zeros(4), atol=1e-5)
    assert np.abs(clients["a"].shifts[1]).min() > 0.01
    assert set(state.memory) == {"control", "clients", "summed.a", "summed.b"}


class TestWhatIsRefused:
    @pytest.mark.parametrize("optimizer", [SGD(momentum=0.5), AdamW()])
    def test_steps_whose_sum_is_no_mean_gradient(self, optimizer):
        training = TrainingConfig(learning_rate=RATE, optimizer=optimizer)
        with pytest.raises(ConfigError, match="scaffold needs the optimiser SGD without momentum"):
            Scaffold().check(training, {"a": 2, "b": 2}, 3)
        Scaffold().check(replace(training, optimizer=SGD()), {"a": 2, "b": 2}, 3)

    def test_different_steps(self):
        """The sum of the updates would no longer give that of the variates."""
        training = TrainingConfig(learning_rate=RATE)
        with pytest.raises(ConfigError, match=r"same steps_per_round at all.*'b': 3.*fednova"):
            Scaffold().check(training, {"a": 2, "b": 3}, 4)


def test_it_describes_itself():
    assert json.loads(json.dumps(Scaffold(server_learning_rate=0.5).describe())) == {
        "method": "scaffold",
        "weighting": "uniform",
        "server_learning_rate": 0.5,
        "upload_share": 1.0,
    }
