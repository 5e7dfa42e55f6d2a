"""How clients come to share a key: whatever the relaying aggregator changes is refused."""

import pytest

from privfed.custody import key_exchange, native
from privfed.custody.key_exchange import receive_secret, share_secret
from privfed.custody.keys import SharedSecret, shared_context
from privfed.custody.native import software
from privfed.custody.wrapping import wrap
from privfed.encryption import frames
from privfed.encryption.parameters import derive
from privfed.errors import EncryptionError, MessageError
from privfed.identity.keys import Identity, Role
from privfed.identity.roster import Roster
from privfed.protocol.envelopes import Envelope, envelope_bytes
from privfed.protocol.kinds import SHARED_KEY
from privfed.protocol.terms import Terms
from privfed.settings.encryption import Custody
from tests.unit.privfed.small_federation import blobs_of, enrolled

PARAMETERS = derive(num_clients=3, bits=8, num_params=9, custody=Custody.SHARED_KEY)
CONTEXT, SHAPE = shared_context(PARAMETERS), frames.ciphertext_shape(PARAMETERS)
PARTIES = enrolled(3)
TERMS = Terms(run="run", round=0, manifest={"encryption": PARAMETERS.to_json()})


@pytest.fixture(scope="module")
def secret():
    return SharedSecret.generate(CONTEXT, SHAPE)


@pytest.fixture(scope="module")
def message(secret):
    return share_secret(secret, PARTIES.clients["c1"], PARTIES.roster, TERMS)


def received(message, name="c2", *, terms=TERMS, roster=PARTIES.roster, maker="c1", identity=None):
    return receive_secret(
        message,
        identity or PARTIES.clients[name],
        roster,
        terms,
        maker=maker,
        context=CONTEXT,
        shape=SHAPE,
    )


def resigned(message, signer, *, terms=TERMS, blobs=None, **manifest):
    """The message with some things replaced, signed by whoever."""
    statement = Envelope.from_bytes(message).statement
    own = {key: statement.manifest[key] for key in ("key_id", "software")}
    return envelope_bytes(
        signer.sign,
        terms,
        sender=signer.party.name,
        kind=SHARED_KEY,
        manifest={**own, **manifest},
        blobs=blobs_of(message) if blobs is None else blobs,
    )


@pytest.mark.parametrize("name", ["c2", "c3"])
def test_every_other_client_gets_the_same_secret(secret, message, name):
    own = received(message, name)
    assert own.key_id == secret.key_id
    assert own.to_bytes() == secret.to_bytes()


def test_nothing_of_it_can_be_read_on_the_way(secret, message):
    content = secret.to_bytes()
    assert sorted(blobs_of(message)) == ["c2", "c3"]
    for start in range(16, len(content) - 16, 100):
        assert content[start : start + 16] not in message
    assert secret.tag_key.hex().encode() not in message


def test_only_clients_can_open_it(message):
    for identity in (PARTIES.aggregator, PARTIES.key_holder, PARTIES.clients["c1"]):
        with pytest.raises(MessageError, match="wrapped no key"):
            received(message, identity=identity)
    stranger = Identity.generate("c2", Role.CLIENT)
    with pytest.raises(EncryptionError, match="another recipient"):
        received(message, identity=stranger)


def test_wrapped_keys_that_were_swapped(message):
    blobs = blobs_of(message)
    swapped = {"c2": blobs["c3"], "c3": blobs["c2"]}
    with pytest.raises(EncryptionError, match="another recipient"):
        received(resigned(message, PARTIES.clients["c1"], blobs=swapped))
    with pytest.raises(MessageError, match="must be enrolled as client"):
        received(resigned(message, PARTIES.aggregator, blobs=swapped))
    damaged = bytearray(message)
    damaged[100] ^= 1
    with pytest.raises(MessageError, match="damaged"):
        received(damaged)


def test_who_is_left_out_gets_no_key(secret):
    """It is enrolled; the terms leave it out, and the others share the key."""
    terms = Terms(run="run", round=0, manifest={**TERMS.manifest, "left_out": ["c3"]})
    message = share_secret(secret, PARTIES.clients["c1"], PARTIES.roster, terms)
    assert sorted(blobs_of(message)) == ["c2"]
    assert received(message, "c2", terms=terms).key_id == secret.key_id
    with pytest.raises(MessageError, match="wrapped no key to 'c3'"):
        received(message, "c3", terms=terms)


def test_another_maker(message):
    """A client that was not agreed on, for what it made itself or passes on."""
    other = SharedSecret.generate(CONTEXT, SHAPE)
    made = share_secret(other, PARTIES.clients["c3"], PARTIES.roster, TERMS)
    for wrong in (made, resigned(message, PARTIES.clients["c3"])):
        with pytest.raises(MessageError, match="made by 'c1', these come from 'c3'"):
            received(wrong)
    with pytest.raises(MessageError, match="made by 'c3', these come from 'c1'"):
        received(message, maker="c3")


