import numpy as np
import pytest
from scipy import stats

from privfed.client.randomness import RandomStream, SystemCoins
from privfed.client.sampling import poisson_sample
from privfed.errors import ConfigError


def fixed_stream(number=1):
    return RandomStream(bytes([number]) * 32, bytes(16))


def test_every_record_is_drawn_with_the_same_chance():
    stream = fixed_stream()
    counts = np.zeros(50)
    for _ in range(4000):
        counts[poisson_sample(stream, 50, 0.3)] += 1
    assert stats.chisquare(counts).pvalue > 1e-4
    assert abs(counts.mean() / 4000 - 0.3) < 0.005


def test_batch_sizes_are_binomial():
    stream = fixed_stream(2)
    sizes = [len(poisson_sample(stream, 100, 0.1)) for _ in range(5000)]
    assert abs(np.mean(sizes) - 10) < 0.2
    assert abs(np.var(sizes) - 9) < 0.7


def test_rate_one_takes_all_and_no_records_give_none():
    assert list(poisson_sample(fixed_stream(), 5, 1.0)) == [0, 1, 2, 3, 4]
    assert len(poisson_sample(fixed_stream(), 0, 0.5)) == 0


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ConfigError, match="sample_rate"):
        poisson_sample(fixed_stream(), 5, rate)


def test_system_streams_never_repeat():
    coins = SystemCoins()
    words = [tuple(coins.stream("a", "noise").words(4)) for _ in range(200)]
    assert len(set(words)) == 200


def test_normal_numbers_are_standard_normal():
    draws = fixed_stream(3).normal(100_000)
    assert stats.kstest(draws, "norm").pvalue > 1e-4
    assert abs(draws.std() - 1) < 0.01


def test_uniform_numbers_lie_below_one():
    draws = fixed_stream(4).uniform(100_000)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 1e-4


def test_a_stream_cannot_be_saved_or_shown():
    import pickle

    stream = fixed_stream()
    with pytest.raises(TypeError, match="repeat"):
        pickle.dumps(stream)
    assert "\\x01" not in repr(stream)
