"""The factors take turns: what moves, what is sent, and why the mean is exact."""

from dataclasses import replace

import numpy as np
import pytest

from privfed import FedAvg, RoLoRA, TrainingConfig
from privfed.errors import ConfigError
from privfed.methods.method import DELTA, Round, Trained
from privfed.protocol.layout import Layout
from tests.unit.privfed.methods import vectors

RANK, WIDTH, HEIGHT = 2, 5, 3
A, B, HEAD = "q.lora_A.default.weight", "q.lora_B.default.weight", "head.weight"
LAYOUT = Layout(((HEAD, (4,)), (A, (RANK, WIDTH)), (B, (HEIGHT, RANK))))
WEIGHTS = {"north": 1.0, "south": 0.5, "west": 0.125}


def round_(number):
    return Round(
        number=number,
        steps=dict.fromkeys(WEIGHTS, 3),
        learning_rate=0.5,
        weights=WEIGHTS,
        layout=LAYOUT,
    )


def factors(adapter):
    _, a, b = np.split(np.asarray(adapter, dtype=np.float64), [4, 4 + RANK * WIDTH])
    return a.reshape(RANK, WIDTH), b.reshape(HEIGHT, RANK)


def adapter(seed):
    return np.random.default_rng(seed).normal(size=LAYOUT.length).astype(np.float32)


def trained(method, start, number):
    """What clients come to that train what the method says, each in its own way, and their sum."""
    moving = method.trains(round_(number), "north")
    sums, products, total = 0.0, 0.0, sum(WEIGHTS.values())
    for seed, (name, weight) in enumerate(WEIGHTS.items(), start=50 + number):
        delta = np.where(moving, np.random.default_rng(seed).normal(size=LAYOUT.length), 0.0)
        mine = Trained(received=method.begin(start), delta=delta, kept=None)
        sums = sums + weight * method.local(mine, name, round_(number))[DELTA]
        a, b = factors(start + delta)
        products = products + weight / total * (b @ a)
    moved = method.next(method.begin(start), {DELTA: sums}, list(WEIGHTS), round_(number))
    return moved.adapter, products


@pytest.mark.parametrize("number", [1, 2])
def test_the_product_is_the_mean_of_the_clients_products(number):
    """FedAvg on both factors comes to something else."""
    start = adapter(3)
    after, products = trained(RoLoRA(), start, number)
    a, b = factors(after)
    np.testing.assert_allclose(b @ a, products, rtol=1e-5)
    after, products = trained(FedAvg(), start, number)
    a, b = factors(after)
    assert np.abs(b @ a - products).max() > 0.1 * np.abs(products).max()


@pytest.mark.parametrize(("number", "still", "moving"), [(1, A, B), (2, B, A), (7, A, B)])
def test_one_factor_moves_and_the_other_is_the_same_to_the_bit(number, still, moving):
    start = adapter(4)
    after, _ = trained(RoLoRA(), start, number)
    for name, moves in ((still, False), (moving, True), (HEAD, True)):
        part = LAYOUT.mask([name])
        assert (after[part] != start[part]).all() == moves
        assert (after[part] == start[part]).all() != moves
    assert not RoLoRA().trains(round_(number), "north")[LAYOUT.mask([still])].any()


def test_the_factor_that_stands_still_is_in_no_upload():
    """The longer has 10 numbers, the shorter 6; the head's 4 are in both."""
    delta = np.arange(1.0, LAYOUT.length + 1)
    mine = Trained(received=RoLoRA().begin(adapter(5)), delta=delta, kept=None)
    odd, even = (RoLoRA().local(mine, "north", round_(number))[DELTA] for number in (1, 2))
    assert odd.tolist() == [1, 2, 3, 4, 15, 16, 17, 18, 19, 20, 0, 0, 0, 0]
    assert even.tolist() == list(range(1, 15))
    for number in (1, 2):
        (sent,) = RoLoRA().uploads(round_(number))
        assert (sent.name, sent.length) == (DELTA, 14)


def test_the_step_of_the_server_counts():
    start, sums = adapter(6), np.arange(14.0)
    half, whole = (
        RoLoRA(server_learning_rate=rate)
        .next(RoLoRA().begin(start), {DELTA: sums}, ["south"], round_(2))
        .adapter
        for rate in (0.5, 1.0)
    )
    np.testing.assert_allclose(whole - start, 2 * (half - start), atol=1e-5)
    assert whole[1] - start[1] == pytest.approx(1 / 0.5, rel=1e-5)


class TestWhatIsRefused:
    def test_one_round(self):
        with pytest.raises(ConfigError, match="rounds must be at least 2"):
            RoLoRA().check(TrainingConfig(learning_rate=1.0), {"north": 2}, 1)
        RoLoRA().check(TrainingConfig(learning_rate=1.0), {"north": 2}, 2)

    def test_an_adapter_that_is_no_lora(self):
        with pytest.raises(ConfigError, match="needs an adapter with both factors of LoRA"):
            RoLoRA().trains(vectors.round_of(1, WEIGHTS, length=7), "north")

    def test_dora_whose_mean_is_not_exact(self):
        magnitude = ("q.lora_magnitude_vector.default.weight", (HEIGHT,))
        layout = Layout(((A, (RANK, WIDTH)), (B, (HEIGHT, RANK)), magnitude))
        with pytest.raises(ConfigError, match=r"norm that depends on both.* leave out dora"):
            RoLoRA().trains(replace(round_(1), layout=layout), "north")
