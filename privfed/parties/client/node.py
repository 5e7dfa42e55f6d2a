"""One client: its records, its ledger, its key. Only the bytes of an envelope leave it.

The order of a round is what makes a crash safe: reserve in the ledger, train, round to the numbers
that will be summed, commit them, and only then encrypt and hand them out. A round that was
committed is encrypted afresh from its committed numbers, so keys need not outlive a crash; one
that was reserved and not committed is lost, and counted.
"""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from logging import Logger
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from accountants import (
    BudgetExceededError,
    Event,
    Ledger,
    Reservation,
    ScheduleFilter,
    epsilon,
)
from privfed.errors import EncryptionError, PrivfedError
from privfed.identity.keys import Identity
from privfed.methods.method import GlobalState, Kept, Method, Round, Start, Vector
from privfed.models.tasks import Batch
from privfed.models.vector import read_vector, write_vector
from privfed.parties.client.upload import Codec
from privfed.private_step.clipping import AdaptiveBound
from privfed.private_step.dpsgd import DPSGDConfig, train_round
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.randomness import FastNoise, NoiseStream, Randomness, SecureNoise
from privfed.private_step.stacked import LocalRound
from privfed.protocol.ciphers import AnsweringCipher
from privfed.protocol.envelopes import write_envelope
from privfed.protocol.kinds import LEDGER, UPDATE
from privfed.protocol.terms import RoundPlan, Terms
from privfed.settings.training import TrainingConfig

_SALT_BYTES: Final = 32
"""A committed update begins with a random salt, since a digest of it stands in the ledger."""
_LENGTH_BYTES: Final = 8


