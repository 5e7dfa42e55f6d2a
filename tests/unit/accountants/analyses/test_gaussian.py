"""The closed form of the Gaussian mechanism, against the same formula at many more digits."""

import math

import mpmath as mp
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from accountants import InvalidValueError
from accountants.analyses import gaussian

some = settings(max_examples=30, deadline=None, derandomize=True)
mus = st.floats(-4, 1.5).map(lambda power: 10.0**power)
deltas = st.floats(-250, -0.01).map(lambda power: 10.0**power)


def exact_delta(mu, epsilon, digits=60):
    """Balle & Wang 2018, Theorem 8, with enough digits that nothing cancels."""
    with mp.workdps(digits):
        mu, epsilon = mp.mpf(mu), mp.mpf(epsilon)
        a, b = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
        root = mp.sqrt(2)
        return mp.erfc(-a / root) / 2 - mp.exp(epsilon) * mp.erfc(-b / root) / 2


def digits_for(delta):
    return 60 + max(0, round(-math.log10(delta)))


def test_one_release_at_noise_one_costs_what_is_published():
    """Golden: Balle & Wang 2018, sigma = 1, delta = 1e-5 gives 4.377178."""
    lower, upper = gaussian.epsilon(1.0, 1e-5)
    assert 4.377177 < lower <= upper < 4.377179


def test_delta_at_epsilon_zero_is_the_total_variation_distance():
    """2 Phi(mu / 2) - 1 = erf(mu / sqrt(8)) = 0.382925 at mu = 1."""
    lower, upper = gaussian.delta(1.0, 0.0)
    assert lower <= math.erf(1 / math.sqrt(8)) <= upper
    assert upper - lower < 1e-13


@some
@given(mu=mus, delta=deltas)
@example(mu=1.0, delta=1e-300)
@example(mu=100.0, delta=1e-5)
@example(mu=30.0, delta=0.999)
@example(mu=1e-3, delta=1e-9)
def test_epsilon_is_enclosed(mu, delta):
    lower, upper = gaussian.epsilon(mu, delta)
    digits = digits_for(delta)
    assert lower == 0 or exact_delta(mu, lower, digits) >= delta
    assert exact_delta(mu, upper, digits) <= delta
    assert upper - lower <= 1e-5 * upper + 1e-15 * mu


@some
@given(mu=mus, epsilon=st.floats(0, 200))
@example(mu=1.0, epsilon=0.0)
@example(mu=0.1, epsilon=3.5)
@example(mu=20.0, epsilon=199.0)
@example(mu=20.0, epsilon=201.0)
def test_delta_is_enclosed_in_log_space(mu, epsilon):
    epsilon = min(epsilon, 40 * mu + mu * mu)
    lower, upper = gaussian.log_delta(mu, epsilon)
    digits = 80 + round((epsilon / mu + mu) ** 2 / 2)
    assert lower <= upper <= 0
    assert lower <= mp.log(exact_delta(mu, epsilon, digits)) <= upper


@some
@given(mu=mus, delta=deltas, factor=st.floats(1.01, 100))
def test_more_noise_or_a_larger_delta_costs_less(mu, delta, factor):
    upper = gaussian.epsilon(mu, delta)[1]
    assert gaussian.epsilon(mu / factor, delta)[0] <= upper
    assert gaussian.epsilon(mu, min(delta * factor, 0.999))[0] <= upper


@some
@given(mu=st.floats(0.01, 30), delta=st.floats(1e-30, 0.5))
def test_delta_undoes_epsilon(mu, delta):
    lower, upper = gaussian.epsilon(mu, delta)
    assert gaussian.delta(mu, upper)[0] <= delta
    assert lower == 0 or gaussian.delta(mu, lower)[1] >= delta


