import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privfed.encryption.fixedpoint import decode, encode, max_magnitude, step
from privfed.errors import ConfigError, EncryptionError

BITS = st.integers(8, 16)
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


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("draw", [0.0, 0.5, LAST_BELOW_ONE])
def test_ends_of_the_range_do_not_overflow(bits, draw):
    """In floats M + u rounds up to M + 1 for the last u below 1; the ends must hold regardless."""
    ends = np.array([0.3, -0.3])
    encoded = encode(ends, public_range=0.3, bits=bits, uniforms=np.full(2, draw))
    np.testing.assert_array_equal(encoded, [max_magnitude(bits), -max_magnitude(bits)])
    np.testing.assert_array_equal(decode(encoded, public_range=0.3, bits=bits), ends)


def test_rounding_is_unbiased():
    generator = np.random.default_rng(20240229)
    values = np.array([-0.97, -0.5, -0.013, 0.0, 0.2, 0.71, 0.999])
    repeats = 40_000
    encoded = encode(
        np.repeat(values, repeats),
        public_range=1.0,
        bits=8,
        uniforms=generator.random(len(values) * repeats),
    )
    means = encoded.reshape(len(values), repeats).mean(axis=1)
    standard_error = 0.5 / math.sqrt(repeats)
    np.testing.assert_allclose(means, values * 127, atol=5 * standard_error)
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


@pytest.mark.parametrize("bits", [7, 17, 12.0, True, None])
def test_bits_must_be_in_their_range(bits):
    with pytest.raises(ConfigError, match="bits"):
        max_magnitude(bits)
