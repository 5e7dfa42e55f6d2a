import dataclasses
import functools
import json
import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.encryption import parameters as module
from privfed.encryption.noise import Exactness
from privfed.encryption.parameters import BFVParameters, derive
from privfed.errors import ConfigError, MessageError
from privfed.settings.encryption import Custody

Q = 2**60 - 16383
CLIENTS = st.integers(1, 1000)
BITS = st.integers(4, 16)
PARAMS = st.integers(1, 3_000_000)
CUSTODIES = st.sampled_from(Custody)


def ten(custody=Custody.SHARED_KEY, **changes) -> BFVParameters:
    """Ten clients, 12 bits, a million parameters."""
    asked = {"num_clients": 10, "bits": 12, "num_params": 1_000_000, "custody": custody}
    return derive(**{**asked, **changes})


def per_client(custody: Custody, *, certain: bool) -> Fraction:
    """Noise of one client, from the formulas in the docstring of `noise`."""
    if custody is Custody.SHARED_KEY:
        return Fraction(43, 2)
    likely = math.ceil((Decimal(1024 * 4) / 3 * Decimal(2).ln() * 169).sqrt())
    return Fraction(21 * 8193, special_prime()) + 1 + (2048 if certain else likely)


@functools.cache
def special_prime() -> int:
    found = (2**20 - 8191 - 8192 * step for step in range(100))
    return next(p for p in found if all(p % other for other in range(2, 1024)))


def dropping(bits: int) -> Fraction:
    return Fraction(2**bits, 2) if bits else Fraction(0)


def noise_fits(custody, clients, modulus, upload, total, *, certain=False) -> bool:
    """n (e + 2^(du-1)) + 2^(dd-1) < q / 2t, in whole numbers."""
    noise = clients * (per_client(custody, certain=certain) + dropping(upload)) + dropping(total)
    return noise * 2 * modulus < Q


def cost(parameters: BFVParameters) -> int:
    """Bytes up and down, from the other sizes alone."""
    count = parameters.num_ciphertexts
    if parameters.custody is Custody.KEY_HOLDER:
        return count * 512 * (60 - parameters.upload_dropped_bits + 60 + 120)
    dropped = parameters.upload_dropped_bits + parameters.sum_dropped_bits
    return count * (512 * (120 - dropped) + 64 * (1 + parameters.num_clients))


