import struct

import numpy as np
import pytest

from privfed.encryption import frames
from privfed.encryption.noise import COEFF_MODULUS, SPECIAL_MODULUS
from privfed.encryption.parameters import derive
from privfed.errors import MessageError
from privfed.settings.encryption import Custody

PARAMETERS = derive(num_clients=10, bits=12, num_params=1_000_000, custody=Custody.SHARED_KEY)
HOLDER = derive(num_clients=10, bits=12, num_params=1_000_000, custody=Custody.KEY_HOLDER)
CIPHERTEXT = frames.ciphertext_shape(PARAMETERS)
PUBLIC_KEY = frames.public_key_shape(HOLDER)
SHAPES = {"ciphertext": CIPHERTEXT, "public key": PUBLIC_KEY}
SEED = bytes(range(64))
PREFIX = 113
SINGLE_PREFIX = 88


def polynomial(seed: int, shape: frames.Shape) -> np.ndarray:
    """Random residues below the primes of a shape, the largest ones among them."""
    random = np.random.default_rng(seed)
    drawn = [random.integers(0, prime, 4096, dtype=np.uint64) for prime in shape.primes]
    for part, prime in zip(drawn, shape.primes, strict=True):
        part[:2] = [prime - 1, 0]
    return np.concatenate(drawn)


FIRST, SECOND = polynomial(0, CIPHERTEXT), polynomial(1, CIPHERTEXT)
SEEDED = frames.build_seeded(CIPHERTEXT, FIRST, SEED)
FULL = frames.build_full(CIPHERTEXT, FIRST, SECOND)
SINGLE = frames.build_single(CIPHERTEXT, FIRST)
KEY_FRAME = frames.build_full(PUBLIC_KEY, polynomial(0, PUBLIC_KEY), polynomial(1, PUBLIC_KEY))

# Frame, shape, what parses it, and the offsets of every byte that is structure.
AFTER = PREFIX + 8 * 4096
FRAMES = {
    "seeded": (
        SEEDED,
        CIPHERTEXT,
        frames.parse_seeded,
        [*range(PREFIX), *range(AFTER, AFTER + 17)],
    ),
    "full": (FULL, CIPHERTEXT, frames.parse_full, [*range(PREFIX)]),
    "public key": (KEY_FRAME, PUBLIC_KEY, frames.parse_full, [*range(PREFIX)]),
    "single": (SINGLE, CIPHERTEXT, frames.parse_single, [*range(SINGLE_PREFIX)]),
}
ALL = pytest.mark.parametrize(("frame", "shape", "parse", "structure"), FRAMES.values(), ids=FRAMES)

# Structural fields that both kinds of ciphertext share: name in the error, offset, a wrong value.
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
    ("NTT flag", 48, b"\x02"),
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


class TestShapes:
    def test_parms_ids_are_the_ones_that_seal_computes(self):
        """Golden: SEAL 4.3's first_parms_id() and key_parms_id() for t = 68623891046401."""
        assert PARAMETERS.plain_modulus == HOLDER.plain_modulus == 68623891046401
        first = "ee7bfed6a324b758a360252800558890e795c11df44391f6a46a688935bc5dbe"
        key = "1e808e3f441574bc0b2811794a49f7ce045442844843498ac0377cc5f1342ff6"
        assert frames.ciphertext_shape(PARAMETERS).parms_id.hex() == first
        assert frames.ciphertext_shape(HOLDER).parms_id.hex() == first
        assert frames.public_key_shape(HOLDER).parms_id.hex() == key

    def test_parms_id_names_scheme_primes_and_plain_modulus(self):
        of = frames.parms_id
        names = [
            of(frames.BFV, [COEFF_MODULUS], 40961),
            of(frames.CKKS, [COEFF_MODULUS], 40961),
            of(frames.BFV, [COEFF_MODULUS], 65537),
            of(frames.BFV, [SPECIAL_MODULUS], 40961),
            of(frames.BFV, [COEFF_MODULUS, SPECIAL_MODULUS], 40961),
            of(frames.BFV, [SPECIAL_MODULUS, COEFF_MODULUS], 40961),
        ]
        assert len(set(names)) == len(names)
        assert {len(name) for name in names} == {32}

    def test_lengths_by_hand(self):
        """SEAL's own lengths without compression: 113 + 2 * 32,768, and 88 + 32,768."""
        assert (CIPHERTEXT.residues, PUBLIC_KEY.residues) == (4096, 8192)
        assert CIPHERTEXT.seeded_bytes == len(SEEDED) == 32_962
        assert CIPHERTEXT.full_bytes == len(FULL) == 65_649
        assert CIPHERTEXT.single_bytes == len(SINGLE) == 32_856
        assert PUBLIC_KEY.full_bytes == len(KEY_FRAME) == 131_185

    def test_keys_are_stored_as_values_and_ciphertexts_as_coefficients(self):
        assert (CIPHERTEXT.is_ntt, PUBLIC_KEY.is_ntt) == (False, True)
        assert PUBLIC_KEY.primes == (COEFF_MODULUS, SPECIAL_MODULUS)
        assert frames.ciphertext_shape(HOLDER).primes == (COEFF_MODULUS,)


