"""One client: its records, its ledger, its key. Only the bytes of an envelope leave it.

The order of a round is what makes a crash safe: reserve in the ledger, train, hide, commit with
the outgoing bytes, and only then hand them out. A round that was committed is sent again byte for
byte; one that was reserved and not committed is lost, and counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from logging import Logger
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accountants import Anchor, Budget, Ledger, PoissonGaussian, ScheduleFilter, epsilon
from privfed.client.dpsgd import DPSGDConfig, PrivateModel, train_round
from privfed.client.randomness import Coins
from privfed.data.records import Record
from privfed.encryption import fixedpoint
from privfed.errors import ConfigError, DataError, PrivfedError
from privfed.interfaces import Cipher
from privfed.messages import LEDGER, Envelope, RoundPlan
from privfed.models.tasks import Batch
from privfed.models.vector import read_vector, vector_digest, write_vector


class RoundLostError(PrivfedError):
    """This round was reserved and never committed; it is counted, and not trained again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What one organisation brings to a federation.

    Attributes:
        id: public name.
        records: private; they never leave.
        public_size: declared once, before training, and independent of any one record. Sampling
            rate, weight and delta check use it, never the true number.
        dataset: public name of the data set; the budget belongs to it, over all runs.
        description: public text on where the records come from; a ledger opened under another
            description is refused.
        budget: of this client; None takes the federation's.
    """

    id: str
    records: tuple[Record, ...] = field(repr=False)
    public_size: int
    dataset: str
    description: str = "the client's own data"
    budget: Budget | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        if type(self.public_size) is not int or self.public_size < 1:
            raise ConfigError(
                f"public_size of client {self.id!r} must be a whole number of at least 1, got "
                f"{self.public_size!r}"
            )
        if not self.records:
            raise DataError(f"client {self.id!r} holds no records; leave it out or give it data")


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """How an update becomes an upload.

    Attributes:
        bits: of one fixed-point value.
        public_range: values are clipped to +-public_range.
        weight: public weight of this client in the mean, in (0, 1].
        cipher: hides the integers.
        manifest: what an update states beside its blobs.
    """

    bits: int
    public_range: float
    weight: float
    cipher: Cipher
    manifest: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientNode:
    """A client in a running federation.

    Attributes:
        id: public name.
        model: shared in one process; overwritten with the global state in every round.
        encoded: the records as tensors.
        config: of the private step, without the round's learning rate.
        ledger: of this client and data set.
        filter: admits a release or refuses it.
        coins: where the secret streams come from.
        log: local; causes of failures go here and nowhere else.
    """

    id: str
    model: PrivateModel
    encoded: Batch = field(repr=False)
    config: DPSGDConfig
    ledger: Ledger
    filter: ScheduleFilter
    coins: Coins
    log: Logger

    def take_part(self, plan: RoundPlan, state: NDArray[np.float32], codec: Codec) -> bytes:
        """Train one round and return the message that may leave.

        Raises:
            RoundLostError: if a crash lost this round.
            accountants.BudgetExceededError: if the round would exceed the budget; nothing was
                drawn or spent.
        """
        status = self.ledger.status(plan.run, plan.round)
        if status == "committed":
            return self._committed_bytes(plan)
        if status == "reserved":
            raise RoundLostError(f"round {plan.round} was begun before a crash; it is counted")
        release = [self.release()]
        reservation = self.ledger.reserve(plan.run, plan.round, release, self.filter.admit)
        message = self._train_and_hide(plan, state, codec, self.ledger.anchor())
        self.ledger.commit(reservation.id, release, message)
        return message

    def release(self) -> PoissonGaussian:
        """What one round of this client releases."""
        return PoissonGaussian(
            noise_multiplier=self.config.noise_multiplier,
            sample_rate=self.config.sample_rate,
            steps=self.config.steps,
        )

    def _committed_bytes(self, plan: RoundPlan) -> bytes:
        message = self.ledger.outgoing(plan.run, plan.round)
        if message is None:
            raise RoundLostError(f"round {plan.round} was sent and is closed")
        return message

    def _train_and_hide(
        self, plan: RoundPlan, state: NDArray[np.float32], codec: Codec, anchor: Anchor
    ) -> bytes:
        if vector_digest(state) != plan.base_digest:
            raise PrivfedError("the global state is not the one that the round plan names")
        update = self._update(plan, state)
        rounding = self.coins.stream(self.id, "rounding").uniform(update.size)
        values = fixedpoint.encode(
            codec.weight * update,
            public_range=codec.public_range,
            bits=codec.bits,
            uniforms=rounding,
        )
        return Envelope(
            run=plan.run,
            round=plan.round,
            sender=self.id,
            kind="update",
            manifest={**codec.manifest, LEDGER: anchor.to_json()},
            blobs=codec.cipher.encrypt(values),
        ).to_bytes()

    def _update(self, plan: RoundPlan, state: NDArray[np.float32]) -> NDArray[np.float64]:
        """Trained minus received parameters, shape (params,)."""
        write_vector(self.model.adapter, state)
        train_round(
            self.model,
            self.encoded,
            self.config.with_learning_rate(plan.learning_rate),
            sampling=self.coins.stream(self.id, "sampling"),
            noise=self.coins.stream(self.id, "noise"),
        )
        return read_vector(self.model.adapter).astype(np.float64) - state.astype(np.float64)

    def epsilon_spent(self) -> float:
        """Epsilon of everything in the ledger, at the budget's delta."""
        budget = self.filter.budget
        return epsilon(self.ledger.events(), budget.delta, self.filter.neighbouring).upper
