"""Who said it, about what: refusals name the sender and the first thing that differs."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.canonical import canonical_json
from privfed.errors import MessageError
from privfed.identity.keys import Identity, Role
from privfed.protocol.envelopes import Envelope, Statement, envelope_bytes
from privfed.protocol.signing import (
    own_values,
    require_signature,
    require_terms,
    require_values,
    verified,
)


@pytest.fixture(scope="module")
def update(company, round_terms):
    return company.message("a", "update", round_terms, manifest={"own": 1}, blobs={"x": b"12"})


@pytest.fixture(scope="module")
def read(company, round_terms):
    """Read a message as an update of this round."""

    def read(message, terms=round_terms, role=Role.CLIENT, kind="update"):
        return verified(message, company.roster, role=role, kind=kind, terms=terms)

    return read


def test_a_signed_message_of_the_round_is_read(update, read, round_terms):
    envelope = read(memoryview(update))
    assert envelope == Envelope.from_bytes(update)
    assert envelope.blobs["x"] == b"12"
    assert own_values(envelope.statement, round_terms) == {"own": 1}


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_bit_can_be_flipped(update, read, position, bit):
    damaged = bytearray(update)
    damaged[position % len(damaged)] ^= 1 << bit
    with pytest.raises(MessageError):
        read(damaged)


@given(position=st.integers(-64, -1), bit=st.integers(0, 7))
def test_a_flipped_bit_of_the_signature_is_found_and_named(update, read, position, bit):
    damaged = bytearray(update)
    damaged[position] ^= 1 << bit
    with pytest.raises(MessageError, match="message of 'a' must carry its signature"):
        read(damaged)


def test_a_signature_plus_the_group_order_is_refused(update, read):
    """The malleability of Ed25519 (RFC 8032, 5.1.7): S + L would satisfy the same equation."""
    order = 2**252 + 27742317777372353535851937790883648493
    larger = int.from_bytes(update[-32:], "little") + order
    with pytest.raises(MessageError, match="must carry its signature"):
        read(update[:-32] + larger.to_bytes(32, "little"))


def test_a_signature_by_another_client_is_refused(company, round_terms, read):
    forged = company.message("a", "update", round_terms, key="b")
    with pytest.raises(MessageError, match="message of 'a' must carry its signature"):
        read(forged)


def test_the_signature_of_another_message_is_refused(company, round_terms, read, update):
    other = company.message("a", "update", round_terms, manifest={"own": 2}, blobs={"x": b"12"})
    with pytest.raises(MessageError, match="message of 'a' must carry its signature"):
        read(update[:-64] + other[-64:])


def test_a_signature_without_the_label_is_refused(company, round_terms, read):
    """Whoever gets a party to sign bytes for another purpose has not got a message signed."""
    signer = company.identities["a"]
    label = b"privfed message 5\n"
    for strip in (lambda raw: raw[len(label) :], lambda raw: b"privfed roster 2\n" + raw):
        forged = envelope_bytes(
            lambda raw, strip=strip: signer.sign(strip(raw)),
            round_terms,
            sender="a",
            kind="update",
        )
        with pytest.raises(MessageError, match="must carry its signature"):
            read(forged)


def test_a_stranger_is_refused(round_terms, read):
    for name in ("eve", "A", "a ", "", "é\n"):
        message = envelope_bytes(
            Identity.generate("eve", Role.CLIENT).sign, round_terms, sender=name, kind="update"
        )
        with pytest.raises(MessageError) as caught:
            read(message)
        assert f"{name!r} is not" in str(caught.value)


@pytest.mark.parametrize(
    ("sender", "role"),
    [
        ("aggregator", Role.CLIENT),
        ("key_holder", Role.CLIENT),
        ("a", Role.AGGREGATOR),
        ("a", Role.KEY_HOLDER),
        ("aggregator", Role.KEY_HOLDER),
    ],
)
def test_a_party_of_another_role_is_refused(company, round_terms, read, sender, role):
    message = company.message(sender, "update", round_terms)
    with pytest.raises(MessageError, match=f"must be enrolled as {role}, '{sender}' has the role"):
        read(message, role=role)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"run": "run-2"}, "update"),
        ({"run": "RUN-1"}, "update"),
        ({"round": 2}, "update"),
        ({"round": 4}, "update"),
        ({"round": 0}, "update"),
        ({}, "sum"),
        ({}, "Update"),
    ],
)
def test_a_replay_from_elsewhere_is_refused(company, round_terms, read, change, kind):
    """The same signed bytes serve no other run, round or kind."""
    stated = replace(round_terms, **change)
    message = company.message("b", kind, stated)
    assert read(message, terms=stated, kind=kind)
    with pytest.raises(MessageError) as caught:
        read(message)
    assert str(caught.value) == (
        f"'b' sent a {kind!r} of run {stated.run!r}, round {stated.round}; "
        "expected a 'update' of run 'run-1', round 3"
    )


OTHER_VALUES = {
    "base": ("00fe", "base = '00fe', expected '00ff'"),
    "encryption": ("none", "encryption = 'none'"),
    "key_id": (None, "key_id = None, expected 'k1'"),
    "public_range": (0.25, "public_range = 0.25, expected 0.5"),
    "roster": ("00", "roster = '00'"),
    "software": ({"numpy": "2.0", "tenseal": "0.4"}, "software.tenseal = '0.4', expected '0.3'"),
    "nothing": (False, "nothing = False, expected None"),
}


@pytest.mark.parametrize("name", sorted(OTHER_VALUES))
def test_each_changed_term_is_named(company, round_terms, read, name):
    assert set(OTHER_VALUES) == set(round_terms.manifest)
    value, shown = OTHER_VALUES[name]
    message = company.message("c", "update", round_terms, manifest={name: value})
    with pytest.raises(MessageError) as caught:
        read(message)
    assert str(caught.value).startswith(f"'c' states {shown}")


@pytest.mark.parametrize("name", sorted(OTHER_VALUES))
def test_each_missing_term_is_named(company, round_terms, read, name):
    """Also one whose value is None: a statement without it is another statement."""
    manifest = {key: value for key, value in round_terms.manifest.items() if key != name}
    message = company.message("c", "update", replace(round_terms, manifest=manifest))
    with pytest.raises(MessageError, match=f"'c' states no {name}, expected"):
        read(message)


NESTED = {
    "a missing value": ({"bits": 8}, "states no encryption.scheme, expected 'any'"),
    "a further value": (
        {"bits": 8, "scheme": "any", "size": 41},
        "states encryption.size too, which is not expected",
    ),
    "another value": ({"bits": 9, "scheme": "any"}, "states encryption.bits = 9, expected 8"),
    "a float": ({"bits": 8.0, "scheme": "any"}, "states encryption.bits = 8.0, expected 8"),
    "a list": ([8, "any"], "states encryption = [8, 'any']"),
}


@pytest.mark.parametrize("case", NESTED)
def test_terms_are_compared_to_the_letter_at_every_depth(company, round_terms, read, case):
    """Whatever an aggregator lets pass here, no receiver of the sum can verify any more."""
    value, shown = NESTED[case]
    message = company.message("c", "update", round_terms, manifest={"encryption": value})
    with pytest.raises(MessageError) as caught:
        read(message)
    assert shown in str(caught.value)


flat = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from([0.0, -0.0, 1.0, "", "1"])
nested = st.recursive(
    flat,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=5,
)


@given(nested, nested)
def test_values_pass_if_and_only_if_their_bytes_are_equal(stated, expected):
    """So what passed can be rebuilt from the terms, and the signature still fits."""
    if canonical_json(stated) == canonical_json(expected):
        require_values("a", stated, expected, "x")
        return
    with pytest.raises(MessageError, match="'a' states (no )?x"):
        require_values("a", stated, expected, "x")


def test_what_was_sent_is_shown_shortened(company, round_terms, read):
    long = "y" * 100_000
    messages = [
        company.message("a", "update", round_terms, manifest={"base": long}),
        company.message("a", "update", round_terms, manifest={"encryption": {long: 1}}),
        company.message("a", long, round_terms),
        company.message("a", "update", replace(round_terms, run=long)),
    ]
    for message in messages:
        with pytest.raises(MessageError) as caught:
            read(message)
        assert len(str(caught.value)) < 1000


def test_more_than_the_terms_is_left_to_the_reader(company, round_terms):
    statement = Statement(
        run="run-1", round=3, sender="a", kind="k", manifest={**round_terms.manifest, "more": [1]}
    )
    require_terms(statement, kind="k", terms=round_terms)
    assert own_values(statement, round_terms) == {"more": [1]}


def test_a_signature_is_checked_without_the_message(company, update):
    envelope = Envelope.from_bytes(update)
    statement = envelope.statement
    require_signature(statement, envelope.signature, company.roster, role=Role.CLIENT)
    for changed in (replace(statement, round=4), replace(statement, blobs=())):
        with pytest.raises(MessageError, match="must carry its signature"):
            require_signature(changed, envelope.signature, company.roster, role=Role.CLIENT)
    for signature in (b"", envelope.signature[:-1], envelope.signature + b"\0"):
        with pytest.raises(MessageError, match="must carry its signature"):
            require_signature(statement, signature, company.roster, role=Role.CLIENT)
