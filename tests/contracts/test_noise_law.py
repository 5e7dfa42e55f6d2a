"""The noise of a step: its size on every parameter, and that none of it is used twice."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from privfed.models.vector import read_vector, write_vector
from privfed.private_step.clipping import AdaptiveBound
from privfed.private_step.dpsgd import private_optimizer, private_step, train_round
from privfed.private_step.randomness import FastNoise, SecureNoise, SystemCoins
from privfed.settings.privacy import QuantileClipping
from privfed.settings.training import SGD
from tests.contracts.private_steps import (
    CPU,
    Silence,
    check_noise,
    check_unrelated,
    clipped_sum,
    config,
    made_up,
    released_sum,
    stream,
)

SOURCES = [SecureNoise, FastNoise]
SOME = ["bert lora q,v", "llama prefix", "gpt2 last layers"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("drawn", [(), (0,), range(5)], ids=["empty", "one", "five"])
def test_every_parameter_gets_noise_of_the_stated_size(source, name, drawn, built):
    private = built(name)
    check_noise(private, made_up(private), lambda: source(stream(2)), drawn)


def test_every_adapter_gets_noise_of_the_stated_size(accepted):
    check_noise(accepted, made_up(accepted), lambda: SecureNoise(stream(3)))


@pytest.mark.parametrize("source", SOURCES)
def test_the_noise_does_not_depend_on_the_batch(source, built):
    private = built("bert lora q,v")
    encoded = made_up(private)
    found = []
    for drawn in ((), (1,), range(5)):
        clean = clipped_sum(private, encoded, drawn)
        found.append(released_sum(private, encoded, drawn, config(), source(stream(4))) - clean)
    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert torch.allclose(found[0], found[2], atol=1e-5)


def test_an_empty_draw_is_a_step_of_noise(accepted):
    encoded = made_up(accepted)
    before = read_vector(accepted.adapter)
    noise = SecureNoise(stream(2))
    train_round(accepted, encoded, config(sample_rate=1e-12), sampling=stream(1), noise=noise)
    moved = read_vector(accepted.adapter) != before
    write_vector(accepted.adapter, before)
    assert moved.all()


def test_the_sum_is_divided_by_the_public_batch_size(accepted):
    encoded = made_up(accepted)
    before = read_vector(accepted.adapter)
    total = clipped_sum(accepted, encoded, range(5))
    settings = config(sample_rate=1.0, expected_batch_size=7)
    train_round(accepted, encoded, settings, sampling=stream(1), noise=Silence())
    moved = torch.from_numpy(read_vector(accepted.adapter) - before).double()
    write_vector(accepted.adapter, before)
    assert torch.allclose(moved, -0.1 * total / 7, atol=1e-6)


def moves_of_noise(private, coins, rounds, steps=1, source=SecureNoise):
    """How the model moves in each round of empty draws, from fresh streams every round."""
    encoded = made_up(private)
    before = read_vector(private.adapter)
    settings = config(sample_rate=1e-12, steps=steps, learning_rate=1.0)
    moves = []
    for _ in range(rounds):
        noise = source(coins.stream("a", "noise"))
        train_round(private, encoded, settings, sampling=stream(1), noise=noise)
        moves.append(read_vector(private.adapter) - before)
        write_vector(private.adapter, before)
    return moves


@pytest.mark.parametrize("source", SOURCES)
def test_no_noise_comes_back_in_another_round_or_at_another_client(source, built):
    check_unrelated(moves_of_noise(built("bert lora q,v"), SystemCoins(), 8, source=source))


def test_noise_of_several_steps_adds_up_as_independent(built):
    moves = moves_of_noise(built("bert lora q,v"), SystemCoins(), 4, steps=9)
    assert abs(np.concatenate(moves).std() / 3 - 1) <= 5 / math.sqrt(2 * 4 * len(moves[0]))


def test_noise_has_no_autocorrelation():
    numbers = SecureNoise(stream(5)).normal(200_000, CPU).numpy()
    for lag in (1, 2, 3, 4, 8192 // 2, 8192, 50_000):
        assert abs(np.corrcoef(numbers[:-lag], numbers[lag:])[0, 1]) <= 5 / math.sqrt(190_000)
    squares = numbers**2
    for lag in (1, 2, 4096, 8192):
        assert abs(np.corrcoef(squares[:-lag], squares[lag:])[0, 1]) <= 5 / math.sqrt(190_000)


def test_a_step_of_noise_in_parts_is_the_noise_of_one_batch(built):
    """Noise is added once for a drawn batch, however many passes it takes."""
    private = built("bert lora q,v")
    encoded = made_up(private)
    found = []
    for size in (1, 5):
        settings = config(physical_batch_size=size)
        clean = released_sum(private, encoded, range(5), settings, Silence())
        noised = released_sum(private, encoded, range(5), settings, SecureNoise(stream(6)))
        found.append(noised - clean)
    assert torch.allclose(*found, atol=1e-5)


def test_momentum_adds_nothing_to_what_is_released(built):
    """The optimiser's state is a function of released sums: the first step is the same."""
    private = built("bert lora q,v")
    encoded = made_up(private)
    plain = released_sum(private, encoded, range(5), config(), Silence())
    settings = config(optimizer=SGD(momentum=0.9))
    assert torch.equal(plain, released_sum(private, encoded, range(5), settings, Silence()))


