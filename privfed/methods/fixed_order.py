"""Linear algebra that gives the same bits on every processor.

All clients compute the next global state for themselves, and its digests must agree. BLAS and
LAPACK add in an order that depends on the processor. Here is nothing but elementwise +, -, *, /
and sqrt, which IEEE 754 rounds correctly everywhere, and sums in a fixed order. It is meant for
tall matrices of few columns, such as factors of LoRA.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

NEGLIGIBLE: Final = 1e-12
"""Share of a column, or of the largest singular value, below which the rest is taken for zero."""

_ORTHOGONAL: Final = 1e-14
"""Cosine of two columns up to which Jacobi's method leaves them as they are."""
_TOO_SMALL: Final = 1e-200
"""Square of a column, relative to the largest entry, that Jacobi's method leaves as it is."""
_SWEEPS: Final = 40
"""Far more than ever needed: convergence is quadratic."""


def total(values: Matrix) -> Matrix:
    """Sum over the first axis, by halves: shape (n, ...) to (...), n >= 1."""
    while len(values) > 1:
        half = len(values) // 2
        values = np.concatenate([values[:half] + values[half : 2 * half], values[2 * half :]])
    return np.asarray(values[0])


def norm(matrix: Matrix) -> float:
    """Square root of the sum of squares."""
    return float(np.sqrt(total((matrix * matrix).reshape(-1))))


def product(left: Matrix, right: Matrix) -> Matrix:
    """Matrix product of shapes (m, k) and (k, n), k >= 1; fast where m or n is small."""
    if len(left) > right.shape[1]:
        return product(right.T, left.T).T  # x y and y x are the same to the bit
    return np.stack([total(row[:, None] * right) for row in left])


def qr(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Orthonormal columns Q and an upper triangle R with Q R = matrix.

    A column that depends on those before it, to 1e-12 of its norm, has a column of zeros in Q and
    a row of zeros in R; so Q^T Q has ones and zeros on its diagonal.

    Args:
        matrix: shape (d, r).

    Returns:
        Shapes (d, r) and (r, r).

    Reference:
        Modified Gram-Schmidt, twice; Giraud, Langou, Rozloznik & van den Eshof 2005, Numerische
        Mathematik 101, 87-100.
    """
    basis, first = _gram_schmidt(matrix)
    basis, second = _gram_schmidt(basis)
    return basis, product(second, first)


def _gram_schmidt(matrix: Matrix) -> tuple[Matrix, Matrix]:
    basis, count = matrix.copy(), matrix.shape[1]
    triangle, norms = np.zeros((count, count)), np.sqrt(total(matrix * matrix))
    for k in range(count):
        left = norm(basis[:, k])
        if not left > NEGLIGIBLE * norms[k]:
            basis[:, k] = 0.0
            continue
        basis[:, k] /= left
        column, later = basis[:, k, None], basis[:, k + 1 :]
        triangle[k, k] = left
        triangle[k, k + 1 :] = total(column * later)
        later -= column * triangle[k, k + 1 :]
    return basis, triangle


def solve_triangle(triangle: Matrix, right: Matrix) -> Matrix:
    """X with triangle X = right; a row of X is zero where `triangle` has a zero row.

    Args:
        triangle: upper, shape (r, r), as `qr` gives it.
        right: shape (r, n).
    """
    solution = np.zeros_like(right)
    for k in reversed(range(len(triangle))):
        if triangle[k, k] == 0:
            continue
        known = product(triangle[k : k + 1, k:], solution[k:])[0]
        solution[k] = (right[k] - known) / triangle[k, k]
    return solution


def svd(matrix: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """U S, the singular values and V, with matrix V = U S; the largest value comes first.

    V is orthogonal whatever the rank of the matrix. The entry of largest size in each column of V
    is positive, the first of them if there are several.

    Args:
        matrix: shape (m, r), of few columns.

    Returns:
        Shapes (m, r), (r,) and (r, r).

    Reference:
        Hestenes 1958, one-sided Jacobi; pairs as in a tournament, Brent & Luk 1985.
    """
    scaled, turned = matrix.copy(), np.eye(matrix.shape[1])
    peak = float(np.abs(matrix).max())
    smallest = _TOO_SMALL * (peak * peak)
    for _ in range(_SWEEPS):
        rotated = [_rotate(scaled, turned, *pairs, smallest) for pairs in _tournament(len(turned))]
        if not any(rotated):
            break
    values = np.sqrt(total(scaled * scaled))
    order = np.argsort(-values, kind="stable")
    largest = np.argmax(np.abs(turned), axis=0)
    signs = np.where(turned[largest, np.arange(len(turned))] < 0, -1.0, 1.0)
    return (scaled * signs)[:, order], values[order], (turned * signs)[:, order]


def _rotate(
    scaled: Matrix, turned: Matrix, one: list[int], other: list[int], smallest: float
) -> bool:
    """Turn pairs of columns until they are orthogonal; False if all of them were."""
    x, y = scaled[:, one], scaled[:, other]
    xx, yy, xy = total(x * x), total(y * y), total(x * y)
    needed = np.abs(xy) > _ORTHOGONAL * (np.sqrt(xx) * np.sqrt(yy))
    needed &= (xx > smallest) & (yy > smallest)
    ratio = (yy - xx) / (2 * np.where(needed, xy, 1.0))
    tangent = np.where(ratio < 0, -1.0, 1.0) / (np.abs(ratio) + np.sqrt(1 + ratio * ratio))
    tangent = np.where(needed, tangent, 0.0)
    cosine = 1 / np.sqrt(1 + tangent * tangent)
    sine = cosine * tangent
    for columns in (scaled, turned):
        x, y = columns[:, one], columns[:, other]
        columns[:, one], columns[:, other] = cosine * x - sine * y, sine * x + cosine * y
    return bool(needed.any())


def _tournament(count: int) -> Iterator[tuple[list[int], list[int]]]:
    """Disjoint pairs of columns, round by round, until every two have met; none for one column."""
    order = list(range(count + count % 2))
    for _ in order[1:]:
        half = len(order) // 2
        met = zip(order[:half], reversed(order[half:]), strict=True)
        pairs = sorted((min(pair), max(pair)) for pair in met if max(pair) < count)
        if pairs:
            yield [one for one, _ in pairs], [other for _, other in pairs]
        order[1:] = [order[-1], *order[1:-1]]
