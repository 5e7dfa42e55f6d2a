"""The oracle is LAPACK; the bits are those of exact arithmetic, and of one fixed digest."""

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.methods import fixed_order

SHAPES = [(7, 3), (40, 8), (5, 5), (1, 1), (6, 1), (33, 9)]


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def rational(rows, columns):
    """Quotients that are the same everywhere, most of them rounded."""
    i, j = np.indices((rows, columns)).astype(np.float64)
    return ((7 * i + 3 * j * j) % 11 - 5) / (1 + (2 * i + j) % 7)


def by_halves(values):
    """The sum of Python's own floats."""
    while len(values) > 1:
        half = len(values) // 2
        paired = [values[k] + values[half + k] for k in range(half)]
        values = paired + values[2 * half :]
    return values[0]


def test_a_sum_by_hand():
    """1 + 1e16 is 1e16, so that in order 1 is lost: ((1 + -1e16) + (1e16 + 4)) + 2."""
    values = np.array([1.0, 1e16, -1e16, 4.0, 2.0])
    assert fixed_order.total(values) == (1 - 1e16) + (1e16 + 4) + 2
    assert fixed_order.total(values[:1]) == 1.0


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40))
def test_a_sum_has_the_bits_of_scalar_arithmetic(values):
    assert float(fixed_order.total(np.array(values))) == by_halves(values)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_sum_over_an_axis_is_that_of_its_rows(axis):
    values = normal(20, 5, 4, 3)
    expected = [fixed_order.total(one) for one in np.moveaxis(values, axis, 0)[None]]
    np.testing.assert_array_equal(fixed_order.total(values, axis=axis), expected[0])


def whole(values, bits):
    """Each as the power of two and the two whole numbers that the docstring says."""
    exponent = max(math.frexp(value)[1] for value in values)
    scale = Fraction(2) ** (bits - exponent)
    high = [round(Fraction(value) * scale) for value in values]
    parts = zip(values, high, strict=True)
    low = [round((Fraction(value) * scale - one) * 2**bits) for value, one in parts]
    return scale, np.array(high, dtype=object), np.array(low, dtype=object)


def test_a_product_has_the_bits_of_whole_numbers():
    """Python's, which have no rounding at all: 9 terms leave (53 - 4) // 2 = 24 bits."""
    left, right = normal(1, 2, 9), normal(2, 9, 6) * 10.0 ** np.arange(-3, 3)
    found = fixed_order.product(left, right)
    for row, column in np.ndindex(2, 6):
        (scale, high, low), (other, above, below) = (
            whole(values.tolist(), 24) for values in (left[row], right[:, column])
        )
        crossed, exact = np.dot(high, below) + np.dot(low, above), np.dot(high, above)
        assert found[row, column] == (crossed * 2.0**-24 + exact) / float(scale * other)


@pytest.mark.parametrize("count", [1, 2, 3, 1000, 1024, 1025])
def test_no_partial_sum_is_beyond_what_float64_holds(count):
    """The largest whole numbers of one sign, in every place."""
    full = np.full((1, count), 1 - 2.0**-53)
    bits = (53 - (count - 1).bit_length()) // 2
    _, high, low = fixed_order._in_two(full, bits, axis=-1)
    assert high[0, 0] == 2.0**bits
    assert abs(low[0, 0]) <= 2.0 ** (bits - 1)
    assert count * int(high[0, 0]) ** 2 <= 2**53 < 8 * count * int(high[0, 0]) ** 2
    scale = fixed_order._scale(full, 53 - (count - 1).bit_length(), axis=-1)
    assert count * int(np.rint(full * scale)[0, 0]) <= 2**53