class TestDerived:
    def test_golden_for_ten_clients_that_share_a_key(self):
        """Radix and prime computed apart; bytes per parameter as facts/encryption.md has them."""
        found = ten()
        assert (found.radix, found.digits, found.plain_modulus) == (40941, 3, 68623891046401)
        assert (found.upload_dropped_bits, found.sum_dropped_bits) == (10, 12)
        assert found.exactness is Exactness.CERTAIN
        assert (found.tag_slots, found.value_slots) == (2, 4094)
        assert (found.params_per_ciphertext, found.num_ciphertexts) == (12_282, 82)
        assert (found.upload_bits, found.sum_bits) == ((50,), (48,))
        assert round(found.upload_bytes() / 1e6, 4) == 2.1044
        assert round(found.sum_bytes(10) / 1e6, 4) == 2.0677
        assert found.max_magnitude == 2047
        assert found.value_bits == 16

    def test_golden_for_ten_clients_and_a_key_holder(self):
        found = ten(Custody.KEY_HOLDER)
        assert (found.digits, found.plain_modulus) == (3, 68623891046401)
        assert (found.upload_dropped_bits, found.sum_dropped_bits) == (9, 0)
        assert found.exactness is Exactness.OVERWHELMING
        assert (found.tag_slots, found.value_slots, found.num_ciphertexts) == (3, 4093, 82)
        assert (found.upload_bits, found.sum_bits) == ((51, 60), (60, 60))
        assert round(found.upload_bytes() / 1e6, 4) == 4.6602
        assert round(found.sum_bytes(10) / 1e6, 4) == 5.0381
        assert found.sum_bytes(3) == found.sum_bytes(10)

    @pytest.mark.parametrize(
        ("custody", "kilobytes"),
        [
            (Custody.SHARED_KEY, [287.040, 175.680, 130.880, 102.720]),
            (Custody.KEY_HOLDER, [678.912, 394.240, 286.720, 256.000]),
        ],
    )
    def test_fewer_bits_are_fewer_bytes(self, custody, kilobytes):
        """Ten clients, 16, 8, 6 and 4 bits of 100,000 numbers: an upload in thousands of bytes.

        By hand for the last with a shared key: 141^5 in a slot, 3 tags, so 5 x 4093 numbers in each
        of 5 ciphertexts of 512 x 40 + 64 bytes.
        """
        found = [ten(custody, bits=bits, num_params=100_000) for bits in (16, 8, 6, 4)]
        assert [one.upload_bytes() / 1000 for one in found] == kilobytes
        narrow = found[-1]
        assert (narrow.radix, narrow.max_magnitude) == (141, 7)
        if custody is Custody.SHARED_KEY:
            assert (narrow.digits, narrow.value_slots, narrow.upload_bits) == (5, 4093, (40,))

    def test_sizes_by_hand(self):
        """Of a ciphertext: 512 bytes per bit of a residue, and 64 bytes per seed."""
        found = ten(num_params=12_283)
        assert found.num_ciphertexts == 2
        assert found.upload_bytes() == 2 * (512 * sum(found.upload_bits) + 64)
        assert found.sum_bytes(7) == 2 * (512 * sum(found.sum_bits) + 7 * 64)
        assert ten(num_params=12_282).num_ciphertexts == 1

    @given(clients=CLIENTS, bits=BITS, num_params=PARAMS, custody=CUSTODIES)
    def test_sums_fit_into_slots_and_noise_into_the_modulus(
        self, clients, bits, num_params, custody
    ):
        found = derive(num_clients=clients, bits=bits, num_params=num_params, custody=custody)
        largest = 2 ** (bits - 1) - 1
        assert found.radix == 2 * clients * largest + 1
        assert found.plain_modulus > found.radix**found.digits
        assert found.plain_modulus % 8192 == 1
        dropped = (found.upload_dropped_bits, found.sum_dropped_bits)
        assert noise_fits(custody, clients, found.plain_modulus, *dropped)
        certain = noise_fits(custody, clients, found.plain_modulus, *dropped, certain=True)
        assert (found.exactness is Exactness.CERTAIN) == certain
        assert 2**found.value_bits > 2 * clients * largest >= 2 ** (found.value_bits - 1)

    @given(clients=CLIENTS, bits=BITS, num_params=PARAMS)
    def test_with_a_shared_key_sums_are_exact_for_certain(self, clients, bits, num_params):
        found = derive(
            num_clients=clients, bits=bits, num_params=num_params, custody=Custody.SHARED_KEY
        )
        assert found.exactness is Exactness.CERTAIN

    @given(clients=CLIENTS, bits=BITS, num_params=PARAMS)
    def test_there_are_as_many_tag_slots_as_80_bits_need(self, clients, bits, num_params):
        found = derive(
            num_clients=clients, bits=bits, num_params=num_params, custody=Custody.SHARED_KEY
        )
        assert found.plain_modulus**found.tag_slots >= 2**80
        assert found.plain_modulus ** (found.tag_slots - 1) < 2**80
        held = derive(
            num_clients=clients, bits=bits, num_params=num_params, custody=Custody.KEY_HOLDER
        )
        assert held.plain_modulus ** (held.tag_slots - 1) >= 2**80
        assert found.tag_slots + found.value_slots == 4096

    @pytest.mark.parametrize("custody", Custody)
    @pytest.mark.parametrize(
        ("clients", "bits", "num_params"),
        [
            *((10, 12, 1_000_000), (3, 16, 7), (1, 8, 12_283), (3, 4, 60_000), (100, 10, 50_000)),
            *((1000, 16, 9000), (726, 13, 1_000_000)),  # the last one drops no bit of an upload
        ],
    )
    def test_nothing_that_the_noise_allows_costs_less(self, custody, clients, bits, num_params):
        found = derive(num_clients=clients, bits=bits, num_params=num_params, custody=custody)
        cheapest = math.inf
        for digits in range(1, 12):
            if found.radix**digits * 4 >= Q:
                break
            modulus = module.batching_prime_above(found.radix**digits)
            for upload in range(60):
                for total in range(60 if custody is Custody.SHARED_KEY else 1):
                    if not noise_fits(custody, clients, modulus, upload, total):
                        continue
                    other = BFVParameters(
                        custody=custody,
                        num_clients=clients,
                        bits=bits,
                        num_params=num_params,
                        plain_modulus=modulus,
                        radix=found.radix,
                        digits=digits,
                        upload_dropped_bits=upload,
                        sum_dropped_bits=total,
                    )
                    cheapest = min(cheapest, cost(other))
        assert cost(found) == cheapest
        assert found.upload_bytes() + found.sum_bytes(clients) == cheapest

    @pytest.mark.parametrize("custody", Custody)
    def test_too_many_clients_for_even_one_digit_are_refused(self, custody, monkeypatch):
        monkeypatch.setattr(module, "MAX_CLIENTS", 10**7)
        assert ten(custody, num_clients=100_000, bits=16).digits == 1
        with pytest.raises(ConfigError, match="at least one sum of 1000000 clients"):
            ten(custody, num_clients=1_000_000, bits=16)

    @pytest.mark.parametrize("num_clients", [0, -1, 1001, 2.0, True, None])
    def test_num_clients_must_be_in_range(self, num_clients):
        with pytest.raises(ConfigError, match="num_clients"):
            ten(num_clients=num_clients)

    @pytest.mark.parametrize("bits", [3, 17, 12.5, True])
    def test_bits_must_be_in_range(self, bits):
        with pytest.raises(ConfigError, match="bits"):
            ten(bits=bits)

    @pytest.mark.parametrize("num_params", [0, -1, 5.0, True, None])
    def test_num_params_must_be_in_range(self, num_params):
        with pytest.raises(ConfigError, match="num_params"):
            ten(num_params=num_params)


