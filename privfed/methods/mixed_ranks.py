"""Mixed ranks: clients train as many ranks of LoRA as suit them, and are summed all the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from privfed.checks import require_count
from privfed.errors import ConfigError
from privfed.methods.factors import with_rank_in
from privfed.methods.method import GlobalState, Kept, Round
from privfed.methods.personal import FedDPA
from privfed.methods.wrapped import Wrapped
from privfed.protocol.layout import Layout
from privfed.settings.training import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedRanks(Wrapped):
    """A method in which some clients train the first ranks of the adapter only, as in HetLoRA.

    Such a client begins from the global adapter cut to its ranks, and moves, clips and noises
    these alone. In the mean it counts as one that did not move the others. So where the mean of the
    products is exact for equal ranks (FFA-LoRA, RoLoRA), it is here: of the clients' products,
    each of its own rank. Around `DoubleSketch`, which sorts the ranks by their singular values, a
    client begins from the largest of them, as in FlexLoRA (Bai et al. 2024, arXiv:2402.11505).

    All uploads are of one length, as sums of ciphertexts must be. The paper weighs clients by the
    norm of their products, which says something of their data; here weights are public. What a
    client saves is noise, and hardly any time: gradients of all ranks are computed.

    Attributes:
        of: the method.
        ranks: of clients by name, each below the rank of the adapter; the others train all of it.

    Reference:
        Cho et al. 2024 (HetLoRA), arXiv:2401.06432.
    """

    ranks: Mapping[str, int]

    kind: ClassVar[str] = "mixed-ranks"
    needs_lora: ClassVar[bool] = True
    sums_rounds: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check every field."""
        Wrapped.__post_init__(self)
        for client, rank in self.ranks.items():
            require_count(**{f"the rank of {client}": rank})
        if not self.ranks:
            raise ConfigError("ranks must name at least one client; without, take the method alone")
        if isinstance(self.innermost, FedDPA):
            raise ConfigError(
                "fed-dpa keeps the last ranks of a client, which mixed ranks would cut off first; "
                "take fedsa-lora, or equal ranks"
            )

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        return {"method": self.kind, "ranks": dict(self.ranks), "of": self.of.describe()}

    def check(self, training: TrainingConfig, steps: Mapping[str, int], rounds: int) -> None:
        """Refuse a rank of no client, and what the method inside cannot do."""
        unknown = sorted(set(self.ranks) - set(steps))
        if unknown:
            raise ConfigError(f"ranks must be those of clients that are asked; {unknown} are not")
        self.of.check(training, steps, rounds)

    def start(
        self, received: GlobalState, kept: Kept | None, client: str, round_: Round
    ) -> NDArray[np.float32]:
        """That of the method inside, cut to the client's ranks."""
        adapter = self.of.start(self.inside(received), kept, client, round_)
        return np.where(self._beyond(round_.layout, client), np.float32(0), adapter)

    def trains(self, round_: Round, client: str) -> NDArray[np.bool_]:
        """What the method inside trains, within the client's ranks."""
        return self.of.trains(round_, client) & ~self._beyond(round_.layout, client)

    def _beyond(self, layout: Layout, client: str) -> NDArray[np.bool_]:
        """Which entries lie beyond the ranks of a client, shape (params,)."""
        if client not in self.ranks:
            return np.zeros(layout.length, dtype=bool)
        return with_rank_in(layout, slice(self.ranks[client], None))
