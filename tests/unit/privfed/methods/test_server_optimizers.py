"""Steps of the server by hand, and what noise makes of them."""

import json
import math

import numpy as np
import pytest

from privfed import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi, RoLoRA, Scaffold, TailAveraging
from privfed.errors import ConfigError
from privfed.methods.averaging import noise_of_mean
from privfed.methods.method import DELTA
from tests.unit.privfed.methods.test_rolora import adapter
from tests.unit.privfed.methods.test_rolora import round_ as round_of_lora
from tests.unit.privfed.methods.vectors import round_of

WEIGHTS = {"a": 1.0, "b": 0.5}
ADAPTIVE = (FedAdagrad, FedAdam, FedYogi)


def play(method, means, noise=None):
    """The adapter of one number after rounds whose mean updates are these, from 2."""
    state = method.begin(np.array([2.0], np.float32))
    for number, mean in enumerate(means, start=1):
        round_ = round_of(number, WEIGHTS, length=1, noise=noise)
        state = method.next(state, {DELTA: np.array([1.5 * mean])}, ["a", "b"], round_)
    return float(state.adapter[0])


def test_momentum_by_hand():
    """M is 4, then 0.5 * 4 - 1 = 1, then 0.5 + 3 = 3.5; a quarter of each is taken."""
    method = FedAvgM(of=FedAvg(), learning_rate=0.25, momentum=0.5)
    assert play(method, [4.0]) == 2 + 1
    assert play(method, [4.0, -1.0]) == 2 + 1 + 0.25
    assert play(method, [4.0, -1.0, 3.0]) == 2 + 1 + 0.25 + 0.875


def test_without_momentum_it_is_averaging():
    assert play(FedAvgM(of=FedAvg(), momentum=0.0), [4.0, -1.0]) == play(FedAvg(), [4.0, -1.0])


V = {
    FedAdagrad: (0.25 + 9.0, 9.25 + 1.0),
    FedAdam: (0.75 * 0.25 + 0.25 * 9, 0.75 * 2.4375 + 0.25 * 1),
    FedYogi: (0.25 + 0.25 * 9, 2.5 - 0.25 * 1),
}
"""v after D = 3 and D = -1, beginning at tau^2 = 0.25; Yogi's rises at first, then falls."""


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_adaptive_steps_by_hand(kind):
    """M is 0.5 * 3 = 1.5, then 0.5 * 1.5 - 0.5 * 1 = 0.25."""
    betas = {} if kind is FedAdagrad else {"beta2": 0.75}
    method = kind(of=FedAvg(), learning_rate=2.0, beta1=0.5, tau=0.5, **betas)
    first, second = V[kind]
    once = 2 + 2 * 1.5 / (math.sqrt(first) + 0.5)
    assert play(method, [3.0]) == pytest.approx(once, rel=1e-6)
    twice = once + 2 * 0.25 / (math.sqrt(second) + 0.5)
    assert play(method, [3.0, -1.0]) == pytest.approx(twice, rel=1e-6)


def test_the_noise_of_a_mean_by_hand():
    """Weights 1 and 0.5, noise 3 and 8: sqrt(9 + 16) / 1.5; of one alone it is its own."""
    round_ = round_of(1, WEIGHTS, length=1, noise={"a": 3.0, "b": 8.0})
    assert noise_of_mean(round_, ["a", "b"]) == pytest.approx(5 / 1.5)
    assert noise_of_mean(round_, ["b"]) == pytest.approx(8.0)
    assert noise_of_mean(round_of(1, WEIGHTS, length=1), ["a", "b"]) is None


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_tau_is_at_least_the_noise_of_the_mean(kind):
    """Without it, noise of 0.02 alone is blown up to steps of about eta."""
    method = kind(of=FedAvg(), learning_rate=1.0, tau=1e-3)
    noise = {"a": 0.18, "b": 0.48}  # 0.2 in the mean
    known = kind(of=FedAvg(), learning_rate=1.0, tau=0.2)
    assert play(method, [0.02, 0.02], noise) == pytest.approx(play(known, [0.02, 0.02]), rel=1e-6)
    assert abs(play(method, [0.02], noise) - 2) < 0.01
    assert abs(play(method, [0.02]) - 2) > 0.05
    assert play(known, [0.02], {"a": 0.01, "b": 0.01}) == play(known, [0.02])


