"""Custody `key_holder` against an aggregator that deviates: refused, and nothing is decrypted.

It has no client on its side and no key. The last test of the section on answers shows what a client
on its side can do.
"""

import copy
import io
import os
import pickle

import numpy as np
import pytest

from privfed.custody import bfv
from privfed.custody.keys import PublicKey, RoundKey
from privfed.encryption import packing, residues
from privfed.encryption.noise import COEFF_MODULUS
from privfed.encryption.parameters import derive
from privfed.encryption.tags import Tags
from privfed.errors import EncryptionError, IdentityError, MessageError, PrivfedError
from privfed.identity.keys import Identity, Role
from privfed.parties.key_holder import key_holder
from privfed.parties.key_holder.key_holder import KeyHolder
from privfed.protocol.contributions import Contribution
from privfed.protocol.envelopes import Envelope, write_envelope
from privfed.protocol.kinds import CIPHERTEXTS
from privfed.protocol.terms import Terms
from privfed.settings.encryption import Custody
from tests.unit.privfed.small_federation import (
    SmallFederation,
    blobs_of,
    contribution_of,
    count_decryptions,
    enrolled,
    updates,
)

NAMES = ["c1", "c2", "c3"]


class Round:
    """An honest round of three among four clients, up to the sum."""

    def __init__(self, federation, round=1, names=NAMES):
        self.federation = federation
        self.opening = federation.begin(round)
        self.terms = self.opening.terms
        self.values = updates(federation.parameters, names, seed=round)
        self.uploads = federation.uploads(self.terms, self.values)
        self.total = federation.total(self.terms, self.uploads)
        self.expected = sum(self.values.values())

    @property
    def blobs(self):
        return blobs_of(self.total)

    def polynomials(self, name):
        """(c0, c1) of what a client sent, as the aggregator sees it."""
        bits = self.federation.parameters.upload_bits
        rows = residues.rows_of(blobs_of(self.uploads[name])[CIPHERTEXTS], 1, bits)
        return residues.from_rows(rows, bits)

    def sum_of(self, *names):
        total = [np.zeros((1, 4096), dtype=np.uint64) for _ in range(2)]
        for name in names:
            for part, added in zip(total, self.polynomials(name), strict=True):
                residues.add_into(part, added)
        return total

    def with_sum(self, polynomials, **changes):
        rows = residues.to_rows(polynomials, self.federation.parameters.sum_bits)
        return self.federation.changed(
            self.terms, self.total, blobs={CIPHERTEXTS: rows.tobytes()}, **changes
        )

    def receive(self, message):
        return self.federation.holder.receive(message)

    def answers(self, challenge, uploads=None):
        return self.federation.answers(self.terms, challenge, uploads or self.uploads)

    def answered(self, blobs):
        return self.federation.signed(self.terms, "answers", blobs=blobs)

    def verified(self, total):
        """Commit to a sum, and let all contributors answer honestly."""
        return self.receive(self.answered(self.answers(self.receive(total))))

    def opened(self, result):
        return self.federation.ciphers["c4"].open(self.terms, result).values


@pytest.fixture
def federation(tmp_path):
    return SmallFederation(Custody.KEY_HOLDER, tmp_path / "results", num_clients=4)


@pytest.fixture
def played(federation):
    return Round(federation)


@pytest.fixture
def decryptions(monkeypatch):
    return count_decryptions(monkeypatch)


def test_the_honest_sum_is_decrypted_once(played, decryptions):
    """Also when it is put together by hand: or the refusals below would show nothing."""
    result = played.verified(played.with_sum(played.sum_of(*NAMES)))
    assert np.array_equal(played.opened(result), played.expected)
    assert decryptions == [1]


# --- sums that are none


