"""How updates are summed: bits, ranges and custody, each checked when it is built."""

import json
from dataclasses import FrozenInstanceError

import pytest

from privfed import BFV, CKKS, Plain
from privfed.errors import ConfigError
from privfed.settings.encryption import (
    Custody,
    FixedPoint,
    Summation,
    summation_from_json,
    summation_to_json,
)
from tests.unit.privfed.wrong_values import NO_FLOAT32, NOT_POSITIVE


@pytest.mark.parametrize("kind", [FixedPoint, BFV, Plain])
class TestFixedPoint:
    def test_defaults(self, kind):
        assert (kind().bits, kind().public_range, kind().follow_released) == (12, None, False)

    def test_it_is_a_summation_and_cannot_be_changed(self, kind):
        assert isinstance(kind(), Summation)
        with pytest.raises(FrozenInstanceError):
            kind().bits = 8

    @pytest.mark.parametrize("bits", [3, 17, 0, -8, 12.0, True, "12", None])
    def test_bits(self, kind, bits):
        with pytest.raises(ConfigError, match=r"bits must be a whole number in \[4, 16\]"):
            kind(bits=bits)

    @pytest.mark.parametrize("bits", [4, 16])
    def test_the_ends_of_the_range_are_accepted(self, kind, bits):
        assert kind(bits=bits).bits == bits

    @pytest.mark.parametrize("value", [*NOT_POSITIVE, *NO_FLOAT32])
    def test_public_range(self, kind, value):
        with pytest.raises(ConfigError, match="public_range"):
            kind(public_range=value)

    @pytest.mark.parametrize("value", ["true", 1, None])
    def test_follow_released(self, kind, value):
        with pytest.raises(ConfigError, match="^follow_released must be bool, got"):
            kind(follow_released=value)


class TestBFV:
    def test_by_default_the_clients_share_the_key(self):
        assert (BFV().custody, BFV().key_holder) == (Custody.SHARED_KEY, None)

    @pytest.mark.parametrize("custody", list(Custody))
    def test_either_custody(self, custody):
        assert BFV(custody=custody).custody is custody

    @pytest.mark.parametrize("custody", ["key_holder", "shared_key", "threshold", None, 1])
    def test_a_custody_that_is_none_of_them(self, custody):
        with pytest.raises(
            ConfigError, match=r"custody must be one of \['shared_key', 'key_holder"
        ):
            BFV(custody=custody)

    def test_an_address_belongs_to_a_key_holder(self):
        BFV(custody=Custody.KEY_HOLDER, key_holder="localhost:1")
        with pytest.raises(ConfigError, match="custody KEY_HOLDER only"):
            BFV(key_holder="localhost:1")
        with pytest.raises(TypeError, match="key_holder"):
            Plain(key_holder="localhost:1")


@pytest.mark.parametrize(
    ("summation", "custody"),
    [
        (BFV(), Custody.SHARED_KEY),
        (BFV(custody=Custody.KEY_HOLDER), Custody.KEY_HOLDER),
        (CKKS(), Custody.SHARED_KEY),
        (Plain(), None),
        (FixedPoint(), None),
        (Summation(), None),
    ],
    ids=str,
)
def test_who_holds_the_key_is_said_of_all_of_them(summation, custody):
    assert summation.custody is custody


@pytest.mark.parametrize("value", NOT_POSITIVE)
def test_any_summation_checks_its_range(value):
    with pytest.raises(ConfigError, match="public_range"):
        Summation(public_range=value)


def test_floats_have_no_bits_and_no_choice_of_custody():
    assert CKKS(public_range=2.5, follow_released=True).public_range == 2.5
    for name, value in (("bits", 12), ("custody", Custody.SHARED_KEY), ("key_holder", "here:1")):
        with pytest.raises(TypeError, match=name):
            CKKS(**{name: value})


class TestJson:
    def test_by_hand(self):
        summation = BFV(public_range=0.5, bits=9, custody=Custody.KEY_HOLDER)
        assert summation_to_json(summation) == {
            "scheme": "BFV",
            "public_range": 0.5,
            "follow_released": False,
            "bits": 9,
            "custody": "key_holder",
        }

    @pytest.mark.parametrize(
        "summation",
        [
            BFV(),
            BFV(custody=Custody.KEY_HOLDER, follow_released=True),
            CKKS(public_range=2.5),
            Plain(bits=8),
            BFV(bits=4, custody=Custody.KEY_HOLDER),
        ],
        ids=str,
    )
    def test_there_and_back(self, summation):
        found = summation_from_json(json.loads(json.dumps(summation_to_json(summation))))
        assert found == summation
        assert type(found) is type(summation)
        if isinstance(summation, BFV):
            assert type(found.custody) is Custody

    def test_where_a_key_holder_listens_each_party_knows_for_itself(self):
        here = BFV(custody=Custody.KEY_HOLDER, key_holder="ward-7:443")
        assert "ward-7" not in json.dumps(summation_to_json(here))
        found = summation_from_json(summation_to_json(here))
        assert found == BFV(custody=Custody.KEY_HOLDER)

    def test_what_was_given_is_not_changed(self):
        values = summation_to_json(BFV())
        before = dict(values)
        summation_from_json(values)
        assert values == before

    @pytest.mark.parametrize(
        "values",
        [
            {},
            {"scheme": "bfv"},
            {"scheme": "Summation"},
            {"scheme": ["BFV"]},
            {"scheme": None},
            {"scheme": "BFV", "custody": "threshold"},
            {"scheme": "BFV", "more": 1},
            {"scheme": "Plain", "custody": "shared_key"},
            {"scheme": "BFV", "bits": 17},
            {"scheme": "BFV", "bits": 3},
            {"scheme": "CKKS", "bits": 4},
            {"scheme": "CKKS", "public_range": 0},
        ],
        ids=str,
    )
    def test_anything_else_is_refused(self, values):
        with pytest.raises(ConfigError, match="updates are summed must be BFV, CKKS or Plain"):
            summation_from_json(values)
