import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.encryption.primes import (
    POLY_MODULUS_DEGREE,
    batching_prime_above,
    is_batching_prime,
    is_prime,
    largest_coeff_modulus,
)


def has_no_divisor(number: int) -> bool:
    """Primality by trial division."""
    return number > 1 and all(number % other for other in range(2, math.isqrt(number) + 1))


def test_primes_of_a_published_list():
    """The last primes below powers of two (primes.utm.edu, "primes just less than 2^n")."""
    assert all(is_prime(2**n - k) for n, k in [(61, 1), (60, 93), (59, 55), (64, 59), (13, 1)])
    assert [number for number in range(60) if is_prime(number)] == [
        2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "composite",
    [
        *(-7, -1, 0, 1, 4, 41 * 43, 41**2, 2**61 + 1),
        *(561, 41041, 825265),  # Carmichael numbers
        3215031751,  # fools the bases 2, 3, 5 and 7 (Pomerance, Selfridge, Wagstaff 1980)
        3825123056546413051,  # fools the first 9 prime bases (Jaeschke 1993)
    ],
)
def test_composites_are_found(composite):
    assert not is_prime(composite)


def test_small_numbers_agree_with_trial_division():
    """From 41^2 on, no base divides the number and Miller-Rabin alone decides."""
    assert all(is_prime(number) == has_no_divisor(number) for number in range(-3, 20_000))


@given(number=st.integers(2**31, 2**34))
def test_larger_numbers_agree_with_trial_division(number):
    assert is_prime(number) == has_no_divisor(number)


@given(
    left=st.sampled_from([3, 10007, 65537, 2**31 - 1]),
    right=st.sampled_from([5, 7919, 2**19 - 1, 2**31 - 1]),
)
def test_products_are_composite(left, right):
    assert not is_prime(left * right)


def test_the_primes_of_ciphertexts_are_the_ones_that_seal_creates():
    """Golden: SEAL 4.3's CoeffModulus.Create(4096, [60, 20])."""
    assert largest_coeff_modulus(60) == 2**60 - 16383
    assert largest_coeff_modulus(20) == 2**20 - 16383


@pytest.mark.parametrize("num_bits", [16, 17, 20, 24, 30])
def test_nothing_between_the_coefficient_prime_and_its_power_of_two(num_bits):
    found = largest_coeff_modulus(num_bits)
    assert found.bit_length() == num_bits
    assert found % 8192 == 1
    assert has_no_divisor(found)
    assert not any(has_no_divisor(other) for other in range(found + 8192, 2**num_bits, 8192))


@given(number=st.integers(0, 2**26))
def test_the_next_batching_prime_leaves_none_out(number):
    found = batching_prime_above(number)
    assert found > number
    assert found % 8192 == 1
    assert has_no_divisor(found)
    between = range(number + 1, found)
    candidates = (other for other in between[(1 - number - 1) % 8192 :: 8192])
    assert not any(map(has_no_divisor, candidates))


def test_the_batching_prime_is_above_and_not_at_the_number():
    assert batching_prime_above(40960) == 40961
    assert batching_prime_above(40961) == 65537
    assert batching_prime_above(0) == 40961


def test_batching_needs_a_prime_that_is_one_modulo_2n():
    assert POLY_MODULUS_DEGREE == 4096
    assert is_batching_prime(40961)
    assert is_batching_prime(65537)
    for number in (1, 8193, 40959, 40963, 12289, 40961 * 65537, 2**61 - 1):
        assert not is_batching_prime(number)
