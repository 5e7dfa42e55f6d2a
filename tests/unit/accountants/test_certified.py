"""Certified bounds on epsilon and delta, against closed forms and sums at many digits."""

import json
import math
from fractions import Fraction
from pathlib import Path

import mpmath as mp
import pytest

from accountants import InvalidValueError, Neighbouring, UnsupportedAnalysisError, certified
from accountants.events import (
    BandedMatrixFactorization,
    DiscreteGaussian,
    FixedSizeGaussian,
    Gaussian,
    Laplace,
    PoissonGaussian,
    PureDP,
    Skellam,
    TreeAggregation,
    ZeroConcentrated,
)

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "accounting_values.json").read_text())
ADD, REPLACE, ZERO = Neighbouring.ADD_REMOVE, Neighbouring.REPLACE_ONE, Neighbouring.ZERO_OUT


def poisson(noise_multiplier, sample_rate, steps=1):
    return PoissonGaussian(noise_multiplier=noise_multiplier, sample_rate=sample_rate, steps=steps)


def above_normal(y):
    return mp.erfc(y / mp.sqrt(2)) / 2


def poisson_delta(sigma, q, epsilon, group_size=1):
    """One step, the larger of both directions, from the closed form."""
    s, q, epsilon = mp.mpf(sigma), mp.mpf(q), mp.mpf(epsilon)
    weights = [
        mp.binomial(group_size, k) * q**k * (1 - q) ** (group_size - k)
        for k in range(group_size + 1)
    ]

    def outcome(loss):
        ratio = mp.exp(loss)
        if ratio <= weights[0]:
            return None
        if group_size == 1:
            return s**2 * mp.log((ratio - weights[0]) / q) + mp.mpf(1) / 2
        low, high = mp.mpf(-1), mp.mpf(1)

        def excess(y):
            exponents = ((2 * k * y - k * k) / (2 * s**2) for k in range(group_size + 1))
            return mp.fsum(w * mp.exp(x) for w, x in zip(weights, exponents, strict=True)) - ratio

        while excess(low) > 0:
            low *= 2
        while excess(high) < 0:
            high *= 2
        for _ in range(150):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) < 0 else (low, middle)
        return high

    def p_above(y):
        return mp.fsum(w * above_normal((y - k) / s) for k, w in enumerate(weights))

    y = outcome(epsilon)
    forward = p_above(y) - mp.exp(epsilon) * above_normal(y / s)
    y = outcome(-epsilon)
    if y is None:
        return forward
    p_below = mp.fsum(w * above_normal((k - y) / s) for k, w in enumerate(weights))
    return max(forward, above_normal(-y / s) - mp.exp(epsilon) * p_below)


def replaced_delta(sigma, q, epsilon):
    """One step of a mixture against its mirror image."""
    s, q, epsilon = mp.mpf(sigma), mp.mpf(q), mp.mpf(epsilon)
    ratio, a = mp.exp(epsilon), q * mp.exp(-1 / (2 * s**2))
    half = (1 - q) * (1 - ratio) / 2
    y = s**2 * mp.log((mp.sqrt(half**2 + a * a * ratio) - half) / a)
    p, q_mass = (
        (1 - q) * above_normal(y / s) + q * above_normal((y - mean) / s) for mean in (1, -1)
    )
    return p - ratio * q_mass


def response_delta(loss, steps, epsilon):
    """Exact binomial sum for randomised responses."""
    loss, epsilon = mp.mpf(loss), mp.mpf(epsilon)
    p = 1 / (1 + mp.exp(-loss))
    losses = ((2 * j - steps) * loss for j in range(steps + 1))
    return mp.fsum(
        mp.binomial(steps, j) * p**j * (1 - p) ** (steps - j) * (1 - mp.exp(epsilon - x))
        for j, x in enumerate(losses)
        if x > epsilon
    )


def laplace_twice_delta(a, epsilon):
    """Two Laplace releases: atoms at +-a and a density exp((l - a) / 2) / 4 between them."""
    a, epsilon = mp.mpf(a), mp.mpf(epsilon)

    def once(remaining):
        if remaining < -a:
            return 1 - mp.exp(remaining)
        return max(mp.mpf(0), 1 - mp.exp((remaining - a) / 2))

    ends = once(epsilon - a) / 2 + once(epsilon + a) * mp.exp(-a) / 2
    kinks = sorted({-a, max(-a, min(a, epsilon - a)), max(-a, min(a, epsilon + a)), a})
    between = mp.quad(lambda x: mp.exp((x - a) / 2) / 4 * once(epsilon - x), kinks)
    return ends + between


