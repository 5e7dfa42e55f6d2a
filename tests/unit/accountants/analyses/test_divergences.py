"""The Renyi divergence of one step: exact formulas, integrals, and what has none."""

import math
from dataclasses import replace

import mpmath as mp
import numpy as np
import pytest
from dp_accounting import NeighboringRelation, dp_event
from dp_accounting.rdp import RdpAccountant
from scipy.integrate import quad
from scipy.special import ive, logsumexp

from accountants.analyses import renyi
from accountants.analyses.divergences import one_step, rho
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

ADD_REMOVE, REPLACE_ONE = Neighbouring.ADD_REMOVE, Neighbouring.REPLACE_ONE
ZERO_OUT = Neighbouring.ZERO_OUT


def poisson(sigma, q, steps=1):
    return PoissonGaussian(noise_multiplier=sigma, sample_rate=q, steps=steps)


def fixed_size(sigma, batch, size, steps=1):
    return FixedSizeGaussian(
        noise_multiplier=sigma, batch_size=batch, dataset_size=size, steps=steps
    )


def value(event, order, neighbouring=ADD_REMOVE, group_size=1):
    return float(renyi.rdp([event], neighbouring, group_size=group_size, orders=[order])[0])


def test_fixed_size_batches_count_the_replaced_record_twice():
    """dp-accounting, told the ratio to C and not to 2C, would print 2.58."""
    found = renyi.epsilon([fixed_size(1.0, 20, 1000, 100)], 1e-5, REPLACE_ONE)
    assert found.epsilon == pytest.approx(14.4018, abs=1e-4)


def test_repeated_kinds_are_computed_once():
    first = one_step(poisson(1.1, 0.02), ADD_REMOVE, 1, renyi.ORDERS)
    assert one_step(poisson(1.1, 0.02), ADD_REMOVE, 1, renyi.ORDERS) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


@pytest.mark.parametrize("order", [1.01, 1.5, 2.0, 2.5, 9.75, 64.0])
@pytest.mark.parametrize(("sigma", "q"), [(0.5, 0.1), (1.0, 0.01), (1.0, 0.9), (4.0, 0.3)])
def test_poisson_is_the_integral(sigma, q, order):
    def integrand(x):
        log_ratio = (2 * x - 1) / (2 * sigma**2)
        mixture = np.logaddexp(math.log1p(-q), math.log(q) + log_ratio)
        peak = max(order * (order - 1) / (2 * sigma**2) + order * math.log(q), 0)
        return math.exp(order * mixture - x * x / (2 * sigma**2) - peak) / sigma

    peak = max(order * (order - 1) / (2 * sigma**2) + order * math.log(q), 0)
    points = [0.0, order, sigma**2 * math.log(1 / q - 1) + 0.5]
    low, high = -12 * sigma, order + 12 * sigma
    inside = [point for point in points if low < point < high]
    total, _ = quad(integrand, low, high, points=inside, limit=500, epsabs=0, epsrel=1e-12)
    exact = (math.log(total / math.sqrt(2 * math.pi)) + peak) / (order - 1)
    found = value(poisson(sigma, q), order)
    assert exact * (1 - 1e-9) - 1e-10 <= found <= exact * (1 + 1e-9) + 1e-10


def test_poisson_divergence_is_never_below_the_unrounded_sum():
    """At q = 1e-8 a float64 sum loses all digits: log(1 + 1e-16 (e - 1)), order 2, sigma 1."""
    assert value(poisson(1.0, 1e-8), 2.0) >= 1e-16 * math.expm1(1)


