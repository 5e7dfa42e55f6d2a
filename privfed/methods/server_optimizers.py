"""Optimisers of the server: how the decrypted mean of updates moves the global adapter.

Each takes the step that the method inside would take, D, for a gradient:

    FedAvgM     m <- beta m + D                 x <- x + eta m
    FedAdagrad  m <- beta1 m + (1 - beta1) D    x <- x + eta m / (sqrt(v) + tau)
                v <- v + D^2
    FedAdam     the same with v <- beta2 v + (1 - beta2) D^2
    FedYogi     the same with v <- v - (1 - beta2) D^2 sign(v - D^2)

m begins at 0 and v at tau^2. All clients compute this alike from the decrypted sum, never on
ciphertexts. It is post-processing of what is released, so it costs no epsilon. What stands still in
a round is left as it is, in m and v too.

Reference:
    Hsu et al. 2019, arXiv:1909.06335 (FedAvgM); Reddi et al. 2021, arXiv:2003.00295, Algorithm 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from privfed.checks import require_below_one, require_positive
from privfed.errors import ConfigError
from privfed.methods.averaging import noise_of_mean
from privfed.methods.fednova import FedNova
from privfed.methods.method import GlobalState, Round
from privfed.methods.wrapped import Wrapped

_FIRST: Final = "server.m"
_SECOND: Final = "server.v"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvgM(Wrapped):
    """Momentum.

    Attributes:
        of: the method whose steps it takes.
        learning_rate: eta.
        momentum: beta, in [0, 1).
    """

    learning_rate: float = 1.0
    momentum: float = 0.9

    kind: ClassVar[str] = "fedavgm"
    own: ClassVar[tuple[str, ...]] = (_FIRST, _SECOND)

    def __post_init__(self) -> None:
        """Check every field."""
        Wrapped.__post_init__(self)
        require_positive(learning_rate=self.learning_rate)
        require_below_one(momentum=self.momentum)

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        own = {"learning_rate": self.learning_rate, "momentum": self.momentum}
        return {"method": self.kind, **own, "of": self.of.describe()}

    def next(
        self,
        state: GlobalState,
        sums: Mapping[str, NDArray[np.float64]],
        contributors: Sequence[str],
        round_: Round,
    ) -> GlobalState:
        """The next global state."""
        moved, moving = Wrapped.next(self, state, sums, contributors, round_), _moving(self, round_)
        step = _step(state, moved)
        first = _memory(state, _FIRST, 0.0)
        first[moving] = self.momentum * first[moving] + step[moving]
        return _after(state, moved, moving, self.learning_rate * first, {_FIRST: first})


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdagrad(Wrapped):
    """Adagrad, whose steps shrink from round to round.

    Noise alone would be blown up to steps of eta. So tau is at least the standard deviation of the
    noise in an entry of the mean, where that is known (`Round.noise`), as it is of plain steps.

    Attributes:
        of: the method whose steps it takes.
        learning_rate: eta.
        beta1: of m, in [0, 1).
        tau: > 0, in the units of an update.
    """

    learning_rate: float
    beta1: float = 0.9
    tau: float = 1e-3

    kind: ClassVar[str] = "fedadagrad"
    own: ClassVar[tuple[str, ...]] = (_FIRST, _SECOND)

    def __post_init__(self) -> None:
        """Check every field."""
        Wrapped.__post_init__(self)
        require_positive(learning_rate=self.learning_rate, tau=self.tau)
        require_below_one(beta1=self.beta1)
        if isinstance(self.innermost, FedNova):
            raise ConfigError(
                f"{self.kind} cannot be around fednova, whose step is no plain mean of updates, in "
                "whose units tau and its noise are; take fedavgm, or fedavg inside"
            )
        inner = getattr(self.innermost, "server_learning_rate", 1.0)
        if inner != 1:
            raise ConfigError(
                "server_learning_rate of the method inside must be 1, as tau is in the units of "
                f"its step, got {inner}; set the learning_rate of {self.kind}"
            )

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        own = {"learning_rate": self.learning_rate, "beta1": self.beta1, "tau": self.tau}
        return {"method": self.kind, **own, "of": self.of.describe()}

    def second(self, before: Floats, squared: Floats) -> Floats:
        """V of a round, from that before and D^2."""
        return before + squared

    def next(
        self,
        state: GlobalState,
        sums: Mapping[str, NDArray[np.float64]],
        contributors: Sequence[str],
        round_: Round,
    ) -> GlobalState:
        """The next global state."""
        moved, moving = Wrapped.next(self, state, sums, contributors, round_), _moving(self, round_)
        tau = max(self.tau, noise_of_mean(round_, contributors) or 0.0)
        step = _step(state, moved)
        first, second = _memory(state, _FIRST, 0.0), _memory(state, _SECOND, tau * tau)
        first[moving] = self.beta1 * first[moving] + (1 - self.beta1) * step[moving]
        second[moving] = self.second(second[moving], step[moving] ** 2)
        taken = self.learning_rate * first / (np.sqrt(second) + tau)
        return _after(state, moved, moving, taken, {_FIRST: first, _SECOND: second})


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdam(FedAdagrad):
    """Adam, whose steps have the size of eta where D is well above tau; else as FedAdagrad.

    Attributes:
        beta2: of v, in [0, 1).
    """

    beta2: float = 0.99

    kind: ClassVar[str] = "fedadam"

    def __post_init__(self) -> None:
        """Check every field."""
        FedAdagrad.__post_init__(self)
        require_below_one(beta2=self.beta2)

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        return {**FedAdagrad.describe(self), "beta2": self.beta2}

    def second(self, before: Floats, squared: Floats) -> Floats:
        """V of a round, from that before and D^2."""
        return self.beta2 * before + (1 - self.beta2) * squared


@dataclass(frozen=True, slots=True, kw_only=True)
class FedYogi(FedAdam):
    """As FedAdam, where v moves by D^2 and not towards it: it falls slowly after a large step."""

    kind: ClassVar[str] = "fedyogi"

    def second(self, before: Floats, squared: Floats) -> Floats:
        """V of a round, from that before and D^2."""
        return before - (1 - self.beta2) * squared * np.sign(before - squared)


def _moving(method: Wrapped, round_: Round) -> NDArray[np.bool_]:
    """Which entries move at any client."""
    masks = [method.trains(round_, client) for client in round_.weights]
    return np.asarray(np.any(masks, axis=0))


def _step(state: GlobalState, moved: GlobalState) -> Floats:
    """D: what the method inside moved the adapter by."""
    return moved.adapter.astype(np.float64) - state.adapter


def _memory(state: GlobalState, name: str, first: float) -> Floats:
    if name in state.memory:
        return state.memory[name].astype(np.float64)
    return np.full(len(state.adapter), first)


def _after(
    state: GlobalState,
    moved: GlobalState,
    moving: NDArray[np.bool_],
    taken: Floats,
    remembered: Mapping[str, Floats],
) -> GlobalState:
    """The state with the step taken where parameters move."""
    adapter = state.adapter.astype(np.float64)
    adapter[moving] += taken[moving]
    memory = {name: values.astype(np.float32) for name, values in remembered.items()}
    return replace(moved, adapter=adapter.astype(np.float32), memory={**moved.memory, **memory})