def encloses(bounds, delta, exact, digits=60):
    """Whether delta(lower) >= delta >= delta(upper), in exact numbers."""
    with mp.workdps(digits + max(0, round(-math.log10(delta)))):
        over = bounds.lower == 0 or exact(bounds.lower) >= delta
        return over and exact(bounds.upper) <= delta


def gap(bounds):
    return (bounds.upper - bounds.lower) / bounds.upper if bounds.upper > 0 else 0.0


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["id"])
def test_golden_values_lie_between_the_bounds(case):
    phases = [poisson(*phase) for phase in case["phases"]]
    bounds = certified.epsilon(phases, case["delta"], ADD)
    assert bounds.lower <= case["upper"]
    assert bounds.upper >= case["lower"]
    assert gap(bounds) <= 1e-2


def test_a_known_number():
    """Golden: three accountants agree on 1.8282 for 1000 steps at sigma 1, q 0.01, delta 1e-5."""
    bounds = certified.epsilon([poisson(1.0, 0.01, 1000)], 1e-5, ADD, relative_gap=1e-5)
    assert bounds.lower == pytest.approx(1.82824, abs=2e-5)
    assert bounds.upper == pytest.approx(1.82824, abs=2e-5)
    assert bounds.method == certified.TILTED
    assert float(bounds) == bounds.upper


@pytest.mark.parametrize("delta", [0.2, 1e-3, 1e-9, 1e-20, 1e-60, 1e-100])
@pytest.mark.parametrize(
    ("sigma", "q"), [(1.0, 0.3), (0.5, 0.01), (4.0, 0.9), (0.2, 0.05), (1.0, 1 - 1e-6)]
)
def test_one_poisson_step(sigma, q, delta):
    bounds = certified.epsilon([poisson(sigma, q)], delta, ADD)
    assert encloses(bounds, delta, lambda e: poisson_delta(sigma, q, e))
    assert gap(bounds) <= 1e-2


def test_one_step_at_delta_1e_20_as_recorded():
    """Golden: 4.404189 at sigma 1, q 0.01 (closed form)."""
    bounds = certified.epsilon([poisson(1.0, 0.01)], 1e-20, ADD)
    assert bounds.lower <= 4.40419
    assert bounds.upper >= 4.404188


@pytest.mark.parametrize("delta", [1e-2, 1e-6, 1e-30])
@pytest.mark.parametrize(("sigma", "q"), [(1.0, 0.1), (2.0, 0.7), (0.4, 0.003)])
def test_one_poisson_step_with_a_record_replaced(sigma, q, delta):
    bounds = certified.epsilon([poisson(sigma, q)], delta, REPLACE)
    assert encloses(bounds, delta, lambda e: replaced_delta(sigma, q, e))
    assert gap(bounds) <= 1e-2


@pytest.mark.parametrize("delta", [1e-2, 1e-6, 1e-15])
@pytest.mark.parametrize(("sigma", "q", "size"), [(2.0, 0.1, 2), (1.0, 0.02, 4), (3.0, 0.8, 3)])
def test_one_poisson_step_for_units_of_several_records(sigma, q, size, delta):
    bounds = certified.epsilon([poisson(sigma, q)], delta, ADD, group_size=size)
    assert encloses(bounds, delta, lambda e: poisson_delta(sigma, q, e, size))
    assert gap(bounds) <= 1e-2


@pytest.mark.parametrize("delta", [1e-2, 1e-6, 1e-15])
@pytest.mark.parametrize(("sigma", "batch", "size"), [(2.0, 10, 100), (1.0, 3, 4)])
def test_one_batch_of_fixed_size(sigma, batch, size, delta):
    """A drawn record moves the sum by 2C: Poisson at half the noise bounds it, both ways."""
    event = FixedSizeGaussian(noise_multiplier=sigma, batch_size=batch, dataset_size=size, steps=1)
    bounds = certified.epsilon([event], delta, REPLACE)
    assert encloses(bounds, delta, lambda e: poisson_delta(sigma / 2, batch / size, e))
    assert gap(bounds) <= 1e-2


