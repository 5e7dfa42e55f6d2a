"""Weighted means of at least three clients with unequal weights, computed by hand."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accountants import PoissonGaussian
from privfed.errors import ConfigError
from privfed.methods.averaging import FedAvg, FFALoRA
from privfed.methods.method import DELTA, SentVector, Trained
from privfed.run_settings import weight_notes
from tests.unit.privfed.methods.vectors import round_of

SIZES = {"a": 100, "b": 50, "c": 25}
METHODS = pytest.mark.parametrize("method", [FedAvg, FFALoRA])


def next_adapter(method, adapter, updates, sizes=SIZES):
    """A round as the federation plays it: weighted updates are summed, then divided."""
    weights = method.weights(sizes, {})
    round_ = round_of(4, weights, length=len(adapter))
    total = sum(weights[client] * update for client, update in updates.items())
    moved = method.next(method.begin(adapter), {DELTA: total}, sorted(updates), round_)
    assert method.left(moved) is moved.adapter
    assert not moved.memory
    return moved.adapter


@METHODS
class TestTheMean:
    def test_uniform(self, method):
        state = np.array([1.0, -1.0], dtype=np.float32)
        updates = {"a": np.array([3.0, 0.0]), "b": np.array([0.0, 6.0]), "c": np.array([0.0, 3.0])}
        moved = next_adapter(method(), state, updates)
        assert moved.tolist() == [2.0, 2.0]
        assert moved.dtype == np.float32

    def test_in_proportion_to_public_sizes(self, method):
        """Weights 4/7, 2/7, 1/7: the mean of 7, 14 and -7 is (28 + 28 - 7) / 7 = 7."""
        chosen = method(weighting="public_size")
        assert chosen.weights(SIZES, {}) == {"a": 1.0, "b": 0.5, "c": 0.25}
        updates = {"a": np.array([7.0]), "b": np.array([14.0]), "c": np.array([-7.0])}
        moved = next_adapter(chosen, np.array([1.0], dtype=np.float32), updates)
        assert moved.tolist() == [8.0]

    def test_the_server_learning_rate_scales_the_move(self, method):
        updates = {"a": np.array([3.0]), "b": np.array([6.0]), "c": np.array([9.0])}
        state = np.array([10.0], dtype=np.float32)
        assert next_adapter(method(server_learning_rate=0.5), state, updates).tolist() == [13.0]

    def test_the_mean_is_over_those_who_took_part(self, method):
        """Weights 1 and 1/4 of a and c: (5 * 1 + 10 / 4) / (5 / 4) = 6."""
        updates = {"a": np.array([5.0]), "c": np.array([10.0])}
        state = np.zeros(1, dtype=np.float32)
        assert next_adapter(method(weighting="public_size"), state, updates).tolist() == [6.0]

    @pytest.mark.parametrize("weighting", ["uniform", "public_size"])
    def test_each_client_moves_the_result(self, method, weighting):
        chosen = method(weighting=weighting)
        state = np.zeros(2, dtype=np.float32)
        updates = {client: np.array([1.0, 2.0]) for client in SIZES}
        base = next_adapter(chosen, state, updates)
        shares = chosen.weights(SIZES, {})
        for client in SIZES:
            changed = {**updates, client: updates[client] + [0.0, 7.0]}
            moved = next_adapter(chosen, state, changed) - base
            share = shares[client] / sum(shares.values())
            assert moved.tolist() == pytest.approx([0.0, 7.0 * share], rel=1e-6)
            assert moved[1] > 0.9

    def test_the_old_state_is_left_alone(self, method):
        state = np.ones(2, dtype=np.float32)
        next_adapter(method(), state, {client: np.ones(2) for client in SIZES})
        assert state.tolist() == [1.0, 1.0]

    def test_settings_are_json_and_told_apart(self, method):
        described = method(weighting="public_size", server_learning_rate=0.5).describe()
        assert json.loads(json.dumps(described)) == {
            "method": {"FedAvg": "fedavg", "FFALoRA": "ffa-lora"}[method.__name__],
            "weighting": "public_size",
            "server_learning_rate": 0.5,
            "upload_share": 1.0,
        }

    @pytest.mark.parametrize("weighting", ["true_size", "", None])
    def test_an_unknown_weighting_is_refused(self, method, weighting):
        with pytest.raises(ConfigError, match="'uniform' or 'public_size'"):
            method(weighting=weighting)

    @pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_learning_rate_out_of_range_is_refused(self, method, rate):
        with pytest.raises(ConfigError, match="server_learning_rate"):
            method(server_learning_rate=rate)


def test_only_ffa_lora_freezes_a():
    assert (FedAvg().freezes_a, FFALoRA().freezes_a) == (False, True)


@METHODS
def test_it_sends_the_update_and_nothing_else(method):
    round_ = round_of(2, {"a": 1.0, "b": 0.5}, length=7)
    chosen, received = method(), method().begin(np.zeros(2, np.float32))
    assert chosen.uploads(round_) == (SentVector(name=DELTA, length=7, scale=1.0),)
    assert chosen.trains(round_, "a").tolist() == [True] * 7
    assert chosen.correction(received, None, "a", round_) is None
    trained = Trained(received=received, delta=np.arange(3.0, 10.0), kept=None)
    vectors = chosen.local(trained, "a", round_)
    assert {name: vector.tolist() for name, vector in vectors.items()} == {
        DELTA: [3, 4, 5, 6, 7, 8, 9]
    }
    assert chosen.keeps(trained, vectors, "a", round_) is None
    steps = PoissonGaussian(noise_multiplier=1.5, sample_rate=0.25, steps=3)
    assert chosen.releases(steps) == (steps,)
    assert chosen.which_is_left() == "the newest"


@given(
    sizes=st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, 10**6), min_size=3),
    weighting=st.sampled_from(["uniform", "public_size"]),
)
def test_weights_are_in_the_unit_interval_and_the_largest_is_one(sizes, weighting):
    """Fixed point holds +-public_range only for weights of at most one."""
    weights = FedAvg(weighting=weighting).weights(sizes, {})
    assert weights.keys() == sizes.keys()
    assert max(weights.values()) == 1.0
    assert min(weights.values()) > 0


@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=8),
    sizes=st.lists(st.integers(1, 1000), min_size=8, max_size=8),
)
def test_the_mean_of_equal_weights_lies_between_the_updates(values, sizes):
    updates = {str(index): np.array([value]) for index, value in enumerate(values)}
    named = {client: sizes[int(client)] for client in updates}
    moved = next_adapter(FedAvg(weighting="public_size"), np.zeros(1, np.float32), updates, named)
    slack = 1e-6 * max(1.0, *map(abs, values))
    assert min(values) - slack <= moved[0] <= max(values) + slack


class TestProducts:
    """Rank 3 on a rectangular layer, 7 x 5, four clients with unequal weights."""

    SIZES: dict = {"a": 100, "b": 60, "c": 30, "d": 10}  # noqa: RUF012 - never changed

    @pytest.fixture
    def random(self):
        return np.random.default_rng(8)

    def rounds(self, method, start, trained):
        """The flat state after one round and the clients' flat states."""
        updates = {client: value - start for client, value in trained.items()}
        return next_adapter(method, start.astype(np.float32), updates, self.SIZES)

    def mean_of_products(self, method, products):
        weights = method.weights(self.SIZES, {})
        return sum(weights[c] * p for c, p in products.items()) / sum(weights.values())

    @pytest.mark.parametrize("weighting", ["uniform", "public_size"])
    def test_with_a_frozen_the_product_of_the_means_is_the_mean_of_the_products(
        self, random, weighting
    ):
        method = FFALoRA(weighting=weighting)
        a = np.linalg.qr(random.standard_normal((5, 3)))[0].T
        start = np.zeros(21)
        trained = {client: 0.1 * random.standard_normal(21) for client in self.SIZES}
        state = self.rounds(method, start, trained).astype(np.float64)
        products = {client: b.reshape(7, 3) @ a for client, b in trained.items()}
        expected = self.mean_of_products(method, products)
        assert np.abs(state.reshape(7, 3) @ a - expected).max() <= 1e-7
        assert np.abs(expected).max() > 1e-2

    @pytest.mark.parametrize("weighting", ["uniform", "public_size"])
    def test_with_both_factors_trained_it_is_not(self, random, weighting):
        method = FedAvg(weighting=weighting)
        start = np.concatenate([random.standard_normal(15), np.zeros(21)])
        trained = {c: start + 0.3 * random.standard_normal(36) for c in self.SIZES}

        def product(flat):
            return flat[15:].reshape(7, 3) @ flat[:15].reshape(3, 5)

        state = self.rounds(method, start, trained).astype(np.float64)
        products = {client: product(flat) for client, flat in trained.items()}
        expected = self.mean_of_products(method, products)
        assert np.abs(product(state) - expected).max() > 1e-2

    def test_in_peft_modules_too(self, random):
        """The same through real LoRA layers: what the merged weight becomes."""
        import torch
        from torch import nn

        from privfed.models.adapters import LoRA, freeze_orthonormal_a
        from privfed.models.vector import read_vector, write_vector

        base = nn.Sequential(nn.Linear(5, 7, bias=False), nn.Linear(1, 1))
        model = LoRA(rank=3, target_modules=("0",), alpha=6.0).attach(base, ("1",), 0)
        freeze_orthonormal_a(model, 3)
        layer = model.get_base_model()[0]

        def delta(flat):
            write_vector(model, flat.astype(np.float32))
            with torch.no_grad():
                return layer.get_delta_weight("default").double().numpy().copy()

        start = read_vector(model)
        trained = {c: start + 0.1 * random.standard_normal(start.size) for c in self.SIZES}
        state = self.rounds(FFALoRA(weighting="public_size"), start, trained)
        products = {client: delta(flat) for client, flat in trained.items()}
        expected = self.mean_of_products(FFALoRA(weighting="public_size"), products)
        assert np.abs(delta(state) - expected).max() <= 1e-7
        assert delta(state).shape == (7, 5)


EQUAL = dict.fromkeys("abc", 3)


class TestWeightNotes:
    def test_a_client_that_outweighs_all_others_is_named(self):
        with pytest.warns(UserWarning, match="client 'a' weighs more than all others together"):
            (note,) = weight_notes({"a": 1.0, "b": 0.49, "c": 0.5}, EQUAL)
        assert "encryption hides little of it" in note

    def test_others_are_not(self):
        assert weight_notes({"a": 1.0, "b": 0.5, "c": 0.5}, EQUAL) == ()
        assert weight_notes({"a": 1.0, "b": 1.0, "c": 1.0}, EQUAL) == ()

    def test_a_client_counts_with_its_steps(self):
        with pytest.warns(UserWarning, match="client 'b' weighs more .* counted with its steps"):
            weight_notes(dict.fromkeys("abc", 1.0), {"a": 2, "b": 6, "c": 3})
        assert weight_notes({"a": 1.0, "b": 0.25, "c": 0.25}, {"a": 2, "b": 4, "c": 4}) == ()