def test_a_key_that_the_aggregator_wrapped():
    """Under its own name, under the maker's, and under keys of its own."""
    other = SharedSecret.generate(CONTEXT, SHAPE)
    own = share_secret(other, PARTIES.aggregator, PARTIES.roster, TERMS)
    with pytest.raises(MessageError, match="must be enrolled as client"):
        received(own)
    with pytest.raises(MessageError, match="must be enrolled as client"):
        received(own, maker="aggregator")
    stolen = share_secret(other, Identity.generate("c1", Role.CLIENT), PARTIES.roster, TERMS)
    with pytest.raises(MessageError, match="its signature"):
        received(stolen)


def test_a_key_that_the_aggregator_put_into_the_makers_message(secret, message):
    """Anybody can wrap to a client; the maker's signature covers what it wrapped."""
    other = SharedSecret.generate(CONTEXT, SHAPE)
    party = PARTIES.clients["c2"].party
    bound = key_exchange._wrapping_context(TERMS, secret.key_id, PARTIES.clients["c1"].party, party)
    blobs = {**blobs_of(message), "c2": wrap(other.to_bytes(), party, bound)}
    genuine = Envelope.from_bytes(message)
    start = len(message) - sum(map(len, genuine.blobs.values())) - 8
    patched = message[:8] + blobs["c2"] + bytes(blobs["c3"]) + message[-start:]
    with pytest.raises(MessageError, match="damaged"):
        received(patched)
    with pytest.raises(MessageError, match="not the one that it names"):
        received(resigned(message, PARTIES.clients["c1"], blobs=blobs))


def test_a_roster_of_other_keys(secret):
    """The maker wraps to enrolled keys only: a client that was swapped in another roster."""
    impostor = Identity.generate("c2", Role.CLIENT)
    others = [PARTIES.clients["c1"].party, PARTIES.clients["c3"].party]
    others += [PARTIES.aggregator.party, PARTIES.key_holder.party, impostor.party]
    authority = Identity.generate("authority", Role.AUTHORITY)
    message = share_secret(
        secret,
        PARTIES.clients["c1"],
        Roster.signed("test", others, authority),
        TERMS,
    )
    with pytest.raises(EncryptionError, match="another recipient"):
        received(message)


@pytest.mark.parametrize(
    "terms",
    [
        Terms(run="another", round=0, manifest=TERMS.manifest),
        Terms(run="run", round=1, manifest=TERMS.manifest),
        Terms(run="run", round=0, manifest={"encryption": {"bits": 9}}),
    ],
)
def test_a_key_of_another_run_or_of_other_parameters(message, terms):
    with pytest.raises(MessageError, match="expected"):
        received(message, terms=terms)
    if terms.round == 0:
        relabelled = resigned(message, PARTIES.clients["c1"], terms=terms)
        with pytest.raises(EncryptionError, match="context"):
            received(relabelled, terms=terms)


def test_a_key_under_another_name(message):
    with pytest.raises(EncryptionError, match="context"):
        received(resigned(message, PARTIES.clients["c1"], key_id="00" * 16))


@pytest.mark.parametrize(
    "theirs", [{"tenseal": "0.3.16", "seal": "4.1"}, {**software(), "seal": "4.1"}, None]
)
def test_other_software_is_refused_by_name(message, theirs):
    with pytest.raises(EncryptionError) as caught:
        received(resigned(message, PARTIES.clients["c1"], software=theirs))
    assert "same TenSEAL" in str(caught.value)
    assert f"this process {software()}" in str(caught.value)
    for version in (theirs or {}).values():
        assert repr(version) in str(caught.value).split("this process")[0]


def test_the_software_stated_is_the_makers_own(secret, monkeypatch):
    older = {"tenseal": "0.3.16", "seal": "4.1"}
    with monkeypatch.context() as patch:
        patch.setattr(key_exchange, "software", lambda: older)
        message = share_secret(secret, PARTIES.clients["c1"], PARTIES.roster, TERMS)
    assert native.software() != older
    with pytest.raises(EncryptionError, match=r"0\.3\.16"):
        received(message)


def test_no_refusal_shows_a_secret(secret, message):
    """Nor does what the exception was raised from."""
    other = SharedSecret.generate(CONTEXT, SHAPE)
    blobs = {**blobs_of(message), "c2": wrap(other.to_bytes(), PARTIES.clients["c2"].party, b"")}
    with pytest.raises(EncryptionError) as caught:
        received(resigned(message, PARTIES.clients["c1"], blobs=blobs))
    text = repr(caught.value) + repr(caught.value.__cause__)
    for hidden in (secret.tag_key, other.tag_key):
        assert hidden.hex() not in text
        assert repr(hidden) not in text
