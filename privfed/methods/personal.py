"""Personalisation: of the adapter, each client keeps a part for itself.

What a client keeps is trained in the same private steps as what it shares: a record has one
gradient over both, clipped as one, and noise on both. So what is kept is a function of noised steps
alone, and later gradients of what is shared may depend on it. Trained beside them without noise, it
would carry a record into every later round.

A client's own model is the global adapter with its own part in place (`start`). The part stays in
the client's ledger, is never sent, and lies in no run folder.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from privfed.checks import require_count
from privfed.errors import ConfigError
from privfed.methods.averaging import FedAvg
from privfed.methods.factors import A_FACTOR, B_FACTOR, pairs_of, with_rank_in
from privfed.methods.method import GlobalState, Kept, Round, Trained, Vector
from privfed.protocol.layout import Layout

OWN: Final = "own"
"""What a client keeps: its own entries, in the order of the vector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Personal(FedAvg, ABC):
    """FedAvg of what is shared. What is a client's own, a kind says."""

    needs_lora: ClassVar[bool] = True

    @abstractmethod
    def own(self, layout: Layout) -> NDArray[np.bool_]:
        """Which entries each client keeps for itself, shape (params,).

        Raises:
            ConfigError: if the adapter has no such part, or nothing else.
        """

    def start(
        self, received: GlobalState, kept: Kept | None, client: str, round_: Round
    ) -> NDArray[np.float32]:
        """The global adapter with the client's own part, which begins as everybody's."""
        del client
        if kept is None:
            return received.adapter
        adapter = received.adapter.copy()
        adapter[self.own(round_.layout)] = kept[OWN]
        return adapter

    def averaged(self, round_: Round) -> NDArray[np.bool_]:
        """What is shared."""
        return ~self.own(round_.layout)

    def trains(self, round_: Round, client: str) -> NDArray[np.bool_]:
        """What is sent in the round, and the client's own part."""
        return FedAvg.trains(self, round_, client) | self.own(round_.layout)

    def keeps(
        self, trained: Trained, sent: Mapping[str, Vector], client: str, round_: Round
    ) -> Kept:
        """The client's own part, as the noised steps left it, whether or not the sum is opened."""
        del sent
        own = self.own(round_.layout)
        began = self.start(trained.received, trained.kept, client, round_)
        return {OWN: (began[own] + trained.delta[own]).astype(np.float32)}

    def which_is_left(self) -> str:
        """Which adapter that is, for the report."""
        return (
            "the newest that all share; each client has a part of its own, trained in the same "
            "noised steps, which lies with the client and is in no adapter but its own"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FedSALoRA(Personal):
    """The clients share A, and keep B and what is no factor of LoRA, such as a classifier's head.

    Without a client's own B the global adapter changes nothing: use the clients' own models.

    Reference:
        Guo et al. 2025, arXiv:2410.01463.
    """

    kind: ClassVar[str] = "fedsa-lora"

    def own(self, layout: Layout) -> NDArray[np.bool_]:
        """All but A."""
        pairs_of(layout, self.kind)
        return ~layout.mask([name for name in layout.names if A_FACTOR in name])


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalHead(Personal):
    """The clients share the factors of LoRA, and keep what is none: a classifier's head.

    Reference:
        Arivazhagan et al. 2019 (FedPer), arXiv:1912.00818.
    """

    kind: ClassVar[str] = "local-head"

    def own(self, layout: Layout) -> NDArray[np.bool_]:
        """What is no factor of LoRA."""
        head = [name for name in layout.names if A_FACTOR not in name and B_FACTOR not in name]
        if not head or len(head) == len(layout.names):
            raise ConfigError(
                f"{self.kind} needs factors of LoRA to share and a classifier's head to keep; for "
                "other adapters take fedavg, for a model without a head fed-dpa"
            )
        return layout.mask(head)


@dataclass(frozen=True, slots=True, kw_only=True)
class FedDPA(Personal):
    """A global and a local adapter side by side: W + s (B A + B' A'), of which B' A' is kept.

    Both lie in one adapter of LoRA, whose last ranks are the local one. The paper weighs the two by
    how much an input is like the client's records, which would take the text of the records along
    with the model; here they are added.

    Attributes:
        personal_rank: how many ranks of the adapter are each client's own; below its rank.

    Reference:
        Yang et al. 2024, arXiv:2403.19211.
    """

    personal_rank: int

    kind: ClassVar[str] = "fed-dpa"

    def __post_init__(self) -> None:
        """Check every field."""
        FedAvg.__post_init__(self)
        require_count(personal_rank=self.personal_rank)

    def own(self, layout: Layout) -> NDArray[np.bool_]:
        """The last ranks of both factors."""
        pairs_of(layout, self.kind)
        return with_rank_in(layout, slice(-self.personal_rank, None))
