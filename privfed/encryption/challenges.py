"""Random linear checks by which a key holder makes sure that a sum is the sum of what was sent.

Once the aggregator has committed to a sum and to the list of contributions, the key holder draws
a challenge: 32 random bytes, which expand to vectors b_1, b_2 (one number modulo q per coefficient)
and a_1, a_2 (one number per polynomial of the message). Each client answers with the numbers
sum_r a_j[r] <b_j, r-th polynomial> mod q of its own residues. The answers are linear, so those of
the contributors must add up to that of the sum. For a sum that differs anywhere, one equation holds
with a chance of at most 2/q (a bilinear form in uniform numbers; Schwartz 1980, Zippel 1979), both
with at most 4/q^2 < 2^-117. A contributor that answers falsely can make a wrong sum pass: this
protects against an aggregator without a client on its side.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from privfed.encryption.modular import InnerProducts
from privfed.encryption.noise import COEFF_MODULUS
from privfed.encryption.primes import POLY_MODULUS_DEGREE
from privfed.encryption.residues import check
from privfed.errors import MessageError

CHALLENGE_BYTES = 32
EQUATIONS = 2
_DRAW_BYTES = 16


class Challenge:
    """The linear form that a challenge stands for.

    Args:
        seed: 32 random bytes.
        num_ciphertexts: of one message.
        num_polynomials: of one ciphertext.
    """

    def __init__(self, seed: bytes, num_ciphertexts: int, num_polynomials: int = 2) -> None:
        if len(seed) != CHALLENGE_BYTES:
            raise MessageError(f"a challenge must have {CHALLENGE_BYTES} bytes, got {len(seed)}")
        columns = EQUATIONS * POLY_MODULUS_DEGREE
        draws = _draws(seed, columns + EQUATIONS * num_ciphertexts * num_polynomials)
        self._products = InnerProducts(
            np.array(draws[:columns], dtype=np.uint64).reshape(POLY_MODULUS_DEGREE, EQUATIONS),
            COEFF_MODULUS,
        )
        self._row_weights = draws[columns:]
        self._num_ciphertexts = num_ciphertexts
        self._num_polynomials = num_polynomials

    def answer(self, batches: Iterable[Sequence[NDArray[np.uint64]]]) -> tuple[int, ...]:
        """The values of the form at a message.

        Args:
            batches: in order, the polynomials of batches of ciphertexts, each of shape
                (ciphertexts, 4096), numbers below q.

        Returns:
            One number below q per equation.

        Raises:
            MessageError: if there are more or fewer ciphertexts than the challenge is for, or a
                shape, a type or a residue is wrong.
        """
        totals = [0] * EQUATIONS
        seen = 0
        for polynomials in batches:
            self._check(polynomials, seen)
            for position, residues in enumerate(polynomials):
                for row, products in enumerate(self._products(residues), start=seen):
                    first = (row * self._num_polynomials + position) * EQUATIONS
                    for equation, product in enumerate(products):
                        totals[equation] += self._row_weights[first + equation] * product
            seen += len(polynomials[0])
        if seen != self._num_ciphertexts:
            raise MessageError(
                f"the challenge is for {self._num_ciphertexts} ciphertexts, {seen} came"
            )
        return tuple(total % COEFF_MODULUS for total in totals)

    def _check(self, polynomials: Sequence[NDArray[np.uint64]], seen: int) -> None:
        for residues in polynomials:
            check(residues)
        lengths = {len(residues) for residues in polynomials}
        if len(polynomials) != self._num_polynomials or len(lengths) != 1:
            raise MessageError(f"a ciphertext must have {self._num_polynomials} polynomials")
        if seen + lengths.pop() > self._num_ciphertexts:
            raise MessageError(f"the challenge is for {self._num_ciphertexts} ciphertexts only")


def add_up(answers: Iterable[Sequence[int]], total: Sequence[int]) -> bool:
    """Whether the contributors' answers add up to that of the sum.

    Raises:
        MessageError: if an answer has more or fewer numbers than there are equations.
    """
    sums = [0] * EQUATIONS
    for answer in answers:
        if len(answer) != EQUATIONS:
            raise MessageError(f"an answer must have {EQUATIONS} numbers, got {len(answer)}")
        for equation, value in enumerate(answer):
            sums[equation] += value
    return [value % COEFF_MODULUS for value in sums] == list(total)


def _draws(seed: bytes, count: int) -> list[int]:
    """Numbers below q, uniform to within 2^-68 each, as SHAKE-256 expands the seed."""
    stream = hashlib.shake_256(b"privfed challenge 1\n" + seed).digest(count * _DRAW_BYTES)
    return [
        int.from_bytes(stream[start : start + _DRAW_BYTES], "little") % COEFF_MODULUS
        for start in range(0, len(stream), _DRAW_BYTES)
    ]
