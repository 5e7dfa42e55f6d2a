"""A secret sent to one enrolled party through others who must not read it.

An ephemeral X25519 key agrees with the recipient's; HKDF-SHA256 over both public keys and the
context gives a key that ChaCha20-Poly1305 uses once. This is the shape of HPKE's base mode; HPKE
itself (Barnes et al. 2022, RFC 9180) is not in the oldest `cryptography` that privfed supports.

Wrapping hides a secret; it does not say who sent it. Anybody can wrap anything to a recipient, so
what is wrapped must travel in a message that its sender signed.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privfed.errors import EncryptionError, IdentityError
from privfed.identity.keys import Identity, Party
from privfed.identity.points import KEY_BYTES

OVERHEAD_BYTES: Final = KEY_BYTES + 16
"""How much longer the wrapped form is: the ephemeral public key and the tag."""

_LABEL: Final = b"privfed wrapping 1\n"
_NONCE: Final = bytes(12)


def wrap(secret: bytes, recipient: Party, context: bytes) -> bytes:
    """Encrypt `secret` to one party.

    Args:
        secret: at least one byte; its length is not hidden.
        recipient: whose identity can unwrap it, from a roster.
        context: what the secret is for (roster digest, run, round, ...); needed to unwrap, not
            hidden, not sent along.

    Returns:
        Ephemeral public key (32 bytes), ciphertext, tag: `OVERHEAD_BYTES` more than `secret`.

    Raises:
        EncryptionError: if `secret` is empty.
    """
    if not secret:
        raise EncryptionError("a secret must have at least one byte to be wrapped, got none")
    ephemeral = X25519PrivateKey.generate()
    public = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(recipient.wrapping_key))
    cipher = _cipher(shared, public, recipient.wrapping_key, context)
    return public + cipher.encrypt(_NONCE, secret, context)


def unwrap(wrapped: bytes, identity: Identity, context: bytes) -> bytes:
    """Decrypt what `wrap` made for this identity in this context.

    Raises:
        EncryptionError: if it was made for another recipient or context, or was changed; these
            cannot be told apart.
    """
    if len(wrapped) <= OVERHEAD_BYTES:
        raise EncryptionError(
            f"a wrapped secret must have more than {OVERHEAD_BYTES} bytes, {len(wrapped)} came; "
            "it was cut, or is something else"
        )
    public, ciphertext = wrapped[:KEY_BYTES], wrapped[KEY_BYTES:]
    try:
        shared = identity.exchange(public)
    except IdentityError as error:
        raise EncryptionError(
            "a wrapped secret must begin with a usable X25519 public key, this one was changed or "
            "made to be read by others; ask its sender for a new one"
        ) from error
    cipher = _cipher(shared, public, identity.party.wrapping_key, context)
    try:
        return cipher.decrypt(_NONCE, ciphertext, context)
    except InvalidTag as error:
        raise EncryptionError(
            f"a wrapped secret must open with the key of {identity.party.name!r} in its context, "
            "this one does not: it is for another recipient, was changed, or belongs to another "
            "context; ask its sender for a new one"
        ) from error


def _cipher(shared: bytes, ephemeral: bytes, recipient: bytes, context: bytes) -> ChaCha20Poly1305:
    """The fields before `context` have fixed lengths, so no two inputs give one `info`."""
    info = _LABEL + ephemeral + recipient + context
    key = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(shared)
    return ChaCha20Poly1305(key)
