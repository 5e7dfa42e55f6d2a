"""The average of the adapters of the last rounds: post-processing, which costs no epsilon."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfed.checks import is_number, require_count
from privfed.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TailAveraging:
    """The run leaves, and evaluates, an average of the global adapters after each round.

    Training goes on from the newest adapter. The noise of single rounds partly averages out. Of
    LoRA, A and B are averaged separately, so that their product is that of the averages.

    Attributes:
        first_round: first round that counts; before it, the newest adapter is left.
        decay: weight of a round relative to the one after it, in (0, 1]. 1 is the even average;
            below 1 it is the exponential moving average, corrected for its start.

    Reference:
        De et al. 2022, arXiv:2204.13650, section 3.3.
    """

    first_round: int = 1
    decay: float = 1.0

    def __post_init__(self) -> None:
        """Check every field."""
        require_count(first_round=self.first_round)
        if not is_number(self.decay) or not 0 < self.decay <= 1:
            raise ConfigError(f"decay must be in (0, 1], got {self.decay!r}")

    def counts(self, round_number: int) -> bool:
        """Whether a round, counted from 1, is part of the average."""
        return round_number >= self.first_round

    def with_next(
        self, average: NDArray[np.float32], counted: int, state: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The average with one more round.

        Args:
            average: of the rounds counted before, shape (params,); finite.
            counted: how many those were.
            state: the adapter after the next round, shape (params,).
        """
        share = 1 / sum(self.decay**age for age in range(counted + 1))
        mean = average.astype(np.float64)
        return (mean + share * (state - mean)).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        return asdict(self)
