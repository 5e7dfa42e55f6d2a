"""Clients of different steps: the step by hand, and losses whose answer is known."""

import json
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed import (
    SGD,
    AdamW,
    Budget,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedNova,
    FedYogi,
    MixedRanks,
    Neighbouring,
    PrivacyConfig,
    TailAveraging,
    TrainingConfig,
)
from privfed.agreement import range_from_public_settings
from privfed.encryption.fixedpoint import decode, encode
from privfed.errors import ConfigError
from privfed.methods.method import DELTA
from tests.unit.privfed.methods import vectors
from tests.unit.privfed.methods.quadratics import CLIENTS, OPTIMUM, fixed_point

STEPS = {"a": 1, "b": 2, "c": 4}
SIZES = {"a": 100, "b": 300, "c": 200}
DELTAS = {"a": 1.0, "b": 3.0, "c": -2.0}
"""Mean steps 1, 3/2 and -1/2."""


def moved(method, contributors="abc", steps=STEPS, sizes=SIZES, deltas=DELTAS):
    """What a round adds to an adapter of one zero."""
    weights = method.weights(sizes, steps)
    round_ = vectors.round_of(3, weights, length=1, steps=steps)
    total = sum(weights[name] * np.array([deltas[name]]) for name in contributors)
    state = method.begin(np.zeros(1, np.float32))
    after = method.next(state, {DELTA: total}, sorted(contributors), round_)
    return float(after.adapter[0])


class TestByHand:
    def test_weights_are_shares_per_step_and_the_largest_is_one(self):
        assert FedNova().weights(SIZES, STEPS) == {"a": 1.0, "b": 0.5, "c": 0.25}
        sized = FedNova(weighting="public_size").weights(SIZES, STEPS)
        assert sized == pytest.approx({"a": 2 / 3, "b": 1.0, "c": 1 / 3})

    def test_the_step_of_three_unequal_clients(self):
        """The mean of the mean steps is 2/3, of 7/3 steps; by size 3/4, of 5/2."""
        assert moved(FedNova()) == pytest.approx(14 / 9)
        assert moved(FedNova(weighting="public_size")) == pytest.approx(15 / 8)

    def test_steps_and_shares_are_those_of_who_is_in_the_sum(self):
        """Of a and c: (1 - 1/2) / 2, of 5/2 steps."""
        assert moved(FedNova(), "ac") == pytest.approx(5 / 8)
        assert moved(FedNova(), "b") == pytest.approx(3.0)

    def test_the_learning_rate_of_the_server_goes_on_top(self):
        assert moved(FedNova(server_learning_rate=0.5)) == pytest.approx(7 / 9)

    @pytest.mark.parametrize("weighting", ["uniform", "public_size"])
    def test_where_all_take_as_many_steps_it_is_fedavg(self, weighting):
        equal = dict.fromkeys(STEPS, 3)
        mean = moved(FedAvg(weighting=weighting), steps=equal)
        assert moved(FedNova(weighting=weighting), steps=equal) == pytest.approx(mean)
        assert moved(FedNova(weighting=weighting)) != pytest.approx(mean, rel=0.1)


@given(
    clients=st.lists(
        st.tuples(st.integers(1, 50), st.integers(1, 2000), st.floats(-4, 4)),
        min_size=1,
        max_size=8,
    )
)
def test_it_is_the_step_of_the_paper(clients):
    """tau_eff sum_i p_i D_i / tau_i, with shares p_i of the sizes."""
    names = [f"c{number}" for number in range(len(clients))]
    steps, sizes, deltas = (
        dict(zip(names, part, strict=True)) for part in zip(*clients, strict=True)
    )
    share = {name: sizes[name] / sum(sizes.values()) for name in names}
    effective = sum(share[name] * steps[name] for name in names)
    wanted = effective * sum(share[name] * deltas[name] / steps[name] for name in names)
    found = moved(FedNova(weighting="public_size"), names, steps, sizes, deltas)
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-5)


OWN = {"flat": 20, "steep": 5}


