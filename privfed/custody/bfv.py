"""Encrypting one client's slots and decrypting the sum of many, with the shared key.

A ciphertext is seeded: c0, and a fresh 64-byte seed from which SEAL expands c1 = a. The aggregator
adds the c0 of n clients modulo q (`encryption.residues.add`) and passes on the sum with the n
seeds. The receiver lets SEAL expand every seed and adds, so that c1 is the sum of the listed a: a
c0 that belongs to other seeds decrypts to noise, and a c1 chosen to draw out the key has no seed.
This module does not know whose seeds they are. The layers above must check that every seed is
signed by its client for this round, and that there are enough clients; an aggregator can still
add a shift that it knows.

A seed that comes twice is refused: two ciphertexts under one seed reveal the difference of their
plaintexts.

Reference:
    Microsoft SEAL, native/src/seal/util/rlwe.cpp, encrypt_zero_symmetric with `save_seed`.
"""

from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privfed.custody.keys import SharedKey
from privfed.custody.native import ScratchFile, seal_version, sealapi, uncompressed
from privfed.encryption import frames, residues
from privfed.encryption.packing import SEED_BYTES, BFVParameters
from privfed.errors import EncryptionError, MessageError


def encrypt(
    key: SharedKey, slots: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Encrypt one client's slots, with fresh randomness for every ciphertext.

    Args:
        key: the shared key.
        slots: numbers below t, shape (ciphertexts, 4096), from `packing.pack`.

    Returns:
        c0: residues below q, shape (ciphertexts, 4096); send `residues.to_bytes` of them.
        seeds: shape (ciphertexts, 64); public, but needed to decrypt.

    Raises:
        EncryptionError: if the slots are malformed, the key was destroyed, or a seed repeats.
    """
    parameters = key.parameters
    _check_slots(slots, parameters)
    context, secret = key.native()
    seal = sealapi()
    encoder, encryptor = seal.BatchEncoder(context), seal.Encryptor(context, secret)
    plaintext, version = seal.Plaintext(), seal_version()
    num_bytes = frames.seeded_frame_bytes(parameters)
    c0 = np.empty_like(slots)
    seeds = np.empty((len(slots), SEED_BYTES), dtype=np.uint8)
    with ScratchFile() as scratch:
        for index, row in enumerate(slots):
            encoder.encode(row.tolist(), plaintext)
            # Without a destination SEAL returns a ciphertext that saves its seed in place of c1.
            encryptor.encrypt_symmetric(plaintext).save(scratch.path)
            frame = uncompressed(scratch.read(), num_bytes)
            c0[index], seed = frames.parse_seeded(frame, parameters, version=version)
            seeds[index] = np.frombuffer(seed, dtype=np.uint8)
    _refuse_repeated(seeds, frozenset())
    return c0, seeds


def decrypt_sum(
    key: SharedKey,
    c0_sum: NDArray[np.uint64],
    seeds: NDArray[np.uint8],
    *,
    earlier_seeds: AbstractSet[bytes] = frozenset(),
) -> NDArray[np.uint64]:
    """Decrypt the sum of several clients' ciphertexts, exactly.

    The result is exact if `c0_sum` is the sum of the c0 that belong to `seeds`. If it is not, or
    the key is another one, BFV gives uniform-looking numbers and no error: ciphertexts are not
    authenticated. `packing.unpack` refuses most such results, not all.

    Args:
        key: the shared key.
        c0_sum: sum modulo q of the contributors' c0, shape (ciphertexts, 4096).
        seeds: every contributor's seeds, shape (clients, ciphertexts, 64).
        earlier_seeds: seeds of earlier rounds under this key (`residues.seed_set`), refused here.

    Returns:
        Slots below t, shape (ciphertexts, 4096); for `packing.unpack`.

    Raises:
        MessageError: if residues or seeds have a wrong shape, type or range.
        EncryptionError: if a seed repeats, there are more contributors than the parameters allow,
            or the key was destroyed.
    """
    parameters = key.parameters
    residues.check(c0_sum)
    _check_seeds(seeds, len(c0_sum), parameters)
    _refuse_repeated(seeds, earlier_seeds)
    context, secret = key.native()
    seal = sealapi()
    encoder, decryptor = seal.BatchEncoder(context), seal.Decryptor(context, secret)
    plaintext = seal.Plaintext()
    slots = np.empty_like(c0_sum)
    with ScratchFile() as scratch:
        for index, row in enumerate(c0_sum):
            ciphertext = _expanded_sum(context, parameters, row, seeds[:, index], scratch)
            decryptor.decrypt(ciphertext, plaintext)
            slots[index] = encoder.decode_uint64(plaintext)
    return slots


def _expanded_sum(
    context: Any,
    parameters: BFVParameters,
    c0_sum: NDArray[np.uint64],
    seeds: NDArray[np.uint8],
    scratch: ScratchFile,
) -> Any:
    """SEAL's ciphertext (c0_sum, sum of the c1 that the seeds expand to).

    One seeded frame per contributor: the first carries the whole c0, the others zero.
    """
    seal, version = sealapi(), seal_version()
    evaluator = seal.Evaluator(context)
    total: Any = None
    for seed in seeds:
        c0 = c0_sum if total is None else np.zeros_like(c0_sum)
        scratch.write(frames.build_seeded(parameters, c0, seed.tobytes(), version=version))
        ciphertext = seal.Ciphertext()
        ciphertext.load(context, scratch.path)
        if total is None:
            total = ciphertext
        else:
            evaluator.add_inplace(total, ciphertext)
    return total


def _check_slots(slots: NDArray[np.uint64], parameters: BFVParameters) -> None:
    shaped = slots.ndim == 2 and slots.shape[1:] == (parameters.poly_modulus_degree,)
    if slots.dtype != np.uint64 or not shaped or slots.shape[0] == 0:
        raise EncryptionError(
            f"slots must be uint64 in shape (ciphertexts, {parameters.poly_modulus_degree}), got "
            f"{slots.dtype} {slots.shape}; encrypt what `pack` returned"
        )
    if slots.max() >= parameters.plain_modulus:
        raise EncryptionError(
            f"slots must be below the plain modulus {parameters.plain_modulus}, got {slots.max()}; "
            "pack with the parameters of the key"
        )


def _check_seeds(seeds: NDArray[np.uint8], num_ciphertexts: int, parameters: BFVParameters) -> None:
    shaped = seeds.ndim == 3 and seeds.shape[1:] == (num_ciphertexts, SEED_BYTES)
    if seeds.dtype != np.uint8 or not shaped or seeds.shape[0] == 0:
        raise MessageError(
            f"seeds must be uint8 in shape (clients, {num_ciphertexts}, {SEED_BYTES}), at least "
            f"one client, got {seeds.dtype} {seeds.shape}"
        )
    if len(seeds) > parameters.num_clients:
        raise EncryptionError(
            f"at most {parameters.num_clients} contributions may be summed under these parameters, "
            f"got {len(seeds)}; derive parameters for more clients"
        )


def _refuse_repeated(seeds: NDArray[np.uint8], earlier: AbstractSet[bytes]) -> None:
    distinct = residues.seed_set(seeds)
    count = seeds.size // SEED_BYTES
    if len(distinct) != count or not earlier.isdisjoint(distinct):
        raise EncryptionError(
            f"every ciphertext must have a seed of its own, got {len(distinct)} distinct among "
            f"{count} and {sum(seed in earlier for seed in distinct)} from earlier rounds; "
            "refuse this sum, and find out who sends a contribution twice"
        )
