"""The noise of a step: its size on every parameter, and that none of it is used twice."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from privfed.models.vector import read_vector, write_vector
from privfed.private_step.dpsgd import train_round
from privfed.private_step.randomness import FastNoise, SecureNoise, SystemRandomness
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


def moves_of_noise(private, randomness, rounds, steps=1, source=SecureNoise):
    """How the model moves in each round of empty draws, from fresh streams every round."""
    encoded = made_up(private)
    before = read_vector(private.adapter)
    settings = config(sample_rate=1e-12, steps=steps, learning_rate=1.0)
    moves = []
    for _ in range(rounds):
        noise = source(randomness.stream("a", "noise"))
        train_round(private, encoded, settings, sampling=stream(1), noise=noise)
        moves.append(read_vector(private.adapter) - before)
        write_vector(private.adapter, before)
    return moves


@pytest.mark.parametrize("source", SOURCES)
def test_no_noise_comes_back_in_another_round_or_at_another_client(source, built):
    check_unrelated(moves_of_noise(built("bert lora q,v"), SystemRandomness(), 8, source=source))


def test_noise_of_several_steps_adds_up_as_independent(built):
    moves = moves_of_noise(built("bert lora q,v"), SystemRandomness(), 4, steps=9)
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


def test_noise_is_normal_in_its_tails():
    numbers = SecureNoise(stream(9)).normal(1_000_000, CPU).numpy()
    for threshold in (2.0, 3.0, 4.0):
        share = 2 * stats.norm.sf(threshold)
        beyond = int((np.abs(numbers) > threshold).sum())
        assert stats.binomtest(beyond, len(numbers), share).pvalue > 1e-5
