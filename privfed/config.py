"""Settings. Frozen, keyword-only, checked when built; privacy apart from speed.

A class named for speed or training cannot change a guarantee: everything that epsilon depends on
stands in `PrivacyConfig`, and epsilon, delta, the unit and the neighbouring relation have no
defaults.
"""

from dataclasses import dataclass
from enum import StrEnum

from accountants import Budget, Neighbouring
from privfed.errors import ConfigError


def require_positive(**values: float) -> None:
    """Refuse any value that is not a finite number above zero, naming it."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ConfigError(f"{name} must be a finite number above 0, got {value!r}")


def require_count(**values: int) -> None:
    """Refuse any value that is not a whole number of at least one, naming it."""
    for name, value in values.items():
        if type(value) is not int or value < 1:
            raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")


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
    """

    budget: Budget
    neighbouring: Neighbouring
    record: str
    expected_batch_size: int
    clipping_norm: float = 1.0
    steps_per_round: int = 1

    def __post_init__(self) -> None:
        """Check every field."""
        require_count(
            expected_batch_size=self.expected_batch_size, steps_per_round=self.steps_per_round
        )
        require_positive(clipping_norm=self.clipping_norm)
        if self.neighbouring is not Neighbouring.ADD_REMOVE:
            raise ConfigError(
                f"neighbouring must be ADD_REMOVE, got {self.neighbouring!r}: the public-size "
                "rules of this package are those of adding or removing one record"
            )
        if not self.record.strip():
            raise ConfigError("record must say what one record is, e.g. 'one news article'")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How the local optimiser moves. Nothing here changes epsilon.

    Attributes:
        learning_rate: of local SGD in the first round.
        final_learning_rate: in the last round; rounds between are interpolated linearly.
            None keeps the rate constant.
        momentum: of local SGD within one round; its state does not outlive the round.
        physical_batch_size: records that pass through the model at once (memory, not privacy).
    """

    learning_rate: float
    final_learning_rate: float | None = None
    momentum: float = 0.0
    physical_batch_size: int = 32

    def __post_init__(self) -> None:
        """Check every field."""
        require_positive(learning_rate=self.learning_rate)
        if self.final_learning_rate is not None:
            require_positive(final_learning_rate=self.final_learning_rate)
        require_count(physical_batch_size=self.physical_batch_size)
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must be in [0, 1), got {self.momentum!r}")

    def learning_rate_of(self, round_number: int, rounds: int) -> float:
        """Learning rate of a round, counted from 1."""
        if self.final_learning_rate is None or rounds == 1:
            return self.learning_rate
        share = (round_number - 1) / (rounds - 1)
        return (1 - share) * self.learning_rate + share * self.final_learning_rate


class Custody(StrEnum):
    """Who holds the secret key of an encrypted sum."""

    SHARED_KEY = "shared_key"
    KEY_HOLDER = "key_holder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summation:
    """How updates are summed; every kind clips to a public range.

    Attributes:
        public_range: values are clipped to +-public_range; None derives it from the public
            settings of the private step (never from an update).
        follow_released: whether later rounds narrow the range to what the mean of the round before,
            which is released anyway, suggests. How much is clipped is never released.
    """

    public_range: float | None = None
    follow_released: bool = False

    def __post_init__(self) -> None:
        """Check every field."""
        if self.public_range is not None:
            require_positive(public_range=self.public_range)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint(Summation):
    """Updates as bounded integers.

    Attributes:
        bits: bits of one client's value, sign included, in [8, 16].
    """

    bits: int = 12

    def __post_init__(self) -> None:
        """Check every field."""
        Summation.__post_init__(self)
        if type(self.bits) is not int or not 8 <= self.bits <= 16:
            raise ConfigError(f"bits must be a whole number in [8, 16], got {self.bits!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BFV(FixedPoint):
    """Sum under BFV homomorphic encryption: exact, and the aggregator holds no key.

    Attributes:
        custody: who holds the secret key. SHARED_KEY: every client. KEY_HOLDER: a party and a
            process of its own, which verifies each sum before it decrypts it.
        key_holder: "host:port" of a running `privfed key-holder`; None starts one on this machine.
    """

    custody: Custody = Custody.SHARED_KEY
    key_holder: str | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        FixedPoint.__post_init__(self)
        if not isinstance(self.custody, Custody):
            raise ConfigError(
                f"custody must be one of {[kind.value for kind in Custody]}, got {self.custody!r}"
            )
        if self.key_holder is not None and self.custody is not Custody.KEY_HOLDER:
            raise ConfigError("key_holder is an address for custody KEY_HOLDER only")


@dataclass(frozen=True, slots=True, kw_only=True)
class CKKS(Summation):
    """Sum floats under CKKS with a key that the clients share: approximate, and claiming less.

    For updates that need more than 16 bits. Decryptions must not be shown to anyone without the
    key; see `docs/encryption.md`.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain(FixedPoint):
    """Sum in clear, with the same rounding. No encryption: for comparison only."""
