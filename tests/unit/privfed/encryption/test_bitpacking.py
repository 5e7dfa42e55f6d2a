import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.encryption.bitpacking import pack_rows, row_bytes, unpack_rows
from privfed.errors import MessageError

WIDTHS = range(1, 65)
PLANES = (32, 32, 16, 8, 4, 2, 1)


def numbers(width: int, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Random numbers of a width, with both extremes at both ends of every row."""
    random = np.random.default_rng(seed)
    drawn = random.integers(0, 2**64 - 1, shape, dtype=np.uint64, endpoint=True)
    drawn >>= np.uint64(64 - width)
    drawn[:, [0, -1]] = 2**width - 1
    drawn[:, 1] = 0
    return drawn


def read_bit_by_bit(packed: bytes, count: int, width: int) -> list[int]:
    """The documented layout, read from one whole number.

    Planes lie one after the other, the low bits of the numbers first. In a plane of p >= 8 bits
    number i starts at bit i * p. In a narrower one byte b holds number j * (count p / 8) + b from
    its bit j * p on.
    """
    everything = int.from_bytes(packed, "little")
    found = [0] * count
    offset = shift = 0
    left = width
    for plane in PLANES:
        if plane > left:
            continue
        left -= plane
        part = count * plane // 8
        for i in range(count):
            at = i * plane if plane >= 8 else 8 * (i % part) + plane * (i // part)
            found[i] |= ((everything >> (offset + at)) & ((1 << plane) - 1)) << shift
        offset += count * plane
        shift += plane
    return found


def test_layout_by_hand():
    """11 = 8 + 2 + 1 bits: the low bytes, then bits 8 and 9 by quarters, then bit 10 by eighths."""
    row = np.array([[0x7FF, 0, 0x100, 0x200, 0x400, 0x3C, 0, 0]], dtype=np.uint64)
    low = "ff 00 00 00 00 3c 00 00"
    # First byte: numbers 0, 2, 4, 6 = 3, 1, 0, 0; second byte: numbers 1, 3, 5, 7 = 0, 2, 0, 0.
    middle = f"{0b00_00_01_11:02x} {0b00_00_10_00:02x}"
    top = f"{0b0001_0001:02x}"
    assert pack_rows(row, 11).tobytes() == bytes.fromhex(low + middle + top)


def test_byte_aligned_widths_are_little_endian():
    row = np.zeros((1, 8), dtype=np.uint64)
    row[0, :2] = [0x0123456789ABCDEF, 1]
    assert pack_rows(row, 64)[0, :8].tobytes().hex() == "efcdab8901000000"
    assert pack_rows(row, 64)[0, 32:36].tobytes().hex() == "67452301"
    assert pack_rows(row & np.uint64(0xFFFF), 16)[0, :4].tobytes().hex() == "efcd0100"


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_has_the_documented_layout(width):
    for count in (8, 16, 40):
        rows = numbers(width, (3, count), seed=width)
        packed = pack_rows(rows, width)
        assert packed.shape == (3, count * width // 8)
        assert packed.dtype == np.uint8
        for row, came in zip(rows, packed, strict=True):
            assert read_bit_by_bit(came.tobytes(), count, width) == [int(each) for each in row]
        np.testing.assert_array_equal(unpack_rows(packed, count, width), rows)


@given(
    width=st.integers(1, 64),
    rows=st.integers(0, 4),
    eighths=st.integers(1, 40),
    seed=st.integers(0, 2**32),
)
def test_round_trip(width, rows, eighths, seed):
    drawn = numbers(width, (rows, 8 * eighths), seed)
    before = drawn.copy()
    packed = pack_rows(drawn, width)
    assert packed.shape == (rows, row_bytes(8 * eighths, width)) == (rows, eighths * width)
    found = unpack_rows(packed, 8 * eighths, width)
    np.testing.assert_array_equal(found, before)
    np.testing.assert_array_equal(drawn, before)
    assert found.dtype == np.uint64


@given(width=st.integers(1, 64), seed=st.integers(0, 2**32))
def test_no_bit_is_wasted(width, seed):
    """Any bytes are the packing of some numbers: nothing in them is ignored."""
    packed = np.random.default_rng(seed).integers(0, 256, (2, 3 * width), dtype=np.uint8)
    np.testing.assert_array_equal(pack_rows(unpack_rows(packed, 24, width), width), packed)


@pytest.mark.parametrize("width", [3, 8, 50, 64])
def test_the_order_in_memory_does_not_matter(width):
    rows = numbers(width, (4, 48))
    expected = pack_rows(rows, width)
    np.testing.assert_array_equal(pack_rows(np.asfortranarray(rows), width), expected)
    np.testing.assert_array_equal(pack_rows(np.repeat(rows, 2, axis=1)[:, ::2], width), expected)
    wide = np.repeat(expected, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(unpack_rows(wide, 48, width), rows)
    np.testing.assert_array_equal(unpack_rows(np.asfortranarray(expected), 48, width), rows)


def test_row_bytes_by_hand():
    assert [row_bytes(4096, width) for width in (60, 50, 1)] == [30_720, 25_600, 512]


@pytest.mark.parametrize("width", [1, 2, 31, 32, 33, 60, 63])
def test_a_number_that_does_not_fit_is_refused(width):
    rows = np.zeros((2, 8), dtype=np.uint64)
    rows[1, 7] = 2**width - 1
    assert pack_rows(rows, width).any()
    for bad in (2**width, 2**64 - 1):
        rows[1, 7] = bad
        with pytest.raises(MessageError, match=f"fit into {width} bits"):
            pack_rows(rows, width)


@pytest.mark.parametrize("width", [0, -1, 65, 128])
def test_other_widths_are_refused(width):
    with pytest.raises(MessageError, match="bits"):
        pack_rows(np.zeros((1, 8), dtype=np.uint64), width)
    with pytest.raises(MessageError, match="bits"):
        unpack_rows(np.zeros((1, max(width, 0)), dtype=np.uint8), 8, width)


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((1, 8), dtype=np.int64),
        np.zeros((1, 8), dtype=np.uint32),
        np.zeros(8, dtype=np.uint64),
        np.zeros((1, 1, 8), dtype=np.uint64),
        np.zeros((1, 7), dtype=np.uint64),
        np.zeros((1, 12), dtype=np.uint64),
        np.zeros((1, 0), dtype=np.uint64),
    ],
)
def test_other_numbers_are_refused(rows):
    with pytest.raises(MessageError, match="uint64"):
        pack_rows(rows, 8)


@pytest.mark.parametrize(
    ("packed", "count"),
    [
        (np.zeros((1, 8), dtype=np.int8), 8),
        (np.zeros(8, dtype=np.uint8), 8),
        (np.zeros((1, 7), dtype=np.uint8), 8),
        (np.zeros((1, 9), dtype=np.uint8), 8),
        (np.zeros((1, 12), dtype=np.uint8), 12),
        (np.zeros((1, 0), dtype=np.uint8), 0),
        (np.zeros((1, 0), dtype=np.uint8), -8),
    ],
)
def test_other_bytes_are_refused(packed, count):
    with pytest.raises(MessageError, match="bytes"):
        unpack_rows(packed, count, 8)