def wrong_sums(played):
    c0, c1 = played.sum_of(*NAMES)
    shifted = c0.copy()
    shifted[0, 4095] = (shifted[0, 4095] + 1) % COEFF_MODULUS
    delta = np.zeros((1, 4096), dtype=np.uint64)
    delta[0, 0] = COEFF_MODULUS // played.federation.parameters.plain_modulus
    key = PublicKey.from_bytes(
        bytes(blobs_of(played.opening.key)["public_key"]), played.federation.parameters
    )
    own = bfv.encrypt_public(key, packing.pack(played.values["c1"], played.federation.parameters))
    with_own = [part.copy() for part in (c0, c1)]
    for part, added in zip(with_own, own, strict=True):
        residues.add_into(part, added)
    return {
        "one client": played.polynomials("c1"),
        "one twice": played.sum_of("c1", "c2", "c3", "c2"),
        "one left out": played.sum_of("c1", "c3"),
        "nothing": [np.zeros_like(c0)] * 2,
        "the key": [np.zeros_like(c0), delta],
        "its own as well": with_own,
        "its own alone": list(own),
        "off by one": [shifted, c1],
        "swapped": [c1, c0],
        "without c1": [c0, np.zeros_like(c1)],
        "doubled": played.sum_of(*NAMES, *NAMES),
    }


@pytest.mark.parametrize(
    "which",
    [
        "one client",
        "one twice",
        "one left out",
        "nothing",
        "the key",
        "its own as well",
        "its own alone",
        "off by one",
        "swapped",
        "without c1",
        "doubled",
    ],
)
def test_a_sum_that_is_not_that_of_the_contributions(played, decryptions, which):
    with pytest.raises(EncryptionError, match="not that of the contributions"):
        played.verified(played.with_sum(wrong_sums(played)[which]))
    assert decryptions == []
    assert np.array_equal(played.opened(played.verified(played.total)), played.expected)


def test_what_the_verification_is_there_for(played):
    """Without it, one decryption of (0, floor(q/t)) is the secret key."""
    c0, delta = wrong_sums(played)["the key"]
    (current,) = played.federation.holder._rounds.values()
    slots = bfv.decrypt_full(current.key, c0, delta, played.federation.parameters)
    encoder, plaintext = _encoder(current.key)
    encoder.encode(slots[0].tolist(), plaintext)
    modulus = played.federation.parameters.plain_modulus
    coefficients = [int(term, 16) for term in _coefficients(plaintext)]
    assert len(coefficients) > 2000
    assert set(coefficients) <= {1, modulus - 1}


def _encoder(key):
    from privfed.custody.native import sealapi

    context, _ = key.native()
    return sealapi().BatchEncoder(context), sealapi().Plaintext()


def _coefficients(plaintext):
    """The non-zero ones, in hex, from "1x^4095 + C001x^3 + 1"."""
    return [term.split("x")[0] for term in plaintext.to_string().split(" + ")]


def test_blobs_of_other_forms(played, decryptions):
    ciphertexts = bytes(played.blobs[CIPHERTEXTS])
    half = len(ciphertexts) // 2
    for blobs, reason in (
        ({CIPHERTEXTS: ciphertexts[:half]}, "bytes"),
        ({CIPHERTEXTS: ciphertexts * 2}, "bytes"),
        ({CIPHERTEXTS: b"\xff" * len(ciphertexts)}, "below the coefficient modulus"),
        ({}, "must send the blobs"),
        ({CIPHERTEXTS: ciphertexts, "more": b""}, "must send the blobs"),
    ):
        with pytest.raises(MessageError, match=reason):
            played.receive(played.federation.changed(played.terms, played.total, blobs=blobs))
    assert decryptions == []


def test_a_sum_changed_after_the_commitment(played, decryptions):
    """The answers are to the challenge of the sum that was committed last."""
    first = played.answers(played.receive(played.total))
    played.receive(played.with_sum(wrong_sums(played)["one client"]))
    with pytest.raises(MessageError, match="not its answer to this challenge"):
        played.receive(played.answered(first))
    assert decryptions == []


def test_two_challenges_for_one_sum_differ(played):
    first, second = (played.receive(played.total) for _ in range(2))
    seeds = [Envelope.from_bytes(message).statement.manifest["seed"] for message in (first, second)]
    assert len({*seeds}) == 2
    assert played.answers(first)["c1"] != played.answers(second)["c1"]


# --- contributors


