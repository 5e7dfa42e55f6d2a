import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.encryption.packing import batches, pack, unpack, without_padding
from privfed.encryption.parameters import derive
from privfed.errors import EncryptionError
from privfed.settings.encryption import Custody

BITS = st.integers(4, 16)
CUSTODIES = st.sampled_from(Custody)
BOTH = pytest.mark.parametrize("custody", Custody)


def parameters_of(custody=Custody.SHARED_KEY, **changes):
    """Eight clients, 12 bits, so many values that three digits in a slot pay."""
    asked = {"num_clients": 8, "bits": 12, "num_params": 24_000, "custody": custody}
    return derive(**{**asked, **changes})


EIGHT = parameters_of()


def packed_sum(updates, parameters):
    """Sum of packed updates modulo t, as decryption gives it."""
    total = sum(pack(update, parameters).astype(object) for update in updates)
    return (total % parameters.plain_modulus).astype(np.uint64)


class TestPack:
    def test_by_hand(self):
        """Value j * slots + s is digit j of slot s: 5 + 7 R - 2 R^2, modulo t."""
        assert (EIGHT.digits, EIGHT.value_slots) == (3, 4094)
        values = np.zeros(2 * 4094 + 1, dtype=np.int64)
        values[[0, 4094, 8188]] = [5, 7, -2]
        slots = pack(values, EIGHT)
        radix = EIGHT.radix
        assert slots.shape == (1, 4096)
        assert slots.dtype == np.uint64
        assert int(slots[0, 0]) == (5 + 7 * radix - 2 * radix**2) % EIGHT.plain_modulus
        assert not slots[0, 1:].any()

    def test_a_ciphertext_is_full_before_the_next_begins(self):
        whole = EIGHT.params_per_ciphertext
        values = np.zeros(whole + 1, dtype=np.int64)
        values[[whole - 1, whole]] = [3, 4]
        slots = pack(values, EIGHT)
        assert slots.shape == (2, 4096)
        assert int(slots[0, 4093]) == 3 * EIGHT.radix**2
        assert int(slots[1, 0]) == 4

    def test_tag_slots_stay_empty(self):
        slots = pack(np.full(24_000, 2047), EIGHT)
        assert EIGHT.tag_slots == 2
        assert not slots[:, -2:].any()
        assert slots[0, :-2].all()
        holder = parameters_of(Custody.KEY_HOLDER)
        assert holder.tag_slots == 3
        assert not pack(np.full(24_000, 2047), holder)[:, -3:].any()
        assert pack(np.full(24_000, 2047), holder)[0, :-3].all()

    @pytest.mark.parametrize("bad", [2048, -2048, np.iinfo(np.int64).min, np.iinfo(np.int64).max])
    def test_a_value_that_would_spill_is_refused(self, bad):
        assert pack(np.array([2047, -2047]), EIGHT).any()
        with pytest.raises(EncryptionError, match="spill"):
            pack(np.array([0, bad]), EIGHT)

    @pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64])
    def test_any_integers_are_packed_alike(self, kind):
        values = np.array([-2047, 0, 2047, -1], dtype=kind)
        np.testing.assert_array_equal(pack(values, EIGHT), pack(values.astype(np.int64), EIGHT))

    @pytest.mark.parametrize(
        "values",
        [
            np.zeros(3),
            np.zeros((2, 2), dtype=np.int64),
            np.zeros(0, dtype=np.int64),
            np.zeros(3, dtype=bool),
        ],
    )
    def test_other_shapes_and_types_are_refused(self, values):
        with pytest.raises(EncryptionError, match="integers"):
            pack(values, EIGHT)