class TestLayout:
    """Golden: everything but the residues, as SEAL 4.3 wrote it (compression taken off)."""

    def test_ciphertext(self):
        prefix = (
            "5ea1100403000000c280000000000000"
            "ee7bfed6a324b758a360252800558890e795c11df44391f6a46a688935bc5dbe"
            "00020000000000000000100000000000000100000000000000000000000000f03f0100000000000000"
            "5ea11004030000001880000000000000"
            "0010000000000000"
        )
        assert SEEDED[:PREFIX].hex() == prefix
        assert SEEDED[-81:].hex() == "5ea1100403000000510000000000000001" + SEED.hex()
        assert SEEDED[PREFIX : PREFIX + 8] == struct.pack("<Q", COEFF_MODULUS - 1)

    def test_public_key(self):
        prefix = (
            "5ea11004030000007100020000000000"
            "1e808e3f441574bc0b2811794a49f7ce045442844843498ac0377cc5f1342ff6"
            "01020000000000000000100000000000000200000000000000000000000000f03f0100000000000000"
            "5ea11004030000001800020000000000"
            "0040000000000000"
        )
        assert KEY_FRAME[:PREFIX].hex() == prefix

    def test_secret_key(self):
        prefix = (
            "5ea11004030000005880000000000000"
            "ee7bfed6a324b758a360252800558890e795c11df44391f6a46a688935bc5dbe"
            "0010000000000000000000000000f03f"
            "5ea11004030000001880000000000000"
            "0010000000000000"
        )
        assert SINGLE[:SINGLE_PREFIX].hex() == prefix
        assert SINGLE[SINGLE_PREFIX:] == FIRST.astype("<u8").tobytes()


class TestRoundTrips:
    def test_seeded(self):
        c0, seed = frames.parse_seeded(SEEDED, CIPHERTEXT)
        np.testing.assert_array_equal(c0, FIRST)
        assert seed == SEED

    @pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
    def test_full(self, shape):
        sent = [polynomial(seed, shape) for seed in (0, 1)]
        received = frames.parse_full(frames.build_full(shape, *sent), shape)
        np.testing.assert_array_equal(received, sent)

    @pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
    def test_single(self, shape):
        sent = polynomial(4, shape)
        frame = frames.build_single(shape, sent)
        assert len(frame) == shape.single_bytes
        np.testing.assert_array_equal(frames.parse_single(frame, shape), sent)

    def test_another_version_is_read_only_when_it_is_asked_for(self):
        version = (4, 4)
        later = {
            frames.parse_seeded: frames.build_seeded(CIPHERTEXT, FIRST, SEED, version=version),
            frames.parse_full: frames.build_full(CIPHERTEXT, FIRST, SECOND, version=version),
            frames.parse_single: frames.build_single(CIPHERTEXT, FIRST, version=version),
        }
        for parse, frame in later.items():
            np.testing.assert_array_equal(
                np.ravel(parse(frame, CIPHERTEXT, version=version)[0])[0], FIRST[0]
            )
            with pytest.raises(MessageError):
                parse(frame, CIPHERTEXT)

    def test_a_shape_of_another_scale(self):
        """As CKKS ciphertexts have it; a frame of one scale is none of another."""
        scaled = frames.Shape(parms_id=bytes(32), primes=(COEFF_MODULUS,), scale=2.0**40)
        frame = frames.build_seeded(scaled, FIRST, SEED)
        assert frame[73:81] == struct.pack("<d", 2.0**40)
        np.testing.assert_array_equal(frames.parse_seeded(frame, scaled)[0], FIRST)
        other = frames.Shape(parms_id=bytes(32), primes=(COEFF_MODULUS,), scale=2.0**41)
        with pytest.raises(MessageError, match="scale"):
            frames.parse_seeded(frame, other)