@pytest.mark.parametrize("count", [3, 30, 1024, 4000])
def test_products_are_as_exact_as_they_say(count):
    """At most 2 k 2^-2b of the largest of row and column; in each of several at once."""
    left, right = normal(3, 2, 3, count), normal(4, 2, count, 5) * 10.0 ** np.arange(-2, 3)
    bits = (53 - (count - 1).bit_length()) // 2
    largest = np.abs(left).max(axis=-1, keepdims=True) * np.abs(right).max(axis=-2, keepdims=True)
    bound = 2 * count * 4.0**-bits * largest
    assert (np.abs(fixed_order.product(left, right) - left @ right) < bound).all()
    rows = np.swapaxes(right, -1, -2)
    found = fixed_order.gram(rows)
    np.testing.assert_array_equal(found, np.swapaxes(found, -1, -2))
    np.testing.assert_allclose(found, fixed_order.product(rows, right), rtol=1e-7)
    signs = np.sign(left)
    sums = fixed_order.signed_sums(signs, right)
    np.testing.assert_allclose(sums, signs @ right, atol=count * 1e-13 * np.abs(right).max())


def test_products_of_extremes():
    """Rows of zeros, and of numbers so small that their power of two would be infinite."""
    left = np.array([[0.0, 0.0], [1e-300, 2e-300], [1e150, 3e150]])
    found = fixed_order.product(left, np.array([[1.0], [2.0]]))
    np.testing.assert_allclose(found[:, 0], [0, 0, 7e150], atol=1e-130)


def test_a_triangle_of_cholesky_by_hand():
    """[[4, 6], [6, 25]] is R^T R of [[2, 3], [0, 4]]; a row that depends on others is zeros."""
    assert fixed_order.cholesky(np.array([[4.0, 6.0], [6.0, 25.0]])).tolist() == [[2, 3], [0, 4]]
    rows = normal(12, 4, 7)
    rows[2] = rows[0] - rows[1]
    inner = rows @ rows.T
    triangle = fixed_order.cholesky(np.stack([inner, 4 * inner]))
    np.testing.assert_allclose(triangle[0].T @ triangle[0], inner, atol=1e-12)
    np.testing.assert_allclose(triangle[1], 2 * triangle[0], rtol=1e-12)
    assert (triangle[:, 2] == 0).all()
    assert (np.tril(triangle[0], -1) == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_qr_is_what_lapack_finds(shape):
    """But for signs: here the diagonal of R is positive."""
    matrix = normal(3, *shape)
    basis, triangle = fixed_order.qr(matrix)
    expected_basis, expected = np.linalg.qr(matrix)
    signs = np.sign(np.diag(expected))
    np.testing.assert_allclose(triangle, expected * signs[:, None], atol=1e-10)
    np.testing.assert_allclose(basis, expected_basis * signs, atol=1e-10)
    assert (np.tril(triangle, -1) == 0).all()


def test_columns_that_nearly_depend_are_orthogonal_all_the_same():
    """One pass of Gram-Schmidt would leave them at an angle of 1e-6 of a right one."""
    matrix = normal(4, 30, 4)
    matrix[:, 3] = matrix[:, :3] @ [1.0, -2.0, 0.5] + 1e-9 * matrix[:, 3]
    basis, triangle = fixed_order.qr(matrix)
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-14)
    np.testing.assert_allclose(basis @ triangle, matrix, atol=1e-14)


def test_a_column_that_depends_on_others_is_zeros():
    """So is one that is zeros, and each beyond the number of rows."""
    one, two = normal(5, 2, 8)
    basis, triangle = fixed_order.qr(np.stack([one, 3 * one, 0 * one, two, one - two], axis=1))
    there = [True, False, False, True, False]
    np.testing.assert_allclose(basis.T @ basis, np.diag(np.float64(there)), atol=1e-14)
    for gone in (1, 2, 4):
        assert (basis[:, gone] == 0).all()
        assert (triangle[gone] == 0).all()
    np.testing.assert_allclose(triangle[0, 1], 3 * triangle[0, 0], rtol=1e-14)
    wide, _ = fixed_order.qr(normal(6, 3, 5))
    assert (wide[:, 3:] == 0).all()
    np.testing.assert_allclose(wide[:, :3] @ wide[:, :3].T, np.eye(3), atol=1e-14)


