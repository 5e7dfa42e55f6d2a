import copy
import hashlib
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.custody import bfv
from privfed.custody.keys import SharedSecret, shared_context
from privfed.encryption import frames
from privfed.encryption.noise import COEFF_MODULUS
from privfed.encryption.packing import pack
from privfed.encryption.parameters import derive
from privfed.encryption.tags import PUBLIC, Tags, tag_context
from privfed.errors import EncryptionError
from privfed.settings.encryption import Custody

PARAMETERS = derive(num_clients=10, bits=12, num_params=24_000, custody=Custody.SHARED_KEY)
T = PARAMETERS.plain_modulus
KEY = bytes(range(32))
ROUND = b'["run",3,"key"]'
TAGS = Tags(PARAMETERS, KEY, ROUND)
VALUES = PARAMETERS.value_slots


def tagged(seed: int, ciphertexts: int = 2, tags: Tags = TAGS) -> np.ndarray:
    """Slots of one client, full of random numbers below t, with their tags."""
    slots = np.random.default_rng(seed).integers(0, T, (ciphertexts, 4096), dtype=np.uint64)
    tags.write(slots)
    return slots


def combined(weights, *slots) -> np.ndarray:
    """A linear combination modulo t, in whole numbers."""
    parts = zip(weights, slots, strict=True)
    total = sum(weight * each.astype(object) for weight, each in parts)
    return (total % T).astype(np.uint64)


def refused(slots: np.ndarray, tags: Tags = TAGS) -> bool:
    try:
        tags.check(slots)
    except EncryptionError as error:
        return "must carry the tags" in str(error)
    return False


def test_tags_by_hand():
    """Tag j of a ciphertext is <values, w_j> mod t; w is SHAKE-256 of the key and the context."""
    assert PARAMETERS.tag_slots == 2
    stream = hashlib.shake_256(b"privfed tags 1\n" + KEY + ROUND).digest(VALUES * 2 * 20)
    w = [int.from_bytes(stream[20 * i : 20 * i + 20], "little") % T for i in range(VALUES * 2)]
    slots = tagged(0)
    for row in slots:
        values = [int(value) for value in row[:VALUES]]
        for j in range(2):
            expected = sum(v * w[2 * i + j] for i, v in enumerate(values)) % T
            assert int(row[VALUES + j]) == expected
    TAGS.check(slots)


def test_only_the_tag_slots_are_written():
    slots = tagged(1)
    again = slots.copy()
    again[:, VALUES:] = 7
    TAGS.write(again)
    np.testing.assert_array_equal(again, slots)


@given(seeds=st.lists(st.integers(0, 2**32), min_size=1, max_size=5))
def test_tags_of_clients_add_up(seeds):
    TAGS.check(combined([1] * len(seeds), *map(tagged, seeds)))


@given(row=st.integers(0, 1), slot=st.integers(0, 4095), shift=st.integers(1, T - 1))
def test_any_changed_slot_is_found(row, slot, shift):
    total = combined([1, 1], tagged(1), tagged(2))
    total[row, slot] = (int(total[row, slot]) + shift) % T
    assert refused(total)


