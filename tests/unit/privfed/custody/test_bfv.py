"""Encrypting and decrypting with the real SEAL: exactness, noise, and what is refused."""

import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from privfed.custody import bfv, native
from privfed.custody.keys import PublicKey, RoundKey, SharedSecret, native_context, shared_context
from privfed.encryption import frames, noise, residues
from privfed.encryption.adding import CiphertextAdder
from privfed.encryption.noise import COEFF_MODULUS, SPECIAL_MODULUS, Exactness
from privfed.encryption.packing import pack, unpack
from privfed.encryption.parameters import BFVParameters, derive
from privfed.encryption.primes import is_batching_prime
from privfed.errors import ConfigError, EncryptionError, MessageError
from privfed.protocol.kinds import CIPHERTEXTS, SEEDS
from privfed.settings.encryption import Custody

SHARED = derive(num_clients=8, bits=12, num_params=8_000, custody=Custody.SHARED_KEY)
HELD = derive(num_clients=8, bits=12, num_params=4_000, custody=Custody.KEY_HOLDER)
ZEROS = np.zeros((1, 4096), dtype=np.uint64)


def shared_secret(parameters):
    return SharedSecret.generate(shared_context(parameters), frames.ciphertext_shape(parameters))


def public_key(key, parameters):
    return PublicKey.from_bytes(key.public_bytes(), parameters)


@pytest.fixture(scope="module")
def secret():
    return shared_secret(SHARED)


@pytest.fixture(scope="module")
def pair():
    key = RoundKey.generate(HELD)
    return key, public_key(key, HELD)


def some_slots(parameters, count=1, seed=0):
    random = np.random.default_rng(seed)
    slots = random.integers(0, parameters.plain_modulus, size=(count, 4096), dtype=np.uint64)
    slots[0, 0], slots[0, 1] = parameters.plain_modulus - 1, 0
    return slots


def saved(ciphertext, shape):
    """Both polynomials of one of SEAL's ciphertexts, shape (1, 4096) each."""
    with native.ScratchFile() as scratch:
        ciphertext.save(scratch.path)
        frame = native.uncompressed(scratch.read(), shape.full_bytes)
    c0, c1 = frames.parse_full(frame, shape, version=native.seal_version())
    return c0[None], c1[None]


def loaded(c0, c1, context, shape):
    """SEAL's ciphertext of polynomials of shape (residues,)."""
    ciphertext = native.sealapi().Ciphertext()
    with native.ScratchFile() as scratch:
        scratch.write(frames.build_full(shape, c0, c1, version=native.seal_version()))
        ciphertext.load(context, scratch.path)
    return ciphertext


# --- the phase c0 + c1 s, computed here


def secret_polynomial(key, parameters):
    """Coefficients of s in {-1, 0, 1}: SEAL keeps its values, and takes them back for us."""
    held = parameters.custody is Custody.KEY_HOLDER
    primes = (COEFF_MODULUS, SPECIAL_MODULUS) if held else (COEFF_MODULUS,)
    name = frames.parms_id(frames.BFV, primes, parameters.plain_modulus)
    stored = frames.Shape(parms_id=name, primes=primes)
    _, native_key = key.native()
    with native.ScratchFile() as scratch:
        native_key.save(scratch.path)
        frame = native.uncompressed(scratch.read(), stored.single_bytes)
    values = frames.parse_single(frame, stored, version=native.seal_version())[:4096]
    plain = frames.ciphertext_shape(parameters)
    transformed = frames.Shape(parms_id=plain.parms_id, primes=plain.primes, is_ntt=True)
    context = shared_context(parameters)
    ciphertext = loaded(values, values, context, transformed)
    native.sealapi().Evaluator(context).transform_from_ntt_inplace(ciphertext)
    coefficients, _ = saved(ciphertext, plain)
    signed = coefficients[0].astype(np.int64)
    signed[signed == COEFF_MODULUS - 1] = -1
    return signed