@some
@given(limit=st.floats(1e-3, 300), delta=st.floats(1e-20, 0.5))
def test_the_largest_mu_keeps_the_limit_and_hardly_more_breaks_it(limit, delta):
    mu = gaussian.mu_within(limit, delta)
    assert exact_delta(mu, limit, 200) <= delta
    assert exact_delta(mu * (1 + 1e-8), limit, 200) > delta


@pytest.mark.parametrize("delta", [0.0, 1e-300, 0.5])
def test_the_ends_of_the_range_of_noise(delta):
    assert gaussian.epsilon(0.0, delta) == (0.0, 0.0)
    assert gaussian.epsilon(math.inf, delta) == (math.inf, math.inf)
    assert gaussian.delta(0.0, 1.0) == (0.0, 0.0)
    assert gaussian.delta(math.inf, 1.0) == (1.0, 1.0)


def test_no_noise_suffices_for_delta_zero():
    assert gaussian.epsilon(1e-3, 0.0) == (math.inf, math.inf)


@pytest.mark.parametrize("mu", [1e-300, 1e-160, 1e-20, 1e4, 1e8, 1e150, 1e300])
@pytest.mark.parametrize("delta", [5e-324, 1e-5, 0.999999])
def test_extreme_noise_gives_bounds_and_no_warning(mu, delta):
    lower, upper = gaussian.epsilon(mu, delta)
    assert 0 <= lower <= upper


def exact_log_delta(mu, epsilon):
    """The same formula, with the digits that exp(mu^2 / 2) cancels."""
    digits = 80 + 2 * round(abs(math.log10(mu))) + round((mu / 2 - epsilon / mu) ** 2)
    with mp.workdps(digits):
        return mp.log(exact_delta(mu, epsilon, digits))


@pytest.mark.parametrize("mu", [1e8, 3e9, 5e9, 1e10, 1e12, 1e13])
@pytest.mark.parametrize("below", [-9.0, -1.0, 0.003, 0.019, 0.02, 0.033, 0.175, 0.5, 3.0, 20.0])
def test_delta_of_next_to_no_noise_is_enclosed(mu, below):
    """Here the rounding of epsilon ~ mu^2 / 2 alone can exceed 710, beyond which exp overflows."""
    epsilon = mu * (mu / 2 - below)
    lower, upper = gaussian.log_delta(mu, epsilon)
    assert lower <= exact_log_delta(mu, epsilon) <= upper <= 0


@pytest.mark.parametrize("mu", [1.9e9, 3.33e9, 1e10, 7.7e11, 1e13])
@pytest.mark.parametrize("delta", [1e-30, 1e-5, 0.5, 0.999])
def test_epsilon_of_next_to_no_noise_is_enclosed(mu, delta):
    lower, upper = gaussian.epsilon(mu, delta)
    assert lower == 0 or exact_log_delta(mu, lower) >= mp.log(delta)
    assert exact_delta(mu, upper, 120) <= delta
    assert mu**2 / 2 * 0.99 < upper < mu**2 / 2 * 1.01


@some
@given(mu=st.floats(-307, 308), epsilon=st.floats(-307, 308))
@example(mu=-200.0, epsilon=0.0)
@example(mu=-300.0, epsilon=300.0)
@example(mu=300.0, epsilon=0.0)
def test_any_finite_numbers_give_bounds(mu, epsilon):
    lower, upper = gaussian.log_delta(10.0**mu, 10.0**epsilon)
    assert lower <= upper <= 0


@pytest.mark.parametrize("delta", [-1e-9, 1.0, math.nan, math.inf, "1"])
def test_a_delta_out_of_range_is_refused(delta):
    with pytest.raises(InvalidValueError, match="delta"):
        gaussian.epsilon(1.0, delta)


def test_power_of_the_best_test():
    """Phi(Phi^-1(0.5) + mu) = Phi(1) = 0.841345."""
    assert gaussian.true_positive_rate(1.0, 0.5) == pytest.approx(0.8413447460685429, rel=1e-12)
    assert gaussian.true_positive_rate(0.0, 0.2) == pytest.approx(0.2)
