"""Settings. Frozen, keyword-only, checked when built; privacy apart from speed.

A class named for speed or training cannot change a guarantee: everything that epsilon depends on
stands in `PrivacyConfig`, and epsilon, delta, the unit and the neighbouring relation have no
defaults.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from accountants import Budget, Neighbouring
from privfed.checks import (
    MOST,
    is_number,
    require_below_one,
    require_count,
    require_type,
    require_within,
)
from privfed.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatClipping:
    """Scale a record by min(1, C / norm) over all parameters (Abadi et al. 2016, 1607.00133)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PerLayerClipping:
    """Scale each layer of a record to C / sqrt(layers), so that all together stay within C.

    Reference:
        McMahan et al. 2018, arXiv:1710.06963, section 2.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomaticClipping:
    """Scale every record to just below C, also the small ones: C / (norm + stability).

    Attributes:
        stability: keeps directions of very small gradients from being blown up; > 0 (gamma).

    Reference:
        Bu et al. 2023 (AUTO-S), arXiv:2206.07136.
    """

    stability: float = 0.01

    def __post_init__(self) -> None:
        """Check the field."""
        require_within(1e-12, 1e12, stability=self.stability)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileClipping:
    """Flat clipping with a C that follows a quantile of the norms, step by step.

    In each step a client also takes a noised count of the records within C. Count and gradients
    come from one draw and cost together exactly what the step is charged for: the gradients get a
    little more noise instead. The followed C belongs to the client and a run; a resumed run starts
    at the configured one again.

    Attributes:
        quantile: share of records that are to stay unclipped, in (0, 1).
        learning_rate: of log C per step, > 0.
        count_noise: standard deviation of the count's noise, in records.

    Reference:
        Andrew et al. 2021, arXiv:1905.03871.
    """

    count_noise: float
    quantile: float = 0.5
    learning_rate: float = 0.2

    def __post_init__(self) -> None:
        """Check every field."""
        require_within(1e-6, 1e12, count_noise=self.count_noise)
        require_within(1e-12, 100, learning_rate=self.learning_rate)
        if not is_number(self.quantile) or not 0 < self.quantile < 1:
            raise ConfigError(f"quantile must be in (0, 1), got {self.quantile!r}")

    def gradient_noise_multiplier(self, noise_multiplier: float) -> float:
        """Noise multiplier of the gradients, so that they and the count cost `noise_multiplier`.

        A record moves the count by 1/2, the clipped sum by C: 1 / z^2 = 1 / z_g^2 + (1/2)^2 / s^2.

        Raises:
            ConfigError: if the count alone would cost as much.
        """
        left = noise_multiplier**-2 - (2 * self.count_noise) ** -2
        if not left > 0:
            raise ConfigError(
                f"count_noise must be above half of the noise multiplier {noise_multiplier:.4g}, "
                f"got {self.count_noise!r}: the count alone would cost more than the whole step"
            )
        return float(left**-0.5)


Clipping = FlatClipping | PerLayerClipping | AutomaticClipping | QuantileClipping


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyConfig:
    """What is guaranteed to each record, and the private step that pays for it.

    Attributes:
        budget: (epsilon, delta) of every client that does not bring its own.
        neighbouring: which two data sets are to look alike; only ADD_REMOVE, to which the rules on
            public sizes belong.
        record: what one record is, in words for the report, e.g. "one message, not one person".
        expected_batch_size: B; a public constant. A client samples each record with probability
            q = B / its public size in each step, and divides the noised sum by B.
        clipping_norm: C; bound on the L2 norm of one record's gradient over all trainable
            parameters together.
        steps_per_round: DP-SGD steps between two encrypted sums.
        examples_per_record: most examples of one record that are read, where a record is a group
            of examples (of one person, of one document); they are clipped as one. A public number.
        clipping: how a record's gradients are scaled to at most C.
        secure_noise: noise from a cryptographic stream that resists reconstruction from its
            floating-point numbers; without it, from a statistical generator with a secret key.
    """

    budget: Budget
    neighbouring: Neighbouring
    record: str
    expected_batch_size: int
    clipping_norm: float = 1.0
    steps_per_round: int = 1
    examples_per_record: int = 1
    clipping: Clipping = field(default_factory=FlatClipping)
    secure_noise: bool = True

    def __post_init__(self) -> None:
        """Check every field."""
        require_type(Budget, budget=self.budget)
        require_type(str, record=self.record)
        require_type(Clipping, clipping=self.clipping)
        require_type(bool, secure_noise=self.secure_noise)
        require_count(expected_batch_size=self.expected_batch_size)
        require_count(
            MOST,
            steps_per_round=self.steps_per_round,
            examples_per_record=self.examples_per_record,
        )
        require_within(1e-12, 1e12, clipping_norm=self.clipping_norm)
        if self.neighbouring is not Neighbouring.ADD_REMOVE:
            raise ConfigError(
                f"neighbouring must be ADD_REMOVE, got {self.neighbouring!r}: the public-size "
                "rules of this package are those of adding or removing one record"
            )
        if not self.record.strip():
            raise ConfigError("record must say what one record is, e.g. 'one news article'")


@dataclass(frozen=True, slots=True, kw_only=True)
class SGD:
    """Stochastic gradient descent.

    Attributes:
        momentum: within one round, in [0, 1).
    """

    momentum: float = 0.0

    def __post_init__(self) -> None:
        """Check the field."""
        require_below_one(momentum=self.momentum)

    def largest_move(self, steps: int, largest_gradient: float) -> float:
        """How far one coordinate can move in a round at learning rate 1."""
        return steps * largest_gradient / (1 - self.momentum)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101).

    Attributes:
        beta1: decay of the first moment, in [0, 1).
        beta2: decay of the second moment, in [0, 1).
        epsilon: added to the root of the second moment, > 0.
        weight_decay: >= 0.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Check every field."""
        require_below_one(beta1=self.beta1, beta2=self.beta2)
        require_within(1e-30, 1e12, epsilon=self.epsilon)
        require_within(0, 1e3, weight_decay=self.weight_decay)

    def largest_move(self, steps: int, largest_gradient: float) -> float:  # noqa: ARG002
        """How far one coordinate typically moves in a round at learning rate 1, at most.

        A step of Adam moves a coordinate by about the learning rate, whatever the gradient is.
        """
        return float(steps)


