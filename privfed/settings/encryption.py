"""Settings of how updates are summed: under BFV or CKKS, or in clear."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from privfed.checks import require_type, require_within
from privfed.errors import ConfigError

MIN_BITS: Final = 4
MAX_BITS: Final = 16
"""Of one client's fixed-point value, sign included."""


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
            require_within(1e-12, 1e12, public_range=self.public_range)
        require_type(bool, follow_released=self.follow_released)

    @property
    def custody(self) -> Custody | None:
        """Who holds the secret key; None where nothing is encrypted."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint(Summation):
    """Updates as bounded integers.

    Attributes:
        bits: bits of one client's value, sign included, in [4, 16]. The fewer, the fewer bytes, and
            the closer `public_range` must fit: rounding to a step adds noise.
    """

    bits: int = 12

    def __post_init__(self) -> None:
        """Check every field."""
        Summation.__post_init__(self)
        if type(self.bits) is not int or not MIN_BITS <= self.bits <= MAX_BITS:
            raise ConfigError(
                f"bits must be a whole number in [{MIN_BITS}, {MAX_BITS}], got {self.bits!r}"
            )


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
        require_type(str | None, key_holder=self.key_holder)
        if self.key_holder is not None and self.custody is not Custody.KEY_HOLDER:
            raise ConfigError("key_holder is an address for custody KEY_HOLDER only")


@dataclass(frozen=True, slots=True, kw_only=True)
class CKKS(Summation):
    """Sum floats under CKKS with a key that the clients share: approximate, and claiming less.

    For updates that need more than 16 bits. Decryptions must not be shown to anyone without the
    key; see `docs/encryption.md`.
    """

    @property
    def custody(self) -> Custody:
        """Every client: CKKS has no other custody."""
        return Custody.SHARED_KEY


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain(FixedPoint):
    """Sum in clear, with the same rounding. No encryption: for comparison only."""


def summation_to_json(summation: Summation) -> dict[str, Any]:
    """JSON values; not where a key holder listens, which each party knows for itself."""
    values = asdict(summation)
    values.pop("key_holder", None)
    return {"scheme": type(summation).__name__, **values}


def summation_from_json(values: Mapping[str, Any]) -> Summation:
    """The inverse of `summation_to_json`.

    Raises:
        ConfigError: for anything else.
    """
    kinds: dict[str, type[Summation]] = {kind.__name__: kind for kind in (BFV, CKKS, Plain)}
    given = dict(values)
    try:
        kind = kinds[given.pop("scheme")]
        if "custody" in given:
            given["custody"] = Custody(given["custody"])
        return kind(**given)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"how updates are summed must be BFV, CKKS or Plain: {error}") from error
