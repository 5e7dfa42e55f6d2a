import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.encryption import packing
from privfed.encryption.packing import (
    COEFF_MODULUS,
    BFVParameters,
    batching_prime_above,
    derive,
    is_certain,
    is_prime,
    pack,
    unpack,
)
from privfed.errors import ConfigError, EncryptionError, MessageError

CLIENTS = st.integers(1, 1000)
BITS = st.integers(8, 16)
EIGHT = derive(num_clients=8, bits=12)


def direct(num_clients: int, plain_modulus: int, bits: int = 8) -> BFVParameters:
    """One digit in a slot of any size, without searching."""
    radix = 2 * num_clients * packing.max_magnitude(bits) + 1
    return BFVParameters(
        num_clients=num_clients, bits=bits, plain_modulus=plain_modulus, radix=radix, digits=1
    )


def packed_sum(updates, parameters):
    """Sum of packed updates modulo t, as decryption gives it."""
    total = sum(pack(update, parameters).astype(object) for update in updates)
    return (total % parameters.plain_modulus).astype(np.uint64)


def test_primes_of_a_published_list():
    """The last primes below powers of two (primes.utm.edu, "primes just less than 2^n")."""
    assert [is_prime(2**n - k) for n, k in [(61, 1), (60, 93), (59, 55), (64, 59), (13, 1)]] == [
        True
    ] * 5
    composites = [0, 1, 4, 561, 41041, 2**61 + 1, 3215031751, 3825123056546413051, 41 * 43]
    assert not any(map(is_prime, composites))
    assert [number for number in range(60) if is_prime(number)] == [
        2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59,
    ]  # fmt: skip


def test_the_coefficient_modulus_is_the_largest_batching_prime_of_60_bits():
    assert COEFF_MODULUS == 2**60 - 16383
    assert not any(is_prime(number) for number in range(COEFF_MODULUS + 8192, 2**60, 8192))


def test_golden_parameters_for_ten_clients():
    """Radix and prime computed independently for 12 bits and 10 clients."""
    parameters = derive(num_clients=10, bits=12)
    assert (parameters.radix, parameters.digits) == (40941, 3)
    assert parameters.plain_modulus == 68623891046401


def test_sizes_for_eight_clients():
    assert EIGHT.digits == 3
    assert EIGHT.bytes_per_ciphertext == 28_672
    assert [EIGHT.num_ciphertexts(n) for n in (1, 12_288, 12_289)] == [1, 1, 2]
    assert EIGHT.upload_bytes(12_289) == 2 * (28_672 + 64)
    assert EIGHT.download_bytes(12_289, 5) == 2 * (28_672 + 5 * 64)
    with pytest.raises(EncryptionError, match="num_params"):
        EIGHT.num_ciphertexts(0)


@given(num_clients=CLIENTS, bits=BITS)
def test_derived_parameters_are_certain_and_as_dense_as_possible(num_clients, bits):
    parameters = derive(num_clients=num_clients, bits=bits)
    q, t, power = COEFF_MODULUS, parameters.plain_modulus, parameters.radix**parameters.digits
    assert t % 8192 == 1
    assert is_prime(t)
    assert t > power
    assert (num_clients * (21.5 + 8) + 8) * 2 * t < q
    denser = batching_prime_above(power * parameters.radix)
    assert not is_certain(num_clients=num_clients, plain_modulus=denser)


@pytest.mark.parametrize("num_clients", [1, 8, 47, 1000])
def test_the_noise_rule_at_its_edge(num_clients):
    """The last batching prime inside the bound is accepted, the next one refused."""
    edge = COEFF_MODULUS // (num_clients * 59 + 16)
    inside = next(
        t for t in range((edge - 1) // 8192 * 8192 + 1, 0, -8192) if t <= edge and is_prime(t)
    )
    outside = batching_prime_above(edge)
    assert direct(num_clients, inside).digits == 1
    with pytest.raises(ConfigError, match="noise"):
        direct(num_clients, outside)
    assert is_certain(num_clients=num_clients, plain_modulus=inside)
    assert not is_certain(num_clients=num_clients + 1, plain_modulus=inside)


def test_too_many_clients_for_even_one_digit_are_refused(monkeypatch):
    monkeypatch.setattr(packing, "MAX_CLIENTS", 10**7)
    assert derive(num_clients=500_000, bits=16).digits == 1
    with pytest.raises(ConfigError, match="at least one sum"):
        derive(num_clients=1_000_000, bits=16)


@pytest.mark.parametrize("num_clients", [0, -1, 1001, 2.0, True, None])
def test_num_clients_must_be_in_range(num_clients):
    with pytest.raises(ConfigError, match="num_clients"):
        derive(num_clients=num_clients, bits=12)


@pytest.mark.parametrize("bits", [7, 17, 12.5])
def test_bits_must_be_in_range(bits):
    with pytest.raises(ConfigError, match="bits"):
        derive(num_clients=3, bits=bits)


@pytest.mark.parametrize(
    "change",
    [
        {"radix": 32755},
        {"digits": 0},
        {"digits": 4},
        {"plain_modulus": EIGHT.plain_modulus + 8192},
        {"plain_modulus": 40961},
        {"poly_modulus_degree": 8192},
        {"coeff_modulus": COEFF_MODULUS - 2},
        {"dropped_bits": 5},
        {"digits": 3.0},
        {"num_clients": 9},
    ],
)
def test_records_that_contradict_themselves_are_refused(change):
    with pytest.raises(ConfigError):
        dataclasses.replace(EIGHT, **change)


def test_records_are_frozen_and_hashable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EIGHT.digits = 2
    assert hash(EIGHT) == hash(derive(num_clients=8, bits=12))
    assert EIGHT.digest() == derive(num_clients=8, bits=12).digest()
    assert EIGHT.digest() != derive(num_clients=9, bits=12).digest()


@given(num_clients=CLIENTS, bits=BITS)
def test_json_round_trip(num_clients, bits):
    parameters = derive(num_clients=num_clients, bits=bits)
    assert BFVParameters.from_json(json.loads(json.dumps(parameters.to_json()))) == parameters


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"scheme": "CKKS"},
        {"schema": 2},
        {"schema": True},
        {"digits": 2},
        {"digits": 3.0},
        {"num_clients": "8"},
        {"num_clients": 2000},
        {"bits": 99},
        {"plain_modulus": 40961},
        {"coeff_modulus": 2**60},
    ],
)
def test_json_with_any_other_value_is_refused(change):
    with pytest.raises(MessageError):
        BFVParameters.from_json(EIGHT.to_json() | change)