Optimizer = SGD | AdamW


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How the local optimiser moves. Nothing here changes epsilon.

    Attributes:
        learning_rate: in the first round.
        final_learning_rate: in the last round; rounds between are interpolated linearly.
            None keeps the rate constant.
        optimizer: of each client; its state does not outlive a round.
        physical_batch_size: records that pass through the model at once (memory, not privacy).
            Batches are filled up to a multiple of it.
    """

    learning_rate: float
    final_learning_rate: float | None = None
    optimizer: Optimizer = field(default_factory=SGD)
    physical_batch_size: int = 16

    def __post_init__(self) -> None:
        """Check every field."""
        require_within(1e-30, 1e6, learning_rate=self.learning_rate)
        if self.final_learning_rate is not None:
            require_within(1e-30, 1e6, final_learning_rate=self.final_learning_rate)
        require_type(Optimizer, optimizer=self.optimizer)
        require_count(MOST, physical_batch_size=self.physical_batch_size)

    def learning_rate_of(self, round_number: int, rounds: int) -> float:
        """Learning rate of a round, counted from 1."""
        if self.final_learning_rate is None or rounds == 1:
            return self.learning_rate
        share = (round_number - 1) / (rounds - 1)
        return (1 - share) * self.learning_rate + share * self.final_learning_rate


class Precision(StrEnum):
    """Of matrix products. Parameters, per-example gradients, norms and noise stay float32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class BaseWeights(StrEnum):
    """How the frozen weights of the base model are held. What is trained stays float32.

    NF4 holds them in 4 bits, quantised twice (Dettmers et al. 2023, QLoRA, arXiv:2305.14314), and
    multiplies in bfloat16; it needs bitsandbytes.
    """

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    NF4 = "nf4"


class Checkpointing(StrEnum):
    """Whether activations are computed again in the backward pass, to save memory."""

    NONE = "none"
    REENTRANT = "reentrant"
    NON_REENTRANT = "non_reentrant"


class GradientMethod(StrEnum):
    """Where per-example gradients come from."""

    EXPANDED_LEAVES = "expanded_leaves"
    OPACUS_HOOKS = "opacus_hooks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """How the model is computed. Speed and memory; nothing here changes a guarantee.

    Attributes:
        precision: of matrix products (autocast).
        checkpointing: of activations.
        compile: whether torch.compile builds the forward and backward pass, as one graph; not with
            dropout or reentrant checkpointing.
        gradients: where per-example gradients come from.
        stacked_clients: clients whose adapters are trained in one pass over the shared base model;
            1 trains one after the other.
        cache_frozen_layers: whether blocks below the first trained one run once per record instead
            of once per step. It pays where every record is drawn more than once (sampling rate x
            steps > 1), since all of them are run at the start. What enters the block is kept in
            the memory of each client: records x max_length x width numbers.
    """

    precision: Precision = Precision.FP32
    checkpointing: Checkpointing = Checkpointing.NONE
    compile: bool = False
    gradients: GradientMethod = GradientMethod.EXPANDED_LEAVES
    stacked_clients: int = 1
    cache_frozen_layers: bool = False

    def __post_init__(self) -> None:
        """Check every field."""
        require_type(bool, compile=self.compile)
        require_count(MOST, stacked_clients=self.stacked_clients)
        kinds = {
            "precision": Precision,
            "checkpointing": Checkpointing,
            "gradients": GradientMethod,
        }
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise ConfigError(
                    f"{name} must be one of {[member.value for member in kind]}, "
                    f"got {getattr(self, name)!r}"
                )
        if self.cache_frozen_layers and self.checkpointing is Checkpointing.REENTRANT:
            raise ConfigError(
                "reentrant checkpointing needs all blocks to run; take 'non_reentrant' with "
                "cache_frozen_layers"
            )
        if self.compile and self.checkpointing is Checkpointing.REENTRANT:
            raise ConfigError("reentrant checkpointing cannot be compiled; take 'non_reentrant'")
        if self.gradients is GradientMethod.OPACUS_HOOKS and (
            self.compile or self.stacked_clients > 1
        ):
            raise ConfigError(
                "Opacus' hooks can neither be compiled nor tell stacked clients apart; take "
                "expanded leaves"
            )
