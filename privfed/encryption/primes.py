"""The primes of BFV: deciding primality, and finding primes whose plaintexts have slots.

Reference:
    Sorenson & Webster 2017, arXiv:1509.00864: the bases that decide Miller-Rabin.
"""

import itertools
from typing import Final

POLY_MODULUS_DEGREE: Final = 4096
_STEP: Final = 2 * POLY_MODULUS_DEGREE


def is_prime(number: int) -> bool:
    """Whether a whole number below 3.1e23 is prime; the first 12 primes as bases decide it."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if number < 2 or any(number % base == 0 for base in bases):
        return number in bases
    twos = ((number - 1) & (1 - number)).bit_length() - 1
    return all(_is_probable_prime(number, base, twos) for base in bases)


def largest_coeff_modulus(num_bits: int) -> int:
    """The largest prime of `num_bits` bits that is 1 mod 2N, as SEAL's CoeffModulus.Create."""
    candidates = itertools.count((1 << num_bits) - _STEP + 1, -_STEP)
    return next(number for number in candidates if is_prime(number))


def batching_prime_above(number: int) -> int:
    """The smallest prime above `number` that is 1 mod 2N, so that slots exist."""
    first = number - number % _STEP + 1
    candidates = itertools.count(first, _STEP)
    return next(prime for prime in candidates if prime > number and is_prime(prime))


def is_batching_prime(number: int) -> bool:
    """Whether a plaintext modulo `number` has N slots."""
    return number % _STEP == 1 and is_prime(number)


def _is_probable_prime(number: int, base: int, twos: int) -> bool:
    power = pow(base, (number - 1) >> twos, number)
    if power in (1, number - 1):
        return True
    for _ in range(twos - 1):
        power = power * power % number
        if power == number - 1:
            return True
    return False
