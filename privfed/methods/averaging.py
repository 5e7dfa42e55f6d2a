"""Federated averaging of adapters: FedAvg on all LoRA factors, and FFA-LoRA on B alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from privfed.checks import require_positive
from privfed.errors import ConfigError

Weighting = Literal["uniform", "public_size"]


def weighted_mean(
    total: NDArray[np.float64], weights: Mapping[str, float], contributors: Sequence[str]
) -> NDArray[np.float64]:
    """Weighted mean of the contributors' updates, shape (params,), from the sum of weighted ones.

    Args:
        total: sum over contributors of weight times update, shape (params,).
        weights: of every client.
        contributors: whose updates are in the sum.
    """
    return np.asarray(total / math.fsum(weights[client] for client in contributors))


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvg:
    """x <- x + eta_s * sum_i p_i (y_i - x), with public weights p_i.

    With LoRA both factors are averaged separately; the mean of the products is then only
    approximated by the product of the means.

    Attributes:
        weighting: "uniform", or "public_size" for weights in proportion to the public sizes.
            Uniform weights average the clients' noise best.
        server_learning_rate: eta_s.

    Reference:
        McMahan et al. 2017, arXiv:1602.05629.
    """

    weighting: Weighting = "uniform"
    server_learning_rate: float = 1.0

    freeze_lora_a: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check every field."""
        require_positive(server_learning_rate=self.server_learning_rate)
        if self.weighting not in ("uniform", "public_size"):
            raise ConfigError(
                f"weighting must be 'uniform' or 'public_size', got {self.weighting!r}"
            )

    def weights(self, public_sizes: Mapping[str, int]) -> dict[str, float]:
        """Public weight of every client, the largest being 1."""
        if self.weighting == "uniform":
            return dict.fromkeys(public_sizes, 1.0)
        largest = max(public_sizes.values())
        return {client: size / largest for client, size in public_sizes.items()}

    def next_state(
        self, state: NDArray[np.float32], mean_update: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """The next global adapter, shape (params,)."""
        moved = state.astype(np.float64) + self.server_learning_rate * mean_update
        return moved.astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        return {"strategy": "fedavg", **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class FFALoRA(FedAvg):
    """FedAvg on B alone; A is frozen, orthonormal, public and the same everywhere.

    Then (sum_i p_i B_i) A = sum_i p_i (B_i A): the mean of the products is exact.

    Reference:
        Sun et al. 2024, arXiv:2403.12313.
    """

    freeze_lora_a: ClassVar[bool] = True

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        return {"strategy": "ffa-lora", **asdict(self)}
