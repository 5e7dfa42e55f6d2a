"""Sketches of the modules of one shape: their signs and sizes, and the product out of their means.

`DoubleSketch` says what they are for. Everything that decides the next global state is computed
here with the same bits on every processor (`fixed_order`), for several modules at a time.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privfed.canonical import canonical_json
from privfed.methods.factors import FactorPair, alike
from privfed.methods.fixed_order import (
    Matrix,
    cholesky,
    gram,
    left_svd,
    norm,
    product,
    qr,
    signed_sums,
    solve_triangle,
    total,
    transposed,
)

SMALL: Final = 1e-6
"""Share of the largest singular value below which others are taken for zero: their squares are
lost in the rounding of that of the largest."""

_TOGETHER: Final = 16
"""Modules that are computed at once: enough to keep numpy busy, few enough for the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketched:
    """Modules of one shape, where their sketches lie, and the signs of a round, which are public.

    Attributes:
        pairs: their factors.
        columns: where Y of each module begins among those of all.
        rows: where Z of each module begins.
        omega: signs, shape (modules, inputs, width).
        psi: signs, shape (modules, 2 width + 1, outputs).
    """

    pairs: tuple[FactorPair, ...]
    columns: tuple[int, ...]
    rows: tuple[int, ...]
    omega: Matrix
    psi: Matrix

    def of_columns(self, vector: NDArray[np.float64]) -> Matrix:
        """Y of every module from the vector with those of all, shape (modules, outputs, width)."""
        shape = (self.psi.shape[-1], self.omega.shape[-1])
        return np.stack([_read(vector, first, shape) for first in self.columns])

    def of_rows(self, vector: NDArray[np.float64]) -> Matrix:
        """Z of every module, shape (modules, 2 width + 1, inputs)."""
        shape = (self.psi.shape[-2], self.omega.shape[-2])
        return np.stack([_read(vector, first, shape) for first in self.rows])

    def write_columns(self, vector: NDArray[np.float64], y: Matrix) -> None:
        """The inverse of `of_columns`."""
        _write(vector, self.columns, y)

    def write_rows(self, vector: NDArray[np.float64], z: Matrix) -> None:
        """The inverse of `of_rows`."""
        _write(vector, self.rows, z)


def _read(vector: NDArray[np.float64], first: int, shape: tuple[int, int]) -> Matrix:
    return vector[first : first + math.prod(shape)].reshape(shape)


def _write(vector: NDArray[np.float64], places: Sequence[int], values: Matrix) -> None:
    for first, one in zip(places, values, strict=True):
        vector[first : first + one.size] = one.reshape(-1)


def sketched(pairs: Sequence[FactorPair], width: int, number: int) -> Iterator[Sketched]:
    """The modules by shape, a few at a time, in round `number`."""
    columns, rows = [0], [0]
    for pair in pairs:
        columns.append(columns[-1] + pair.outputs * width)
        rows.append(rows[-1] + (2 * width + 1) * pair.inputs)
    for positions in alike(pairs):
        for start in range(0, len(positions), _TOGETHER):
            chosen = positions[start : start + _TOGETHER]
            drawn = [signs(pairs[position], width, number) for position in chosen]
            yield Sketched(
                pairs=tuple(pairs[position] for position in chosen),
                columns=tuple(columns[position] for position in chosen),
                rows=tuple(rows[position] for position in chosen),
                omega=np.stack([omega for omega, _ in drawn]),
                psi=np.stack([psi for _, psi in drawn]),
            )