# --- Quantile clipping: count and sum share the price of one release.


@pytest.mark.parametrize(("multiplier", "count_noise"), [(1.0, 5.0), (0.7, 0.6), (3.0, 2.0)])
def test_count_and_gradients_cost_together_what_the_step_is_charged_for(
    multiplier, count_noise, built
):
    """1 / z^2 = 1 / z_gradient^2 + 1 / (2 s)^2, measured on what is released."""
    private = built("bert lora q,v")
    rule = QuantileClipping(count_noise=count_noise)
    settings = config(noise_multiplier=multiplier, clipping=rule)
    released = released_sum(private, made_up(private), (), settings, SecureNoise(stream(7)))
    unit = SecureNoise(stream(7)).normal(len(released), CPU)
    measured = float(released.norm() / unit.norm())
    assert 1 / measured**2 + 1 / (2 * count_noise) ** 2 == pytest.approx(multiplier**-2, rel=1e-5)
    assert measured > multiplier


class Counted:
    """Silence, but for the single number that is the count's noise."""

    def __init__(self, value):
        self.value = value
        self.asked = []

    def normal(self, count, device):
        self.asked.append(count)
        return torch.full((count,), self.value if count == 1 else 0.0, dtype=torch.float64)


def bound_after(private, drawn, value=0.0, **changes):
    rule = QuantileClipping(count_noise=5.0, quantile=0.5, learning_rate=0.2)
    settings = config(clipping=rule, expected_batch_size=5, **changes)
    bound = AdaptiveBound.starting(settings.clipping_norm)
    before = read_vector(private.adapter)
    private.forget()
    noise = Counted(value)
    optimizer = private_optimizer(private, settings, noise, bound)
    private_step(private, optimizer, made_up(private), torch.tensor(drawn, dtype=torch.long), 4)
    write_vector(private.adapter, before)
    private.forget()
    assert noise.asked.count(1) == 1
    return bound.current / settings.clipping_norm


def test_the_bound_follows_the_share_of_records_within_it(built):
    private = built("bert lora q,v")
    everyone = list(range(5))
    assert bound_after(private, everyone, clipping_norm=1e6) == pytest.approx(math.exp(-0.1))
    assert bound_after(private, everyone, clipping_norm=1e-6) == pytest.approx(math.exp(0.1))
    assert bound_after(private, [], clipping_norm=1.0) == 1.0
    assert bound_after(private, [2], clipping_norm=1e6) == pytest.approx(math.exp(-0.02))


def test_the_count_carries_its_noise(built):
    """5 records within C give +5/2; noise of -0.4 * 5 takes 2 off: share 0.6."""
    moved = bound_after(built("bert lora q,v"), list(range(5)), value=-0.4, clipping_norm=1e6)
    assert moved == pytest.approx(math.exp(-0.2 * (0.6 - 0.5)))


def test_the_bound_of_a_step_scales_its_noise(built):
    """What followed before is the C of this step: of its clipping and of its noise."""
    private = built("bert lora q,v")
    encoded = made_up(private)
    settings = config(clipping=QuantileClipping(count_noise=5.0), clipping_norm=1.0)
    before = read_vector(private.adapter)
    norms = {}
    for noise in (SecureNoise(stream(8)), Silence()):
        private.forget()
        bound = AdaptiveBound(initial=1.0, current=0.125)
        optimizer = private_optimizer(private, settings, noise, bound)
        released = []
        optimizer.attach_step_hook(
            lambda step, into=released: into.extend(p.grad.flatten() for p in step.params)
        )
        drawn = torch.tensor([] if isinstance(noise, SecureNoise) else [3], dtype=torch.long)
        private_step(private, optimizer, encoded, drawn, 4)
        norms[type(noise)] = float(torch.cat(released).norm())
        write_vector(private.adapter, before)
    unit = float(SecureNoise(stream(8)).normal(before.size, CPU).norm())
    expected = settings.clipping.gradient_noise_multiplier(1.0)
    assert norms[SecureNoise] / unit == pytest.approx(0.125 * expected, rel=1e-4)
    assert 0.1249 <= norms[Silence] <= 0.125
    private.forget()


def test_noise_is_normal_in_its_tails():
    numbers = SecureNoise(stream(9)).normal(1_000_000, CPU).numpy()
    for threshold in (2.0, 3.0, 4.0):
        share = 2 * stats.norm.sf(threshold)
        beyond = int((np.abs(numbers) > threshold).sum())
        assert stats.binomtest(beyond, len(numbers), share).pvalue > 1e-5
