"""Everything that needs TenSEAL: keys, encryption, and the sum from end to end."""

import ast
import copy
import inspect
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.custody import native
from privfed.custody.bfv import decrypt_sum, encrypt
from privfed.custody.keys import SharedKey
from privfed.encryption import fixedpoint, frames, packing, residues
from privfed.encryption.packing import (
    COEFF_MODULUS,
    BFVParameters,
    batching_prime_above,
    derive,
    is_prime,
    pack,
    unpack,
)
from privfed.errors import EncryptionError, MessageError

PARAMETERS = derive(num_clients=8, bits=12)


@pytest.fixture(scope="module")
def key():
    return SharedKey.generate(PARAMETERS)


def random_updates(parameters, num_clients, num_params, seed=0):
    """Integers of `num_clients` clients, the first parameter at an end of the range."""
    largest = parameters.max_magnitude
    generator = np.random.default_rng(seed)
    updates = generator.integers(-largest, largest + 1, size=(num_clients, num_params))
    updates[:, 0] = largest if seed % 2 else -largest
    return updates


def upload(key, update):
    """One client's wire bytes: residues and seeds."""
    c0, seeds = encrypt(key, pack(update, key.parameters))
    return residues.to_bytes(c0), residues.seeds_to_bytes(seeds)


def aggregate(uploads, num_ciphertexts):
    """What the aggregator does: parse, add, and send the sum's bytes with all seeds."""
    total, *others = [residues.from_bytes(data, num_ciphertexts) for data, _ in uploads]
    for other in others:
        total = residues.add(total, other)
    seeds = [residues.seeds_from_bytes(data, num_ciphertexts) for _, data in uploads]
    return residues.to_bytes(total), np.stack(seeds)


def federated_sum(key, updates):
    """The decrypted sum of all updates, over the wire both ways."""
    num_params = updates.shape[1]
    num_ciphertexts = key.parameters.num_ciphertexts(num_params)
    total, seeds = aggregate([upload(key, update) for update in updates], num_ciphertexts)
    slots = decrypt_sum(key, residues.from_bytes(total, num_ciphertexts), seeds)
    return unpack(slots, num_params, key.parameters)


# --- exactness


