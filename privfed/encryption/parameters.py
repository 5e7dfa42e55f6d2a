"""Parameters of the encrypted sum, derived from what is public; never chosen by hand.

The scheme is BFV with ring degree N = 4096 and a 60-bit ciphertext prime q, used for additions
only. Each of the N slots of a plaintext is a number modulo the batching prime t. A slot carries k
digits in mixed radix: with n clients and integers in [-M, M], the radix R = 2nM + 1 holds every
possible sum of one digit, so no sum can spill into its neighbour, whatever the clients' values are.
The last slots carry tags (see `tags`).

More digits per slot need fewer ciphertexts, fewer digits leave room to drop low bits of each: the
choice with the fewest bytes for this number of parameters wins, among those that `noise` allows.

Reference:
    Albrecht et al. 2018 (eprint 2019/939), table 1: for N = 4096 and a ternary secret, 128-bit
    security allows up to 109 bits of modulus; there are 60 here, 80 with the special prime.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from privfed.encryption import noise
from privfed.encryption.fixedpoint import max_magnitude
from privfed.encryption.noise import COEFF_MODULUS, SPECIAL_MODULUS, Exactness
from privfed.encryption.primes import POLY_MODULUS_DEGREE, batching_prime_above, is_batching_prime
from privfed.errors import ConfigError, EncryptionError, MessageError
from privfed.settings.encryption import Custody

COEFF_BITS: Final = 60
SEED_BYTES: Final = 64
MAX_CLIENTS: Final = 1000
MAX_PARAMS: Final = 1 << 36
_TAG_BITS: Final = 80
_SCHEMA: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BFVParameters:
    """Everything that sender, aggregator and receiver must agree on; public. Use `derive`.

    Attributes:
        custody: who holds the secret key.
        num_clients: most clients whose ciphertexts may be summed (n).
        bits: bits of one quantised parameter, sign included.
        num_params: length of an update.
        plain_modulus: the batching prime of a slot (t).
        radix: base of one digit, 2nM + 1 (R).
        digits: parameters in one slot (k).
        upload_dropped_bits: low bits of each c0 residue that a client does not send.
        sum_dropped_bits: the same for the sum; 0 for `key_holder`, which checks sums exactly.
    """

    custody: Custody
    num_clients: int
    bits: int
    num_params: int
    plain_modulus: int
    radix: int
    digits: int
    upload_dropped_bits: int
    sum_dropped_bits: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "custody" and (isinstance(value, bool) or not isinstance(value, int)):
                raise ConfigError(f"{name} must be a whole number, got {value!r}")
        if not isinstance(self.custody, Custody):
            raise ConfigError(f"custody must be a Custody, got {self.custody!r}")
        _check_num_params(self.num_params)
        expected = _radix(self.num_clients, self.bits)
        if self.radix != expected or self.digits < 1:
            raise ConfigError(
                f"radix must be {expected} with at least one digit, got {self.radix} with "
                f"{self.digits}; build parameters with `derive`"
            )
        self._check_moduli()

    def _check_moduli(self) -> None:
        prime = self.plain_modulus
        if not is_batching_prime(prime) or prime <= self.radix**self.digits:
            raise ConfigError(
                f"plain_modulus must be a prime that is 1 mod {2 * POLY_MODULUS_DEGREE} and above "
                f"radix**digits = {self.radix**self.digits}, got {prime}"
            )
        if not self._fits(Exactness.OVERWHELMING):
            raise ConfigError(
                f"the noise of {self.num_clients} clients must stay below q / (2t), which fails "
                f"for t = {prime} with {self.upload_dropped_bits} and {self.sum_dropped_bits} "
                "dropped bits; build parameters with `derive`"
            )

    def _fits(self, exactness: Exactness) -> bool:
        dropped = (self.upload_dropped_bits, self.sum_dropped_bits)
        if not 0 <= min(dropped) <= max(dropped) < COEFF_BITS:
            return False
        left = noise.slack(
            self.custody,
            exactness,
            num_clients=self.num_clients,
            plain_modulus=self.plain_modulus,
            upload_dropped_bits=self.upload_dropped_bits,
        )
        exact = self.custody is Custody.SHARED_KEY or self.sum_dropped_bits == 0
        return exact and noise.dropping_error(self.sum_dropped_bits) < left

    @property
    def exactness(self) -> Exactness:
        """Whether sums are exact for certain, or but for a chance of 2^-128 per run."""
        return Exactness.CERTAIN if self._fits(Exactness.CERTAIN) else Exactness.OVERWHELMING

    @property
    def max_magnitude(self) -> int:
        """Largest integer of one client and parameter (M)."""
        return max_magnitude(self.bits)

    @property
    def tag_slots(self) -> int:
        """Slots of a ciphertext that carry tags, so that t^slots is at least 2^80.

        One more with `key_holder`, whose vectors are public: see `tags`.
        """
        slots = math.ceil(_TAG_BITS / math.log2(self.plain_modulus))
        return slots + 1 if self.custody is Custody.KEY_HOLDER else slots

    @property
    def value_slots(self) -> int:
        """Slots of a ciphertext that carry parameters."""
        return POLY_MODULUS_DEGREE - self.tag_slots

    @property
    def params_per_ciphertext(self) -> int:
        """Parameters that one ciphertext carries."""
        return self.value_slots * self.digits

    @property
    def num_ciphertexts(self) -> int:
        """Ciphertexts of an update; the last one is padded."""
        return -(-self.num_params // self.params_per_ciphertext)

    @property
    def upload_bits(self) -> tuple[int, ...]:
        """Bits on the wire of a residue of each polynomial that a client sends."""
        return self._bits(self.upload_dropped_bits)

    @property
    def sum_bits(self) -> tuple[int, ...]:
        """Bits on the wire of a residue of each polynomial of the sum."""
        return self._bits(self.sum_dropped_bits)

    def _bits(self, dropped: int) -> tuple[int, ...]:
        c0 = COEFF_BITS - dropped
        return (c0,) if self.custody is Custody.SHARED_KEY else (c0, COEFF_BITS)

    @property
    def value_bits(self) -> int:
        """Bits of the largest sum of one parameter over all clients, shifted to be positive."""
        return (self.radix - 1).bit_length()

    def upload_bytes(self) -> int:
        """Bytes of the ciphertexts that one client sends, seeds included."""
        seed = SEED_BYTES if self.custody is Custody.SHARED_KEY else 0
        return self.num_ciphertexts * (_polynomial_bytes(self.upload_bits) + seed)

    def sum_bytes(self, num_contributors: int) -> int:
        """Bytes of the ciphertexts of a sum, with every contributor's seeds."""
        seeds = num_contributors * SEED_BYTES if self.custody is Custody.SHARED_KEY else 0
        return self.num_ciphertexts * (_polynomial_bytes(self.sum_bits) + seeds)

    def to_json(self) -> dict[str, int | str]:
        """All fields as JSON values, with the scheme and its fixed numbers."""
        return {
            "scheme": "BFV",
            "schema": _SCHEMA,
            "poly_modulus_degree": POLY_MODULUS_DEGREE,
            "coeff_modulus": COEFF_MODULUS,
            "special_modulus": SPECIAL_MODULUS if self.custody is Custody.KEY_HOLDER else 1,
            **asdict(self),
            "custody": self.custody.value,
        }

    @classmethod
    def from_json(cls, values: object) -> "BFVParameters":
        """Read what `to_json` wrote, accepting only what `derive` itself would give.

        Raises:
            MessageError: if a field is missing, unknown or of another type, or if the parameters
                are not the ones that `derive` finds for these clients, bits, params and custody.
        """
        if not isinstance(values, Mapping):
            raise MessageError(f"parameters must be a JSON object, got {type(values).__name__}")
        derived = _derived_from(values)
        wrong = differing_fields(values, derived.to_json())
        if wrong:
            raise MessageError(
                f"parameters must equal the ones derived from {_asked(values)}, these fields "
                f"differ: {', '.join(wrong)}; both sides must run the same version"
            )
        return derived

    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON; names the parameters in keys and messages."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).digest()