@pytest.mark.parametrize("kind", [FedAvgM, *ADAPTIVE])
def test_what_stands_still_stays_to_the_bit(kind):
    """The momentum of the rounds of one factor does not move it in those of the other."""
    method = kind(of=RoLoRA(), learning_rate=0.5)
    states = [method.begin(adapter(8))]
    for number in (1, 2, 3):
        sums = {DELTA: np.linspace(1, 2, 14)}
        states.append(method.next(states[-1], sums, ["north"], round_of_lora(number)))
        moved = states[-1].adapter != states[-2].adapter
        assert np.array_equal(moved, method.trains(round_of_lora(number), "a"))


def test_the_method_inside_sees_its_own_memory_alone():
    method = FedAdam(of=Scaffold(), learning_rate=0.1)
    state, plain = method.begin(np.zeros(1, np.float32)), Scaffold().begin(np.zeros(1, np.float32))
    for number in (1, 2):
        sums, round_ = {DELTA: np.array([0.75])}, round_of(number, WEIGHTS, length=1)
        state = method.next(state, sums, ["a", "b"], round_)
        plain = Scaffold().next(plain, sums, ["a", "b"], round_)
    assert method.inside(state).memory.keys() == plain.memory.keys()
    assert method.inside(state).memory["control"] == plain.memory["control"]
    assert set(state.memory) - set(plain.memory) == {"server.m", "server.v"}


@pytest.mark.parametrize("kind", [FedAvgM, *ADAPTIVE])
def test_it_describes_itself_and_what_is_inside(kind):
    described = json.loads(json.dumps(kind(of=RoLoRA(), learning_rate=0.25).describe()))
    assert described["method"] == kind.kind
    assert described["of"]["method"] == "rolora"
    assert described["learning_rate"] == 0.25
    assert ("beta2" in described) == (kind in (FedAdam, FedYogi))


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("kind", "values"),
        [
            (FedAvgM, {"learning_rate": 0.0}),
            (FedAvgM, {"momentum": 1.0}),
            (FedAdagrad, {"learning_rate": -1.0}),
            (FedAdagrad, {"learning_rate": 1.0, "tau": 0.0}),
            (FedAdagrad, {"learning_rate": 1.0, "beta1": 1.0}),
            (FedAdam, {"learning_rate": 1.0, "beta2": -0.1}),
            (FedYogi, {"learning_rate": 1.0, "beta2": 1.0}),
        ],
    )
    def test_values_out_of_range_are_named(self, kind, values):
        with pytest.raises(ConfigError, match=list(values)[-1]):
            kind(of=FedAvg(), **values)

    def test_something_else_than_a_method(self):
        with pytest.raises(ConfigError, match="of"):
            FedAdam(of="fedavg", learning_rate=1.0)

    def test_one_within_another(self):
        with pytest.raises(ConfigError, match="FedAvgM cannot be inside FedYogi or the other way"):
            FedAvgM(of=FedYogi(of=FedAvg(), learning_rate=1.0))

    def test_an_average_of_adapters_that_the_run_never_comes_to(self):
        with pytest.raises(ConfigError, match="TailAveraging must be around FedAvgM, not inside"):
            FedAvgM(of=TailAveraging(of=FedAvg()))
        assert TailAveraging(of=FedAvgM(of=FedAvg())).of == FedAvgM(of=FedAvg())

    @pytest.mark.parametrize("kind", ADAPTIVE)
    def test_a_factor_inside_of_which_tau_knows_nothing(self, kind):
        with pytest.raises(ConfigError, match=f"set the learning_rate of {kind.kind}"):
            kind(of=FedAvg(server_learning_rate=2.0), learning_rate=1.0)
