import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.encryption import residues
from privfed.encryption.packing import COEFF_MODULUS
from privfed.errors import MessageError

Q = COEFF_MODULUS


def batch(*values: int, ciphertexts: int = 1) -> np.ndarray:
    """Residues that start with `values` and are zero after them."""
    array = np.zeros((ciphertexts, 4096), dtype=np.uint64)
    array.reshape(-1)[: len(values)] = np.array(values, dtype=np.uint64)
    return array


def random_batch(seed: int, ciphertexts: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, Q, size=(ciphertexts, 4096), dtype=np.uint64)


def test_wire_form_by_hand():
    """0x0123456789abcdef loses its last digit f and goes out as 7 bytes, lowest first."""
    data = residues.to_bytes(batch(0x0123456789ABCDEF))
    assert len(data) == 28_672
    assert data[:14] == bytes.fromhex("debc9a78563412") + bytes(7)
    received = residues.from_bytes(data, 1)
    assert int(received[0, 0]) == 0x0123456789ABCDE8
    assert int(received[0, 1]) == 8


@given(seed=st.integers(0, 2**32), ciphertexts=st.integers(1, 3))
def test_the_missing_bits_are_centred(seed, ciphertexts):
    sent = random_batch(seed, ciphertexts)
    received = residues.from_bytes(residues.to_bytes(sent), ciphertexts)
    residues.check(received)
    error = (received.astype(object) - sent.astype(object) + Q // 2) % Q - Q // 2
    assert error.min() >= -7
    assert error.max() <= 8
    assert abs(float(error.mean()) - 0.5) < 0.5


def test_the_largest_residues_survive_the_wire():
    received = residues.from_bytes(residues.to_bytes(batch(Q - 1, Q - 2)), 1)
    assert [int(value) for value in received[0, :2]] == [(Q - 1 + 8) % Q, Q - 17 + 8]


@given(left=st.integers(0, 2**32), right=st.integers(0, 2**32))
def test_add_is_addition_modulo_q(left, right):
    a, b = random_batch(left), random_batch(right)
    expected = (a.astype(object) + b.astype(object)) % Q
    np.testing.assert_array_equal(residues.add(a, b), expected.astype(np.uint64))
    np.testing.assert_array_equal(residues.add(a, b), residues.add(b, a))


def test_add_at_the_edges():
    total = residues.add(batch(Q - 1, Q - 1, Q - 1, 0), batch(Q - 1, 1, 0, 0))
    assert [int(value) for value in total[0, :4]] == [Q - 2, 0, Q - 1, 0]


def test_add_leaves_its_arguments_alone():
    left, right = random_batch(1), random_batch(2)
    residues.add(left, right)
    np.testing.assert_array_equal(left, random_batch(1))
    np.testing.assert_array_equal(right, random_batch(2))


@pytest.mark.parametrize("change", [-1, 1, -7, 28_672, -28_672])
def test_truncated_and_overlong_bytes_are_refused(change):
    data = residues.to_bytes(random_batch(0))
    data = data[:change] if change < 0 else data + bytes(change)
    with pytest.raises(MessageError, match="57344"):
        residues.from_bytes(data, 2)


def test_no_ciphertexts_are_refused():
    with pytest.raises(MessageError, match="at least one"):
        residues.from_bytes(b"", 0)
    with pytest.raises(MessageError, match="at least one"):
        residues.to_bytes(np.zeros((0, 4096), dtype=np.uint64))


def test_bytes_of_a_number_above_q_are_refused():
    largest = (Q - 1) >> 4
    data = bytearray(residues.to_bytes(batch()))
    data[:7] = largest.to_bytes(7, "little")
    assert residues.from_bytes(bytes(data), 1)[0, 0] == (Q - 1 + 8) % Q
    data[:7] = (largest + 1).to_bytes(7, "little")
    with pytest.raises(MessageError, match="below the coefficient modulus"):
        residues.from_bytes(bytes(data), 1)


@pytest.mark.parametrize("bad", [Q, 2**64 - 1])
def test_residues_out_of_range_are_refused(bad):
    for call in (
        lambda: residues.check(batch(bad)),
        lambda: residues.to_bytes(batch(bad)),
        lambda: residues.add(batch(bad), batch()),
        lambda: residues.add(batch(), batch(bad)),
    ):
        with pytest.raises(MessageError, match="below the coefficient modulus"):
            call()


def test_other_shapes_and_types_are_refused():
    for wrong in (
        np.zeros(4096, dtype=np.uint64),
        np.zeros((1, 4095), dtype=np.uint64),
        np.zeros((1, 4096), dtype=np.int64),
        np.zeros((1, 1, 4096), dtype=np.uint64),
    ):
        with pytest.raises(MessageError, match="uint64"):
            residues.check(wrong)
    with pytest.raises(MessageError, match="as many ciphertexts"):
        residues.add(batch(), batch(ciphertexts=2))


def test_seeds_round_trip_and_are_refused_otherwise():
    seeds = np.random.default_rng(0).integers(0, 256, size=(3, 64), dtype=np.uint8)
    data = residues.seeds_to_bytes(seeds)
    assert len(data) == 3 * 64
    np.testing.assert_array_equal(residues.seeds_from_bytes(data, 3), seeds)
    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(MessageError, match="seeds"):
            residues.seeds_from_bytes(wrong, 3)
    with pytest.raises(MessageError, match="seeds"):
        residues.seeds_to_bytes(seeds[:, :63])


def test_seed_set_shows_repetition():
    seeds = np.zeros((2, 3, 64), dtype=np.uint8)
    seeds[..., 0] = np.arange(6).reshape(2, 3)
    assert len(residues.seed_set(seeds)) == 6
    seeds[1, 2] = seeds[0, 0]
    assert len(residues.seed_set(seeds)) == 5
