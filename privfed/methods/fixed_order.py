"""Linear algebra that gives the same bits on every processor.

All clients compute the next global state for themselves, and its digests must agree. BLAS and
LAPACK add in an order that depends on the processor, and its rounding shows. What is here rests on
two things that do not:

- Elementwise +, -, *, / and sqrt, which IEEE 754 rounds correctly everywhere, and sums by halves.
- Matrix products of whole numbers so small that every partial sum is one below 2^53. Float64 holds
  these exactly, so BLAS rounds nothing, whatever its order, blocks, threads or fused additions.

It is meant for tall matrices of few columns, such as factors of LoRA; those of all modules of one
shape come in one array, whose leading axes all functions leave as they are.
"""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Places = NDArray[np.intp]

NEGLIGIBLE: Final = 1e-10
"""Share of a column, or of the largest singular value, below which the rest is taken for zero."""

_EXACT_BITS: Final = 53
"""Whole numbers up to 2^53 are float64."""
_SMALLEST_EXPONENT: Final = -400
"""Of a row or column; what is smaller loses digits, so that no power of two overflows."""
_ORTHOGONAL: Final = 1e-14
"""Cosine of two columns up to which Jacobi's method leaves them as they are."""
_TOO_SMALL: Final = 1e-200
"""Square of a column, relative to the largest entry, that Jacobi's method leaves as it is."""
_SWEEPS: Final = 40
"""Far more than ever needed: convergence is quadratic."""


def transposed(matrix: Matrix) -> Matrix:
    """A view with the last two axes exchanged."""
    return matrix.swapaxes(-1, -2)


def total(values: Matrix, axis: int = 0) -> Matrix:
    """Sum over an axis of length n >= 1, by halves: the first half is added to the second."""
    axes = list(range(values.ndim))
    left = values.transpose(axes.pop(axis), *axes)
    while len(left) > 1:
        half = len(left) // 2
        added = left[:half] + left[half : 2 * half]
        left = np.concatenate([added, left[2 * half :]]) if len(left) % 2 else added
    return np.asarray(left[0])


def norm(matrix: Matrix) -> Matrix:
    """Square root of the sum of squares over the last two axes."""
    return np.asarray(np.sqrt(total(total(matrix * matrix, axis=-2), axis=-1)))


def product(left: Matrix, right: Matrix) -> Matrix:
    """Matrix product of shapes (..., m, k) and (..., k, n), k >= 1.

    Each row of `left` and column of `right` is a power of two times high + 2^-b low, whole numbers
    with |high| <= 2^b and |low| <= 2^(b - 1). High times high, and high times low with low times
    high, add up to at most k 2^(2 b) in size, also in part; b is the largest for which that is at
    most 2^53. What is left out, low times low and what two parts cannot hold, is an error of an
    entry of at most 3 k 2^-2b times the largest of the row and of the column, beside the rounding
    of the result: for k = 1024 that is 2^-30, and with independent signs about 2^-37. Where the
    largest entries of a row and of a column multiply to less than 2^-400, it becomes zero.

    Reference:
        Ozaki, Ogita, Oishi & Rump 2012, Numerical Algorithms 59, 95-118.
    """
    bits = (_EXACT_BITS - _log2_above(left.shape[-1])) // 2
    left_scale, left_high, left_low = _in_two(left, bits, axis=-1)
    right_scale, right_high, right_low = _in_two(right, bits, axis=-2)
    crossed = left_high @ right_low
    crossed += left_low @ right_high
    crossed *= 2.0**-bits
    crossed += left_high @ right_high
    crossed /= left_scale
    crossed /= right_scale
    return crossed


def signed_sums(signs: Matrix, matrix: Matrix) -> Matrix:
    """Product of signs, shape (..., m, k), and a matrix of shape (..., k, n), k >= 1.

    Columns of `matrix` are rounded to whole numbers of which k add up to at most 2^53.

    Args:
        signs: -1.0 and 1.0.
        matrix: any.
    """
    scale = _scale(matrix, _EXACT_BITS - _log2_above(signs.shape[-1]), axis=-2)
    return np.asarray((signs @ np.rint(matrix * scale)) / scale)


def _in_two(matrix: Matrix, bits: int, axis: int) -> tuple[Matrix, Matrix, Matrix]:
    """Scale, high and low, with matrix = (high + 2^-bits low) / scale but for rounding."""
    scale = _scale(matrix, bits, axis)
    low = matrix * scale
    high = np.rint(low)
    low -= high
    low *= 2.0**bits
    return scale, high, np.rint(low, out=low)


