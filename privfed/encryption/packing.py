"""How integers of many clients fit into the slots of ciphertexts, and come out again.

Parameter number i of a ciphertext is digit i // slots of slot i % slots, in base R. Digits are
signed while they are packed; a slot is stored modulo t. See `parameters` for why no sum spills.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfed.encryption.parameters import BFVParameters
from privfed.encryption.primes import POLY_MODULUS_DEGREE
from privfed.errors import EncryptionError

_IMPLAUSIBLE = (
    "this sum was decrypted with another key or other parameters, or is not the sum of the listed "
    "contributions; discard the round"
)


def pack(values: NDArray[np.integer], parameters: BFVParameters) -> NDArray[np.uint64]:
    """Integers of one client into slots, `digits` of them per slot; padding and tags are zero.

    Args:
        values: integers in [-M, M], at least one; all of an update, or a part of it that begins
            with a ciphertext.
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
    ciphertexts = -(-array.size // parameters.params_per_ciphertext)
    padded = np.zeros(ciphertexts * parameters.params_per_ciphertext, dtype=np.int64)
    padded[: array.size] = array
    digits = padded.reshape(ciphertexts, parameters.digits, parameters.value_slots)
    packed = digits[:, -1].copy()
    for position in reversed(range(parameters.digits - 1)):
        packed *= parameters.radix
        packed += digits[:, position]
    packed += parameters.plain_modulus * (packed < 0)
    slots = np.zeros((ciphertexts, POLY_MODULUS_DEGREE), dtype=np.uint64)
    slots[:, : parameters.value_slots] = packed
    return slots


def unpack(slots: NDArray[np.uint64], parameters: BFVParameters) -> NDArray[np.int64]:
    """Slots of a decrypted sum back into integer sums.

    Args:
        slots: numbers below t, shape (ciphertexts, 4096); of all ciphertexts or of some of them.
        parameters: as used for packing.

    Returns:
        Integers in [-nM, nM], shape (ciphertexts * params per ciphertext,), padding included.

    Raises:
        EncryptionError: if the shape is wrong, or a slot holds what no sum of `pack`ed values can
            give. This alone does not find every wrong sum.
    """
    if slots.dtype != np.uint64 or slots.ndim != 2 or slots.shape[1] != POLY_MODULUS_DEGREE:
        raise EncryptionError(
            f"slots must be uint64 in shape (ciphertexts, {POLY_MODULUS_DEGREE}), got "
            f"{slots.dtype} {slots.shape}"
        )
    half = (parameters.radix**parameters.digits - 1) // 2
    modulus = parameters.plain_modulus
    packed = slots[:, : parameters.value_slots]
    if not np.all((packed <= half) | ((packed >= modulus - half) & (packed < modulus))):
        raise EncryptionError(f"every slot must hold a packed sum: {_IMPLAUSIBLE}")
    remaining = packed.astype(np.int64)
    remaining[packed > half] -= modulus
    remaining += half
    offset = (parameters.radix - 1) // 2
    sums = np.empty((len(slots), parameters.digits, parameters.value_slots), dtype=np.int64)
    for position in range(parameters.digits - 1):
        quotient = remaining // parameters.radix
        sums[:, position] = remaining - quotient * parameters.radix - offset
        remaining = quotient
    sums[:, -1] = remaining - offset
    return sums.reshape(-1)


def without_padding(sums: NDArray[np.int64], parameters: BFVParameters) -> NDArray[np.int64]:
    """The sums of an update's parameters, from those of all its ciphertexts.

    Raises:
        EncryptionError: if there are more or fewer ciphertexts, or the padding is not zero.
    """
    expected = parameters.num_ciphertexts * parameters.params_per_ciphertext
    if sums.shape != (expected,):
        raise EncryptionError(f"sums must have the shape ({expected},), got {sums.shape}")
    if np.any(sums[parameters.num_params :]):
        raise EncryptionError(f"the padding after the last parameter must be zero: {_IMPLAUSIBLE}")
    return sums[: parameters.num_params]


def batches(
    numbers: NDArray[Any], parameters: BFVParameters, at_once: int
) -> Iterator[NDArray[Any]]:
    """An update in parts of `at_once` ciphertexts; the last part may be shorter.

    Raises:
        EncryptionError: if the update has another length than the parameters say.
    """
    if numbers.shape != (parameters.num_params,):
        raise EncryptionError(
            f"an update must have the shape ({parameters.num_params},), got {numbers.shape}"
        )
    size = at_once * parameters.params_per_ciphertext
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
