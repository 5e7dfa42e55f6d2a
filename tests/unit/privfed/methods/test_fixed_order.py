"""The oracle is LAPACK; the bits are those of scalar arithmetic, and of one fixed digest."""

import hashlib

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


def test_a_product_has_the_bits_of_scalar_arithmetic():
    """On either side of the choice of what is looped over."""
    for m, n in ((2, 6), (6, 2)):
        left, right = normal(1, m, 9), normal(2, 9, n)
        found = fixed_order.product(left, right)
        for row in range(m):
            for column in range(n):
                terms = [float(left[row, k]) * float(right[k, column]) for k in range(9)]
                assert found[row, column] == by_halves(terms)


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


def test_the_bits_are_these():
    """Found on x86-64; another processor that adds or rounds otherwise shows here."""
    digest = hashlib.sha256()
    matrix = rational(29, 6)
    basis, triangle = fixed_order.qr(matrix)
    solved = fixed_order.solve_triangle(triangle, fixed_order.product(basis.T, rational(29, 5)))
    for values in (basis, triangle, solved, *fixed_order.svd(matrix), *fixed_order.svd(triangle)):
        digest.update(values.astype("<f8").tobytes())
    assert digest.hexdigest() == "6aa1ad8f7b9863bb46f6c892e6783c784b06e3eb23791bdf472f24fbd25e02fe"