def test_too_few_contributors(played, decryptions):
    for names in (["c1", "c2"], ["c1"], []):
        listed = [entry for entry in contribution_of(played.total) if entry["client"] in names]
        with pytest.raises(MessageError, match="3 to 4 contributors"):
            played.receive(played.with_sum(played.sum_of(*names), listed=listed))
    assert decryptions == []


def test_a_contributor_twice(played):
    listed = contribution_of(played.total)
    with pytest.raises(MessageError, match="different and sorted"):
        played.receive(played.with_sum(played.sum_of(*NAMES), listed=[listed[0], *listed]))


def test_a_signer_left_out_of_the_list(federation, decryptions):
    """Four in the sum, three in the list, all of whom answer."""
    played = Round(federation, names=[*NAMES, "c4"])
    listed = contribution_of(played.total)[:3]
    challenge = played.receive(played.with_sum(played.sum_of(*NAMES, "c4"), listed=listed))
    answers = played.answers(challenge, {name: played.uploads[name] for name in NAMES})
    with pytest.raises(EncryptionError, match="not that of the contributions"):
        played.receive(played.answered(answers))
    assert decryptions == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [("c9", "must be enrolled"), ("aggregator", "enrolled as client"), ("c4", "its signature")],
)
def test_a_contribution_of_its_own(played, name, reason, decryptions):
    own = Identity.generate("c9", Role.CLIENT)
    played.federation.ciphers[name] = played.federation.ciphers["c1"]
    upload = played.federation.upload(played.terms, name, played.values["c1"], own)
    listed = sorted(
        [*contribution_of(played.total), Contribution.of(Envelope.from_bytes(upload)).to_json()],
        key=lambda entry: entry["client"],
    )
    with pytest.raises(MessageError, match=reason):
        played.receive(played.with_sum(played.sum_of(*NAMES), listed=listed))
    assert decryptions == []


# --- answers


@pytest.mark.parametrize("missing", NAMES)
def test_a_missing_answer(played, decryptions, missing):
    answers = played.answers(played.receive(played.total))
    del answers[missing]
    with pytest.raises(MessageError, match="must send the blobs"):
        played.receive(played.answered(answers))
    with pytest.raises(MessageError, match="must send the blobs"):
        played.receive(played.answered({}))
    assert decryptions == []


def test_an_answer_too_many(played):
    answers = played.answers(played.receive(played.total))
    with pytest.raises(MessageError, match="must send the blobs"):
        played.receive(played.answered({**answers, "c4": answers["c1"]}))


def test_forged_answers(played, decryptions):
    """Signed by another key, or by another client: c2's answer is not c1's."""
    challenge = played.receive(played.total)
    answers = played.answers(challenge)
    statement = Envelope.from_bytes(answers["c1"]).statement
    own = {key: statement.manifest[key] for key in ("challenge", "values")}
    forged = {
        "its signature": Identity.generate("c1", Role.CLIENT),
        "enrolled as client": played.federation.parties.aggregator,
        "not its answer": played.federation.parties.clients["c4"],
    }
    for reason, signer in forged.items():
        message = played.federation.signed(played.terms, "answer", signer, manifest=own)
        with pytest.raises(MessageError, match=reason):
            played.receive(played.answered({**answers, "c1": message}))
    with pytest.raises(MessageError, match="not its answer"):
        played.receive(played.answered({**answers, "c1": answers["c2"]}))
    assert decryptions == []
    assert np.array_equal(played.opened(played.receive(played.answered(answers))), played.expected)


@pytest.mark.parametrize(
    "values",
    [None, [], ["1"], ["1", "2", "3"], [1, 2], ["-1", "2"], ["1" * 20, "2"], ["x", "2"], "12"],
)
def test_answers_that_are_no_numbers(played, decryptions, values):
    challenge = played.receive(played.total)
    answers = played.answers(challenge)
    statement = Envelope.from_bytes(answers["c1"]).statement
    message = played.federation.signed(
        played.terms,
        "answer",
        played.federation.parties.clients["c1"],
        manifest={"challenge": statement.manifest["challenge"], "values": values},
    )
    with pytest.raises(MessageError, match="answer of 'c1' must"):
        played.receive(played.answered({**answers, "c1": message}))
    assert decryptions == []


