"""Steps whose largest loss is bounded: their lattices end where the losses do."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from accountants.analyses.bounded_losses import LaplaceStep, RandomisedResponseStep
from accountants.analyses.lattices import Fineness
from tests.unit.accountants.analyses.enclosure import FINENESS, check_enclosed

few = settings(max_examples=20, deadline=None, derandomize=True)


@few
@given(
    loss=st.floats(-2, 1).map(lambda power: 10.0**power),
    kind=st.sampled_from([LaplaceStep, RandomisedResponseStep]),
    fineness=st.sampled_from(list(FINENESS.values())),
)
def test_lattices_enclose_the_truth_of_any_bounded_step(loss, kind, fineness):
    check_enclosed(kind(loss), fineness)


def test_two_points_of_a_response_lie_on_the_ends():
    """e^1 / (1 + e^1) = 0.731059 at loss 1 and the rest at -1."""
    found = RandomisedResponseStep(1.0).discretise(Fineness(0.5, 3.0, 0.5, 1e-9))
    assert found.forward.grid.losses == pytest.approx([-1, -0.5, 0, 0.5, 1])
    assert found.forward.masses[[0, -1]] == pytest.approx([0.2689414213699951, 0.7310585786300049])
    between = RandomisedResponseStep(0.9).discretise(Fineness(0.5, 3.0, 0.5, 1e-9))
    assert between.forward.grid.losses[-1] == pytest.approx(1.0)
    assert between.below.grid.losses[-1] == pytest.approx(0.75)


KINDS = [LaplaceStep, RandomisedResponseStep]
each_kind = pytest.mark.parametrize("kind", KINDS)
LOSSES = [0.01, 0.7, 3.0, 30.0]


def test_the_atoms_of_a_laplace_release_are_on_its_ends():
    """Half of all mass has loss a, and exp(-a) / 2 of it loss -a; 2a is eight grid steps."""
    found = LaplaceStep(1.0).discretise(Fineness(0.25, 3.0, 0.5, 1e-9))
    assert found.forward is found.backward
    assert found.forward.grid.losses == pytest.approx(np.linspace(-1, 1, 9))
    assert 0.5 < found.forward.masses[-1] < 0.5 + 0.25 / 4
    assert math.exp(-1) / 2 < found.forward.masses[0] < math.exp(-1) / 2 * 1.25
    assert found.below.grid.losses[-1] == pytest.approx(1.0)
    assert found.below.masses[-1] == pytest.approx(0.5)


@each_kind
@pytest.mark.parametrize("loss", [0.61, 0.7, 0.74])
def test_the_largest_loss_is_taken_up_above_and_down_below(kind, loss):
    """To multiples of half a grid step of 0.1."""
    found = kind(loss).discretise(Fineness(0.1, 3.0, 0.5, 1e-9))
    above, below = found.forward.grid.losses[[0, -1]], found.below.grid.losses[-1]
    assert above == pytest.approx([-math.ceil(20 * loss) / 20, math.ceil(20 * loss) / 20])
    assert below <= math.floor(20 * loss + 1e-9) / 20 + 1e-12
    assert below >= loss - 0.1


@each_kind
@pytest.mark.parametrize(("loss", "step", "cells"), [(0.3, 0.1, 6), (0.9, 0.03, 60)])
def test_a_loss_on_the_grid_is_not_moved_by_rounding(kind, loss, step, cells):
    """In floating point 2 * 0.3 / 0.1 is below six, and 2 * 0.9 / 0.03 is above sixty."""
    assert 2 * loss / step != cells
    found = kind(loss).discretise(Fineness(step, 3.0, 0.5, 1e-9))
    assert len(found.forward.masses) == cells + 1
    assert found.forward.grid.losses[-1] == pytest.approx(loss, rel=1e-14)
    assert len(found.below.masses) == cells + 1


@each_kind
def test_losses_smaller_than_half_a_grid_step_are_all_but_none(kind):
    found = kind(0.049).discretise(Fineness(0.1, 3.0, 0.5, 1e-9))
    assert found.forward is found.backward is found.below
    assert (found.forward.grid.losses, found.forward.masses) == ([0.0], [1.0])
    assert (found.forward.drift, found.forward.infinity) == (0.049, 0.0)
    assert len(kind(0.051).discretise(Fineness(0.1, 3.0, 0.5, 1e-9)).forward.masses) == 3


@each_kind
def test_a_grid_beyond_memory_gives_none(kind):
    assert kind(1.0).discretise(Fineness(2.0**-21, 3.0, 0.5, 1e-9)) is None


@each_kind
def test_losses_that_floating_point_cannot_hold_are_known(kind):
    assert kind(499.9).representable
    assert not kind(500.0).representable


@each_kind
def test_both_directions_are_the_same_and_finer_grids_help(kind):
    assert kind(0.7).symmetric
    assert kind(0.7).tight


def densities(y):
    """Of Laplace(1, b) and Laplace(0, b) at 1 / b = 0.7."""
    return 0.35 * math.exp(-0.7 * abs(y - 1)), 0.35 * math.exp(-0.7 * abs(y))


def test_the_total_variation_is_half_the_area_between_the_densities():
    area, _ = quad(
        lambda y: abs(np.subtract(*densities(y))), -60, 61, points=[0, 0.5, 1], limit=200
    )
    assert LaplaceStep(0.7).total_variation == pytest.approx(area / 2, rel=1e-9)
    truth, lie = (1 / (1 + math.exp(side)) for side in (-0.7, 0.7))
    assert RandomisedResponseStep(0.7).total_variation == pytest.approx(truth - lie, rel=1e-14)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_sketch_is_the_mechanism_in_few_points(loss):
    """Both mean losses in closed form: a tanh(a / 2), and a + exp(-a) - 1."""
    means = {
        RandomisedResponseStep: loss * math.tanh(loss / 2),
        LaplaceStep: loss + math.expm1(-loss),
    }
    for kind, mean in means.items():
        found = kind(loss).sketch(1e-9)
        p, q = np.exp(found.log_p), np.exp(found.log_q)
        assert len(p) <= 300
        assert p.sum() == pytest.approx(1, rel=1e-12)
        assert q.sum() == pytest.approx(1, rel=1e-12)
        assert np.allclose(found.log_p - found.log_q, found.losses, rtol=1e-12, atol=1e-12)
        assert np.abs(found.losses).max() <= loss * (1 + 1e-12)
        assert p @ found.losses == pytest.approx(mean, rel=2e-2)
