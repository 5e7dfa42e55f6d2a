"""The average of the adapters of the last rounds: post-processing, which costs no epsilon."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from privfed.checks import is_number, require_count
from privfed.errors import ConfigError
from privfed.methods.method import GlobalState, Round
from privfed.methods.wrapped import Wrapped
from privfed.settings.training import TrainingConfig

_AVERAGE: Final = "tail.average"
_COUNTED: Final = "tail.counted"


@dataclass(frozen=True, slots=True, kw_only=True)
class TailAveraging(Wrapped):
    """A method whose run leaves, and evaluates, an average of the global adapters of its rounds.

    Training goes on from the newest adapter. The noise of single rounds partly averages out. Of
    LoRA, A and B are averaged separately, so that their product is that of the averages.

    Attributes:
        of: the method whose adapters are averaged.
        first_round: first round that counts; before it, the newest adapter is left.
        decay: weight of a round relative to the one after it, in (0, 1]. 1 is the even average;
            below 1 it is the exponential moving average, corrected for its start.

    Reference:
        De et al. 2022, arXiv:2204.13650, section 3.3.
    """

    first_round: int = 1
    decay: float = 1.0

    kind: ClassVar[str] = "tail-averaging"
    outermost: ClassVar[bool] = True
    own: ClassVar[tuple[str, ...]] = (_AVERAGE, _COUNTED)

    def __post_init__(self) -> None:
        """Check every field."""
        Wrapped.__post_init__(self)
        require_count(first_round=self.first_round)
        if not is_number(self.decay) or not 0 < self.decay <= 1:
            raise ConfigError(f"decay must be in (0, 1], got {self.decay!r}")

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        own = {"method": self.kind, "first_round": self.first_round, "decay": self.decay}
        return {**own, "of": self.of.describe()}

    def check(self, training: TrainingConfig, steps: Mapping[str, int], rounds: int) -> None:
        """Refuse an average that would begin after the last round."""
        if self.first_round > rounds:
            raise ConfigError(
                f"averaging begins in round {self.first_round}, but rounds is {rounds}"
            )
        self.of.check(training, steps, rounds)

    def next(
        self,
        state: GlobalState,
        sums: Mapping[str, NDArray[np.float64]],
        contributors: Sequence[str],
        round_: Round,
    ) -> GlobalState:
        """The next global state, with its adapter in the average."""
        moved, own = Wrapped.next(self, state, sums, contributors, round_), self.remembered(state)
        if round_.number < self.first_round:
            return moved
        counted = int(own[_COUNTED][0]) if own else 0
        before = own.get(_AVERAGE, moved.adapter).astype(np.float64)
        share = 1 / sum(self.decay**age for age in range(counted + 1))
        average = (before + share * (moved.adapter - before)).astype(np.float32)
        count = np.array([counted + 1], dtype=np.int32)
        return replace(moved, memory={**moved.memory, _AVERAGE: average, _COUNTED: count})

    def left(self, state: GlobalState) -> NDArray[np.float32]:
        """The average; before the first round that counts, what the method leaves."""
        average: NDArray[np.float32] | None = state.memory.get(_AVERAGE)
        return self.of.left(self.inside(state)) if average is None else average

    def which_is_left(self) -> str:
        """Which adapter that is, for the report."""
        weights = "evenly" if self.decay == 1 else f"each weighs {self.decay:g} of the next"
        return (
            f"the average of those after each round from round {self.first_round} on, {weights}: "
            "post-processing of what is released anyway, so that it costs no epsilon"
        )
