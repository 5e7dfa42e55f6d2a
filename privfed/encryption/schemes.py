"""What every side of a sum works out for itself from the agreed settings; no key and no TenSEAL."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from privfed.encryption.adding import CiphertextAdder
from privfed.encryption.ckks import CKKSParameters, FloatEncoding, derive_ckks
from privfed.encryption.fixedpoint import FixedPointEncoding, max_magnitude
from privfed.encryption.noise import Exactness
from privfed.encryption.parameters import BFVParameters, derive
from privfed.encryption.plain import PlainAdder
from privfed.errors import ConfigError
from privfed.protocol.ciphers import Adder, Encoding
from privfed.settings.encryption import BFV, CKKS, FixedPoint, Plain, Summation


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How updates are summed.

    Attributes:
        summation: the settings.
        num_clients: most contributors of a sum.
        num_params: numbers that a client sends.

    Raises:
        ConfigError: if no parameters fit these clients and bits, or the settings are of no kind.
    """

    summation: Summation
    num_clients: int
    num_params: int

    def __post_init__(self) -> None:
        """Derive the parameters."""
        if not isinstance(self.summation, BFV | CKKS | Plain):
            raise ConfigError(
                f"encryption must be BFV(), CKKS() or Plain(), got {self.summation!r}"
            )
        _ = self.parameters

    @cached_property
    def parameters(self) -> BFVParameters | CKKSParameters | None:
        """Of the encryption; None without one."""
        if isinstance(self.summation, BFV):
            return derive(
                num_clients=self.num_clients,
                bits=self.summation.bits,
                num_params=self.num_params,
                custody=self.summation.custody,
            )
        if isinstance(self.summation, CKKS):
            return derive_ckks(num_clients=self.num_clients, num_params=self.num_params)
        return None

    def to_json(self) -> dict[str, Any]:
        """The parameters as JSON values."""
        if self.parameters is not None:
            return self.parameters.to_json()
        return {"scheme": "plain", "bits": self._bits}

    @property
    def custody(self) -> str:
        """Who holds the secret key: "none", "shared_key" or "key_holder"."""
        return "none" if self.parameters is None else self.parameters.custody.value

    @property
    def exactness(self) -> Exactness | None:
        """How sure it is that sums are exact; None where they are approximate."""
        if isinstance(self.parameters, CKKSParameters):
            return None
        return Exactness.CERTAIN if self.parameters is None else self.parameters.exactness

    def encoding(self, public_range: float) -> Encoding:
        """From real updates to the numbers that are summed."""
        if isinstance(self.summation, FixedPoint):
            return FixedPointEncoding(public_range=public_range, bits=self.summation.bits)
        return FloatEncoding(public_range=public_range)

    def new_adder(self) -> Adder:
        """The aggregator's side, for one round."""
        if self.parameters is not None:
            return CiphertextAdder(self.parameters)
        return PlainAdder(self.num_params, max_magnitude(self._bits))

    @property
    def _bits(self) -> int:
        if not isinstance(self.summation, FixedPoint):
            raise ConfigError(f"{type(self.summation).__name__} has no fixed-point bits")
        return self.summation.bits
