"""A method from outside the package: SCAFFOLD as its paper has it, with two sums in a round."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from privfed import FedAvg
from privfed.methods.averaging import weighted_mean
from privfed.methods.method import DELTA, Correction, SentVector

CHANGE = "change of the variate"


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoSums(FedAvg):
    """Every client sends its update and the change of its variate, each in its own range."""

    kind: ClassVar[str] = "two-sums"

    def uploads(self, round_):
        scale = 2 / (min(round_.steps.values()) * round_.learning_rate)
        update, change = ((DELTA, 1.0), (CHANGE, scale))
        return tuple(
            SentVector(name=name, length=round_.layout.length, scale=scale)
            for name, scale in (update, change)
        )

    def correction(self, received, kept, client, round_):
        control = _control(received)
        return Correction(shift=(control - _own(kept, control)).astype(np.float32))

    def local(self, trained, client, round_):
        rate = round_.steps[client] * round_.learning_rate
        change = -_control(trained.received) - trained.delta / rate
        return {DELTA: trained.delta, CHANGE: change}

    def keeps(self, trained, sent, client, round_):
        own = _own(trained.kept, _control(trained.received)) + sent[CHANGE]
        return {"own": own.astype(np.float32)}

    def next(self, state, sums: Mapping, contributors, round_):
        moved = FedAvg.next(self, state, sums, contributors, round_)
        weights = round_.weights
        change = weighted_mean(sums[CHANGE], weights, contributors)
        share = math.fsum(weights[name] for name in contributors) / math.fsum(weights.values())
        control = (_control(state) + share * change).astype(np.float32)
        return replace(moved, memory={"control": control})


def _control(state):
    return state.memory.get("control", np.zeros(len(state.adapter))).astype(np.float64)


def _own(kept, control):
    return np.zeros_like(control) if kept is None else kept["own"].astype(np.float64)
