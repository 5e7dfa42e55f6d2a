"""DoubleSketch: both factors of LoRA are trained, and the mean of their products comes of one sum.

Of each adapted module client i sends two small products of M_i = B_i A_i - B A, with B and A as it
received them, and public random signs Omega and Psi:

    Y_i = M_i Omega, shape (outputs, width)      Z_i = Psi M_i, shape (2 width + 1, inputs)

Both are linear, so that sums suffice. With the means Y and Z of the sketches, and W = B A + M the
mean of the clients' products,

    Q = orth(W Omega) = orth(B A Omega + Y)      X = (Psi Q)^+ Psi W = (Psi Q)^+ (Psi B A + Z)

and Q X = W where the width is at least the rank of W, which is at most contributors times rank.
W becomes factors of the rank that LoRA has: U sqrt(S) and sqrt(S) V^T of its largest singular
values. All of it is computed from noised updates.

Reference:
    Tropp, Yurtsever, Udell & Cevher 2017, arXiv:1609.00048 (the sketch); FedASK, arXiv:2507.09990
    (the same mean from two sums, one after the other); FlexLoRA, arXiv:2402.11505 (mean of the
    products, and its singular values).
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from privfed.canonical import canonical_json
from privfed.checks import require_count
from privfed.errors import ConfigError
from privfed.methods.averaging import FedAvg, weighted_mean
from privfed.methods.factors import A_FACTOR, B_FACTOR, FactorPair, pairs_of, product_svd
from privfed.methods.fixed_order import (
    NEGLIGIBLE,
    Matrix,
    norm,
    product,
    qr,
    solve_triangle,
    total,
)
from privfed.methods.method import DELTA, GlobalState, Round, SentVector, Trained, Vector
from privfed.protocol.layout import Layout

COLUMNS: Final = "sketch.columns"
"""The upload with Y of every module."""
ROWS: Final = "sketch.rows"
"""The upload with Z of every module."""
RESIDUAL: Final = "sketch.residual"
"""In the memory: of each module an estimate of |W - Q X| / |M|, the share of the round's step that
the width, the public range and rounding could not hold; shape (modules,)."""
TRUNCATED: Final = "sketch.truncated"
"""In the memory: of each module the share of the sum of W's singular values beyond the rank; shape
(modules,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubleSketch(FedAvg):
    """Both factors, aggregated as the mean of the products, which is then cut to the rank of LoRA.

    Before the cut the product is sum_i p_i B_i A_i, where `width` suffices; what it could not hold
    and what was cut stand in the memory of the global state. What is no factor of LoRA, such as a
    classifier's head, is averaged as by FedAvg.

    Attributes:
        width: columns of Y. A few more than contributors times rank hold any mean; Z has 2 width +
            1 rows, so that least squares do not blow up what rounding adds.
    """

    width: int

    kind: ClassVar[str] = "double-sketch"
    needs_lora: ClassVar[bool] = True
    changes_basis: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check every field."""
        FedAvg.__post_init__(self)
        require_count(width=self.width)
        if self.upload_share != 1:
            raise ConfigError(
                "double-sketch sends sketches of the whole product, so upload_share must be 1, got "
                f"{self.upload_share:g}; a smaller width sends less"
            )

    def averaged(self, round_: Round) -> NDArray[np.bool_]:
        """All of the adapter.

        Raises:
            ConfigError: if the adapter has not both factors, or a rank above the width.
        """
        self._pairs(round_.layout)
        return FedAvg.averaged(self, round_)

    def uploads(self, round_: Round) -> tuple[SentVector, ...]:
        """The update of what is no factor, if anything is, and the sketches of all modules.

        The entries of a sketch have at most the noise of an entry of an update; see `_sizes`. So
        they are sent in the same range.
        """
        pairs = self._pairs(round_.layout)
        lengths = {
            DELTA: int(_rest(round_.layout).sum()),
            COLUMNS: sum(pair.outputs * self.width for pair in pairs),
            ROWS: sum((2 * self.width + 1) * pair.inputs for pair in pairs),
        }
        return tuple(SentVector(name=name, length=n) for name, n in lengths.items() if n)

    def local(self, trained: Trained, client: str, round_: Round) -> Mapping[str, Vector]:
        """The update of what is no factor, and Y and Z of B dA + dB (A + dA), never M itself."""
        del client
        columns, rows = [], []
        for pair in self._pairs(round_.layout):
            b, a = pair.read(trained.received.adapter)
            db, da = pair.read(trained.delta)
            omega, psi = _signs(pair, self.width, round_.number)
            of_columns, of_rows = _sizes(b, a, omega, psi)
            y = b @ (da @ omega) + db @ ((a + da) @ omega)
            z = (psi @ b) @ da + (psi @ db) @ (a + da)
            columns.append((y / of_columns).reshape(-1))
            rows.append((z / of_rows).reshape(-1))
        rest = trained.delta[_rest(round_.layout)]
        sent = {DELTA: rest, COLUMNS: np.concatenate(columns), ROWS: np.concatenate(rows)}
        return {name: vector for name, vector in sent.items() if len(vector)}

    def next(
        self,
        state: GlobalState,
        sums: Mapping[str, NDArray[np.float64]],
        contributors: Sequence[str],
        round_: Round,
    ) -> GlobalState:
        """The adapter with the mean of the products, and how much of it was lost."""
        moved, lost, cut = state.adapter.astype(np.float64), [], []
        rest = _rest(round_.layout)
        if rest.any():
            mean = weighted_mean(sums[DELTA], round_.weights, contributors)
            moved[rest] += self.server_learning_rate * mean
        for pair, left, right, residual in self.products(state, sums, contributors, round_):
            _, a = pair.read(state.adapter)
            *factors, truncated = balanced_factors(left, right, a)
            pair.write(moved, *factors)
            lost.append(residual)
            cut.append(truncated)
        shares = {RESIDUAL: lost, TRUNCATED: cut}
        memory = {name: np.array(values, dtype=np.float32) for name, values in shares.items()}
        return replace(state, adapter=moved.astype(np.float32), memory=memory)

    def products(
        self,
        state: GlobalState,
        sums: Mapping[str, NDArray[np.float64]],
        contributors: Sequence[str],
        round_: Round,
    ) -> Iterator[tuple[FactorPair, Matrix, Matrix, float]]:
        """Of each module W in two factors, not yet cut, and the residual; see `mean_product`."""
        columns, rows = (
            self.server_learning_rate * weighted_mean(sums[name], round_.weights, contributors)
            for name in (COLUMNS, ROWS)
        )
        for pair in self._pairs(round_.layout):
            omega, psi = _signs(pair, self.width, round_.number)
            y, columns = np.split(columns, [pair.outputs * self.width])
            z, rows = np.split(rows, [len(psi) * pair.inputs])
            y, z = y.reshape(-1, self.width), z.reshape(-1, pair.inputs)
            yield pair, *mean_product(*pair.read(state.adapter), y, z, omega, psi)

    def _pairs(self, layout: Layout) -> tuple[FactorPair, ...]:
        pairs = pairs_of(layout, self.kind)
        largest = max(pair.rank for pair in pairs)
        if self.width < largest:
            raise ConfigError(
                f"the width of a sketch must be at least the rank of LoRA, got {self.width} for "
                f"rank {largest}; clients times rank and a few more hold any mean"
            )
        return pairs


def mean_product(
    b: Matrix, a: Matrix, y: Matrix, z: Matrix, omega: Matrix, psi: Matrix
) -> tuple[Matrix, Matrix, float]:
    """W = Q X in two factors, from mean sketches, and the share of the step that it lacks.

    With E the part of W outside Q, v = width and l = rows, least squares leave a residual of about
    (l - v) |E|^2, and X is off by about v / (l - v - 1) |E|^2 (Halko, Martinsson & Tropp 2011,
    arXiv:0909.4061, proposition 10.2, for Gaussian matrices): the share is corrected for both.

    Args:
        b: as received, shape (outputs, rank).
        a: as received, shape (rank, inputs).
        y: mean of M_i Omega over its size (`_sizes`), shape (outputs, width).
        z: mean of Psi M_i over its size, shape (rows, inputs).
        omega: signs, shape (inputs, width).
        psi: signs, shape (rows, outputs).

    Returns:
        Shapes (outputs, width) and (width, inputs), and an estimate of |W - Q X| / |M|: the
        residual of least squares over |Z|, times what least squares hide of it.
    """
    of_columns, of_rows = _sizes(b, a, omega, psi)
    stepped = z * of_rows
    basis, _ = qr(product(b, product(a, omega)) + y * of_columns)
    basis_seen, seen = product(psi, basis), product(product(psi, b), a) + stepped
    directions, triangle = qr(basis_seen)
    coefficients = solve_triangle(triangle, product(directions.T, seen))
    missed, size = norm(seen - product(basis_seen, coefficients)), norm(stepped)
    rows, width = psi.shape[0], omega.shape[1]
    hidden = np.sqrt(rows * (rows - 1) / ((rows - width) * (rows - width - 1)))
    return basis, coefficients, float(hidden) * missed / size if size > 0 else 0.0


def balanced_factors(left: Matrix, right: Matrix, a: Matrix) -> tuple[Matrix, Matrix, float]:
    """U sqrt(S) and sqrt(S) V^T of the largest singular values of a product, and the share cut.

    Where the product has a smaller rank, B ends with zeros and A with orthonormal rows, out of what
    its old rows and those of the product span. With zeros in both, no gradient would move them.

    Args:
        left: shape (outputs, width).
        right: shape (width, inputs).
        a: as it was, shape (rank, inputs); gives the rank.

    Returns:
        Shapes (outputs, rank) and (rank, inputs), and the share of the sum of singular values.
    """
    rank = len(a)
    padded = np.concatenate([np.zeros((len(left), rank)), left], axis=1)
    scaled, values, rows = product_svd(padded, np.concatenate([a, right]))
    roots = np.sqrt(np.where(values > NEGLIGIBLE * values[0], values, 1.0))[:rank]
    there = np.where(values > NEGLIGIBLE * values[0], 1.0, 0.0)[:rank]
    everything = float(total(values))
    cut = float(total(values[rank:])) / everything if everything > 0 else 0.0
    return scaled[:, :rank] * there / roots, rows[:rank] * roots[:, None], cut


def _sizes(b: Matrix, a: Matrix, omega: Matrix, psi: Matrix) -> tuple[float, float]:
    """By what Y and Z are divided, so that no entry has more noise than one of an update.

    With noise of deviation sigma in every entry of dB and dA, entry (i, j) of Y = dB (A Omega) +
    B (dA Omega) has variance sigma^2 (|A Omega e_j|^2 + inputs |B_i|^2), and that of Z =
    (Psi dB) A + (Psi B) dA has sigma^2 (outputs |A e_j|^2 + |Psi_i B|^2). Here is the largest of
    each over sigma; the product dB dA is of second order.
    """
    outputs, inputs = len(b), a.shape[1]
    of_a, of_b = _largest(product(a, omega)), _largest(product(psi, b).T)
    columns = np.sqrt(of_a + inputs * _largest(b.T))
    rows = np.sqrt(of_b + outputs * _largest(a))
    return float(columns) or 1.0, float(rows) or 1.0


def _largest(columns: Matrix) -> float:
    return float(total(columns * columns).max())


def _signs(pair: FactorPair, width: int, number: int) -> tuple[Matrix, Matrix]:
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


def _rest(layout: Layout) -> NDArray[np.bool_]:
    """Where the vector holds no factor of LoRA, shape (params,)."""
    factors = [name for name in layout.names if A_FACTOR in name or B_FACTOR in name]
    return ~layout.mask(factors)
