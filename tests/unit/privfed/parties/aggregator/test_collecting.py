"""What the aggregator refuses: each by the client's name, and the sum stays as it was."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from accountants import Anchor
from privfed.encryption import residues
from privfed.encryption.adding import CiphertextAdder
from privfed.encryption.parameters import derive
from privfed.encryption.plain import PlainAdder, PlainCipher
from privfed.errors import MessageError, TooFewClientsError
from privfed.identity.keys import Identity, Role
from privfed.parties.aggregator.collecting import Aggregator
from privfed.protocol.contributions import Contribution, require_contributions
from privfed.protocol.envelopes import Envelope, envelope_bytes
from privfed.protocol.signing import verified
from privfed.settings.encryption import Custody

COHORT = ("a", "b", "c")
NUM_PARAMS = 6
PARAMETERS = {
    custody: derive(num_clients=4, bits=8, num_params=NUM_PARAMS, custody=custody)
    for custody in Custody
}


def values(client):
    """Integers of a client, shape (6,)."""
    return np.arange(NUM_PARAMS, dtype=np.int32) * (ord(client) - 96) - 7


def upload(custody, client):
    """Well-formed blobs; without a key, residues are as good as ciphertexts."""
    if custody is None:
        return {"values": values(client).tobytes()}
    parameters = PARAMETERS[custody]
    random = np.random.default_rng(ord(client))
    shape = (parameters.num_ciphertexts, 4096)
    polynomials = [
        random.integers(0, 1 << 59, shape, dtype=np.uint64) for _ in parameters.upload_bits
    ]
    blobs = {"ciphertexts": residues.to_rows(polynomials, parameters.upload_bits).tobytes()}
    if custody is Custody.SHARED_KEY:
        blobs["seeds"] = random.bytes(parameters.num_ciphertexts * 64)
    return blobs


def ledger(length, head="cd" * 32):
    return {"ledger": {"length": length, "head": head}}


@pytest.fixture(params=[None, Custody.SHARED_KEY, Custody.KEY_HOLDER], ids=str)
def custody(request):
    return request.param


@pytest.fixture
def new_adder(custody):
    if custody is None:
        return lambda: PlainAdder(NUM_PARAMS, 127)
    return lambda: CiphertextAdder(PARAMETERS[custody])


@pytest.fixture
def new_aggregator(company, round_terms, new_adder):
    def new(**changes):
        settings = {
            "identity": company.identities["aggregator"],
            "roster": company.roster,
            "terms": round_terms,
            "cohort": COHORT,
            "anchors": {client: Anchor(length=3, head="ab" * 32) for client in COHORT},
            "adder": new_adder(),
            "min_clients": 2,
        }
        return Aggregator(**settings | changes)

    return new


@pytest.fixture
def update(company, round_terms, custody):
    """A function that makes one client's update, with changes."""

    def update(client, *, terms=round_terms, kind="update", more=None, blobs=None, key=None):
        return company.message(
            client,
            kind,
            terms,
            manifest=ledger(4) | (more or {}),
            blobs=upload(custody, client) if blobs is None else blobs,
            key=key,
        )

    return update


def test_the_sum_is_that_of_all_who_sent(company, round_terms, new_aggregator):
    """Plain numbers, added by hand: a is 1..., b is 2... of 0 to 5, each less 7."""
    aggregator = new_aggregator(adder=PlainAdder(NUM_PARAMS, 127))
    for client in ("c", "a"):
        aggregator.receive(
            company.message(
                client, "update", round_terms, manifest=ledger(4), blobs=upload(None, client)
            )
        )
    opened = PlainCipher(NUM_PARAMS, 3, company.roster, 2).open(round_terms, aggregator.total())
    assert opened.values.tolist() == [-14, -10, -6, -2, 2, 6]
    assert opened.contributors == ("a", "c")


def test_the_blobs_are_those_of_the_adder(new_aggregator, new_adder, update, custody):
    aggregator, adder = new_aggregator(), new_adder()
    for client in ("b", "a"):
        aggregator.receive(memoryview(update(client)))
        adder.add(client, upload(custody, client))
    blobs = Envelope.from_bytes(aggregator.total()).blobs
    assert {name: bytes(blob) for name, blob in blobs.items()} == adder.total()


def test_the_sum_carries_the_proof_of_every_contribution(
    company, round_terms, new_aggregator, update
):
    aggregator = new_aggregator()
    messages = {client: update(client, more=ledger(ord(client))) for client in ("c", "a", "b")}
    for message in messages.values():
        aggregator.receive(message)
    envelope = verified(
        aggregator.total(), company.roster, role=Role.AGGREGATOR, kind="sum", terms=round_terms
    )
    assert envelope.statement.sender == "aggregator"
    assert set(envelope.statement.manifest) == {*round_terms.manifest, "contributions"}
    listed = envelope.statement.manifest["contributions"]
    records = require_contributions(
        listed, company.roster, round_terms, min_clients=3, max_clients=3
    )
    expected = [Contribution.of(Envelope.from_bytes(messages[client])) for client in COHORT]
    assert records == expected
    assert aggregator.contributors == list(COHORT)


