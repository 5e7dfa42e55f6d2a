"""Parties and identities: what keys and names are allowed, and how secrets stay secret."""

import copy
import hashlib
import json
import pickle
import re
import struct

import pytest

from privfed.errors import IdentityError, MessageError
from privfed.identity import keys
from privfed.identity.keys import Identity, Party, Role
from privfed.storage.private_files import write_private

PRIME = 2**255 - 19

# RFC 8032, section 7.1, tests 1 and 2: secret, public, message, signature.
ED25519 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701c"
        "f9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0"
        "f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
]
# RFC 7748, section 6.1.
BOB_SECRET = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
BOB_PUBLIC = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
ALICE_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
# NIST SP 800-186, section 3.2.1.4: the base point of P-384 and, with 2, its negative.
TRANSPORT = (
    "03aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b98"
    "59f741e082542a385502f25dbf55296c3a545e3872760ab7"
)
OTHER_TRANSPORT = "02" + TRANSPORT[2:]
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"

LOW_ORDER_X25519 = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    (PRIME - 1).to_bytes(32, "little").hex(),
]
# eprint 2020/1244, table 6 and section 3: small order, mixed order, not canonical.


def by_hand(name, role, signing, wrapping, public_signing, public_wrapping, transport=TRANSPORT):
    """An identity file, written after its description rather than by `save`."""
    party = (
        f'{{"name":"{name}","role":"{role}","signing_key":"{public_signing}",'
        f'"transport_key":"{transport}","wrapping_key":"{public_wrapping}"}}'
    ).encode()
    body = b"privfed-identity\n" + struct.pack("<I", 2) + bytes.fromhex(signing)
    body += bytes.fromhex(wrapping) + struct.pack("<I", len(party)) + party
    return body + hashlib.sha256(body).digest()


@pytest.fixture
def bob(tmp_path):
    secret, public, _, _ = ED25519[1]
    path = tmp_path / "bob"
    write_private(path, by_hand("bob", "client", secret, BOB_SECRET, public, BOB_PUBLIC))
    return Identity.load(path)


@pytest.fixture(scope="module")
def alice():
    return Identity.generate("alice", Role.CLIENT)


def party(**changes):
    fields = {
        "name": "ward",
        "role": Role.CLIENT,
        "signing_key": bytes.fromhex(ED25519[0][1]),
        "wrapping_key": bytes.fromhex(ALICE_PUBLIC),
        "transport_key": bytes.fromhex(TRANSPORT),
    }
    return Party(**{**fields, **changes})


@pytest.mark.parametrize(("secret", "public", "message", "signature"), ED25519)
def test_signatures_are_those_of_rfc_8032(tmp_path, secret, public, message, signature):
    path = tmp_path / "key"
    write_private(path, by_hand("bob", "client", secret, BOB_SECRET, public, BOB_PUBLIC))
    signer = Identity.load(path)
    assert signer.party.signing_key.hex() == public
    assert signer.sign(bytes.fromhex(message)).hex() == signature


def test_the_exchange_is_that_of_rfc_7748(bob):
    assert bob.party.wrapping_key.hex() == BOB_PUBLIC
    assert bob.exchange(bytes.fromhex(ALICE_PUBLIC)).hex() == SHARED


def test_two_identities_agree(alice, bob):
    assert alice.exchange(bob.party.wrapping_key) == bob.exchange(alice.party.wrapping_key)


@pytest.mark.parametrize("public", [*LOW_ORDER_X25519, "", "aa" * 31, "aa" * 33])
def test_no_exchange_with_an_unusable_key(bob, public):
    with pytest.raises(IdentityError, match="32 bytes and not of low order"):
        bob.exchange(bytes.fromhex(public))


