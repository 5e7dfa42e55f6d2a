"""Sums in clear: the same messages and checks as under encryption, and numbers anybody can read."""

import numpy as np
import pytest

from privfed.encryption.plain import PlainAdder, PlainCipher
from privfed.errors import MessageError
from privfed.protocol.contributions import Contribution, contributions_json
from privfed.protocol.envelopes import Envelope

LEDGER = {"length": 4, "head": "ab" * 32}
SUM = np.array([5, -7, 0], dtype="<i4").tobytes()


@pytest.fixture(scope="module")
def cipher(company):
    return PlainCipher(3, 3, company.roster, 2)


@pytest.fixture(scope="module")
def listed(company, round_terms):
    messages = [
        company.message(client, "update", round_terms, manifest={"ledger": LEDGER})
        for client in "abcd"
    ]
    return contributions_json(Contribution.of(Envelope.from_bytes(raw)) for raw in messages)


@pytest.fixture(scope="module")
def total(company, round_terms, listed):
    """A function that makes the message of a sum, with changes."""

    def total(*, who="aggregator", kind="sum", blobs=None, **manifest):
        return company.message(
            who,
            kind,
            round_terms,
            manifest={"contributions": listed[:2]} | manifest,
            blobs={"values": SUM} if blobs is None else blobs,
        )

    return total


def test_values_are_four_little_bytes_each(cipher, round_terms):
    ((name, pieces),) = cipher.encrypt(round_terms, np.array([1, -1, 258], dtype=np.int16))
    assert name == "values"
    assert b"".join(pieces) == b"\x01\0\0\0\xff\xff\xff\xff\x02\x01\0\0"


def test_a_sum_is_read(cipher, round_terms, total):
    opened = cipher.open(round_terms, total())
    assert opened.values.tolist() == [5, -7, 0]
    assert opened.values.dtype == np.int64
    assert opened.contributors == ("a", "b")


def test_the_sum_of_what_was_encrypted(cipher, round_terms):
    adder = PlainAdder(3, 100)
    for client, numbers in {"a": [100, -100, 3], "b": [100, -100, 4]}.items():
        blobs = {
            name: b"".join(pieces)
            for name, pieces in cipher.encrypt(round_terms, np.array(numbers))
        }
        adder.add(client, blobs)
    assert np.frombuffer(adder.total()["values"], dtype="<i4").tolist() == [200, -200, 7]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"who": "a"}, "must be enrolled as aggregator, 'a'"),
        ({"who": "key_holder"}, "must be enrolled as aggregator, 'key_holder'"),
        ({"kind": "update"}, "'aggregator' sent a 'update'"),
        ({"base": "11"}, "'aggregator' states base = '11'"),
        ({"extra": 1}, "must state its contributions, got \\['contributions', 'extra'\\]"),
        ({"contributions": None}, "must list its contributions"),
        ({"contributions": []}, "must have 2 to 3 contributors, got 0"),
        ({"blobs": {}}, "one blob of 3 4-byte integers"),
        ({"blobs": {"values": SUM[:-1]}}, "one blob of 3 4-byte integers"),
        ({"blobs": {"values": SUM + b"\0"}}, "one blob of 3 4-byte integers"),
        ({"blobs": {"others": SUM}}, "one blob of 3 4-byte integers"),
        ({"blobs": {"values": SUM, "others": SUM}}, "one blob of 3 4-byte integers"),
    ],
    ids=str,
)
def test_what_is_no_sum_of_this_round_is_refused(cipher, round_terms, total, change, reason):
    with pytest.raises(MessageError, match=reason):
        cipher.open(round_terms, total(**change))


def test_the_number_of_contributors_is_limited(cipher, round_terms, total, listed):
    assert cipher.open(round_terms, total(contributions=listed[:3])).contributors == ("a", "b", "c")
    for count in (1, 4):
        with pytest.raises(MessageError, match=f"2 to 3 contributors, got {count}"):
            cipher.open(round_terms, total(contributions=listed[:count]))


def test_a_contribution_that_nobody_signed_is_refused(cipher, round_terms, total, listed):
    forged = [listed[0], {**listed[1], "signature": listed[0]["signature"]}]
    with pytest.raises(MessageError, match="message of 'b' must carry its signature"):
        cipher.open(round_terms, total(contributions=forged))


@pytest.mark.parametrize("value", [101, -101, 2**31 - 1, -(2**31)])
def test_a_value_out_of_range_is_refused_and_not_added(value):
    adder = PlainAdder(3, 100)
    adder.add("a", {"values": SUM})
    with pytest.raises(MessageError, match="within 100"):
        adder.add("b", {"values": np.array([1, value, 1], dtype="<i4").tobytes()})
    assert adder.total() == {"values": SUM}


@pytest.mark.parametrize("blobs", [{}, {"values": b""}, {"x": SUM}, {"values": SUM, "x": b""}])
def test_malformed_uploads_are_refused(blobs):
    adder = PlainAdder(3, 100)
    with pytest.raises(MessageError, match="one blob of 3"):
        adder.add("a", blobs)
    assert adder.total() == {"values": bytes(12)}
