"""Noise in shares: what protects a client when some drop out or collude."""

import doctest
import math
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accountants import certified
from accountants import noise_shares as units
from accountants.errors import InvalidValueError, UnsupportedAnalysisError
from accountants.events import (
    BandedMatrixFactorization,
    DiscreteGaussian,
    Gaussian,
    Laplace,
    PoissonGaussian,
    Skellam,
    TreeAggregation,
)
from accountants.guarantees import Neighbouring, Unit
from accountants.noise_shares import NoiseShares

ADD_REMOVE, REPLACE_ONE, ZERO_OUT = (
    Neighbouring.ADD_REMOVE,
    Neighbouring.REPLACE_ONE,
    Neighbouring.ZERO_OUT,
)
SKELLAM = Skellam(variance=100.0, sensitivity=5.0, l1_sensitivity=25.0, steps=3)


def noise(sigma, steps=1):
    return Gaussian(noise_multiplier=sigma, steps=steps)


def shares(share, clients=10, dropouts=0, colluders=0):
    return NoiseShares(share=share, clients=clients, dropouts=dropouts, colluders=colluders)


def test_examples_in_the_documentation():
    result = doctest.testmod(units)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("lost", "golden"),
    [
        (0, 13.20671224045199),
        (1, 14.119434283303528),
        (3, 16.589742258338653),
        (5, 20.675508046994022),
        (9, 64.16881038127411),
    ],
)
def test_lost_shares_reach_golden_values(lost, golden):
    """Ten clients, sigma 4 in all, 100 rounds, delta 1e-5; closed form of dp-accounting 0.6.0."""
    designed = NoiseShares.for_total(noise(4.0, 100), clients=10, dropouts=0, colluders=0)
    for dropouts in range(lost + 1):
        left = replace(designed, dropouts=dropouts, colluders=lost - dropouts)
        event = left.protecting(ZERO_OUT)
        assert event.steps == 100
        assert certified.epsilon([event], 1e-5, ZERO_OUT).upper == pytest.approx(golden, abs=1e-5)


def test_four_shares_double_the_noise():
    assert shares(noise(2.0, 7), clients=4).protecting(ZERO_OUT) == noise(4.0, 7)
    assert shares(noise(2.0, 7), 9, dropouts=3, colluders=2).protecting(REPLACE_ONE) == noise(
        4.0, 7
    )


def test_a_designed_share_holds_in_the_worst_case_and_is_better_otherwise():
    designed = NoiseShares.for_total(noise(4.0), clients=10, dropouts=4, colluders=2)
    assert designed.share == noise(2.0)
    assert designed.protecting(ZERO_OUT) == noise(4.0)
    assert replace(designed, dropouts=0).protecting(ZERO_OUT).noise_multiplier > 4.0


def test_one_remaining_client_is_protected_by_its_own_share():
    assert shares(noise(2.0), dropouts=5, colluders=4).protecting(ZERO_OUT) == noise(2.0)


def test_sampling_is_kept():
    event = PoissonGaussian(noise_multiplier=1.0, sample_rate=0.1, steps=30)
    found = shares(event, clients=16)
    assert found.protecting(ZERO_OUT) == replace(event, noise_multiplier=4.0)
    assert "nobody else" in found.assumptions[-1]
    certain = shares(replace(event, sample_rate=1.0), clients=16)
    assert len(certain.assumptions) == len(found.assumptions) - 1


def test_variances_of_skellam_shares_add_up():
    found = shares(SKELLAM, dropouts=2, colluders=1)
    assert found.protecting(ZERO_OUT) == replace(SKELLAM, variance=700.0)
    designed = NoiseShares.for_total(SKELLAM, clients=10, dropouts=3, colluders=2)
    assert designed.share == replace(SKELLAM, variance=20.0)


def test_two_skellam_shares_are_one_by_their_probabilities():
    """The distribution of a sum, by convolution, against that with the added variance."""
    from scipy.stats import skellam

    one = skellam.pmf(range(-60, 61), 2.0, 2.0)
    both = shares(replace(SKELLAM, variance=4.0), clients=2).protecting(ZERO_OUT).variance / 2
    for value in (0, 1, 5, -7):
        total = sum(one[60 + k] * one[60 + value - k] for k in range(-50, 51))
        assert total == pytest.approx(skellam.pmf(value, both, both), rel=1e-9)


@pytest.mark.parametrize(
    "share",
    [
        DiscreteGaussian(standard_deviation=4.0, sensitivity=1.0),
        Laplace(noise_multiplier=1.0),
        TreeAggregation(noise_multiplier=1.0, leaves=4),
        BandedMatrixFactorization(noise_multiplier=1.0, bands=2, participations=2),
        4.0,
    ],
)
def test_noise_whose_sums_are_another_kind_is_refused_by_name(share):
    name = type(share).__name__
    with pytest.raises(UnsupportedAnalysisError, match=f"got {name}"):
        shares(share)
    with pytest.raises(UnsupportedAnalysisError, match=f"got {name}"):
        NoiseShares.for_total(share, clients=10, dropouts=0, colluders=0)


