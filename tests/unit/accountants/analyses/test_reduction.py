"""What every event is to the analyses: Gaussian, a step with a dominating pair, or neither."""

import math
from fractions import Fraction

import pytest

from accountants import certified
from accountants.analyses.bounded_losses import LaplaceStep, RandomisedResponseStep
from accountants.analyses.lattices import FixedSizeStep, NormalStep
from accountants.analyses.pairs import MixturePair, ReplacedPair
from accountants.analyses.reduction import Reduced, reduced
from accountants.errors import UnsupportedAnalysisError
from accountants.events import (
    BandedMatrixFactorization,
    DiscreteGaussian,
    FixedSizeGaussian,
    Gaussian,
    Laplace,
    NoisedCount,
    PoissonGaussian,
    PureDP,
    Skellam,
    TreeAggregation,
    ZeroConcentrated,
)
from accountants.guarantees import Neighbouring

ADD, REPLACE, ZERO = Neighbouring.ADD_REMOVE, Neighbouring.REPLACE_ONE, Neighbouring.ZERO_OUT


def test_a_tree_is_a_gaussian_with_one_part_per_level():
    """Eight leaves have four levels, so sigma / 2."""
    tree = TreeAggregation(noise_multiplier=4.0, leaves=8, steps=3)
    plain = Gaussian(noise_multiplier=2.0, steps=3)
    left, right = (certified.epsilon([event], 1e-6, ZERO) for event in (tree, plain))
    assert (left.lower, left.upper) == pytest.approx((right.lower, right.upper), rel=1e-12)


def test_a_banded_matrix_is_a_gaussian_with_one_part_per_participation():
    banded = BandedMatrixFactorization(noise_multiplier=3.0, bands=4, participations=9)
    plain = Gaussian(noise_multiplier=1.0)
    left, right = (certified.epsilon([event], 1e-6, ZERO) for event in (banded, plain))
    assert (left.lower, left.upper) == pytest.approx((right.lower, right.upper), rel=1e-12)


# Event by event


def only(event, relation=ADD, group_size=1):
    return reduced([event], relation, group_size)


def almost(value):
    """Equal up to rounding."""
    return pytest.approx(value, rel=1e-14, abs=0)


def test_plain_gaussians_are_one_number():
    event = Gaussian(noise_multiplier=4.0, steps=3)
    assert only(event) == only(event, ZERO) == Reduced(gaussian=3 / 16)
    assert only(event, REPLACE) == Reduced(gaussian=12 / 16)
    assert only(event, ADD, 5) == Reduced(gaussian=75 / 16)
    assert only(event, REPLACE, 5) == Reduced(gaussian=300 / 16)


@pytest.mark.parametrize(("leaves", "nodes"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (8, 4)])
def test_a_leaf_of_a_tree_is_in_one_node_per_level(leaves, nodes):
    event = TreeAggregation(noise_multiplier=4.0, leaves=leaves, steps=3)
    assert only(event, ZERO) == Reduced(gaussian=3 * nodes / 16)
    assert only(event, REPLACE, 5) == Reduced(gaussian=300 * nodes / 16)


def test_bands_do_not_count_and_participations_do():
    event = BandedMatrixFactorization(noise_multiplier=4.0, bands=7, participations=9, steps=3)
    assert only(event, ZERO) == Reduced(gaussian=27 / 16)


def test_a_sampled_step_keeps_its_pair_and_what_it_would_cost_unsampled():
    event = PoissonGaussian(noise_multiplier=4.0, sample_rate=0.25, steps=3)
    pair = MixturePair((0.75, 0.25), 4.0)
    expected = Reduced(steps=(NormalStep(pair),), counts=(3,), unsampled=3 / 16)
    assert only(event) == only(event, ZERO) == expected
    pair = MixturePair((0.5625, 0.375, 0.0625), 4.0)
    expected = Reduced(steps=(NormalStep(pair),), counts=(3,), unsampled=12 / 16)
    assert only(event, ADD, 2) == expected
    pair = ReplacedPair(0.25, 4.0)
    expected = Reduced(steps=(NormalStep(pair),), counts=(3,), unsampled=12 / 16)
    assert only(event, REPLACE) == expected


