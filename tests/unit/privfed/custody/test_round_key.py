"""Custody `key_holder` seen from a client: what it encrypts under, answers to, and believes."""

import copy
import hashlib
import pickle

import numpy as np
import pytest

from privfed.custody.keys import RoundKey
from privfed.custody.native import software
from privfed.custody.round_key import challenge_seed, padded_params, read_sums, statement_digest
from privfed.encryption import residues
from privfed.encryption.bitpacking import pack_rows
from privfed.encryption.noise import COEFF_MODULUS
from privfed.errors import EncryptionError, IdentityError, MessageError
from privfed.identity.keys import Identity, Role
from privfed.protocol.ciphers import KeyedCipher
from privfed.protocol.envelopes import Envelope, Statement, envelope_bytes
from privfed.protocol.terms import Terms
from privfed.settings.encryption import Custody
from tests.unit.privfed.small_federation import SmallFederation, blobs_of, updates


@pytest.fixture
def federation(tmp_path):
    return SmallFederation(Custody.KEY_HOLDER, tmp_path, num_clients=4)


@pytest.fixture
def opening(federation):
    return federation.begin()


def round_key(federation, terms, signer, key=None, **manifest):
    """A round-key message of somebody's own making."""
    own = {"key_id": "00" * 16, "software": software(), **manifest}
    content = (key or RoundKey.generate(federation.parameters)).public_bytes()
    return envelope_bytes(
        signer.sign,
        terms,
        sender=signer.party.name,
        kind="round-key",
        manifest=own,
        blobs={"public_key": content},
    )


def challenge(federation, opening, names=("c1", "c2", "c3"), seed="00" * 32, signer=None):
    """As the key holder signs it."""
    return federation.signed(
        opening.terms,
        "challenge",
        signer or federation.parties.key_holder,
        manifest={"seed": seed, "sum": "", "contributors": list(names)},
    )


def test_it_is_a_keyed_cipher(federation):
    assert isinstance(federation.ciphers["c1"], KeyedCipher)


# --- keys


def test_a_swapped_public_key(federation):
    """The aggregator puts its own in place, to read what is sent: in whosever name, refused."""
    parties, terms = federation.parties, federation.terms()
    for signer, reason in (
        (parties.aggregator, "enrolled as key_holder"),
        (parties.clients["c2"], "enrolled as key_holder"),
        (Identity.generate("key_holder", Role.KEY_HOLDER), "its signature"),
        (Identity.generate("c9", Role.CLIENT), "must be enrolled"),
    ):
        with pytest.raises(MessageError, match=reason):
            federation.ciphers["c1"].accept_key(terms, round_key(federation, terms, signer))
    with pytest.raises(EncryptionError, match="no accepted public key"):
        federation.upload(terms, "c1", np.zeros(9, dtype=np.int64))


def test_a_key_of_another_round_run_or_parameters(federation, opening):
    for terms in (
        federation.terms(2),
        Terms(run="another", round=1, manifest=opening.unkeyed.manifest),
        Terms(run="run", round=1, manifest={**opening.unkeyed.manifest, "base": "other"}),
    ):
        with pytest.raises(MessageError, match="expected"):
            federation.ciphers["c1"].accept_key(terms, opening.key)


def test_a_key_message_with_more_or_less(federation):
    terms, holder = federation.terms(), federation.parties.key_holder
    message = round_key(federation, terms, holder, more=1)
    with pytest.raises(MessageError, match="must (state|send)"):
        federation.ciphers["c1"].accept_key(terms, message)
    for blobs in ({}, {"public_key": b"", "more": b""}):
        message = federation.signed(
            terms,
            "round-key",
            holder,
            manifest={"key_id": "x", "software": software()},
            blobs=blobs,
        )
        with pytest.raises(MessageError, match="must (state|send)"):
            federation.ciphers["c1"].accept_key(terms, message)


def test_a_key_holder_with_other_software(federation):
    terms, older = federation.terms(), {"tenseal": "0.3.16", "seal": "4.1"}
    message = round_key(federation, terms, federation.parties.key_holder, software=older)
    with pytest.raises(EncryptionError, match=r"key_holder runs .*0\.3\.16"):
        federation.ciphers["c1"].accept_key(terms, message)


def test_nothing_is_encrypted_for_terms_without_an_accepted_key(federation, opening):
    numbers = np.zeros(9, dtype=np.int64)
    with pytest.raises(EncryptionError, match="round 1 has no accepted public key"):
        list(federation.ciphers["c1"].encrypt(opening.unkeyed, numbers))
    with pytest.raises(EncryptionError, match="round 2 has no accepted public key"):
        list(federation.ciphers["c1"].encrypt(federation.terms(2), numbers))
    federation.begin(2)
    with pytest.raises(EncryptionError, match="round 1 has no accepted public key"):
        list(federation.ciphers["c1"].encrypt(opening.terms, numbers))


# --- answers


