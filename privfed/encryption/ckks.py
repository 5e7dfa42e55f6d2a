"""Parameters of sums of floats under CKKS, used for additions only and under the shared key.

N = 4096 and the 60-bit prime q are those of BFV, so residues travel and are added as there. Values
in [-1, 1] share a complex slot by two: 4096 of them make a polynomial, whose coefficients are
rounded to integers after a multiplication by the scale 2^s. Values need no grid and no packing, but
sums are approximate: the noise of the ciphertexts stays in them, and what a holder of the key lets
out is flooded on top (`custody.ckks`). BFV gives exact sums at a third of the bytes.

No sum may reach q/2: it would wrap, every value of that ciphertext would be wrong, and nothing
would say so. A coefficient is a mean of slots, each turned by an angle, hence at most sqrt(2) 2^s
in one client's polynomial; SEAL computes it in double precision, with an error below 2^-40 of that;
rounding adds 1/2 and encryption at most 21. So for n clients

    n (sqrt(2) 2^s (1 + 2^-40) + 21.5) < (q - 1) / 2

is certain for values in [-1, 1], whatever they are. SEAL itself refuses to encode above s = 57.

References:
    Cheon et al. 2017 (eprint 2016/421): the scheme and its encoding.
    Li, Micciancio, Schultz & Sorrell 2022 (eprint 2022/816): why released sums are flooded.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privfed.checks import require_count, require_positive
from privfed.encryption import frames
from privfed.encryption.noise import COEFF_MODULUS, Exactness, fresh_noise
from privfed.encryption.parameters import COEFF_BITS, MAX_CLIENTS, SEED_BYTES, differing_fields
from privfed.encryption.primes import POLY_MODULUS_DEGREE
from privfed.encryption.residues import ciphertext_bytes
from privfed.errors import ConfigError, EncryptionError, MessageError
from privfed.settings.encryption import Custody

PARAMS_PER_CIPHERTEXT: Final = POLY_MODULUS_DEGREE
"""Reals in one ciphertext: two in each of N / 2 slots."""

FLOODING: Final = math.sqrt(12 * 2.0**20) * 2.0**15
"""Standard deviation of the flooding noise over that of the error it hides; see `custody.ckks`."""

_LARGEST_LOG2_SCALE: Final = COEFF_BITS - 3
_FRESH: Final = fresh_noise(Custody.SHARED_KEY, Exactness.CERTAIN)
_FRESH_VARIANCE: Final = 21 / 2 + 1 / 12
_LARGEST_ARITHMETIC: Final = 2.0**-40
_TYPICAL_ARITHMETIC: Final = 2.0**-51
_SCHEMA: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CKKSParameters:
    """Everything that sender, aggregator and receiver must agree on; public. Use `derive_ckks`.

    Attributes:
        num_clients: most clients whose ciphertexts may be summed (n).
        num_params: length of an update.
        log2_scale: the scale of the encoding is 2 to this power (s).
    """

    num_clients: int
    num_params: int
    log2_scale: int

    def __post_init__(self) -> None:
        """Check every field, and that no sum can wrap."""
        require_count(
            num_clients=self.num_clients, num_params=self.num_params, log2_scale=self.log2_scale
        )
        if self.num_clients > MAX_CLIENTS:
            raise ConfigError(f"num_clients must be in 1..{MAX_CLIENTS}, got {self.num_clients}")
        if not cannot_wrap(self.num_clients, self.log2_scale):
            raise ConfigError(
                f"sums of {self.num_clients} clients must stay below q / 2 at any scale, which "
                f"fails for 2**{self.log2_scale}; build parameters with `derive_ckks`"
            )

    @property
    def custody(self) -> Custody:
        """Every client holds the secret key; there is no other custody for CKKS."""
        return Custody.SHARED_KEY

    @property
    def scale(self) -> float:
        """What values are multiplied by before they are rounded."""
        return 2.0**self.log2_scale

    @property
    def params_per_ciphertext(self) -> int:
        """Parameters that one ciphertext carries."""
        return PARAMS_PER_CIPHERTEXT

    @property
    def num_ciphertexts(self) -> int:
        """Ciphertexts of an update; the last one is padded."""
        return -(-self.num_params // PARAMS_PER_CIPHERTEXT)

    @property
    def upload_bits(self) -> tuple[int, ...]:
        """Bits on the wire of a residue of c0. All: residues are not in coefficient form here."""
        return (COEFF_BITS,)

    @property
    def sum_bits(self) -> tuple[int, ...]:
        """Bits on the wire of a residue of the sum of c0."""
        return (COEFF_BITS,)

    def upload_bytes(self) -> int:
        """Bytes of the ciphertexts that one client sends, seeds included."""
        return self.num_ciphertexts * (ciphertext_bytes(self.upload_bits) + SEED_BYTES)

    def sum_bytes(self, num_contributors: int) -> int:
        """Bytes of the ciphertexts of a sum, with every contributor's seeds."""
        seeds = num_contributors * SEED_BYTES
        return self.num_ciphertexts * (ciphertext_bytes(self.sum_bits) + seeds)

    def error_bound(self, num_contributors: int) -> float:
        """Largest error of one decrypted value of a sum, before flooding.

        Every coefficient is off by at most 21.5 per client, and a value is a sum of N coefficients
        turned by angles. Double precision adds less than 2^-40 per client.
        """
        noise = POLY_MODULUS_DEGREE * float(_FRESH) / self.scale
        return num_contributors * (noise + _LARGEST_ARITHMETIC)

    def error_deviation(self, num_contributors: int) -> float:
        """Standard deviation of that error: an estimate, with noise and rounding independent.

        Fresh noise has variance 10.5 and rounding 1/12 per coefficient; the real part of a sum of N
        coefficients at random angles has N/2 times that. Double precision adds about 2^-51 per
        client (measured).
        """
        variance = POLY_MODULUS_DEGREE / 2 * num_contributors * _FRESH_VARIANCE
        return math.hypot(math.sqrt(variance) / self.scale, num_contributors * _TYPICAL_ARITHMETIC)

    def flooding_deviation(self, num_contributors: int) -> float:
        """Standard deviation of the noise that a released value of the sum carries."""
        return FLOODING * self.error_deviation(num_contributors)

    def to_json(self) -> dict[str, int | str]:
        """All fields as JSON values, with the scheme and its fixed numbers."""
        return {
            "scheme": "CKKS",
            "schema": _SCHEMA,
            "poly_modulus_degree": POLY_MODULUS_DEGREE,
            "coeff_modulus": COEFF_MODULUS,
            **asdict(self),
        }

    @classmethod
    def from_json(cls, values: object) -> "CKKSParameters":
        """Read what `to_json` wrote, accepting only what `derive_ckks` itself would give.

        Raises:
            MessageError: if a field is missing, unknown or of another type, or if the parameters
                are not the ones that `derive_ckks` finds for these clients and params.
        """
        if not isinstance(values, Mapping):
            raise MessageError(f"parameters must be a JSON object, got {type(values).__name__}")
        derived = _derived_from(values)
        wrong = differing_fields(values, derived.to_json())
        if wrong:
            raise MessageError(
                "parameters must equal the ones derived from their num_clients and num_params, "
                f"these fields differ: {', '.join(wrong)}; both sides must run the same version"
            )
        return derived

    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON; names the parameters in keys and messages."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).digest()