def test_answers_to_another_challenge_of_the_round(played, decryptions):
    old = played.answers(played.receive(played.total))
    new = played.answers(played.receive(played.total))
    for mixed in (old, {**new, "c2": old["c2"]}):
        with pytest.raises(MessageError, match="not its answer to this challenge"):
            played.receive(played.answered(mixed))
    assert decryptions == []


def test_answers_from_an_earlier_round(played, decryptions):
    challenge = played.receive(played.total)
    old = played.answers(challenge)
    played.receive(played.answered(old))
    later = Round(played.federation, round=2)
    later.receive(later.total)
    with pytest.raises(MessageError, match="round 1"):
        later.receive(later.answered(old))
    assert decryptions == [1]


def test_answers_before_a_sum_and_after_a_failure(played, decryptions):
    with pytest.raises(MessageError, match="before a sum was committed"):
        played.receive(played.answered({}))
    challenge = played.receive(played.with_sum(wrong_sums(played)["doubled"]))
    answers = played.answered(played.answers(challenge))
    with pytest.raises(EncryptionError, match="not that of the contributions"):
        played.receive(answers)
    with pytest.raises(MessageError, match="before a sum was committed"):
        played.receive(answers)
    assert decryptions == []


def test_sums_can_be_tried_a_few_times_only(played, decryptions):
    for _ in range(8):
        played.receive(played.total)
    with pytest.raises(EncryptionError, match="opened anew"):
        played.receive(played.total)
    fresh = Round(played.federation)
    assert np.array_equal(fresh.opened(fresh.verified(fresh.total)), fresh.expected)


def test_a_limit_a_contributor_that_answers_falsely_makes_a_wrong_sum_pass(played, decryptions):
    """Documented: nobody may claim that this is stopped.

    c3 takes back the answer of c2 in its own, and the aggregator sends c1's ciphertext as the sum:
    with one contributor on its side the aggregator reads another's update.
    """
    challenge = played.receive(played.with_sum(played.polynomials("c1")))
    answers = played.answers(challenge)
    statement = Envelope.from_bytes(answers["c2"]).statement
    taken_back = [str(-int(value) % COEFF_MODULUS) for value in statement.manifest["values"]]
    answers["c3"] = played.federation.signed(
        played.terms,
        "answer",
        played.federation.parties.clients["c3"],
        manifest={"challenge": statement.manifest["challenge"], "values": taken_back},
    )
    leaked = played.opened(played.receive(played.answered(answers)))
    assert np.array_equal(leaked, played.values["c1"])
    assert decryptions == [1]


# --- a contributor that deviates alone: it answers truthfully, for a ciphertext of its own making


@pytest.fixture
def full(tmp_path):
    """One ciphertext without padding: nothing but the tags can show what does not belong."""
    federation = SmallFederation(
        Custody.KEY_HOLDER, tmp_path / "full", num_clients=10, bits=12, num_params=3 * 4093
    )
    assert federation.parameters.params_per_ciphertext == federation.parameters.num_params
    return Round(federation, names=["c1", "c2", "c3"])


