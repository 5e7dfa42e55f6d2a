"""Custody `shared_key` against an aggregator that deviates: whatever it sends is refused.

It holds no key and no client is on its side. Everything else it may do: sign what it likes, change
and leave out what it received, keep and repeat what it saw.
"""

import copy
import logging
import pickle

import numpy as np
import pytest

from privfed.custody import bfv
from privfed.custody.shared_key import SharedKeyCipher
from privfed.encryption import packing, residues
from privfed.encryption.noise import COEFF_MODULUS
from privfed.encryption.parameters import derive
from privfed.encryption.tags import Tags
from privfed.errors import EncryptionError, MessageError
from privfed.identity.keys import Identity, Role
from privfed.protocol.contributions import Contribution
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import CIPHERTEXTS, SEEDS, seeds_of
from privfed.settings.encryption import Custody
from tests.unit.privfed.small_federation import (
    SmallFederation,
    anchor,
    blobs_of,
    contribution_of,
    updates,
)

NAMES = ["c1", "c2", "c3"]
# All of one ciphertext, so that no padding gives a changed sum away.
NUM_PARAMS = 8184


class Round:
    """An honest round of three among four clients, up to the sum."""

    def __init__(self, federation, round=1, names=NAMES):
        self.federation = federation
        self.terms = federation.begin(round).terms
        self.values = updates(federation.parameters, names, seed=round)
        self.uploads = federation.uploads(self.terms, self.values)
        self.total = federation.total(self.terms, self.uploads)
        self.expected = sum(self.values.values())

    @property
    def blobs(self):
        return blobs_of(self.total)

    def opened(self, message, client="c1"):
        return self.federation.ciphers[client].open(self.terms, message).values

    def changed(self, **changes):
        return self.federation.changed(self.terms, self.total, **changes)

    def with_c0(self, c0, **changes):
        """The sum with another c0, which is written as sums are."""
        rows = residues.to_rows([c0], self.federation.parameters.sum_bits)
        return self.changed(blobs={**self.blobs, CIPHERTEXTS: rows.tobytes()}, **changes)

    def c0_of(self, name):
        """What a client sent."""
        parameters = self.federation.parameters
        rows = residues.rows_of(
            blobs_of(self.uploads[name])[CIPHERTEXTS], 1, parameters.upload_bits
        )
        (c0,) = residues.from_rows(rows, parameters.upload_bits)
        return c0

    @property
    def c0(self):
        """The sum of what the clients sent."""
        total = np.zeros((1, 4096), dtype=np.uint64)
        for name in self.uploads:
            residues.add_into(total, self.c0_of(name))
        return total

    @property
    def seeds(self):
        return np.stack(
            [
                residues.seeds_from_bytes(blobs_of(self.uploads[name])[SEEDS], 1)
                for name in self.uploads
            ]
        )


@pytest.fixture
def federation(tmp_path):
    made = SmallFederation(Custody.SHARED_KEY, tmp_path, num_clients=4, num_params=NUM_PARAMS)
    assert made.parameters.params_per_ciphertext == NUM_PARAMS
    return made


@pytest.fixture
def played(federation):
    return Round(federation)


def test_the_honest_sum_is_opened(played):
    """Or else the refusals below would show nothing; also when it is put together by hand."""
    assert np.array_equal(played.opened(played.total), played.expected)
    assert np.array_equal(played.opened(played.with_c0(played.c0), "c2"), played.expected)


# --- sums that are none


def test_one_clients_ciphertext_as_the_sum(played):
    with pytest.raises(EncryptionError, match="tags"):
        played.opened(played.with_c0(played.c0_of("c2")))
    (alone,) = [entry for entry in contribution_of(played.total) if entry["client"] == "c2"]
    for listed in ([alone], [alone] * 3):
        blobs = {CIPHERTEXTS: played.blobs[CIPHERTEXTS], seeds_of("c2"): played.blobs["seeds/c2"]}
        with pytest.raises(MessageError, match="3 to 4 contributors|different and sorted"):
            played.opened(played.changed(blobs=blobs, listed=listed))


def test_one_client_counted_twice(played):
    c0 = played.c0
    residues.add_into(c0, played.c0_of("c2"))
    with pytest.raises(EncryptionError, match="tags"):
        played.opened(played.with_c0(c0))
    twice = sorted(
        [*contribution_of(played.total), contribution_of(played.total)[1]],
        key=lambda entry: entry["client"],
    )
    with pytest.raises(MessageError, match="different and sorted"):
        played.opened(played.with_c0(c0, listed=twice))


