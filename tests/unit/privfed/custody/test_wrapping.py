"""A wrapped secret opens for one recipient in one context, and for nobody else."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.custody.wrapping import OVERHEAD_BYTES, unwrap, wrap
from privfed.errors import EncryptionError
from privfed.identity.keys import Identity, Role

EAST = Identity.generate("east", Role.CLIENT)
WEST = Identity.generate("west", Role.CLIENT)
SECRET = b"the key of this run"
CONTEXT = b"run 7"


def test_by_hand():
    """HKDF of RFC 5869 written out: extract with a zero salt, one block of expand."""
    wrapped = wrap(SECRET, EAST.party, CONTEXT)
    ephemeral, ciphertext = wrapped[:32], wrapped[32:]
    extracted = hmac.digest(bytes(32), EAST.exchange(ephemeral), hashlib.sha256)
    info = b"privfed wrapping 1\n" + ephemeral + EAST.party.wrapping_key + CONTEXT
    key = hmac.digest(extracted, info + b"\x01", hashlib.sha256)
    assert ChaCha20Poly1305(key).decrypt(bytes(12), ciphertext, CONTEXT) == SECRET


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.binary(max_size=50))
def test_round_trip(secret, context):
    wrapped = wrap(secret, EAST.party, context)
    assert len(wrapped) == len(secret) + OVERHEAD_BYTES
    assert unwrap(wrapped, EAST, context) == secret


def test_a_secret_as_large_as_a_key_of_seal():
    secret = bytes(range(256)) * 2048
    assert unwrap(wrap(secret, EAST.party, CONTEXT), EAST, CONTEXT) == secret


def test_two_wraps_share_nothing():
    first, second = (wrap(SECRET, EAST.party, CONTEXT) for _ in range(2))
    assert first[:32] != second[:32]
    assert first[32:] != second[32:]


def test_another_recipient():
    with pytest.raises(EncryptionError, match="key of 'west'.*another recipient"):
        unwrap(wrap(SECRET, EAST.party, CONTEXT), WEST, CONTEXT)


@pytest.mark.parametrize("context", [b"", b"run 8", CONTEXT + b"\0", CONTEXT[:-1]])
def test_another_context(context):
    with pytest.raises(EncryptionError, match="another context"):
        unwrap(wrap(SECRET, EAST.party, CONTEXT), EAST, context)


@pytest.mark.parametrize("mask", [0x01, 0x80])
def test_one_changed_byte_anywhere(mask):
    """The highest bit of the ephemeral key too, which X25519 itself ignores."""
    wrapped = wrap(SECRET, EAST.party, CONTEXT)
    for position in range(len(wrapped)):
        changed = bytearray(wrapped)
        changed[position] ^= mask
        with pytest.raises(EncryptionError):
            unwrap(bytes(changed), EAST, CONTEXT)


def test_every_cut_and_any_addition():
    wrapped = wrap(SECRET, EAST.party, CONTEXT)
    for changed in (*(wrapped[:end] for end in range(len(wrapped))), wrapped + b"\0"):
        with pytest.raises(EncryptionError):
            unwrap(changed, EAST, CONTEXT)


@pytest.mark.parametrize(
    "public",
    [
        "00" * 32,
        "01" + "00" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    ],
)
def test_a_low_order_ephemeral_key(public):
    """Its shared secret would be zero, known to all."""
    with pytest.raises(EncryptionError, match="usable X25519"):
        unwrap(bytes.fromhex(public) + bytes(40), EAST, CONTEXT)


def test_nothing_to_wrap():
    with pytest.raises(EncryptionError, match="at least one byte"):
        wrap(b"", EAST.party, CONTEXT)


def test_no_secret_in_a_message():
    wrapped = wrap(SECRET, EAST.party, CONTEXT)
    with pytest.raises(EncryptionError) as caught:
        unwrap(wrapped, WEST, CONTEXT)
    assert SECRET.decode() not in str(caught.value)
    assert WEST.exchange(wrapped[:32]).hex()[:8] not in str(caught.value)