def derive(*, num_clients: int, bits: int, num_params: int, custody: Custody) -> BFVParameters:
    """The parameters with the fewest bytes whose sums of up to `num_clients` updates are exact.

    Args:
        num_clients: most clients whose ciphertexts may be summed; 1..1000.
        bits: bits of one quantised parameter, sign included; 4..16.
        num_params: length of an update; at least 1.
        custody: who holds the secret key.

    Raises:
        ConfigError: if a number is out of range, or not even one digit fits in a slot.
    """
    _check_num_params(num_params)
    candidates = [
        BFVParameters(
            custody=custody,
            num_clients=num_clients,
            bits=bits,
            num_params=num_params,
            plain_modulus=plain_modulus,
            radix=_radix(num_clients, bits),
            digits=digits,
            upload_dropped_bits=upload,
            sum_dropped_bits=total,
        )
        for digits, plain_modulus in _packings(num_clients, bits)
        for upload, total in _droppings(custody, num_clients, plain_modulus)
    ]
    if not candidates:
        raise ConfigError(
            f"one slot must hold at least one sum of {num_clients} clients with {bits} bits, "
            f"which the noise of {custody.value} ciphertexts does not allow; lower num_clients or "
            "bits"
        )
    return min(candidates, key=_cost)


def differing_fields(stated: Mapping[Any, object], derived: Mapping[str, object]) -> list[str]:
    """Names of fields that are missing, unknown, or of another type or value than derived."""
    return sorted(
        str(name)
        for name in derived.keys() | stated.keys()
        if name not in derived
        or name not in stated
        or type(stated[name]) not in (int, str)
        or stated[name] != derived[name]
    )