def test_a_batch_of_fixed_size_has_half_the_noise():
    """A drawn record moves the sum by 2C."""
    event = FixedSizeGaussian(noise_multiplier=4.0, batch_size=3, dataset_size=12, steps=5)
    step = FixedSizeStep(MixturePair((0.75, 0.25), 2.0))
    assert only(event, REPLACE) == Reduced(steps=(step,), counts=(5,), unsampled=5 / 4)


def test_what_leaves_nobody_out_is_no_sampling():
    event = PoissonGaussian(noise_multiplier=4.0, sample_rate=1.0, steps=3)
    assert only(event, REPLACE, 5) == Reduced(gaussian=300 / 16)
    event = FixedSizeGaussian(noise_multiplier=4.0, batch_size=12, dataset_size=12, steps=5)
    assert only(event, REPLACE) == Reduced(gaussian=5 / 4)


def test_bounded_losses_are_steps_and_their_sum():
    found = only(Laplace(noise_multiplier=4.0, steps=5))
    assert (found.steps, found.counts) == ((LaplaceStep(0.25),), (5,))
    assert found.pure == found.pure_epsilon == almost(1.25)
    found = only(Laplace(noise_multiplier=4.0, steps=5), REPLACE, 3)
    assert (found.steps, found.pure) == ((LaplaceStep(1.5),), almost(7.5))
    found = only(PureDP(epsilon=0.25, neighbouring=ADD, steps=5), REPLACE, 3)
    assert (found.steps, found.counts) == ((RandomisedResponseStep(1.5),), (5,))
    assert found.pure == almost(7.5)


def test_counts_stand_apart_from_all_else():
    found = only(NoisedCount(epsilon=0.25, steps=5), ADD, 3)
    assert (found.steps, found.pure, found.largest_noised_count) == ((), 0.0, 0.25)
    assert found.noised_counts_epsilon == found.pure_epsilon == almost(3.75)
    both = reduced([NoisedCount(epsilon=0.25), NoisedCount(epsilon=0.5, steps=3)], ADD, 1)
    assert (both.largest_noised_count, both.noised_counts_epsilon) == (0.5, almost(1.75))


@pytest.mark.parametrize(("relation", "squared"), [(ADD, 9), (REPLACE, 36)])
def test_zero_concentrated_releases_stand_in_as_gaussians(relation, squared):
    """2 rho = mu^2; a Gaussian has no smaller epsilon than its own zCDP bound allows."""
    event = ZeroConcentrated(rho=0.25, neighbouring=ADD, steps=5)
    assert only(event, relation, 3) == Reduced(gaussian=2.5 * squared, renyi_only=True)


@pytest.mark.parametrize(
    "event",
    [
        DiscreteGaussian(standard_deviation=9.0, sensitivity=5.0),
        Skellam(variance=80.0, sensitivity=5.0, l1_sensitivity=7.0),
    ],
)
def test_discrete_noise_has_a_renyi_divergence_only(event):
    assert only(event) == Reduced(renyi_only=True)


@pytest.mark.parametrize(
    "event",
    [
        Gaussian(noise_multiplier=0.0),
        PoissonGaussian(noise_multiplier=0.0, sample_rate=0.5, steps=1),
        FixedSizeGaussian(noise_multiplier=0.0, batch_size=1, dataset_size=9, steps=1),
        Laplace(noise_multiplier=0.0),
        DiscreteGaussian(standard_deviation=0.0, sensitivity=1.0),
        Skellam(variance=0.0, sensitivity=1.0, l1_sensitivity=1.0),
        TreeAggregation(noise_multiplier=0.0, leaves=4),
        BandedMatrixFactorization(noise_multiplier=0.0, bands=1, participations=1),
    ],
    ids=lambda event: type(event).__name__,
)
def test_without_noise_there_is_no_protection(event):
    found = reduced([Gaussian(noise_multiplier=4.0), event], REPLACE, 1)
    assert found.unprotected
    assert (found.gaussian, found.steps, found.pure_epsilon) == (4 / 16, (), math.inf)