@pytest.mark.parametrize("delta", [1e-2, 1e-9])
def test_many_batches_of_fixed_size_cost_no_more_than_without_sampling(delta):
    event = FixedSizeGaussian(noise_multiplier=3.0, batch_size=9, dataset_size=10, steps=20)
    plain = Gaussian(noise_multiplier=3.0, steps=20)
    bounds = certified.epsilon([event], delta, REPLACE)
    assert 0 < bounds.lower <= bounds.upper
    assert bounds.upper <= certified.epsilon([plain], delta, REPLACE).upper


@pytest.mark.parametrize("delta", [0.3, 1e-3, 1e-6, 1e-12])
@pytest.mark.parametrize(
    ("loss", "steps"), [(1.0, 1), (0.1, 50), (1.0, 10), (3.0, 4), (8.0, 3), (0.01, 1000)]
)
def test_randomised_responses(loss, steps, delta):
    event = PureDP(epsilon=loss, neighbouring=ADD, steps=steps)
    bounds = certified.epsilon([event], delta, ADD)
    assert encloses(bounds, delta, lambda e: response_delta(loss, steps, e))
    assert bounds.upper == 0 or gap(bounds) <= 1e-2
    assert bounds.upper <= steps * loss * (1 + 1e-12)


@pytest.mark.parametrize("delta", [0.2, 1e-2, 1e-6])
@pytest.mark.parametrize("a", [0.5, 2.0, 5.0])
def test_one_laplace_release(a, delta):
    """delta(epsilon) = 1 - exp((epsilon - a) / 2), so epsilon = a + 2 log(1 - delta)."""
    bounds = certified.epsilon([Laplace(noise_multiplier=1 / a)], delta, ADD)
    exact = max(a + 2 * math.log1p(-delta), 0)
    assert bounds.lower <= exact * (1 + 1e-12)
    assert bounds.upper >= exact * (1 - 1e-12)
    assert bounds.upper - bounds.lower <= 1e-3 * a


@pytest.mark.parametrize("delta", [1e-2, 1e-5])
@pytest.mark.parametrize("a", [0.5, 2.0])
def test_two_laplace_releases(a, delta):
    bounds = certified.epsilon([Laplace(noise_multiplier=1 / a, steps=2)], delta, ADD)
    with mp.workdps(25):
        assert laplace_twice_delta(a, bounds.lower) >= delta
        assert laplace_twice_delta(a, bounds.upper) <= delta


@pytest.mark.parametrize(("a", "steps"), [(1.0, 10**6), (2.0, 10**5), (3.0, 10**4)])
def test_many_laplace_releases_cost_more_than_their_mean_loss(a, steps):
    """Beyond the mean loss T (a + exp(-a) - 1), by four standard deviations at delta 1e-5."""
    bounds = certified.epsilon([Laplace(noise_multiplier=1 / a, steps=steps)], 1e-5, ADD)
    mean = steps * (a + math.expm1(-a))
    assert bounds.upper > mean + 3 * math.sqrt(steps) * 0.3 * a
    half = certified.delta([Laplace(noise_multiplier=1 / a, steps=steps)], 0.9 * mean, ADD)
    assert half.upper > 0.999999


@pytest.mark.parametrize("sigma", [0.3, 1.0, 20.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-12, 1e-100])
def test_sampling_almost_everything_is_the_closed_form(sigma, delta):
    plain = certified.epsilon([Gaussian(noise_multiplier=sigma, steps=5)], delta, ADD)
    nearly = certified.epsilon([poisson(sigma, 1 - 1e-13, 5)], delta, ADD)
    assert plain.method == certified.CLOSED_FORM
    assert nearly.lower <= plain.upper
    assert nearly.upper >= plain.lower * (1 - 1e-9)
    assert gap(nearly) <= 1e-2


@pytest.mark.parametrize("loss", [1e-3, 1e-6, 1e-9])
def test_a_tiny_pure_release_hardly_adds_to_others(loss):
    weak = PureDP(epsilon=loss, neighbouring=ADD)
    alone = certified.epsilon([poisson(1.0, 0.01, 1000)], 1e-5, ADD)
    mixed = certified.epsilon([weak, poisson(1.0, 0.01, 1000)], 1e-5, ADD)
    assert alone.lower <= mixed.upper
    assert mixed.upper <= alone.upper * 1.01 + loss