@settings(max_examples=40, deadline=None)
@given(
    num_clients=st.integers(1, 20),
    bits=st.integers(8, 16),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_the_decrypted_sum_is_the_integer_sum(num_clients, bits, seed, data):
    parameters = derive(num_clients=num_clients, bits=bits)
    whole = parameters.params_per_ciphertext
    num_params = data.draw(st.sampled_from([1, whole - 1, whole, whole + 1]))
    contributors = data.draw(st.integers(1, min(num_clients, 6)))
    updates = random_updates(parameters, contributors, num_params, seed)
    total = federated_sum(SharedKey.generate(parameters), updates)
    np.testing.assert_array_equal(total, updates.sum(axis=0))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_thousand_clients(bits):
    parameters = derive(num_clients=1000, bits=bits)
    updates = random_updates(parameters, 1000, 2 * 4096, seed=1)
    updates[:, 100:200] = parameters.max_magnitude
    total = federated_sum(SharedKey.generate(parameters), updates)
    np.testing.assert_array_equal(total, updates.sum(axis=0))


def test_add_is_the_native_addition(key):
    """The aggregator's numpy sum against SEAL's Evaluator.add, both polynomials."""
    context, _ = key.native()
    seal, version = native.sealapi(), native.seal_version()
    num_bytes = frames.full_frame_bytes(PARAMETERS)

    def full(ciphertext, scratch):
        ciphertext.save(scratch.path)
        frame = native.uncompressed(scratch.read(), num_bytes)
        return frames.parse_full(frame, PARAMETERS, version=version)

    loaded, parts, sent = [], [], []
    with native.ScratchFile() as scratch:
        for seed in (1, 2):
            update = random_updates(PARAMETERS, 1, 12_288, seed)[0]
            c0, seeds = encrypt(key, pack(update, PARAMETERS))
            frame = frames.build_seeded(PARAMETERS, c0[0], seeds[0].tobytes(), version=version)
            scratch.write(frame)
            ciphertext = seal.Ciphertext()
            ciphertext.load(context, scratch.path)
            loaded.append(ciphertext)
            parts.append(full(ciphertext, scratch))
            sent.append(c0)
        total = seal.Ciphertext()
        seal.Evaluator(context).add(loaded[0], loaded[1], total)
        expected = full(total, scratch)
    np.testing.assert_array_equal(residues.add(sent[0], sent[1])[0], expected[0])
    for part in (0, 1):
        left, right = parts[0][part][None], parts[1][part][None]
        np.testing.assert_array_equal(residues.add(left, right)[0], expected[part])


@pytest.mark.parametrize("sign", [1, -1])
def test_decryption_is_right_up_to_the_noise_bound_and_wrong_above(sign):
    """At the largest t the rule allows, noise is added to c0 by hand up to q / (2t) and past it.

    A fresh ciphertext brings at most 21.5 of its own, so 22 decide on which side the sum lies.
    """
    edge = COEFF_MODULUS // (8 * 59 + 16)
    prime = next(
        t for t in range((edge - 1) // 8192 * 8192 + 1, 0, -8192) if t <= edge and is_prime(t)
    )
    parameters = BFVParameters(
        num_clients=8, bits=8, plain_modulus=prime, radix=2 * 8 * 127 + 1, digits=1
    )
    key = SharedKey.generate(parameters)
    slots = pack(random_updates(parameters, 1, 4096)[0], parameters)
    c0, seeds = encrypt(key, slots)
    bound = COEFF_MODULUS // (2 * prime)
    assert 8 * 29.5 + 8 <= bound < 8 * 29.5 + 9

    def decrypted(noise):
        shift = np.full_like(c0, sign * noise % COEFF_MODULUS)
        return decrypt_sum(key, residues.add(c0, shift), seeds[None])

    np.testing.assert_array_equal(decrypted(bound - 22), slots)
    assert not np.array_equal(decrypted(bound + 23), slots)


def test_measured_noise_is_within_the_bound_that_the_rule_assumes(key):
    """Decrypting an encryption of zero by hand (c0 + c1 s) would need s; shifting finds it instead.

    With t at 45 bits q / (2t) is 16,406. Shifted by all but 22 of it, zero must stay zero; by all
    but 5, some of 4096 coefficients, whose noise has a standard deviation of 3.2, must flip.
    """
    slots = np.zeros((1, 4096), dtype=np.uint64)
    c0, seeds = encrypt(key, slots)
    bound = COEFF_MODULUS // (2 * PARAMETERS.plain_modulus)
    for noise, stays in ((bound - 22, True), (bound - 5, False)):
        shifted = residues.add(c0, np.full_like(c0, noise))
        assert np.array_equal(decrypt_sum(key, shifted, seeds[None]), slots) == stays


# --- what must not decrypt


def test_another_key_gives_garbage_without_an_error(key):
    """BFV does not authenticate: only implausible slots give a wrong key away."""
    slots = pack(random_updates(PARAMETERS, 1, 12_288)[0], PARAMETERS)
    c0, seeds = encrypt(key, slots)
    garbage = decrypt_sum(SharedKey.generate(PARAMETERS), c0, seeds[None])
    assert np.count_nonzero(garbage == slots) <= 1
    with pytest.raises(EncryptionError, match="another key"):
        unpack(garbage, 12_000, PARAMETERS)


def test_one_clients_residues_as_the_sum_of_two_do_not_decrypt(key):
    updates = random_updates(PARAMETERS, 2, 12_288)
    slots = [pack(update, PARAMETERS) for update in updates]
    (c0, first), (_, second) = (encrypt(key, rows) for rows in slots)
    leaked = decrypt_sum(key, c0, np.stack([first, second]))
    for rows in slots:
        assert np.count_nonzero(leaked == rows) <= 1
    np.testing.assert_array_equal(decrypt_sum(key, c0, first[None]), slots[0])


def test_repeated_seeds_are_refused(key):
    updates = random_updates(PARAMETERS, 2, 12_289)
    (first_c0, first), (second_c0, second) = (
        encrypt(key, pack(update, PARAMETERS)) for update in updates
    )
    total = residues.add(first_c0, second_c0)
    with pytest.raises(EncryptionError, match="seed of its own"):
        decrypt_sum(key, total, np.stack([first, first]))
    across = second.copy()
    across[1] = first[0]
    with pytest.raises(EncryptionError, match="seed of its own"):
        decrypt_sum(key, total, np.stack([first, across]))
    both = np.stack([first, second])
    with pytest.raises(EncryptionError, match="1 from earlier rounds"):
        decrypt_sum(key, total, both, earlier_seeds=residues.seed_set(second[1:]))
    other_round = residues.seed_set(encrypt(key, pack(updates[0], PARAMETERS))[1])
    decrypt_sum(key, total, both, earlier_seeds=other_round)


def test_more_contributors_than_the_parameters_allow_are_refused(key):
    seeds = np.zeros((9, 1, 64), dtype=np.uint8)
    seeds[:, 0, 0] = np.arange(9)
    with pytest.raises(EncryptionError, match="at most 8"):
        decrypt_sum(key, np.zeros((1, 4096), dtype=np.uint64), seeds)


def test_wrong_shapes_are_refused(key):
    c0, seeds = encrypt(key, pack(random_updates(PARAMETERS, 1, 12_288)[0], PARAMETERS))
    for wrong in (seeds, seeds[None, :, :63], seeds[None][:0], seeds[None].astype(np.int64)):
        with pytest.raises(MessageError, match="seeds"):
            decrypt_sum(key, c0, wrong)
    with pytest.raises(MessageError, match="seeds"):
        decrypt_sum(key, np.concatenate([c0, c0]), seeds[None])
    for wrong in (c0[0], c0[:, :-1], c0.astype(np.int64), c0[:0]):
        with pytest.raises(MessageError, match="residues"):
            decrypt_sum(key, wrong, seeds[None])
    with pytest.raises(MessageError, match="below"):
        decrypt_sum(key, np.full_like(c0, COEFF_MODULUS), seeds[None])


def test_slots_that_do_not_fit_are_refused(key):
    slots = np.zeros((1, 4096), dtype=np.uint64)
    for wrong in (slots[0], slots[:, :-1], slots[:0], slots.astype(np.int64)):
        with pytest.raises(EncryptionError, match="slots"):
            encrypt(key, wrong)
    slots[0, 7] = PARAMETERS.plain_modulus
    with pytest.raises(EncryptionError, match="below the plain modulus"):
        encrypt(key, slots)


# --- fresh randomness


def test_two_encryptions_of_the_same_slots_differ(key):
    slots = np.zeros((3, 4096), dtype=np.uint64)
    first_c0, first = encrypt(key, slots)
    second_c0, second = encrypt(key, slots)
    assert len(residues.seed_set(np.stack([first, second]))) == 6
    assert np.count_nonzero(first_c0 == second_c0) == 0
    assert np.count_nonzero(first_c0[0] == first_c0[1]) == 0


def test_a_generator_that_repeats_itself_would_be_caught(key, monkeypatch):
    slots = np.zeros((2, 4096), dtype=np.uint64)
    parse = frames.parse_seeded
    monkeypatch.setattr(
        frames, "parse_seeded", lambda *args, **named: (parse(*args, **named)[0], bytes(64))
    )
    with pytest.raises(EncryptionError, match="seed of its own"):
        encrypt(key, slots)


FORKED = """
import os
import numpy as np
from privfed.custody.bfv import encrypt
from privfed.custody.keys import SharedKey
from privfed.encryption.packing import derive
key = SharedKey.generate(derive(num_clients=3, bits=8))
slots = np.zeros((2, 4096), dtype=np.uint64)
encrypt(key, slots)
child = os.fork()
if child:
    os.waitpid(child, 0)
os.write(1, encrypt(key, slots)[1].tobytes())
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


# --- keys and their files


def test_save_and_load(key, tmp_path):
    path = tmp_path / "key"
    key.save(path)
    loaded = SharedKey.load(path, PARAMETERS)
    assert (loaded.key_id, loaded.parameters) == (key.key_id, PARAMETERS)
    slots = pack(random_updates(PARAMETERS, 1, 5000)[0], PARAMETERS)
    c0, seeds = encrypt(key, slots)
    np.testing.assert_array_equal(decrypt_sum(loaded, c0, seeds[None]), slots)
    assert os.listdir(tmp_path) == ["key"]


@pytest.mark.parametrize("umask", [0o000, 0o277])
def test_a_key_file_is_its_owners_alone(key, tmp_path, umask):
    path = tmp_path / "key"
    before = os.umask(umask)
    try:
        key.save(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o7777 == 0o600
    for mode in (0o640, 0o604, 0o610, 0o602):
        path.chmod(mode)
        with pytest.raises(EncryptionError, match=f"mode 0{mode:o}"):
            SharedKey.load(path, PARAMETERS)
    path.chmod(0o400)
    SharedKey.load(path, PARAMETERS)


def test_a_key_file_is_closed_from_its_first_moment(key, tmp_path, monkeypatch):
    modes = []
    change = os.fchmod

    def recorded(descriptor, mode):
        modes.append(os.fstat(descriptor).st_mode & 0o777)
        change(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", recorded)
    before = os.umask(0)
    try:
        key.save(tmp_path / "key")
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_a_key_never_replaces_a_file(key, tmp_path):
    path = tmp_path / "key"
    path.write_text("precious")
    with pytest.raises(EncryptionError, match="new file"):
        key.save(path)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EncryptionError, match="new file"):
        key.save(link)
    assert path.read_text() == "precious"
    assert not (tmp_path / "elsewhere").exists()


def test_a_save_that_fails_leaves_nothing(key, tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        key.save(tmp_path / "key")
    assert os.listdir(tmp_path) == []


def test_only_a_regular_file_is_read(key, tmp_path):
    key.save(tmp_path / "key")
    with pytest.raises(EncryptionError, match="readable"):
        SharedKey.load(tmp_path / "missing", PARAMETERS)
    with pytest.raises(EncryptionError, match="regular file"):
        SharedKey.load(tmp_path, PARAMETERS)
    (tmp_path / "link").symlink_to(tmp_path / "key")
    with pytest.raises(EncryptionError, match="readable"):
        SharedKey.load(tmp_path / "link", PARAMETERS)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(EncryptionError, match="regular file"):
        SharedKey.load(tmp_path / "pipe", PARAMETERS)


def test_a_damaged_key_file_is_refused(key, tmp_path):
    path = tmp_path / "key"
    key.save(path)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[5000] ^= 1
    later = content[:12] + b"\x02" + content[13:]
    for wrong in (content[:-1], content + b"\0", bytes(flipped), b"", b"x" + content[1:], later):
        path.write_bytes(wrong)
        with pytest.raises(MessageError, match="key file must"):
            SharedKey.load(path, PARAMETERS)


def test_a_key_for_other_parameters_is_refused(key, tmp_path):
    path = tmp_path / "key"
    key.save(path)
    with pytest.raises(EncryptionError, match="made for the parameters"):
        SharedKey.load(path, derive(num_clients=9, bits=12))


def test_a_key_shows_only_its_name():
    key = SharedKey.generate(PARAMETERS)
    assert repr(key) == str(key) == f"SharedKey(key_id='{key.key_id}')"
    assert len(bytes.fromhex(key.key_id)) == 16
    assert key.key_id != SharedKey.generate(PARAMETERS).key_id
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(EncryptionError, match="pickled"):
            leak(key)
    with pytest.raises(TypeError, match="generate"):
        SharedKey()


def test_a_destroyed_key_does_nothing(tmp_path):
    key = SharedKey.generate(PARAMETERS)
    slots = np.zeros((1, 4096), dtype=np.uint64)
    c0, seeds = encrypt(key, slots)
    assert not key.destroyed
    key.destroy()
    key.destroy()
    assert key.destroyed
    assert key.key_id in repr(key)
    for use in (
        lambda: encrypt(key, slots),
        lambda: decrypt_sum(key, c0, seeds[None]),
        lambda: key.save(tmp_path / "key"),
    ):
        with pytest.raises(EncryptionError, match="destroyed"):
            use()
    assert os.listdir(tmp_path) == []


# --- the native library


def test_the_native_library_is_loaded_only_when_used():
    run_python(
        "import sys\n"
        "import privfed.custody.keys, privfed.custody.bfv\n"
        "assert 'tenseal' not in sys.modules\n"
    )


@pytest.mark.parametrize("module", [fixedpoint, packing, residues, frames])
def test_the_aggregators_side_imports_no_custody(module):
    """Its sources name neither TenSEAL nor custody in an import."""
    nodes = list(ast.walk(ast.parse(inspect.getsource(module))))
    imported = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    imported += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    assert imported
    assert not [name for name in imported if "tenseal" in name or "custody" in name]


def test_the_native_context_is_the_one_computed_here():
    context = native.seal_context(derive(num_clients=10, bits=12))
    first = context.first_context_data().parms()
    assert [prime.value() for prime in first.coeff_modulus()] == [COEFF_MODULUS]
    assert first.plain_modulus().value() == 68623891046401
    assert math.log2(COEFF_MODULUS) <= native.sealapi().CoeffModulus.MaxBitCount(
        4096, native.sealapi().SEC_LEVEL_TYPE.TC128
    )
    largest = native.sealapi().PlainModulus.Batching(4096, 21).value()
    assert batching_prime_above(largest - 1) == largest
    assert batching_prime_above(largest) > 2**21


def test_without_anonymous_memory_a_private_folder_serves(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "_anonymous_memory", lambda: None)
    monkeypatch.setattr(native.tempfile, "tempdir", str(tmp_path))
    with native.ScratchFile() as scratch:
        scratch.write(b"abc")
        assert os.stat(scratch.path).st_mode & 0o777 == 0o600
        assert os.stat(os.path.dirname(scratch.path)).st_mode & 0o777 == 0o700
        assert os.path.dirname(os.path.dirname(scratch.path)) == str(tmp_path)
    key = SharedKey.generate(PARAMETERS)
    updates = random_updates(PARAMETERS, 3, 100)
    np.testing.assert_array_equal(federated_sum(key, updates), updates.sum(axis=0))
    key.save(tmp_path / "key")
    SharedKey.load(tmp_path / "key", PARAMETERS)
    assert os.listdir(tmp_path) == ["key"]


def test_a_scratch_file_is_gone_after_its_block():
    with native.ScratchFile() as scratch:
        scratch.write(b"longer content")
        scratch.write(b"short")
        assert scratch.read() == b"short"
    for use in (scratch.read, lambda: scratch.write(b"")):
        with pytest.raises(EncryptionError, match="with"):
            use()


def test_only_known_compression_of_the_right_length_is_taken_off(key):
    plain = frames.build_full(PARAMETERS, *np.zeros((2, 4096), dtype=np.uint64))
    assert native.uncompressed(plain, len(plain)) == plain
    with pytest.raises(MessageError, match="mode 1"):
        native.uncompressed(plain[:5] + b"\x01" + plain[6:], len(plain))
    with pytest.raises(MessageError, match="must be"):
        native.uncompressed(plain[:-1], len(plain))
    with native.ScratchFile() as scratch:
        native.sealapi().Plaintext("1").save(scratch.path)
        saved = scratch.read()
    for wrong in (30, 100_000):
        with pytest.raises(MessageError, match="unpack"):
            native.uncompressed(saved, wrong)
