"""FedProx: a pull towards the global adapter, against clients that drift apart."""

from dataclasses import dataclass
from typing import ClassVar

from privfed.checks import require_positive
from privfed.methods.averaging import FedAvg
from privfed.methods.method import Correction, GlobalState, Kept, Round


@dataclass(frozen=True, slots=True, kw_only=True)
class FedProx(FedAvg):
    """FedAvg of clients whose every step is y <- y - eta (g + mu (y - x)).

    The pull acts beside the private step, on y before it. In the loss it would do nothing: its
    gradient belongs to no record, and the noised gradients of the records replace it.

    Attributes:
        mu: strength of the pull.

    Reference:
        Li et al. 2020, arXiv:1812.06127.
    """

    mu: float

    kind: ClassVar[str] = "fedprox"

    def __post_init__(self) -> None:
        """Check every field."""
        FedAvg.__post_init__(self)
        require_positive(mu=self.mu)

    def correction(
        self, received: GlobalState, kept: Kept | None, client: str, round_: Round
    ) -> Correction:
        """The pull."""
        del received, kept, client, round_
        return Correction(pull=self.mu)
