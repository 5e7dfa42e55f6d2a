"""Parameters of CKKS sums: the scale that cannot wrap, sizes, strict reading; and the encoding."""

import hashlib
import struct
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privfed.encryption.ckks import (
    FLOODING,
    CKKSParameters,
    FloatEncoding,
    cannot_wrap,
    ckks_shape,
    derive_ckks,
)
from privfed.encryption.noise import COEFF_MODULUS
from privfed.errors import ConfigError, EncryptionError, MessageError
from privfed.settings.encryption import Custody

TEN = derive_ckks(num_clients=10, num_params=1_000_000)


def no_randomness(count):
    raise AssertionError("nothing is rounded, so nothing is drawn")


class TestDerive:
    @pytest.mark.parametrize(
        ("num_clients", "log2_scale"),
        [(1, 57), (2, 57), (3, 56), (10, 55), (11, 55), (12, 54), (50, 52), (100, 51), (1000, 48)],
    )
    def test_by_hand(self, num_clients, log2_scale):
        """floor(60 - 1.5 - log2 n), and at most 57."""
        assert derive_ckks(num_clients=num_clients, num_params=1).log2_scale == log2_scale

    @given(st.integers(1, 1000))
    def test_the_largest_scale_that_cannot_wrap(self, num_clients):
        """The rule in 60 decimal digits, for the scale and for the next."""
        found = derive_ckks(num_clients=num_clients, num_params=1).log2_scale

        def fits(power):
            with localcontext() as context:
                context.prec = 60
                encoded = Decimal(2).sqrt() * 2**power * (1 + Decimal(2) ** -40)
                return num_clients * (encoded + Decimal("21.5")) < Decimal(COEFF_MODULUS - 1) / 2

        assert fits(found)
        assert found == 57 or not fits(found + 1)

    @pytest.mark.parametrize("num_clients", [0, -1, 1001, True, 3.0, "3", None])
    def test_clients_out_of_range(self, num_clients):
        with pytest.raises(ConfigError, match="num_clients"):
            derive_ckks(num_clients=num_clients, num_params=1)

    @pytest.mark.parametrize("num_params", [0, -1, True, 1.0, None])
    def test_params_out_of_range(self, num_params):
        with pytest.raises(ConfigError, match="num_params"):
            derive_ckks(num_clients=3, num_params=num_params)


