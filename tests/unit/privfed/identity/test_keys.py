"""Parties and identities: what keys and names are allowed, and how secrets stay secret."""

import copy
import hashlib
import json
import os
import pickle
import re
import stat
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.canonical import parse_canonical
from privfed.errors import IdentityError, MessageError
from privfed.identity import keys
from privfed.identity.keys import Identity, Party, Role
from privfed.identity.names import check_name, from_hex, grouped_hex
from privfed.identity.points import check_signing_key
from privfed.identity.roster import Roster
from privfed.storage import private_files
from privfed.storage.private_files import read_private, write_new, write_private

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
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"

LOW_ORDER_X25519 = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    (PRIME - 1).to_bytes(32, "little").hex(),
]
# eprint 2020/1244, table 6 and section 3: small order, mixed order, not canonical.
UNUSABLE_ED25519 = {
    "all zero, order 4": "00" * 32,
    "order 4, other sign": "00" * 31 + "80",
    "order 1": "01" + "00" * 31,
    "order 2": "ec" + "ff" * 30 + "7f",
    "order 8": "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "order 8, other": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "mixed order": "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
    "y = p": "ed" + "ff" * 30 + "7f",
    "y = p + 1": "ee" + "ff" * 30 + "7f",
    "x = 0 with a sign": "01" + "00" * 30 + "80",
    "not on the curve": "02" + "00" * 31,
    "31 bytes": "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f70751",
    "33 bytes": "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a00",
    "nothing": "",
}


def by_hand(name, role, signing, wrapping, public_signing, public_wrapping):
    """An identity file, written after its description rather than by `save`."""
    party = (
        f'{{"name":"{name}","role":"{role}","signing_key":"{public_signing}",'
        f'"wrapping_key":"{public_wrapping}"}}'
    ).encode()
    body = b"privfed-identity\n" + struct.pack("<I", 1) + bytes.fromhex(signing)
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
            '"wrapping_key":"' + ALICE_PUBLIC + '"}'
        )
        digits = hashlib.sha256(b"privfed party 1\n" + text.encode()).hexdigest()[:32]
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
        ]
        assert len({party(**change).fingerprint for change in changes}) == len(changes)

    def test_json_and_back(self):
        written = party().to_json()
        assert written["role"] == "client"
        assert written["signing_key"] == ED25519[0][1]
        assert Party.from_json(json.loads(json.dumps(written))) == party()
        assert Party.from_bytes(party().to_bytes()) == party()

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
        ("name", "reason"),
        [
            ("", "1 to 120"),
            ("x" * 121, "1 to 120"),
            ("病" * 81, "240 bytes"),
            (" a", "space"),
            ("a ", "space"),
            ("a\n", "printable"),
            ("a\x00b", "printable"),
            ("a\u00a0b", "printable"),
            ("a\u200bb", "printable"),
            ("a\u202eb", "printable"),
            ("a\ud800b", "printable"),
            ("\x1b[2Ja", "printable"),
            ("a/b", "no '/'"),
            ("..", "begin with '.'"),
            (".hidden", "begin with '.'"),
            ("Zu\u0308rich", "normal form C"),
            ("\u212bngstrom", "normal form C"),
            (b"a", "be text"),
        ],
    )
    def test_refused(self, name, reason):
        with pytest.raises(IdentityError, match=reason):
            party(name=name)

    @pytest.mark.parametrize(
        "name", ["aggregator", "Aggregator", "ａｇｇｒｅｇａｔｏｒ", "key_holder", "AUTHORITY"]
    )
    def test_a_client_cannot_take_the_name_of_a_role(self, name):
        with pytest.raises(IdentityError, match="must belong to the"):
            party(name=name)

    def test_a_role_may_have_its_own_name(self):
        assert party(name="aggregator", role=Role.AGGREGATOR).name == "aggregator"

    def test_a_long_name_does_not_fill_the_message(self):
        with pytest.raises(IdentityError) as caught:
            check_name("\x07" * 100_000, "a name")
        assert len(str(caught.value)) < 300
        assert "\x07" not in str(caught.value)