def derive_ckks(*, num_clients: int, num_params: int) -> CKKSParameters:
    """The parameters with the largest scale under which no sum can wrap.

    Args:
        num_clients: most clients whose ciphertexts may be summed; 1..1000.
        num_params: length of an update; at least 1.

    Raises:
        ConfigError: if a number is out of range.
    """
    require_count(num_clients=num_clients, num_params=num_params)
    fitting = [s for s in range(1, _LARGEST_LOG2_SCALE + 1) if cannot_wrap(num_clients, s)]
    log2_scale = max(fitting, default=1)
    return CKKSParameters(num_clients=num_clients, num_params=num_params, log2_scale=log2_scale)


def cannot_wrap(num_clients: int, log2_scale: int) -> bool:
    """Whether every coefficient of every sum stays below q / 2; exact, see above."""
    if log2_scale > _LARGEST_LOG2_SCALE:
        return False
    encoded = math.isqrt(2 << 2 * log2_scale) + 1
    largest = num_clients * (encoded * (1 + Fraction(1, 1 << 40)) + _FRESH)
    return largest < Fraction(COEFF_MODULUS - 1, 2)


def ckks_shape(parameters: CKKSParameters) -> frames.Shape:
    """Ciphertexts and sums of CKKS; SEAL keeps them as values, not coefficients."""
    primes = (COEFF_MODULUS,)
    name = frames.parms_id(frames.CKKS, primes, 0)
    return frames.Shape(parms_id=name, primes=primes, is_ntt=True, scale=parameters.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatEncoding:
    """Updates as floats in [-1, 1], units of a public range; meets `protocol.ciphers.Encoding`.

    That nothing wraps rests on the clipping. Nothing is rounded, so no randomness is drawn.

    Attributes:
        public_range: values are clipped to +-public_range, in the units of the update.
    """

    public_range: float

    def __post_init__(self) -> None:
        """Check the range."""
        require_positive(public_range=self.public_range)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Eight bytes for each value."""
        return np.dtype("<f8")

    def encode(
        self, vector: NDArray[np.floating], uniform: Callable[[int], NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        """Values in [-1, 1], shape (params,).

        Raises:
            EncryptionError: if `vector` is not flat, or holds NaN or infinity.
        """
        del uniform
        values = _flat_floats(vector)
        if not np.all(np.isfinite(values)):
            raise EncryptionError(
                f"an update must be finite, got {np.count_nonzero(~np.isfinite(values))} NaN or "
                "infinite values; a diverged update must not be sent"
            )
        clipped = np.clip(values, -self.public_range, self.public_range)
        return (clipped / self.public_range).astype(self.dtype)

    def decode(self, total: NDArray[Any]) -> NDArray[np.float64]:
        """A sum in the units of the update, shape (params,)."""
        decoded: NDArray[np.float64] = _flat_floats(total) * self.public_range
        return decoded


def _flat_floats(array: NDArray[Any]) -> NDArray[np.float64]:
    if array.dtype.kind != "f" or array.ndim != 1:
        raise EncryptionError(
            f"values must be floats in shape (params,), got {array.dtype} {array.shape}"
        )
    return array.astype(np.float64)


def _derived_from(values: Mapping[str, object]) -> CKKSParameters:
    num_clients, num_params = values.get("num_clients"), values.get("num_params")
    if type(num_clients) is not int or type(num_params) is not int:
        raise MessageError(
            f"num_clients and num_params must be whole numbers, got {num_clients!r} and "
            f"{num_params!r}; send what `to_json` returned"
        )
    try:
        return derive_ckks(num_clients=num_clients, num_params=num_params)
    except ConfigError as error:
        raise MessageError(f"received parameters must be derivable: {error}") from error
