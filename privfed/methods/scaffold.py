"""SCAFFOLD: control variates against clients that drift apart."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from privfed.canonical import canonical_json
from privfed.errors import ConfigError
from privfed.methods.averaging import FedAvg, weighted_mean
from privfed.methods.method import (
    DELTA,
    Correction,
    GlobalState,
    Kept,
    Round,
    Trained,
    Vector,
)
from privfed.settings.training import SGD, TrainingConfig

_CONTROL = "control"
_CLIENTS = "clients"
_SUMMED = "summed."
_ROUND = "round"
_BEFORE = "before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaffold(FedAvg):
    """FedAvg of clients whose every step is y <- y - eta (g - c_i + c).

    After a round client i has c_i <- c_i - c + (x - y_i) / (K eta), from its noised steps, and all
    have c <- c + sum_i p_i dc_i over those that were summed. As dc_i = (x - y_i) / (K eta) - c
    follows from the update, the sum of the updates gives that of the dc_i: nothing more is sent
    than by FedAvg, where the paper sends both.

    A variate counts from the round on in which its client was in the sum. Once a client leaves a
    run, all variates begin anew, since c would keep the share of one that is gone.

    The variates carry the noise of their steps: they help where clients differ by more than that.

    Reference:
        Karimireddy et al. 2020, arXiv:1910.06378, option II.
    """

    kind: ClassVar[str] = "scaffold"

    def check(self, training: TrainingConfig, steps: Mapping[str, int], rounds: int) -> None:
        """Refuse steps of which (x - y_i) / (K eta) is not the mean gradient, or of unequal K.

        Raises:
            ConfigError: for another optimiser than SGD without momentum, where a part is sent, and
                where clients take different steps.
        """
        del rounds
        if self.upload_share != 1:
            raise ConfigError(
                "scaffold needs all of the update for its control variates, so upload_share must "
                f"be 1, got {self.upload_share:g}; take fedavg or fedprox to send a part"
            )
        if training.optimizer != SGD(momentum=0.0):
            raise ConfigError(
                f"scaffold needs the optimiser SGD without momentum, got {training.optimizer!r}; "
                "its control variates are mean gradients only there"
            )
        if len(set(steps.values())) > 1:
            raise ConfigError(
                f"scaffold needs the same steps_per_round at all clients, got {dict(steps)}: only "
                "then the sum of the updates gives that of the control variates; take fednova for "
                "different steps"
            )

    def correction(
        self, received: GlobalState, kept: Kept | None, client: str, round_: Round
    ) -> Correction:
        """C - c_i."""
        control, mine = self._variates(received, kept, client, round_)
        return Correction(shift=(control - mine).astype(np.float32))

    def keeps(
        self, trained: Trained, sent: Mapping[str, Vector], client: str, round_: Round
    ) -> Kept:
        """c_i, from the update as it is in the sum, and what it was before if that is not opened.

        From the update before it was clipped, the c_i would no longer add up to c, and training
        would come to rest elsewhere.
        """
        control, mine = self._variates(trained.received, trained.kept, client, round_)
        moved = mine - control - sent[DELTA] / (round_.steps[client] * round_.learning_rate)
        return {
            _CONTROL: moved.astype(np.float32),
            _BEFORE: mine.astype(np.float32),
            _ROUND: np.array([round_.number], dtype=np.int32),
            _CLIENTS: _digest_of(round_.weights),
        }

    def next(
        self,
        state: GlobalState,
        sums: Mapping[str, NDArray[np.float64]],
        contributors: Sequence[str],
        round_: Round,
    ) -> GlobalState:
        """The adapter, moved as by FedAvg, and c."""
        moved = FedAvg.next(self, state, sums, contributors, round_)
        weights, valid = round_.weights, _is_of(state.memory, round_)
        mean = weighted_mean(sums[DELTA], weights, contributors)
        share = math.fsum(weights[name] for name in contributors) / math.fsum(weights.values())
        control = _control_of(state, round_)
        steps = round_.steps[contributors[0]]  # as many as of all
        control = control + share * (-mean / (steps * round_.learning_rate) - control)
        number = np.array([round_.number], dtype=np.int32)
        return replace(
            moved,
            memory={
                **(state.memory if valid else {}),
                _CONTROL: control.astype(np.float32),
                _CLIENTS: _digest_of(weights),
                **{_SUMMED + name: number for name in contributors},
            },
        )

    def _variates(
        self, received: GlobalState, kept: Kept | None, client: str, round_: Round
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """C and the client's c_i, as far as both are of those who take part now."""
        control = _control_of(received, round_)
        if kept is None or not _is_of(kept, round_) or not _is_of(received.memory, round_):
            return control, np.zeros_like(control)
        summed = received.memory.get(_SUMMED + client)
        counts = summed is not None and int(summed[0]) == int(kept[_ROUND][0])
        return control, kept[_CONTROL if counts else _BEFORE].astype(np.float64)


def _control_of(state: GlobalState, round_: Round) -> NDArray[np.float64]:
    if not _is_of(state.memory, round_):
        return np.zeros(len(state.adapter))
    return state.memory[_CONTROL].astype(np.float64)


def _is_of(values: Mapping[str, NDArray[np.generic]], round_: Round) -> bool:
    """Whether variates are those of the clients that take part now."""
    return _CLIENTS in values and bool(np.array_equal(values[_CLIENTS], _digest_of(round_.weights)))


def _digest_of(weights: Mapping[str, float]) -> NDArray[np.uint8]:
    return np.frombuffer(hashlib.sha256(canonical_json(sorted(weights))).digest(), dtype=np.uint8)
