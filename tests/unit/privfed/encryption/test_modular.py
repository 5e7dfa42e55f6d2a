import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.encryption.modular import MAX_COLUMNS, InnerProducts
from privfed.errors import EncryptionError

LARGEST = 2**60 - 1
Q = 2**60 - 16383


def in_whole_numbers(rows, weights, modulus) -> list[list[int]]:
    """The same with Python's integers."""
    return [
        [sum(int(a) * int(b) for a, b in zip(row, column, strict=True)) % modulus
         for column in weights.T]
        for row in rows
    ]  # fmt: skip


def test_by_hand():
    """(1, 2, 3) with (4, 5, 6) is 32; with (0, 0, 6) 18; modulo 7."""
    rows = np.array([[1, 2, 3]], dtype=np.uint64)
    weights = np.array([[4, 0], [5, 0], [6, 6]], dtype=np.uint64)
    assert InnerProducts(weights, 7)(rows) == [[4, 4]]
    assert InnerProducts(weights, 1000)(rows) == [[32, 18]]


@pytest.mark.parametrize("modulus", [2**60, Q, 2**59 + 1])
def test_all_limbs_maximal_in_as_many_columns_as_there_may_be(modulus):
    rows = np.full((2, MAX_COLUMNS), LARGEST, dtype=np.uint64)
    weights = np.full((MAX_COLUMNS, 2), modulus - 1, dtype=np.uint64)
    expected = MAX_COLUMNS * LARGEST * (modulus - 1) % modulus
    assert InnerProducts(weights, modulus)(rows) == [[expected] * 2] * 2


@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 40), st.sampled_from([1, 2, 63, 500]), st.integers(1, 3)),
    modulus=st.sampled_from([2, 3, 40961, 2**20, 2**40 + 1, 68623891046401, Q, 2**60]),
)
def test_agrees_with_whole_numbers(seed, shape, modulus):
    count, columns, vectors = shape
    random = np.random.default_rng(seed)
    rows = random.integers(0, LARGEST, (count, columns), dtype=np.uint64, endpoint=True)
    weights = random.integers(0, modulus, (columns, vectors), dtype=np.uint64)
    found = InnerProducts(weights, modulus)(rows)
    assert found == in_whole_numbers(rows, weights, modulus)
    assert all(type(value) is int for row in found for value in row)


@given(bit=st.integers(0, 59), other=st.integers(0, 59))
def test_every_pair_of_bits_has_its_weight(bit, other):
    rows = np.array([[0, 1 << bit]], dtype=np.uint64)
    weights = np.array([[0], [1 << other]], dtype=np.uint64)
    assert InnerProducts(weights, Q)(rows) == [[2 ** (bit + other) % Q]]


def test_the_largest_modulus_is_2_to_60():
    weights = np.zeros((1, 1), dtype=np.uint64)
    for modulus in (2, 2**60):
        assert InnerProducts(weights, modulus)(weights) == [[0]]
    for modulus in (2**60 + 1, 2**61, 1, 0, -5):
        with pytest.raises(EncryptionError, match="modulus"):
            InnerProducts(weights, modulus)


def test_weights_must_be_below_the_modulus():
    weights = np.array([[1], [100]], dtype=np.uint64)
    assert InnerProducts(weights, 101)(weights.T) == [[10001 % 101]]
    with pytest.raises(EncryptionError, match="modulus 100"):
        InnerProducts(weights, 100)


def test_rows_must_be_below_2_to_60():
    form = InnerProducts(np.ones((1, 1), dtype=np.uint64), Q)
    assert form(np.array([[LARGEST]], dtype=np.uint64)) == [[LARGEST % Q]]
    for bad in (2**60, 2**64 - 1):
        with pytest.raises(EncryptionError, match="rows must be below"):
            form(np.array([[0], [bad]], dtype=np.uint64))


def test_more_columns_than_are_exact_are_refused():
    assert MAX_COLUMNS * (2**20 - 1) ** 2 < 2**53 < (MAX_COLUMNS + 1) * 2 ** (2 * 20 + 1)
    with pytest.raises(EncryptionError, match="4096 columns"):
        InnerProducts(np.zeros((4097, 1), dtype=np.uint64), Q)


@pytest.mark.parametrize("columns", [1, 3])
def test_rows_must_have_a_column_for_every_weight(columns):
    form = InnerProducts(np.ones((2, 1), dtype=np.uint64), Q)
    with pytest.raises(EncryptionError, match="2 columns"):
        form(np.ones((1, columns), dtype=np.uint64))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 2), dtype=np.int64),
        np.zeros((2, 2)),
        np.zeros(2, dtype=np.uint64),
        np.zeros((2, 2, 2), dtype=np.uint64),
        np.zeros((2, 0), dtype=np.uint64),
        np.zeros((0, 2), dtype=np.uint64),
    ],
)
def test_other_arrays_are_refused(wrong):
    with pytest.raises(EncryptionError, match="weights must be uint64"):
        InnerProducts(wrong, Q)
    with pytest.raises(EncryptionError, match="rows must be uint64"):
        InnerProducts(np.zeros((2, 2), dtype=np.uint64), Q)(wrong)