@pytest.mark.parametrize("sigma", [1e-300, 1e-3, 0.04, 1e7, 1e200])
def test_extreme_noise_stays_a_bound(sigma):
    found = renyi.rdp([poisson(sigma, 0.1, 10)], ADD_REMOVE)
    unsampled = renyi.rdp([Gaussian(noise_multiplier=sigma, steps=10)], ADD_REMOVE)
    assert (found > 0).all()
    assert (found <= unsampled).all()
    replaced = renyi.rdp([fixed_size(sigma, 1, 10)], REPLACE_ONE)
    assert (replaced > 0).all()
    assert (replaced <= renyi.rdp([Gaussian(noise_multiplier=sigma)], REPLACE_ONE)).all()


def test_fractional_orders_above_a_hundred_are_read_at_the_next_whole_one():
    assert value(poisson(1.0, 0.1), 150.5) == pytest.approx(
        value(poisson(1.0, 0.1), 151.0), rel=1e-9
    )


@pytest.mark.parametrize("order", [1.5, 2.0, 3.5, 16.0])
@pytest.mark.parametrize("shift", [1, 3])
@pytest.mark.parametrize("variance", [0.5, 4.0, 50.0])
def test_skellam_is_above_the_exact_divergence(variance, shift, order):
    """One coordinate, moved by `shift`: the sum over P[k]^a P[k - shift]^(1 - a)."""
    k = np.arange(-150, 151)
    with np.errstate(divide="ignore"):
        log_mass = np.log(ive(np.abs(k), variance))
    there, here = log_mass[:-shift], log_mass[shift:]
    seen = np.isfinite(there) & np.isfinite(here)
    exact = logsumexp(order * there[seen] + (1 - order) * here[seen]) / (order - 1)
    event = Skellam(variance=variance, sensitivity=shift, l1_sensitivity=shift)
    found = value(event, order)
    assert exact <= found
    if variance == 50.0 and order == 2.0:
        assert found <= exact * 1.1


def test_skellam_by_hand():
    event = Skellam(variance=10.0, sensitivity=2.0, l1_sensitivity=3.0)
    at_two = 2 * 4 / 20 + min((3 * 4 + 18) / 400, 9 / 20)
    at_three = 3 * 4 / 20 + min((5 * 4 + 18) / 400, 9 / 20)
    assert value(event, 2.0) == pytest.approx(at_two)
    assert value(event, 3.0) == pytest.approx(at_three)
    assert value(event, 2.5) == pytest.approx((at_two + 2 * at_three) / 2 / 1.5)
    little = Skellam(variance=1.0, sensitivity=1.0, l1_sensitivity=1.0)
    assert value(little, 2.0) == 2 / 2 + min((3 + 6) / 4, 3 / 2)
    doubled = replace(event, sensitivity=4.0, l1_sensitivity=6.0)
    assert value(event, 3.0, REPLACE_ONE) == pytest.approx(value(doubled, 3.0))


@pytest.mark.parametrize("order", [1.01, 1.5, 3.0, 40.0, 1e4])
@pytest.mark.parametrize("pure", [1e-3, 0.1, 1.0, 4.0])
def test_laplace_and_pure_dp_are_their_closed_forms(pure, order):
    a, e = order, pure
    laplace = np.logaddexp(
        math.log(a / (2 * a - 1)) + (a - 1) * e, math.log((a - 1) / (2 * a - 1)) - a * e
    ) / (a - 1)
    response = (np.logaddexp(a * e, (1 - a) * e) - np.logaddexp(0, e)) / (a - 1)
    tolerance = 1e-12 / (a - 1)
    assert value(Laplace(noise_multiplier=1 / pure), order) == pytest.approx(
        laplace, rel=1e-9, abs=tolerance
    )
    event = PureDP(epsilon=pure, neighbouring=ADD_REMOVE)
    assert value(event, order) == pytest.approx(response, rel=1e-9, abs=tolerance)
    assert value(event, order) <= pure * (1 + 1e-15)


def test_pure_dp_keeps_its_digits_when_epsilon_is_tiny():
    event = PureDP(epsilon=1e-9, neighbouring=ADD_REMOVE)
    assert value(event, 3.0) == pytest.approx(1.5e-18, rel=1e-6)
    assert value(Laplace(noise_multiplier=1e9), 3.0) <= 1.5e-18 * (1 + 1e-12)


