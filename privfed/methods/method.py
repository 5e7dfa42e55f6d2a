"""The seam of methods: what a federated method decides, and nothing else in the house knows.

A round of a method: every client trains from the global state (`steps`), makes named vectors of
what it trained (`uploads`) and may keep state of its own; these vectors are summed, and whoever
holds the sums computes the next global state (`next`). All of it is numpy and deterministic.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from accountants import Event
from privfed.canonical import canonical_json
from privfed.errors import ConfigError
from privfed.protocol.layout import Layout
from privfed.settings.training import TrainingConfig
from privfed.storage.checkpoint import ADAPTER

DELTA: Final = "delta"
"""The upload of most methods: trained minus received parameters."""

Vector = NDArray[np.floating]
Kept = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalState:
    """What all clients hold after a round; public to them.

    Attributes:
        adapter: from which the next round trains, shape (params,).
        memory: named arrays that the method carries from round to round.
    """

    adapter: NDArray[np.float32]
    memory: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a memory that would be taken for the adapter."""
        if ADAPTER in self.memory:
            raise ConfigError(f"no array of a method's memory may be called {ADAPTER!r}")

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All of it by names, for a file."""
        return {ADAPTER: self.adapter, **self.memory}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> "GlobalState":
        """The inverse of `tensors`.

        Raises:
            KeyError: if there is no adapter.
        """
        memory = {name: values for name, values in tensors.items() if name != ADAPTER}
        return cls(adapter=tensors[ADAPTER], memory=memory)

    def digest(self) -> str:
        """SHA-256 (hex) of adapter and memory; without memory that of the adapter."""
        if not self.memory:
            return vector_digest(self.adapter)
        digest = hashlib.sha256(b"privfed state 1\n" + vector_digest(self.adapter).encode())
        for name, values in sorted(self.memory.items()):
            little = values.astype(values.dtype.newbyteorder("<"))
            digest.update(canonical_json([name, little.dtype.str, list(little.shape)]))
            digest.update(little.tobytes())
        return digest.hexdigest()


def vector_digest(vector: NDArray[np.float32]) -> str:
    """SHA-256 (hex) of a vector's little-endian bytes."""
    return hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest()


def released_digest(method: "Method", state: GlobalState) -> str:
    """SHA-256 (hex) of the adapter that a run leaves if it ends here."""
    return vector_digest(method.left(state))


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What is public of a round before it is played.

    Attributes:
        number: from 1.
        steps: private steps of each client.
        learning_rate: of these steps.
        weights: public weight of every client, the largest being 1.
        layout: of the adapter.
        noise: standard deviation of the noise in an entry of each client's update, where it is
            known: with SGD without momentum, and a fixed clipping norm.
    """

    number: int
    steps: Mapping[str, int]
    learning_rate: float
    weights: Mapping[str, float]
    layout: Layout
    noise: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SentVector:
    """One of the vectors that a client sends in a round.

    Attributes:
        name: by which `next` finds its sum.
        length: of the vector.
        scale: its public range relative to that of the round.
        filled: how many of its entries are no zeros by design; None for at most as many as the
            parameters that clients train.
    """

    name: str
    length: int
    scale: float = 1.0
    filled: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What moves the parameters in a private step beyond the noised gradient; see `after_step`.

    It is computed from released vectors alone and added after the noise, so it costs no epsilon. In
    the loss it would be clipped with the records' gradients, or overwritten by them.

    Attributes:
        shift: shape (params,), in the units of a gradient; None is zero.
        pull: strength of the pull towards where the round began (mu of FedProx).
    """

    shift: NDArray[np.float32] | None = None
    pull: float = 0.0

    def only(self, moving: NDArray[np.bool_]) -> "Correction":
        """That of the parameters that move; `moving` has shape (params,)."""
        return self if self.shift is None else replace(self, shift=self.shift[moving])


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """With what a client's private steps of a round begin.

    Attributes:
        adapter: shape (params,).
        moving: which entries of it move, shape (params,); all others stay as they are to the bit.
        correction: of every step; None for plain ones.
    """

    adapter: NDArray[np.float32]
    moving: NDArray[np.bool_]
    correction: Correction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a client's private steps came to.

    Attributes:
        received: global state of the round.
        delta: trained parameters minus those from which the steps began (`Method.start`), shape
            (params,); noised.
        kept: state of the client before the round; None before its first.
    """

    received: GlobalState
    delta: NDArray[np.float64]
    kept: Kept | None


FUNCTIONS: Final = (
    *("describe", "check", "weights", "begin", "start", "trains", "uploads", "correction", "local"),
    *("keeps", "releases", "next", "figures", "left", "which_is_left"),
)
"""What every method has."""


def total_length(method: "Method", rounds: Iterable[Round]) -> int:
    """How many numbers a client sends in a round, the same in all of them.

    Raises:
        ConfigError: if a method trains nothing, or what is not there; if it sends nothing,
            something else in another round, two vectors of one name, or one in a range that is
            none.
    """
    first: list[tuple[str, int]] | None = None
    for round_ in rounds:
        sent = method.uploads(round_)
        for client in round_.weights:
            _require_moving(method.trains(round_, client), client, round_)
        named = [(one.name, one.length) for one in sent]
        first = named if first is None else first
        scales = all(math.isfinite(one.scale) and one.scale > 0 for one in sent)
        lengths = all(type(length) is int and length > 0 for _, length in named)
        if not sent or named != first or len(dict(named)) != len(named):
            raise ConfigError(
                f"a method must send the same named vectors in every round, got {first} and, in "
                f"round {round_.number}, {named}"
            )
        if not scales or not lengths:
            raise ConfigError(f"vectors must have lengths and scales above 0, got {sent}")
    return sum(length for _, length in first or ())


def started(
    method: "Method", received: GlobalState, kept: Kept | None, client: str, round_: Round
) -> Start:
    """With what a client's private steps of a round begin; arguments as of `Method.start`."""
    return Start(
        adapter=method.start(received, kept, client, round_),
        moving=method.trains(round_, client),
        correction=method.correction(received, kept, client, round_),
    )