def test_bytes_up_are_those_of_accepted_messages(new_aggregator, update):
    aggregator = new_aggregator()
    assert aggregator.bytes_up == 0
    first, second = update("a"), update("b")
    aggregator.receive(first)
    aggregator.receive(memoryview(second))
    with pytest.raises(MessageError):
        aggregator.receive(second)
    assert aggregator.bytes_up == len(first) + len(second)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_contributions_are_not_summed(new_aggregator, update, count):
    aggregator = new_aggregator(min_clients=3)
    for client in COHORT[:count]:
        aggregator.receive(update(client))
    with pytest.raises(TooFewClientsError, match=f"round 3 has {count} contribution.*at least 3"):
        aggregator.total()
    for client in COHORT[count:]:
        aggregator.receive(update(client))
    assert aggregator.total()


def cut(blobs):
    name = min(blobs)
    return blobs | {name: blobs[name][:-1]}


def longer(blobs):
    name = max(blobs)
    return blobs | {name: blobs[name] + b"\0"}


def renamed(blobs):
    name = min(blobs)
    return {("other" if key == name else key): blob for key, blob in blobs.items()}


def unusable(blobs):
    """Well-formed, but a number is too large or a seed is that of client a.

    With a shared key no number can be too large: so many low bits are left out that all that can
    be written is below the modulus.
    """
    if "seeds" in blobs:
        return blobs | {"seeds": upload(Custody.SHARED_KEY, "a")["seeds"]}
    if "values" in blobs:
        return {"values": blobs["values"][:-4] + (128).to_bytes(4, "little")}
    return blobs | {"ciphertexts": blobs["ciphertexts"][:-30_720] + b"\xff" * 30_720}


def encryption(**changes):
    return {"encryption": {"bits": 8, "scheme": "any", **changes}}


