"""Federated averaging of adapters: FedAvg on all LoRA factors, and FFA-LoRA on B alone."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accountants import Event
from privfed.checks import require_positive
from privfed.errors import ConfigError
from privfed.methods.method import (
    DELTA,
    Correction,
    GlobalState,
    Kept,
    Round,
    SentVector,
    Trained,
    Vector,
)
from privfed.settings.training import TrainingConfig

Weighting = Literal["uniform", "public_size"]


def weighted_mean(
    total: NDArray[np.float64], weights: Mapping[str, float], contributors: Sequence[str]
) -> NDArray[np.float64]:
    """Weighted mean of the contributors' vectors, from the sum of weighted ones, of its shape.

    Args:
        total: sum over contributors of weight times vector.
        weights: of every client.
        contributors: whose vectors are in the sum.
    """
    return np.asarray(total / math.fsum(weights[client] for client in contributors))


def noise_of_mean(round_: Round, contributors: Sequence[str]) -> float | None:
    """Standard deviation of the noise in an entry of the mean update; None where it is not known.

    The noise of an entry of one client's update is `Round.noise`; those of clients are independent.
    """
    if round_.noise is None:
        return None
    weights = round_.weights
    return math.hypot(*(weights[c] * round_.noise[c] for c in contributors)) / math.fsum(
        weights[c] for c in contributors
    )


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

    kind: ClassVar[str] = "fedavg"
    freezes_a: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check every field."""
        require_positive(server_learning_rate=self.server_learning_rate)
        if self.weighting not in ("uniform", "public_size"):
            raise ConfigError(
                f"weighting must be 'uniform' or 'public_size', got {self.weighting!r}"
            )

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        return {"method": self.kind, **asdict(self)}

    def check(self, training: TrainingConfig, steps: int, rounds: int) -> None:
        """Averaging goes with any optimiser, and any number of steps and rounds."""

    def weights(self, public_sizes: Mapping[str, int]) -> dict[str, float]:
        """Public weight of every client, the largest being 1."""
        if self.weighting == "uniform":
            return dict.fromkeys(public_sizes, 1.0)
        largest = max(public_sizes.values())
        return {client: size / largest for client, size in public_sizes.items()}

    def begin(self, adapter: NDArray[np.float32]) -> GlobalState:
        """The initial adapter, shape (params,)."""
        return GlobalState(adapter=adapter)

    def trains(self, round_: Round) -> Collection[str]:
        """All of the adapter."""
        return round_.layout.names

    def uploads(self, round_: Round) -> tuple[SentVector, ...]:
        """One vector: trained minus received parameters."""
        return (SentVector(name=DELTA, length=round_.layout.length),)

    def correction(
        self, received: GlobalState, kept: Kept | None, client: str, round_: Round
    ) -> Correction | None:
        """Private steps as they are."""
        del received, kept, client, round_
        return None

    def local(self, trained: Trained, client: str, round_: Round) -> Mapping[str, Vector]:
        """The update."""
        del client, round_
        return {DELTA: trained.delta}

    def keeps(
        self, trained: Trained, sent: Mapping[str, Vector], client: str, round_: Round
    ) -> Kept | None:
        """Nothing."""
        del trained, sent, client, round_
        return None

    def releases(self, private_steps: Event) -> tuple[Event, ...]:
        """The private steps; all else is computed from what they release."""
        return (private_steps,)

    def next(
        self,
        state: GlobalState,
        sums: Mapping[str, NDArray[np.float64]],
        contributors: Sequence[str],
        round_: Round,
    ) -> GlobalState:
        """The adapter, moved by the weighted mean of the updates."""
        mean = weighted_mean(sums[DELTA], round_.weights, contributors)
        moved = state.adapter.astype(np.float64) + self.server_learning_rate * mean
        return replace(state, adapter=moved.astype(np.float32))

    def left(self, state: GlobalState) -> NDArray[np.float32]:
        """The newest adapter."""
        return state.adapter

    def which_is_left(self) -> str:
        """Which adapter that is, for the report."""
        return "the newest"


@dataclass(frozen=True, slots=True, kw_only=True)
class FFALoRA(FedAvg):
    """FedAvg on B alone; A is frozen, orthonormal, public and the same everywhere.

    Then (sum_i p_i B_i) A = sum_i p_i (B_i A): the mean of the products is exact.

    Reference:
        Sun et al. 2024, arXiv:2403.12313.
    """

    kind: ClassVar[str] = "ffa-lora"
    freezes_a: ClassVar[bool] = True