@pytest.mark.parametrize("relation", list(Neighbouring))
def test_a_gaussian_beside_other_steps_adds_its_mu(relation):
    """Two releases at 3 and 4 are one at 2.4; split, it goes through the lattices."""
    weak = PureDP(epsilon=1e-9, neighbouring=relation)
    apart = [Gaussian(noise_multiplier=3.0), Gaussian(noise_multiplier=4.0), weak]
    mixed = certified.epsilon(apart, 1e-6, relation)
    alone = certified.epsilon([Gaussian(noise_multiplier=2.4)], 1e-6, relation)
    assert mixed.lower <= alone.upper + 1e-6
    assert mixed.upper >= alone.lower
    assert gap(mixed) <= 1e-2


def test_replacing_doubles_the_shift():
    one = certified.epsilon([Gaussian(noise_multiplier=2.0)], 1e-5, REPLACE)
    other = certified.epsilon([Gaussian(noise_multiplier=1.0)], 1e-5, ADD)
    assert (one.lower, one.upper) == (other.lower, other.upper)
    laplace = certified.epsilon([Laplace(noise_multiplier=2.0)], 0.0, REPLACE)
    assert laplace.upper == pytest.approx(1.0)


@pytest.mark.parametrize("case", GOLDEN["replace_one"], ids=lambda case: case["source"])
def test_replacing_a_record_matches_golden_values(case):
    bounds = certified.epsilon([poisson(*p) for p in case["phases"]], case["delta"], REPLACE)
    assert bounds.lower - 1e-6 <= case["epsilon"] <= bounds.upper + 1e-3


@pytest.mark.parametrize(
    "event",
    [
        DiscreteGaussian(standard_deviation=10.0, sensitivity=3.0, steps=5),
        Skellam(variance=100.0, sensitivity=3.0, l1_sensitivity=9.0),
        ZeroConcentrated(rho=0.1, neighbouring=ADD),
    ],
    ids=["discrete", "skellam", "zcdp"],
)
def test_renyi_only_releases_give_an_upper_bound_over_the_lower_one_of_the_rest(event):
    alone = certified.epsilon([poisson(1.0, 0.01, 100)], 1e-5, ADD)
    mixed = certified.epsilon([event, poisson(1.0, 0.01, 100)], 1e-5, ADD)
    assert mixed.method.startswith(certified.RENYI)
    assert alone.lower * (1 - 1e-2) <= mixed.lower
    assert alone.upper < mixed.upper < math.inf
    assert certified.delta([event], 1.0, ADD).method.startswith(certified.RENYI)


def test_replacing_costs_four_times_the_rho():
    """Bun & Steinke 2016, Proposition 1.9: two neighbouring steps."""
    one = certified.epsilon([ZeroConcentrated(rho=0.1, neighbouring=ADD)], 1e-5, REPLACE)
    other = certified.epsilon([ZeroConcentrated(rho=0.4, neighbouring=REPLACE)], 1e-5, REPLACE)
    assert (one.lower, one.upper) == (other.lower, other.upper)


@pytest.mark.parametrize(
    ("steps", "bound"), [([], 0.0), ([PureDP(epsilon=0.0, neighbouring=ADD, steps=5)], 0.0)]
)
def test_nothing_released_costs_nothing(steps, bound):
    found = certified.epsilon(steps, 1e-5, ADD)
    assert (found.lower, found.upper) == (bound, bound)
    assert found.method == certified.NOTHING_RELEASED
    assert certified.delta(steps, 0.0, ADD).upper == 0
    assert certified.epsilon(steps, 0.0, ADD).upper == 0


@pytest.mark.parametrize(
    "event",
    [
        Gaussian(noise_multiplier=0.0),
        poisson(0.0, 1e-6),
        FixedSizeGaussian(noise_multiplier=0.0, batch_size=1, dataset_size=9, steps=1),
        Laplace(noise_multiplier=0.0),
        DiscreteGaussian(standard_deviation=0.0, sensitivity=1.0),
        Skellam(variance=0.0, sensitivity=1.0, l1_sensitivity=1.0),
        TreeAggregation(noise_multiplier=0.0, leaves=4),
        BandedMatrixFactorization(noise_multiplier=0.0, bands=1, participations=1),
    ],
    ids=lambda event: type(event).__name__,
)
@pytest.mark.parametrize("delta", [0.0, 1e-5])
def test_no_noise_protects_nothing(event, delta):
    bounds = certified.epsilon([event, Laplace(noise_multiplier=1.0)], delta, REPLACE)
    assert (bounds.lower, bounds.upper) == (math.inf, math.inf)
    assert bounds.method == certified.UNPROTECTED
    assert certified.delta([event], 3.0, REPLACE).lower == 1


