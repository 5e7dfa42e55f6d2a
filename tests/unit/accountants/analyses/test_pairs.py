"""Pairs of distributions: losses, the outcomes that have them, and where their tails begin."""

import math

import mpmath as mp
import numpy as np
import pytest

from accountants.analyses.cells import Grid
from accountants.analyses.pairs import MixturePair, ReplacedPair, group_weights
from tests.unit.accountants.analyses.normal_pairs import each_pair, parts


def test_the_loss_is_zero_halfway_between_equal_halves():
    """Where both densities of 0.5 N(0,1) + 0.5 N(1,1) against N(0,1) are equal: y = 1/2."""
    assert MixturePair((0.5, 0.5), 1.0).loss(np.array([0.5]))[0] == 0
    assert MixturePair((0.0, 1.0), 2.0).loss(np.array([1.5]))[0] == pytest.approx(0.25)


def test_replacing_looks_the_same_from_both_sides():
    pair = ReplacedPair(0.3, 1.2)
    y = np.linspace(-5, 5, 11)
    assert np.allclose(pair.loss(y), -pair.loss(-y), rtol=1e-14, atol=0)
    assert pair.symmetric
    assert not MixturePair((0.5, 0.5), 1.0).symmetric


def test_weights_of_a_unit_of_records_are_binomial():
    assert group_weights(0.5, 2) == (0.25, 0.5, 0.25)
    assert group_weights(0.1, 1) == (0.9, 0.1)
    assert math.fsum(group_weights(0.01, 40)) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("size", [200, 1000])
def test_weights_of_a_large_unit_are_numbers(size):
    weights = group_weights(0.5, size)
    assert math.fsum(weights) == pytest.approx(1, abs=1e-12)
    mean = math.fsum(k * weight for k, weight in enumerate(weights))
    assert mean == pytest.approx(size / 2)


def test_the_lowest_loss_is_that_of_joining_no_batch():
    assert MixturePair((0.75, 0.25), 1.0).lowest == pytest.approx(math.log(0.75))
    assert MixturePair((0.0, 1.0), 1.0).lowest == -math.inf
    assert ReplacedPair(0.5, 1.0).lowest == -math.inf


@each_pair
def test_outcomes_at_or_below_the_lowest_loss_are_minus_infinity(pair):
    if pair.lowest == -math.inf:
        return
    found = pair.outcome(np.array([pair.lowest - 1, pair.lowest, pair.lowest / 2]))
    assert list(np.isfinite(found)) == [False, False, True]


@each_pair
def test_loss_undoes_outcome(pair):
    losses = np.linspace(max(pair.lowest, -3) * 0.9, 5, 40)
    assert np.allclose(pair.loss(pair.outcome(losses)), losses, rtol=1e-6, atol=1e-6)


@each_pair
@pytest.mark.parametrize("tail", [1e-3, 1e-12, 1e-200])
def test_beyond_its_reach_a_pair_weighs_no_more_than_the_tail(pair, tail):
    low, high = pair.reach(tail)
    with mp.workdps(30):
        for side in parts(pair):
            below = mp.fsum(w * mp.ncdf((low - mean) / pair.sigma) for w, mean in side)
            above = mp.fsum(w * mp.ncdf((mean - high) / pair.sigma) for w, mean in side)
            assert max(below, above) <= tail * (1 + 1e-9)


@pytest.mark.parametrize("q", [1e-4, 0.3, 1 - 1e-9])
@pytest.mark.parametrize("sigma", [0.04, 0.06])
def test_little_noise_overflows_nothing(q, sigma):
    """Losses up to `WIDEST_LOSS` are asked for when delta is tiny."""
    losses = Grid(0.0, 1.0, np.arange(-590, 591))
    for pair in (ReplacedPair(q, sigma), MixturePair((1 - q, q), sigma)):
        y = pair.outcome(losses.losses)
        finite = y[np.isfinite(y)]
        assert np.all(np.diff(finite) >= 0)
        assert np.allclose(pair.loss(finite), losses.losses[np.isfinite(y)], atol=1e-6)