class TestParameters:
    def test_sizes_by_hand(self):
        """245 ciphertexts of 4096 60-bit residues and 64 bytes of seed for each client."""
        assert TEN.num_ciphertexts == 245
        assert TEN.upload_bytes() == 245 * (4096 * 60 // 8 + 64)
        assert TEN.sum_bytes(10) == 245 * (4096 * 60 // 8 + 10 * 64)
        assert (TEN.upload_bits, TEN.sum_bits) == ((60,), (60,))
        assert TEN.custody is Custody.SHARED_KEY

    @pytest.mark.parametrize(
        ("num_params", "expected"), [(1, 1), (4095, 1), (4096, 1), (4097, 2), (8193, 3)]
    )
    def test_the_last_ciphertext_is_padded(self, num_params, expected):
        assert derive_ckks(num_clients=3, num_params=num_params).num_ciphertexts == expected

    @pytest.mark.parametrize("log2_scale", [56, 57, 58, 100])
    def test_a_scale_that_could_wrap_is_refused(self, log2_scale):
        with pytest.raises(ConfigError, match="below q / 2"):
            CKKSParameters(num_clients=10, num_params=1, log2_scale=log2_scale)

    def test_a_scale_that_seal_refuses(self):
        assert cannot_wrap(1, 57)
        assert not cannot_wrap(1, 58)
        with pytest.raises(ConfigError, match="at any scale"):
            CKKSParameters(num_clients=1, num_params=1, log2_scale=58)

    @pytest.mark.parametrize("log2_scale", [0, -1, 5.0, True])
    def test_a_scale_that_is_no_count(self, log2_scale):
        with pytest.raises(ConfigError, match="log2_scale"):
            CKKSParameters(num_clients=10, num_params=1, log2_scale=log2_scale)

    def test_errors_by_hand(self):
        """n = 10, s = 55: sqrt(2048 * 10 * 10.5833) = 465.56 and 10 * 4096 * 21.5, over 2^55."""
        assert TEN.error_deviation(10) == pytest.approx(
            np.hypot(465.56 / 2**55, 10 * 2.0**-51), rel=1e-4
        )
        assert TEN.error_bound(10) == pytest.approx(880640 / 2**55 + 10 / 2**40, rel=1e-9)
        assert TEN.flooding_deviation(10) == FLOODING * TEN.error_deviation(10)
        assert pytest.approx(12 * 2**50) == FLOODING**2

    @pytest.mark.parametrize("num_clients", range(3, 51))
    def test_the_mean_is_precise(self, num_clients):
        parameters = derive_ckks(num_clients=num_clients, num_params=1)
        assert parameters.flooding_deviation(num_clients) / num_clients < 1e-6

    def test_the_shape_is_as_seal_names_it(self):
        shape = ckks_shape(TEN)
        words = struct.pack("<4Q", 2, 4096, COEFF_MODULUS, 0)
        assert shape.parms_id == hashlib.blake2b(words, digest_size=32).digest()
        assert (shape.primes, shape.is_ntt, shape.scale) == ((COEFF_MODULUS,), True, 2.0**55)


class TestJson:
    @given(st.integers(1, 1000), st.integers(1, 10**9))
    def test_round_trip(self, num_clients, num_params):
        parameters = derive_ckks(num_clients=num_clients, num_params=num_params)
        assert CKKSParameters.from_json(parameters.to_json()) == parameters

    @pytest.mark.parametrize("name", sorted(TEN.to_json()))
    def test_a_field_is_missing(self, name):
        values = TEN.to_json()
        del values[name]
        with pytest.raises(MessageError, match=name):
            CKKSParameters.from_json(values)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("scheme", "BFV"),
            ("schema", 2),
            ("schema", True),
            ("poly_modulus_degree", 8192),
            ("coeff_modulus", COEFF_MODULUS - 2),
            ("coeff_modulus", float(COEFF_MODULUS)),
            ("log2_scale", 54),
            ("log2_scale", 56),
            ("log2_scale", 55.0),
            ("num_clients", 40),
            ("num_clients", 0),
            ("num_clients", 10.0),
            ("num_params", "1000000"),
            ("num_params", 0),
            ("num_params", None),
        ],
    )
    def test_a_field_is_another(self, name, value):
        """Forty clients would need a smaller scale than the one stated."""
        with pytest.raises(MessageError, match=r"differ|whole numbers|derivable"):
            CKKSParameters.from_json({**TEN.to_json(), name: value})

    def test_a_field_more(self):
        with pytest.raises(MessageError, match="flooding"):
            CKKSParameters.from_json({**TEN.to_json(), "flooding": 0})

    @pytest.mark.parametrize("values", [None, [], "CKKS", 3])
    def test_no_object(self, values):
        with pytest.raises(MessageError, match="JSON object"):
            CKKSParameters.from_json(values)

    def test_the_digest_names_the_parameters(self):
        digests = {
            derive_ckks(num_clients=clients, num_params=params).digest()
            for clients in (10, 11, 12)
            for params in (1, 2)
        }
        assert len(digests) == 6
        assert TEN.digest() == derive_ckks(num_clients=10, num_params=1_000_000).digest()


class TestFloatEncoding:
    def test_by_hand(self):
        encoding = FloatEncoding(public_range=0.5)
        encoded = encoding.encode(np.array([0.25, -0.5, 3.0, -1e9, 0.0]), no_randomness)
        assert encoded.tolist() == [0.5, -1.0, 1.0, -1.0, 0.0]
        assert encoded.dtype == encoding.dtype == np.dtype("<f8")
        assert encoding.decode(np.array([4.0, -1.5])).tolist() == [2.0, -0.75]

    @given(
        hnp.arrays(np.float64, 5, elements=st.floats(allow_nan=False, allow_infinity=False)),
        st.floats(1e-300, 1e300),
    )
    def test_encoded_values_can_be_encrypted(self, vector, public_range):
        """Nothing is above 1, not even by a rounding error."""
        encoding = FloatEncoding(public_range=public_range)
        encoded = encoding.encode(vector, no_randomness)
        assert np.all(np.abs(encoded) <= 1)
        clipped = np.clip(vector, -public_range, public_range)
        assert np.abs(encoding.decode(encoded) - clipped).max() <= 1e-15 * public_range

    def test_single_precision(self):
        encoded = FloatEncoding(public_range=2.0).encode(np.array([1.0], np.float32), no_randomness)
        assert (encoded.dtype, encoded.tolist()) == (np.dtype("<f8"), [0.5])

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_is_not_sent(self, bad):
        with pytest.raises(EncryptionError, match="must be finite, got 1"):
            FloatEncoding(public_range=1.0).encode(np.array([0.0, bad]), no_randomness)

    @pytest.mark.parametrize("wrong", [np.zeros((2, 2)), np.zeros(2, np.int64), np.float64(1.0)])
    def test_what_is_no_flat_vector_of_floats(self, wrong):
        encoding = FloatEncoding(public_range=1.0)
        with pytest.raises(EncryptionError, match="must be floats"):
            encoding.encode(wrong, no_randomness)
        with pytest.raises(EncryptionError, match="must be floats"):
            encoding.decode(wrong)

    @pytest.mark.parametrize("public_range", [0.0, -1.0, np.nan, np.inf])
    def test_a_range_that_is_none(self, public_range):
        with pytest.raises(ConfigError, match="public_range"):
            FloatEncoding(public_range=public_range)
