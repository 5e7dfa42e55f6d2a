"""A method that changes one thing of another, and leaves the rest to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from accountants import Event
from privfed.checks import require_methods
from privfed.errors import ConfigError
from privfed.methods.method import (
    FUNCTIONS,
    Correction,
    GlobalState,
    Kept,
    Method,
    Round,
    SentVector,
    Trained,
    Vector,
)
from privfed.settings.training import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """Does what the method inside does, which sees nothing of what the outer one remembers.

    Attributes:
        of: the method inside.
    """

    of: Method

    outermost: ClassVar[bool] = False
    """Whether nothing may be around it."""
    sums_rounds: ClassVar[bool] = True
    """Whether it adds up adapters, or what moved them, over several rounds."""
    own: ClassVar[tuple[str, ...]] = ()
    """Arrays in the memory of the global state that belong to the outer method."""

    def __post_init__(self) -> None:
        """Check the method inside.

        Raises:
            ConfigError: if it is none, or one that cannot be inside.
        """
        require_methods(*FUNCTIONS, of=self.of)
        inside: Any = self.of
        while isinstance(inside, Wrapped):
            if inside.outermost and not self.outermost:
                raise ConfigError(
                    f"{type(inside).__name__} must be around {type(self).__name__}, not inside it: "
                    "it would average adapters that the run never comes to"
                )
            if set(inside.own) & set(self.own):
                raise ConfigError(
                    f"{type(self).__name__} cannot be inside {type(inside).__name__} or the other "
                    "way round: both remember the same; take one of them"
                )
            inside = inside.of
        if self.sums_rounds and getattr(inside, "changes_basis", False):
            raise ConfigError(
                f"{type(self).__name__} cannot be around {type(inside).__name__}, which writes the "
                "factors of LoRA in another basis from round to round: sums of factors of several "
                "rounds mean nothing; take the method alone, or rolora inside"
            )

    @property
    def innermost(self) -> Method:
        """The method that is around no other."""
        return self.of.innermost if isinstance(self.of, Wrapped) else self.of

    @property
    def freezes_a(self) -> bool:
        """As the method inside; so is all that is not said otherwise."""
        return self.of.freezes_a

    @property
    def needs_lora(self) -> bool:
        """Whether it counts on the product of LoRA's factors."""
        return bool(getattr(self.of, "needs_lora", False))

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        return {"of": self.of.describe()}

    def check(self, training: TrainingConfig, steps: Mapping[str, int], rounds: int) -> None:
        """Refuse what the method inside cannot do."""
        self.of.check(training, steps, rounds)

    def weights(
        self, public_sizes: Mapping[str, int], steps: Mapping[str, int]
    ) -> dict[str, float]:
        """Public weight of every client, the largest being 1."""
        return self.of.weights(public_sizes, steps)

    def begin(self, adapter: NDArray[np.float32]) -> GlobalState:
        """The global state before the first round."""
        return self.of.begin(adapter)

    def start(
        self, received: GlobalState, kept: Kept | None, client: str, round_: Round
    ) -> NDArray[np.float32]:
        """The adapter from which a client trains."""
        return self.of.start(self.inside(received), kept, client, round_)

    def trains(self, round_: Round, client: str) -> NDArray[np.bool_]:
        """Which entries of the adapter move at a client."""
        return self.of.trains(round_, client)

    def uploads(self, round_: Round) -> tuple[SentVector, ...]:
        """What a client sends in a round."""
        return self.of.uploads(round_)

    def correction(
        self, received: GlobalState, kept: Kept | None, client: str, round_: Round
    ) -> Correction | None:
        """What a client adds to its private steps."""
        return self.of.correction(self.inside(received), kept, client, round_)

    def local(self, trained: Trained, client: str, round_: Round) -> Mapping[str, Vector]:
        """What a client sends."""
        received = self.inside(trained.received)
        return self.of.local(replace(trained, received=received), client, round_)

    def keeps(
        self, trained: Trained, sent: Mapping[str, Vector], client: str, round_: Round
    ) -> Kept | None:
        """The state that a client keeps."""
        received = self.inside(trained.received)
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
        """The next global state, with what the outer method remembers as it was."""
        moved = self.of.next(self.inside(state), sums, contributors, round_)
        return replace(moved, memory={**moved.memory, **self.remembered(state)})

    def figures(self, state: GlobalState) -> dict[str, float]:
        """Those of the method inside."""
        return self.of.figures(self.inside(state))

    def left(self, state: GlobalState) -> NDArray[np.float32]:
        """The adapter that the run evaluates, and leaves if it ends here."""
        return self.of.left(self.inside(state))

    def which_is_left(self) -> str:
        """Which adapter that is, for the report."""
        return self.of.which_is_left()

    def inside(self, state: GlobalState) -> GlobalState:
        """What the method inside carries itself."""
        return replace(state, memory={k: v for k, v in state.memory.items() if k not in self.own})

    def remembered(self, state: GlobalState) -> dict[str, NDArray[Any]]:
        """What the outer method carries."""
        return {name: state.memory[name] for name in self.own if name in state.memory}