def test_discrete_gaussians_are_sent_to_skellam():
    with pytest.raises(UnsupportedAnalysisError, match="no discrete Gaussian; use Skellam"):
        shares(DiscreteGaussian(standard_deviation=4.0, sensitivity=1.0))


@pytest.mark.parametrize("relation", [ADD_REMOVE, "add_remove"])
def test_a_client_that_is_removed_would_take_its_noise_with_it(relation):
    with pytest.raises(UnsupportedAnalysisError, match="add_remove"):
        shares(noise(2.0)).protecting(relation)


@pytest.mark.parametrize(
    ("clients", "dropouts", "colluders", "message"),
    [
        (0, 0, 0, "clients"),
        (10, 10, 0, "no noise would be left"),
        (10, 0, 10, "no noise would be left"),
        (10, 5, 5, "no noise would be left"),
        (3, 4, 0, "no noise would be left"),
        (10, -1, 0, "dropouts"),
        (10, 0, -1, "colluders"),
        (10, 0.5, 0, "dropouts"),
        (10, 0, math.nan, "colluders"),
        (True, 0, 0, "clients"),
    ],
)
def test_somebody_must_be_left(clients, dropouts, colluders, message):
    for make in (
        lambda: shares(noise(2.0), clients, dropouts, colluders),
        lambda: NoiseShares.for_total(
            noise(2.0), clients=clients, dropouts=dropouts, colluders=colluders
        ),
    ):
        with pytest.raises(InvalidValueError, match=message):
            make()


def test_too_much_noise_is_no_number():
    with pytest.raises(InvalidValueError, match="noise_of_the_sum"):
        shares(noise(1.7e308)).protecting(ZERO_OUT)


def test_no_noise_protects_nothing():
    found = NoiseShares.for_total(noise(0.0), clients=10, dropouts=0, colluders=0)
    event = found.protecting(ZERO_OUT)
    assert event == noise(0.0)
    assert certified.epsilon([event], 1e-5, ZERO_OUT).upper == math.inf


def test_the_report_says_what_was_assumed():
    found = shares(noise(2.0), clients=10, dropouts=3, colluders=2)
    assert (found.unit, found.remaining) == (Unit.CLIENT, 5)
    text = " ".join(found.assumptions)
    for words in ("Of 10 clients at most 3 drop out", "At most 2 clients", "honest but curious"):
        assert words in text
    with pytest.raises(FrozenInstanceError):
        found.dropouts = 0


noises = st.floats(0, 1e150) | st.sampled_from([5e-324, 1e-310, 0.1, 1.0, 4.2])
counts = st.integers(1, 10**6)


@given(noises, counts)
def test_sums_are_rounded_down_and_shares_up(sigma, clients):
    exact = clients * Fraction(sigma) ** 2
    found = shares(noise(sigma), clients).protecting(ZERO_OUT).noise_multiplier
    assert Fraction(found) ** 2 <= exact < Fraction(math.nextafter(found, math.inf)) ** 2

    designed = NoiseShares.for_total(noise(sigma), clients=clients, dropouts=0, colluders=0)
    assert designed.protecting(ZERO_OUT).noise_multiplier >= sigma
    part = Fraction(designed.share.noise_multiplier)
    assert clients * part**2 >= Fraction(sigma) ** 2
    if sigma:
        below = Fraction(math.nextafter(designed.share.noise_multiplier, 0.0))
        assert clients * below**2 < Fraction(sigma) ** 2


@given(noises, counts)
def test_skellam_variances_are_rounded_likewise(variance, clients):
    share = replace(SKELLAM, variance=variance)
    found = shares(share, clients).protecting(ZERO_OUT).variance
    assert Fraction(found) <= clients * Fraction(variance)
    assert Fraction(math.nextafter(found, math.inf)) > clients * Fraction(variance)
    designed = NoiseShares.for_total(share, clients=clients, dropouts=0, colluders=0)
    assert designed.protecting(ZERO_OUT).variance >= variance


@given(
    clients=st.integers(2, 50),
    lost=st.integers(0, 48),
    told=st.integers(0, 48),
    sigma=st.floats(0.1, 50),
)
def test_every_lost_share_costs(clients, lost, told, sigma):
    if clients - lost - told < 2:
        return
    found = shares(noise(sigma), clients, lost, told)
    for worse in (replace(found, dropouts=lost + 1), replace(found, colluders=told + 1)):
        less, more = worse.protecting(ZERO_OUT), found.protecting(ZERO_OUT)
        assert less.noise_multiplier < more.noise_multiplier
        assert (
            certified.epsilon([less], 1e-5, ZERO_OUT).upper
            > certified.epsilon([more], 1e-5, ZERO_OUT).lower
        )
