"""Parameters of the encrypted sum, and how integers of many clients fit into its slots.

The scheme is BFV with ring degree N = 4096 and one 60-bit prime q, used for additions only. Each
of the N slots of a plaintext is a number modulo the batching prime t. A slot carries k digits in
mixed radix: with n clients and integers in [-M, M], the radix R = 2nM + 1 holds every possible sum
of one digit, so no sum can spill into its neighbour, whatever the clients' values are.

Decryption is *certain*, not just likely: SEAL's fresh symmetric noise is centred binomial and never
above 21, scaling the message into the ring adds at most 1/2, and dropping the low d bits of c0 adds
at most 2^(d-1) on each upload and once more on the download. Parameters exist only if

    n (21.5 + 2^(d-1)) + 2^(d-1) < q / (2t).

Without decryption failures there is nothing for a decryption-failure attack to use.

References:
    Brakerski 2012, Fan & Vercauteren 2012 (eprint 2012/144): the scheme.
    Bajard et al. 2016 (eprint 2016/510): the decryption that SEAL uses.
    Albrecht et al. 2018 (eprint 2019/939), table 1: for N = 4096 and a ternary secret, 128-bit
    security allows up to 109 bits of q; there are 60 here.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from privfed.encryption.fixedpoint import max_magnitude
from privfed.errors import ConfigError, EncryptionError, MessageError

POLY_MODULUS_DEGREE = 4096
DROPPED_BITS = 4
RESIDUE_BYTES = 7
SEED_BYTES = 64
MAX_CLIENTS = 1000
_BATCHING_STEP = 2 * POLY_MODULUS_DEGREE
_SCHEMA = 1


def is_prime(number: int) -> bool:
    """Whether a whole number below 3.1e23 is prime (Miller-Rabin with bases that decide it).

    Reference:
        Sorenson & Webster 2017, arXiv:1509.00864: up to there the first 12 primes suffice.
    """
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if number < 2 or any(number % base == 0 for base in bases):
        return number in bases
    twos = ((number - 1) & (1 - number)).bit_length() - 1
    return all(_is_probable_prime(number, base, twos) for base in bases)


def _is_probable_prime(number: int, base: int, twos: int) -> bool:
    power = pow(base, (number - 1) >> twos, number)
    if power in (1, number - 1):
        return True
    for _ in range(twos - 1):
        power = power * power % number
        if power == number - 1:
            return True
    return False


def _largest_coeff_modulus(num_bits: int) -> int:
    """The largest prime of `num_bits` bits that is 1 mod 2N, as SEAL's CoeffModulus.Create."""
    candidates = itertools.count((1 << num_bits) - _BATCHING_STEP + 1, -_BATCHING_STEP)
    return next(number for number in candidates if is_prime(number))


COEFF_MODULUS = _largest_coeff_modulus(60)


def batching_prime_above(number: int) -> int:
    """The smallest prime above `number` that is 1 mod 2N, so that slots exist."""
    first = number - number % _BATCHING_STEP + 1
    candidates = itertools.count(first, _BATCHING_STEP)
    return next(prime for prime in candidates if prime > number and is_prime(prime))