def test_an_answer_is_the_form_at_what_was_sent(federation, opening):
    """Golden in the sense of arithmetic by hand: Python's whole numbers, coefficient by one."""
    sent = federation.upload(opening.terms, "c1", np.arange(9))
    asked = challenge(federation, opening)
    values = Envelope.from_bytes(
        federation.ciphers["c1"].answer(opening.terms, asked, sent)
    ).statement.manifest["values"]
    stream = hashlib.shake_256(b"privfed challenge 1\n" + bytes(32)).digest(16 * (2 * 4096 + 4))
    draws = [
        int.from_bytes(stream[at : at + 16], "little") % COEFF_MODULUS
        for at in range(0, len(stream), 16)
    ]
    bits = federation.parameters.upload_bits
    rows = residues.rows_of(blobs_of(sent)["ciphertexts"], 1, bits)
    polynomials = [part[0].tolist() for part in residues.from_rows(rows, bits)]
    for equation in (0, 1):
        vector = draws[equation : 2 * 4096 : 2]
        total = sum(
            draws[2 * 4096 + 2 * row + equation]
            * sum(a * b for a, b in zip(vector, polynomial, strict=True))
            for row, polynomial in enumerate(polynomials)
        )
        assert values[equation] == str(total % COEFF_MODULUS)


def test_an_answer_names_its_challenge_and_reveals_no_more(federation, opening):
    sent = federation.upload(opening.terms, "c1", np.arange(9))
    asked = challenge(federation, opening)
    envelope = Envelope.from_bytes(federation.ciphers["c1"].answer(opening.terms, asked, sent))
    own = set(envelope.statement.manifest) - set(opening.terms.manifest)
    assert own == {"challenge", "values"}
    assert envelope.blobs == {}
    assert envelope.statement.manifest["challenge"] == statement_digest(
        Envelope.from_bytes(asked).statement
    )


def test_who_may_ask(federation, opening):
    sent = federation.upload(opening.terms, "c1", np.arange(9))
    for signer in (federation.parties.aggregator, federation.parties.clients["c2"]):
        with pytest.raises(MessageError, match="enrolled as key_holder"):
            federation.ciphers["c1"].answer(
                opening.terms, challenge(federation, opening, signer=signer), sent
            )


def test_what_is_answered_for(federation, opening):
    """A client's own update of this round, and nothing else."""
    cipher, asked = federation.ciphers["c1"], challenge(federation, opening)
    other = federation.upload(opening.terms, "c2", np.arange(9))
    with pytest.raises(MessageError, match="its own update only"):
        cipher.answer(opening.terms, asked, other)
    forged = federation.upload(
        opening.terms, "c1", np.arange(9), Identity.generate("c1", Role.CLIENT)
    )
    with pytest.raises(MessageError, match="its signature"):
        cipher.answer(opening.terms, asked, forged)
    sent = federation.upload(opening.terms, "c1", np.arange(9))
    with pytest.raises(MessageError, match="expected a 'update'"):
        cipher.answer(
            opening.terms,
            asked,
            federation.signed(opening.terms, "answer", federation.parties.clients["c1"]),
        )
    later = federation.begin(2)
    with pytest.raises(EncryptionError, match="no accepted public key"):
        cipher.answer(opening.terms, asked, sent)
    with pytest.raises(MessageError, match="round 1"):
        cipher.answer(later.terms, asked, sent)
    with pytest.raises(MessageError, match="round 1"):
        cipher.answer(later.terms, challenge(federation, later), sent)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["c2", "c3", "c4"], "not one for 'c1' to answer"),
        (["c1", "c2"], "at least 3"),
        (["c1"], "at least 3"),
        (["c1", "c1", "c1"], "different enrolled"),
        (["c1", "c2", "c9"], "different enrolled"),
        (["c3", "c2", "c1"], "different enrolled"),
        ([["c1"], "c2", "c3"], "different enrolled"),
    ],
)
def test_sums_that_a_client_does_not_help_to_verify(federation, opening, names, reason):
    sent = federation.upload(opening.terms, "c1", np.arange(9))
    with pytest.raises(MessageError, match=reason):
        federation.ciphers["c1"].answer(opening.terms, challenge(federation, opening, names), sent)


def test_a_clients_own_minimum_counts(federation, opening):
    """Before its answer, not only when the result is there."""
    cipher = federation.ciphers["c1"]
    cipher._min_clients = 4
    sent = federation.upload(opening.terms, "c1", np.arange(9))
    with pytest.raises(MessageError, match="at least 4"):
        cipher.answer(opening.terms, challenge(federation, opening), sent)


def test_a_few_challenges_only_are_answered_under_one_key(federation, opening):
    """Each answer tells the key holder, who has the key, two numbers about the ciphertext."""
    cipher = federation.ciphers["c1"]
    sent = federation.upload(opening.terms, "c1", np.arange(9))
    asked = [challenge(federation, opening, seed=f"{number:064x}") for number in range(9)]
    for _ in range(2):
        for message in asked[:8]:
            cipher.answer(opening.terms, message, sent)
    with pytest.raises(EncryptionError, match="at most 8 challenges"):
        cipher.answer(opening.terms, asked[8], sent)
    cipher.accept_key(opening.unkeyed, opening.key)
    with pytest.raises(EncryptionError, match="at most 8 challenges"):
        cipher.answer(opening.terms, asked[8], sent)
    again = federation.begin()
    fresh = federation.upload(again.terms, "c1", np.arange(9))
    cipher.answer(again.terms, challenge(federation, again), fresh)