class TestNoiseRule:
    """The constructor itself refuses what `derive` would never give."""

    @staticmethod
    def direct(custody, clients, modulus, upload, total) -> BFVParameters:
        """One digit of 8 bits in a slot of any size."""
        return BFVParameters(
            custody=custody,
            num_clients=clients,
            bits=8,
            num_params=1,
            plain_modulus=modulus,
            radix=2 * clients * 127 + 1,
            digits=1,
            upload_dropped_bits=upload,
            sum_dropped_bits=total,
        )

    @staticmethod
    def most_clients(custody, modulus, upload, total) -> int:
        """Largest n with n (e + 2^(du-1)) + 2^(dd-1) < q / 2t."""
        budget = Fraction(Q, 2 * modulus) - dropping(total)
        return math.ceil(budget / (per_client(custody, certain=False) + dropping(upload))) - 1

    @pytest.mark.parametrize("custody", Custody)
    @pytest.mark.parametrize("log2_modulus", [39, 40.5, 43, 44, 45.5])
    @pytest.mark.parametrize(("upload", "total"), [(0, 0), (1, 1), (4, 0), (0, 9), (9, 9), (7, 8)])
    def test_one_client_above_the_bound_is_refused(self, custody, log2_modulus, upload, total):
        total = total if custody is Custody.SHARED_KEY else 0
        modulus = module.batching_prime_above(int(2**log2_modulus))
        most = min(self.most_clients(custody, modulus, upload, total), 1000)
        assert most >= 1
        assert self.direct(custody, most, modulus, upload, total).num_clients == most
        if most < 1000:
            with pytest.raises(ConfigError, match=f"noise of {most + 1} clients"):
                self.direct(custody, most + 1, modulus, upload, total)

    @pytest.mark.parametrize(("clients", "upload", "total"), [(1, 0, 0), (8, 4, 4), (47, 3, 1)])
    def test_the_first_prime_above_the_bound_is_refused(self, clients, upload, total):
        """With n = 8 and 4 bits: 2t (8 (21.5 + 8) + 8) < q."""
        noise = clients * (Fraction(43, 2) + dropping(upload)) + dropping(total)
        edge = math.floor(Fraction(Q) / (2 * noise))
        outside = module.batching_prime_above(edge)
        inside = edge - edge % 8192 + 1
        while not module.is_batching_prime(inside):
            inside -= 8192
        assert self.direct(Custody.SHARED_KEY, clients, inside, upload, total).digits == 1
        with pytest.raises(ConfigError, match="noise"):
            self.direct(Custody.SHARED_KEY, clients, outside, upload, total)

    def test_one_dropped_bit_more_is_refused(self):
        for change in ({"upload_dropped_bits": 11}, {"sum_dropped_bits": 13}):
            with pytest.raises(ConfigError, match="noise"):
                dataclasses.replace(ten(), **change)
        with pytest.raises(ConfigError, match="noise"):
            dataclasses.replace(ten(Custody.KEY_HOLDER), upload_dropped_bits=10)

    def test_a_key_holder_drops_no_bits_of_a_sum_that_it_must_check(self):
        with pytest.raises(ConfigError, match="dropped bits"):
            dataclasses.replace(ten(Custody.KEY_HOLDER), upload_dropped_bits=0, sum_dropped_bits=1)

    def test_certain_ends_where_the_worst_case_does(self):
        """Of 10 clients with a key holder, 8 dropped bits at t = 2^40 are certain, 15 are not."""
        modulus = module.batching_prime_above(2**40)
        budget = Fraction(Q, 2 * modulus)
        for upload in range(17):
            certain = 10 * (per_client(Custody.KEY_HOLDER, certain=True) + dropping(upload))
            found = self.direct(Custody.KEY_HOLDER, 10, modulus, upload, 0)
            assert (found.exactness is Exactness.CERTAIN) == (certain < budget)
        assert self.direct(Custody.KEY_HOLDER, 10, modulus, 16, 0).exactness is Exactness.CERTAIN
        assert self.direct(Custody.KEY_HOLDER, 30, modulus, 14, 0).exactness is Exactness.CERTAIN