def test_zero_concentrated_events_by_hand():
    assert value(ZeroConcentrated(rho=0.3, neighbouring=ZERO_OUT, steps=2), 5.0, ZERO_OUT) == 3.0
    noise = DiscreteGaussian(standard_deviation=6.0, sensitivity=3.0)
    assert value(noise, 2.0) == pytest.approx(0.25)
    assert value(noise, 2.0, REPLACE_ONE, group_size=3) == pytest.approx(0.25 * 36)


@pytest.mark.parametrize(("leaves", "nodes"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (1024, 11)])
def test_tree_aggregation_counts_the_nodes_of_a_leaf(leaves, nodes):
    event = TreeAggregation(noise_multiplier=3.0, leaves=leaves)
    found = renyi.rdp([event], ZERO_OUT)
    np.testing.assert_allclose(found, np.array(renyi.ORDERS) * nodes / 18, rtol=1e-14)
    accountant = RdpAccountant(renyi.ORDERS, NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(dp_event.SingleEpochTreeAggregationDpEvent(3.0, leaves))
    assert (found >= accountant.rdp * (1 - 1e-14)).all()
    if leaves & (leaves - 1) == 0:
        np.testing.assert_allclose(found, accountant.rdp, rtol=1e-14)
    np.testing.assert_allclose(renyi.rdp([event], REPLACE_ONE), 4 * found, rtol=1e-14)


def test_banded_matrices_count_participations():
    event = BandedMatrixFactorization(noise_multiplier=2.0, bands=4, participations=9)
    assert value(event, 2.0, ZERO_OUT) == pytest.approx(2 * 9 / 8)
    assert value(event, 2.0, REPLACE_ONE, group_size=2) == pytest.approx(2 * 9 * 16 / 8)


def test_guarantees_carry_over_to_replace_one_and_to_groups():
    pure = PureDP(epsilon=0.5, neighbouring=ADD_REMOVE)
    assert value(pure, 7.0, REPLACE_ONE) == value(replace(pure, epsilon=1.0), 7.0)
    assert value(pure, 7.0, group_size=3) == value(replace(pure, epsilon=1.5), 7.0)
    zero = ZeroConcentrated(rho=0.1, neighbouring=ADD_REMOVE)
    assert value(zero, 7.0, REPLACE_ONE) == pytest.approx(7 * 0.4)
    assert value(zero, 7.0, REPLACE_ONE, group_size=3) == pytest.approx(7 * 0.1 * 36)
    noise = Laplace(noise_multiplier=4.0)
    assert value(noise, 7.0, REPLACE_ONE, group_size=2) == value(Laplace(noise_multiplier=1.0), 7.0)


NO_NOISE = [
    Gaussian(noise_multiplier=0.0),
    poisson(0.0, 0.5),
    fixed_size(0.0, 1, 2),
    DiscreteGaussian(standard_deviation=0.0, sensitivity=1.0),
    Skellam(variance=0.0, sensitivity=1.0, l1_sensitivity=1.0),
    Laplace(noise_multiplier=0.0),
    TreeAggregation(noise_multiplier=0.0, leaves=4),
    BandedMatrixFactorization(noise_multiplier=0.0, bands=1, participations=1),
]


@pytest.mark.parametrize("event", NO_NOISE, ids=lambda event: type(event).__name__)
def test_no_noise_is_no_protection(event):
    relation = ADD_REMOVE if isinstance(event, PoissonGaussian) else REPLACE_ONE
    assert (renyi.rdp([event], relation) == np.inf).all()
    assert renyi.epsilon([event], 1e-5, relation).epsilon == math.inf


REFUSED = [
    (poisson(1.0, 0.1), REPLACE_ONE, 1),
    (poisson(1.0, 0.1), ADD_REMOVE, 2),
    (poisson(1.0, 0.1), ZERO_OUT, 2),
    (fixed_size(1.0, 1, 2), ADD_REMOVE, 1),
    (fixed_size(1.0, 1, 2), ZERO_OUT, 1),
    (fixed_size(1.0, 1, 2), REPLACE_ONE, 2),
    (TreeAggregation(noise_multiplier=1.0, leaves=2), ADD_REMOVE, 1),
    (BandedMatrixFactorization(noise_multiplier=1.0, bands=1, participations=1), ADD_REMOVE, 1),
    (PureDP(epsilon=1.0, neighbouring=REPLACE_ONE), ADD_REMOVE, 1),
    (PureDP(epsilon=1.0, neighbouring=ZERO_OUT), REPLACE_ONE, 1),
    (PureDP(epsilon=1.0, neighbouring=ADD_REMOVE), ZERO_OUT, 1),
    (ZeroConcentrated(rho=1.0, neighbouring=REPLACE_ONE), ZERO_OUT, 1),
    (ZeroConcentrated(rho=1.0, neighbouring=ADD_REMOVE), ZERO_OUT, 1),
]


@pytest.mark.parametrize(("event", "neighbouring", "group_size"), REFUSED)
def test_what_has_no_formula_is_refused_by_name(event, neighbouring, group_size):
    with pytest.raises(UnsupportedAnalysisError, match=type(event).__name__):
        renyi.rdp([event], neighbouring, group_size=group_size)
    with pytest.raises(UnsupportedAnalysisError, match=type(event).__name__):
        renyi.epsilon([event], 1e-5, neighbouring, group_size=group_size)


@pytest.mark.parametrize(
    "event", [poisson(1.0, 0.1), Skellam(variance=1.0, sensitivity=1.0, l1_sensitivity=1.0)]
)
def test_rho_is_refused_by_name(event):
    with pytest.raises(UnsupportedAnalysisError, match=type(event).__name__):
        rho(event, ADD_REMOVE)
    with pytest.raises(UnsupportedAnalysisError, match="FixedSizeGaussian"):
        rho(fixed_size(1.0, 1, 2), REPLACE_ONE)


def test_rho_bounds_the_divergence_at_every_order():
    for event in (PureDP(epsilon=0.7, neighbouring=ADD_REMOVE), Laplace(noise_multiplier=2.0)):
        line = rho(event, ADD_REMOVE) * np.array(renyi.ORDERS)
        assert (renyi.rdp([event], ADD_REMOVE) <= line * (1 + 1e-12)).all()


# Safe sides, and what costs nothing


def exact_pure(pure, order):
    """Coin with odds exp(pure) against its mirror image, at fifty digits."""
    a, e = mp.mpf(order), mp.mpf(pure)
    return mp.log((mp.exp(a * e) + mp.exp((1 - a) * e)) / (1 + mp.exp(e))) / (a - 1)


def exact_laplace(pure, order):
    """Mironov 2017, arXiv:1702.07476, Proposition 6."""
    a, e = mp.mpf(order), mp.mpf(pure)
    total = a / (2 * a - 1) * mp.exp((a - 1) * e) + (a - 1) / (2 * a - 1) * mp.exp(-a * e)
    return mp.log(total) / (a - 1)


@pytest.mark.parametrize("order", [1.01, 1.07, 1.5, 3.0, 17.0, 1e3])
def test_bounded_losses_are_never_below_their_closed_forms(order):
    for power in np.linspace(-6, 2.4, 43):
        pure = 10.0**power
        with mp.workdps(50):
            response = PureDP(epsilon=pure, neighbouring=ADD_REMOVE)
            assert exact_pure(pure, order) <= value(response, order)
            release = Laplace(noise_multiplier=1 / pure)
            assert exact_laplace(1 / release.noise_multiplier, order) <= value(release, order)


def test_no_order_costs_more_than_the_pure_epsilon():
    for pure in (1e-3, 4.0, 900.0, 5000.0):
        event = PureDP(epsilon=pure, neighbouring=ADD_REMOVE)
        assert (one_step(event, ADD_REMOVE, 1, renyi.ORDERS) <= pure).all()


@pytest.mark.parametrize("pure", [1e4, 1e300, 1e308])
def test_losses_beyond_floating_point_cost_their_epsilon_and_warn_of_nothing(pure):
    for event in (
        PureDP(epsilon=pure, neighbouring=ADD_REMOVE),
        Laplace(noise_multiplier=1 / pure),
    ):
        found = one_step(event, ADD_REMOVE, 1, (1.5, 7.0))
        assert found == pytest.approx([pure, pure], rel=1e-12)


@pytest.mark.parametrize(("variance", "sensitivity"), [(1e-300, 5.0), (1e-3, 1e200)])
def test_a_skellam_divergence_that_overflows_is_infinite(variance, sensitivity):
    event = Skellam(variance=variance, sensitivity=sensitivity, l1_sensitivity=2 * sensitivity)
    assert (one_step(event, ADD_REMOVE, 1, (1.5, 7.0)) == np.inf).all()


def test_only_what_says_itself_that_it_costs_nothing_is_free():
    for event in (
        PureDP(epsilon=0.0, neighbouring=ADD_REMOVE),
        ZeroConcentrated(rho=0.0, neighbouring=ADD_REMOVE),
    ):
        assert one_step(event, ADD_REMOVE, 1, (1.5, 7.0)).tolist() == [0.0, 0.0]
    for event in (
        Gaussian(noise_multiplier=1e200),
        Laplace(noise_multiplier=1e200),
        PureDP(epsilon=1e-200, neighbouring=ADD_REMOVE),
    ):
        found = one_step(event, ADD_REMOVE, 1, (1.5, 7.0))
        assert ((found > 0) & (found < 1e-300)).all()


def test_rho_by_hand():
    """mu^2 / 2 of a Gaussian, epsilon^2 / 2 of a pure release."""
    assert rho(Gaussian(noise_multiplier=4.0), ADD_REMOVE, group_size=3) == 9 / 32
    assert rho(TreeAggregation(noise_multiplier=4.0, leaves=5), ZERO_OUT) == 4 / 32
    event = BandedMatrixFactorization(noise_multiplier=4.0, bands=7, participations=9)
    assert rho(event, REPLACE_ONE) == 36 / 32
    event = DiscreteGaussian(standard_deviation=8.0, sensitivity=3.0)
    assert rho(event, ADD_REMOVE) == 9 / 128
    assert rho(Laplace(noise_multiplier=4.0), ADD_REMOVE, group_size=3) == 9 / 32
    event = PureDP(epsilon=0.25, neighbouring=ADD_REMOVE)
    assert rho(event, REPLACE_ONE, group_size=3) == 36 / 32
    event = ZeroConcentrated(rho=0.25, neighbouring=ADD_REMOVE)
    assert rho(event, REPLACE_ONE, group_size=3) == 9.0


def test_steps_are_not_counted_here():
    one, many = (Gaussian(noise_multiplier=4.0, steps=steps) for steps in (1, 9))
    assert rho(one, ADD_REMOVE) == rho(many, ADD_REMOVE)
    assert (one_step(many, ADD_REMOVE, 1, (2.0,)) == one_step(one, ADD_REMOVE, 1, (2.0,))).all()


def test_a_count_that_others_are_chosen_from_has_no_divergence():
    event = NoisedCount(epsilon=0.5)
    for ask in (rho, lambda event, relation: one_step(event, relation, 1, (2.0,))):
        with pytest.raises(UnsupportedAnalysisError, match=r"NoisedCount\(.*use certified.epsilon"):
            ask(event, ADD_REMOVE)