class RoundLostError(PrivfedError):
    """This round was reserved and never committed; it is counted, and not trained again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientNode:
    """A client in a running federation.

    Attributes:
        id: public name.
        identity: its secret keys.
        model: shared in one process; overwritten with the global state in every round.
        encoded: the records as tensors.
        method: what is trained, sent and kept.
        config: of the private step, without the round's learning rate.
        training: from which the client takes that rate.
        secure_noise: whether noise comes from a cryptographic stream, number by number.
        rounds: planned.
        ledger: of this client and data set.
        filter: admits a release or refuses it.
        randomness: where the secret streams come from.
        log: local; causes of failures go here and nowhere else.
        bound: clipping norm, where it follows a quantile from step to step.
        own_text: the client's own held-out records as tensors; None if it has none.
    """

    id: str
    identity: Identity = field(repr=False)
    model: PrivateModel
    encoded: Batch = field(repr=False)
    method: Method
    config: DPSGDConfig
    training: TrainingConfig
    secure_noise: bool
    rounds: int
    ledger: Ledger
    filter: ScheduleFilter
    randomness: Randomness
    log: Logger
    bound: AdaptiveBound
    own_text: Batch | None = field(default=None, repr=False)

    def reserve(self, plan: RoundPlan) -> Reservation | None:
        """Set the round's budget aside, durably; this comes before any coin is drawn.

        Returns:
            What `commit` takes; None if the round was committed before a crash.

        Raises:
            RoundLostError: if a crash lost this round.
            accountants.BudgetExceededError: if the round would exceed the budget; nothing was
                drawn or spent.
        """
        status = self.ledger.status(plan.run, plan.round)
        if status == "committed":
            return None
        if status == "reserved":
            raise RoundLostError(f"round {plan.round} was begun before a crash; it is counted")
        return self.ledger.reserve(plan.run, plan.round, self.releases(), self.filter.admit)

    def local_round(self, plan: RoundPlan, state: GlobalState, start: Start) -> LocalRound:
        """What this client brings to the private steps of a round: fresh secret streams.

        Args:
            plan: of the round, which must be reserved.
            state: of the round.
            start: with what the steps begin.
        """
        if state.digest() != plan.base_digest:
            raise PrivfedError("the global state is not the one that the round plan names")
        rate = self.training.learning_rate_of(plan.round, self.rounds)
        return LocalRound(
            encoded=self.encoded,
            config=self.config.with_learning_rate(rate),
            sampling=self.randomness.stream(self.id, "sampling"),
            noise=self._noise(),
            bound=self.bound,
            start=start,
        )

    def numbers(self, vectors: Mapping[str, Vector], codec: Codec) -> NDArray[Any]:
        """What is sent as the numbers that will be summed, rounded by fresh randomness.

        Args:
            vectors: to be sent, by name.
            codec: how vectors become numbers.
        """
        return codec.encode(vectors, self.randomness.stream(self.id, "rounding").uniform)

    def commit(self, reservation: Reservation, numbers: NDArray[Any], kept: Kept | None) -> None:
        """Commit the numbers of a round.

        Args:
            reservation: of the round.
            numbers: that will be summed.
            kept: what this client keeps, and sends to nobody.
        """
        self.ledger.commit(reservation.id, self.releases(), _committed(numbers, kept))

    def kept(self, run: str) -> Kept | None:
        """What this client kept at its last commit of a run; None before that."""
        committed = self.ledger.last_outgoing(run)
        return None if committed is None else _parts_of(committed)[1]

    def own_adapter(self, run: str, state: GlobalState) -> NDArray[np.float32]:
        """The client's own model after a round of a run, shape (params,).

        It is what the run leaves to all, with the client's own part in place.
        """
        rate = self.training.learning_rate_of(self.rounds, self.rounds)
        last = Round(
            number=self.rounds,
            steps={self.id: self.config.steps},
            learning_rate=rate,
            weights={self.id: 1.0},
            layout=self.model.layout,
        )
        left = replace(state, adapter=self.method.left(state))
        return self.method.start(left, self.kept(run), self.id, last)

    def encrypt(self, terms: Terms, codec: Codec) -> bytes:
        """The message that may leave: the committed numbers of a round, encrypted and signed.

        Args:
            terms: of the round, with the name of its key.
            codec: how numbers are encrypted.

        Raises:
            RoundLostError: if nothing is committed any more.
            EncryptionError: if the round is over.
        """
        sink = io.BytesIO()
        write_envelope(
            sink,
            self.identity.sign,
            run=terms.run,
            round=terms.round,
            sender=self.id,
            kind=UPDATE,
            manifest={**terms.manifest, LEDGER: self.ledger.anchor().to_json()},
            blobs=codec.cipher.encrypt(terms, self._committed_numbers(terms, codec)),
        )
        return sink.getvalue()

    def answer(self, terms: Terms, challenge: bytes, sent: bytes, codec: Codec) -> bytes:
        """Answer what is asked, before a sum is opened, about the message that this client sent."""
        if not isinstance(codec.cipher, AnsweringCipher):
            raise EncryptionError("this client has nothing to answer")
        return codec.cipher.answer(terms, challenge, sent)

    def epsilon_spent(self) -> float:
        """Upper bound on what the ledger counts, all runs on this data set together."""
        budget, neighbouring = self.filter.budget, self.filter.neighbouring
        return epsilon(self.ledger.events(), budget.delta, neighbouring).upper

    def releases(self) -> tuple[Event, ...]:
        """What one round of this client releases."""
        return self.method.releases(self.config.release())

    def has_no_budget_for(self, plan: RoundPlan) -> bool:
        """Whether the ledger, with all runs that it counts, leaves no room to reserve a round."""
        if self.ledger.status(plan.run, plan.round) is not None:
            return False
        try:
            self.filter.admit(self.ledger.events(), self.releases())
        except BudgetExceededError:
            return True
        return False

    def _committed_numbers(self, terms: Terms, codec: Codec) -> NDArray[Any]:
        committed = self.ledger.outgoing(terms.run, terms.round)
        if committed is None:
            raise RoundLostError(f"round {terms.round} was sent and is closed")
        return np.frombuffer(_parts_of(committed)[0], dtype=codec.dtype)

    def update(self, plan: RoundPlan, state: GlobalState, start: Start) -> NDArray[np.float64]:
        """Trained parameters minus those of `start`, shape (params,); as `local_round` has it."""
        mine = self.local_round(plan, state, start)
        write_vector(self.model.adapter, start.adapter)
        train_round(
            self.model,
            mine.encoded,
            mine.config,
            sampling=mine.sampling,
            noise=mine.noise,
            bound=mine.bound,
            correction=start.correction,
            moving=start.moving,
        )
        trained = read_vector(self.model.adapter).astype(np.float64)
        return trained - start.adapter

    def _noise(self) -> NoiseStream:
        stream = self.randomness.stream(self.id, "noise")
        return SecureNoise(stream) if self.secure_noise else FastNoise(stream)


def _committed(numbers: NDArray[Any], kept: Kept | None) -> bytes:
    """What is committed: salt, numbers, and what is kept beside them in the same transaction."""
    content = numbers.tobytes()
    length = len(content).to_bytes(_LENGTH_BYTES)
    beside = b"" if kept is None else save(dict(kept))
    return os.urandom(_SALT_BYTES) + length + content + beside


def _parts_of(committed: bytes) -> tuple[bytes, Kept | None]:
    """The numbers and what is kept."""
    first = _SALT_BYTES + _LENGTH_BYTES
    last = first + int.from_bytes(committed[_SALT_BYTES:first])
    beside = committed[last:]
    return committed[first:last], load(beside) if beside else None
