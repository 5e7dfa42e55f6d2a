import struct

import numpy as np
import pytest

from privfed.encryption import frames
from privfed.encryption.packing import COEFF_MODULUS, derive
from privfed.errors import MessageError

PARAMETERS = derive(num_clients=10, bits=12)
SEED = bytes(range(64))
FIRST = np.random.default_rng(0).integers(0, COEFF_MODULUS, size=4096, dtype=np.uint64)
SECOND = np.random.default_rng(1).integers(0, COEFF_MODULUS, size=4096, dtype=np.uint64)
SEEDED = frames.build_seeded(PARAMETERS, FIRST, SEED)
FULL = frames.build_full(PARAMETERS, FIRST, SECOND)

# Structural fields that both kinds of frame share: name in the error, offset, a wrong value.
LIES = [
    ("magic", 0, b"\x5f"),
    ("header size", 2, b"\x11"),
    ("header", 3, b"\x05"),
    ("header", 4, b"\x04"),
    ("header", 5, b"\x02"),
    ("reserved", 6, b"\x01"),
    ("header", 8, struct.pack("<Q", 2**63)),
    ("parms_id", 16, b"\x00"),
    ("NTT flag", 48, b"\x01"),
    ("size", 49, struct.pack("<Q", 3)),
    ("size", 49, struct.pack("<Q", 2**64 - 1)),
    ("degree", 57, struct.pack("<Q", 8192)),
    ("primes", 65, struct.pack("<Q", 2)),
    ("scale", 73, struct.pack("<d", 2.0)),
    ("scale", 73, struct.pack("<d", float("nan"))),
    ("correction", 81, struct.pack("<Q", 0)),
    ("magic", 89, b"\x00"),
    ("array header", 94, b"\x02"),
    ("array header", 97, struct.pack("<Q", 2**40)),
    ("array length", 105, struct.pack("<Q", 4095)),
]


def replaced(data: bytes, offset: int, piece: bytes) -> bytes:
    return data[:offset] + piece + data[offset + len(piece) :]


def test_parms_id_is_the_one_seal_computes():
    """Golden: SEAL 4.3's first_parms_id() for N = 4096, this prime, and t = 68623891046401."""
    expected = "ee7bfed6a324b758a360252800558890e795c11df44391f6a46a688935bc5dbe"
    assert frames.parms_id(PARAMETERS).hex() == expected


def test_layout_by_hand():
    """Golden: everything before the residues, as SEAL 4.3 wrote it (compression taken off)."""
    prefix = (
        "5ea1100403000000c280000000000000"
        "ee7bfed6a324b758a360252800558890e795c11df44391f6a46a688935bc5dbe"
        "00020000000000000000100000000000000100000000000000000000000000f03f0100000000000000"
        "5ea11004030000001880000000000000"
        "0010000000000000"
    )
    assert len(SEEDED) == 32_962 == frames.seeded_frame_bytes(PARAMETERS)
    assert SEEDED[:113].hex() == prefix
    assert SEEDED[-81:].hex() == "5ea1100403000000510000000000000001" + SEED.hex()
    assert len(FULL) == frames.full_frame_bytes(PARAMETERS)


def test_round_trips():
    c0, seed = frames.parse_seeded(SEEDED, PARAMETERS)
    np.testing.assert_array_equal(c0, FIRST)
    assert seed == SEED
    both = frames.parse_full(FULL, PARAMETERS)
    np.testing.assert_array_equal(both, [FIRST, SECOND])
    later = frames.build_seeded(PARAMETERS, FIRST, SEED, version=(4, 4))
    np.testing.assert_array_equal(frames.parse_seeded(later, PARAMETERS, version=(4, 4))[0], FIRST)
    with pytest.raises(MessageError, match="header"):
        frames.parse_seeded(later, PARAMETERS)


@pytest.mark.parametrize("change", [-1, 1, -81, -32_962])
def test_another_length_is_refused(change):
    for frame, parse in ((SEEDED, frames.parse_seeded), (FULL, frames.parse_full)):
        wrong = frame[:change] if change < 0 else frame + bytes(change)
        with pytest.raises(MessageError, match="length"):
            parse(wrong, PARAMETERS)
    with pytest.raises(MessageError, match="length"):
        frames.parse_full(SEEDED, PARAMETERS)


@pytest.mark.parametrize(("name", "offset", "piece"), LIES)
def test_lies_in_the_structure_are_refused(name, offset, piece):
    for frame, parse in ((SEEDED, frames.parse_seeded), (FULL, frames.parse_full)):
        with pytest.raises(MessageError, match=name):
            parse(replaced(frame, offset, piece), PARAMETERS)


@pytest.mark.parametrize(
    ("name", "from_end", "piece"),
    [
        ("magic", 81, b"\x00"),
        ("seed header", 76, b"\x02"),
        ("seed header", 73, struct.pack("<Q", 0x52)),
        ("generator type", 65, b"\x02"),
    ],
)
def test_lies_about_the_seed_are_refused(name, from_end, piece):
    with pytest.raises(MessageError, match=name):
        frames.parse_seeded(replaced(SEEDED, len(SEEDED) - from_end, piece), PARAMETERS)


def test_no_byte_of_the_structure_is_ignored():
    """Flipping any bit before the residues, or between them and the seed, must be noticed."""
    structure = [*range(113), *range(113 + 8 * 4096, len(SEEDED) - 64)]
    for offset in structure:
        flipped = replaced(SEEDED, offset, bytes([SEEDED[offset] ^ 0x10]))
        with pytest.raises(MessageError):
            frames.parse_seeded(flipped, PARAMETERS)


def test_other_parameters_are_refused():
    with pytest.raises(MessageError, match="parms_id"):
        frames.parse_seeded(SEEDED, derive(num_clients=11, bits=12))


def test_residues_not_below_q_are_refused():
    too_large = struct.pack("<Q", COEFF_MODULUS)
    with pytest.raises(MessageError, match="below"):
        frames.parse_seeded(replaced(SEEDED, 113, too_large), PARAMETERS)
    with pytest.raises(MessageError, match="below"):
        frames.parse_full(replaced(FULL, len(FULL) - 8, too_large), PARAMETERS)
    with pytest.raises(MessageError, match="below"):
        frames.build_seeded(PARAMETERS, np.full(4096, COEFF_MODULUS, dtype=np.uint64), SEED)


def test_building_checks_its_parts():
    with pytest.raises(MessageError, match="64 bytes"):
        frames.build_seeded(PARAMETERS, FIRST, SEED[:-1])
    with pytest.raises(MessageError, match="uint64"):
        frames.build_seeded(PARAMETERS, FIRST[:-1], SEED)
    with pytest.raises(MessageError, match="uint64"):
        frames.build_full(PARAMETERS, FIRST, SECOND.astype(np.int64))


def test_a_header_needs_16_bytes():
    with pytest.raises(MessageError, match="16 bytes"):
        frames.Header.from_bytes(SEEDED[:15])