class TestRefusals:
    @ALL
    def test_no_byte_of_the_structure_is_ignored(self, frame, shape, parse, structure):
        """Another value of any byte that is neither residue nor seed must be noticed."""
        parse(frame, shape)
        for offset in structure:
            for flip in (0x01, 0x10, 0x80, 0xFF):
                changed = replaced(frame, offset, bytes([frame[offset] ^ flip]))
                with pytest.raises(MessageError):
                    parse(changed, shape)

    @ALL
    @pytest.mark.parametrize("change", [-1, 1, -8, 8, -81, None])
    def test_another_length_is_refused(self, frame, shape, parse, structure, change):
        wrong = b"" if change is None else frame[:change] if change < 0 else frame + bytes(change)
        with pytest.raises(MessageError, match="length|bytes"):
            parse(wrong, shape)

    @ALL
    def test_one_kind_of_frame_is_none_of_another(self, frame, shape, parse, structure):
        for _, _, other, _ in FRAMES.values():
            if other is not parse:
                with pytest.raises(MessageError):
                    other(frame, shape)
        elsewhere = PUBLIC_KEY if shape is CIPHERTEXT else CIPHERTEXT
        with pytest.raises(MessageError):
            parse(frame, elsewhere)

    @pytest.mark.parametrize(("name", "offset", "piece"), LIES)
    def test_lies_in_the_structure_are_refused_by_name(self, name, offset, piece):
        for frame, parse in ((SEEDED, frames.parse_seeded), (FULL, frames.parse_full)):
            with pytest.raises(MessageError, match=name):
                parse(replaced(frame, offset, piece), CIPHERTEXT)

    @pytest.mark.parametrize(
        ("name", "from_end", "piece"),
        [
            ("magic", 81, b"\x00"),
            ("seed header", 76, b"\x02"),
            ("seed header", 73, struct.pack("<Q", 0x52)),
            ("generator type", 65, b"\x02"),
        ],
    )
    def test_lies_about_the_seed_are_refused_by_name(self, name, from_end, piece):
        with pytest.raises(MessageError, match=name):
            frames.parse_seeded(replaced(SEEDED, len(SEEDED) - from_end, piece), CIPHERTEXT)

    def test_other_parameters_are_refused(self):
        other = derive(num_clients=11, bits=12, num_params=1, custody=Custody.SHARED_KEY)
        with pytest.raises(MessageError, match="parms_id"):
            frames.parse_seeded(SEEDED, frames.ciphertext_shape(other))

    @pytest.mark.parametrize("offset", [0, 4095, 4096, 8191])
    def test_a_residue_must_be_below_its_own_prime(self, offset):
        """The special prime has 20 bits: most residues of the first prime are above it."""
        largest = (COEFF_MODULUS, SPECIAL_MODULUS)[offset // 4096]
        at = PREFIX + 8 * offset
        for second in (0, 8 * 8192):
            place = at + second
            allowed = replaced(KEY_FRAME, place, struct.pack("<Q", largest - 1))
            frames.parse_full(allowed, PUBLIC_KEY)
            wrong = replaced(KEY_FRAME, place, struct.pack("<Q", largest))
            with pytest.raises(MessageError, match=f"below {largest}"):
                frames.parse_full(wrong, PUBLIC_KEY)

    def test_residues_not_below_q_are_refused(self):
        too_large = struct.pack("<Q", COEFF_MODULUS)
        for frame, parse, place in (
            (SEEDED, frames.parse_seeded, PREFIX),
            (FULL, frames.parse_full, len(FULL) - 8),
            (SINGLE, frames.parse_single, len(SINGLE) - 8),
        ):
            with pytest.raises(MessageError, match="below"):
                parse(replaced(frame, place, too_large), CIPHERTEXT)

    def test_building_checks_its_parts(self):
        large = np.full(4096, COEFF_MODULUS, dtype=np.uint64)
        for wrong in (large, FIRST[:-1], FIRST.astype(np.int64), FIRST.reshape(1, -1)):
            for build in (
                lambda wrong=wrong: frames.build_seeded(CIPHERTEXT, wrong, SEED),
                lambda wrong=wrong: frames.build_full(CIPHERTEXT, wrong, SECOND),
                lambda wrong=wrong: frames.build_full(CIPHERTEXT, FIRST, wrong),
                lambda wrong=wrong: frames.build_single(CIPHERTEXT, wrong),
            ):
                with pytest.raises(MessageError, match="uint64|below"):
                    build()
        for seed in (SEED[:-1], SEED + b"\0", b""):
            with pytest.raises(MessageError, match="64 bytes"):
                frames.build_seeded(CIPHERTEXT, FIRST, seed)


class TestHeader:
    def test_by_hand(self):
        header = frames.Header(version=(4, 3), compression=frames.ZSTD, num_bytes=0x0102)
        data = bytes.fromhex("5ea11004030200000201000000000000")
        assert header.to_bytes() == data
        assert frames.Header.from_bytes(data) == header
        assert frames.Header.from_bytes(data + b"more") == header
        assert frames.Header(num_bytes=1).compression == frames.UNCOMPRESSED == 0

    def test_it_needs_16_bytes(self):
        for length in (0, 15):
            with pytest.raises(MessageError, match="16 bytes"):
                frames.Header.from_bytes(SEEDED[:length])
