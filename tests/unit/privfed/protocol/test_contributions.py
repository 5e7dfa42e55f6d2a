"""The record of a contribution: the signature fits what the client sent and nothing else."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.errors import MessageError
from privfed.protocol.contributions import (
    Contribution,
    contributions_json,
    require_contributions,
    taking_part,
)
from privfed.protocol.envelopes import Envelope, Statement
from privfed.protocol.terms import Terms

LEDGER = {"length": 4, "head": "ab" * 32}
BLOBS = {"ciphertexts": b"\x01\x02\x03", "seeds": b"\x04"}


def contribution(company, terms, client, *, blobs=BLOBS, ledger=LEDGER, kind="update", key=None):
    message = company.message(
        client, kind, terms, manifest={"ledger": ledger}, blobs=blobs, key=key
    )
    return Contribution.of(Envelope.from_bytes(message))


@pytest.fixture(scope="module")
def listed(company, round_terms):
    """What a sum of a, b and c lists."""
    return [contribution(company, round_terms, client).to_json() for client in "abc"]


@pytest.fixture(scope="module")
def accept(company, round_terms):
    def accept(listed, terms=round_terms, **limits):
        limits = {"min_clients": 2, "max_clients": 3} | limits
        return require_contributions(listed, company.roster, terms, **limits)

    return accept


def copied(listed):
    return json.loads(json.dumps(listed))


def test_the_record_is_the_statement_without_what_all_know(company, round_terms):
    message = company.message(
        "b", "update", round_terms, manifest={"ledger": LEDGER}, blobs={"x": b""}
    )
    envelope = Envelope.from_bytes(message)
    record = Contribution.of(envelope)
    assert record.statement(round_terms) == envelope.statement
    assert record.to_json() == {
        "client": "b",
        "ledger": LEDGER,
        "blobs": [["x", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]],
        "signature": message[-64:].hex(),
    }
    assert Contribution.from_json(record.to_json()) == record


def test_signed_contributions_are_accepted(listed, accept, round_terms):
    accepted = accept(copied(listed))
    assert [record.client for record in accepted] == ["a", "b", "c"]
    assert [record.to_json() for record in accepted] == listed
    assert all(record.statement(round_terms).binds("seeds", b"\x04") for record in accepted)
    assert not any(record.statement(round_terms).binds("seeds", b"\x05") for record in accepted)


def test_contributions_are_listed_by_name(company, round_terms):
    records = [contribution(company, round_terms, client) for client in "cab"]
    assert [entry["client"] for entry in contributions_json(records)] == ["a", "b", "c"]
    assert contributions_json(records) == [
        record.to_json() for record in sorted(records, key=lambda record: record.client)
    ]


CHANGES = {
    "another client": lambda entry: entry | {"client": "d"},
    "a longer ledger": lambda entry: entry | {"ledger": LEDGER | {"length": 5}},
    "a ledger of another type": lambda entry: entry | {"ledger": LEDGER | {"length": 4.0}},
    "another head": lambda entry: entry | {"ledger": LEDGER | {"head": "ac" * 32}},
    "no ledger": lambda entry: entry | {"ledger": None},
    "another digest": lambda entry: (
        entry | {"blobs": [[name, size, digest[::-1]] for name, size, digest in entry["blobs"]]}
    ),
    "another size": lambda entry: (
        entry | {"blobs": [[name, size + 1, digest] for name, size, digest in entry["blobs"]]}
    ),
    "another name": lambda entry: (
        entry | {"blobs": [[name + "x", size, digest] for name, size, digest in entry["blobs"]]}
    ),
    "a blob less": lambda entry: entry | {"blobs": entry["blobs"][:1]},
    "no blobs": lambda entry: entry | {"blobs": []},
    "no signature": lambda entry: entry | {"signature": "00" * 64},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_change_of_a_record_is_refused_by_name(listed, accept, change):
    entries = copied(listed)
    entries[2] = change(entries[2])
    with pytest.raises(MessageError, match=f"message of '{entries[2]['client']}' must carry"):
        accept(entries)


@pytest.mark.parametrize("name", ["base", "encryption", "key_id", "public_range", "nothing"])
def test_other_terms_are_refused(listed, accept, round_terms, name):
    without = {key: value for key, value in round_terms.manifest.items() if key != name}
    for manifest in (without, {**round_terms.manifest, name: "other"}):
        with pytest.raises(MessageError, match="message of 'a' must carry its signature"):
            accept(listed, replace(round_terms, manifest=manifest))


def test_who_is_left_out_is_refused_by_name(company, round_terms):
    """Enrolled, and with a signature for these very terms."""
    terms = replace(round_terms, manifest={**round_terms.manifest, "left_out": ["b", "d"]})
    listed = [contribution(company, terms, client).to_json() for client in "abc"]
    limits = {"min_clients": 2, "max_clients": 3}
    with pytest.raises(MessageError, match=r"must take part in the run, \['b'\] were left out"):
        require_contributions(listed, company.roster, terms, **limits)
    others = [entry for entry in listed if entry["client"] != "b"]
    accepted = require_contributions(others, company.roster, terms, **limits)
    assert [record.client for record in accepted] == ["a", "c"]
    assert [party.name for party in taking_part(company.roster, terms)] == ["a", "c"]


def test_contributions_of_another_run_or_round_are_refused(listed, accept, round_terms):
    for terms in (replace(round_terms, run="run-2"), replace(round_terms, round=4)):
        with pytest.raises(MessageError, match="message of 'a' must carry its signature"):
            accept(listed, terms)


def test_a_message_of_another_kind_is_no_contribution(company, round_terms, listed, accept):
    """A client's signed answer cannot be listed as its update."""
    other = contribution(company, round_terms, "c", kind="answer").to_json()
    with pytest.raises(MessageError, match="message of 'c' must carry its signature"):
        accept([*listed[:2], other])