def test_a_triangle_is_solved_by_hand():
    """2 x + y = 7 and 4 y = 12; where a row is zero, so is the unknown."""
    assert fixed_order.solve_triangle(
        np.array([[2.0, 1.0], [0.0, 4.0]]), np.array([[7.0], [12.0]])
    ).tolist() == [[2.0], [3.0]]
    holed = np.array([[2.0, 1.0, 5.0], [0.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
    found = fixed_order.solve_triangle(holed, np.array([[21.0], [9.0], [12.0]]))
    assert found.tolist() == [[3.0], [0.0], [3.0]]


def test_least_squares_are_what_lapack_finds():
    matrix, right = normal(7, 11, 4), normal(8, 11, 3)
    basis, triangle = fixed_order.qr(matrix)
    found = fixed_order.solve_triangle(triangle, fixed_order.product(basis.T, right))
    expected = np.linalg.lstsq(matrix, right, rcond=None)[0]
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 16])
@pytest.mark.parametrize("decades", [0, 12])
def test_singular_values_are_what_lapack_finds(size, decades):
    """Relative to the largest; V is orthogonal and its signs are fixed."""
    matrix = normal(9, size + 2, size) * 10.0 ** -np.linspace(0, decades, size)
    scaled, values, turned = fixed_order.svd(matrix)
    np.testing.assert_allclose(values, np.linalg.svd(matrix)[1], atol=1e-10 * values[0])
    np.testing.assert_allclose(turned.T @ turned, np.eye(size), atol=1e-13)
    np.testing.assert_allclose(scaled @ turned.T, matrix, atol=1e-13)
    directions = scaled / values
    np.testing.assert_allclose(directions.T @ directions, np.eye(size), atol=1e-10)
    largest = np.abs(turned).argmax(axis=0)
    assert (turned[largest, np.arange(size)] > 0).all()


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_v_is_orthogonal_whatever_the_rank(rank):
    matrix = normal(10, 6, rank) @ normal(11, rank, 5)
    scaled, values, turned = fixed_order.svd(matrix)
    np.testing.assert_allclose(turned.T @ turned, np.eye(5), atol=1e-13)
    np.testing.assert_allclose(scaled @ turned.T, matrix, atol=1e-13)
    assert (values > 1e-12).sum() == rank


def test_several_matrices_have_the_bits_of_each_alone():
    """Whatever the others need: one is of rank 1, so that it is finished long before."""
    several = np.stack([normal(13, 9, 5), normal(14, 9, 1) @ normal(15, 1, 5), normal(16, 9, 5)])
    for function in (fixed_order.qr, fixed_order.svd, fixed_order.left_svd):
        together = function(several)
        for position, one in enumerate(several):
            for found, alone in zip(together, function(one), strict=True):
                np.testing.assert_array_equal(found[position], alone)


def test_singular_values_without_v_are_the_same():
    matrix = normal(17, 8, 5)
    scaled, values = fixed_order.left_svd(matrix)
    of_both, expected, _ = fixed_order.svd(matrix)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(np.abs(scaled), np.abs(of_both))


def test_the_bits_are_these():
    """Found on x86-64; another processor that adds or rounds otherwise shows here."""
    digest = hashlib.sha256()
    matrix = rational(29, 6)
    basis, triangle = fixed_order.qr(matrix)
    solved = fixed_order.solve_triangle(triangle, fixed_order.product(basis.T, rational(29, 5)))
    for values in (basis, triangle, solved, *fixed_order.svd(matrix), *fixed_order.svd(triangle)):
        digest.update(values.astype("<f8").tobytes())
    assert digest.hexdigest() == "e52d7d621e65604d5ff434897aaa2b125a31ee994163463d3800b3c5aa193bce"