def test_delta_zero_is_the_sum_of_pure_epsilons():
    events = [
        Laplace(noise_multiplier=2.0, steps=3),
        PureDP(epsilon=0.25, neighbouring=ADD, steps=2),
    ]
    bounds = certified.epsilon(events, 0.0, ADD)
    assert bounds.lower <= 2.0 <= bounds.upper
    assert bounds.upper - bounds.lower < 1e-13
    assert bounds.method == certified.PURE
    assert certified.epsilon(events, 0.0, REPLACE).upper == pytest.approx(4.0, rel=1e-14)
    assert certified.epsilon([poisson(9.0, 0.001)], 0.0, ADD).upper == math.inf


def test_large_and_small_deltas():
    event = poisson(1.0, 0.01, 100)
    assert certified.epsilon([event], 0.9999, ADD).upper == 0
    for delta in (1e-20, 1e-50, 1e-3):
        assert gap(certified.epsilon([event], delta, ADD)) <= 1e-2


@pytest.mark.parametrize("delta", [1e-280, 1e-299, 1e-310, 5e-324])
def test_deltas_at_the_end_of_floating_point_give_valid_bounds(delta):
    bounds = certified.epsilon([poisson(1.0, 0.01, 100)], delta, ADD)
    closer = certified.epsilon([poisson(1.0, 0.01, 100)], 1e-250, ADD)
    assert bounds.upper >= closer.lower > 0


@pytest.mark.parametrize("relative_gap", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize(
    ("event", "delta"),
    [
        (poisson(1.0, 0.01, 1000), 1e-5),
        (poisson(0.6, 0.001, 500), 1e-6),
        (poisson(5.0, 0.3, 100), 1e-10),
        (poisson(0.8442, 0.0005273, 543), 3.46e-6),
        (poisson(0.572, 0.0505, 1), 0.0268),
        (Laplace(noise_multiplier=5.0, steps=50), 1e-5),
    ],
    ids=["usual", "rare", "noisy", "rarer", "once", "laplace"],
)
def test_the_gap_asked_for_is_kept(event, delta, relative_gap):
    bounds = certified.epsilon([event], delta, ADD, relative_gap=relative_gap)
    assert gap(bounds) <= relative_gap * (1 + 1e-9)


def test_finer_answers_lie_within_coarser_ones():
    for events, relation in [
        ([poisson(0.7, 0.02, 300), Laplace(noise_multiplier=3.0)], ADD),
        ([poisson(0.6394, 0.004285, 209)], REPLACE),
        ([Gaussian(noise_multiplier=2.0), poisson(2.0, 0.5, 10)], ZERO),
    ]:
        found = [
            certified.epsilon(events, 1e-6, relation, relative_gap=width)
            for width in (1e-1, 1e-2, 1e-3, 1e-4)
        ]
        assert max(each.lower for each in found) <= min(each.upper for each in found)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize(("sigma", "q"), [(1.0, 0.3), (0.5, 0.01)])
def test_delta_of_one_poisson_step(sigma, q, epsilon):
    bounds = certified.delta([poisson(sigma, q)], epsilon, ADD)
    with mp.workdps(50):
        exact = poisson_delta(sigma, q, epsilon)
    assert bounds.lower <= exact <= bounds.upper
    assert gap(bounds) <= 2e-2


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 2.9, 3.0, 3.1, 100.0, 1e300])
def test_delta_up_to_and_beyond_the_largest_loss(epsilon):
    """Three randomised responses of epsilon 1: nothing is left beyond 3."""
    bounds = certified.delta([PureDP(epsilon=1.0, neighbouring=ADD, steps=3)], epsilon, ADD)
    with mp.workdps(40):
        exact = response_delta(1.0, 3, epsilon)
    assert bounds.lower <= exact <= bounds.upper
    assert bounds.upper <= 1.05 * exact + 1e-10


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 2.0, 50.0])
def test_delta_of_one_laplace_release(epsilon):
    bounds = certified.delta([Laplace(noise_multiplier=1.0)], epsilon, ADD)
    exact = max(-math.expm1((epsilon - 1) / 2), 0.0)
    assert bounds.lower <= exact * (1 + 1e-12)
    assert exact * (1 - 1e-12) <= bounds.upper <= 1.05 * exact + 1e-12