def _require_moving(moving: Any, client: str, round_: Round) -> None:
    shape = (round_.layout.length,)
    mask = np.asarray(moving)
    if mask.dtype != np.bool_ or mask.shape != shape or not mask.any():
        raise ConfigError(
            "a method must train parameters of the adapter, said by booleans of shape "
            f"{shape}; in round {round_.number} it lets {client!r} train {moving!r:.80}"
        )


class Method(Protocol):
    """A federated method."""

    @property
    def freezes_a(self) -> bool:
        """Whether factor A of LoRA is orthonormal, public and never trained."""
        ...

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        ...

    def check(self, training: TrainingConfig, steps: Mapping[str, int], rounds: int) -> None:
        """Refuse what the method cannot do, when a federation is built.

        Args:
            training: how clients move.
            steps: private steps of a round, of each client.
            rounds: planned.

        Raises:
            ConfigError: saying what to change.
        """
        ...

    def weights(
        self, public_sizes: Mapping[str, int], steps: Mapping[str, int]
    ) -> dict[str, float]:
        """Public weight of every client, the largest being 1; applied before encryption.

        Args:
            public_sizes: of those that take part.
            steps: private steps of a round, of these and perhaps of others.
        """
        ...

    def begin(self, adapter: NDArray[np.float32]) -> GlobalState:
        """The global state before the first round.

        Args:
            adapter: the initial one, shape (params,).
        """
        ...

    def start(
        self, received: GlobalState, kept: Kept | None, client: str, round_: Round
    ) -> NDArray[np.float32]:
        """The adapter from which a client trains, shape (params,).

        Args:
            received: global state of the round.
            kept: state of the client; None before its first round.
            client: name.
            round_: that is played.
        """
        ...

    def trains(self, round_: Round, client: str) -> NDArray[np.bool_]:
        """Which entries of the adapter move at a client, shape (params,).

        All others stay as they are to the bit: they alone have gradients, are clipped and get
        noise. What a client keeps for itself is among them where it learns, so that a record has
        one clipped gradient in what is sent and what is kept together.
        """
        ...

    def uploads(self, round_: Round) -> tuple[SentVector, ...]:
        """What a client sends in a round; the lengths are the same in every round."""
        ...

    def correction(
        self, received: GlobalState, kept: Kept | None, client: str, round_: Round
    ) -> Correction | None:
        """What a client adds to its private steps; None for plain ones."""
        ...

    def local(self, trained: Trained, client: str, round_: Round) -> Mapping[str, Vector]:
        """What a client sends, by the names of `uploads`."""
        ...

    def keeps(
        self, trained: Trained, sent: Mapping[str, Vector], client: str, round_: Round
    ) -> Kept | None:
        """The state that a client keeps for itself; None if it keeps none.

        It is computed from noised parameters, written in the transaction of the commit, and never
        sent.

        Args:
            trained: what the private steps came to.
            sent: the vectors as they are in the sum: clipped to their ranges and rounded.
            client: name.
            round_: that is played.
        """
        ...

    def releases(self, private_steps: Event) -> tuple[Event, ...]:
        """What one round of a client releases.

        Args:
            private_steps: DP-SGD of the round, as configured and calibrated.
        """
        ...

    def next(
        self,
        state: GlobalState,
        sums: Mapping[str, NDArray[np.float64]],
        contributors: Sequence[str],
        round_: Round,
    ) -> GlobalState:
        """The next global state.

        Args:
            state: before the round.
            sums: of the contributors' weighted vectors, by the names of `uploads`.
            contributors: whose vectors are in the sums, sorted.
            round_: that was played.
        """
        ...

    def figures(self, state: GlobalState) -> dict[str, float]:
        """What the record and the report of a round show of its state, by readable names.

        Numbers from 0 on. They are computed from the state alone, which is released, so they are
        post-processing and cost no epsilon.

        Args:
            state: after the round.
        """
        ...

    def left(self, state: GlobalState) -> NDArray[np.float32]:
        """The adapter that the run evaluates, and leaves if it ends here, shape (params,)."""
        ...

    def which_is_left(self) -> str:
        """Which adapter that is, for the report."""
        ...
