"""Federated averaging of adapters: FedAvg on all LoRA factors, and FFA-LoRA on B alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accountants import Event
from privfed.checks import is_number, require_positive
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
from privfed.methods.thinning import thinned
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
        upload_share: of the entries, which is trained and sent in a round, in (0, 1]. They are
            drawn anew for every round, at random and in public, the same for all clients; the
            others stand still, without gradient and noise.

    Reference:
        McMahan et al. 2017, arXiv:1602.05629.
    """

    weighting: Weighting = "uniform"
    server_learning_rate: float = 1.0
    upload_share: float = 1.0

    kind: ClassVar[str] = "fedavg"
    freezes_a: ClassVar[bool] = False
    needs_lora: ClassVar[bool] = False
    """Whether it counts on the product of LoRA's factors."""
    period: ClassVar[int] = 1
    """After how many rounds `averaged` comes round again."""

    def __post_init__(self) -> None:
        """Check every field."""
        require_positive(server_learning_rate=self.server_learning_rate)
        if self.weighting not in ("uniform", "public_size"):
            raise ConfigError(
                f"weighting must be 'uniform' or 'public_size', got {self.weighting!r}"
            )
        if not is_number(self.upload_share) or not 0 < self.upload_share <= 1:
            raise ConfigError(f"upload_share must be in (0, 1], got {self.upload_share!r}")

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        return {"method": self.kind, **asdict(self)}

    def check(self, training: TrainingConfig, steps: Mapping[str, int], rounds: int) -> None:
        """Averaging goes with any optimiser, and any number of steps and rounds."""

    def weights(
        self, public_sizes: Mapping[str, int], steps: Mapping[str, int]
    ) -> dict[str, float]:
        """Public weight of every client, the largest being 1; the same for any steps."""
        del steps
        if self.weighting == "uniform":
            return dict.fromkeys(public_sizes, 1.0)
        largest = max(public_sizes.values())
        return {client: size / largest for client, size in public_sizes.items()}

    def begin(self, adapter: NDArray[np.float32]) -> GlobalState:
        """The initial adapter, shape (params,)."""
        return GlobalState(adapter=adapter)

    def start(
        self, received: GlobalState, kept: Kept | None, client: str, round_: Round
    ) -> NDArray[np.float32]:
        """The global adapter."""
        del kept, client, round_
        return received.adapter

    def trains(self, round_: Round, client: str) -> NDArray[np.bool_]:
        """What is averaged, alike at all clients."""
        del client
        return self.moves(round_)

    def averaged(self, round_: Round) -> NDArray[np.bool_]:
        """Which entries are trained and averaged when all are sent, shape (params,): all."""
        return round_.layout.mask(round_.layout.names)

    def moves(self, round_: Round) -> NDArray[np.bool_]:
        """Which entries are sent in a round: the share of `averaged`, shape (params,)."""
        return thinned(self.averaged(round_), self.upload_share, round_)

    def uploads(self, round_: Round) -> tuple[SentVector, ...]:
        """One vector: what moved, and zeros up to the longest of all rounds."""
        numbers = range(round_.number, round_.number + self.period)
        rounds = [replace(round_, number=number) for number in numbers]
        longest = max(int(self.averaged(one).sum()) for one in rounds)
        return (SentVector(name=DELTA, length=math.ceil(self.upload_share * longest)),)

    def correction(
        self, received: GlobalState, kept: Kept | None, client: str, round_: Round
    ) -> Correction | None:
        """Private steps as they are."""
        del received, kept, client, round_
        return None

    def local(self, trained: Trained, client: str, round_: Round) -> Mapping[str, Vector]:
        """The update of what moved."""
        del client
        moved = trained.delta[self.moves(round_)]
        (sent,) = self.uploads(round_)
        return {DELTA: np.pad(moved, (0, sent.length - len(moved)))}

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
        """The adapter, moved where it was trained by the weighted mean of the updates."""
        mean = weighted_mean(sums[DELTA], round_.weights, contributors)
        mask, moved = self.moves(round_), state.adapter.astype(np.float64)
        moved[mask] += self.server_learning_rate * mean[: int(mask.sum())]
        return replace(state, adapter=moved.astype(np.float32))

    def figures(self, state: GlobalState) -> dict[str, float]:
        """None."""
        del state
        return {}

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
    needs_lora: ClassVar[bool] = True