REFUSED = {
    "another run": ({"run": "run-2"}, "'c' sent a 'update' of run 'run-2'"),
    "an earlier round": ({"round": 2}, "'c' sent a 'update' of run 'run-1', round 2; expected"),
    "a later round": ({"round": 4}, "'c' sent a 'update' of run 'run-1', round 4; expected"),
    "another kind": ({"kind": "sum"}, "'c' sent a 'sum' of run 'run-1', round 3; expected"),
    "another base": ({"more": {"base": "00fe"}}, "'c' states base = '00fe', expected '00ff'"),
    "another key": ({"more": {"key_id": "k2"}}, "'c' states key_id = 'k2', expected 'k1'"),
    "another range": ({"more": {"public_range": 1}}, "'c' states public_range = 1, expected 0.5"),
    "another roster": ({"more": {"roster": "00"}}, "'c' states roster = '00'"),
    "other software": (
        {"more": {"software": {"numpy": "2.0", "tenseal": "0.2"}}},
        "'c' states software.tenseal = '0.2', expected '0.3'",
    ),
    "other parameters": ({"more": encryption(bits=9)}, "'c' states encryption.bits = 9"),
    "a flag for a number": ({"more": encryption(bits=True)}, "'c' states encryption.bits = True"),
    "a float for a number": ({"more": encryption(bits=8.0)}, "'c' states encryption.bits = 8.0"),
    "more parameters": ({"more": encryption(size=1)}, "'c' states encryption.size too"),
    "an extra entry": ({"more": {"true_size": 41}}, "'c' must state the anchor of its ledger and"),
    "no anchor": ({"more": {"ledger": None}}, "'c' states no anchor of its ledger"),
    "half an anchor": ({"more": {"ledger": {"length": 4}}}, "'c' states no anchor of its ledger"),
    "no length": ({"more": ledger("4")}, "'c' states no anchor of its ledger"),
    "a flag for a length": ({"more": ledger(True)}, "'c' states no anchor of its ledger"),
    "no digest": ({"more": ledger(4, "CD" * 32)}, "'c' states no anchor of its ledger"),
    "a ledger that did not grow": ({"more": ledger(3)}, "ledger of 'c' had 3 entries .*has 3 now"),
    "a ledger rolled back": ({"more": ledger(1)}, "ledger of 'c' had 3 entries .* and has 1 now"),
    "no blobs": ({"blobs": lambda blobs: {}}, "'c': "),
    "an extra blob": ({"blobs": lambda blobs: blobs | {"loss": b"1"}}, "'c': "),
    "a renamed blob": ({"blobs": renamed}, "'c': "),
    "a cut blob": ({"blobs": cut}, "'c': .* must be"),
    "a longer blob": ({"blobs": longer}, "'c': .* must be"),
    "unusable": ({"blobs": unusable}, "'c': (every (residue|value) must be|a seed comes twice)"),
    "another's signature": ({"key": "a"}, "message of 'c' must carry its signature"),
    "the aggregator's signature": ({"key": "aggregator"}, "message of 'c' must carry its sig"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_this_rounds_update_is_refused_by_name(
    new_aggregator, update, round_terms, custody, case
):
    change, reason = REFUSED[case]
    terms = {key: change[key] for key in ("run", "round") if key in change}
    changes = {key: change[key] for key in ("kind", "more", "key") if key in change}
    if "blobs" in change:
        changes["blobs"] = change["blobs"](upload(custody, "c"))
    unchanged(
        new_aggregator, update, update("c", terms=replace(round_terms, **terms), **changes), reason
    )


def unchanged(new_aggregator, update, message, reason):
    """A refused message leaves the sum as it was, to the byte, and the client may send again."""
    aggregator, other = new_aggregator(), new_aggregator()
    for client in ("a", "b"):
        aggregator.receive(update(client))
        other.receive(update(client))
    before, size = aggregator.total(), aggregator.bytes_up
    with pytest.raises(MessageError, match=reason):
        aggregator.receive(message)
    assert aggregator.contributors == ["a", "b"]
    assert aggregator.bytes_up == size
    assert aggregator.total() == before
    aggregator.receive(update("c"))
    other.receive(update("c"))
    assert aggregator.total() == other.total() != before


@pytest.mark.parametrize("name", ["base", "encryption", "key_id", "nothing", "ledger"])
def test_a_missing_entry_is_refused_by_name(
    company, round_terms, new_aggregator, update, custody, name
):
    """What is not there must not pass for None."""
    manifest = {**round_terms.manifest, **ledger(4)}
    del manifest[name]
    terms = replace(round_terms, manifest=manifest)
    message = company.message("c", "update", terms, blobs=upload(custody, "c"))
    reason = "must state the anchor" if name == "ledger" else f"states no {name}"
    unchanged(new_aggregator, update, message, f"'c' {reason}")


@pytest.mark.parametrize("position", [-1, -40, -64, -200, 8, 100])
def test_a_flipped_bit_is_refused(new_aggregator, update, position):
    damaged = bytearray(update("c"))
    damaged[position] ^= 1
    unchanged(new_aggregator, update, damaged, "refused|damaged|statement")


def test_bytes_that_are_no_envelope_are_refused(new_aggregator, update):
    whole = update("c")
    for damaged in (b"", whole[:-1], whole + b"\0", whole[1:], bytes(len(whole))):
        unchanged(new_aggregator, update, damaged, "envelope|statement")


def test_an_enrolled_client_outside_the_cohort_is_refused_by_name(new_aggregator, update):
    unchanged(new_aggregator, update, update("d"), "'d' is not in the cohort of round 3")


@pytest.mark.parametrize("name", ["eve", "c"])
def test_a_stranger_is_refused_by_name(company, round_terms, new_aggregator, update, custody, name):
    """Under a name of its own or another's."""
    message = envelope_bytes(
        Identity.generate("eve", Role.CLIENT).sign,
        round_terms,
        sender=name,
        kind="update",
        manifest=ledger(4),
        blobs=upload(custody, "c"),
    )
    unchanged(new_aggregator, update, message, f"'{name}' (is not|must carry)")


def test_only_clients_contribute(new_aggregator, update, custody):
    message = update("aggregator", blobs=upload(custody, "c"))
    unchanged(new_aggregator, update, message, "enrolled as client, 'aggregator'")


@pytest.mark.parametrize("fresh", [True, False])
def test_a_second_update_of_one_client_is_refused_by_name(new_aggregator, update, custody, fresh):
    """The same bytes again, or others with a longer ledger."""
    again = update("b", more=ledger(5), blobs=upload(custody, "z")) if fresh else update("b")
    unchanged(new_aggregator, update, again, "'b' sent a second update in round 3")


def test_a_refused_update_does_not_count_as_the_first(new_aggregator, update, custody):
    aggregator = new_aggregator()
    with pytest.raises(MessageError, match="'a'"):
        aggregator.receive(update("a", blobs=cut(upload(custody, "a"))))
    aggregator.receive(update("a"))
    assert aggregator.contributors == ["a"]


@pytest.mark.parametrize("custody", [Custody.SHARED_KEY], indirect=True)
def test_a_copy_of_anothers_ciphertext_is_refused(new_aggregator, update, custody):
    """One client must not be able to add another's update a second time under its own name."""
    copied = update("c", blobs=upload(custody, "a"))
    unchanged(new_aggregator, update, copied, "'c': a seed comes twice")


def test_what_passes_can_be_rebuilt_by_every_receiver(new_aggregator, round_terms, update):
    """Else one client could spoil a round for all: accepted here, refused wherever it is opened."""
    anchors = [{"length": 4, "head": "cd" * 32}, {"length": 2**53, "head": "00" * 32}]
    for anchor in anchors:
        aggregator = new_aggregator(min_clients=1)
        message = update("a", more={"ledger": copy.deepcopy(anchor)})
        aggregator.receive(message)
        (entry,) = Envelope.from_bytes(aggregator.total()).statement.manifest["contributions"]
        rebuilt = Contribution.from_json(entry).statement(round_terms)
        assert rebuilt.signed_bytes() == Envelope.from_bytes(message).statement.signed_bytes()