def test_delta_of_a_gaussian_is_the_closed_form():
    """Golden: 0.126937 at sigma 1, epsilon 1 (Balle & Wang 2018)."""
    bounds = certified.delta([Gaussian(noise_multiplier=1.0)], 1.0, ADD)
    assert bounds.lower == pytest.approx(0.126936737507)
    assert bounds.upper == pytest.approx(0.126936737507)


@pytest.mark.parametrize(
    ("event", "relation", "group_size", "why"),
    [
        (
            FixedSizeGaussian(noise_multiplier=1.0, batch_size=1, dataset_size=2, steps=1),
            ADD,
            1,
            "FixedSizeGaussian has no sound analysis under add_remove",
        ),
        (
            FixedSizeGaussian(noise_multiplier=1.0, batch_size=1, dataset_size=2, steps=1),
            ZERO,
            1,
            "FixedSizeGaussian has no sound analysis under zero_out",
        ),
        (
            FixedSizeGaussian(noise_multiplier=1.0, batch_size=1, dataset_size=2, steps=1),
            REPLACE,
            2,
            "FixedSizeGaussian .* for units of 2 records",
        ),
        (
            TreeAggregation(noise_multiplier=1.0, leaves=4),
            ADD,
            1,
            "TreeAggregation has no sound analysis under add_remove",
        ),
        (
            BandedMatrixFactorization(noise_multiplier=1.0, bands=2, participations=2),
            ADD,
            1,
            "BandedMatrixFactorization has no sound analysis under add_remove",
        ),
        (
            poisson(1.0, 0.5),
            REPLACE,
            2,
            "PoissonGaussian has no sound analysis under replace_one for units of 2 records",
        ),
        (
            PureDP(epsilon=1.0, neighbouring=REPLACE),
            ADD,
            1,
            "PureDP has no sound analysis under add_remove",
        ),
        (
            PureDP(epsilon=1.0, neighbouring=ADD),
            ZERO,
            1,
            "PureDP has no sound analysis under zero_out",
        ),
        (
            ZeroConcentrated(rho=1.0, neighbouring=ZERO),
            REPLACE,
            1,
            "ZeroConcentrated has no sound analysis under replace_one",
        ),
    ],
)
def test_a_mix_without_a_sound_analysis_is_refused_by_name(event, relation, group_size, why):
    for delta in (0.0, 1e-5):
        with pytest.raises(UnsupportedAnalysisError, match=why):
            certified.epsilon(
                [Gaussian(noise_multiplier=1.0), event], delta, relation, group_size=group_size
            )
    with pytest.raises(UnsupportedAnalysisError, match=why):
        certified.delta([event], 1.0, relation, group_size=group_size)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"delta": -1e-9}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"delta": math.nan}, "delta"),
        ({"group_size": 0}, "group_size"),
        ({"group_size": 1.5}, "group_size"),
        ({"relative_gap": 0.0}, "relative_gap"),
        ({"relative_gap": math.nan}, "relative_gap"),
        ({"neighbouring": "swap"}, "neighbouring"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(changes, name):
    arguments = {"events": [poisson(1.0, 0.5)], "delta": 1e-5, "neighbouring": ADD} | changes
    with pytest.raises(InvalidValueError, match=f"^{name} must be"):
        certified.epsilon(**arguments)


@pytest.mark.parametrize("epsilon", [-1e-9, math.inf, math.nan, None])
def test_an_epsilon_out_of_range_is_refused(epsilon):
    with pytest.raises(InvalidValueError, match="^epsilon must be"):
        certified.delta([poisson(1.0, 0.5)], epsilon, ADD)


def test_what_is_no_event_is_refused():
    with pytest.raises(UnsupportedAnalysisError, match="an event must be one of"):
        certified.epsilon([("poisson", 1.0)], 1e-5, ADD)


@pytest.mark.parametrize(
    ("events", "relation", "group_size"),
    [
        ([poisson(1e-300, 0.5, 3)], ADD, 1),
        ([poisson(1e-2, 0.5, 3)], ADD, 1),
        ([poisson(0.045, 0.02, 1)], ADD, 2),
        ([poisson(0.045, 0.02, 1)], REPLACE, 1),
        ([poisson(1e8, 0.5, 3)], ADD, 1),
        ([poisson(1e300, 0.5, 3)], ADD, 1),
        ([poisson(1.0, 1e-12, 1000)], ADD, 1),
        ([poisson(1.0, 1 - 2.0**-40, 2)], ADD, 3),
        ([poisson(1.0, 0.5, 10**12)], ADD, 1),
        ([poisson(100.0, 0.01, 10)], ADD, 1000),
        ([Laplace(noise_multiplier=1e-300)], ADD, 1),
        ([Laplace(noise_multiplier=1e300), poisson(1.0, 0.1)], ADD, 1),
        ([PureDP(epsilon=1e-300, neighbouring=ADD), poisson(1.0, 0.1)], ADD, 1),
        ([PureDP(epsilon=1e300, neighbouring=ADD), poisson(1.0, 0.1)], ADD, 1),
        ([Gaussian(noise_multiplier=1e-3), poisson(1.0, 0.1)], ADD, 1),
        ([Gaussian(noise_multiplier=1e170), poisson(1.0, 0.1)], ADD, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("delta", [1e-5, 1e-40])
def test_extreme_events_give_bounds_and_no_warning(events, relation, group_size, delta):
    bounds = certified.epsilon(events, delta, relation, group_size=group_size)
    assert 0 <= bounds.lower <= bounds.upper
    assert certified.delta(events, 1.0, relation, group_size=group_size).upper <= 1


def test_a_loss_near_the_end_of_floating_point_is_not_overstated():
    """The truth is just below 589.02246: the closed form gives a smaller delta there."""
    sigma, q, delta = 0.0460341220616957, 0.013748511333216102, 3.269689617393422e-63
    bounds = certified.epsilon([poisson(sigma, q)], delta, ADD, relative_gap=1e-4)
    assert encloses(bounds, delta, lambda e: poisson_delta(sigma, q, e), digits=300)


@pytest.mark.parametrize(("one", "steps"), [(0.006723544634255388, 3), (0.1, 3), (1 / 3, 7)])
def test_sums_of_pure_epsilons_are_rounded_up(one, steps):
    release = PureDP(epsilon=one, neighbouring=ADD, steps=steps)
    bounds = certified.epsilon([release], 0.0, ADD)
    exact = Fraction(one) * steps
    assert Fraction(bounds.lower) <= exact <= Fraction(bounds.upper)
    below = certified.delta([release], float(exact) * (1 - 1e-9), ADD)
    assert below.upper > 0
    assert certified.delta([release], bounds.upper, ADD).upper == 0


def test_many_coins_lose_nothing_to_the_grid():
    """Golden: the exact binomial, at 40 digits, gives 0.05655956827."""
    coins = PureDP(epsilon=0.023603478098130536, neighbouring=ADD, steps=6672)
    bounds = certified.delta([coins], 4.197, ADD)
    assert bounds.lower <= 0.05655956827 <= bounds.upper
    assert bounds.upper - bounds.lower < 1e-6 * bounds.upper


def test_large_pure_losses_name_the_sum_that_bounds_them():
    bounds = certified.epsilon([PureDP(epsilon=300.0, neighbouring=ADD, steps=2)], 1e-6, ADD)
    assert (bounds.upper, bounds.method) == (pytest.approx(600.0), certified.PURE)


def test_the_quick_answer_agrees_with_the_bound():
    for sigma in (0.5, 1.0, 1.5, 2.0):
        plan = [PoissonGaussian(noise_multiplier=sigma, sample_rate=0.05, steps=100)]
        exact = certified.epsilon(plan, 1e-5, Neighbouring.ADD_REMOVE)
        for limit in (0.5, 1.0, 2.0, 4.0):
            assert certified.is_within(plan, 1e-5, limit, Neighbouring.ADD_REMOVE) == (
                exact.upper <= limit
            )
        assert certified.is_within(plan, 1e-5, exact.upper, Neighbouring.ADD_REMOVE)
        assert not certified.is_within(
            plan, 1e-5, exact.lower * (1 - 1e-6), Neighbouring.ADD_REMOVE
        )
