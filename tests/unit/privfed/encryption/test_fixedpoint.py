import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privfed.encryption import fixedpoint
from privfed.encryption.fixedpoint import FixedPointEncoding, decode, encode, max_magnitude, step
from privfed.errors import ConfigError, EncryptionError

BITS = st.integers(4, 16)
RANGES = st.floats(1e-12, 1e12)
VECTORS = hnp.arrays(
    np.float64, st.integers(0, 50), elements=st.floats(-1e15, 1e15, allow_nan=False)
)
LAST_BELOW_ONE = math.nextafter(1.0, 0.0)


def test_a_hand_checked_example():
    """Bits 8: M = 127, so with range 12.7 one unit is 0.1."""
    vector = np.array([0.25, 0.25, -0.25, -0.25, 99.0, -99.0, 0.0])
    uniforms = np.array([0.49, 0.51, 0.49, 0.51, 0.0, 0.0, 0.0])
    encoded = encode(vector, public_range=12.7, bits=8, uniforms=uniforms)
    np.testing.assert_array_equal(encoded, [3, 2, -2, -3, 127, -127, 0])
    assert encoded.dtype == np.int64
    np.testing.assert_allclose(
        decode(encoded, public_range=12.7, bits=8), [0.3, 0.2, -0.2, -0.3, 12.7, -12.7, 0.0]
    )
    assert step(12.7, 8) == pytest.approx(0.1)


@given(vector=VECTORS, public_range=RANGES, bits=BITS, data=st.data())
def test_error_is_below_one_unit_and_values_stay_in_range(vector, public_range, bits, data):
    uniforms = data.draw(
        hnp.arrays(np.float64, vector.shape, elements=st.floats(0, LAST_BELOW_ONE))
    )
    encoded = encode(vector, public_range=public_range, bits=bits, uniforms=uniforms)
    assert np.all(np.abs(encoded) <= max_magnitude(bits))
    decoded = decode(encoded, public_range=public_range, bits=bits)
    clipped = np.clip(vector, -public_range, public_range)
    assert np.all(np.abs(decoded - clipped) < step(public_range, bits) * (1 + 1e-9))


@pytest.mark.parametrize("bits", [4, 8, 12, 16])
@pytest.mark.parametrize("draw", [0.0, 0.5, LAST_BELOW_ONE])
def test_ends_of_the_range_do_not_overflow(bits, draw):
    """In floats M + u rounds up to M + 1 for the last u below 1; the ends must hold regardless."""
    ends = np.array([0.3, -0.3])
    encoded = encode(ends, public_range=0.3, bits=bits, uniforms=np.full(2, draw))
    np.testing.assert_array_equal(encoded, [max_magnitude(bits), -max_magnitude(bits)])
    np.testing.assert_array_equal(decode(encoded, public_range=0.3, bits=bits), ends)


@pytest.mark.parametrize(("bits", "largest"), [(4, 7), (8, 127)])
def test_rounding_is_unbiased(bits, largest):
    generator = np.random.default_rng(20240229)
    values = np.array([-0.97, -0.5, -0.013, 0.0, 0.2, 0.71, 0.999])
    repeats = 40_000
    encoded = encode(
        np.repeat(values, repeats),
        public_range=1.0,
        bits=bits,
        uniforms=generator.random(len(values) * repeats),
    )
    means = encoded.reshape(len(values), repeats).mean(axis=1)
    standard_error = 0.5 / math.sqrt(repeats)
    np.testing.assert_allclose(means, values * largest, atol=5 * standard_error)
    np.testing.assert_array_equal(encoded.reshape(len(values), repeats)[3], 0)