def _cost(parameters: BFVParameters) -> tuple[int, int]:
    up = parameters.upload_bytes()
    return (up + parameters.sum_bytes(parameters.num_clients), up)


def _packings(num_clients: int, bits: int) -> Iterator[tuple[int, int]]:
    """(digits, plain modulus), while a plain modulus fits under q."""
    radix = _radix(num_clients, bits)
    digits = 1
    while radix**digits < COEFF_MODULUS // 4:
        yield digits, batching_prime_above(radix**digits)
        digits += 1


def _droppings(custody: Custody, num_clients: int, plain_modulus: int) -> Iterator[tuple[int, int]]:
    """(upload, sum) low bits that need not be sent, as many as the noise allows."""
    for upload in range(COEFF_BITS - 1):
        left = noise.slack(
            custody,
            Exactness.OVERWHELMING,
            num_clients=num_clients,
            plain_modulus=plain_modulus,
            upload_dropped_bits=upload,
        )
        if left <= 0:
            return
        if custody is Custody.KEY_HOLDER:
            yield upload, 0
            continue
        most = max(d for d in range(COEFF_BITS) if noise.dropping_error(d) < left)
        yield upload, most


def _polynomial_bytes(bits: tuple[int, ...]) -> int:
    return sum(POLY_MODULUS_DEGREE * each // 8 for each in bits)


def _derived_from(values: Mapping[str, object]) -> BFVParameters:
    num_clients, bits = values.get("num_clients"), values.get("bits")
    num_params, custody = values.get("num_params"), values.get("custody")
    if type(num_clients) is not int or type(bits) is not int or type(num_params) is not int:
        raise MessageError(
            f"num_clients, bits and num_params must be whole numbers, got {_asked(values)}; send "
            "what `to_json` returned"
        )
    try:
        return derive(
            num_clients=num_clients,
            bits=bits,
            num_params=num_params,
            custody=Custody(str(custody)),
        )
    except (ConfigError, EncryptionError, ValueError) as error:
        raise MessageError(
            f"received parameters must be derivable from {_asked(values)}, but: {error}"
        ) from error


def _asked(values: Mapping[str, object]) -> str:
    names = ("num_clients", "bits", "num_params", "custody")
    return ", ".join(f"{name} = {values.get(name)!r}" for name in names)


def _radix(num_clients: int, bits: int) -> int:
    whole = isinstance(num_clients, int) and not isinstance(num_clients, bool)
    if not whole or not 1 <= num_clients <= MAX_CLIENTS:
        raise ConfigError(
            f"num_clients must be a whole number in 1..{MAX_CLIENTS}, got {num_clients!r}"
        )
    return 2 * num_clients * max_magnitude(bits) + 1


def _check_num_params(num_params: int) -> None:
    whole = isinstance(num_params, int) and not isinstance(num_params, bool)
    if not whole or not 1 <= num_params <= MAX_PARAMS:
        raise ConfigError(f"num_params must be a whole number in 1..2^36, got {num_params!r:.40}")
