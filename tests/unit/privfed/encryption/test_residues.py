import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.encryption import residues
from privfed.encryption.noise import COEFF_MODULUS
from privfed.errors import MessageError

Q = COEFF_MODULUS
BITS = st.integers(1, 60)


def batch(*values: int, ciphertexts: int = 1) -> np.ndarray:
    """Residues that start with `values` and are zero after them."""
    array = np.zeros((ciphertexts, 4096), dtype=np.uint64)
    array.reshape(-1)[: len(values)] = np.array(values, dtype=np.uint64)
    return array


def random_batch(seed: int, ciphertexts: int = 2) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, Q, size=(ciphertexts, 4096), dtype=np.uint64)
    drawn[:, :4] = [0, 1, Q - 2, Q - 1]
    return drawn


def test_wire_form_by_hand():
    """0x0123456789abcdef without its last digit is 56 = 32 + 16 + 8 bits, in three pieces."""
    rows = residues.to_rows([batch(0x0123456789ABCDEF)], [56])
    assert rows.shape == (1, 7 * 4096)
    assert rows[0, :8].tobytes().hex() == "debc9a7800000000"
    assert rows[0, 4 * 4096 : 4 * 4096 + 4].tobytes().hex() == "56340000"
    assert rows[0, 6 * 4096 : 6 * 4096 + 2].tobytes().hex() == "1200"
    (received,) = residues.from_rows(rows, [56])
    assert int(received[0, 0]) == 0x0123456789ABCDE8
    assert int(received[0, 1]) == 8


def test_bytes_of_a_ciphertext_by_hand():
    assert residues.ciphertext_bytes((50,)) == 25_600
    assert residues.ciphertext_bytes((51, 60)) == 26_112 + 30_720