class TestParty:
    def test_fingerprint_by_hand(self):
        text = (
            '{"name":"ward","role":"client","signing_key":"' + ED25519[0][1] + '",'
            '"transport_key":"' + TRANSPORT + '","wrapping_key":"' + ALICE_PUBLIC + '"}'
        )
        digits = hashlib.sha256(b"privfed party 2\n" + text.encode()).hexdigest()[:32]
        assert party().fingerprint.replace(" ", "") == digits
        assert re.fullmatch("([0-9a-f]{4} ){7}[0-9a-f]{4}", party().fingerprint)

    def test_every_field_changes_the_fingerprint(self):
        other = Identity.generate("x", Role.CLIENT).party
        changes = [
            {},
            {"name": "Ward"},
            {"role": Role.KEY_HOLDER},
            {"signing_key": other.signing_key},
            {"wrapping_key": other.wrapping_key},
            {"transport_key": bytes.fromhex(OTHER_TRANSPORT)},
            {"transport_key": b""},
        ]
        assert len({party(**change).fingerprint for change in changes}) == len(changes)

    def test_json_and_back(self):
        written = party().to_json()
        assert written["role"] == "client"
        assert written["signing_key"] == ED25519[0][1]
        assert written["transport_key"] == TRANSPORT
        assert Party.from_json(json.loads(json.dumps(written))) == party()
        assert Party.from_bytes(party().to_bytes()) == party()

    def test_no_transport_key_is_written_too(self):
        written = party(transport_key=b"").to_json()
        assert written["transport_key"] == ""
        assert Party.from_json(written) == party(transport_key=b"")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"name": 3}, "must be text"),
            ({"name": None}, "must be text"),
            ({"name": "a/b"}, "contain no '/'"),
            ({"role": "boss"}, "role must be one of client, aggregator, key_holder, authority"),
            ({"role": ["client"]}, "must be text"),
            ({"signing_key": ED25519[0][1].upper()}, "lower-case hex"),
            ({"signing_key": ED25519[0][1][:-2]}, "64 lower-case"),
            ({"signing_key": ED25519[0][1] + "\n"}, "64 lower-case"),
            ({"signing_key": "00" * 32}, "prime-order"),
            ({"wrapping_key": "00" * 32}, "low order"),
            ({"wrapping_key": "zz" * 32}, "64 lower-case"),
            ({"transport_key": None}, "must be text"),
            ({"transport_key": TRANSPORT.upper()}, "lower-case hex"),
            ({"transport_key": TRANSPORT[:-2]}, "98 lower-case"),
            ({"transport_key": " "}, "98 lower-case"),
            ({"transport_key": "04" + TRANSPORT[2:]}, "point of P-384"),
            ({"transport_key": "02" + "ff" * 48}, "point of P-384"),
            ({"role": "authority"}, "authority must have no transport key"),
            ({"email": "a@b"}, "exactly the keys"),
        ],
    )
    def test_other_json_is_refused(self, change, reason):
        with pytest.raises(MessageError, match=reason):
            Party.from_json({**party().to_json(), **change})

    @pytest.mark.parametrize("missing", ["name", "role", "signing_key", "wrapping_key"])
    def test_a_missing_key_is_refused(self, missing):
        written = party().to_json()
        del written[missing]
        with pytest.raises(MessageError, match="exactly the keys"):
            Party.from_json(written)

    def test_a_party_of_an_earlier_version_is_refused(self):
        earlier = party().to_json()
        del earlier["transport_key"]
        content = keys.canonical_json(earlier) + b"\n"
        with pytest.raises(MessageError, match="before transport keys; make a new identity"):
            Party.from_bytes(content)

    @pytest.mark.parametrize("value", [None, [], "party", 3, {}])
    def test_what_is_no_party_is_refused(self, value):
        with pytest.raises(MessageError, match="exactly the keys"):
            Party.from_json(value)

    def test_every_changed_byte_gives_another_party_or_none(self):
        content = party().to_bytes()
        for position in range(len(content)):
            changed = bytearray(content)
            changed[position] ^= 1
            try:
                read = Party.from_bytes(bytes(changed))
            except MessageError:
                continue
            assert read.fingerprint != party().fingerprint

    def test_a_role_must_be_a_role(self):
        with pytest.raises(IdentityError, match="use one of client"):
            party(role="client")