class TestSums:
    @given(num_clients=st.integers(1, 40), bits=BITS, custody=CUSTODIES, data=st.data())
    def test_they_come_out_exactly(self, num_clients, bits, custody, data):
        size = data.draw(st.sampled_from([1, 2, 4095, 4096, 9001, 24_001]))
        parameters = derive(num_clients=num_clients, bits=bits, num_params=size, custody=custody)
        random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        largest = parameters.max_magnitude
        updates = random.integers(-largest, largest + 1, size=(num_clients, size))
        updates[:, 0] = data.draw(st.sampled_from([largest, -largest]))
        slots = packed_sum(updates, parameters)
        assert slots.shape == (parameters.num_ciphertexts, 4096)
        assert slots.max() < parameters.plain_modulus
        found = without_padding(unpack(slots, parameters), parameters)
        np.testing.assert_array_equal(found, updates.sum(axis=0))
        assert found.dtype == np.int64

    @BOTH
    @pytest.mark.parametrize("past", [-1, 0, 1])
    def test_around_a_whole_ciphertext(self, custody, past):
        size = parameters_of(custody).params_per_ciphertext + past
        parameters = parameters_of(custody, num_params=size)
        assert parameters.num_ciphertexts == (2 if past == 1 else 1)
        updates = np.random.default_rng(0).integers(-2047, 2048, size=(8, size))
        found = without_padding(unpack(packed_sum(updates, parameters), parameters), parameters)
        np.testing.assert_array_equal(found, updates.sum(axis=0))

    @BOTH
    @pytest.mark.parametrize(
        ("clients", "bits"),
        [(1, 4), (1, 8), (1, 16), (3, 4), (3, 16), (8, 12), (1000, 4), (1000, 8), (1000, 16)],
    )
    def test_every_extreme_value_stays_in_its_digit(self, custody, clients, bits):
        """All signs of all digits of a slot, by all clients at once."""
        parameters = derive(num_clients=clients, bits=bits, num_params=100_000, custody=custody)
        largest = clients * parameters.max_magnitude
        grid = np.indices((3,) * parameters.digits).reshape(parameters.digits, -1) - 1
        repeats = -(-parameters.value_slots // grid.shape[1])
        signs = np.tile(grid, repeats)[:, : parameters.value_slots].reshape(-1)
        one = pack(signs * parameters.max_magnitude, parameters).astype(object)
        total = (one * clients % parameters.plain_modulus).astype(np.uint64)
        np.testing.assert_array_equal(unpack(total, parameters), signs * largest)

    @BOTH
    def test_fewer_clients_than_allowed(self, custody):
        parameters = parameters_of(custody)
        updates = np.random.default_rng(1).integers(-2047, 2048, size=(3, 24_000))
        found = without_padding(unpack(packed_sum(updates, parameters), parameters), parameters)
        np.testing.assert_array_equal(found, updates.sum(axis=0))

    def test_tags_are_not_read(self):
        values = np.arange(100)
        slots = pack(values, EIGHT)
        slots[:, -2:] = EIGHT.plain_modulus // 2
        np.testing.assert_array_equal(unpack(slots, EIGHT)[:100], values)

    @BOTH
    @pytest.mark.parametrize("at_once", [1, 2, 5])
    def test_part_by_part_is_the_same_as_all_at_once(self, custody, at_once):
        parameters = parameters_of(custody, num_params=40_000)
        numbers = np.random.default_rng(2).integers(-2047, 2048, 40_000)
        parts = [pack(part, parameters) for part in batches(numbers, parameters, at_once)]
        assert [len(part) for part in parts[:-1]] == [at_once] * (len(parts) - 1)
        np.testing.assert_array_equal(np.concatenate(parts), pack(numbers, parameters))
        sums = np.concatenate([unpack(part, parameters) for part in parts])
        np.testing.assert_array_equal(without_padding(sums, parameters), numbers)


class TestUnpack:
    def test_slots_that_no_sum_gives_are_refused(self):
        slots = pack(np.arange(100), EIGHT)
        half = (EIGHT.radix**EIGHT.digits - 1) // 2
        modulus = EIGHT.plain_modulus
        for place in (0, 5, EIGHT.value_slots - 1):
            for good in (half, modulus - half, modulus - 1, 0):
                slots[0, place] = good
                unpack(slots, EIGHT)
            for bad in (half + 1, modulus - half - 1, modulus, modulus + 1, 2**64 - 1):
                changed = slots.copy()
                changed[0, place] = bad
                with pytest.raises(EncryptionError, match="packed sum"):
                    unpack(changed, EIGHT)

    @pytest.mark.parametrize(
        "wrong",
        [
            np.zeros((1, 4096), dtype=np.int64),
            np.zeros((1, 4095), dtype=np.uint64),
            np.zeros((1, 4094), dtype=np.uint64),
            np.zeros(4096, dtype=np.uint64),
            np.zeros((1, 1, 4096), dtype=np.uint64),
        ],
    )
    def test_other_shapes_and_types_are_refused(self, wrong):
        with pytest.raises(EncryptionError, match="uint64"):
            unpack(wrong, EIGHT)


class TestPadding:
    SUMS = np.arange(EIGHT.num_ciphertexts * EIGHT.params_per_ciphertext)

    def test_it_is_cut_off(self):
        padded = np.where(self.SUMS < 24_000, self.SUMS, 0)
        np.testing.assert_array_equal(without_padding(padded, EIGHT), np.arange(24_000))

    @pytest.mark.parametrize("place", [24_000, 24_001, -1])
    @pytest.mark.parametrize("value", [1, -1])
    def test_it_must_be_zero(self, place, value):
        padded = np.zeros_like(self.SUMS)
        padded[place] = value
        with pytest.raises(EncryptionError, match="padding"):
            without_padding(padded, EIGHT)

    @pytest.mark.parametrize("change", [-1, 1, EIGHT.params_per_ciphertext])
    def test_more_or_fewer_ciphertexts_are_refused(self, change):
        for wrong in (np.zeros(len(self.SUMS) + change, dtype=np.int64), self.SUMS.reshape(2, -1)):
            with pytest.raises(EncryptionError, match="shape"):
                without_padding(wrong, EIGHT)


class TestBatches:
    def test_by_hand(self):
        parameters = dataclasses.replace(EIGHT, num_params=2 * 12_282 + 5)
        numbers = np.arange(parameters.num_params)
        parts = list(batches(numbers, parameters, 1))
        assert [len(part) for part in parts] == [12_282, 12_282, 5]
        np.testing.assert_array_equal(np.concatenate(parts), numbers)
        assert [len(part) for part in batches(numbers, parameters, 2)] == [24_564, 5]
        assert [len(part) for part in batches(numbers, parameters, 3)] == [24_569]

    @pytest.mark.parametrize("shape", [(23_999,), (24_001,), (0,), (1, 24_000), (24_000, 1)])
    def test_an_update_of_another_length_is_refused(self, shape):
        with pytest.raises(EncryptionError, match="24000"):
            next(batches(np.zeros(shape, dtype=np.int64), EIGHT, 8))
