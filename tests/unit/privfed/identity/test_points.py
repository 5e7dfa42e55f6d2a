"""Which 32 bytes are a signing key: nothing of small order, and one encoding for each point."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.errors import IdentityError
from privfed.identity.points import PRIME, check_signing_key
from privfed.identity.roster import Roster

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


def test_the_base_point_of_rfc_8032_is_one():
    """Section 5.1: y = 4/5."""
    base = (4 * pow(5, -1, PRIME) % PRIME).to_bytes(32, "little")
    assert base.hex() == "58" + "66" * 31
    check_signing_key(base)


@pytest.mark.parametrize("key", UNUSABLE_ED25519.values(), ids=UNUSABLE_ED25519.keys())
def test_unusable_signing_keys(key):
    with pytest.raises(IdentityError, match="prime-order group"):
        check_signing_key(bytes.fromhex(key))


@pytest.mark.parametrize("key", [b"", b"\x09" * 31, b"\x09" * 33, "09" * 16, None])
def test_what_is_not_32_bytes(key):
    with pytest.raises(IdentityError, match="32 bytes"):
        check_signing_key(key)


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=32, max_size=32))
def test_keys_that_openssl_makes_are_allowed_and_so_is_their_negative(seed):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = bytearray(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())
    check_signing_key(bytes(key))
    key[31] ^= 0x80
    check_signing_key(bytes(key))


def test_an_all_zero_key_would_let_anybody_sign():
    """Why signing keys are checked: OpenSSL alone accepts this forgery for every message."""
    neutral = b"\1" + bytes(31)
    forged = neutral + bytes(32)
    Ed25519PublicKey.from_public_bytes(neutral).verify(forged, b"anything")
    with pytest.raises(IdentityError, match="prime-order"):
        Roster.from_bytes(b"{}\n", authority=neutral)
