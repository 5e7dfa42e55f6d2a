"""FedNova: clients that take different numbers of steps, and the right objective all the same."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from privfed.errors import ConfigError
from privfed.methods.averaging import FedAvg
from privfed.methods.method import DELTA, GlobalState, Round
from privfed.settings.training import SGD, TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class FedNova(FedAvg):
    """x <- x + eta_s tau_eff sum_i p_i (y_i - x) / tau_i, with tau_eff = sum_i p_i tau_i.

    Client i takes tau_i steps. FedAvg counts it in proportion to p_i tau_i, so it comes to the
    optimum of other weights than p_i; here each update counts by its mean step. Where all take as
    many steps, it is FedAvg.

    A client sends its update D_i with the weight w_i = s p_i / tau_i, where s makes the largest 1.
    For those that are in the sum, whose p_i add up to 1, sum w_i tau_i is s, sum w_i tau_i^2 is
    s tau_eff, and sum w_i is s sum_i p_i / tau_i. So the step is the weighted mean of FedAvg,
    (sum w_i D_i) / (sum w_i), times f = (sum w_i)(sum w_i tau_i^2) / (sum w_i tau_i)^2 >= 1.

    Reference:
        Wang et al. 2020, arXiv:2007.07481, for local SGD (a_i = (1, ..., 1)).
    """

    kind: ClassVar[str] = "fednova"

    def check(self, training: TrainingConfig, steps: Mapping[str, int], rounds: int) -> None:
        """Refuse steps of which not each counts alike in an update.

        Raises:
            ConfigError: for another optimiser than SGD without momentum.
        """
        del steps, rounds
        if training.optimizer != SGD(momentum=0.0):
            raise ConfigError(
                f"fednova needs the optimiser SGD without momentum, got {training.optimizer!r}: "
                "an update is divided by its steps, which count alike only there; take fedavg with "
                "the same steps_per_round at all clients"
            )

    def weights(
        self, public_sizes: Mapping[str, int], steps: Mapping[str, int]
    ) -> dict[str, float]:
        """Public weight of every client, p_i / tau_i, the largest being 1."""
        shares = FedAvg.weights(self, public_sizes, steps)
        weights = {client: share / steps[client] for client, share in shares.items()}
        largest = max(weights.values())
        return {client: weight / largest for client, weight in weights.items()}

    def next(
        self,
        state: GlobalState,
        sums: Mapping[str, NDArray[np.float64]],
        contributors: Sequence[str],
        round_: Round,
    ) -> GlobalState:
        """The adapter, moved by tau_eff times the weighted mean of the mean steps."""
        pairs = [(round_.weights[client], round_.steps[client]) for client in contributors]
        plain, once, twice = (
            math.fsum(weight * steps**power for weight, steps in pairs) for power in (0, 1, 2)
        )
        factor = plain * twice / once**2
        return FedAvg.next(self, state, {DELTA: factor * sums[DELTA]}, contributors, round_)
