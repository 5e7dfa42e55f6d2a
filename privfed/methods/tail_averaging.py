"""The average of the adapters of the last rounds: post-processing, which costs no epsilon."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from accountants import Event
from privfed.checks import is_number, require_count, require_methods
from privfed.errors import ConfigError
from privfed.methods.method import (
    Correction,
    GlobalState,
    Kept,
    Method,
    Round,
    SentVector,
    Trained,
    Trains,
    Vector,
)
from privfed.settings.training import TrainingConfig

_AVERAGE: Final = "tail.average"
_COUNTED: Final = "tail.counted"


@dataclass(frozen=True, slots=True, kw_only=True)
class TailAveraging:
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

    of: Method
    first_round: int = 1
    decay: float = 1.0

    kind: ClassVar[str] = "tail-averaging"

    def __post_init__(self) -> None:
        """Check every field."""
        require_methods("next", "left", "describe", of=self.of)
        if isinstance(self.of, TailAveraging):
            raise ConfigError("an average of averages leaves that of the outer one; take one")
        require_count(first_round=self.first_round)
        if not is_number(self.decay) or not 0 < self.decay <= 1:
            raise ConfigError(f"decay must be in (0, 1], got {self.decay!r}")

    @property
    def trains(self) -> Trains:
        """As the method whose adapters are averaged; so is all that is not said otherwise."""
        return self.of.trains

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        own = {"method": self.kind, "first_round": self.first_round, "decay": self.decay}
        return {**own, "of": self.of.describe()}

    def check(self, training: TrainingConfig, steps: int, rounds: int) -> None:
        """Refuse an average that would begin after the last round."""
        if self.first_round > rounds:
            raise ConfigError(
                f"averaging begins in round {self.first_round}, but rounds is {rounds}"
            )
        self.of.check(training, steps, rounds)

    def weights(self, public_sizes: Mapping[str, int]) -> dict[str, float]:
        """Public weight of every client, the largest being 1."""
        return self.of.weights(public_sizes)

    def begin(self, adapter: NDArray[np.float32]) -> GlobalState:
        """The global state before the first round."""
        return self.of.begin(adapter)

    def uploads(self, num_params: int, round_: Round) -> tuple[SentVector, ...]:
        """What a client sends in a round."""
        return self.of.uploads(num_params, round_)

    def correction(
        self, received: GlobalState, kept: Kept | None, client: str, round_: Round
    ) -> Correction | None:
        """What a client adds to its private steps."""
        return self.of.correction(_without_average(received), kept, client, round_)

    def local(self, trained: Trained, client: str, round_: Round) -> Mapping[str, Vector]:
        """What a client sends."""
        received = _without_average(trained.received)
        return self.of.local(replace(trained, received=received), client, round_)

    def keeps(
        self, trained: Trained, sent: Mapping[str, Vector], client: str, round_: Round
    ) -> Kept | None:
        """The state that a client keeps."""
        received = _without_average(trained.received)
        return self.of.keeps(replace(trained, received=received), sent, client, round_)

    def releases(self, private_steps: Event) -> tuple[Event, ...]:
        """What one round of a client releases."""
        return self.of.releases(private_steps)

    def next(
        self,
        state: GlobalState,
        sums: Mapping[str, NDArray[np.float64]],
        contributors: Sequence[str],
        round_: Round,
    ) -> GlobalState:
        """The next global state, with its adapter in the average."""
        moved = self.of.next(_without_average(state), sums, contributors, round_)
        own = {name: state.memory[name] for name in (_AVERAGE, _COUNTED) if name in state.memory}
        if round_.number >= self.first_round:
            counted = int(own[_COUNTED][0]) if own else 0
            before = own.get(_AVERAGE, moved.adapter).astype(np.float64)
            share = 1 / sum(self.decay**age for age in range(counted + 1))
            average = (before + share * (moved.adapter - before)).astype(np.float32)
            own = {_AVERAGE: average, _COUNTED: np.array([counted + 1], dtype=np.int32)}
        return replace(moved, memory={**moved.memory, **own})

    def left(self, state: GlobalState) -> NDArray[np.float32]:
        """The average; before the first round that counts, what the method leaves."""
        average: NDArray[np.float32] | None = state.memory.get(_AVERAGE)
        return self.of.left(_without_average(state)) if average is None else average

    def which_is_left(self) -> str:
        """Which adapter that is, for the report."""
        weights = "evenly" if self.decay == 1 else f"each weighs {self.decay:g} of the next"
        return (
            f"the average of those after each round from round {self.first_round} on, {weights}: "
            "post-processing of what is released anyway, so that it costs no epsilon"
        )


def _without_average(state: GlobalState) -> GlobalState:
    """What the method whose adapters are averaged carries itself."""
    own = (_AVERAGE, _COUNTED)
    return replace(state, memory={k: v for k, v in state.memory.items() if k not in own})