class TestPublicKeys:
    @pytest.mark.parametrize("key", UNUSABLE_ED25519.values(), ids=UNUSABLE_ED25519.keys())
    def test_unusable_signing_keys(self, key):
        with pytest.raises(IdentityError, match="prime-order group"):
            party(signing_key=bytes.fromhex(key))

    @pytest.mark.parametrize("key", LOW_ORDER_X25519)
    def test_low_order_wrapping_keys(self, key):
        with pytest.raises(IdentityError, match="low order"):
            party(wrapping_key=bytes.fromhex(key))

    def test_a_second_encoding_of_a_wrapping_key(self):
        """X25519 ignores the highest bit and reduces: both would be the same key."""
        high_bit = bytearray.fromhex(ALICE_PUBLIC)
        high_bit[31] |= 0x80
        nine, nine_again = (number.to_bytes(32, "little") for number in (9, PRIME + 9))
        party(wrapping_key=nine)
        for key in (bytes(high_bit), nine_again):
            with pytest.raises(IdentityError, match=r"below 2\^255"):
                party(wrapping_key=key)

    @pytest.mark.parametrize("key", [b"", b"\x09" * 31, b"\x09" * 33, "09" * 16, None])
    def test_what_is_not_32_bytes(self, key):
        with pytest.raises(IdentityError, match="32 bytes"):
            party(wrapping_key=key)
        with pytest.raises(IdentityError, match="32 bytes"):
            check_signing_key(key)

    @settings(max_examples=30, deadline=None)
    @given(st.binary(min_size=32, max_size=32))
    def test_keys_that_openssl_makes_are_allowed_and_so_is_their_negative(self, seed):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = bytearray(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())
        check_signing_key(bytes(key))
        key[31] ^= 0x80
        check_signing_key(bytes(key))


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
        content[17] = 2
        content[-32:] = hashlib.sha256(content[:-32]).digest()
        write_private(tmp_path / "new", bytes(content))
        with pytest.raises(MessageError, match="schema 1, got 2"):
            Identity.load(tmp_path / "new")

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