@pytest.mark.parametrize("shift", [1, T - 1, T // 2])
def test_every_slot_counts(shift):
    """One after the other: a slot with weight 0 would be a slot that anyone may change."""
    slots = tagged(3, ciphertexts=1)
    many = np.repeat(slots, 4096, axis=0)
    diagonal = np.arange(4096)
    many[diagonal, diagonal] = (many[diagonal, diagonal] + np.uint64(shift)) % np.uint64(T)
    expected = many.copy()
    TAGS.write(expected)
    assert (expected[:, VALUES:] != many[:, VALUES:]).any(axis=1).all()
    assert (expected[:VALUES, VALUES:] != many[:VALUES, VALUES:]).all()


def test_changes_that_cancel_in_a_plain_sum_are_found():
    slots = tagged(4)
    for one, two in [((0, 0), (0, 1)), ((0, 5), (1, 5)), ((0, VALUES), (0, VALUES + 1))]:
        changed = slots.copy()
        changed[one] = (int(slots[one]) + 1) % T
        changed[two] = (int(slots[two]) - 1) % T
        assert refused(changed)
    swapped = slots.copy()
    swapped[:, [0, 1]] = slots[:, [1, 0]]
    assert refused(swapped)


def test_another_key_run_or_round_is_found():
    slots = tagged(5)
    for bit in (0, 1, 255):
        key = (int.from_bytes(KEY, "little") ^ (1 << bit)).to_bytes(32, "little")
        assert refused(slots, Tags(PARAMETERS, key, ROUND))
    for context in (b'["run",4,"key"]', b'["ruN",3,"key"]', b"", ROUND + b" "):
        assert refused(slots, Tags(PARAMETERS, KEY, context))
    TAGS.check(slots)
    Tags(PARAMETERS, KEY, ROUND).check(slots)


def test_a_sum_with_a_contribution_of_another_round_is_found():
    other = tagged(6, tags=Tags(PARAMETERS, KEY, b"earlier"))
    assert refused(combined([1, 1], tagged(5), other))


def test_what_tags_alone_do_not_find():
    """Tags are linear, so whatever maps ciphertexts linearly, as wholes, keeps them.

    None of it is open to an aggregator: every row's c1 is fixed by the seeds that the clients
    signed, in their order, so that it can add to a sum what it knows and nothing else. The test
    below does to ciphertexts what this one does to slots.
    """
    one, two = tagged(7), tagged(8)
    TAGS.check(np.zeros_like(one))
    TAGS.check(combined([5], one))
    TAGS.check(combined([-1], one))
    TAGS.check(combined([2, 3], one, two))
    TAGS.check(one[::-1])
    TAGS.check(combined([1, 1], one, one[::-1]))


class TestCiphertexts:
    """What an aggregator can do to a sum of ciphertexts under signed seeds."""

    SECRET = SharedSecret.generate(shared_context(PARAMETERS), frames.ciphertext_shape(PARAMETERS))

    @classmethod
    def encrypted(cls, seed):
        values = np.random.default_rng(seed).integers(-2047, 2048, 20_000)
        slots = pack(values, PARAMETERS)
        TAGS.write(slots)
        c0, seeds = bfv.encrypt_seeded(cls.SECRET, slots, PARAMETERS)
        return slots, c0.astype(object), seeds

    @classmethod
    def opened(cls, c0, seeds):
        reduced = (c0 % COEFF_MODULUS).astype(np.uint64)
        return bfv.decrypt_seeded(cls.SECRET, reduced, np.stack(seeds), PARAMETERS)

    def test_the_identity_alone_keeps_the_tags(self):
        slots, c0, seeds = zip(*map(self.encrypted, (1, 2)), strict=True)
        both = c0[0] + c0[1]
        total = self.opened(both, seeds)
        TAGS.check(total)
        np.testing.assert_array_equal(total, combined([1, 1], *slots))

        one = np.zeros_like(both)
        one[1, 0] = COEFF_MODULUS // T + 1
        for changed in (
            2 * both,
            -both,
            0 * both,
            both[::-1],
            both + both[::-1],
            c0[0],
            both + c0[0],
            both - c0[1],
            np.roll(both, 1, axis=1),
            both + one,
            both - one,
        ):
            assert refused(self.opened(changed, seeds))
        assert refused(self.opened(both, seeds[:1]))
        assert refused(self.opened(both, [seeds[0][::-1], seeds[1][::-1]]))

    def test_noise_that_leaves_the_plaintext_alone_passes(self):
        """Nothing else is meant to be noticed: a shift far below q / 2t is rounded away."""
        _, c0, seeds = self.encrypted(3)
        TAGS.check(self.opened(c0 + 500, [seeds]))


def test_what_is_no_batch_of_slots_is_refused():
    slots = tagged(9)
    for wrong in (
        slots[:, :-1],
        slots[0],
        slots[:0],
        slots.astype(np.int64),
        np.full((1, 4096), 2**60, dtype=np.uint64),
    ):
        with pytest.raises(EncryptionError):
            TAGS.check(wrong)
    with pytest.raises(EncryptionError, match="uint64"):
        TAGS.write(np.zeros((1, 4096), dtype=np.int64))


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_length_is_refused(key):
    with pytest.raises(EncryptionError, match="32 bytes"):
        Tags(PARAMETERS, key, ROUND)


def test_vectors_are_secret_with_a_shared_key_and_public_with_a_key_holder():
    held = derive(num_clients=10, bits=12, num_params=100, custody=Custody.KEY_HOLDER)
    for parameters, key in ((held, KEY), (PARAMETERS, PUBLIC)):
        with pytest.raises(EncryptionError, match="secret with shared_key and public with key_ho"):
            Tags(parameters, key, ROUND)
    slots = np.zeros((1, 4096), dtype=np.uint64)
    slots[0, :7] = range(7)
    Tags(held, PUBLIC, tag_context("run", 3, "key")).write(slots)
    Tags(held, PUBLIC, tag_context("run", 3, "key")).check(slots)
    for other in (("nur", 3, "key"), ("run", 4, "key"), ("run", 3, "kex")):
        assert refused(slots, Tags(held, PUBLIC, tag_context(*other)))


def test_a_round_is_named_by_run_number_and_key():
    assert tag_context("run", 3, "key") == ROUND


def test_nothing_secret_is_printed():
    assert repr(TAGS) == "Tags(secret)"


def test_tags_are_neither_pickled_nor_copied():
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(EncryptionError, match="pickled"):
            take(TAGS)
