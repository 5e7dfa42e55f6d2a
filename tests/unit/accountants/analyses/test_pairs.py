"""Pairs of distributions: losses, outcomes and masses, with the errors they claim."""

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants.analyses import pairs
from accountants.analyses.pairs import Cells, Grid, MixturePair, ReplacedPair, group_weights

few = settings(max_examples=15, deadline=None, derandomize=True)
rates = st.floats(-4, -0.05).map(lambda power: 10.0**power)
sigmas = st.floats(-0.5, 1).map(lambda power: 10.0**power)

PAIRS = {
    "rare": MixturePair((0.999, 0.001), 0.7),
    "common": MixturePair((0.4, 0.6), 2.0),
    "little noise": MixturePair((0.9, 0.1), 0.2),
    "nearly all": MixturePair((2.0**-30, 1 - 2.0**-30), 1.0),
    "group": MixturePair(group_weights(0.05, 3), 1.5),
    "plain": MixturePair((0.0, 1.0), 1.3),
    "replaced": ReplacedPair(0.03, 0.8),
    "replaced often": ReplacedPair(0.8, 3.0),
}
each_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def parts(pair):
    """Exact weights and means of P and Q."""
    if isinstance(pair, ReplacedPair):
        q = mp.mpf(pair.sample_rate)
        return [(1 - q, 0), (q, 1)], [(1 - q, 0), (q, -1)]
    weights = [mp.mpf(weight) for weight in pair.weights]
    weights[0] = 1 - mp.fsum(weights[1:])
    return list(zip(weights, range(len(weights)), strict=True)), [(mp.mpf(1), 0)]


def exact_loss(pair, y):
    """The log of the ratio of the densities."""
    y, variance = mp.mpf(float(y)), mp.mpf(pair.sigma) ** 2
    p, q = (
        mp.fsum(w * mp.exp((2 * k * y - k * k) / (2 * variance)) for w, k in side)
        for side in parts(pair)
    )
    return mp.log(p / q)


def exact_mass(side, sigma, low, high):
    """Mass of a mixture between two outcomes, without cancellation."""
    sigma = mp.mpf(sigma)

    def between(mean):
        left, right = ((mp.mpf(float(y)) - mean) / (sigma * mp.sqrt(2)) for y in (low, high))
        if left > 0:
            return (mp.erfc(left) - mp.erfc(right)) / 2
        return (mp.erfc(-right) - mp.erfc(-left)) / 2

    return mp.fsum(w * between(mean) for w, mean in side)


def grid(step=0.05, low=-40, high=60):
    return Grid(0.013, step, np.arange(low, high))


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
def test_the_error_of_every_cut_is_covered(pair):
    found = pairs.cells(pair, grid())
    y = pair.outcome(found.cuts.losses)
    with mp.workdps(50):
        for outcome, cut, error in zip(y, found.cuts.losses, found.cut_error, strict=True):
            if math.isfinite(outcome):
                assert abs(exact_loss(pair, outcome) - mp.mpf(cut)) <= error


@each_pair
@pytest.mark.parametrize("step", [1e-6, 0.05, 0.6])
def test_the_error_of_every_mass_is_covered(pair, step):
    cuts = grid(step, -8, 12)
    found = pairs.cells(pair, cuts)
    y = [-math.inf, *pair.outcome(cuts.losses), math.inf]
    p_parts, q_parts = parts(pair)
    with mp.workdps(60):
        for low, high, p, q, error in zip(
            y[:-1], y[1:], found.p, found.q, found.error, strict=True
        ):
            for mass, side in ((p, p_parts), (q, q_parts)):
                exact = exact_mass(side, pair.sigma, low, high)
                assert abs(mp.mpf(mass) - exact) <= error * exact


@few
@given(q=rates, sigma=sigmas, kind=st.sampled_from(["mixture", "replaced"]))
def test_masses_sum_to_one(q, sigma, kind):
    pair = ReplacedPair(q, sigma) if kind == "replaced" else MixturePair((1 - q, q), sigma)
    found = pairs.cells(pair, grid())
    assert found.p.sum() == pytest.approx(1, abs=1e-12)
    assert found.q.sum() == pytest.approx(1, abs=1e-12)
    assert np.all(found.p >= 0)
    assert np.all(found.q >= 0)


@each_pair
def test_backward_swaps_and_mirrors(pair):
    found = pairs.cells(pair, grid())
    back = found.backward()
    assert np.array_equal(back.cuts.losses, -found.cuts.losses[::-1])
    assert np.array_equal(back.p, found.q[::-1])
    assert np.array_equal(back.q, found.p[::-1])
    again = back.backward()
    assert isinstance(again, Cells)
    assert np.array_equal(again.p, found.p)
    assert np.array_equal(again.cut_error, found.cut_error)


@each_pair
@pytest.mark.parametrize("tail", [1e-3, 1e-12, 1e-200])
def test_beyond_its_reach_a_pair_weighs_no_more_than_the_tail(pair, tail):
    low, high = pair.reach(tail)
    with mp.workdps(30):
        for side in parts(pair):
            below = mp.fsum(w * mp.ncdf((low - mean) / pair.sigma) for w, mean in side)
            above = mp.fsum(w * mp.ncdf((mean - high) / pair.sigma) for w, mean in side)
            assert max(below, above) <= tail * (1 + 1e-9)


@each_pair
def test_a_sketch_has_the_mass_and_the_moments_of_the_pair(pair):
    found = pairs.sketch(pair, 1e-20)
    assert np.exp(found.log_p).sum() == pytest.approx(1, abs=1e-7)
    assert np.exp(found.log_q).sum() == pytest.approx(1, abs=1e-7)
    assert np.exp(found.log_p - found.losses).sum() == pytest.approx(1, abs=1e-7)


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
