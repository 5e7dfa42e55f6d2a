import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.encryption.noise import (
    COEFF_MODULUS,
    LOG2_FAILURE,
    SPECIAL_MODULUS,
    Exactness,
    dropping_error,
    fresh_noise,
    slack,
)
from privfed.settings.encryption import Custody

N = 4096
HALF = Fraction(1, 2)


def sub_gaussian_bound() -> int:
    """sqrt(N) / 2 * sqrt(4/3 ln 2 * 169) for one client, rounded up, to 50 digits."""
    with localcontext() as context:
        context.prec = 50
        squared = Decimal(N) / 4 * Decimal(4) / 3 * Decimal(2).ln() * 169
        return math.ceil(squared.sqrt())


def log2_tail(threshold: int) -> float:
    """log2 of P(|s_1 + ... + s_N| > threshold) for uniform ternary s_i, in whole numbers.

    The coefficients a_k of (1 + x + x^2)^N follow from (1 + x + x^2) f' = N (1 + 2x) f.
    """
    counts = [1, N]
    for k in range(1, 2 * N):
        counts.append(((N - k) * counts[k] + (2 * N - k + 1) * counts[k - 1]) // (k + 1))
    assert sum(counts) == 3**N
    beyond = 2 * sum(counts[: N - threshold])
    return _log2(beyond) - N * math.log2(3)


def _log2(number: int) -> float:
    shift = max(number.bit_length() - 60, 0)
    return math.log2(number >> shift) + shift


def test_shared_key_noise_by_hand():
    """21 from the centred binomial, 1/2 from scaling; there is nothing that chance could lower."""
    for exactness in Exactness:
        assert fresh_noise(Custody.SHARED_KEY, exactness) == Fraction(43, 2)


def test_key_holder_noise_by_hand():
    """21 (2N + 1) / P + 1/2, then N/2 (or its likely bound) for r * s, and 1/2 for scaling."""
    assert 2**19 < SPECIAL_MODULUS < 2**20
    divided = Fraction(21 * 8193, SPECIAL_MODULUS)
    assert fresh_noise(Custody.KEY_HOLDER, Exactness.CERTAIN) == divided + 1 + 2048
    assert fresh_noise(Custody.KEY_HOLDER, Exactness.OVERWHELMING) == divided + 1 + 400
    assert sub_gaussian_bound() == 400


def test_a_ternary_coefficient_is_sub_gaussian_with_variance_proxy_two_thirds():
    """E exp(a s) = (1 + 2 cosh a) / 3 <= exp(a^2 / 3), and no smaller proxy would do near 0."""
    for a in np.concatenate([np.logspace(-2, 1.2, 200)]):
        assert (1 + 2 * math.cosh(a)) / 3 <= math.exp(a * a / 3)
    small = 1e-2
    assert (1 + 2 * math.cosh(small)) / 3 > math.exp(small * small / 3 * 0.999)


def test_the_likely_bound_holds_exactly_and_is_not_loose():
    """The worst x allowed has |x_j| = n/2 everywhere; signs do not matter, as s is symmetric.

    The noise of n clients is then n/2 times a sum of N uniform ternary numbers, whose tail is
    computed without any approximation. 2^40 coefficients together must stay within 2^-128.
    """
    bound = sub_gaussian_bound()
    per_coefficient = log2_tail(2 * bound)
    assert per_coefficient <= LOG2_FAILURE - 40
    assert per_coefficient >= LOG2_FAILURE - 40 - 15
    assert log2_tail(round(2 * bound * 0.95)) > LOG2_FAILURE - 40
    assert LOG2_FAILURE == -128


def test_sampled_keys_stay_far_below_the_likely_bound():
    """Monte Carlo over keys: the deviation is sqrt(2N/3) / 2 = 26.1, the bound 15.3 of them."""
    random = np.random.default_rng(20261121)
    counts = random.multinomial(N, [1 / 3] * 3, size=200_000)
    noise = (counts[:, 0] - counts[:, 2]) / 2
    assert noise.std() == pytest.approx(math.sqrt(2 * N / 3) / 2, rel=0.01)
    assert 100 < np.abs(noise).max() < sub_gaussian_bound() / 2


def test_sampled_products_with_a_key_stay_below_both_bounds():
    """(r * s) in Z[x] / (x^N + 1), r as rounding leaves it, by way of a transform of length 2N."""
    random = np.random.default_rng(1)
    largest = 0.0
    for _ in range(20):
        s = random.integers(-1, 2, N).astype(float)
        r = random.choice([-0.5, 0.5], N)
        product = np.fft.irfft(np.fft.rfft(r, 2 * N) * np.fft.rfft(s, 2 * N), 2 * N)
        largest = max(largest, np.abs(product[:N] - product[N:]).max())
    assert 3 * 26.1 < largest < sub_gaussian_bound() < N / 2


def test_dropping_error_by_hand():
    assert [dropping_error(bits) for bits in (0, 1, 2, 5, 20)] == [0, 1, 2, 16, 2**19]


@given(dropped_bits=st.integers(1, 12), data=st.data())
def test_dropping_error_is_the_largest_distance_from_the_middle(dropped_bits, data):
    middle = 1 << (dropped_bits - 1)
    low = data.draw(st.integers(0, (1 << dropped_bits) - 1))
    assert abs(middle - low) <= dropping_error(dropped_bits) == abs(middle - 0)


@pytest.mark.parametrize("custody", Custody)
@pytest.mark.parametrize("exactness", Exactness)
@pytest.mark.parametrize(
    ("clients", "modulus", "dropped"), [(1, 3, 0), (10, 40961, 10), (7, 47, 1)]
)
def test_slack_is_what_remains_of_the_budget(custody, exactness, clients, modulus, dropped):
    """q - 1 and not q: 2t times a noise is a whole number, and SEAL's division needs one unit."""
    upload = fresh_noise(custody, exactness) + (2 ** (dropped - 1) if dropped else 0)
    found = slack(
        custody, exactness, num_clients=clients, plain_modulus=modulus, upload_dropped_bits=dropped
    )
    assert found == Fraction(2**60 - 16384, 2 * modulus) - clients * upload
    assert COEFF_MODULUS == 2**60 - 16383
