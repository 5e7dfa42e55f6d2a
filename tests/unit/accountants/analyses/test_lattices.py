"""Losses on a grid: one lattice above the truth and one below it, at every epsilon."""

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants.analyses.bounded_losses import LaplaceStep, RandomisedResponseStep
from accountants.analyses.cells import Cells, Grid
from accountants.analyses.lattices import (
    _SHIFT,
    Fineness,
    FixedSizeStep,
    Lattice,
    NormalStep,
    dominated,
    dominating,
)
from accountants.analyses.pairs import MixturePair, ReplacedPair, group_weights
from tests.unit.accountants.analyses.enclosure import (
    EPSILONS,
    FINENESS,
    check_enclosed,
    exact_delta,
    hockey_stick,
)

few = settings(max_examples=20, deadline=None, derandomize=True)

STEPS = {
    "rare": NormalStep(MixturePair((0.999, 0.001), 0.7)),
    "common": NormalStep(MixturePair((0.4, 0.6), 2.0)),
    "little noise": NormalStep(MixturePair((0.9, 0.1), 0.2)),
    "much noise": NormalStep(MixturePair((0.99, 0.01), 15.0)),
    "nearly all": NormalStep(MixturePair((2.0**-20, 1 - 2.0**-20), 1.0)),
    "group": NormalStep(MixturePair(group_weights(0.05, 3), 1.5)),
    "plain": NormalStep(MixturePair((0.0, 1.0), 1.3)),
    "replaced": NormalStep(ReplacedPair(0.03, 0.8)),
    "replaced often": NormalStep(ReplacedPair(0.8, 3.0)),
    "fixed size": FixedSizeStep(MixturePair((0.95, 0.05), 0.6)),
    "most of a fixed size": FixedSizeStep(MixturePair((0.2, 0.8), 1.5)),
    "response": RandomisedResponseStep(0.7),
    "loud response": RandomisedResponseStep(5.0),
    "laplace": LaplaceStep(1.0),
    "quiet laplace": LaplaceStep(0.05),
}
each_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
each_fineness = pytest.mark.parametrize("fineness", FINENESS.values(), ids=FINENESS)


@each_step
@each_fineness
def test_lattices_enclose_the_truth_at_every_epsilon_and_in_both_directions(step, fineness):
    check_enclosed(step, fineness)


@few
@given(
    q=st.floats(-4, -1e-3).map(lambda power: 10.0**power),
    sigma=st.floats(-1, 1.2).map(lambda power: 10.0**power),
    kind=st.sampled_from(["mixture", "replaced", "fixed"]),
    fineness=st.sampled_from(list(FINENESS.values())),
)
def test_lattices_enclose_the_truth_of_any_sampled_step(q, sigma, kind, fineness):
    mixture = MixturePair((1 - q, q), sigma)
    step = {
        "mixture": NormalStep(mixture),
        "replaced": NormalStep(ReplacedPair(q, sigma)),
        "fixed": FixedSizeStep(mixture),
    }[kind]
    check_enclosed(step, fineness)


@each_step
@each_fineness
def test_masses_above_sum_to_one_at_least_and_below_to_one_at_most(step, fineness):
    found = step.discretise(fineness)
    for above in (found.forward, found.backward):
        total = math.fsum(above.masses) + above.infinity
        assert 1 - 1e-15 <= total <= 1 + 1e-6
        assert 0 <= above.infinity <= fineness.tail * 2
    assert 1 - 1e-5 - 10 * fineness.tail <= math.fsum(found.below.masses) <= 1
    for lattice in (found.forward, found.backward, found.below):
        assert np.all(lattice.masses >= 0)
        assert np.all(np.diff(lattice.grid.places) > 0)
        assert lattice.grid.step == fineness.step
        assert 0 <= lattice.drift < (1e-6 if len(lattice.masses) > 1 else 0.1)


@each_step
def test_above_is_a_pair_of_distributions(step):
    """Masses exp(-loss) under Q sum to 1 too: the spread keeps both."""
    found = step.discretise(FINENESS["fine"])
    for above in (found.forward, found.backward):
        total = math.fsum(above.masses * np.exp(-above.grid.losses))
        assert total <= 1 + 1e-9


@each_step
def test_a_finer_grid_brings_both_closer(step):
    gaps = []
    for width in (0.1, 0.01):
        found = step.discretise(Fineness(width, 20.0, width, 1e-12))
        gaps.append(
            max(hockey_stick(found.forward, e) - hockey_stick(found.below, e) for e in EPSILONS)
        )
    if step.tight:
        assert gaps[1] < 0.3 * gaps[0] or gaps[1] < 1e-10


@each_step
def test_total_variation_is_not_exceeded(step):
    with mp.workdps(40):
        assert exact_delta(step, 0) <= step.total_variation * (1 + 1e-15)


def test_a_symmetric_step_uses_one_lattice_for_both_directions():
    found = STEPS["plain"].discretise(FINENESS["coarse"])
    assert found.backward is found.forward
    found = STEPS["rare"].discretise(FINENESS["coarse"])
    assert found.backward is not found.forward


