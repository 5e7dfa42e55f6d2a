"""What the aggregator refuses: each by the client's name, and the sum stays as it was."""

from dataclasses import replace

import numpy as np
import pytest

from accountants import Anchor
from privfed.custody.keys import SharedKey
from privfed.custody.shared_key import SharedKeyCipher
from privfed.encryption.adding import BFVAdder
from privfed.encryption.fixedpoint import max_magnitude
from privfed.encryption.packing import derive
from privfed.encryption.plain import PlainAdder, PlainCipher
from privfed.errors import MessageError, TooFewClientsError
from privfed.messages import LEDGER, Envelope, RoundPlan
from privfed.server.aggregate import Aggregator

CLIENTS = ("ada", "bob", "cy", "dee")
PLAN = RoundPlan(run="run-1", round=3, base_digest="00ff", learning_rate=0.1)
MANIFEST = {"base": PLAN.base_digest, "parameters": {"bits": 8, "scheme": "any"}}
NUM_PARAMS = 6


def ledger(length):
    """The manifest's entry for a ledger of so many entries."""
    return {LEDGER: {"length": length, "head": f"{length:064x}"}}


ANCHORS = {client: Anchor(length=3, head="ab" * 32) for client in CLIENTS}
LONGER = ledger(4)


@pytest.fixture(scope="module")
def bfv_key():
    return SharedKey.generate(derive(num_clients=len(CLIENTS), bits=8))


@pytest.fixture(params=["plain", "bfv"])
def scheme(request, bfv_key):
    """A cipher and a function that makes an adder."""
    if request.param == "plain":
        cipher = PlainCipher(NUM_PARAMS, 3)
        return cipher, lambda: PlainAdder(NUM_PARAMS, max_magnitude(8))
    cipher = SharedKeyCipher(bfv_key, NUM_PARAMS, 3)
    return cipher, lambda: BFVAdder(bfv_key.parameters, NUM_PARAMS)


@pytest.fixture
def cipher(scheme):
    return scheme[0]


@pytest.fixture
def aggregator(scheme):
    return Aggregator(PLAN, CLIENTS, MANIFEST, ANCHORS, scheme[1](), 3)


def values(client):
    """Integers of a client, shape (6,), as an update has them."""
    return np.arange(NUM_PARAMS, dtype=np.int64) * (CLIENTS.index(client) + 1) - 7


def update(cipher, client, **changes):
    plain = Envelope(
        run=PLAN.run,
        round=PLAN.round,
        sender=client,
        kind="update",
        manifest={**MANIFEST, **LONGER},
        blobs=cipher.encrypt(values(client)),
    )
    return replace(plain, **changes)


def send(aggregator, envelope):
    aggregator.receive(envelope.to_bytes())


def opened(cipher, aggregator):
    """Contributors and decrypted sum."""
    envelope = Envelope.from_bytes(aggregator.total())
    contributors = envelope.manifest["contributors"]
    return contributors, cipher.decrypt_sum(envelope.blobs, contributors).tolist()


def test_the_sum_is_that_of_all_who_sent(cipher, aggregator):
    lengths = []
    for client in ("dee", "ada", "cy"):
        message = update(cipher, client).to_bytes()
        lengths.append(len(message))
        aggregator.receive(message)
    assert aggregator.contributors == ["ada", "cy", "dee"]
    assert aggregator.bytes_up == sum(lengths)
    expected = values("ada") + values("cy") + values("dee")
    assert opened(cipher, aggregator) == (["ada", "cy", "dee"], expected.tolist())


def test_the_sum_is_an_envelope_of_this_round(cipher, aggregator):
    for client in CLIENTS:
        send(aggregator, update(cipher, client))
    envelope = Envelope.from_bytes(aggregator.total())
    assert (envelope.run, envelope.round, envelope.kind) == ("run-1", 3, "sum")
    assert envelope.sender == "aggregator"
    assert dict(envelope.manifest) == {**MANIFEST, "contributors": sorted(CLIENTS)}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_contributions_are_not_summed(cipher, aggregator, count):
    for client in CLIENTS[:count]:
        send(aggregator, update(cipher, client))
    with pytest.raises(TooFewClientsError, match=f"round 3 has {count} contribution.*at least 3"):
        aggregator.total()


def cut_blob(envelope):
    name = sorted(envelope.blobs)[0]
    return {**envelope.blobs, name: envelope.blobs[name][:-1]}


def longer_blob(envelope):
    name = sorted(envelope.blobs)[-1]
    return {**envelope.blobs, name: envelope.blobs[name] + b"\0"}


def out_of_range(envelope):
    """Numbers above the public range, or above the ciphertext modulus."""
    if "values" in envelope.blobs:
        return {"values": (128).to_bytes(4, "little") * NUM_PARAMS}
    return {**envelope.blobs, "c0": b"\xff" * len(envelope.blobs["c0"])}


def renamed_blob(envelope):
    name = sorted(envelope.blobs)[0]
    rest = {key: blob for key, blob in envelope.blobs.items() if key != name}
    return {**rest, "other": envelope.blobs[name]}


