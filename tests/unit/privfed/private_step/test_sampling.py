import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from privfed.errors import ConfigError
from privfed.private_step.randomness import RandomStream
from privfed.private_step.sampling import poisson_sample


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


RATES = [1e-6, 1e-3, 1 / 256, 0.05, 0.25, 0.5, 1 - 1 / 256, 0.999, 1 - 2**-53]


@pytest.mark.parametrize("rate", RATES)
def test_a_record_joins_with_exactly_the_stated_chance(rate):
    total, count = 0, 200_000
    for number in range(10):
        total += len(poisson_sample(fixed_stream(10 + number), count, rate))
    assert stats.binomtest(total, 10 * count, rate).pvalue > 1e-4


def threshold_draw(words, rate):
    """The law: a record joins where its 64-bit word lies below floor(q 2^64)."""
    return [index for index, word in enumerate(words) if word < math.floor(rate * 2.0**64)]


class Scripted:
    """Hands out the bytes of given 64-bit words, one more of every undecided word at a time."""

    def __init__(self, words, rate):
        self.left = [word.to_bytes(8, "big") for word in words]
        self.digits = math.floor(rate * 2.0**64).to_bytes(8, "big")
        self.place = 0

    def raw(self, count):
        assert count == len(self.left)
        drawn = bytes(word[self.place] for word in self.left)
        self.left = [word for word in self.left if word[self.place] == self.digits[self.place]]
        self.place += 1
        return drawn


@given(
    rate=st.one_of(
        st.sampled_from(RATES), st.floats(0, 1, exclude_min=True, exclude_max=True, width=32)
    ),
    near=st.lists(st.integers(-3, 3), max_size=6),
    far=st.lists(st.integers(0, 2**64 - 1), max_size=6),
)
def test_the_lazy_comparison_is_the_comparison_of_whole_words(rate, near, far):
    """Also for words next to the threshold, where it takes all eight bytes."""
    threshold = math.floor(rate * 2.0**64)
    words = [min(2**64 - 1, max(0, threshold + shift)) for shift in near] + far
    drawn = poisson_sample(Scripted(words, rate), len(words), rate)
    assert list(drawn) == threshold_draw(words, rate)
    assert drawn.dtype == np.int64


def test_the_chance_is_never_above_the_stated_one():
    """q 2^64 is rounded down: a q below 2^-64 draws nobody, also not a word of zero."""
    assert len(poisson_sample(Scripted([0, 0], 2.0**-65), 2, 2.0**-65)) == 0
    assert list(poisson_sample(Scripted([0, 1], 2.0**-64), 2, 2.0**-64)) == [0]


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.9])
def test_neighbours_and_steps_are_drawn_independently(rate):
    stream = fixed_stream(3)
    joined = np.zeros((400, 500), dtype=bool)
    for step in joined:
        step[poisson_sample(stream, 500, rate)] = True
    for first, second in ((joined[:, :-1], joined[:, 1:]), (joined[:-1], joined[1:])):
        table = [
            [np.sum(first & second), np.sum(first & ~second)],
            [np.sum(~first & second), np.sum(~first & ~second)],
        ]
        assert stats.chi2_contingency(table).pvalue > 1e-4


def test_every_subset_comes_up_as_often_as_it_should():
    stream = fixed_stream(4)
    counts = np.zeros(8)
    for _ in range(8000):
        counts[sum(1 << int(index) for index in poisson_sample(stream, 3, 0.3))] += 1
    chance = [0.3 ** (size := bin(s).count("1")) * 0.7 ** (3 - size) for s in range(8)]
    assert stats.chisquare(counts, 8000 * np.array(chance)).pvalue > 1e-4


def test_indices_increase_and_none_comes_twice():
    drawn = poisson_sample(fixed_stream(5), 10_000, 0.37)
    assert np.all(np.diff(drawn) > 0)
    assert drawn[0] >= 0
    assert drawn[-1] < 10_000
