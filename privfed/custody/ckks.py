"""Sums of floats under CKKS and the shared key: approximate, and flooded before they are released.

Messages, signatures and seeds are those of `seeded_sums`, as with BFV. Two things are weaker:

- **No tags.** They are exact identities between slots, and a CKKS sum is not exact. A c0 that
  belongs to other seeds decrypts to noise and is refused as implausible, but an aggregator can add
  a shift that it knows to the sum, as long as the result looks like one.
- **Decrypted sums carry the noise of their ciphertexts**, and who knows c0 and the seeds can solve
  for the secret key when it sees that noise in full (Li & Micciancio 2021, eprint 2020/1533). So
  every number that leaves `CKKSCipher.open` carries Gaussian noise of standard deviation
  sigma = sqrt(12 tau) 2^15 times that of the error, tau = 2^20 (Li, Micciancio, Schultz & Sorrell
  2022, eprint 2022/816); whether a sum is refused depends on the flooded numbers only. One released
  number counts as one query: with the error at its estimated size, K of them stay within
  sqrt(K) 2^-27.8 of ones that tell nothing of it, in statistical distance: 4e-5 for 100 sums of a
  million. This is no security claim in the sense of IND-CPA-D: the error is estimated, its double
  precision part only measured, and no bound is kept on K. Decrypted sums must not be shown to a
  party without the key. That numbers are rounded when they are stored protects nothing.

The flooding noise is a function of the tag key, which only holders of the key know, and of run,
round, key and the whole sum. So every client releases the same numbers (to the last bits, which
depend on processor and libraries), nobody else can subtract the noise, and two different sums of a
round, such as before and after a crash, never share it.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privfed.canonical import canonical_json
from privfed.custody.bfv import expanded_sum
from privfed.custody.keys import SharedSecret
from privfed.custody.native import ScratchFile, ckks_context, seal_version, sealapi, uncompressed
from privfed.custody.opened_rounds import OpenedRounds
from privfed.custody.seeded_sums import SeededSum, SeededSums
from privfed.encryption import frames, residues
from privfed.encryption.ckks import PARAMS_PER_CIPHERTEXT, CKKSParameters, ckks_shape
from privfed.encryption.noise import COEFF_MODULUS
from privfed.encryption.parameters import SEED_BYTES
from privfed.errors import EncryptionError, SpoiledSumError
from privfed.identity.keys import Identity
from privfed.identity.roster import Roster
from privfed.protocol.ciphers import OpenedSum
from privfed.protocol.envelopes import Blob
from privfed.protocol.kinds import CIPHERTEXTS, SEEDS
from privfed.protocol.terms import Terms

_AT_ONCE: Final = 8
_LABEL: Final = b"privfed flooding 1\n"
_LARGEST_NORMAL: Final = 8.6
"""Above sqrt(2 * 53 ln 2): the largest magnitude that `standard_normals` gives."""


class CKKSCipher:
    """CKKS under a key that the clients share. Read the head of this file before using it.

    Args:
        parameters: agreed by all.
        secret: of the run, made for `ckks_context` and `ckks_shape`; every client holds a copy.
        roster: who is enrolled.
        min_clients: fewest contributors of a sum that is opened.
        opened: what this client never forgets of the run; None remembers nothing of earlier
            processes.
        identity: this client's; with it, sums are opened only if all contributors agreed to the
            list of contributions.
    """

    def __init__(
        self,
        parameters: CKKSParameters,
        secret: SharedSecret,
        roster: Roster,
        min_clients: int,
        opened: OpenedRounds | None = None,
        identity: Identity | None = None,
    ) -> None:
        self._parameters = parameters
        self._secret = secret
        self._shape = ckks_shape(parameters)
        self._sums = SeededSums(parameters, roster, min_clients, opened, identity)

    def encrypt(self, terms: Terms, numbers: NDArray[Any]) -> Iterator[tuple[str, Iterable[Blob]]]:
        """The blobs of an update: ciphertexts, then their seeds.

        Raises:
            EncryptionError: before anything is sent, if the round is closed or was left behind, or
                `numbers` are not floats in [-1, 1] in shape (params,).
        """
        self._sums.require_not_over(terms)
        _check_numbers(numbers, self._parameters.num_params)
        seeds: list[bytes] = []
        yield CIPHERTEXTS, self._ciphertexts(numbers, seeds)
        yield SEEDS, seeds

    def _ciphertexts(self, numbers: NDArray[Any], seeds: list[bytes]) -> Iterator[bytes]:
        size = _AT_ONCE * PARAMS_PER_CIPHERTEXT
        for start in range(0, len(numbers), size):
            c0, fresh = encrypt_seeded(
                self._secret, _padded(numbers[start : start + size]), self._shape
            )
            seeds.append(residues.seeds_to_bytes(fresh))
            yield residues.to_rows([c0], self._parameters.upload_bits).tobytes()

    def answer(self, terms: Terms, challenge: Blob, sent: Blob) -> bytes:
        """Agree to the aggregator's list of contributions; see `SeededSums.agree`."""
        return self._sums.agree(terms, challenge, sent)

    def open(self, terms: Terms, message: Blob) -> OpenedSum:
        """The flooded sum of the contributors' numbers, shape (params,), float64.

        Raises:
            MessageError, EncryptionError: as `SeededSums.read`.
            SpoiledSumError: if the sum is not one that values in [-1, 1] can have.
        """
        received = self._sums.read(terms, message)
        values = self._flooded(received, _context(terms, self._secret.key_id, received))
        self._check_plausible(values, len(received.contributors))
        return OpenedSum(
            values=values[: self._parameters.num_params], contributors=received.contributors
        )

    def _flooded(self, received: SeededSum, context: bytes) -> NDArray[np.float64]:
        """Decrypted numbers with their noise, padding included."""
        deviation = self._parameters.flooding_deviation(len(received.contributors))
        values = np.empty((len(received.rows), PARAMS_PER_CIPHERTEXT))
        for start in range(0, len(values), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            (c0,) = residues.from_rows(received.rows[part], self._parameters.sum_bits)
            values[part] = decrypt_seeded(self._secret, c0, received.seeds[:, part], self._shape)
        for index, row in enumerate(values):
            row += deviation * standard_normals(self._secret.tag_key, context, index)
        return values.reshape(-1)

    def _check_plausible(self, values: NDArray[np.float64], contributors: int) -> None:
        off = self._parameters.error_bound(contributors)
        off += _LARGEST_NORMAL * self._parameters.flooding_deviation(contributors)
        largest = np.full(len(values), off)
        largest[: self._parameters.num_params] += contributors
        if not np.all(np.abs(values) <= largest):
            raise SpoiledSumError(
                f"every number of the sum must lie within {contributors} and the padding be zero, "
                f"{np.count_nonzero(~(np.abs(values) <= largest))} do not: it was changed on the "
                "way, decrypted with another key, or is not the sum of the listed contributions; "
                "discard the round"
            )


def shared_ckks_context() -> Any:
    """SEAL's context, the same for all parameters."""
    return ckks_context(COEFF_MODULUS)


def encrypt_seeded(
    key: SharedSecret, reals: NDArray[np.float64], shape: frames.Shape
) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Encrypt reals under the shared secret, with fresh randomness for every ciphertext.

    Args:
        key: the shared secret.
        reals: shape (ciphertexts, 4096); neighbours become one complex slot.
        shape: of the key's ciphertexts, with the scale.

    Returns:
        c0: residues, shape (ciphertexts, 4096).
        seeds: shape (ciphertexts, 64); public, but needed to decrypt.

    Raises:
        EncryptionError: if the key was destroyed.
    """
    context, secret = key.native()
    seal, version = sealapi(), seal_version()
    encoder, encryptor = seal.CKKSEncoder(context), seal.Encryptor(context, secret)
    plaintext = seal.Plaintext()
    c0 = np.empty(reals.shape, dtype=np.uint64)
    seeds = np.empty((len(reals), SEED_BYTES), dtype=np.uint8)
    with ScratchFile() as scratch:
        for index, slots in enumerate(reals.view(np.complex128)):
            encoder.encode(slots.tolist(), shape.scale, plaintext)
            # Without a destination SEAL returns a ciphertext that saves its seed in place of c1.
            encryptor.encrypt_symmetric(plaintext).save(scratch.path)
            frame = uncompressed(scratch.read(), shape.seeded_bytes)
            c0[index], seed = frames.parse_seeded(frame, shape, version=version)
            seeds[index] = np.frombuffer(seed, dtype=np.uint8)
    return c0, seeds


def decrypt_seeded(
    key: SharedSecret, c0_sum: NDArray[np.uint64], seeds: NDArray[np.uint8], shape: frames.Shape
) -> NDArray[np.float64]:
    """Decrypt a sum of seeded ciphertexts, not flooded: nobody else may see what this returns.

    Args:
        key: the shared secret.
        c0_sum: sum of the contributors' c0, shape (ciphertexts, 4096).
        seeds: every contributor's, shape (clients, ciphertexts, 64), all different.
        shape: of the key's ciphertexts, with the scale.

    Returns:
        Shape (ciphertexts, 4096); noise if c0 does not belong to the seeds.

    Raises:
        MessageError: if residues or seeds are malformed.
        EncryptionError: if the key was destroyed.
    """
    context, secret = key.native()
    seal = sealapi()
    decryptor, encoder = seal.Decryptor(context, secret), seal.CKKSEncoder(context)
    plaintext = seal.Plaintext()
    slots = np.empty((len(c0_sum), PARAMS_PER_CIPHERTEXT // 2), dtype=np.complex128)
    with ScratchFile() as scratch:
        for index, row in enumerate(c0_sum):
            total = expanded_sum(context, shape, row, seeds[:, index], scratch)
            decryptor.decrypt(total, plaintext)
            slots[index] = encoder.decode_complex(plaintext)
    return slots.view(np.float64)


def standard_normals(key: bytes, context: bytes, index: int) -> NDArray[np.float64]:
    """Gaussian numbers for one ciphertext, the same for all who hold the key.

    SHAKE-256 gives 53-bit uniforms, and pairs of them normals (Box & Muller 1958), none of which
    is above sqrt(2 * 53 ln 2) in magnitude.

    Args:
        key: 32 secret bytes.
        context: public bytes that name the sum.
        index: of the ciphertext.

    Returns:
        Shape (4096,).
    """
    seed = _LABEL + key + index.to_bytes(8, "little") + context
    stream = hashlib.shake_256(seed).digest(8 * PARAMS_PER_CIPHERTEXT)
    draws = (np.frombuffer(stream, dtype="<u8") >> np.uint64(11)).astype(np.float64)
    radius, angle = draws.reshape(2, -1) * 2.0**-53
    radius = np.sqrt(-2 * np.log(radius + 2.0**-53))
    angle = 2 * np.pi * angle
    return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))


def _context(terms: Terms, key_id: str, received: SeededSum) -> bytes:
    """Names one sum: with the same noise on two of them, their difference would show the error."""
    content = hashlib.sha256(received.rows.tobytes())
    content.update(received.seeds.tobytes())
    return canonical_json([terms.run, terms.round, key_id, content.hexdigest()])


def _check_numbers(numbers: NDArray[Any], num_params: int) -> None:
    if numbers.dtype.kind != "f" or numbers.shape != (num_params,):
        raise EncryptionError(
            f"an update must hold floats in shape ({num_params},), got {numbers.dtype} "
            f"{numbers.shape}"
        )
    # NaN fails the comparison too.
    outside = np.count_nonzero(~(np.abs(numbers) <= 1))
    if outside:
        raise EncryptionError(
            f"every value must lie in [-1, 1], {outside} do not; a larger one could wrap the sum; "
            "encrypt what `FloatEncoding.encode` returned"
        )


def _padded(numbers: NDArray[Any]) -> NDArray[np.float64]:
    """Shape (ciphertexts, 4096), zeros at the end."""
    ciphertexts = -(-len(numbers) // PARAMS_PER_CIPHERTEXT)
    padded = np.zeros(ciphertexts * PARAMS_PER_CIPHERTEXT)
    padded[: len(numbers)] = numbers
    return padded.reshape(ciphertexts, PARAMS_PER_CIPHERTEXT)
