"""FedSVD: B is trained and averaged exactly, and the product B A is written in a new basis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from privfed.checks import require_count
from privfed.errors import ConfigError
from privfed.methods.averaging import FedAvg
from privfed.methods.factors import A_FACTOR, FactorPair, alike, pairs_of, product_svd, read_all
from privfed.methods.method import GlobalState, Round
from privfed.protocol.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class FedSVD(FedAvg):
    """FedAvg on B alone, with a refresh B A = U S V^T, B <- U S, A <- V^T after some rounds.

    Within a round A stands still, so that (sum_i p_i B_i) A = sum_i p_i (B_i A). The refresh leaves
    the product as it is, makes the rows of A orthonormal, and orders them by what B A makes of
    them. They stay in the row space in which A began: no direction is learnt, only a basis of the
    same ones. It is computed by all from what is released, so it costs no epsilon.

    In the first round A is as it was drawn, and orthonormal after it. What is no factor of LoRA,
    such as a classifier's head, is trained in every round.

    Attributes:
        every: rounds from one refresh to the next (k); the first comes after round 1. A round that
            is given up refreshes nothing.

    Reference:
        Lee et al. 2025, arXiv:2505.12805.
    """

    every: int = 1

    kind: ClassVar[str] = "fedsvd"
    needs_lora: ClassVar[bool] = True
    changes_basis: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check every field."""
        FedAvg.__post_init__(self)
        require_count(every=self.every)

    def averaged(self, round_: Round) -> NDArray[np.bool_]:
        """All but A.

        Raises:
            ConfigError: if the adapter has not both factors, or more rows of A than can be
                orthonormal.
        """
        _pairs(round_.layout)
        return round_.layout.mask([n for n in round_.layout.names if A_FACTOR not in n])

    def next(
        self,
        state: GlobalState,
        sums: Mapping[str, NDArray[np.float64]],
        contributors: Sequence[str],
        round_: Round,
    ) -> GlobalState:
        """The adapter, moved by the weighted mean of the updates, and refreshed if it is time."""
        moved = FedAvg.next(self, state, sums, contributors, round_)
        if (round_.number - 1) % self.every:
            return moved
        adapter = moved.adapter.astype(np.float64)
        pairs = _pairs(round_.layout)
        for positions in alike(pairs):
            chosen = [pairs[position] for position in positions]
            scaled, _, rows = product_svd(*read_all(chosen, adapter))
            for pair, b, a in zip(chosen, scaled, rows, strict=True):
                pair.write(adapter, b, a)
        return replace(moved, adapter=adapter.astype(np.float32))


def _pairs(layout: Layout) -> tuple[FactorPair, ...]:
    pairs = pairs_of(layout, FedSVD.kind)
    for pair in pairs:
        if pair.rank > pair.inputs:
            raise ConfigError(
                f"fedsvd makes the rows of A orthonormal, so the rank must be at most the number "
                f"of inputs, got rank {pair.rank} for {pair.inputs} in {pair.name}"
            )
    return pairs
