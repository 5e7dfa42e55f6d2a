"""FedProx: a pull towards the global adapter, against clients that drift apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from privfed.checks import require_positive
from privfed.errors import ConfigError
from privfed.methods.averaging import FedAvg
from privfed.methods.method import Correction, GlobalState, Kept, Round
from privfed.settings.training import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class FedProx(FedAvg):
    """FedAvg of clients whose every step is y <- y - eta (g + mu (y - x)).

    The pull acts beside the private step, on y before it. In the loss it would do nothing: its
    gradient belongs to no record, and the noised gradients of the records replace it.

    Attributes:
        mu: strength of the pull.

    Reference:
        Li et al. 2020, arXiv:1812.06127.
    """

    mu: float

    kind: ClassVar[str] = "fedprox"

    def __post_init__(self) -> None:
        """Check every field."""
        FedAvg.__post_init__(self)
        require_positive(mu=self.mu)

    def check(self, training: TrainingConfig, steps: Mapping[str, int], rounds: int) -> None:
        """Refuse a pull that does nothing, or overshoots.

        Raises:
            ConfigError: with one step in a round at every client, at whose start y is x; or
                eta mu >= 1.
        """
        del rounds
        if all(count == 1 for count in steps.values()):
            raise ConfigError(
                "fedprox needs steps_per_round of at least 2 at some client: the first step begins "
                "at the global adapter, where its pull is zero"
            )
        largest = max(training.learning_rate, training.final_learning_rate or 0.0)
        if largest * self.mu >= 1:
            raise ConfigError(
                f"the learning rate times mu must be below 1, got {largest:g} x {self.mu:g}: each "
                "step would move beyond the global adapter"
            )

    def correction(
        self, received: GlobalState, kept: Kept | None, client: str, round_: Round
    ) -> Correction:
        """The pull."""
        del received, kept, client, round_
        return Correction(pull=self.mu)