def test_one_clients_seeds_under_two_names(played):
    blobs = {**played.blobs, "seeds/c3": played.blobs["seeds/c2"]}
    with pytest.raises(MessageError, match="seeds of 'c3' are not what it signed"):
        played.opened(played.changed(blobs=blobs))


def test_a_difference_of_two_clients(played):
    """c1 + c2 - c3 has tags too: but not under the seeds that are listed."""
    c0 = np.zeros((1, 4096), dtype=np.uint64)
    residues.add_into(c0, played.c0_of("c1"))
    residues.add_into(c0, played.c0_of("c2"))
    residues.subtract_from(c0, played.c0_of("c3"))
    with pytest.raises(EncryptionError, match="tags"):
        played.opened(played.with_c0(c0))


def test_multiples_of_the_sum(played):
    c0 = played.c0
    residues.add_into(c0, played.c0)
    with pytest.raises(EncryptionError, match="tags"):
        played.opened(played.with_c0(c0))


@pytest.mark.parametrize("value", [0, 1, -1])
def test_a_ciphertext_that_would_draw_out_the_key(played, value):
    """(0, floor(q/t)) decrypts to the key itself; a c1 has no place in the wire form."""
    delta = COEFF_MODULUS // played.federation.parameters.plain_modulus
    c0 = np.zeros((1, 4096), dtype=np.uint64)
    c0[0, 0] = value * delta % COEFF_MODULUS
    with pytest.raises(EncryptionError, match="tags"):
        played.opened(played.with_c0(c0))


@pytest.mark.parametrize("bits", [(40, 60), (60, 60), (60,)])
def test_a_second_polynomial_in_any_form(played, bits):
    delta = COEFF_MODULUS // played.federation.parameters.plain_modulus
    c0, c1 = np.zeros((2, 1, 4096), dtype=np.uint64)
    c1[0, 0] = delta
    rows = residues.to_rows([c0, c1][: len(bits)], bits).tobytes()
    with pytest.raises(MessageError, match="must be .* bytes"):
        played.opened(played.changed(blobs={**played.blobs, CIPHERTEXTS: rows}))
    for name in ("c1", "seeds/", "seeds/c4", "seeds"):
        with pytest.raises(MessageError, match="seeds of its contributors and nothing else"):
            played.opened(played.changed(blobs={**played.blobs, name: rows}))


@pytest.mark.parametrize("name", [CIPHERTEXTS, "seeds/c2"])
def test_a_blob_left_out(played, name):
    blobs = played.blobs
    del blobs[name]
    with pytest.raises(MessageError, match="nothing else"):
        played.opened(played.changed(blobs=blobs))


def test_seeds_that_expand_to_nothing(played):
    """Seeds of the aggregator's choice, as many or as few as it likes, were signed by nobody."""
    for seeds in (b"", bytes(64), bytes(128), bytes(played.blobs["seeds/c2"])[:-1]):
        with pytest.raises(MessageError, match="not what it signed"):
            played.opened(played.changed(blobs={**played.blobs, "seeds/c2": seeds}))


def test_residues_at_the_end_of_their_range(played):
    ones = b"\xff" * len(played.blobs[CIPHERTEXTS])
    with pytest.raises(EncryptionError, match="tags"):
        played.opened(played.changed(blobs={**played.blobs, CIPHERTEXTS: ones}))


# --- sums that are changed


