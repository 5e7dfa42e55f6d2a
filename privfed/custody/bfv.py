"""Encrypting slots and decrypting sums with SEAL, one ciphertext at a time.

With a shared secret a ciphertext is seeded: c0, and a fresh 64-byte seed from which SEAL expands
c1 = a. The receiver of a sum lets SEAL expand every contributor's seed and adds, so that c1 is the
sum of the listed a: a c0 that belongs to other seeds decrypts to noise, and a c1 chosen to draw out
the key has no seed. With a round's public key a ciphertext is c0 and c1, and its sum is checked by
`encryption.challenges` before it is decrypted.

This module knows nothing of parties and rounds; the layers above check signatures and tags, and
refuse repeated seeds across contributors and rounds.

Reference:
    Microsoft SEAL, native/src/seal/util/rlwe.cpp: encrypt_zero_symmetric with `save_seed`, and
    encrypt_zero_asymmetric.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfed.custody.keys import PublicKey, RoundKey, SecretKey, SharedSecret, holder_context
from privfed.custody.native import ScratchFile, seal_version, sealapi, uncompressed
from privfed.encryption import frames, residues
from privfed.encryption.parameters import SEED_BYTES, BFVParameters
from privfed.encryption.primes import POLY_MODULUS_DEGREE
from privfed.errors import EncryptionError, MessageError


def encrypt_seeded(
    key: SharedSecret, slots: NDArray[np.uint64], parameters: BFVParameters
) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Encrypt slots under the shared secret, with fresh randomness for every ciphertext.

    Args:
        key: the shared secret.
        slots: numbers below t, shape (ciphertexts, 4096).
        parameters: of the key.

    Returns:
        c0: residues below q, shape (ciphertexts, 4096).
        seeds: shape (ciphertexts, 64); public, but needed to decrypt.

    Raises:
        EncryptionError: if the slots are malformed or the key was destroyed.
    """
    _check_slots(slots, parameters)
    context, secret = key.native()
    seal = sealapi()
    encoder, encryptor = seal.BatchEncoder(context), seal.Encryptor(context, secret)
    shape, version = frames.ciphertext_shape(parameters), seal_version()
    plaintext = seal.Plaintext()
    c0 = np.empty_like(slots)
    seeds = np.empty((len(slots), SEED_BYTES), dtype=np.uint8)
    with ScratchFile() as scratch:
        for index, row in enumerate(slots):
            encoder.encode(row.tolist(), plaintext)
            # Without a destination SEAL returns a ciphertext that saves its seed in place of c1.
            encryptor.encrypt_symmetric(plaintext).save(scratch.path)
            frame = uncompressed(scratch.read(), shape.seeded_bytes)
            c0[index], seed = frames.parse_seeded(frame, shape, version=version)
            seeds[index] = np.frombuffer(seed, dtype=np.uint8)
    return c0, seeds