class TestTwoQuadratics:
    """The flat loss takes 20 steps, the steep one 5; the optimum of their mean is 10 / 11."""

    def shrinks(self, rate):
        """By how much a round of a client takes it towards its own optimum: 1 - (1 - eta h)^K."""
        return {name: 1 - (1 - rate * h) ** OWN[name] for name, (h, _) in CLIENTS.items()}

    @pytest.mark.parametrize("rate", [0.02, 0.0005])
    def test_both_rest_where_they_must(self, rate):
        flat, steep = self.shrinks(rate).values()
        averaged = fixed_point(FedAvg(), steps=OWN, rate=rate, rounds=1000)
        assert averaged == pytest.approx(steep / (flat + steep), abs=1e-4)
        found = fixed_point(FedNova(), steps=OWN, rate=rate, rounds=1000)
        assert found == pytest.approx(steep / 5 / (flat / 20 + steep / 5), abs=1e-4)

    def test_as_steps_become_small_it_comes_to_the_optimum_and_fedavg_does_not(self):
        """FedAvg comes to that of losses weighed by their steps: 50 / (50 + 20)."""
        small = {"steps": OWN, "rate": 0.0005, "rounds": 1000}
        assert fixed_point(FedNova(), **small) == pytest.approx(OPTIMUM, abs=1e-3)
        assert fixed_point(FedAvg(), **small) == pytest.approx(5 / 7, abs=3e-3)

    def test_also_through_the_momentum_of_the_server(self):
        small = {"steps": OWN, "rate": 0.0005, "rounds": 1000}
        method = FedAvgM(of=FedNova(), momentum=0.5)
        assert fixed_point(method, **small) == pytest.approx(OPTIMUM, abs=1e-3)


class TestWhatIsRefused:
    @pytest.mark.parametrize("optimizer", [SGD(momentum=0.5), AdamW()])
    def test_steps_that_do_not_count_alike(self, optimizer):
        training = TrainingConfig(learning_rate=0.25, optimizer=optimizer)
        with pytest.raises(ConfigError, match="fednova needs the optimiser SGD without momentum"):
            FedNova().check(training, STEPS, 3)
        FedNova().check(replace(training, optimizer=SGD()), STEPS, 3)

    @pytest.mark.parametrize("kind", [FedAdagrad, FedAdam, FedYogi])
    @pytest.mark.parametrize(
        "inside",
        [
            FedNova(),
            MixedRanks(of=FedNova(), ranks={"a": 1}),
            MixedRanks(of=MixedRanks(of=FedNova(), ranks={"a": 1}), ranks={"b": 2}),
        ],
        ids=["bare", "in mixed ranks", "deeper"],
    )
    def test_a_server_whose_tau_is_in_the_units_of_a_plain_mean(self, kind, inside):
        with pytest.raises(ConfigError, match=f"{kind.kind} cannot be around fednova.*fedavgm"):
            kind(of=inside, learning_rate=0.5)

    def test_other_wrappers_are_not(self):
        TailAveraging(of=FedAvgM(of=MixedRanks(of=FedNova(), ranks={"a": 1})))


def test_it_describes_itself():
    assert json.loads(json.dumps(FedNova(server_learning_rate=0.5).describe())) == {
        "method": "fednova",
        "weighting": "uniform",
        "server_learning_rate": 0.5,
        "upload_share": 1.0,
    }


class TestTheRange:
    STEPS = MappingProxyType({"a": 2, "b": 3, "c": 11})

    def rounding_error(self, method, weights_of_range=None):
        """Root mean square of what 8 bits add to a round's move, where nothing is clipped."""
        privacy = PrivacyConfig(
            budget=Budget(epsilon=2.0, delta=1e-5),
            neighbouring=Neighbouring.ADD_REMOVE,
            record="one note",
            expected_batch_size=64,
        )
        weights = method.weights(dict.fromkeys(self.STEPS, 100), self.STEPS)
        bound = range_from_public_settings(
            privacy,
            TrainingConfig(learning_rate=0.5),
            dict.fromkeys(self.STEPS, 1.5),
            self.STEPS,
            weights_of_range or weights,
            3,
        )
        random, length = np.random.default_rng(1), 50_000
        round_ = vectors.round_of(3, weights, length=length, steps=self.STEPS)
        exact, rounded = np.zeros(length), np.zeros(length)
        for client, steps in self.STEPS.items():
            update = weights[client] * random.normal(0, 0.2 * np.sqrt(steps), size=length)
            numbers = encode(update, public_range=bound, bits=8, uniforms=random.random(length))
            exact += update
            rounded += decode(numbers, public_range=bound, bits=8)
            assert np.abs(update).max() < bound, "nothing is clipped"
        state = method.begin(np.zeros(length, np.float32))
        states = [method.next(state, {DELTA: one}, "abc", round_) for one in (exact, rounded)]
        return float(np.std(states[1].adapter - states[0].adapter))

    def test_few_bits_round_it_no_more_than_fedavg(self):
        """Every weighted update moves as far as one of 2 steps, not of 11.

        The error of sqrt(3) roundings to a range R times 2/11, times f = 1.643 over the sum of
        weights 1.848, is 0.485 of FedAvg's sqrt(3) R / 3.
        """
        nova, average = self.rounding_error(FedNova()), self.rounding_error(FedAvg())
        assert nova / average == pytest.approx(0.485, rel=0.02)
        wide = self.rounding_error(FedNova(), dict.fromkeys(self.STEPS, 1.0))
        assert wide / average == pytest.approx(0.485 * 11 / 2, rel=0.02)