def test_a_known_shift_passes_without_tags_and_is_refused_with_them(played):
    """Delta * 5 in the constant coefficient adds 5 to every slot, without any key."""
    parameters = played.federation.parameters
    shift = np.zeros((1, 4096), dtype=np.uint64)
    shift[0, 0] = (COEFF_MODULUS * 5 + parameters.plain_modulus // 2) // parameters.plain_modulus
    c0 = played.c0
    residues.add_into(c0, shift)
    secret = played.federation.secrets["c1"]
    slots = bfv.decrypt_seeded(secret, c0, played.seeds, parameters)
    sums = packing.without_padding(packing.unpack(slots, parameters), parameters)
    first_digit = np.arange(NUM_PARAMS) < parameters.value_slots
    assert np.array_equal(sums, played.expected + 5 * first_digit)
    with pytest.raises(EncryptionError, match="tags"):
        played.opened(played.with_c0(c0))


def test_noise_below_the_margin_changes_nothing(played):
    c0 = played.c0
    residues.add_into(c0, np.ones_like(c0))
    assert np.array_equal(played.opened(played.with_c0(c0)), played.expected)


def test_a_sum_of_other_seeds(played):
    """Four clients' c0 under three clients' seeds: the fourth is left out of the list."""
    whole = Round(played.federation, names=[*NAMES, "c4"])
    blobs = whole.blobs
    del blobs["seeds/c4"]
    with pytest.raises(EncryptionError, match="tags"):
        whole.opened(whole.changed(blobs=blobs, listed=contribution_of(whole.total)[:3]))


def test_two_rounds_share_no_tags(played):
    """Else one round's sum could be added to another's."""
    parameters, secret = played.federation.parameters, played.federation.secrets["c1"]
    slots = bfv.decrypt_seeded(secret, played.c0, played.seeds, parameters)
    cipher = played.federation.ciphers["c1"]
    cipher._tags(played.terms).check(slots)
    for other in (played.federation.terms(2), type(played.terms)(run="x", round=1, manifest={})):
        with pytest.raises(EncryptionError, match="tags"):
            cipher._tags(other).check(slots)


def test_the_order_of_ciphertexts(tmp_path):
    """The tags of two ciphertexts are alike; the seeds are not."""
    federation = SmallFederation(Custody.SHARED_KEY, tmp_path, num_params=30_000)
    played = Round(federation)
    assert federation.parameters.num_ciphertexts == 2
    ciphertexts = bytes(played.blobs[CIPHERTEXTS])
    half = len(ciphertexts) // 2
    assert np.array_equal(played.opened(played.total, "c3"), played.expected)
    swapped = ciphertexts[half:] + ciphertexts[:half]
    with pytest.raises(EncryptionError, match="tags"):
        played.opened(played.changed(blobs={**played.blobs, CIPHERTEXTS: swapped}))
    last_only = ciphertexts[:half] * 2
    with pytest.raises(EncryptionError, match="tags"):
        played.opened(played.changed(blobs={**played.blobs, CIPHERTEXTS: last_only}), "c2")


# --- contributors that are none


@pytest.mark.parametrize(
    ("name", "reason"),
    [("c9", "must be enrolled"), ("aggregator", "enrolled as client"), ("c4", "its signature")],
)
def test_a_contribution_of_its_own(played, name, reason):
    """Under a name that nobody has, its own, or that of a client who was absent."""
    federation = played.federation
    own = Identity.generate("c9", Role.CLIENT)
    federation.ciphers[name] = federation.ciphers["c1"]
    upload = Envelope.from_bytes(federation.upload(played.terms, name, played.values["c1"], own))
    c0 = played.c0
    residues.add_into(c0, played.c0_of("c1"))
    listed = sorted(
        [*contribution_of(played.total), Contribution.of(upload).to_json()],
        key=lambda entry: entry["client"],
    )
    rows = residues.to_rows([c0], federation.parameters.sum_bits).tobytes()
    blobs = {**played.blobs, CIPHERTEXTS: rows, seeds_of(name): upload.blobs[SEEDS]}
    with pytest.raises(MessageError, match=reason):
        played.opened(played.changed(blobs=blobs, listed=listed))


def test_a_sum_that_somebody_else_signed(played):
    stranger = Identity.generate("aggregator", Role.AGGREGATOR)
    for signer, reason in (
        (stranger, "its signature"),
        (played.federation.parties.clients["c2"], "enrolled as aggregator"),
    ):
        envelope = Envelope.from_bytes(played.total)
        message = played.federation.signed(
            played.terms,
            "sum",
            signer,
            manifest={"contributions": contribution_of(played.total)},
            blobs=dict(envelope.blobs),
        )
        with pytest.raises(MessageError, match=reason):
            played.opened(message)


def test_more_in_the_list_than_it_says(played):
    extra = played.federation.signed(
        played.terms,
        "sum",
        manifest={"contributions": contribution_of(played.total), "more": 1},
        blobs=played.blobs,
    )
    with pytest.raises(MessageError, match="must state its contributions"):
        played.opened(extra)


# --- rounds


def test_the_sum_of_an_earlier_round(played):
    later = Round(played.federation, round=2)
    with pytest.raises(MessageError, match="round 1"):
        later.opened(played.total)
    relabelled = later.changed(blobs=played.blobs, listed=contribution_of(played.total))
    with pytest.raises(MessageError, match="its signature"):
        later.opened(relabelled)


def test_seeds_of_an_earlier_round(played):
    later = Round(played.federation, round=2)
    played.opened(played.total)
    with pytest.raises(MessageError, match="not what it signed"):
        later.opened(later.changed(blobs={**later.blobs, "seeds/c1": played.blobs["seeds/c1"]}))


def test_a_client_whose_generator_repeats_itself(played, monkeypatch):
    """It signs the same seeds in two rounds, or for two ciphertexts; two messages would leak."""
    again = np.array(played.seeds[0])
    played.opened(played.total)
    genuine = bfv.encrypt_seeded

    def repeated(*arguments):
        c0, seeds = genuine(*arguments)
        return c0, again if len(seeds) == 1 else np.repeat(seeds[:1], len(seeds), axis=0)

    later = Round(played.federation, round=2)
    with monkeypatch.context() as patch:
        patch.setattr(bfv, "encrypt_seeded", repeated)
        later.uploads["c2"] = played.federation.upload(later.terms, "c2", later.values["c2"])
    later.total = played.federation.total(later.terms, later.uploads)
    with pytest.raises(EncryptionError, match="from earlier rounds"):
        later.opened(later.total)


@pytest.mark.parametrize("names", [NAMES, [*NAMES, "c4"]])
def test_two_sums_for_one_round(played, names):
    """The difference of two would be what one client sent."""
    assert np.array_equal(played.opened(played.total), played.expected)
    second = Round(played.federation, names=names)
    with pytest.raises(EncryptionError, match="one sum is opened in a round"):
        second.opened(second.total)
    with pytest.raises(EncryptionError, match="one sum is opened in a round"):
        played.opened(played.total)


def test_a_round_before_the_last(played):
    later = Round(played.federation, round=2)
    later.opened(later.total)
    with pytest.raises(EncryptionError, match="rounds only go up"):
        played.opened(played.total)


def test_a_refused_sum_uses_up_its_round(played):
    """Else whoever sends sums could try one shift after the other on the same noise."""
    with pytest.raises(EncryptionError, match="tags"):
        played.opened(played.with_c0(played.c0_of("c1")))
    with pytest.raises(EncryptionError, match="one sum is opened in a round"):
        played.opened(played.total)
    later = Round(played.federation, round=2)
    assert np.array_equal(later.opened(later.total), later.expected)


def test_a_message_that_is_no_sum_uses_nothing_up(played):
    with pytest.raises(MessageError):
        played.opened(played.changed(listed=[]))
    assert np.array_equal(played.opened(played.total), played.expected)


def test_a_sum_under_another_key(played, tmp_path):
    """Terms name the key; and should they not, tags do."""
    other = Round(SmallFederation(Custody.SHARED_KEY, tmp_path, num_clients=4, num_params=8184))
    with pytest.raises(MessageError, match="key_id"):
        played.opened(other.total)
    cipher = SharedKeyCipher(
        played.federation.parameters,
        played.federation.secrets["c1"],
        played.federation.roster,
        3,
    )
    with pytest.raises(EncryptionError, match="tags"):
        cipher.open(other.terms, other.total)


# --- secrets


def test_a_cipher_shows_and_copies_nothing(played, caplog):
    cipher, secret = played.federation.ciphers["c1"], played.federation.secrets["c1"]
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").warning("%s %r", cipher, vars(cipher))
    tags = cipher._tags(played.terms)
    weights = tags._products._weights
    for text in (repr(cipher), str(vars(cipher)), caplog.text, repr(tags), str(tags)):
        assert secret.tag_key.hex() not in text
        assert repr(secret.tag_key) not in text
        assert str(int(weights[0, 0])) not in text
    assert repr(tags) == str(tags) == "Tags(secret)"
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises(EncryptionError, match="pickled or copied"):
            leak(cipher)


def test_nothing_goes_on_once_the_key_is_destroyed(played):
    played.federation.secrets["c1"].destroy()
    with pytest.raises(EncryptionError, match="destroyed"):
        played.opened(played.total)
    with pytest.raises(EncryptionError, match="destroyed"):
        played.federation.upload(played.terms, "c1", played.values["c1"])


def test_a_refusal_shows_no_number(played):
    """What was decrypted from a wrong sum could be somebody's update."""
    with pytest.raises(EncryptionError) as caught:
        played.opened(played.with_c0(played.c0_of("c1")))
    assert not any(character.isdigit() for character in str(caught.value))


def test_tags_need_a_key_of_their_size():
    parameters = derive(num_clients=3, bits=8, num_params=9, custody=Custody.SHARED_KEY)
    with pytest.raises(EncryptionError, match="32 bytes"):
        Tags(parameters, bytes(31), b"")


def test_the_ledger_in_a_contribution_is_signed(played):
    listed = contribution_of(played.total)
    listed[0]["ledger"] = anchor(99).to_json()
    with pytest.raises(MessageError, match="its signature"):
        played.opened(played.changed(listed=listed))
