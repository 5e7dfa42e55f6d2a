"""What holds whoever keeps the key: real messages end to end, and the sum is the integer sum."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privfed.errors import EncryptionError, MessageError, PrivfedError, TooFewClientsError
from privfed.settings.encryption import Custody
from tests.unit.privfed.small_federation import SmallFederation, contribution_of, updates

CUSTODIES = [*Custody, None]
each_custody = pytest.mark.parametrize("custody", CUSTODIES, ids=lambda one: one or "plain")
SIZES = st.sampled_from([1, 2, 4094, 4095, 4096, 4097, 12_281, 12_282, 12_283]) | st.integers(
    1, 13_000
)


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@settings(max_examples=25)
@given(
    bits=st.integers(4, 16), num_clients=st.integers(3, 8), num_params=SIZES, seed=st.integers(0, 9)
)
@example(bits=4, num_clients=8, num_params=12_283, seed=0)
@example(bits=8, num_clients=3, num_params=12_281, seed=0)
@example(bits=16, num_clients=8, num_params=12_283, seed=0)
@example(bits=12, num_clients=5, num_params=1, seed=0)
def test_the_sum_is_the_integer_sum(tmp_path_factory, bits, num_clients, num_params, seed):
    """Every client, under every custody, opens what numpy adds up."""
    folder = tmp_path_factory.mktemp("results")
    for custody in CUSTODIES:
        federation = SmallFederation(
            custody, folder, num_clients=num_clients, bits=bits, num_params=num_params
        )
        values = updates(federation.parameters, federation.names, seed)
        opened = federation.play(values)
        expected = sum(values.values())
        assert sorted(opened) == federation.names
        for one in opened.values():
            assert one.values.dtype == np.int64
            assert one.contributors == tuple(federation.names)
            np.testing.assert_array_equal(one.values, expected)


@each_custody
@pytest.mark.parametrize("sign", [1, -1])
def test_all_at_one_end_of_the_range_over_more_ciphertexts_than_are_read_at_once(
    custody, results, sign
):
    federation = SmallFederation(custody, results, bits=16, num_params=70_000)
    assert federation.parameters.num_ciphertexts > 8
    extreme = np.full(70_000, sign * federation.parameters.max_magnitude)
    opened = federation.play(dict.fromkeys(federation.names, extreme))
    np.testing.assert_array_equal(opened["c1"].values, 3 * extreme)


@each_custody
def test_rounds_go_on_and_some_clients_may_be_missing(custody, results):
    federation = SmallFederation(custody, results, num_clients=4)
    for round, names in enumerate((["c1", "c2", "c3", "c4"], ["c2", "c3", "c4"]), start=1):
        values = updates(federation.parameters, names, seed=round)
        for one in federation.play(values, round).values():
            assert one.contributors == tuple(names)
            np.testing.assert_array_equal(one.values, sum(values.values()))


@each_custody
def test_too_few_contributions_are_not_summed(custody, results):
    federation = SmallFederation(custody, results, num_clients=4)
    opening = federation.begin()
    values = updates(federation.parameters, ["c1", "c2"])
    uploads = federation.uploads(opening.terms, values)
    alone = federation.total(opening.terms, uploads, min_clients=2)
    with pytest.raises((MessageError, EncryptionError), match="3 to 4 contributors"):
        federation.ciphers["c1"].open(
            opening.terms, federation.close(opening.terms, alone, uploads)
        )
    with pytest.raises(TooFewClientsError):
        federation.total(opening.terms, uploads)


@pytest.mark.parametrize("custody", Custody)
@pytest.mark.parametrize("value", [128, -128, 2**40])
def test_a_value_beyond_the_bits_is_not_sent(custody, results, value):
    federation = SmallFederation(custody, results)
    opening = federation.begin()
    numbers = np.zeros(9, dtype=np.int64)
    numbers[4] = value
    with pytest.raises(EncryptionError, match="spill"):
        federation.upload(opening.terms, "c1", numbers)


@each_custody
def test_an_update_of_another_length_is_not_sent_or_not_added(custody, results):
    federation = SmallFederation(custody, results)
    opening = federation.begin()
    values = updates(federation.parameters, federation.names)
    values["c2"] = values["c2"][:-1]
    with pytest.raises(PrivfedError, match="shape|4-byte"):
        federation.total(opening.terms, federation.uploads(opening.terms, values))


@each_custody
def test_a_closed_round_opens_for_its_own_terms_only(custody, results):
    federation = SmallFederation(custody, results)
    opening = federation.begin()
    values = updates(federation.parameters, federation.names)
    uploads = federation.uploads(opening.terms, values)
    closed = federation.close(opening.terms, federation.total(opening.terms, uploads), uploads)
    for terms in (federation.terms(2), federation.begin(2).terms):
        with pytest.raises(MessageError, match="round 1"):
            federation.ciphers["c1"].open(terms, closed)
    flipped = bytearray(closed)
    flipped[20] ^= 1
    with pytest.raises(MessageError, match="damaged"):
        federation.ciphers["c1"].open(opening.terms, flipped)
    assert federation.ciphers["c1"].open(opening.terms, closed).contributors == ("c1", "c2", "c3")


@pytest.mark.parametrize("custody", Custody)
def test_two_uploads_of_the_same_numbers_share_nothing(custody, results):
    federation = SmallFederation(custody, results)
    opening = federation.begin()
    numbers = np.zeros(9, dtype=np.int64)
    first, second = (federation.upload(opening.terms, "c1", numbers) for _ in range(2))
    size = federation.parameters.upload_bytes() - 200
    same = np.frombuffer(first[8:size], np.uint8) == np.frombuffer(second[8:size], np.uint8)
    assert same.mean() < 0.02


@each_custody
def test_the_sum_lists_every_contribution_in_order(custody, results):
    federation = SmallFederation(custody, results)
    opening = federation.begin()
    values = updates(federation.parameters, federation.names)
    uploads = federation.uploads(opening.terms, values)
    total = federation.total(opening.terms, dict(reversed(uploads.items())))
    assert [entry["client"] for entry in contribution_of(total)] == ["c1", "c2", "c3"]