def test_a_sum_decodes_to_the_sum():
    total = np.array([30 * 2047, -1], dtype=np.int64)
    np.testing.assert_allclose(
        decode(total, public_range=0.5, bits=12), [15.0, -0.5 / 2047], rtol=1e-15
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(bad):
    with pytest.raises(EncryptionError, match="finite"):
        encode(np.array([0.0, bad]), public_range=1.0, bits=8, uniforms=np.zeros(2))


@pytest.mark.parametrize("bad", [1.0, -1e-9, math.nan])
def test_a_draw_outside_its_interval_is_refused(bad):
    with pytest.raises(EncryptionError, match="uniforms"):
        encode(np.zeros(2), public_range=1.0, bits=8, uniforms=np.array([0.0, bad]))


def test_shapes_and_types_are_checked():
    with pytest.raises(EncryptionError, match="shape"):
        encode(np.zeros(3), public_range=1.0, bits=8, uniforms=np.zeros(2))
    with pytest.raises(EncryptionError, match="shape"):
        encode(np.zeros((2, 2)), public_range=1.0, bits=8, uniforms=np.zeros((2, 2)))
    with pytest.raises(EncryptionError, match="floats"):
        encode(np.zeros(2, dtype=np.int64), public_range=1.0, bits=8, uniforms=np.zeros(2))
    with pytest.raises(EncryptionError, match="integers"):
        decode(np.zeros(2), public_range=1.0, bits=8)


@pytest.mark.parametrize("public_range", [0.0, -1.0, math.nan, math.inf])
def test_a_range_must_be_finite_and_positive(public_range):
    with pytest.raises(ConfigError, match="public_range"):
        encode(np.zeros(1), public_range=public_range, bits=8, uniforms=np.zeros(1))
    with pytest.raises(ConfigError, match="public_range"):
        decode(np.zeros(1, dtype=np.int64), public_range=public_range, bits=8)


@pytest.mark.parametrize("bits", [3, 17, 12.0, True, None])
def test_bits_must_be_in_their_range(bits):
    with pytest.raises(ConfigError, match="bits"):
        max_magnitude(bits)


def test_largest_integers_by_hand():
    assert [max_magnitude(bits) for bits in (4, 8, 12, 16)] == [7, 127, 2047, 32767]


class Draws:
    """A stream of uniform numbers that counts."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self.asked: list[int] = []

    def __call__(self, count: int) -> np.ndarray:
        self.asked.append(count)
        return self._generator.random(count)


class TestFixedPointEncoding:
    def test_by_hand(self):
        encoding = FixedPointEncoding(public_range=12.7, bits=8)
        encoded = encoding.encode(np.array([0.25, -0.25, 99.0]), lambda count: np.full(count, 0.49))
        assert encoded.tolist() == [3, -2, 127]
        np.testing.assert_allclose(encoding.decode(encoded), [0.3, -0.2, 12.7])

    @pytest.mark.parametrize("bits", [4, 16])
    def test_two_bytes_hold_the_ends_of_the_range(self, bits):
        encoding = FixedPointEncoding(public_range=0.3, bits=bits)
        encoded = encoding.encode(np.array([1.0, -1.0]), np.zeros)
        assert encoded.dtype == encoding.dtype == np.dtype("<i2")
        assert encoded.tolist() == [max_magnitude(bits), -max_magnitude(bits)]

    @pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 250])
    def test_piece_by_piece_is_the_same_as_at_once(self, size, monkeypatch):
        """Every parameter has a draw of its own, in order: a coin used twice would correlate."""
        monkeypatch.setattr(fixedpoint, "_AT_ONCE", 100)
        vector = np.linspace(-1.2, 1.2, size, dtype=np.float32)
        draws = Draws(5)
        found = FixedPointEncoding(public_range=1.0, bits=10).encode(vector, draws)
        expected = encode(
            vector, public_range=1.0, bits=10, uniforms=np.random.default_rng(5).random(size)
        )
        np.testing.assert_array_equal(found, expected)
        assert sum(draws.asked) == size
        assert max(draws.asked, default=0) <= 100

    @given(seed=st.integers(0, 2**32), bits=BITS, public_range=RANGES)
    def test_a_sum_of_clients_is_within_a_unit_each(self, seed, bits, public_range):
        encoding = FixedPointEncoding(public_range=public_range, bits=bits)
        random = np.random.default_rng(seed)
        updates = random.uniform(-public_range, public_range, size=(5, 20))
        total = sum(encoding.encode(each, Draws(seed)).astype(np.int64) for each in updates)
        error = np.abs(encoding.decode(total) - updates.sum(axis=0))
        assert np.all(error < 5 * step(public_range, bits) * (1 + 1e-9))

    def test_what_is_not_finite_is_refused_in_every_piece(self, monkeypatch):
        monkeypatch.setattr(fixedpoint, "_AT_ONCE", 10)
        vector = np.zeros(25)
        vector[24] = math.nan
        with pytest.raises(EncryptionError, match="finite"):
            FixedPointEncoding(public_range=1.0, bits=8).encode(vector, np.zeros)

    @pytest.mark.parametrize(
        "change",
        [{"bits": 3}, {"bits": 17}, {"bits": True}, {"bits": 8.0}]
        + [{"public_range": bad} for bad in (0.0, -1.0, math.nan, math.inf)],
    )
    def test_settings_are_checked_when_built(self, change):
        with pytest.raises(ConfigError, match=next(iter(change))):
            FixedPointEncoding(**{"public_range": 1.0, "bits": 8, **change})