class TestPrivateFiles:
    def test_round_trip_and_mode(self, tmp_path):
        path = tmp_path / "secret"
        write_private(path, b"content")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert read_private(path, most=7) == b"content"

    @pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
    def test_the_umask_does_not_matter(self, tmp_path, umask):
        before = os.umask(umask)
        try:
            write_private(tmp_path / "private", b"x")
            write_new(tmp_path / "public", b"x", mode=0o644)
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644

    def test_nothing_is_overwritten(self, tmp_path):
        path = tmp_path / "secret"
        write_private(path, b"first")
        with pytest.raises(IdentityError, match="choose another path"):
            write_private(path, b"second")
        assert path.read_bytes() == b"first"

    def test_no_link_is_followed_when_writing(self, tmp_path):
        (tmp_path / "link").symlink_to(tmp_path / "target")
        with pytest.raises(IdentityError, match="new file"):
            write_private(tmp_path / "link", b"x")
        assert not (tmp_path / "target").exists()

    def test_a_missing_folder(self, tmp_path):
        with pytest.raises(IdentityError, match="make the folder"):
            write_private(tmp_path / "none" / "secret", b"x")

    @pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
    def test_what_failed_half_way_is_removed(self, tmp_path, monkeypatch, error):
        def fail(descriptor):
            raise error

        monkeypatch.setattr(private_files.os, "fsync", fail)
        expected = IdentityError if isinstance(error, OSError) else KeyboardInterrupt
        with pytest.raises(expected):
            write_private(tmp_path / "secret", b"x")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o666, 0o601])
    def test_a_file_open_to_others_is_refused(self, tmp_path, mode):
        path = tmp_path / "secret"
        write_private(path, b"x")
        path.chmod(mode)
        with pytest.raises(IdentityError, match=f"mode {mode:04o}"):
            read_private(path, most=10)

    def test_a_link_is_not_read(self, tmp_path):
        write_private(tmp_path / "secret", b"x")
        (tmp_path / "link").symlink_to(tmp_path / "secret")
        with pytest.raises(IdentityError, match="no link"):
            read_private(tmp_path / "link", most=10)

    def test_only_regular_files_are_read(self, tmp_path):
        os.mkfifo(tmp_path / "pipe", 0o600)
        (tmp_path / "folder").mkdir(mode=0o700)
        for name in ("pipe", "folder"):
            with pytest.raises(IdentityError, match="regular file of this user"):
                read_private(tmp_path / name, most=10)

    def test_a_file_of_another_user_is_not_read(self, tmp_path, monkeypatch):
        write_private(tmp_path / "secret", b"x")
        monkeypatch.setattr(private_files.os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(IdentityError, match="of this user"):
            read_private(tmp_path / "secret", most=10)

    def test_a_missing_or_too_long_file(self, tmp_path):
        with pytest.raises(IdentityError, match="check the path"):
            read_private(tmp_path / "none", most=10)
        with pytest.raises(IdentityError, match="check the path"):
            read_private("a\0b", most=10)
        write_private(tmp_path / "long", b"x" * 11)
        with pytest.raises(IdentityError, match="at most 10 bytes"):
            read_private(tmp_path / "long", most=10)

    def test_no_descriptor_is_left_open(self, tmp_path):
        write_private(tmp_path / "secret", b"x")
        (tmp_path / "secret").chmod(0o644)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with pytest.raises(IdentityError):
                read_private(tmp_path / "secret", most=10)
        assert len(os.listdir("/proc/self/fd")) == before


class TestCanonicalJson:
    def test_by_hand(self):
        assert parse_canonical(b'{"a":[1,"\\u00fc"]}\n', "it", most=99) == {"a": [1, "ü"]}

    @pytest.mark.parametrize(
        "content",
        [
            b'{"a":1}',
            b'{"a":1}\n\n',
            b'{"a": 1}\n',
            b'{"b":1,"a":2}\n',
            b'{"a":1,"a":1}\n',
            b'{"a":2,"a":1}\n',
            b'{"a":"\\u0041"}\n',
            b'{"a":"\\u00FC"}\n',
            '{"a":"ü"}\n'.encode(),
            b'{"a":1.0}\n',
            b'{"a":1e999}\n',
            b'{"a":NaN}\n',
            b'{"a":-0}\n',
            b"\xef\xbb\xbf{}\n",
            "{}\n".encode("utf-16"),
            b"",
            b"\n",
            b"{",
            b"[" * 60_000 + b"]" * 60_000 + b"\n",
            b'{"a":' * 30_000,
            b"9" * 5000 + b"\n",
        ],
    )
    def test_anything_else_is_refused(self, content):
        with pytest.raises(MessageError, match="it must be"):
            parse_canonical(content, "it", most=1 << 20)

    def test_the_size_is_limited_before_anything_is_read(self):
        with pytest.raises(MessageError, match="at most 3 bytes, 4 came"):
            parse_canonical(b"[1]\n", "it", most=3)


@given(st.binary(max_size=40))
def test_hex_and_back(content):
    assert from_hex(content.hex(), len(content)) == content
    assert bytes.fromhex(grouped_hex(content)) == content


@pytest.mark.parametrize("text", ["AB", "a", "abc", " ab", "ab\n", "", None, 12, "٣٣"])
def test_other_hex_is_refused(text):
    with pytest.raises(MessageError, match="1 bytes must come as 2 lower-case"):
        from_hex(text, 1)


def test_an_all_zero_key_would_let_anybody_sign():
    """Why signing keys are checked: OpenSSL alone accepts this forgery for every message."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    neutral = b"\1" + bytes(31)
    forged = neutral + bytes(32)
    Ed25519PublicKey.from_public_bytes(neutral).verify(forged, b"anything")
    with pytest.raises(IdentityError, match="prime-order"):
        Roster.from_bytes(b"{}\n", authority=neutral)


def test_the_roles_of_names_are_kept_up():
    assert {role.value for role in Role} - {"client"} == set(keys._RESERVED_NAMES)
