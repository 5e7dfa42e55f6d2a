"""Exact inner products modulo a number below 2^60, at the speed of floating-point matrices.

Numbers are split into three limbs of 20 bits. A sum of 4096 products of limbs is below 2^52, so
float64 holds it exactly whatever the order of additions; the nine partial sums of a row are put
together in whole numbers.
"""

import numpy as np
from numpy.typing import NDArray

from privfed.errors import EncryptionError

MAX_COLUMNS = 4096
_LIMB_BITS = 20
_LIMBS = 3
_MASK = np.uint64((1 << _LIMB_BITS) - 1)
_ROWS_AT_ONCE = 16


class InnerProducts:
    """Inner products with fixed weights.

    Args:
        weights: numbers below `modulus`, shape (columns, vectors), at most 4096 columns.
        modulus: 2..2^60.

    Raises:
        EncryptionError: if a shape, a type, a number or the modulus is wrong.
    """

    def __init__(self, weights: NDArray[np.uint64], modulus: int) -> None:
        _check(weights, "weights")
        if not 2 <= modulus <= 1 << (_LIMB_BITS * _LIMBS) or weights.max() >= modulus:
            raise EncryptionError(f"weights must be below the modulus {modulus}")
        if len(weights) > MAX_COLUMNS:
            raise EncryptionError(f"at most {MAX_COLUMNS} columns are summed exactly")
        self._modulus = modulus
        self._vectors = weights.shape[1]
        self._weights = np.concatenate(_limbs(weights), axis=1)

    def __call__(self, rows: NDArray[np.uint64]) -> list[list[int]]:
        """Inner products of every row with every weight vector, modulo the modulus.

        Args:
            rows: numbers below 2^60, shape (rows, columns).

        Returns:
            One list of `vectors` numbers per row.

        Raises:
            EncryptionError: if a shape, a type or a number is wrong.
        """
        _check(rows, "rows")
        if rows.shape[1] != len(self._weights):
            raise EncryptionError(
                f"rows must have {len(self._weights)} columns, one per weight, got {rows.shape[1]}"
            )
        products: list[list[int]] = []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            partial = [limb @ self._weights for limb in _limbs(part)]
            products.extend(
                [self._joined(partial, row, vector) for vector in range(self._vectors)]
                for row in range(len(part))
            )
        return products

    def _joined(self, partial: list[NDArray[np.float64]], row: int, vector: int) -> int:
        total = 0
        for left in range(_LIMBS):
            for right in range(_LIMBS):
                value = int(partial[left][row, right * self._vectors + vector])
                total += value << (_LIMB_BITS * (left + right))
        return total % self._modulus


def _limbs(numbers: NDArray[np.uint64]) -> list[NDArray[np.float64]]:
    return [
        ((numbers >> np.uint64(_LIMB_BITS * limb)) & _MASK).astype(np.float64)
        for limb in range(_LIMBS)
    ]


def _check(numbers: NDArray[np.uint64], name: str) -> None:
    if numbers.dtype != np.uint64 or numbers.ndim != 2 or numbers.size == 0:
        raise EncryptionError(f"{name} must be uint64 in two dimensions, got {numbers.dtype}")
    if numbers.max() >> np.uint64(_LIMB_BITS * _LIMBS):
        raise EncryptionError(f"{name} must be below 2^{_LIMB_BITS * _LIMBS}")
