"""RoLoRA: the factors of LoRA take turns, so that the mean of their products is exact."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from privfed.errors import ConfigError
from privfed.methods.averaging import FedAvg
from privfed.methods.factors import A_FACTOR, B_FACTOR, pairs_of
from privfed.methods.method import Round
from privfed.protocol.layout import Layout
from privfed.settings.training import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RoLoRA(FedAvg):
    """FedAvg on B in odd rounds and on A in even ones; the other factor stands still.

    Then (sum_i p_i B_i) A = sum_i p_i (B_i A), and in even rounds likewise for A, while A leaves
    the row space in which it began, which under FFA-LoRA it never does. What is no factor of LoRA,
    such as a classifier's head, is trained in every round.

    All uploads have the length of the longer: the shorter ends with zeros.

    Reference:
        Chen et al. 2025, arXiv:2502.01755.
    """

    kind: ClassVar[str] = "rolora"
    needs_lora: ClassVar[bool] = True
    period: ClassVar[int] = 2

    def check(self, training: TrainingConfig, steps: Mapping[str, int], rounds: int) -> None:
        """Refuse a run in which A would never move.

        Raises:
            ConfigError: with one round.
        """
        del training, steps
        if rounds == 1:
            raise ConfigError(
                "rolora trains B in odd rounds and A in even ones, so rounds must be at least 2; "
                "with one round take ffa-lora"
            )

    def averaged(self, round_: Round) -> NDArray[np.bool_]:
        """One factor, and what is no factor."""
        return round_.layout.mask(moving_in(round_.layout, round_.number))


def moving_in(layout: Layout, number: int) -> tuple[str, ...]:
    """Names of what moves in a round.

    Raises:
        ConfigError: if the adapter has not both factors, or divides by their norm (DoRA).
    """
    pairs_of(layout, RoLoRA.kind)
    still = A_FACTOR if number % 2 else B_FACTOR
    return tuple(name for name in layout.names if still not in name)
