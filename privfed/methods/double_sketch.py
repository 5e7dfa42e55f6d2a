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

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from privfed.checks import require_count
from privfed.errors import ConfigError
from privfed.methods.averaging import FedAvg, weighted_mean
from privfed.methods.factors import A_FACTOR, B_FACTOR, FactorPair, pairs_of, read_all
from privfed.methods.fixed_order import Matrix
from privfed.methods.method import DELTA, GlobalState, Round, SentVector, Trained, Vector
from privfed.methods.sketches import balanced_factors, mean_product, sizes, sketched
from privfed.protocol.layout import Layout

COLUMNS: Final = "sketch.columns"
"""The upload with Y of every module."""
ROWS: Final = "sketch.rows"
"""The upload with Z of every module."""
RESIDUAL: Final = "sketch.residual"
"""In the memory: of each module an estimate of |W - Q X| / |M|, the share of the round's step that
the width, the public range and rounding could not hold; shape (modules,)."""
LOST: Final = "share of the step lost in the sketch"
"""Figure of a round: the largest of RESIDUAL."""
CUT: Final = "share of the product cut to the rank"
"""Figure of a round: the largest of TRUNCATED."""
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
        rest = int(_rest(round_.layout).sum())
        sketches = {
            COLUMNS: sum(pair.outputs * self.width for pair in pairs),
            ROWS: sum((2 * self.width + 1) * pair.inputs for pair in pairs),
        }
        update = (SentVector(name=DELTA, length=rest),) if rest else ()
        return (*update, *(SentVector(name=k, length=n, filled=n) for k, n in sketches.items()))

    def local(self, trained: Trained, client: str, round_: Round) -> Mapping[str, Vector]:
        """The update of what is no factor, and Y and Z of B dA + dB (A + dA), never M itself."""
        del client
        sent = {one.name: np.empty(one.length) for one in self.uploads(round_)}
        if DELTA in sent:
            sent[DELTA][:] = trained.delta[_rest(round_.layout)]
        for modules in sketched(self._pairs(round_.layout), self.width, round_.number):
            b, a = read_all(modules.pairs, trained.received.adapter)
            db, da = read_all(modules.pairs, trained.delta)
            of_columns, of_rows = sizes(b, a, modules)
            both, moved = np.concatenate([b, db], axis=-1), np.concatenate([da, a + da], axis=-2)
            y = (both / of_columns) @ (moved @ modules.omega)
            z = ((modules.psi @ both) / of_rows) @ moved
            modules.write_columns(sent[COLUMNS], y)
            modules.write_rows(sent[ROWS], z)
        return sent

    def next(
        self,
        state: GlobalState,
        sums: Mapping[str, NDArray[np.float64]],
        contributors: Sequence[str],
        round_: Round,
    ) -> GlobalState:
        """The adapter with the mean of the products, and how much of it was lost."""
        moved = state.adapter.astype(np.float64)
        rest = _rest(round_.layout)
        if rest.any():
            mean = weighted_mean(sums[DELTA], round_.weights, contributors)
            moved[rest] += self.server_learning_rate * mean
        names, lost, cut = [], [], []
        for pairs, left, right, residual in self.products(state, sums, contributors, round_):
            _, a = read_all(pairs, state.adapter)
            b, a, truncated = balanced_factors(left, right, a)
            for pair, of_b, of_a in zip(pairs, b, a, strict=True):
                pair.write(moved, of_b, of_a)
            names += [pair.name for pair in pairs]
            lost += list(residual)
            cut += list(truncated)
        in_order = [names.index(pair.name) for pair in self._pairs(round_.layout)]
        shares = {RESIDUAL: lost, TRUNCATED: cut}
        memory = {
            name: np.array(values, dtype=np.float32)[in_order] for name, values in shares.items()
        }
        return replace(state, adapter=moved.astype(np.float32), memory=memory)

    def figures(self, state: GlobalState) -> dict[str, float]:
        """Of the module that lost most: what the sketch could not hold, and what was cut."""
        shown = {LOST: RESIDUAL, CUT: TRUNCATED}
        return {name: float(state.memory[key].max()) for name, key in shown.items()}

    def products(
        self,
        state: GlobalState,
        sums: Mapping[str, NDArray[np.float64]],
        contributors: Sequence[str],
        round_: Round,
    ) -> Iterator[tuple[tuple[FactorPair, ...], Matrix, Matrix, Matrix]]:
        """Of a few modules of one shape W in two factors, not yet cut, and the residual.

        See `mean_product`; the modules come in the order of `sketched`.
        """
        share = self.server_learning_rate / math.fsum(round_.weights[one] for one in contributors)
        for modules in sketched(self._pairs(round_.layout), self.width, round_.number):
            b, a = read_all(modules.pairs, state.adapter)
            y, z = share * modules.of_columns(sums[COLUMNS]), share * modules.of_rows(sums[ROWS])
            yield modules.pairs, *mean_product(b, a, y, z, modules)

    def _pairs(self, layout: Layout) -> tuple[FactorPair, ...]:
        pairs = pairs_of(layout, self.kind)
        largest = max(pair.rank for pair in pairs)
        if self.width < largest:
            raise ConfigError(
                f"the width of a sketch must be at least the rank of LoRA, got {self.width} for "
                f"rank {largest}; clients times rank and a few more hold any mean"
            )
        return pairs


def _rest(layout: Layout) -> NDArray[np.bool_]:
    """Where the vector holds no factor of LoRA, shape (params,)."""
    factors = [name for name in layout.names if A_FACTOR in name or B_FACTOR in name]
    return ~layout.mask(factors)
