"""What every party of a run holds the same, as JSON; its digest stands in every message.

All of it is public. What a party may choose alone is not in it: where its files lie, its device,
the precision and speed of its arithmetic, how many records it reads at once. The base model is
named publicly and pinned by the digest of its parameters; where training starts is a public file,
pinned by its digest, because the same seed gives other bits on other processors.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from accountants import Budget, PoissonGaussian
from privfed.canonical import canonical_json
from privfed.checks import MOST, require_count, require_type
from privfed.data.public_size import NoisySize, check_public_size
from privfed.errors import ConfigError
from privfed.protocol.participation import Participation
from privfed.settings.encryption import Summation, summation_from_json
from privfed.settings.privacy import PrivacyConfig
from privfed.settings.training import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a client says of itself before a run; everybody may know it.

    Attributes:
        id: public name.
        public_size: declared once, before training, and independent of any one record; or
            `NoisySize`, to release the true number once under noise. Sampling rate, weight and
            delta check use it, never the true number.
        dataset: public name of the data set; the budget belongs to it, over all runs.
        description: public text on where the records come from, for the report.
        budget: of this client; None takes the federation's.
        steps_per_round: DP-SGD steps of this client between two sums; None takes the federation's.
        base: public name of its base model, one of the federation's `bases`; None takes that of the
            federation's model.
    """

    id: str
    public_size: int | NoisySize
    dataset: str
    description: str = "the client's own data"
    budget: Budget | None = None
    steps_per_round: int | None = None
    base: str | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        require_type(str, id=self.id, dataset=self.dataset, description=self.description)
        require_type(Budget | None, budget=self.budget)
        check_public_size(self.id, self.public_size)
        require_type(str | None, base=self.base)
        if self.steps_per_round is not None:
            require_count(MOST, **{f"steps_per_round of client {self.id!r}": self.steps_per_round})

    @property
    def size(self) -> int:
        """The public size as a number.

        Raises:
            ConfigError: if it is still to be released.
        """
        if isinstance(self.public_size, int):
            return self.public_size
        raise ConfigError(f"the public size of client {self.id!r} is not released yet")

    def describe(self, privacy: PrivacyConfig) -> dict[str, Any]:
        """JSON values, with the budget and the steps that hold for this client.

        Its base model is among them where it is not the federation's.
        """
        budget, size = budget_of(self, privacy), self.public_size
        return {
            "id": self.id,
            "dataset": self.dataset,
            "description": self.description,
            "public_size": size if isinstance(size, int) else asdict(size),
            "epsilon_budget": budget.epsilon,
            "delta": budget.delta,
            "steps_per_round": steps_of(self, privacy),
            **({} if self.base is None else {"base": self.base}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What every party is given before a run: who is asked to take part, in what.

    Attributes:
        settings: as those of an `Agreement`.
        clients: descriptions of all that are asked; sizes may be still to be released.
    """

    settings: Mapping[str, Any]
    clients: tuple[Mapping[str, Any], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that are asked, in their order."""
        return tuple(client["id"] for client in self.clients)

    @property
    def rounds(self) -> int:
        """How many are planned."""
        return int(self.settings["rounds"])

    @property
    def min_clients(self) -> int:
        """Fewest contributions that are summed."""
        return int(self.settings["min_clients"])

    @property
    def participation(self) -> Participation:
        """Who trains in which round."""
        return Participation(
            names=self.names,
            per_round=self.settings["clients_per_round"],
            rounds=self.rounds,
            seed=self.digest(),
        )

    @property
    def metric(self) -> str:
        """Name of the metric on held-out text."""
        return str(self.settings["metric"])

    @property
    def summation(self) -> Summation:
        """How updates are summed."""
        return summation_from_json(self.settings["encryption"])

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"settings": dict(self.settings), "clients": list(self.clients)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Proposal":
        """The inverse of `to_json`, which an aggregator reads that has no model and no text.

        Raises:
            ConfigError: for anything else.
        """
        try:
            found = cls(settings=dict(values["settings"]), clients=tuple(values["clients"]))
            _ = found.names, found.rounds, found.min_clients, found.metric, found.summation
            if type(found.settings["clients_per_round"]) not in (int, type(None)):
                raise TypeError("clients_per_round must be a whole number or null")
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"what all parties are given must be as privfed wrote it: {error!r}"
            ) from error
        return found

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON."""
        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What every party of a run holds the same.

    Attributes:
        settings: of model, adapter, method, privacy, training, encryption, rounds, held-out text
            and authority, as JSON values.
        clients: descriptions of those who take part, with public sizes as numbers.
        weights: of each of them in the mean; the largest is 1.
        base_model: SHA-256 (hex) of all frozen parameters, of the first client and of all who are
            not in `other_bases`.
        layout: SHA-256 (hex) of names and shapes of the trainable parameters.
        num_params: length of an update.
        start: SHA-256 (hex) of the file with the initial adapter and its frozen factors.
        tokenizer: SHA-256 (hex) of what their tokenizer makes of texts.
        min_clients: fewest contributions that are summed.
        other_bases: of each client that holds another base model than the first, the digests of it.
    """

    settings: Mapping[str, Any]
    clients: tuple[Mapping[str, Any], ...]
    weights: Mapping[str, float]
    base_model: str
    layout: str
    num_params: int
    start: str
    tokenizer: str
    min_clients: int
    other_bases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "clients": list(self.clients)}

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON."""
        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()


def budget_of(client: Declaration, privacy: PrivacyConfig) -> Budget:
    """The client's own budget, or the federation's."""
    return client.budget or privacy.budget


def sample_rate_of(client: Declaration, privacy: PrivacyConfig) -> float:
    """Sampling rate q = B / public size: a public number."""
    return privacy.expected_batch_size / client.size


def steps_of(client: Declaration, privacy: PrivacyConfig) -> int:
    """The client's own DP-SGD steps of a round, or the federation's: a public number."""
    return client.steps_per_round or privacy.steps_per_round


def private_steps_of(
    client: Declaration, privacy: PrivacyConfig, noise_multiplier: float
) -> PoissonGaussian:
    """What the private steps of one round of a client release."""
    return PoissonGaussian(
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate_of(client, privacy),
        steps=steps_of(client, privacy),
    )


def range_from_public_settings(
    privacy: PrivacyConfig,
    training: TrainingConfig,
    noise_multipliers: Mapping[str, float],
    steps: Mapping[str, int],
    weights: Mapping[str, float],
    min_clients: int,
) -> float:
    """A bound on one coordinate of every client's weighted update, from public numbers only.

    The noised mean of a step is at most (clipped sum + noise) / B in a coordinate. Twice the
    expected batch, every gradient along this coordinate, and noise at six standard deviations
    are allowed for; what lies beyond is clipped, which is post-processing.

    An update is sent times its weight. The largest weight of those that take part is 1, and at
    least `min_clients` do: so no weight ever exceeds its ratio to that which is in this place from
    below, whoever leaves the run.

    Args:
        privacy: of all.
        training: of all.
        noise_multipliers: of each client.
        steps: of each client in a round; of other clients they are not read.
        weights: of each client where all take part.
        min_clients: that take part at least.
    """
    rate = max(training.learning_rate, training.final_learning_rate or 0.0)
    smallest_peak = sorted(weights.values())[min(min_clients, len(weights)) - 1]
    moves = []
    for client, noise_multiplier in noise_multipliers.items():
        noise = 6 * noise_multiplier / privacy.expected_batch_size
        gradient = privacy.clipping_norm * (2 + noise)
        weight = min(1.0, weights[client] / smallest_peak)
        moves.append(weight * training.optimizer.largest_move(steps[client], gradient))
    return rate * max(moves)
