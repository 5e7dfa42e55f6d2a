"""How the adapter is trained; none of it can change a guarantee."""

from dataclasses import dataclass, field
from typing import Final

from privfed.checks import (
    MOST,
    require_below_one,
    require_count,
    require_type,
    require_within,
)

PHYSICAL_BATCH_SIZE: Final = 16
"""Records that pass through a model at once, unless somebody says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SGD:
    """Stochastic gradient descent.

    Attributes:
        momentum: within one round, in [0, 1).
    """

    momentum: float = 0.0

    def __post_init__(self) -> None:
        """Check the field."""
        require_below_one(momentum=self.momentum)

    def largest_move(self, steps: int, largest_gradient: float) -> float:
        """How far one coordinate can move in a round at learning rate 1."""
        return steps * largest_gradient / (1 - self.momentum)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101).

    Attributes:
        beta1: decay of the first moment, in [0, 1).
        beta2: decay of the second moment, in [0, 1).
        epsilon: added to the root of the second moment, > 0.
        weight_decay: >= 0.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Check every field."""
        require_below_one(beta1=self.beta1, beta2=self.beta2)
        require_within(1e-30, 1e12, epsilon=self.epsilon)
        require_within(0, 1e3, weight_decay=self.weight_decay)

    def largest_move(self, steps: int, largest_gradient: float) -> float:  # noqa: ARG002
        """How far one coordinate typically moves in a round at learning rate 1, at most.

        A step of Adam moves a coordinate by about the learning rate, whatever the gradient is.
        """
        return float(steps)


Optimizer = SGD | AdamW


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How the local optimiser moves. Nothing here changes epsilon.

    Attributes:
        learning_rate: in the first round.
        final_learning_rate: in the last round; rounds between are interpolated linearly.
            None keeps the rate constant.
        optimizer: of each client; its state does not outlive a round.
        physical_batch_size: records that pass through the model at once (memory, not privacy).
            Batches are filled up to a multiple of it.
    """

    learning_rate: float
    final_learning_rate: float | None = None
    optimizer: Optimizer = field(default_factory=SGD)
    physical_batch_size: int = PHYSICAL_BATCH_SIZE

    def __post_init__(self) -> None:
        """Check every field."""
        require_within(1e-30, 1e6, learning_rate=self.learning_rate)
        if self.final_learning_rate is not None:
            require_within(1e-30, 1e6, final_learning_rate=self.final_learning_rate)
        require_type(Optimizer, optimizer=self.optimizer)
        require_count(MOST, physical_batch_size=self.physical_batch_size)

    def learning_rate_of(self, round_number: int, rounds: int) -> float:
        """Learning rate of a round, counted from 1."""
        if self.final_learning_rate is None or rounds == 1:
            return self.learning_rate
        share = (round_number - 1) / (rounds - 1)
        return (1 - share) * self.learning_rate + share * self.final_learning_rate
