"""Pairs cut into cells: masses and losses with the errors they claim, and sketches."""

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants.analyses.cells import Cells, Grid, cells, sketch
from accountants.analyses.pairs import MixturePair, ReplacedPair
from tests.unit.accountants.analyses.normal_pairs import each_pair, exact_loss, exact_mass, parts

few = settings(max_examples=15, deadline=None, derandomize=True)
rates = st.floats(-4, -0.05).map(lambda power: 10.0**power)
sigmas = st.floats(-0.5, 1).map(lambda power: 10.0**power)


def grid(step=0.05, low=-40, high=60):
    return Grid(0.013, step, np.arange(low, high))


@each_pair
def test_the_error_of_every_cut_is_covered(pair):
    found = cells(pair, grid())
    y = pair.outcome(found.cuts.losses)
    with mp.workdps(50):
        for outcome, cut, error in zip(y, found.cuts.losses, found.cut_error, strict=True):
            if math.isfinite(outcome):
                assert abs(exact_loss(pair, outcome) - mp.mpf(cut)) <= error


@each_pair
@pytest.mark.parametrize("step", [1e-6, 0.05, 0.6])
def test_the_error_of_every_mass_is_covered(pair, step):
    cuts = grid(step, -8, 12)
    found = cells(pair, cuts)
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
    found = cells(pair, grid())
    assert found.p.sum() == pytest.approx(1, abs=1e-12)
    assert found.q.sum() == pytest.approx(1, abs=1e-12)
    assert np.all(found.p >= 0)
    assert np.all(found.q >= 0)


@each_pair
def test_backward_swaps_and_mirrors(pair):
    found = cells(pair, grid())
    back = found.backward()
    assert np.array_equal(back.cuts.losses, -found.cuts.losses[::-1])
    assert np.array_equal(back.p, found.q[::-1])
    assert np.array_equal(back.q, found.p[::-1])
    again = back.backward()
    assert isinstance(again, Cells)
    assert np.array_equal(again.p, found.p)
    assert np.array_equal(again.cut_error, found.cut_error)


@each_pair
def test_a_sketch_has_the_mass_and_the_moments_of_the_pair(pair):
    found = sketch(pair, 1e-20)
    assert np.exp(found.log_p).sum() == pytest.approx(1, abs=1e-7)
    assert np.exp(found.log_q).sum() == pytest.approx(1, abs=1e-7)
    assert np.exp(found.log_p - found.losses).sum() == pytest.approx(1, abs=1e-7)