def signs(pair: FactorPair, width: int, number: int) -> tuple[Matrix, Matrix]:
    """Omega, shape (inputs, width), and Psi, shape (2 width + 1, outputs), of a round; public."""
    shapes = {"omega": (pair.inputs, width), "psi": (2 * width + 1, pair.outputs)}
    drawn = []
    for side, shape in shapes.items():
        count = math.prod(shape)
        stream = hashlib.shake_256(canonical_json(["privfed signs 1", number, pair.name, side]))
        octets = np.frombuffer(stream.digest(-(-count // 8)), dtype=np.uint8)
        bits = np.unpackbits(octets)[:count].reshape(shape)
        drawn.append(1.0 - 2.0 * bits.astype(np.float64))
    omega, psi = drawn
    return omega, psi


def sizes(b: Matrix, a: Matrix, modules: Sketched) -> tuple[Matrix, Matrix]:
    """By what Y and Z are divided, so that no entry has more noise than one of an update.

    With noise of deviation sigma in every entry of dB and dA, entry (i, j) of Y = dB (A Omega) +
    B (dA Omega) has variance sigma^2 (|A Omega e_j|^2 + inputs |B_i|^2), and that of Z =
    (Psi dB) A + (Psi B) dA has sigma^2 (outputs |A e_j|^2 + |Psi_i B|^2). Here is the largest of
    each over sigma; the product dB dA is of second order.

    Args:
        b: as received, shape (modules, outputs, rank).
        a: as received, shape (modules, rank, inputs).
        modules: which.

    Returns:
        Shape (modules, 1, 1) each, above 0.
    """
    outputs, inputs = b.shape[-2], a.shape[-1]
    a_omega = transposed(signed_sums(transposed(modules.omega), transposed(a)))
    of_a = _largest(a_omega, axis=-2)
    of_b = _largest(signed_sums(modules.psi, b), axis=-1)
    columns: Matrix = np.sqrt(of_a + inputs * _largest(b, axis=-1))
    rows: Matrix = np.sqrt(of_b + outputs * _largest(a, axis=-2))
    for size in (columns, rows):
        size[size == 0] = 1.0
    return columns[:, None, None], rows[:, None, None]


def _largest(matrix: Matrix, axis: int) -> Matrix:
    """Largest sum of squares along an axis of each module, shape (modules,)."""
    return np.asarray(total(matrix * matrix, axis=axis).max(axis=-1))


def mean_product(
    b: Matrix, a: Matrix, y: Matrix, z: Matrix, modules: Sketched
) -> tuple[Matrix, Matrix, Matrix]:
    """W in two factors, from mean sketches, and the share of the step that they lack.

    W Omega has the columns that Q is to span. With Psi W Omega = Q' R, Q' orthonormal, they are
    spanned by P = W Omega R^+, of which Psi P = Q'; so least squares give Q (Psi Q)^+ Psi W =
    P (Q'^T Psi W), whatever basis Q is taken. QR is of a matrix of 2 width + 1 rows.

    With E the part of W outside, v = width and l = rows, least squares leave a residual of about
    (l - v) |E|^2, and what they find is off by about v / (l - v - 1) |E|^2 (Halko, Martinsson &
    Tropp 2011, arXiv:0909.4061, proposition 10.2, for Gaussian matrices): the share is corrected
    for both.

    Args:
        b: as received, shape (modules, outputs, rank).
        a: as received, shape (modules, rank, inputs).
        y: mean of M_i Omega over its size (`sizes`), shape (modules, outputs, width).
        z: mean of Psi M_i over its size, shape (modules, rows, inputs).
        modules: which.

    Returns:
        Shapes (modules, outputs, width) and (modules, width, inputs), and an estimate of |W - what
        they give| / |M|, shape (modules,): the residual of least squares over |Z|, times what least
        squares hide of it.
    """
    of_columns, of_rows = sizes(b, a, modules)
    a_omega = transposed(signed_sums(transposed(modules.omega), transposed(a)))
    spanning = product(b, a_omega) + y * of_columns
    basis, triangle = qr(signed_sums(modules.psi, spanning))
    inverse = solve_triangle(triangle, np.broadcast_to(np.eye(len(triangle[0])), triangle.shape))
    stepped = z * of_rows
    seen = product(signed_sums(modules.psi, b), a) + stepped
    coefficients = product(transposed(basis), seen)
    missed, size = norm(seen - product(basis, coefficients)), norm(stepped)
    _, rows, width = basis.shape
    hidden = np.sqrt(rows * (rows - 1) / ((rows - width) * (rows - width - 1)))
    lacking = np.where(size > 0, hidden * missed / np.where(size > 0, size, 1.0), 0.0)
    return product(spanning, inverse), coefficients, lacking


def balanced_factors(left: Matrix, right: Matrix, a: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """U sqrt(S) and sqrt(S) V^T of the largest singular values of a product, and the share cut.

    With left = Q R, singular values and U are those of N = R right, from the small matrix N N^T.
    Where the product has a smaller rank, B ends with zeros and A with orthonormal rows, out of what
    its old rows span. With zeros in both, no gradient would move them.

    Args:
        left: shape (modules, outputs, width), of columns that are zeros or far from dependent.
        right: shape (modules, width, inputs).
        a: as it was, shape (modules, rank, inputs); gives the rank.

    Returns:
        Shapes (modules, outputs, rank) and (modules, rank, inputs), and of each module the share of
        the sum of singular values, shape (modules,).
    """
    rank = a.shape[-2]
    triangle = cholesky(gram(transposed(left)))
    core = product(triangle, right)
    scaled, values = left_svd(transposed(cholesky(gram(core))))
    kept = values[:, :rank, None]
    there = kept > SMALL * values[:, :1, None]
    roots = np.sqrt(np.where(there, kept, 1.0))
    turned = np.where(there, transposed(scaled)[:, :rank] / np.where(there, kept, 1.0), 0.0)
    rows = product(turned, core) / roots
    columns = product(left, solve_triangle(triangle, transposed(turned * roots)))
    if not there.all():
        rows = np.where(there, rows, _completed(rows / roots, a))
    everything = total(values, axis=-1)
    cut = everything - total(values[:, :rank], axis=-1)
    return columns, rows, np.maximum(cut, 0.0) / np.where(everything > 0, everything, 1.0)


def _completed(rows: Matrix, a: Matrix) -> Matrix:
    """Orthonormal rows and zeros, with orthonormal rows out of the span of A for the zeros."""
    basis, _ = qr(transposed(np.concatenate([rows, a], axis=-2)))
    missing = total(basis * basis, axis=-2) == 0
    order = np.argsort(missing, axis=-1, kind="stable")[:, : rows.shape[-2], None]
    return np.take_along_axis(transposed(basis), order, axis=-2)