REFUSED = {
    "another run": lambda e: replace(e, run="run-2"),
    "an earlier round": lambda e: replace(e, round=2),
    "a later round": lambda e: replace(e, round=4),
    "another kind": lambda e: replace(e, kind="sum"),
    "another base": lambda e: replace(e, manifest={**MANIFEST, **LONGER, "base": "00fe"}),
    "no ledger": lambda e: replace(e, manifest=MANIFEST),
    "no anchor": lambda e: replace(e, manifest={**MANIFEST, LEDGER: {"length": 4}}),
    "a ledger that did not grow": lambda e: replace(e, manifest={**MANIFEST, **ledger(3)}),
    "a ledger that was rolled back": lambda e: replace(e, manifest={**MANIFEST, **ledger(1)}),
    "other parameters": lambda e: replace(
        e, manifest={**MANIFEST, **LONGER, "parameters": {"bits": 9, "scheme": "any"}}
    ),
    "more parameters": lambda e: replace(
        e,
        manifest={**MANIFEST, **LONGER, "parameters": {**MANIFEST["parameters"], "size": 1}},
    ),
    "no manifest": lambda e: replace(e, manifest={}),
    "a missing entry": lambda e: replace(e, manifest={**LONGER, "base": PLAN.base_digest}),
    "an extra entry": lambda e: replace(e, manifest={**MANIFEST, **LONGER, "true_size": 41}),
    "no blobs": lambda e: replace(e, blobs={}),
    "an extra blob": lambda e: replace(e, blobs={**e.blobs, "loss": b"1"}),
    "a renamed blob": lambda e: replace(e, blobs=renamed_blob(e)),
    "a cut blob": lambda e: replace(e, blobs=cut_blob(e)),
    "a longer blob": lambda e: replace(e, blobs=longer_blob(e)),
    "numbers out of range": lambda e: replace(e, blobs=out_of_range(e)),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_a_message_that_is_not_this_rounds_update_is_refused_by_name(cipher, aggregator, change):
    for client in ("ada", "bob"):
        send(aggregator, update(cipher, client))
    accepted = aggregator.bytes_up
    with pytest.raises(MessageError, match="'cy'"):
        send(aggregator, change(update(cipher, "cy")))
    assert aggregator.contributors == ["ada", "bob"]
    assert aggregator.bytes_up == accepted
    send(aggregator, update(cipher, "cy"))
    expected = values("ada") + values("bob") + values("cy")
    assert opened(cipher, aggregator) == (["ada", "bob", "cy"], expected.tolist())


def test_a_stranger_is_refused_by_name(cipher, aggregator):
    stranger = replace(update(cipher, "ada"), sender="eve")
    with pytest.raises(MessageError, match=r"'eve' is not in the cohort of round 3"):
        send(aggregator, stranger)
    assert aggregator.contributors == []


@pytest.mark.parametrize("fresh", [True, False])
def test_a_second_update_of_one_client_is_refused_by_name(cipher, aggregator, fresh):
    first = update(cipher, "bob")
    for envelope in (update(cipher, "ada"), first, update(cipher, "cy")):
        send(aggregator, envelope)
    with pytest.raises(MessageError, match=r"'bob' sent a second update in round 3"):
        send(aggregator, update(cipher, "bob") if fresh else first)
    expected = values("ada") + values("bob") + values("cy")
    assert opened(cipher, aggregator) == (["ada", "bob", "cy"], expected.tolist())


@pytest.mark.parametrize("damage", [lambda m: m[:-1], lambda m: m + b"\0", lambda m: b"", bytes])
def test_bytes_that_are_no_envelope_are_refused(cipher, aggregator, damage):
    message = update(cipher, "ada").to_bytes()
    if damage is bytes:
        middle = len(message) // 2
        message = message[:middle] + bytes([message[middle] ^ 1]) + message[middle + 1 :]
    with pytest.raises(MessageError):
        aggregator.receive(damage(message))
    assert aggregator.contributors == []


def test_a_copy_of_anothers_ciphertext_is_refused(bfv_key):
    """One client must not be able to add another's update a second time under its own name."""
    cipher = SharedKeyCipher(bfv_key, NUM_PARAMS, 3)
    adder = BFVAdder(bfv_key.parameters, NUM_PARAMS)
    aggregator = Aggregator(PLAN, CLIENTS, MANIFEST, ANCHORS, adder, 3)
    victim = update(cipher, "ada")
    send(aggregator, victim)
    with pytest.raises(MessageError, match="'bob' repeats a seed"):
        send(aggregator, replace(victim, sender="bob"))
    assert aggregator.contributors == ["ada"]


def test_a_flag_does_not_pass_for_a_number(cipher, scheme):
    """The manifest must be stated to the letter: in JSON true is not 1."""
    aggregator = Aggregator(PLAN, CLIENTS, {"bits": 1}, ANCHORS, scheme[1](), 3)
    for stated in (True, 1.0):
        with pytest.raises(MessageError, match="'ada' states bits"):
            send(aggregator, update(cipher, "ada", manifest={**LONGER, "bits": stated}))