def test_a_signature_by_another_client_is_refused(company, round_terms, listed, accept):
    forged = contribution(company, round_terms, "c", key="a").to_json()
    with pytest.raises(MessageError, match="message of 'c' must carry its signature"):
        accept([*listed[:2], forged])


@pytest.mark.parametrize("sender", ["aggregator", "key_holder"])
def test_only_clients_contribute(company, round_terms, listed, accept, sender):
    """An aggregator cannot fill up the number of contributors itself."""
    own = contribution(company, round_terms, sender).to_json()
    with pytest.raises(MessageError, match=f"must be enrolled as client, '{sender}'"):
        accept(sorted([*listed[:2], own], key=lambda entry: entry["client"]))


def test_a_stranger_is_refused_by_name(listed, accept):
    with pytest.raises(MessageError, match="'zoe' is not"):
        accept([*listed[:2], listed[2] | {"client": "zoe"}])


def test_contributors_must_be_different_and_sorted(listed, accept):
    a, b, c = listed
    for wrong in ([a, a, b], [a, b, b], [b, a], [a, c, b], [a, a]):
        with pytest.raises(MessageError, match="must be different and sorted"):
            accept(wrong)


def test_too_few_or_too_many_are_refused(listed, accept):
    assert len(accept(listed[:2])) == 2
    assert len(accept(listed, min_clients=3)) == 3
    with pytest.raises(MessageError, match="must have 2 to 3 contributors, got 1"):
        accept(listed[:1])
    with pytest.raises(MessageError, match="must have 2 to 3 contributors, got 0"):
        accept([])
    with pytest.raises(MessageError, match="must have 2 to 2 contributors, got 3"):
        accept(listed, max_clients=2)


def test_a_list_that_is_too_long_is_not_read(accept):
    with pytest.raises(MessageError, match="got 1000000"):
        accept([None] * 1_000_000)


MALFORMED = {
    "client": [None, 1, ["a"], {}, True],
    "ledger": [float("nan"), float("-inf"), "\ud800", [[[[[[[[[[1]]]]]]]]]] * 1],
    "blobs": [
        None,
        "abc",
        ["a1b"],
        {"a": 1},
        {"abc": 1},
        [["x", "12", "ab" * 32]],
        [["x", 1.9, "ab" * 32]],
        [["x", True, "ab" * 32]],
        [["x", float("inf"), "ab" * 32]],
        [["x", float("nan"), "ab" * 32]],
        [["x", -1, "ab" * 32]],
        [["x", 10**5000, "ab" * 32]],
        [["x", 1, 5]],
        [["x", 1]],
        [["y", 1, "ab" * 32], ["x", 1, "ab" * 32]],
        [["x", 1, "ab" * 32], ["x", 1, "ab" * 32]],
    ],
    "signature": [None, 5, "", "zz" * 64, "AB" * 64, "ab " * 64, "ab" * 63, "ab" * 65, b"ab" * 64],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in MALFORMED.items() for value in values]
)
def test_a_malformed_field_is_refused(listed, accept, field, value):
    with pytest.raises(MessageError):
        accept([*listed[:2], listed[2] | {field: value}])


@pytest.mark.parametrize("same", ["ab" * 32, " " + "ab" * 32])
def test_one_record_has_one_form(listed, accept, same):
    """Another way to write the same signature would be another sum with the same contributions."""
    upper = listed[2] | {"signature": listed[2]["signature"].upper()}
    spaced = listed[2] | {"signature": f" {listed[2]['signature']}"}
    texts = listed[2] | {"blobs": [[n, str(size), d] for n, size, d in listed[2]["blobs"]]}
    floats = listed[2] | {"blobs": [[n, float(size), d] for n, size, d in listed[2]["blobs"]]}
    for wrong in (upper, spaced, texts, floats):
        with pytest.raises(MessageError):
            accept([*listed[:2], wrong])


@pytest.mark.parametrize("key", ["client", "ledger", "blobs", "signature", "more"])
def test_a_field_too_few_or_too_many_is_refused(listed, accept, key):
    entry = dict(listed[2])
    if entry.pop(key, None) is None:
        entry[key] = 1
    with pytest.raises(MessageError, match="must have the fields"):
        accept([*listed[:2], entry])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(json_values, st.sampled_from(["client", "ledger", "blobs", "signature"]))
def test_random_json_is_refused_and_nothing_else_is_raised(listed, accept, value, field):
    for wrong in (value, [value] * 3, [*listed[:2], listed[2] | {field: value}]):
        with pytest.raises(MessageError):
            accept(wrong)


@given(st.lists(st.lists(json_values, max_size=4), max_size=3))
def test_random_entries_of_blobs_are_refused(listed, accept, entries):
    with pytest.raises(MessageError):
        accept([*listed[:2], listed[2] | {"blobs": entries}])


def test_deep_nesting_is_refused(listed, accept):
    deep = None
    for _ in range(400):
        deep = [deep]
    with pytest.raises(MessageError, match="nested"):
        accept([*listed[:2], listed[2] | {"ledger": deep}])


def test_the_statement_is_an_update_of_the_terms():
    record = Contribution(client="a", ledger=7, blobs=(), signature=bytes(64))
    terms = Terms(run="r", round=2, manifest={"base": "0"})
    assert record.statement(terms) == Statement(
        run="r", round=2, sender="a", kind="update", manifest={"base": "0", "ledger": 7}
    )