# Histories


def test_a_history_is_the_sum_of_its_parts():
    events = [
        Gaussian(noise_multiplier=4.0, steps=3),
        PoissonGaussian(noise_multiplier=5.0, sample_rate=0.25, steps=7),
        ZeroConcentrated(rho=0.125, neighbouring=ADD),
        Laplace(noise_multiplier=8.0, steps=2),
        NoisedCount(epsilon=0.5),
    ]
    found = reduced(iter(events), ADD, 1)
    assert found.gaussian == pytest.approx(3 / 16 + 0.25, rel=1e-15)
    assert found.steps == (NormalStep(MixturePair((0.75, 0.25), 5.0)), LaplaceStep(0.125))
    assert found.counts == (7, 2)
    assert found.unsampled == pytest.approx(7 / 25, rel=1e-15)
    assert (found.pure, found.noised_counts_epsilon) == (almost(0.25), almost(0.5))
    assert (found.renyi_only, found.unprotected) == (True, False)


def test_nothing_is_released_by_nothing():
    assert reduced([], ADD, 1) == Reduced()
    assert only(PureDP(epsilon=0.0, neighbouring=ADD, steps=5)) == Reduced()
    assert Reduced().pure_epsilon == 0.0
    assert Reduced().all_steps() == ((), ())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0.75),
        ({"gaussian": 1e-9}, math.inf),
        ({"unsampled": 1e-9}, math.inf),
        ({"renyi_only": True}, math.inf),
        ({"unprotected": True}, math.inf),
    ],
)
def test_only_bounded_losses_have_an_epsilon_at_delta_zero(changes, expected):
    assert Reduced(pure=0.5, noised_counts_epsilon=0.25, **changes).pure_epsilon == expected


def test_all_gaussians_are_one_more_step():
    step = LaplaceStep(0.25)
    alone = Reduced(steps=(step,), counts=(5,))
    assert alone.all_steps() == ((step,), (5,))
    steps, counts = Reduced(steps=(step,), counts=(5,), gaussian=6.25).all_steps()
    assert (steps, counts) == ((step, NormalStep(MixturePair((0.0, 1.0), 0.4))), (5, 1))


@pytest.mark.parametrize(("one", "steps"), [(0.1, 3), (1 / 3, 7), (0.006723544634255388, 3)])
def test_sums_of_epsilons_are_not_rounded_down(one, steps):
    exact = Fraction(one) * steps
    pure = only(PureDP(epsilon=one, neighbouring=ADD, steps=steps)).pure
    counts = only(NoisedCount(epsilon=one, steps=steps)).noised_counts_epsilon
    for found in (pure, counts):
        assert exact <= Fraction(found) <= exact * (1 + Fraction(1, 10**14))


def test_extreme_noise_is_neither_free_nor_an_error():
    plain = Gaussian(noise_multiplier=1e300, steps=3)
    sampled = PoissonGaussian(noise_multiplier=1e300, sample_rate=0.5, steps=7)
    assert only(plain).gaussian == almost(3e-24)
    assert only(sampled).unsampled == almost(7e-24)
    assert only(Gaussian(noise_multiplier=1e-300)).gaussian == math.inf


def test_what_has_no_sound_analysis_is_refused_wherever_it_stands():
    tree = TreeAggregation(noise_multiplier=4.0, leaves=8)
    for events in ([tree, Gaussian(noise_multiplier=4.0)], [Gaussian(noise_multiplier=4.0), tree]):
        with pytest.raises(
            UnsupportedAnalysisError, match="^TreeAggregation has no sound analysis"
        ):
            reduced(events, ADD, 1)
