"""How far a mean update can stand out from its noise, before anything is trained.

The noise is known: of one client and entry sigma C eta sqrt(K) / B, independent between clients and
entries. The signal is not known, but it is bounded: a record's gradient is clipped to C, so that a
step moves the adapter by at most about eta C, if all records of all clients agree.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from privfed.methods.averaging import FedAvg, FFALoRA, noise_of_mean
from privfed.methods.fedsvd import FedSVD
from privfed.methods.method import Method, Round
from privfed.methods.mixed_ranks import MixedRanks
from privfed.methods.personal import FedDPA, FedSALoRA, LocalHead
from privfed.methods.rolora import RoLoRA
from privfed.methods.wrapped import Wrapped
from privfed.planning.answer import Answer
from privfed.protocol.layout import Layout
from privfed.settings.privacy import PrivacyConfig, QuantileClipping
from privfed.settings.training import SGD, TrainingConfig

_PLAIN: Final = (FedAvg, FFALoRA, RoLoRA, FedSVD, FedSALoRA, LocalHead, FedDPA)
"""Methods whose clients send the plain update of what moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """Of the mean update of the first round; lengths are L2 norms in units of the parameters.

    Attributes:
        noise_per_entry: standard deviation of the noise in one entry of the mean.
        longest: the longest that the mean update can be without noise, in expectation over
            batches: every record of every client pulls the same way, with a gradient of norm C.
        noise: root mean square length of the noise over all entries; None if their number is not
            stated.
        best_ratio: longest over noise; None likewise.
    """

    noise_per_entry: float
    longest: float
    noise: float | None
    best_ratio: float | None

    @property
    def best_printed(self) -> float | None:
        """The best that the column signal/noise of a run can show: its signal holds noise too.

        See `methods.signal_to_noise`: sqrt(1 + ratio^2). 1 means that nothing but noise is seen.
        """
        return None if self.best_ratio is None else math.sqrt(1 + self.best_ratio**2)


def step_noise(
    privacy: PrivacyConfig, training: TrainingConfig, noise_multipliers: Mapping[str, float]
) -> dict[str, float] | None:
    """Of each client sigma C / B, where its update is the plain sum of steps under a fixed C."""
    plain = training.optimizer == SGD(momentum=0.0)
    if not plain or isinstance(privacy.clipping, QuantileClipping):
        return None
    unit = privacy.clipping_norm / privacy.expected_batch_size
    return {client: sigma * unit for client, sigma in noise_multipliers.items()}


def signal_of(answer: Answer) -> Signal | None:
    """Longest update and noise of the mean; None where the noise of an update is not known.

    Where clients are drawn for each round, the noise is the root mean square over the draws, exact
    for equal weights.
    """
    per_step = step_noise(answer.privacy, answer.training, answer.noise_multipliers)
    if per_step is None or not sends_plain_updates(answer.method):
        return None
    steps, sizes = answer.steps(), {client.id: client.size for client in answer.clients}
    weights = answer.method.weights(sizes, steps)
    rate = answer.training.learning_rate_of(1, answer.rounds)
    round_ = Round(
        number=1,
        steps=steps,
        learning_rate=rate,
        weights=weights,
        layout=Layout(()),
        noise={name: rate * math.sqrt(steps[name]) * one for name, one in per_step.items()},
    )
    mean = noise_of_mean(round_, list(sizes)) or 0.0
    entry = mean * math.sqrt(len(sizes) / answer.per_round)
    moves = math.fsum(weights[name] * steps[name] for name in sizes) / math.fsum(weights.values())
    longest = rate * answer.privacy.clipping_norm * moves
    noise = None if answer.parameters is None else entry * math.sqrt(answer.parameters)
    return Signal(
        noise_per_entry=entry,
        longest=longest,
        noise=noise,
        best_ratio=None if noise is None else longest / noise,
    )


def sends_plain_updates(method: Method) -> bool:
    """Whether what a client sends is its update, entry by entry, and nothing pulls at its steps."""
    inside: Any = method
    while isinstance(inside, Wrapped):
        if isinstance(inside, MixedRanks):
            return False
        inside = inside.of
    return type(inside) in _PLAIN
