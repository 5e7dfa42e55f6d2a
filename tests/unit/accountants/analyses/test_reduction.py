"""What every event is to the analyses: Gaussian, a step with a dominating pair, or neither."""

import pytest

from accountants import certified
from accountants.events import BandedMatrixFactorization, Gaussian, TreeAggregation
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
