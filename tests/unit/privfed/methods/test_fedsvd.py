"""B is averaged exactly; a refresh leaves the product, and makes A orthonormal in its row space."""

import json

import numpy as np
import pytest

from accountants import PoissonGaussian
from privfed import FedAdam, FedAvg, FedAvgM, FedSVD, TailAveraging
from privfed.errors import ConfigError
from privfed.methods.method import DELTA, Round, Trained
from privfed.protocol.layout import Layout
from tests.unit.privfed.methods import vectors
from tests.unit.privfed.methods.test_rolora import (
    HEAD,
    LAYOUT,
    RANK,
    WEIGHTS,
    A,
    B,
    adapter,
    factors,
    round_,
    trained,
)

WHO = list(WEIGHTS)


def played(method, start, numbers):
    """The states of rounds in which clients send noise, the initial one first."""
    states = [method.begin(start)]
    for number in numbers:
        (sent,) = method.uploads(round_(number))
        sums = {DELTA: np.random.default_rng(number).normal(size=sent.length)}
        states.append(method.next(states[-1], sums, WHO, round_(number)))
    return states


@pytest.mark.parametrize("number", [1, 2])
def test_the_product_is_the_mean_of_the_clients_products(number):
    """With a refresh after round 1 and without one after round 2."""
    start = adapter(3)
    after, products = trained(FedSVD(every=3), start, number)
    a, b = factors(after)
    np.testing.assert_allclose(b @ a, products, atol=1e-6)
    assert np.array_equal(a, factors(start)[0]) == (number == 2)


def test_a_refresh_by_hand():
    """B A = diag(0, 6) becomes U S = 6 e_2, V^T = e_2 first; what was nothing stays in the rows."""
    layout = Layout(((A, (2, 3)), (B, (2, 2))))
    start = np.array([4, 0, 0, 0, 2, 0, 0, 0, 0, 1], np.float32)
    alone = Round(
        number=1, steps={"north": 1}, learning_rate=1.0, weights={"north": 1.0}, layout=layout
    )
    sums = {DELTA: np.array([0.0, 0.0, 0.0, 2.0])}
    moved = FedSVD().next(FedSVD().begin(start), sums, ["north"], alone).adapter
    assert moved.tolist() == [0, 1, 0, 1, 0, 0, 0, 0, 6, 0]


def test_a_refresh_leaves_the_product_and_makes_a_orthonormal():
    """Against the same round without one; a product of inputs shows it, as the model does."""
    start = adapter(4)
    (_, first, plain), (_, _, fresh) = (
        played(FedSVD(every=every), start, (1, 2)) for every in (2, 1)
    )
    (a, b), (new_a, new_b) = factors(plain.adapter), factors(fresh.adapter)
    inputs = np.random.default_rng(9).normal(size=(7, 5))
    np.testing.assert_allclose(inputs @ (b @ a).T, inputs @ (new_b @ new_a).T, atol=2e-6)
    np.testing.assert_allclose(new_a @ new_a.T, np.eye(RANK), atol=1e-6)
    assert np.abs(new_a - a).max() > 0.01, "by far more than rounding"
    head = LAYOUT.mask([HEAD])
    assert np.array_equal(plain.adapter[head], fresh.adapter[head])
    assert (plain.adapter[head] != first.adapter[head]).all()


def test_a_refresh_leaves_the_logits_of_a_model(bert_folder):
    """In layers of PEFT, where LoRA scales the product by alpha / r."""
    import torch

    from privfed import Classification, LoRA
    from privfed.models.vector import read_vector, trainable, write_vector

    task = Classification(base=bert_folder, labels=("a", "b", "c"), max_length=12)
    model = LoRA(rank=3, target_modules=("query", "dense"), alpha=6.0).attach(
        task.build(), task.modules_to_save, 0
    )
    model.eval()
    layout = Layout(tuple((name, tuple(p.shape)) for name, p in trainable(model)))
    alone = Round(
        number=1, steps={"north": 1}, learning_rate=1.0, weights={"north": 1.0}, layout=layout
    )
    random, method = np.random.default_rng(10), FedSVD()
    start = read_vector(model)
    (sent,) = method.uploads(alone)
    step = 0.2 * random.normal(size=sent.length)
    moved = start.copy()
    moved[method.trains(alone, "a")] += step.astype(np.float32)
    fresh = method.next(method.begin(start), {DELTA: step}, ["north"], alone).adapter

    def logits(vector):
        write_vector(model, vector)
        with torch.no_grad():
            ids = torch.arange(1, 25).reshape(2, 12)
            return model(input_ids=ids, attention_mask=torch.ones_like(ids)).numpy()

    assert np.abs(moved - fresh).max() > 0.1
    assert np.abs(logits(moved) - logits(start)).max() > 0.1
    np.testing.assert_allclose(logits(moved), logits(fresh), atol=1e-6)


