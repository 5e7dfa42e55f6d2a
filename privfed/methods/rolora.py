"""RoLoRA: the factors of LoRA take turns, so that the mean of their products is exact."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from privfed.errors import ConfigError
from privfed.methods.averaging import FedAvg, weighted_mean
from privfed.methods.method import DELTA, GlobalState, Round, SentVector, Trained, Vector
from privfed.protocol.layout import Layout
from privfed.settings.training import TrainingConfig

A_FACTOR, B_FACTOR, MAGNITUDE = ".lora_A.", ".lora_B.", ".lora_magnitude_vector."
"""In the name of a parameter, as PEFT has it."""


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

    def check(self, training: TrainingConfig, steps: int, rounds: int) -> None:
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

    def trains(self, round_: Round) -> Collection[str]:
        """One factor, and what is no factor."""
        return moving_in(round_.layout, round_.number)

    def uploads(self, round_: Round) -> tuple[SentVector, ...]:
        """One vector: what moved, and zeros up to the length of the longer factor."""
        lengths = [int(_mask(round_.layout, number).sum()) for number in (1, 2)]
        return (SentVector(name=DELTA, length=max(lengths)),)

    def local(self, trained: Trained, client: str, round_: Round) -> Mapping[str, Vector]:
        """The update of what moved."""
        del client
        moved = trained.delta[_mask(round_.layout, round_.number)]
        (sent,) = self.uploads(round_)
        return {DELTA: np.pad(moved, (0, sent.length - len(moved)))}

    def next(
        self,
        state: GlobalState,
        sums: Mapping[str, NDArray[np.float64]],
        contributors: Sequence[str],
        round_: Round,
    ) -> GlobalState:
        """The adapter, moved where it was trained by the weighted mean of the updates."""
        mean = weighted_mean(sums[DELTA], round_.weights, contributors)
        mask, moved = _mask(round_.layout, round_.number), state.adapter.astype(np.float64)
        moved[mask] += self.server_learning_rate * mean[: int(mask.sum())]
        return replace(state, adapter=moved.astype(np.float32))


def moving_in(layout: Layout, number: int) -> tuple[str, ...]:
    """Names of what moves in a round.

    Raises:
        ConfigError: if the adapter has not both factors, or divides by their norm (DoRA).
    """
    if any(MAGNITUDE in name for name in layout.names):
        raise ConfigError(
            "rolora lets factors take turns so that the mean of the clients' products is exact; "
            "DoRA divides by a norm that depends on both, so that it is not: take fedavg, or "
            "leave out dora"
        )
    for factor in (A_FACTOR, B_FACTOR):
        if not any(factor in name for name in layout.names):
            raise ConfigError(
                "rolora needs an adapter with both factors of LoRA; for others take fedavg"
            )
    still = A_FACTOR if number % 2 else B_FACTOR
    return tuple(name for name in layout.names if still not in name)


def _mask(layout: Layout, number: int) -> NDArray[np.bool_]:
    return layout.mask(moving_in(layout, number))
