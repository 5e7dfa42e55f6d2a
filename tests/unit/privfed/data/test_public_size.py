"""Sizes under discrete Laplace noise: the law, exactly; and what a size may be."""

import math
from collections import Counter
from fractions import Fraction

import pytest
from scipy import stats

from privfed import Client, Record
from privfed.data import public_size
from privfed.data.public_size import NoisySize, discrete_laplace, released_size
from privfed.errors import ConfigError
from privfed.private_step.randomness import RandomStream


def stream(number=1):
    return RandomStream(bytes([number]) * 32, bytes(16))


class Scripted:
    """Coins that are written down; it says when they run out."""

    def __init__(self, data):
        self.left = data

    def raw(self, count):
        if len(self.left) < count:
            raise EOFError
        taken, self.left = self.left[:count], self.left[count:]
        return taken


@pytest.mark.parametrize(
    "epsilon", [Fraction(1, 10), Fraction(0.1), Fraction(1), Fraction(7, 3), Fraction(5)]
)
def test_the_law_is_the_discrete_laplace(epsilon):
    """Chi-squared over all values that are expected at least five times."""
    draws = 3000
    source = stream()
    counts = Counter(discrete_laplace(epsilon, source) for _ in range(draws))
    ratio = math.exp(-epsilon)
    masses = {k: (1 - ratio) / (1 + ratio) * ratio ** abs(k) for k in range(-400, 401)}
    common = [k for k, mass in masses.items() if mass * draws >= 5]
    expected = [masses[k] * draws for k in common]
    seen = [counts[k] for k in common]
    rest, rest_expected = draws - sum(seen), draws - sum(expected)
    result = stats.chisquare([*seen, rest + 1e-9], [*expected, rest_expected + 1e-9])
    assert result.pvalue > 1e-6


class Undecided(Exception):
    """A path of draws ends here; holds the probabilities of what may be drawn next."""


class Paths:
    """The law of a function of random draws, by walking through all that can be drawn."""

    def __init__(self):
        self.left = []

    def next(self, chances):
        """The next draw of this path, of results with these probabilities."""
        if not self.left:
            raise Undecided(chances)
        return self.left.pop(0)

    def below(self, bound, stream):
        return self.next(dict.fromkeys(range(bound), 1 / bound))

    def happens(self, exponent, stream):
        chance = math.exp(-exponent)
        return self.next({True: chance, False: 1 - chance})

    def law(self, draw, smallest):
        """Probability of each result, and that of paths too improbable to follow."""
        law, rest, paths = Counter(), 0.0, [((), 1.0)]
        while paths:
            path, probability = paths.pop()
            self.left = list(path)
            try:
                law[draw()] += probability
            except Undecided as end:
                (chances,) = end.args
                if probability < smallest:
                    rest += probability
                else:
                    paths += [((*path, r), probability * p) for r, p in chances.items() if p]
        return law, rest


@pytest.mark.parametrize("exponent", [Fraction(0), Fraction(1, 3), Fraction(1, 2), Fraction(1)])
def test_a_coin_of_e_to_minus_x_is_exact(monkeypatch, exponent):
    paths = Paths()
    monkeypatch.setattr(public_size, "_below", paths.below)
    law, rest = paths.law(lambda: public_size._happens_exp(exponent, stream()), 1e-4)
    assert rest < 0.01
    assert law[True] - 1e-12 <= math.exp(-exponent) <= law[True] + rest + 1e-12


@pytest.mark.parametrize("epsilon", [Fraction(1), Fraction(1, 2), Fraction(3, 2), Fraction(2)])
def test_every_probability_is_exact(monkeypatch, epsilon):
    """Of every value, also of zero, whose two signs would count twice."""
    paths = Paths()
    monkeypatch.setattr(public_size, "_below", paths.below)
    monkeypatch.setattr(public_size, "_happens_exp", paths.happens)
    law, rest = paths.law(lambda: discrete_laplace(epsilon, stream()), 1e-5)
    assert rest < 0.05
    assert sum(law.values()) + rest == pytest.approx(1, abs=1e-9)
    ratio = math.exp(-epsilon)
    for value in range(-5, 6):
        wanted = (1 - ratio) / (1 + ratio) * ratio ** abs(value)
        assert law[value] - 1e-9 <= wanted <= law[value] + rest + 1e-9


@pytest.mark.parametrize("bound", range(1, 10))
def test_integers_below_a_bound_are_uniform_over_all_randomness(bound):
    """All bytes once: each integer comes up equally often, and the others are drawn again."""
    counts = Counter()
    for byte in range(256):
        try:
            counts[public_size._below(bound, Scripted(bytes([byte])))] += 1
        except EOFError:
            counts["again"] += 1
    again = counts.pop("again", 0)
    assert set(counts) <= set(range(bound))
    if bound == 1:
        assert counts == {0: 256}
    else:
        assert len(counts) == bound
        assert len(set(counts.values())) == 1
    assert again + sum(counts.values()) == 256


def test_a_released_size_lies_around_the_true_one():
    source = stream(4)
    sizes = [released_size(1234, 0.5, source) for _ in range(2000)]
    assert all(type(size) is int for size in sizes)
    assert abs(sum(sizes) / 2000 - 1234) < 5 * 2.8 / 2000**0.5
    assert len(set(sizes)) > 8


def test_its_noise_grows_as_epsilon_shrinks():
    source = stream(5)
    spread = {
        epsilon: stats.iqr([released_size(10**6, epsilon, source) for _ in range(400)])
        for epsilon in (0.01, 0.1, 1.0)
    }
    assert spread[0.01] > 4 * spread[0.1] > 16 * spread[1.0] > 0


def test_it_is_at_least_one_and_floats_can_hold_it():
    source = stream(6)
    assert min(released_size(1, 0.05, source) for _ in range(50)) == 1
    sizes = [released_size(5, 5e-324, source) for _ in range(20)]
    assert set(sizes) == {1, 2**53}


def test_secret_randomness_decide():
    same = [released_size(500, 0.1, stream(7)) for _ in range(2)]
    assert same[0] == same[1]
    assert len({released_size(500, 0.1, stream(number)) for number in range(20)}) > 10


@pytest.mark.parametrize("epsilon", [0, -1, float("nan"), float("inf"), "0.1", True, None])
def test_noise_that_is_no_number_above_zero_is_refused(epsilon):
    with pytest.raises(ConfigError, match="noise_epsilon must be a finite number above 0"):
        NoisySize(noise_epsilon=epsilon)


@pytest.mark.parametrize("minimum", [0, -3, 1.0, True, None])
def test_a_minimum_that_is_no_count_is_refused(minimum):
    with pytest.raises(ConfigError, match="minimum must be a whole number of at least 1"):
        NoisySize(noise_epsilon=0.1, minimum=minimum)


def test_a_law_without_a_parameter_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        discrete_laplace(Fraction(0), stream())


class TestClient:
    def client(self, size):
        return Client(id="north", records=(Record("a"),) * 3, public_size=size, dataset="notes")

    @pytest.mark.parametrize("size", [1, 1200, NoisySize(noise_epsilon=0.1)])
    def test_a_size_is_declared_or_to_be_released(self, size):
        assert self.client(size).public_size == size

    @pytest.mark.parametrize("size", [0, -1, 2.0, True, None, "12", {"noise_epsilon": 0.1}])
    def test_anything_else_is_refused(self, size):
        with pytest.raises(ConfigError, match="public_size of client 'north' must be"):
            self.client(size)