def test_it_is_refreshed_after_round_one_and_every_so_many_from_there():
    states = played(FedSVD(every=3), adapter(5), range(1, 9))
    changed = [
        number
        for number in range(1, 9)
        if not np.array_equal(*(factors(states[number - k].adapter)[0] for k in (0, 1)))
    ]
    assert changed == [1, 4, 7]


@pytest.mark.parametrize("zero", [False, True])
def test_a_stays_in_the_row_space_in_which_it_began(zero):
    """Also where B is 0, of which all singular values are."""
    start = adapter(6)
    if zero:
        start[LAYOUT.mask([B])] = 0
        (sent,) = FedSVD().uploads(round_(1))
        sums = {DELTA: np.zeros(sent.length)}
        last = FedSVD().next(FedSVD().begin(start), sums, WHO, round_(1))
        assert (last.adapter[LAYOUT.mask([B])] == 0).all()
    else:
        last = played(FedSVD(), start, range(1, 30))[-1]
    inside = np.linalg.svd(factors(start)[0], full_matrices=False)[2]
    a, _ = factors(last.adapter)
    np.testing.assert_allclose(a @ a.T, np.eye(RANK), atol=1e-6)
    np.testing.assert_allclose(a @ inside.T @ inside, a, atol=1e-6)


def test_a_is_in_no_upload_and_does_not_train():
    delta = np.arange(1.0, LAYOUT.length + 1)
    mine = Trained(received=FedSVD().begin(adapter(7)), delta=delta, kept=None)
    sent = FedSVD().local(mine, "north", round_(2))
    assert sent[DELTA].tolist() == [1, 2, 3, 4, 15, 16, 17, 18, 19, 20]
    (one,) = FedSVD().uploads(round_(2))
    assert (one.name, one.length, one.scale) == (DELTA, 10, 1.0)
    assert np.array_equal(FedSVD().trains(round_(2), "north"), LAYOUT.mask([HEAD, B]))


def test_the_step_of_the_server_and_the_weights_count():
    """Half of 3 / (1 + 0.125) in the head."""
    start, method = adapter(8), FedSVD(server_learning_rate=0.5)
    sums = {DELTA: np.full(10, 3.0)}
    moved = method.next(method.begin(start), sums, ["north", "west"], round_(2)).adapter
    np.testing.assert_allclose((moved - start)[:4], 0.5 * 3 / 1.125, rtol=1e-5)


def test_it_costs_what_the_private_steps_cost():
    steps = PoissonGaussian(noise_multiplier=1.5, sample_rate=0.25, steps=3)
    assert FedSVD(every=2).releases(steps) == FedAvg().releases(steps) == (steps,)


def test_it_describes_itself():
    described = FedSVD(every=4, weighting="public_size").describe()
    assert json.loads(json.dumps(described)) == {
        "method": "fedsvd",
        "weighting": "public_size",
        "server_learning_rate": 1.0,
        "upload_share": 1.0,
        "every": 4,
    }


class TestWhatIsRefused:
    @pytest.mark.parametrize("every", [0, 1.5, True])
    def test_no_count(self, every):
        with pytest.raises(ConfigError, match="every must be a whole number"):
            FedSVD(every=every)

    def test_an_adapter_that_is_no_lora(self):
        with pytest.raises(ConfigError, match="fedsvd needs an adapter with both factors"):
            FedSVD().trains(vectors.round_of(1, WEIGHTS, length=7), "north")

    def test_more_rows_than_can_be_orthonormal(self):
        layout = Layout(((A, (6, 5)), (B, (8, 6))))
        wide = Round(
            number=1,
            steps=dict.fromkeys(WEIGHTS, 1),
            learning_rate=1.0,
            weights=WEIGHTS,
            layout=layout,
        )
        with pytest.raises(ConfigError, match="got rank 6 for 5"):
            FedSVD().trains(wide, "north")

    def test_what_would_add_up_factors_of_several_rounds(self):
        for around in (
            lambda of: TailAveraging(of=of),
            lambda of: FedAvgM(of=of),
            lambda of: FedAdam(of=of, learning_rate=1.0),
            lambda of: TailAveraging(of=FedAvgM(of=of)),
        ):
            with pytest.raises(ConfigError, match="cannot be around FedSVD, which writes"):
                around(FedSVD())