@given(seed=st.integers(0, 2**32), kept=BITS, ciphertexts=st.integers(1, 3))
def test_dropped_bits_cost_at_most_half_their_range(seed, kept, ciphertexts):
    sent = random_batch(seed, ciphertexts)
    (received,) = residues.from_rows(residues.to_rows([sent], [kept]), [kept])
    residues.check(received)
    dropped = 60 - kept
    error = (received.astype(object) - sent.astype(object) + Q // 2) % Q - Q // 2
    if dropped == 0:
        assert not error.any()
    else:
        assert error.min() >= -(2 ** (dropped - 1)) + 1
        assert error.max() <= 2 ** (dropped - 1)


@given(kept=st.integers(36, 59))
def test_the_error_is_centred_and_reaches_its_bound(kept):
    low = 2 ** (60 - kept)
    sent = batch(0, low - 1, 5 * low, 6 * low - 1)
    (received,) = residues.from_rows(residues.to_rows([sent], [kept]), [kept])
    error = received[0, :4].astype(object) - sent[0, :4].astype(object)
    assert list(error) == [low // 2, -(low // 2) + 1] * 2


def test_both_polynomials_come_back_in_their_order():
    c0, c1 = random_batch(1), random_batch(2)
    rows = residues.to_rows([c0, c1], (51, 60))
    assert rows.shape == (2, residues.ciphertext_bytes((51, 60)))
    np.testing.assert_array_equal(rows[:, :26_112], residues.to_rows([c0], [51]))
    np.testing.assert_array_equal(rows[:, 26_112:], residues.to_rows([c1], [60]))
    first, second = residues.from_rows(rows, (51, 60))
    middles = (c0.astype(object) // 512 * 512 + 256) % Q
    np.testing.assert_array_equal(first, middles.astype(np.uint64))
    np.testing.assert_array_equal(second, c1)


def test_the_middle_of_the_last_gap_is_reduced():
    """q - 1 is 2^60 - 2^14: with 15 bits dropped, its gap begins below q and ends above it."""
    (received,) = residues.from_rows(residues.to_rows([batch(Q - 1)], [45]), [45])
    assert int(received[0, 0]) == (2**60 - 2**15 + 2**14) % Q == Q - 1
    (received,) = residues.from_rows(residues.to_rows([batch(Q - 1)], [44]), [44])
    assert int(received[0, 0]) == (2**60 - 2**16 + 2**15) % Q
    (received,) = residues.from_rows(residues.to_rows([batch(Q - 1)], [56]), [56])
    assert int(received[0, 0]) == (Q - 1 + 8) % Q == 7


@pytest.mark.parametrize("kept", [60, 59, 56, 50, 48, 47])
def test_the_largest_number_allowed_is_read_and_the_next_refused(kept):
    largest = (Q - 1) >> (60 - kept)
    numbers = np.zeros((1, 4096), dtype=np.uint64)
    numbers[0, 4095] = largest
    rows = residues.pack_rows(numbers, kept)
    (received,) = residues.from_rows(rows, [kept])
    middle = 2 ** (59 - kept) if kept < 60 else 0
    assert int(received[0, 4095]) == ((largest << (60 - kept)) + middle) % Q
    numbers[0, 4095] = largest + 1
    with pytest.raises(MessageError, match=r"below the coefficient modulus .* 1 are not"):
        residues.from_rows(residues.pack_rows(numbers, kept), [kept])


def test_rows_of_another_length_are_refused():
    rows = residues.to_rows([random_batch(0)], [50])
    for wrong in (rows[:, :-1], np.pad(rows, ((0, 0), (0, 1))), rows[0], rows[:, :0]):
        with pytest.raises(MessageError, match="rows of 25600 bytes"):
            residues.from_rows(wrong, [50])
    with pytest.raises(MessageError, match="rows of 56832 bytes"):
        residues.from_rows(rows, [50, 61])
    with pytest.raises(MessageError, match="must be bytes"):
        residues.from_rows(rows.astype(np.int64), [50])


@given(left=st.integers(0, 2**32), right=st.integers(0, 2**32))
def test_adding_is_addition_modulo_q_and_subtracting_undoes_it(left, right):
    total, other = random_batch(left), random_batch(right)
    before = total.copy()
    expected = (before.astype(object) + other.astype(object)) % Q
    residues.add_into(total, other)
    np.testing.assert_array_equal(total, expected.astype(np.uint64))
    residues.subtract_from(total, other)
    np.testing.assert_array_equal(total, before)
    np.testing.assert_array_equal(other, random_batch(right))


def test_adding_and_subtracting_at_the_edges():
    total = batch(Q - 1, Q - 1, Q - 1, 0)
    residues.add_into(total, batch(Q - 1, 1, 0, 0))
    assert [int(value) for value in total[0, :4]] == [Q - 2, 0, Q - 1, 0]
    residues.subtract_from(total, batch(Q - 1, 1, 0, 1))
    assert [int(value) for value in total[0, :4]] == [Q - 1, Q - 1, Q - 1, Q - 1]


def test_a_view_is_added_to_in_place():
    whole = random_batch(0, ciphertexts=3)
    expected = whole.copy()
    residues.add_into(whole[1:], batch(5, ciphertexts=2))
    expected[1, 0] += np.uint64(5)
    np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize("bad", [Q, 2**60, 2**64 - 1])
def test_residues_out_of_range_are_refused(bad):
    for call in (
        lambda: residues.check(batch(bad)),
        lambda: residues.to_rows([batch(bad)], [50]),
        lambda: residues.to_rows([batch(), batch(bad)], [50, 60]),
        lambda: residues.add_into(batch(bad), batch()),
        lambda: residues.add_into(batch(), batch(bad)),
        lambda: residues.subtract_from(batch(bad), batch()),
        lambda: residues.subtract_from(batch(), batch(bad)),
    ):
        with pytest.raises(MessageError, match="below the coefficient modulus"):
            call()
    residues.check(batch(Q - 1))


def test_other_shapes_and_types_are_refused():
    for wrong in (
        np.zeros(4096, dtype=np.uint64),
        np.zeros((1, 4095), dtype=np.uint64),
        np.zeros((0, 4096), dtype=np.uint64),
        np.zeros((1, 4096), dtype=np.int64),
        np.zeros((1, 1, 4096), dtype=np.uint64),
    ):
        for call in (
            lambda wrong=wrong: residues.check(wrong),
            lambda wrong=wrong: residues.to_rows([wrong], [50]),
            lambda wrong=wrong: residues.add_into(batch(), wrong),
            lambda wrong=wrong: residues.subtract_from(wrong, batch()),
        ):
            with pytest.raises(MessageError, match="uint64"):
                call()
    for change in (residues.add_into, residues.subtract_from):
        for shapes in ((1, 2), (2, 1)):
            with pytest.raises(MessageError, match="as many ciphertexts"):
                change(*(batch(ciphertexts=count) for count in shapes))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_become_rows_without_a_copy(kind):
    rows = residues.to_rows([random_batch(3)], [50])
    found = residues.rows_of(kind(rows.tobytes()), 2, [50])
    np.testing.assert_array_equal(found, rows)
    assert not found.flags.owndata


@pytest.mark.parametrize("change", [-1, 1, -7, 25_600, -25_600])
def test_truncated_and_overlong_bytes_are_refused(change):
    data = residues.to_rows([random_batch(0)], [50]).tobytes()
    data = data[:change] if change < 0 else data + bytes(change)
    with pytest.raises(MessageError, match="51200"):
        residues.rows_of(data, 2, [50])


def test_no_ciphertexts_are_refused():
    with pytest.raises(MessageError, match="at least one"):
        residues.rows_of(b"", 0, [50])
    with pytest.raises(MessageError, match="at least one"):
        residues.seeds_from_bytes(b"", 0)


def test_seeds_round_trip_and_are_refused_otherwise():
    seeds = np.random.default_rng(0).integers(0, 256, size=(3, 64), dtype=np.uint8)
    data = residues.seeds_to_bytes(seeds)
    assert data == b"".join(bytes(seed) for seed in seeds)
    np.testing.assert_array_equal(residues.seeds_from_bytes(data, 3), seeds)
    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(MessageError, match="seeds"):
            residues.seeds_from_bytes(wrong, 3)
    for bad in (seeds[:, :63], seeds[0], seeds[:0], seeds.astype(np.int8)):
        with pytest.raises(MessageError, match="seeds"):
            residues.seeds_to_bytes(bad)


def test_seed_set_shows_repetition():
    seeds = np.zeros((2, 3, 64), dtype=np.uint8)
    seeds[..., 63] = np.arange(6).reshape(2, 3)
    assert len(residues.seed_set(seeds)) == 6
    assert bytes(63) + b"\x05" in residues.seed_set(seeds)
    assert residues.seed_set(seeds[:, 1]) == {bytes(63) + b"\x01", bytes(63) + b"\x04"}
    seeds[1, 2] = seeds[0, 0]
    assert len(residues.seed_set(seeds)) == 5