def test_losses_beyond_floating_point_give_none():
    step = NormalStep(MixturePair((0.5, 0.5), 0.05))
    assert step.discretise(Fineness(0.1, 3.0, 0.5, 1e-6)) is not None
    assert step.discretise(Fineness(0.1, 3.0, 0.5, 1e-250)) is None
    assert not NormalStep(MixturePair((0.5, 0.5), 0.01)).representable


def test_cells_that_cannot_reach_their_grid_point_are_rounded_down():
    """Two cells of one loss, under grid points 0.1 and 0.2 and with nothing above to borrow."""

    def merged(loss):
        p = np.array([0.0, 0.5, 0.5, 0.0])
        cuts = Grid((0.5 - _SHIFT) * 0.1, 0.1, np.array([0, 1, 2]))
        return dominated(Cells(cuts, p, p * math.exp(-loss), np.zeros(4), np.zeros(3)), None)

    assert isinstance(merged(0.3), Lattice)
    assert merged(0.3).grid.losses == pytest.approx([0.0, 0.1, 0.2])
    assert merged(0.3).masses == pytest.approx([0.0, 0.5, 0.5])
    assert merged(0.15).masses == pytest.approx([0.0, 1.0, 0.0])
    assert merged(0.0).masses == pytest.approx([1.0, 0.0, 0.0])


def test_of_a_cell_that_is_lifted_in_part_the_rest_is_rounded_down():
    """Half the mass at loss 0.05, a tenth at 0.18; grid points at 0.1 and 0.2.

    The tenth can spare 0.1 (1 - e^(0.1 - 0.18)), and all of the half would need 0.5 (e^0.05 - 1):
    the share of these two is lifted to 0.1 with it, and the rest stays at 0.
    """
    p, losses = np.array([0.0, 0.5, 0.1, 0.0]), np.array([0.0, 0.05, 0.18, 0.0])
    cuts = Grid((0.5 - _SHIFT) * 0.1, 0.1, np.array([0, 1, 2]))
    merged = dominated(Cells(cuts, p, p * np.exp(-losses), np.zeros(4), np.zeros(3)), None)
    share = 0.1 * -math.expm1(-0.08) / (0.5 * math.expm1(0.05))
    assert 0.2 < share < 0.4
    assert merged.masses == pytest.approx([0.5 * (1 - share), 0.5 * share + 0.1, 0.0])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    weights=st.lists(st.floats(-25, 0), min_size=2, max_size=30),
    shares=st.lists(st.floats(0, 1), min_size=30, max_size=30),
    step=st.floats(1e-3, 1.0),
    widths=st.lists(st.integers(1, 4), min_size=30, max_size=30),
    bottom=st.sampled_from([None, 0]),
)
def test_whatever_the_cells_weigh_the_merged_ones_are_no_further_apart(
    weights, shares, step, widths, bottom
):
    """Any masses, each at any loss of its cell: the hockey-stick of the lattice is not larger."""
    p = np.exp(weights)
    places = np.append(0, np.cumsum(np.array(widths[: len(p)])))
    offset = (0.5 - _SHIFT) * step
    losses = offset + step * (places[:-1] + np.array(shares[: len(p)]) * np.diff(places))
    p, losses = np.append(p, 0.0), np.append(losses, 0.0)
    lowest = 0.0 if bottom is None else 1.0  # at loss 0, as the bottom cell is
    cells = Cells(
        Grid(offset, step, places),
        np.insert(p, 0, lowest),
        np.insert(p * np.exp(-losses), 0, lowest),
        np.zeros(len(p) + 1),
        np.zeros(len(places)),
    )
    merged = dominated(cells, bottom)
    assert merged.masses.sum() == pytest.approx(lowest + p.sum())
    for epsilon in np.linspace(-step, losses.max() + step, 40):
        apart = np.maximum(p * -np.expm1(epsilon - losses), 0).sum()
        apart += max(lowest * -math.expm1(epsilon), 0.0)
        found = np.maximum(merged.masses * -np.expm1(epsilon - merged.grid.losses), 0).sum()
        assert found <= apart * (1 + 1e-9) + 1e-13


def test_errors_of_cells_widen_both_lattices():
    """Masses off by one in a hundred: more above, in both shares, and less below."""
    p = np.array([0.1, 0.4, 0.4, 0.1])
    q = p * np.exp([0.0, -0.05, -0.15, -0.2])
    cuts = Grid(0.0, 0.1, np.array([0, 1, 2]))
    exact = Cells(cuts, p, q, np.zeros(4), np.zeros(3))
    rough = Cells(cuts, p, q, np.full(4, 0.01), np.full(3, 0.002))
    plain, wide = dominating(exact), dominating(rough)
    assert wide.infinity >= 1.01 * plain.infinity
    assert np.all(wide.masses >= 1.01 * plain.masses * (1 - 1e-12))
    assert wide.masses[-1] >= 1.01 * (plain.masses[-1] + 0.4 * 0.022)
    assert wide.drift >= 0.002
    plain, less = dominated(exact, None), dominated(rough, None)
    assert np.all(less.masses <= 0.99 * plain.masses)
    assert less.drift >= 0.02