def _scale(matrix: Matrix, bits: int, axis: int) -> Matrix:
    """Powers of two that make the largest of each row (axis -1) or column (-2) at most 2^bits."""
    largest = matrix.max(axis=axis, keepdims=True)
    np.maximum(largest, -matrix.min(axis=axis, keepdims=True), out=largest)
    _, exponents = np.frexp(largest)
    return np.asarray(np.ldexp(1.0, bits - np.maximum(exponents, _SMALLEST_EXPONENT)))


def _log2_above(count: int) -> int:
    """The least e with count <= 2^e."""
    return (count - 1).bit_length()


def gram(rows: Matrix) -> Matrix:
    """All inner products of rows, shape (..., r, d) to (..., r, r); as exact as `product`."""
    bits = (_EXACT_BITS - _log2_above(rows.shape[-1])) // 2
    scale, high, low = _in_two(rows, bits, axis=-1)
    crossed = high @ transposed(low)
    crossed = (crossed + transposed(crossed)) * 2.0**-bits + high @ transposed(high)
    return np.asarray(crossed / scale / transposed(scale))


def qr(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Orthonormal columns Q and an upper triangle R with Q R = matrix.

    A column that depends on those before it, to `NEGLIGIBLE` of its norm, has a column of zeros in
    Q and a row of zeros in R; so Q^T Q has ones and zeros on its diagonal.

    Args:
        matrix: shape (..., d, r).

    Returns:
        Shapes (..., d, r) and (..., r, r).

    Reference:
        Modified Gram-Schmidt, twice; Giraud, Langou, Rozloznik & van den Eshof 2005, Numerische
        Mathematik 101, 87-100.
    """
    rows = np.array(transposed(matrix), order="C")
    first, second = _gram_schmidt(rows), _gram_schmidt(rows)
    return transposed(rows), product(second, first)


def _gram_schmidt(rows: Matrix) -> Matrix:
    """Make rows orthonormal in place, shape (..., r, d); returns R."""
    count = rows.shape[-2]
    triangle = np.zeros((*rows.shape[:-1], count))
    negligible = NEGLIGIBLE * np.sqrt(total(rows * rows, axis=-1))
    for k in range(count):
        row, later = rows[..., k, None, :], rows[..., k + 1 :, :]
        left = np.sqrt(total(row * row, axis=-1))
        there = left > negligible[..., k, None]
        row /= np.where(there, left, np.inf)[..., None]
        triangle[..., k, k] = np.where(there, left, 0.0)[..., 0]
        if k + 1 < count:
            shares = total(row * later, axis=-1)
            triangle[..., k, k + 1 :] = shares
            later -= shares[..., None] * row
    return triangle


def cholesky(matrix: Matrix) -> Matrix:
    """Upper R with R^T R = matrix; where a row depends on those before it, R has a row of zeros.

    Args:
        matrix: symmetric without negative eigenvalues, shape (..., r, r).
    """
    left, triangle = matrix.copy(), np.zeros_like(matrix)
    negligible = NEGLIGIBLE * np.diagonal(matrix, axis1=-2, axis2=-1)
    for k in range(matrix.shape[-1]):
        pivot = left[..., k, k, None]
        there = pivot > negligible[..., k, None]
        row = left[..., k, k:] / np.where(there, np.sqrt(np.where(there, pivot, 1.0)), np.inf)
        triangle[..., k, k:] = row
        left[..., k:, k:] -= row[..., :, None] * row[..., None, :]
    return triangle


def solve_triangle(triangle: Matrix, right: Matrix) -> Matrix:
    """X with triangle X = right; a row of X is zero where `triangle` has a zero row.

    Args:
        triangle: upper, shape (..., r, r), as `qr` gives it.
        right: shape (..., r, n).
    """
    solution = np.zeros_like(right)
    for k in reversed(range(triangle.shape[-1])):
        pivot = triangle[..., k, k, None]
        left = right[..., k, :]
        if k + 1 < triangle.shape[-1]:
            known = triangle[..., k, k + 1 :, None] * solution[..., k + 1 :, :]
            left = left - total(known, axis=-2)
        solution[..., k, :] = np.where(pivot == 0, 0.0, left / np.where(pivot == 0, 1.0, pivot))
    return solution


def svd(matrix: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """U S, the singular values and V, with matrix V = U S; the largest value comes first.

    V is orthogonal whatever the rank of the matrix. The entry of largest size in each column of V
    is positive, the first of them if there are several.

    Args:
        matrix: shape (..., m, r), of few rows and columns.

    Returns:
        Shapes (..., m, r), (..., r) and (..., r, r).
    """
    *many, rows, columns = matrix.shape
    unit = np.broadcast_to(np.eye(columns), (*many, columns, columns))
    both, values = _with_orthogonal_columns(np.concatenate([matrix, unit], axis=-2), rows)
    turned = both[..., rows:, :]
    largest = np.argmax(np.abs(turned), axis=-2, keepdims=True)
    both *= np.where(np.take_along_axis(turned, largest, axis=-2) < 0, -1.0, 1.0)
    return both[..., :rows, :], values, turned


def left_svd(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """U S and the singular values, as of `svd` but for signs, in half the time."""
    return _with_orthogonal_columns(matrix, matrix.shape[-2])


def _with_orthogonal_columns(both: Matrix, rows: int) -> tuple[Matrix, Matrix]:
    """Turn columns until their first rows are orthogonal, and sort them by the norms of these.

    Args:
        both: shape (..., rows and more, r).
        rows: how many of them count.

    Returns:
        The same shape, and the norms, shape (..., r).

    Reference:
        Hestenes 1958, one-sided Jacobi; pairs as in a tournament, Brent & Luk 1985.
    """
    *many, height, columns = both.shape
    turned = both.reshape(-1, height, columns).transpose(2, 1, 0).copy()  # a column lies together
    smallest = _TOO_SMALL * np.square(np.abs(turned[:, :rows]).max(axis=(0, 1)))
    for _ in range(_SWEEPS):
        squares = total(turned[:, :rows] * turned[:, :rows], axis=1)
        rotated = [
            _rotate(turned, squares, rows, *pairs, smallest) for pairs in _tournament(columns)
        ]
        if not any(rotated):
            break
    values = np.sqrt(squares).T
    order = np.argsort(-values, axis=-1, kind="stable")
    found = np.take_along_axis(turned.transpose(2, 1, 0), order[:, None], axis=-1)
    values = np.take_along_axis(values, order, axis=-1)
    return found.reshape(both.shape), values.reshape(*many, columns)


def _rotate(
    turned: Matrix, squares: Matrix, rows: int, one: Places, other: Places, smallest: Matrix
) -> bool:
    """Turn pairs of columns until they are orthogonal; False if all of them were.

    Args:
        turned: the columns of all matrices, shape (columns, height, matrices); changed in place.
        squares: of their norms, shape (columns, matrices); changed in place.
        rows: of a column that count.
        one: the first of each pair.
        other: the second.
        smallest: square of a column that is left as it is, shape (matrices,).
    """
    x, y, xx, yy = turned[one], turned[other], squares[one], squares[other]
    xy = total(x[:, :rows] * y[:, :rows], axis=1)
    needed = np.abs(xy) > _ORTHOGONAL * (np.sqrt(xx) * np.sqrt(yy))
    needed &= (xx > smallest) & (yy > smallest)
    if not needed.any():
        return False
    xy = np.where(needed, xy, 0.0)
    ratio = (yy - xx) / np.where(needed, 2 * xy, 1.0)
    tangent = np.where(ratio < 0, -1.0, 1.0) / (np.abs(ratio) + np.sqrt(1 + ratio * ratio))
    tangent = np.where(needed, tangent, 0.0)
    shift = tangent * xy  # a small square loses its digits; every sweep begins with fresh ones
    squares[one], squares[other] = np.maximum(xx - shift, 0.0), np.maximum(yy + shift, 0.0)
    cosine = (1 / np.sqrt(1 + tangent * tangent))[:, None]
    sine = cosine * tangent[:, None]
    turned[one] = cosine * x - sine * y
    x *= sine
    y *= cosine
    turned[other] = x + y
    return True


@lru_cache
def _tournament(count: int) -> tuple[tuple[Places, Places], ...]:
    """Disjoint pairs of columns, round by round, until every two have met; none for one column."""
    order, rounds = list(range(count + count % 2)), []
    for _ in order[1:]:
        half = len(order) // 2
        met = zip(order[:half], reversed(order[half:]), strict=True)
        pairs = sorted((min(pair), max(pair)) for pair in met if max(pair) < count)
        if pairs:
            one, other = np.array(pairs).T
            rounds.append((one, other))
        order[1:] = [order[-1], *order[1:-1]]
    return tuple(rounds)