class TestNames:
    @pytest.mark.parametrize(
        "name", ["a", "x" * 120, "St. Mary's, ward 3", "Zürich", "病院", "a:b", "client", "a" * 2]
    )
    def test_allowed(self, name):
        assert Party.from_bytes(party(name=name).to_bytes()).name == name

    @pytest.mark.parametrize(
        "name", ["aggregator", "Aggregator", "ａｇｇｒｅｇａｔｏｒ", "key_holder", "AUTHORITY"]
    )
    def test_a_client_cannot_take_the_name_of_a_role(self, name):
        with pytest.raises(IdentityError, match="must belong to the"):
            party(name=name)

    def test_a_role_may_have_its_own_name(self):
        assert party(name="aggregator", role=Role.AGGREGATOR).name == "aggregator"


class TestPublicKeys:
    @pytest.mark.parametrize("key", LOW_ORDER_X25519)
    def test_low_order_wrapping_keys(self, key):
        with pytest.raises(IdentityError, match="low order"):
            party(wrapping_key=bytes.fromhex(key))

    @pytest.mark.parametrize("key", [b"", b"\x09" * 31, b"\x09" * 33, "09" * 16, None])
    def test_what_is_not_32_bytes(self, key):
        with pytest.raises(IdentityError, match="32 bytes"):
            party(wrapping_key=key)

    def test_a_second_encoding_of_a_wrapping_key(self):
        """X25519 ignores the highest bit and reduces: both would be the same key."""
        high_bit = bytearray.fromhex(ALICE_PUBLIC)
        high_bit[31] |= 0x80
        nine, nine_again = (number.to_bytes(32, "little") for number in (9, PRIME + 9))
        party(wrapping_key=nine)
        for key in (bytes(high_bit), nine_again):
            with pytest.raises(IdentityError, match=r"below 2\^255"):
                party(wrapping_key=key)


class TestTransportKeys:
    @pytest.mark.parametrize("role", [Role.CLIENT, Role.AGGREGATOR, Role.KEY_HOLDER])
    @pytest.mark.parametrize("key", [TRANSPORT, OTHER_TRANSPORT, ""])
    def test_who_may_have_one(self, role, key):
        assert party(role=role, transport_key=bytes.fromhex(key)).transport_key.hex() == key

    def test_an_authority_has_none(self):
        assert party(role=Role.AUTHORITY, transport_key=b"").transport_key == b""
        with pytest.raises(IdentityError, match="'ward' has one"):
            party(role=Role.AUTHORITY)
        with pytest.raises(IdentityError, match="'ward' has one"):
            Identity.generate("ward", Role.AUTHORITY, bytes.fromhex(TRANSPORT))

    @pytest.mark.parametrize(
        "key",
        [bytes.fromhex("04" + TRANSPORT[2:]), bytes(49), TRANSPORT, None, bytearray(), "", 0],
    )
    def test_what_is_none(self, key):
        with pytest.raises(IdentityError, match="point of P-384"):
            party(transport_key=key)

    def test_an_identity_keeps_it(self, tmp_path):
        made = Identity.generate("ward", Role.CLIENT, bytes.fromhex(TRANSPORT))
        assert made.party.transport_key.hex() == TRANSPORT
        made.save(tmp_path / "ward")
        assert Identity.load(tmp_path / "ward").party == made.party

    def test_none_unless_given(self, alice):
        assert alice.party.transport_key == b""