def test_json_with_a_missing_field_is_refused():
    for name in EIGHT.to_json():
        values = EIGHT.to_json()
        del values[name]
        with pytest.raises(MessageError):
            BFVParameters.from_json(values)
    with pytest.raises(MessageError, match="JSON object"):
        BFVParameters.from_json([EIGHT.to_json()])


def test_packing_by_hand():
    """Parameter j * 4096 + s is digit j of slot s: 5 + 7 R - 2 R^2, modulo t."""
    values = np.zeros(2 * 4096 + 1, dtype=np.int64)
    values[[0, 4096, 8192]] = [5, 7, -2]
    slots = pack(values, EIGHT)
    radix = EIGHT.radix
    assert slots.shape == (1, 4096)
    assert slots.dtype == np.uint64
    assert int(slots[0, 0]) == (5 + 7 * radix - 2 * radix**2) % EIGHT.plain_modulus
    assert not slots[0, 1:].any()


@given(num_clients=st.integers(1, 40), bits=BITS, data=st.data())
def test_sums_of_packed_updates_unpack_exactly(num_clients, bits, data):
    parameters = derive(num_clients=num_clients, bits=bits)
    whole = parameters.params_per_ciphertext
    num_params = data.draw(st.sampled_from([1, whole - 1, whole, whole + 1]))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    largest = parameters.max_magnitude
    updates = generator.integers(-largest, largest + 1, size=(num_clients, num_params))
    updates[:, 0] = data.draw(st.sampled_from([largest, -largest]))
    slots = packed_sum(updates, parameters)
    assert slots.max() < parameters.plain_modulus
    np.testing.assert_array_equal(unpack(slots, num_params, parameters), updates.sum(axis=0))


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_possible_sums_do_not_spill(sign):
    for num_clients, bits in [(1, 8), (3, 16), (8, 12), (1000, 8), (1000, 16)]:
        parameters = derive(num_clients=num_clients, bits=bits)
        largest = sign * parameters.max_magnitude
        one = pack(np.full(parameters.params_per_ciphertext, largest), parameters)
        total = (one.astype(object) * num_clients % parameters.plain_modulus).astype(np.uint64)
        sums = unpack(total, parameters.params_per_ciphertext, parameters)
        np.testing.assert_array_equal(sums, num_clients * largest)


@pytest.mark.parametrize("bad", [2048, -2048, np.iinfo(np.int64).min])
def test_a_value_that_would_spill_is_refused(bad):
    with pytest.raises(EncryptionError, match="spill"):
        pack(np.array([0, bad]), EIGHT)


def test_pack_checks_shape_and_type():
    for values in (np.zeros(3), np.zeros((2, 2), dtype=np.int64), np.zeros(0, dtype=np.int64)):
        with pytest.raises(EncryptionError, match="integers"):
            pack(values, EIGHT)


def test_unpack_refuses_what_no_sum_gives():
    slots = pack(np.arange(100), EIGHT)
    with pytest.raises(EncryptionError, match="uint64"):
        unpack(slots, 12_289, EIGHT)
    with pytest.raises(EncryptionError, match="uint64"):
        unpack(slots.astype(np.int64), 100, EIGHT)
    with pytest.raises(EncryptionError, match="padding"):
        unpack(slots, 99, EIGHT)
    half = (EIGHT.radix**EIGHT.digits - 1) // 2
    for bad in (half + 1, EIGHT.plain_modulus - half - 1, EIGHT.plain_modulus, 2**64 - 1):
        changed = slots.copy()
        changed[0, 5] = bad
        with pytest.raises(EncryptionError, match="packed sum"):
            unpack(changed, 12_288, EIGHT)