class TestRecord:
    @pytest.mark.parametrize(
        "change",
        [
            {"custody": "shared_key"},
            {"custody": None},
            {"num_clients": 9},
            {"num_clients": 11},
            {"num_clients": True},
            {"bits": 11},
            {"num_params": 0},
            {"num_params": 1e6},
            {"radix": 40940},
            {"radix": 40943},
            {"digits": 0},
            {"digits": 4},
            {"digits": 3.0},
            {"digits": True},
            {"plain_modulus": 68623891046401 + 8192},
            {"plain_modulus": 68623891046401 + 2},
            {"plain_modulus": 40961},
            {"plain_modulus": 2**61 - 1},
            {"upload_dropped_bits": -1},
            {"upload_dropped_bits": 60},
            {"sum_dropped_bits": -1},
            {"sum_dropped_bits": 60},
            {"sum_dropped_bits": 4.0},
        ],
    )
    def test_records_that_contradict_themselves_are_refused(self, change):
        with pytest.raises(ConfigError):
            dataclasses.replace(ten(), **change)

    def test_a_modulus_that_just_holds_the_digits(self):
        """The prime must be above R^k: with one more client it would be too small."""
        with pytest.raises(ConfigError, match=r"above radix\*\*digits"):
            dataclasses.replace(ten(), num_clients=11, radix=45035)

    def test_records_are_frozen_and_hashable(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            ten().digits = 2
        assert hash(ten()) == hash(ten())

    def test_the_digest_names_every_field(self):
        assert ten().digest() == ten().digest()
        others = [
            ten(num_clients=9),
            ten(bits=13),
            ten(num_params=999_999),
            ten(Custody.KEY_HOLDER),
            dataclasses.replace(ten(), upload_dropped_bits=9),
            dataclasses.replace(ten(), sum_dropped_bits=11),
        ]
        assert len({other.digest() for other in [ten(), *others]}) == 7


class TestJson:
    @given(clients=CLIENTS, bits=BITS, num_params=PARAMS, custody=CUSTODIES)
    def test_round_trip(self, clients, bits, num_params, custody):
        found = derive(num_clients=clients, bits=bits, num_params=num_params, custody=custody)
        assert BFVParameters.from_json(json.loads(json.dumps(found.to_json()))) == found

    @pytest.mark.parametrize("custody", Custody)
    def test_what_was_never_written_as_text_is_read_too(self, custody):
        values = ten(custody).to_json()
        assert BFVParameters.from_json(values) == ten(custody)
        assert {type(value) for value in values.values()} == {int, str}

    def test_values_by_hand(self):
        assert ten().to_json() == {
            "scheme": "BFV",
            "schema": 2,
            "poly_modulus_degree": 4096,
            "coeff_modulus": 1152921504606830593,
            "special_modulus": 1,
            "custody": "shared_key",
            "num_clients": 10,
            "bits": 12,
            "num_params": 1_000_000,
            "plain_modulus": 68623891046401,
            "radix": 40941,
            "digits": 3,
            "upload_dropped_bits": 10,
            "sum_dropped_bits": 12,
        }
        assert ten(Custody.KEY_HOLDER).to_json()["special_modulus"] == special_prime()

    @pytest.mark.parametrize("custody", Custody)
    def test_every_field_with_another_number_is_refused_by_name(self, custody):
        """A changed `num_params` asks for other parameters; they may be the derived ones."""
        asked = {"num_clients": "radix", "bits": "radix", "custody": "special_modulus"}
        values = ten(custody).to_json()
        other = {
            **{name: value + 1 for name, value in values.items() if isinstance(value, int)},
            "scheme": "CKKS",
            "custody": next(each.value for each in Custody if each is not custody),
            "num_params": 3,
        }
        assert other.keys() == values.keys()
        for name, value in other.items():
            named = asked.get(name, "digits|dropped_bits" if name == "num_params" else name)
            with pytest.raises(MessageError, match=f"differ: .*({named})"):
                BFVParameters.from_json(values | {name: value})

    @pytest.mark.parametrize("custody", Custody)
    def test_a_true_a_float_or_text_in_place_of_a_number_is_refused_by_name(self, custody):
        values = ten(custody).to_json()
        for name, value in values.items():
            wrong = [None, [value]]
            if isinstance(value, int):
                wrong += [float(value), str(value), *([True] if value == 1 else [])]
            for each in wrong:
                with pytest.raises(MessageError, match=name):
                    BFVParameters.from_json(values | {name: each})

    def test_true_is_not_one(self):
        values = derive(num_clients=1, bits=16, num_params=1, custody=Custody.SHARED_KEY).to_json()
        ones = [name for name, value in values.items() if value == 1]
        assert {"num_clients", "num_params", "special_modulus", "digits"} <= set(ones)
        for name in ones:
            with pytest.raises(MessageError, match=name):
                BFVParameters.from_json(values | {name: True})

    def test_a_missing_or_unknown_field_is_refused_by_name(self):
        for name in ten().to_json():
            values = ten().to_json()
            del values[name]
            with pytest.raises(MessageError, match=name):
                BFVParameters.from_json(values)
        with pytest.raises(MessageError, match="differ: extra"):
            BFVParameters.from_json(ten().to_json() | {"extra": 1})

    @pytest.mark.parametrize("change", [{"num_clients": 2000}, {"bits": 99}, {"num_params": 0}])
    def test_what_cannot_be_derived_is_refused(self, change):
        with pytest.raises(MessageError, match=next(iter(change))):
            BFVParameters.from_json(ten().to_json() | change)

    @pytest.mark.parametrize("wrong", [None, [], "BFV", 3, {}])
    def test_anything_but_an_object_is_refused(self, wrong):
        with pytest.raises(MessageError):
            BFVParameters.from_json(wrong)