def bring_in_the_key(played, name, multiplier):
    """Add (0, round(q p / t)) to an upload: p times the secret key comes into the sum."""
    parameters = played.federation.parameters
    c0, c1 = played.polynomials(name)
    q, t = COEFF_MODULUS, parameters.plain_modulus
    added = [(2 * q * int(number) + t) // (2 * t) % q for number in multiplier]
    residues.add_into(c1, np.array([added], dtype=np.uint64))
    rows = residues.to_rows([c0, c1], parameters.upload_bits)
    honest = Envelope.from_bytes(played.uploads[name]).statement
    sink = io.BytesIO()
    write_envelope(
        sink,
        played.federation.parties.clients[name].sign,
        run=honest.run,
        round=honest.round,
        sender=name,
        kind=honest.kind,
        manifest=honest.manifest,
        blobs=[(CIPHERTEXTS, [rows.tobytes()])],
    )
    played.uploads[name] = sink.getvalue()
    played.total = played.federation.total(played.terms, played.uploads)


def multipliers(modulus):
    random = np.random.default_rng(5).integers(0, modulus, 4096)
    one = np.zeros(4096, dtype=np.int64)
    one[0] = 1
    return {"one": one, "x^77": np.roll(one, 77), "random": random}


@pytest.mark.parametrize("which", ["one", "x^77", "random"])
def test_a_contributor_cannot_bring_the_key_into_the_sum(full, decryptions, which):
    multiplier = multipliers(full.federation.parameters.plain_modulus)[which]
    bring_in_the_key(full, "c2", multiplier)
    with pytest.raises(EncryptionError, match="must carry the tags"):
        full.verified(full.total)
    assert decryptions == [1]
    with pytest.raises(MessageError, match="not open here"):
        full.receive(full.total)


def test_without_tags_the_key_would_come_out(full, monkeypatch):
    """What everybody would be shown is the honest sum plus the secret key, slot by slot."""
    bring_in_the_key(full, "c2", multipliers(2)["one"])
    monkeypatch.setattr(Tags, "check", lambda self, slots: None)
    shown = full.federation.ciphers["c4"].open(full.terms, full.verified(full.total)).values
    assert np.mean(shown == full.expected) < 0.01


# --- rounds


def test_a_sum_of_an_earlier_round(played, decryptions):
    played.verified(played.total)
    later = Round(played.federation, round=2)
    with pytest.raises(MessageError, match="not open here"):
        later.receive(played.total)
    with pytest.raises(MessageError, match="its signature"):
        later.receive(
            later.federation.changed(later.terms, later.total, listed=contribution_of(played.total))
        )
    assert decryptions == [1]


def test_a_sum_before_any_round(federation):
    terms = federation.terms()
    for kind in ("sum", "answers"):
        with pytest.raises(MessageError, match="not open here"):
            federation.holder.receive(federation.signed(terms, kind))
    with pytest.raises(MessageError, match="cannot answer a 'result'"):
        federation.holder.receive(federation.signed(terms, "result"))


def test_opening_again_before_the_decryption_makes_a_new_key(played, decryptions):
    """What was encrypted under the old one is refused by its terms, and the old key is gone."""
    (old,) = played.federation.holder._rounds.values()
    again = Round(played.federation)
    assert old.key.destroyed
    assert again.terms.manifest["key_id"] != played.terms.manifest["key_id"]
    with pytest.raises(MessageError, match="key_id"):
        played.receive(played.total)
    relabelled = again.federation.changed(again.terms, played.total)
    with pytest.raises(MessageError, match="its signature"):
        again.receive(relabelled)
    mixed = {**again.uploads, "c2": played.uploads["c2"]}
    with pytest.raises(MessageError, match="key_id"):
        played.federation.total(again.terms, mixed)
    assert decryptions == []
    assert np.array_equal(again.opened(again.verified(again.total)), again.expected)


def test_a_round_is_decrypted_once(played, decryptions):
    """Opening it again gives the stored result, to the byte, whatever has changed meanwhile."""
    federation = played.federation
    result = played.verified(played.total)
    assert federation.holder._rounds == {}
    for _ in range(2):
        opening = federation.custodian.begin(federation.terms())
        assert opening.result == result
        assert opening.key is None
        federation.start_holder()
    for message in (played.total, played.answered({})):
        with pytest.raises(MessageError, match="not open here"):
            federation.holder.receive(message)
    assert decryptions == [1]


def test_a_decrypted_round_under_other_terms(played, decryptions):
    federation = played.federation
    played.verified(played.total)
    other = Terms(run="run", round=1, manifest={**federation.manifest, "base": "another"})
    more = Terms(run="run", round=1, manifest={**federation.terms().manifest, "more": 1})
    named = Terms(run="run", round=1, manifest={**federation.terms().manifest, "key_id": "x"})
    for _ in range(2):
        for terms in (other, more, named):
            with pytest.raises(EncryptionError, match="decrypted once"):
                federation.holder.receive(federation.signed(terms, "open-round"))
        federation.start_holder()
    assert decryptions == [1]


def test_rounds_go_up(played):
    federation = played.federation
    later = Round(federation, round=3)
    with pytest.raises(MessageError, match="round 1 of run 'run' is over"):
        federation.holder.receive(federation.signed(federation.terms(1), "open-round"))
    # The stale request did not cost the open round its key.
    assert np.array_equal(later.opened(later.verified(later.total)), later.expected)
    for _ in range(2):
        with pytest.raises(MessageError, match="round 2 of run 'run' is over"):
            federation.holder.receive(federation.signed(federation.terms(2), "open-round"))
        federation.start_holder()


def test_runs_are_apart(played, decryptions):
    """Each has its own key and its own last result."""
    federation = played.federation
    other = Terms(run="other", round=1, manifest=federation.terms().manifest)
    reply = federation.holder.receive(federation.signed(other, "open-round"))
    assert np.array_equal(played.opened(played.verified(played.total)), played.expected)
    again = federation.holder.receive(federation.signed(other, "open-round"))
    assert reply != again
    assert len(os.listdir(federation.results)) == 1
    in_other = Terms(run="other", round=1, manifest=Envelope.from_bytes(again).statement.manifest)
    with pytest.raises(MessageError, match="its signature"):
        federation.holder.receive(federation.changed(in_other, played.total))
    assert decryptions == [1]


def test_the_key_is_destroyed_after_its_decryption(played, monkeypatch):
    (current,) = played.federation.holder._rounds.values()
    played.verified(played.total)
    assert current.key.destroyed
    with pytest.raises(EncryptionError, match="destroyed"):
        current.key.native()


def test_the_key_is_destroyed_after_a_decryption_that_fails(played, monkeypatch):
    """As when a contributor sent numbers that no packing gives."""
    (current,) = played.federation.holder._rounds.values()

    def implausible(*arguments):
        raise EncryptionError("every slot must hold a packed sum")

    monkeypatch.setattr(packing, "unpack", implausible)
    with pytest.raises(EncryptionError, match="packed sum"):
        played.verified(played.total)
    assert current.key.destroyed
    with pytest.raises(MessageError, match="not open here"):
        played.receive(played.total)


def test_nothing_is_sent_that_was_not_kept(played, monkeypatch):
    """The disk is full: the sum is lost with its key, and the round can be opened anew."""

    def full(descriptor):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            played.verified(played.total)
    again = Round(played.federation)
    assert again.opening.result is None
    assert np.array_equal(again.opened(again.verified(again.total)), again.expected)
    assert len(os.listdir(played.federation.results)) == 1


def test_a_result_is_on_the_disk_before_it_is_sent(played, disk_steps):
    result = played.verified(played.total)
    assert disk_steps == [("file", len(result)), "rename", "folder"]


def test_a_crash_between_decryption_and_keeping_leaves_no_trace(played, monkeypatch, decryptions):
    """A half-written result is not taken for one."""

    def crash(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            played.verified(played.total)
    played.federation.start_holder()
    again = Round(played.federation)
    assert np.array_equal(again.opened(again.verified(again.total)), again.expected)
    assert decryptions == [1, 1]


def test_only_public_results_are_written(played):
    played.verified(played.total)
    (name,) = os.listdir(played.federation.results)
    content = (played.federation.results / name).read_bytes()
    assert Envelope.from_bytes(content).statement.kind == "result"
    assert played.federation.results.stat().st_mode & 0o777 == 0o700


def test_a_damaged_result_is_refused(played):
    """It is not read as if there were none: the round would be decrypted twice."""
    federation = played.federation
    played.verified(played.total)
    (path,) = federation.results.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PrivfedError):
        federation.holder.receive(federation.signed(federation.terms(), "open-round"))


# --- who may ask, and for what


def test_only_the_aggregator_opens_a_round(federation):
    parties = federation.parties
    stranger = Identity.generate("aggregator", Role.AGGREGATOR)
    for signer, reason in (
        (parties.clients["c1"], "enrolled as aggregator"),
        (parties.key_holder, "enrolled as aggregator"),
        (Identity.generate("c9", Role.AGGREGATOR), "must be enrolled"),
        (stranger, "its signature"),
    ):
        with pytest.raises(MessageError, match=reason):
            federation.holder.receive(federation.signed(federation.terms(), "open-round", signer))
    assert federation.holder._rounds == {}


@pytest.mark.parametrize(
    ("changes", "round", "reason"),
    [
        ({"roster": "00" * 32}, 1, "another roster"),
        ({"roster": None}, 1, "another roster"),
        ({"encryption": None}, 1, "JSON object"),
        ({"encryption": {}}, 1, "whole numbers"),
        ({}, 0, "counted from 1"),
    ],
)
def test_a_round_under_terms_that_cannot_be(federation, changes, round, reason):
    terms = Terms(run="run", round=round, manifest={**federation.manifest, **changes})
    with pytest.raises(MessageError, match=reason):
        federation.holder.receive(federation.signed(terms, "open-round"))


def test_parameters_of_the_aggregators_choice(federation):
    """Only what `derive` gives, and only with the key at the key holder."""
    encryption = {**federation.manifest["encryption"], "upload_dropped_bits": 1}
    shared = derive(num_clients=4, bits=8, num_params=9, custody=Custody.SHARED_KEY).to_json()
    for wrong, reason in ((encryption, "upload_dropped_bits"), (shared, "serves no 'shared_key'")):
        terms = Terms(run="run", round=1, manifest={**federation.manifest, "encryption": wrong})
        with pytest.raises(MessageError, match=reason):
            federation.holder.receive(federation.signed(terms, "open-round"))


def test_the_names_of_key_and_software_are_the_key_holders(federation):
    """Even if the aggregator states its own."""
    claimed = {"key_id": "x", "software": {"tenseal": "0"}}
    terms = Terms(run="run", round=1, manifest={**federation.manifest, **claimed})
    reply = federation.holder.receive(federation.signed(terms, "open-round"))
    manifest = Envelope.from_bytes(reply).statement.manifest
    assert manifest["key_id"] != "x"
    assert manifest["software"] != claimed["software"]


def test_who_can_be_a_key_holder(tmp_path):
    parties = enrolled(4)
    other = Identity.generate("key_holder", Role.KEY_HOLDER)
    for wrong in (parties.clients["c1"], parties.aggregator, other):
        with pytest.raises(EncryptionError, match="one key holder of the roster"):
            KeyHolder(wrong, parties.roster, tmp_path)
    for few in (2, 1, 0, -1, True, 3.0, None):
        with pytest.raises(EncryptionError, match="at least 3"):
            KeyHolder(parties.key_holder, parties.roster, tmp_path, few)
    assert KeyHolder(parties.key_holder, parties.roster, tmp_path)._min_clients == 3


def test_the_key_holders_own_minimum_counts(tmp_path):
    """Not the aggregator's, and not the clients'."""
    federation = SmallFederation(Custody.KEY_HOLDER, tmp_path, num_clients=4)
    parties = federation.parties
    federation.holder = KeyHolder(parties.key_holder, parties.roster, tmp_path, 4)
    played = Round(federation)
    with pytest.raises(MessageError, match="4 to 4 contributors, got 3"):
        played.receive(played.total)


# --- secrets


def test_a_key_holder_shows_and_copies_nothing(played):
    holder = played.federation.holder
    (current,) = holder._rounds.values()
    assert repr(current.key) == f"RoundKey(key_id='{current.key.key_id}')"
    assert "RoundKey(key_id=" in repr(current)
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises((EncryptionError, IdentityError), match="pickled or copied"):
            leak(holder)


def test_every_round_has_a_key_of_its_own(federation, monkeypatch):
    made = []
    genuine = RoundKey.generate

    def recorded(parameters):
        made.append(genuine(parameters))
        return made[-1]

    monkeypatch.setattr(key_holder.RoundKey, "generate", recorded)
    replies = [federation.begin(round).key for round in (1, 2, 2)]
    assert len({key.key_id for key in made}) == 3
    assert len({bytes(blobs_of(reply)["public_key"]) for reply in replies}) == 3
    assert [key.destroyed for key in made] == [True, True, False]