def is_certain(*, num_clients: int, plain_modulus: int) -> bool:
    """Whether a sum of `num_clients` ciphertexts always decrypts to the exact sum (see above).

    Computed in whole numbers, doubled to clear the halves. One more than the rule in the module's
    docstring is kept free (q - 1 for q): SEAL divides by q with an error of 1/gamma for a 61-bit
    gamma, which in these units is below 2.
    """
    doubled_noise = num_clients * (43 + (1 << DROPPED_BITS)) + (1 << DROPPED_BITS)
    return plain_modulus * doubled_noise < COEFF_MODULUS - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BFVParameters:
    """Everything that sender, aggregator and receiver must agree on; public. Use `derive`.

    Attributes:
        num_clients: most clients whose ciphertexts may be summed (n).
        bits: bits of one quantised parameter, sign included.
        plain_modulus: the batching prime of a slot (t).
        radix: base of one digit, 2nM + 1 (R).
        digits: parameters in one slot (k).
        poly_modulus_degree: ring degree and slots of a ciphertext (N); 4096.
        coeff_modulus: the ciphertext prime (q); the largest of 60 bits that is 1 mod 2N.
        dropped_bits: low bits of each residue that are not sent (d); 4.
    """

    num_clients: int
    bits: int
    plain_modulus: int
    radix: int
    digits: int
    poly_modulus_degree: int = POLY_MODULUS_DEGREE
    coeff_modulus: int = COEFF_MODULUS
    dropped_bits: int = DROPPED_BITS

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"{name} must be a whole number, got {value!r}")
        fixed = (self.poly_modulus_degree, self.coeff_modulus, self.dropped_bits)
        if fixed != (POLY_MODULUS_DEGREE, COEFF_MODULUS, DROPPED_BITS):
            raise ConfigError(
                "poly_modulus_degree, coeff_modulus and dropped_bits must be "
                f"{(POLY_MODULUS_DEGREE, COEFF_MODULUS, DROPPED_BITS)}, got {fixed}"
            )
        expected = _radix(self.num_clients, self.bits)
        if self.radix != expected or self.digits < 1:
            raise ConfigError(
                f"radix must be {expected} with at least one digit, got {self.radix} with "
                f"{self.digits}; build parameters with `derive`"
            )
        self._check_plain_modulus()

    def _check_plain_modulus(self) -> None:
        prime = self.plain_modulus
        if prime % _BATCHING_STEP != 1 or not is_prime(prime) or prime <= self.radix**self.digits:
            raise ConfigError(
                f"plain_modulus must be a prime that is 1 mod {_BATCHING_STEP} and above "
                f"radix**digits = {self.radix**self.digits}, got {prime}"
            )
        if not is_certain(num_clients=self.num_clients, plain_modulus=prime):
            raise ConfigError(
                f"the noise of {self.num_clients} clients must stay below q / (2t) for certain, "
                f"which fails for t = {prime}; lower num_clients, bits or digits"
            )

    @property
    def max_magnitude(self) -> int:
        """Largest integer of one client and parameter (M)."""
        return max_magnitude(self.bits)

    @property
    def params_per_ciphertext(self) -> int:
        """Parameters that one ciphertext carries (N k)."""
        return self.poly_modulus_degree * self.digits

    @property
    def bytes_per_ciphertext(self) -> int:
        """Bytes of one ciphertext's residues on the wire, its 64-byte seed not included."""
        return self.poly_modulus_degree * RESIDUE_BYTES

    def num_ciphertexts(self, num_params: int) -> int:
        """Ciphertexts for an update of `num_params` parameters; the last one is padded."""
        _check_num_params(num_params)
        return -(-num_params // self.params_per_ciphertext)

    def upload_bytes(self, num_params: int) -> int:
        """Bytes that one client sends: residues and one seed for every ciphertext."""
        return self.num_ciphertexts(num_params) * (self.bytes_per_ciphertext + SEED_BYTES)

    def download_bytes(self, num_params: int, num_contributors: int) -> int:
        """Bytes of a sum: residues and every contributor's seed for every ciphertext."""
        per_ciphertext = self.bytes_per_ciphertext + num_contributors * SEED_BYTES
        return self.num_ciphertexts(num_params) * per_ciphertext

    def to_json(self) -> dict[str, int | str]:
        """All fields as JSON values, with the scheme and the version of this record."""
        return {"scheme": "BFV", "schema": _SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, values: object) -> "BFVParameters":
        """Read what `to_json` wrote, accepting only what `derive` itself would give.

        Raises:
            MessageError: if a field is missing, unknown or of another type, or if the parameters
                are not the ones that `derive` finds for this number of clients and bits.
        """
        if not isinstance(values, Mapping):
            raise MessageError(f"parameters must be a JSON object, got {type(values).__name__}")
        num_clients, bits = values.get("num_clients"), values.get("bits")
        if type(num_clients) is not int or type(bits) is not int:
            raise MessageError(
                "num_clients and bits must be whole numbers, got "
                f"{num_clients!r} and {bits!r}; send what `to_json` returned"
            )
        try:
            derived = derive(num_clients=num_clients, bits=bits)
        except ConfigError as error:
            raise MessageError(f"received parameters must be derivable: {error}") from error
        expected = derived.to_json()
        wrong = sorted(
            name
            for name in expected.keys() | values.keys()
            if name not in expected
            or name not in values
            or type(values[name]) is not type(expected[name])
            or values[name] != expected[name]
        )
        if wrong:
            raise MessageError(
                f"parameters must equal the ones derived from num_clients = {num_clients} and "
                f"bits = {bits}, these fields differ: {', '.join(map(str, wrong))}; "
                "both sides must run the same version"
            )
        return derived

    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON; names the parameters in keys and messages."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).digest()


def derive(*, num_clients: int, bits: int) -> BFVParameters:
    """The densest parameters whose sums of up to `num_clients` updates are exact for certain.

    Args:
        num_clients: most clients whose ciphertexts may be summed; 1..1000.
        bits: bits of one quantised parameter, sign included; 8..16.

    Raises:
        ConfigError: if a number is out of range, or not even one digit fits in a slot.
    """
    radix = _radix(num_clients, bits)
    digits = 0
    plain_modulus = 0
    while True:
        larger = batching_prime_above(radix ** (digits + 1))
        if not is_certain(num_clients=num_clients, plain_modulus=larger):
            break
        digits, plain_modulus = digits + 1, larger
    if digits == 0:
        raise ConfigError(
            f"one slot must hold at least one sum of {num_clients} clients with {bits} bits, "
            "which the noise rule does not allow; lower num_clients or bits"
        )
    return BFVParameters(
        num_clients=num_clients,
        bits=bits,
        plain_modulus=plain_modulus,
        radix=radix,
        digits=digits,
    )


def pack(values: NDArray[np.integer], parameters: BFVParameters) -> NDArray[np.uint64]:
    """Integers of one client into slots, `digits` of them per slot; padding is zero.

    Args:
        values: integers in [-M, M], shape (params,), at least one.
        parameters: agreed with the receiver.

    Returns:
        Numbers below t, shape (ciphertexts, 4096).

    Raises:
        EncryptionError: if the values are not flat integers within [-M, M].
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.ndim != 1 or array.size == 0:
        raise EncryptionError(
            "values must hold integers in shape (params,), at least one, "
            f"got {array.dtype} {array.shape}; pack what `encode` returned"
        )
    largest = parameters.max_magnitude
    # Two comparisons and no abs: the absolute value of the smallest int64 is negative.
    if not (array.min() >= -largest and array.max() <= largest):
        raise EncryptionError(
            f"values must lie in [-{largest}, {largest}] for {parameters.bits} bits, got "
            f"[{array.min()}, {array.max()}]; a larger one would spill into its neighbours"
        )
    ciphertexts = parameters.num_ciphertexts(array.size)
    padded = np.zeros(ciphertexts * parameters.params_per_ciphertext, dtype=np.int64)
    padded[: array.size] = array
    digits = padded.reshape(ciphertexts, parameters.digits, parameters.poly_modulus_degree)
    slots = np.zeros((ciphertexts, parameters.poly_modulus_degree), dtype=np.int64)
    for position in reversed(range(parameters.digits)):
        slots = slots * parameters.radix + digits[:, position]
    slots[slots < 0] += parameters.plain_modulus
    return slots.astype(np.uint64)


def unpack(
    slots: NDArray[np.uint64], num_params: int, parameters: BFVParameters
) -> NDArray[np.int64]:
    """Slots of a decrypted sum back into one integer sum per parameter.

    Args:
        slots: numbers below t, shape (ciphertexts, 4096).
        num_params: parameters that were packed.
        parameters: as used for packing.

    Returns:
        Integers in [-nM, nM], shape (params,).

    Raises:
        EncryptionError: if the shape is wrong, or a slot or the padding holds what no sum of
            `pack`ed values can give. A wrong key usually, but not always, ends here.
    """
    expected = (parameters.num_ciphertexts(num_params), parameters.poly_modulus_degree)
    if slots.dtype != np.uint64 or slots.shape != expected:
        raise EncryptionError(
            f"slots of {num_params} parameters must be uint64 in shape {expected}, got "
            f"{slots.dtype} {slots.shape}"
        )
    half = (parameters.radix**parameters.digits - 1) // 2
    modulus = parameters.plain_modulus
    if not np.all((slots <= half) | ((slots >= modulus - half) & (slots < modulus))):
        raise EncryptionError(f"every slot must hold a packed sum: {_IMPLAUSIBLE}")
    centred = slots.astype(np.int64)
    centred[slots > half] -= modulus
    remaining = centred + half
    offset = (parameters.radix - 1) // 2
    sums = np.empty((expected[0], parameters.digits, expected[1]), dtype=np.int64)
    for position in range(parameters.digits):
        remaining, digit = np.divmod(remaining, parameters.radix)
        sums[:, position] = digit - offset
    flat = sums.reshape(-1)
    if np.any(flat[num_params:]):
        raise EncryptionError(f"the padding after the last parameter must be zero: {_IMPLAUSIBLE}")
    return flat[:num_params]


_IMPLAUSIBLE = (
    "this sum was decrypted with another key or other parameters, or is not the sum of the listed "
    "contributions; discard the round"
)


def _radix(num_clients: int, bits: int) -> int:
    whole = isinstance(num_clients, int) and not isinstance(num_clients, bool)
    if not whole or not 1 <= num_clients <= MAX_CLIENTS:
        raise ConfigError(
            f"num_clients must be a whole number in 1..{MAX_CLIENTS}, got {num_clients!r}"
        )
    return 2 * num_clients * max_magnitude(bits) + 1


def _check_num_params(num_params: int) -> None:
    if isinstance(num_params, bool) or not isinstance(num_params, int) or num_params < 1:
        raise EncryptionError(f"num_params must be a whole number above 0, got {num_params!r}")
