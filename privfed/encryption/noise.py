"""How much noise a sum of ciphertexts can carry, and what that rules out.

A sum of n ciphertexts decrypts to the exact sum while its noise stays below q / (2t). What adds up:

- Each fresh ciphertext. With the secret key (`shared_key`): SEAL's noise is centred binomial and
  never above 21, and scaling the message into the ring adds at most 1/2. With the public key
  (`key_holder`): the noise 21 (2N + 1) is divided by a special prime P, rounding that division adds
  1/2 to one polynomial and r * s from the other, |r_j| <= 1/2 and s the ternary secret key: at most
  N/2 for certain. Since r depends on nothing but numbers drawn independently of s, and the
  coefficients of s are uniform in {-1, 0, 1}, they are sub-Gaussian with variance proxy 2/3, and a
  sum over n clients, whose r is nowhere above n/2, stays below

      n sqrt(N) / 2 * sqrt(4/3 ln 2 * 169)

  but for a chance of 2 * 2^-169 per coefficient: 2^-128 for a run of up to 2^40 coefficients. No
  independence between clients is assumed.
- Low bits that are not sent. The receiver puts the middle of the gap in place of d missing bits of
  c0: at most 2^(d-1), once per upload and once for the sum.

All this is about contributions made by the protocol; nothing stops a contributor from sending a
ciphertext with more noise than it should have. Among honest ones there are no decryption failures
for an attack to use.

References:
    Brakerski 2012, Fan & Vercauteren 2012 (eprint 2012/144): the scheme.
    Bajard et al. 2016 (eprint 2016/510): the decryption that SEAL uses.
    Hoeffding 1963; Vershynin 2018, section 2.5: sums of bounded, sub-Gaussian variables.
"""

import math
from enum import StrEnum
from fractions import Fraction
from typing import Final

from privfed.encryption.primes import POLY_MODULUS_DEGREE, largest_coeff_modulus
from privfed.settings.encryption import Custody

COEFF_MODULUS: Final = largest_coeff_modulus(60)
SPECIAL_MODULUS: Final = largest_coeff_modulus(20)
LOG2_FAILURE: Final = -128
_LARGEST_FRESH: Final = 21
_LOG2_COEFFICIENTS: Final = 40
_HALF: Final = Fraction(1, 2)


class Exactness(StrEnum):
    """How sure it is that a sum decrypts exactly."""

    CERTAIN = "certain"
    OVERWHELMING = "overwhelming"


def fresh_noise(custody: Custody, exactness: Exactness) -> Fraction:
    """Noise of one client's part in a sum, per coefficient, before bits are dropped."""
    if custody is Custody.SHARED_KEY:
        return _LARGEST_FRESH + _HALF
    divided = Fraction(_LARGEST_FRESH * (2 * POLY_MODULUS_DEGREE + 1), SPECIAL_MODULUS)
    through_key = Fraction(POLY_MODULUS_DEGREE, 2)
    if exactness is Exactness.OVERWHELMING:
        exponent = 1 + _LOG2_COEFFICIENTS - LOG2_FAILURE
        deviation = math.sqrt(4 / 3 * math.log(2) * exponent)
        through_key = Fraction(math.ceil(math.isqrt(POLY_MODULUS_DEGREE) / 2 * deviation))
    return divided + _HALF + through_key + _HALF


def slack(
    custody: Custody,
    exactness: Exactness,
    *,
    num_clients: int,
    plain_modulus: int,
    upload_dropped_bits: int,
) -> Fraction:
    """What is left of q / (2t) for the bits of the sum that are not sent; <= 0 if nothing.

    One more than the noise is kept free (q - 1 for q): SEAL divides by q with an error of 1/gamma
    for a 61-bit gamma, which in these units is below 2.
    """
    noise = fresh_noise(custody, exactness) + dropping_error(upload_dropped_bits)
    return Fraction(COEFF_MODULUS - 1, 2 * plain_modulus) - num_clients * noise


def dropping_error(dropped_bits: int) -> Fraction:
    """Largest error of a coefficient whose low bits are replaced by their middle: 2^(d-1)."""
    return Fraction(1 << dropped_bits, 2) if dropped_bits else Fraction(0)