def encrypt_public(
    key: PublicKey, slots: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Encrypt slots under a round's public key, with fresh randomness for every ciphertext.

    Args:
        key: of this round.
        slots: numbers below t, shape (ciphertexts, 4096).

    Returns:
        c0 and c1: residues below q, shape (ciphertexts, 4096) each.

    Raises:
        EncryptionError: if the slots are malformed.
    """
    _check_slots(slots, key.parameters)
    context, seal = holder_context(key.parameters), sealapi()
    encoder, encryptor = seal.BatchEncoder(context), seal.Encryptor(context, key.native)
    shape, version = frames.ciphertext_shape(key.parameters), seal_version()
    plaintext, ciphertext = seal.Plaintext(), seal.Ciphertext()
    c0, c1 = np.empty_like(slots), np.empty_like(slots)
    with ScratchFile() as scratch:
        for index, row in enumerate(slots):
            encoder.encode(row.tolist(), plaintext)
            encryptor.encrypt(plaintext, ciphertext)
            ciphertext.save(scratch.path)
            frame = uncompressed(scratch.read(), shape.full_bytes)
            c0[index], c1[index] = frames.parse_full(frame, shape, version=version)
    return c0, c1


def decrypt_seeded(
    key: SharedSecret,
    c0_sum: NDArray[np.uint64],
    seeds: NDArray[np.uint8],
    parameters: BFVParameters,
) -> NDArray[np.uint64]:
    """Decrypt a sum of seeded ciphertexts, exactly.

    If `c0_sum` is not the sum of the c0 that belong to `seeds`, BFV gives uniform-looking numbers
    and no error: ciphertexts are not authenticated.

    Args:
        key: the shared secret.
        c0_sum: sum modulo q of the contributors' c0, shape (ciphertexts, 4096).
        seeds: every contributor's seeds, shape (clients, ciphertexts, 64).
        parameters: of the key.

    Returns:
        Slots below t, shape (ciphertexts, 4096).

    Raises:
        MessageError: if residues or seeds have a wrong shape, type or range.
        EncryptionError: if a seed repeats, there are more contributors than the parameters allow,
            or the key was destroyed.
    """
    residues.check(c0_sum)
    check_seeds(seeds, len(c0_sum), parameters.num_clients)
    context, _ = key.native()
    shape = frames.ciphertext_shape(parameters)
    decode = _Decoder(key)
    slots = np.empty_like(c0_sum)
    with ScratchFile() as scratch:
        for index, row in enumerate(c0_sum):
            slots[index] = decode(expanded_sum(context, shape, row, seeds[:, index], scratch))
    return slots


def decrypt_full(
    key: RoundKey, c0: NDArray[np.uint64], c1: NDArray[np.uint64], parameters: BFVParameters
) -> NDArray[np.uint64]:
    """Decrypt a verified sum of public-key ciphertexts.

    Args:
        key: of the round.
        c0: sum modulo q, shape (ciphertexts, 4096).
        c1: the same shape.
        parameters: of the key.

    Returns:
        Slots below t, shape (ciphertexts, 4096).

    Raises:
        MessageError: if residues have a wrong shape, type or range.
        EncryptionError: if the key was destroyed.
    """
    residues.check(c0)
    residues.check(c1)
    context, _ = key.native()
    shape, version = frames.ciphertext_shape(parameters), seal_version()
    decode, ciphertext = _Decoder(key), sealapi().Ciphertext()
    slots = np.empty_like(c0)
    with ScratchFile() as scratch:
        for index in range(len(c0)):
            frame = frames.build_full(shape, c0[index], c1[index], version=version)
            scratch.write(frame)
            ciphertext.load(context, scratch.path)
            slots[index] = decode(ciphertext)
    return slots


def expanded_sum(
    context: Any,
    shape: frames.Shape,
    c0_sum: NDArray[np.uint64],
    seeds: NDArray[np.uint8],
    scratch: ScratchFile,
) -> Any:
    """SEAL's ciphertext (c0_sum, sum of the c1 that the seeds expand to).

    One seeded frame per contributor: the first carries the whole c0, the others zero.
    """
    seal, version = sealapi(), seal_version()
    evaluator = seal.Evaluator(context)
    nothing = np.zeros_like(c0_sum)
    total: Any = None
    for seed in seeds:
        c0 = c0_sum if total is None else nothing
        scratch.write(frames.build_seeded(shape, c0, seed.tobytes(), version=version))
        ciphertext = seal.Ciphertext()
        ciphertext.load(context, scratch.path)
        if total is None:
            total = ciphertext
        else:
            evaluator.add_inplace(total, ciphertext)
    return total


def check_seeds(seeds: NDArray[np.uint8], num_ciphertexts: int, most: int) -> None:
    """Refuse seeds that are malformed, too many, or repeat.

    Raises:
        MessageError: for a wrong shape or type.
        EncryptionError: for more than `most` contributors, or a seed that comes twice.
    """
    shaped = seeds.ndim == 3 and seeds.shape[1:] == (num_ciphertexts, SEED_BYTES)
    if seeds.dtype != np.uint8 or not shaped or seeds.shape[0] == 0:
        raise MessageError(
            f"seeds must be uint8 in shape (clients, {num_ciphertexts}, {SEED_BYTES}), at least "
            f"one client, got {seeds.dtype} {seeds.shape}"
        )
    if len(seeds) > most:
        raise EncryptionError(
            f"at most {most} contributions may be summed under these parameters, got "
            f"{len(seeds)}; derive parameters for more clients"
        )
    distinct, count = len(residues.seed_set(seeds)), seeds.size // SEED_BYTES
    if distinct != count:
        raise EncryptionError(
            f"every ciphertext must have a seed of its own, got {distinct} distinct among {count}; "
            "refuse this sum, and find out who sends a contribution twice"
        )


class _Decoder:
    """From SEAL's ciphertexts to slots."""

    def __init__(self, key: SecretKey) -> None:
        context, secret = key.native()
        seal = sealapi()
        self._decryptor = seal.Decryptor(context, secret)
        self._encoder = seal.BatchEncoder(context)
        self._plaintext = seal.Plaintext()

    def __call__(self, ciphertext: Any) -> list[int]:
        self._decryptor.decrypt(ciphertext, self._plaintext)
        slots: list[int] = self._encoder.decode_uint64(self._plaintext)
        return slots


def _check_slots(slots: NDArray[np.uint64], parameters: BFVParameters) -> None:
    shaped = slots.ndim == 2 and slots.shape[1:] == (POLY_MODULUS_DEGREE,)
    if slots.dtype != np.uint64 or not shaped or slots.shape[0] == 0:
        raise EncryptionError(
            f"slots must be uint64 in shape (ciphertexts, {POLY_MODULUS_DEGREE}), got "
            f"{slots.dtype} {slots.shape}; encrypt what `pack` returned"
        )
    if slots.max() >= parameters.plain_modulus:
        raise EncryptionError(
            f"slots must be below the plain modulus {parameters.plain_modulus}, got {slots.max()}; "
            "pack with the parameters of the key"
        )