def phase(c0, c1, polynomial):
    """c0 + c1 s modulo X^4096 + 1 and q, centred: exact, in limbs of 20 bits."""
    total = c0[0].astype(object)
    for limb in range(3):
        part = ((c1[0] >> np.uint64(20 * limb)) & np.uint64((1 << 20) - 1)).astype(np.int64)
        product = np.append(np.convolve(part, polynomial), 0)
        total = total + (product[:4096] - product[4096:]).astype(object) * (1 << (20 * limb))
    reduced = total % COEFF_MODULUS
    return np.where(reduced > COEFF_MODULUS // 2, reduced - COEFF_MODULUS, reduced).astype(np.int64)


def expanded(c0, seeds, parameters):
    """Both polynomials of a seeded ciphertext, as SEAL expands it."""
    shape = frames.ciphertext_shape(parameters)
    with native.ScratchFile() as scratch:
        ciphertext = bfv.expanded_sum(shared_context(parameters), shape, c0[0], seeds, scratch)
    return saved(ciphertext, shape)


def test_fresh_noise_of_a_shared_key_is_within_what_the_rule_assumes(secret):
    """At most 21, with the variance 10.5 of SEAL's centred binomial numbers."""
    polynomial = secret_polynomial(secret, SHARED)
    assert set(polynomial.tolist()) == {-1, 0, 1}
    measured = []
    for _ in range(10):
        c0, seeds = bfv.encrypt_seeded(secret, ZEROS, SHARED)
        measured.append(phase(*expanded(c0, seeds, SHARED), polynomial))
    bound = noise.fresh_noise(Custody.SHARED_KEY, Exactness.CERTAIN)
    assert np.abs(measured).max() <= 21 == bound - Fraction(1, 2)
    assert 9.9 < np.var(measured) < 11.1
    assert noise.fresh_noise(Custody.SHARED_KEY, Exactness.OVERWHELMING) == bound


def test_fresh_noise_of_a_round_key_is_within_what_the_rule_assumes(pair):
    """Some 15 in standard deviation: far below the bound that is certain, and below the other."""
    key, public = pair
    polynomial = secret_polynomial(key, HELD)
    assert set(polynomial.tolist()) == {-1, 0, 1}
    measured = np.array([phase(*bfv.encrypt_public(public, ZEROS), polynomial) for _ in range(10)])
    assert np.abs(measured).max() <= noise.fresh_noise(Custody.KEY_HOLDER, Exactness.OVERWHELMING)
    assert noise.fresh_noise(Custody.KEY_HOLDER, Exactness.OVERWHELMING) < 402
    assert noise.fresh_noise(Custody.KEY_HOLDER, Exactness.CERTAIN) > 2049
    assert 13 < measured.std() < 18


def test_scaling_a_message_adds_no_more_than_one_half(secret):
    """The phase is round(q m / t) for every coefficient m of the plaintext, and noise."""
    context, _ = secret.native()
    seal, modulus = native.sealapi(), SHARED.plain_modulus
    plaintext = seal.Plaintext()
    slots = some_slots(SHARED)
    seal.BatchEncoder(context).encode(slots[0].tolist(), plaintext)
    coefficients = np.zeros(4096, dtype=object)
    for term in plaintext.to_string().split(" + "):
        value, _, power = term.partition("x^")
        coefficients[int(power or 0)] = int(value, 16)
    c0, seeds = bfv.encrypt_seeded(secret, slots, SHARED)
    found = phase(*expanded(c0, seeds, SHARED), secret_polynomial(secret, SHARED)).astype(object)
    twice = (2 * modulus * found - 2 * COEFF_MODULUS * coefficients) % (2 * modulus * COEFF_MODULUS)
    twice = np.minimum(twice, 2 * modulus * COEFF_MODULUS - twice)
    assert max(twice) <= 2 * modulus * noise.fresh_noise(Custody.SHARED_KEY, Exactness.CERTAIN)


# --- the noise rule at its edge


def edge_parameters(custody, num_clients, upload_dropped, sum_dropped):
    """The largest plaintext prime that the rule still allows for so many clients and bits."""

    def build(prime, clients):
        return BFVParameters(
            custody=custody,
            num_clients=clients,
            bits=8,
            num_params=4_000,
            plain_modulus=prime,
            radix=2 * clients * 127 + 1,
            digits=1,
            upload_dropped_bits=upload_dropped,
            sum_dropped_bits=sum_dropped,
        )

    fresh = noise.fresh_noise(custody, Exactness.OVERWHELMING) + noise.dropping_error(
        upload_dropped
    )
    whole = num_clients * fresh + noise.dropping_error(sum_dropped)
    start = int(COEFF_MODULUS / (2 * whole)) // 8192 * 8192 + 1
    for prime in range(start + 8192, 0, -8192):
        if is_batching_prime(prime):
            try:
                return build(prime, num_clients), build
            except ConfigError:
                continue
    raise AssertionError


EDGES = [
    (Custody.SHARED_KEY, 8, 0, 0),
    (Custody.SHARED_KEY, 40, 0, 0),
    (Custody.SHARED_KEY, 8, 6, 4),
    (Custody.SHARED_KEY, 5, 20, 23),
    (Custody.KEY_HOLDER, 8, 0, 0),
    (Custody.KEY_HOLDER, 8, 12, 0),
]


@pytest.mark.parametrize(("custody", "num_clients", "upload_dropped", "sum_dropped"), EDGES)
@pytest.mark.parametrize("value", [127, -127])
def test_the_most_clients_that_the_rule_allows(
    custody, num_clients, upload_dropped, sum_dropped, value
):
    """As many fresh ciphertexts as it says, all numbers at one end, through the wire both ways."""
    parameters, build = edge_parameters(custody, num_clients, upload_dropped, sum_dropped)
    with pytest.raises(ConfigError, match=f"noise of {num_clients + 1} clients"):
        build(parameters.plain_modulus, num_clients + 1)
    slots = pack(np.full(4_000, value), parameters)
    adder, seal_side = CiphertextAdder(parameters), Side(parameters)
    for number in range(num_clients):
        adder.add(f"c{number}", seal_side.blobs(slots))
    with pytest.raises(MessageError, match="one too many"):
        adder.add("another", seal_side.blobs(slots))
    sums = unpack(seal_side.decrypted(adder.total()), parameters)
    assert set(sums[:4_000].tolist()) == {num_clients * value}


class Side:
    """Whoever encrypts and decrypts, under either custody, with a key of its own."""

    def __init__(self, parameters):
        self.parameters = parameters
        self.seeds = []
        if parameters.custody is Custody.SHARED_KEY:
            self.key = shared_secret(parameters)
        else:
            self.key = RoundKey.generate(parameters)
            self.public = public_key(self.key, parameters)

    def blobs(self, slots):
        bits = self.parameters.upload_bits
        if self.parameters.custody is Custody.SHARED_KEY:
            c0, seeds = bfv.encrypt_seeded(self.key, slots, self.parameters)
            self.seeds.append(seeds)
            return {CIPHERTEXTS: residues.to_rows([c0], bits).tobytes(), SEEDS: seeds.tobytes()}
        return {
            CIPHERTEXTS: residues.to_rows(bfv.encrypt_public(self.public, slots), bits).tobytes()
        }

    def decrypted(self, blobs):
        bits = self.parameters.sum_bits
        polynomials = residues.from_rows(residues.rows_of(blobs[CIPHERTEXTS], 1, bits), bits)
        if self.parameters.custody is Custody.KEY_HOLDER:
            return bfv.decrypt_full(self.key, *polynomials, self.parameters)
        count = (len(blobs) - 1,)
        seeds = np.stack(self.seeds[: count[0]])
        return bfv.decrypt_seeded(self.key, *polynomials, seeds, self.parameters)


@pytest.mark.parametrize("sign", [1, -1])
def test_decryption_is_right_up_to_the_noise_bound_and_wrong_above(sign):
    """Noise is added to c0 by hand up to q / (2t) and past it.

    A fresh ciphertext brings at most 21.5 of its own, so 22 decide on which side the sum lies.
    """
    parameters, _ = edge_parameters(Custody.SHARED_KEY, 8, 0, 0)
    key = shared_secret(parameters)
    slots = pack(np.full(4_000, -127), parameters)
    c0, seeds = bfv.encrypt_seeded(key, slots, parameters)
    bound = COEFF_MODULUS // (2 * parameters.plain_modulus)
    assert 8 * 21.5 <= bound < 8 * 21.5 + 2

    def decrypted(shift):
        total = np.full_like(c0, sign * shift % COEFF_MODULUS)
        residues.add_into(total, c0)
        return bfv.decrypt_seeded(key, total, seeds[None], parameters)

    np.testing.assert_array_equal(decrypted(bound - 22), slots)
    assert not np.array_equal(decrypted(bound + 23), slots)


# --- exactness


def test_seeded_round_trip(secret):
    slots = some_slots(SHARED, count=3)
    c0, seeds = bfv.encrypt_seeded(secret, slots, SHARED)
    assert (c0.dtype, c0.shape, seeds.dtype, seeds.shape) == ("u8", (3, 4096), "u1", (3, 64))
    assert c0.max() < COEFF_MODULUS
    np.testing.assert_array_equal(bfv.decrypt_seeded(secret, c0, seeds[None], SHARED), slots)


def test_public_round_trip(pair):
    key, public = pair
    slots = some_slots(HELD, count=3)
    c0, c1 = bfv.encrypt_public(public, slots)
    assert (c0.dtype, c0.shape, c1.dtype, c1.shape) == ("u8", (3, 4096), "u8", (3, 4096))
    assert max(c0.max(), c1.max()) < COEFF_MODULUS
    np.testing.assert_array_equal(bfv.decrypt_full(key, c0, c1, HELD), slots)


def test_slots_add_modulo_t(secret, pair):
    """By hand: t - 1 and 5 give 4."""
    for parameters in (SHARED, HELD):
        side = Side(parameters)
        first, second = ZEROS.copy(), ZEROS.copy()
        first[0, :3], second[0, :3] = (parameters.plain_modulus - 1, 7, 0), (5, 8, 0)
        adder = CiphertextAdder(parameters)
        adder.add("c1", side.blobs(first))
        adder.add("c2", side.blobs(second))
        assert side.decrypted(adder.total())[0, :4].tolist() == [4, 15, 0, 0]


def test_adding_residues_is_seals_own_addition_of_seeded_ciphertexts(secret):
    """numpy's sum of c0 and SEAL's `add_inplace` of the whole ciphertexts."""
    context, shape = shared_context(SHARED), frames.ciphertext_shape(SHARED)
    evaluator = native.sealapi().Evaluator(context)
    sent = [bfv.encrypt_seeded(secret, some_slots(SHARED, seed=seed), SHARED) for seed in range(5)]
    both = [expanded(c0, seeds, SHARED) for c0, seeds in sent]
    total = loaded(both[0][0][0], both[0][1][0], context, shape)
    added = [part.copy() for part in both[0]]
    for c0, c1 in both[1:]:
        evaluator.add_inplace(total, loaded(c0[0], c1[0], context, shape))
        residues.add_into(added[0], c0)
        residues.add_into(added[1], c1)
    for ours, theirs in zip(added, saved(total, shape), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for (c0, _), (whole, _) in zip(sent, both, strict=True):
        np.testing.assert_array_equal(c0, whole)
    seeds = np.concatenate([seeds for _, seeds in sent])
    np.testing.assert_array_equal(added[0], expanded(added[0], seeds, SHARED)[0])
    np.testing.assert_array_equal(added[1], expanded(added[0], seeds, SHARED)[1])


def test_adding_residues_is_seals_own_addition_of_public_key_ciphertexts(pair):
    _, public = pair
    context, shape = native_context(HELD), frames.ciphertext_shape(HELD)
    evaluator = native.sealapi().Evaluator(context)
    sent = [bfv.encrypt_public(public, some_slots(HELD, seed=seed)) for seed in range(5)]
    total = loaded(sent[0][0][0], sent[0][1][0], context, shape)
    added = [part.copy() for part in sent[0]]
    for c0, c1 in sent[1:]:
        evaluator.add_inplace(total, loaded(c0[0], c1[0], context, shape))
        residues.add_into(added[0], c0)
        residues.add_into(added[1], c1)
    for ours, theirs in zip(added, saved(total, shape), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# --- what must not decrypt


def test_another_key_gives_garbage_without_an_error(secret, pair):
    """BFV does not authenticate: only implausible slots give a wrong key away."""
    slots = some_slots(SHARED)
    c0, seeds = bfv.encrypt_seeded(secret, slots, SHARED)
    garbage = bfv.decrypt_seeded(shared_secret(SHARED), c0, seeds[None], SHARED)
    assert np.count_nonzero(garbage == slots) <= 1
    slots = some_slots(HELD)
    garbage = bfv.decrypt_full(RoundKey.generate(HELD), *bfv.encrypt_public(pair[1], slots), HELD)
    assert np.count_nonzero(garbage == slots) <= 3
    with pytest.raises(EncryptionError, match="another key"):
        unpack(garbage, HELD)


def test_one_clients_residues_under_the_seeds_of_two_do_not_decrypt(secret):
    first, second = (bfv.encrypt_seeded(secret, some_slots(SHARED, seed=s), SHARED) for s in (1, 2))
    leaked = bfv.decrypt_seeded(secret, first[0], np.stack([first[1], second[1]]), SHARED)
    assert np.count_nonzero(leaked == some_slots(SHARED, seed=1)) <= 1


def test_repeated_seeds_are_refused(secret):
    (c0, first), (_, second) = (
        bfv.encrypt_seeded(secret, some_slots(SHARED, count=2), SHARED) for _ in range(2)
    )
    across = second.copy()
    across[1] = first[0]
    within = np.stack([first[0], first[0]])[None]
    for repeated in (np.stack([first, first]), np.stack([first, across]), within):
        with pytest.raises(EncryptionError, match="seed of its own"):
            bfv.decrypt_seeded(secret, c0, repeated, SHARED)


def test_more_contributors_than_the_parameters_allow_are_refused(secret):
    seeds = np.zeros((9, 1, 64), dtype=np.uint8)
    seeds[:, 0, 0] = np.arange(9)
    with pytest.raises(EncryptionError, match="at most 8"):
        bfv.decrypt_seeded(secret, ZEROS, seeds, SHARED)
    bfv.decrypt_seeded(secret, ZEROS, seeds[:8], SHARED)


def test_wrong_shapes_are_refused(secret, pair):
    c0, seeds = bfv.encrypt_seeded(secret, ZEROS, SHARED)
    for wrong in (seeds, seeds[None, :, :63], seeds[None][:0], seeds[None].astype(np.int64)):
        with pytest.raises(MessageError, match="seeds"):
            bfv.decrypt_seeded(secret, c0, wrong, SHARED)
    with pytest.raises(MessageError, match="seeds"):
        bfv.decrypt_seeded(secret, np.concatenate([c0, c0]), seeds[None], SHARED)
    above = np.full_like(c0, COEFF_MODULUS)
    for wrong in (c0[0], c0[:, :-1], c0.astype(np.int64), c0[:0], above):
        with pytest.raises(MessageError, match="residue"):
            bfv.decrypt_seeded(secret, wrong, seeds[None], SHARED)
        for polynomials in ((wrong, c0), (c0, wrong)):
            with pytest.raises(MessageError, match="residue"):
                bfv.decrypt_full(pair[0], *polynomials, HELD)


def test_slots_that_do_not_fit_are_refused(secret, pair):
    for encrypt, modulus in (
        (lambda slots: bfv.encrypt_seeded(secret, slots, SHARED), SHARED.plain_modulus),
        (lambda slots: bfv.encrypt_public(pair[1], slots), HELD.plain_modulus),
    ):
        for wrong in (ZEROS[0], ZEROS[:, :-1], ZEROS[:0], ZEROS.astype(np.int64)):
            with pytest.raises(EncryptionError, match="slots"):
                encrypt(wrong)
        slots = ZEROS.copy()
        slots[0, 7] = modulus
        with pytest.raises(EncryptionError, match="below the plain modulus"):
            encrypt(slots)
        slots[0, 7] = modulus - 1
        encrypt(slots)


# --- fresh randomness


def test_two_encryptions_of_the_same_slots_differ(secret, pair):
    slots = np.zeros((3, 4096), dtype=np.uint64)
    (first_c0, first), (second_c0, second) = (
        bfv.encrypt_seeded(secret, slots, SHARED) for _ in range(2)
    )
    assert len(residues.seed_set(np.stack([first, second]))) == 6
    assert np.count_nonzero(first_c0 == second_c0) == 0
    assert np.count_nonzero(first_c0[0] == first_c0[1]) == 0
    once, again = (bfv.encrypt_public(pair[1], slots) for _ in range(2))
    for left, right in zip(once, again, strict=True):
        assert np.count_nonzero(left == right) == 0
        assert np.count_nonzero(left[0] == left[1]) == 0


FORKED = """
import os
import numpy as np
from privfed.settings.encryption import Custody
from privfed.custody.bfv import encrypt_seeded
from privfed.custody.keys import SharedSecret, shared_context
from privfed.encryption import frames
from privfed.encryption.parameters import derive
parameters = derive(num_clients=3, bits=8, num_params=9, custody=Custody.SHARED_KEY)
shape = frames.ciphertext_shape(parameters)
key = SharedSecret.generate(shared_context(parameters), shape)
slots = np.zeros((2, 4096), dtype=np.uint64)
encrypt_seeded(key, slots, parameters)
child = os.fork()
if child:
    os.waitpid(child, 0)
os.write(1, encrypt_seeded(key, slots, parameters)[1].tobytes())
os._exit(0)
"""


def run_python(script):
    """Run a script in a fresh interpreter that finds the packages as this one does."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)


def test_forked_processes_do_not_share_randomness():
    seeds = np.frombuffer(run_python(FORKED).stdout, dtype=np.uint8).reshape(4, 64)
    assert len(residues.seed_set(seeds)) == 4