@pytest.mark.parametrize("seed", [None, 7, "x", "00" * 31, "00" * 33])
def test_a_challenge_without_a_seed(federation, opening, seed):
    sent = federation.upload(opening.terms, "c1", np.arange(9))
    with pytest.raises(MessageError, match="must state its seed|must have 32 bytes"):
        federation.ciphers["c1"].answer(
            opening.terms, challenge(federation, opening, seed=seed), sent
        )
    with pytest.raises(MessageError, match="seed"):
        challenge_seed(Statement(run="", round=0, sender="", kind=""))


# --- results


def result(federation, opening, names=("c1", "c2", "c3"), blobs=None, signer=None):
    if blobs is None:
        blobs = {"sums": bytes(16 * federation.parameters.value_bits // 8)}
    return federation.signed(
        opening.terms,
        "result",
        signer or federation.parties.key_holder,
        manifest={"contributors": names},
        blobs=blobs,
    )


def test_a_result_by_hand(federation, opening):
    """Nine sums in sixteen places, shifted by nM = 4 * 127."""
    rows = np.zeros((1, 16), dtype=np.uint64)
    rows[0, :9] = [508 + value for value in (0, 1, -1, 508, -508, 7, 8, 9, -10)]
    assert padded_params(federation.parameters) == 16
    assert federation.parameters.value_bits == 10
    message = result(federation, opening, blobs={"sums": pack_rows(rows, 10).tobytes()})
    opened = federation.ciphers["c1"].open(opening.terms, message)
    assert opened.values.tolist() == [0, 1, -1, 508, -508, 7, 8, 9, -10]
    assert opened.contributors == ("c1", "c2", "c3")


def test_a_result_that_the_key_holder_did_not_sign(federation, opening):
    for signer, reason in (
        (federation.parties.aggregator, "enrolled as key_holder"),
        (Identity.generate("key_holder", Role.KEY_HOLDER), "its signature"),
    ):
        with pytest.raises(MessageError, match=reason):
            federation.ciphers["c1"].open(opening.terms, result(federation, opening, signer=signer))


@pytest.mark.parametrize(
    "names",
    [None, "c1", ["c1", "c2"], [], ["c1", "c2", "c9"], ["c2", "c1", "c3"], [[], "c1", "c2"]],
)
def test_a_result_without_enough_contributors(federation, opening, names):
    with pytest.raises(MessageError, match="contributors"):
        federation.ciphers["c1"].open(opening.terms, result(federation, opening, names))


def test_a_result_of_another_form(federation, opening):
    sums = bytes(16 * federation.parameters.value_bits // 8)
    for blobs in ({}, {"other": sums}, {"sums": sums, "more": b""}):
        with pytest.raises(MessageError, match="must send the blobs"):
            federation.ciphers["c1"].open(opening.terms, result(federation, opening, blobs=blobs))
    for wrong in (sums[:-1], sums + b"\0", b""):
        with pytest.raises(MessageError, match="bytes"):
            read_sums(wrong, federation.parameters)


def test_a_sum_out_of_range(federation):
    for value, fits in ((1016, True), (1017, False)):
        rows = np.zeros((1, 16), dtype=np.uint64)
        rows[0, 8] = value
        packed = pack_rows(rows, federation.parameters.value_bits).tobytes()
        if fits:
            assert read_sums(packed, federation.parameters)[8] == 508
        else:
            with pytest.raises(MessageError, match="within the range"):
                read_sums(packed, federation.parameters)


def test_a_result_of_an_earlier_round(federation, opening):
    message = result(federation, opening)
    later = federation.begin(2)
    with pytest.raises(MessageError, match="round 1"):
        federation.ciphers["c1"].open(later.terms, message)


def test_a_result_under_another_key_of_the_round(federation, opening):
    message = result(federation, opening)
    again = federation.begin()
    with pytest.raises(MessageError, match="key_id"):
        federation.ciphers["c1"].open(again.terms, message)


# --- secrets


def test_a_cipher_is_not_copied(federation, opening):
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises((EncryptionError, IdentityError, TypeError)):
            leak(federation.ciphers["c1"])


def test_a_client_holds_no_secret_of_the_round(federation, opening):
    """What it has of the key is public, and came in a message that all can read."""
    terms, key = federation.ciphers["c1"]._key
    assert terms == opening.terms
    assert set(type(key).__slots__) == {"native", "parameters"}
    assert type(key.native).__name__ == "PublicKey"


def test_two_clients_updates_are_apart(federation, opening):
    values = updates(federation.parameters, ["c1", "c2"])
    assert federation.upload(opening.terms, "c1", values["c1"]) != federation.upload(
        opening.terms, "c2", values["c1"]
    )