class TestIdentityFile:
    def test_save_and_load(self, alice, tmp_path):
        alice.save(tmp_path / "alice")
        loaded = Identity.load(tmp_path / "alice")
        assert loaded.party == alice.party
        assert loaded.sign(b"m") == alice.sign(b"m")
        assert loaded.exchange(bytes.fromhex(ALICE_PUBLIC)) == alice.exchange(
            bytes.fromhex(ALICE_PUBLIC)
        )

    def test_the_file_is_the_one_described(self, bob, tmp_path):
        bob.save(tmp_path / "again")
        secret, public, _, _ = ED25519[1]
        expected = by_hand("bob", "client", secret, BOB_SECRET, public, BOB_PUBLIC)
        assert (tmp_path / "again").read_bytes() == expected

    def test_every_changed_byte_is_refused(self, alice, tmp_path):
        alice.save(tmp_path / "alice")
        content = (tmp_path / "alice").read_bytes()
        path = tmp_path / "changed"
        path.touch(0o600)
        for position in range(len(content)):
            changed = bytearray(content)
            changed[position] ^= 0x01
            path.write_bytes(changed)
            with pytest.raises(MessageError):
                Identity.load(path)

    def test_every_cut_and_any_addition_is_refused(self, alice, tmp_path):
        alice.save(tmp_path / "alice")
        content = (tmp_path / "alice").read_bytes()
        path = tmp_path / "changed"
        path.touch(0o600)
        for changed in (*(content[:end] for end in range(len(content))), content + b"\0"):
            path.write_bytes(changed)
            with pytest.raises(MessageError):
                Identity.load(path)

    def test_secrets_of_somebody_else_are_refused(self, tmp_path):
        """A whole file by its checksum, with the public keys of another party."""
        secret, _, _, _ = ED25519[0]
        _, public, _, _ = ED25519[1]
        content = by_hand("bob", "client", secret, BOB_SECRET, public, BOB_PUBLIC)
        write_private(tmp_path / "mixed", content)
        with pytest.raises(MessageError, match="belong to its public keys"):
            Identity.load(tmp_path / "mixed")

    def test_another_schema_is_refused(self, tmp_path):
        secret, public, _, _ = ED25519[0]
        content = bytearray(by_hand("bob", "client", secret, BOB_SECRET, public, BOB_PUBLIC))
        content[17] = 3
        content[-32:] = hashlib.sha256(content[:-32]).digest()
        write_private(tmp_path / "new", bytes(content))
        with pytest.raises(MessageError, match="schema 2, got 3; use the privfed"):
            Identity.load(tmp_path / "new")

    def test_a_file_of_an_earlier_version_is_refused(self, tmp_path):
        secret, public, _, _ = ED25519[0]
        content = bytearray(by_hand("bob", "client", secret, BOB_SECRET, public, BOB_PUBLIC))
        content[17] = 1
        content[-32:] = hashlib.sha256(content[:-32]).digest()
        write_private(tmp_path / "old", bytes(content))
        with pytest.raises(
            MessageError, match="got 1, of an earlier version, before transport keys; make a new"
        ):
            Identity.load(tmp_path / "old")

    @pytest.mark.parametrize("change", [-1, 1])
    def test_another_length_is_refused(self, tmp_path, change):
        secret, public, _, _ = ED25519[0]
        content = bytearray(by_hand("bob", "client", secret, BOB_SECRET, public, BOB_PUBLIC))
        content[85] += change
        content[-32:] = hashlib.sha256(content[:-32]).digest()
        write_private(tmp_path / "long", bytes(content))
        with pytest.raises(MessageError, match="whole and unchanged"):
            Identity.load(tmp_path / "long")

    def test_no_secret_is_shown(self, bob, tmp_path):
        secret = ED25519[1][0]
        shown = [repr(bob), str(bob), f"{bob!r}"]
        content = by_hand("bob", "client", secret, BOB_SECRET, ED25519[0][1], BOB_PUBLIC)
        write_private(tmp_path / "wrong", content)
        write_private(tmp_path / "cut", content[:-1])
        for name in ("wrong", "cut"):
            with pytest.raises(MessageError) as caught:
                Identity.load(tmp_path / name)
            shown.append(str(caught.value))
        assert shown[0] == "Identity(name='bob')"
        for text in shown:
            assert secret[:12] not in text
            assert BOB_SECRET[:12] not in text

    @pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_no_copies(self, alice, copied):
        with pytest.raises(IdentityError, match="pickled or copied"):
            copied(alice)

    def test_no_identity_out_of_nothing(self):
        with pytest.raises(TypeError, match="generate"):
            Identity()

    def test_generated_keys_differ(self):
        first, second = (Identity.generate("a", Role.CLIENT).party for _ in range(2))
        assert first.signing_key != second.signing_key
        assert first.wrapping_key != second.wrapping_key

    def test_a_wrong_name_or_role_is_refused(self):
        with pytest.raises(IdentityError, match="no '/'"):
            Identity.generate("a/b", Role.CLIENT)
        with pytest.raises(IdentityError, match="must be a Role"):
            Identity.generate("a", "client")


def test_the_roles_of_names_are_kept_up():
    assert {role.value for role in Role} - {"client"} == set(keys._RESERVED_NAMES)
