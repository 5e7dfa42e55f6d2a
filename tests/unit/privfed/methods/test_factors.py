"""Where the factors lie in the vector, and the singular values of their product."""

import hashlib

import numpy as np
import pytest

from privfed.errors import ConfigError
from privfed.methods.factors import pairs_of, product_svd
from privfed.protocol.layout import Layout
from tests.unit.privfed.methods.test_fixed_order import rational

A, B = "q.lora_A.default.weight", "q.lora_B.default.weight"
V_A, V_B = "v.lora_A.default.weight", "v.lora_B.default.weight"
LAYOUT = Layout(
    (("head.weight", (4,)), (A, (2, 5)), (B, (3, 2)), ("x", (1, 3)), (V_B, (6, 1)), (V_A, (1, 7)))
)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


class TestWhereTheyAre:
    def test_by_hand(self):
        """The head takes 0 to 3, A of q 4 to 13, B of q 14 to 19, x 20 to 22, then B of v and A."""
        q, v = pairs_of(LAYOUT, "fedsvd")
        assert (q.name, q.rank, q.inputs, q.outputs) == (A, 2, 5, 3)
        assert (v.name, v.rank, v.inputs, v.outputs) == (V_A, 1, 7, 6)
        b, a = q.read(np.arange(36.0))
        assert a.tolist() == [[4, 5, 6, 7, 8], [9, 10, 11, 12, 13]]
        assert b.tolist() == [[14, 15], [16, 17], [18, 19]]
        b, a = v.read(np.arange(36.0))
        assert (b.ravel().tolist(), a.ravel().tolist()) == ([*range(23, 29)], [*range(29, 36)])

    def test_what_is_written_is_read_and_nothing_else_changes(self):
        q, _ = pairs_of(LAYOUT, "fedsvd")
        vector = np.arange(36.0)
        b, a = normal(1, 3, 2), normal(2, 2, 5)
        q.write(vector, b, a)
        for written, read in zip((b, a), q.read(vector), strict=True):
            np.testing.assert_array_equal(written, read)
        assert (vector != np.arange(36.0)).nonzero()[0].tolist() == list(range(4, 20))

    @pytest.mark.parametrize(
        "names", [("head.weight",), (A,), (B,), (A, V_B), (A, B, V_A), (A, B, V_B)]
    )
    def test_halves_without_their_other_half_are_refused(self, names):
        layout = Layout(tuple((name, (2, 2)) for name in names))
        with pytest.raises(ConfigError, match="fedsvd needs an adapter with both factors of LoRA"):
            pairs_of(layout, "fedsvd")

    @pytest.mark.parametrize("shapes", [((2, 5), (3, 4)), ((2, 5, 3), (3, 2)), ((2, 5), (3, 2, 1))])
    def test_factors_that_are_no_matrices_or_do_not_fit_are_refused(self, shapes):
        layout = Layout(tuple(zip((A, B), shapes, strict=True)))
        with pytest.raises(ConfigError, match=r"A of shape \(rank, inputs\) and B of shape"):
            pairs_of(layout, "fedsvd")


class TestTheProduct:
    @pytest.mark.parametrize(("outputs", "rank", "inputs"), [(9, 3, 17), (21, 4, 6), (2, 3, 8)])
    def test_it_is_what_lapack_finds_of_the_whole_matrix(self, outputs, rank, inputs):
        b, a = normal(3, outputs, rank), normal(4, rank, inputs)
        scaled, values, rows = product_svd(b, a)
        np.testing.assert_allclose(scaled @ rows, b @ a, atol=1e-12)
        expected = np.zeros(rank)
        there = min(rank, outputs)
        expected[:there] = np.linalg.svd(b @ a)[1][:there]
        np.testing.assert_allclose(values, expected, atol=1e-10)
        np.testing.assert_allclose(scaled.T @ scaled, np.diag(values**2), atol=1e-10)
        np.testing.assert_allclose(rows @ rows.T, np.eye(rank), atol=1e-12)

    @pytest.mark.parametrize("lost", [1, 3])
    def test_rows_stay_in_the_row_space_of_a_where_b_lost_rank(self, lost):
        """With B = 0 too: then they are the rows of A, made orthonormal."""
        b, a = normal(5, 8, 3), normal(6, 3, 12)
        b[:, 3 - lost :] = 0
        scaled, values, rows = product_svd(b, a)
        inside = np.linalg.svd(a, full_matrices=False)[2]
        np.testing.assert_allclose(rows @ inside.T @ inside, rows, atol=1e-12)
        np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(scaled @ rows, b @ a, atol=1e-12)
        assert (np.abs(values[3 - lost :]) < 1e-12).all()

    def test_the_bits_are_these(self):
        """Found on x86-64; another processor that adds or rounds otherwise shows here."""
        digest = hashlib.sha256()
        for values in product_svd(rational(23, 4), rational(4, 37)):
            digest.update(values.astype("<f8").tobytes())
        assert (
            digest.hexdigest() == "03e2c1d9fa7022c58cb2580a13efa1aa894768c29e29bd29bdc2178fd56c2089"
        )

    def test_rows_of_a_that_depend_on_others_become_zeros(self):
        b, a = normal(7, 5, 3), normal(8, 3, 6)
        a[2] = a[0] - 2 * a[1]
        scaled, _, rows = product_svd(b, a)
        np.testing.assert_allclose(rows @ rows.T, np.diag([1.0, 1.0, 0.0]), atol=1e-12)
        np.testing.assert_allclose(scaled @ rows, b @ a, atol=1e-12)
