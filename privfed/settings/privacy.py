"""What epsilon depends on, and nothing else: budget, unit, neighbours, clipping, batches.

Frozen, keyword-only, checked when built. Epsilon, delta, the unit and the neighbouring relation
have no defaults.
"""

from dataclasses import dataclass, field

from accountants import Budget as Budget
from accountants import Neighbouring as Neighbouring
from privfed.checks import (
    MOST,
    is_number,
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
        steps_per_round: DP-SGD steps between two encrypted sums, of every client that does not
            bring its own.
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
class OwnPrivacy:
    """What a client has instead of what the table [privacy] says.

    Attributes:
        budget: its own; None takes the federation's.
        steps_per_round: its own; None takes the federation's.
    """

    budget: Budget | None = None
    steps_per_round: int | None = None
