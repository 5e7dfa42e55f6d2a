"""The schemes under which clients can share a key: what of SEAL each needs, and its cipher."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from privfed.custody.ckks import CKKSCipher, shared_ckks_context
from privfed.custody.keys import shared_context
from privfed.custody.shared_key import SharedKeyCipher
from privfed.encryption import frames
from privfed.encryption.ckks import CKKSParameters, ckks_shape
from privfed.encryption.parameters import BFVParameters
from privfed.errors import EncryptionError
from privfed.protocol.ciphers import Cipher
from privfed.settings.encryption import Custody


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedScheme:
    """What a client needs to know of a scheme to make, take and use a key that all clients hold.

    Attributes:
        context: SEAL's.
        shape: of its ciphertexts.
        cipher: from a secret, the roster, the fewest contributors, what the client never forgets
            and its identity.
    """

    context: Any
    shape: frames.Shape
    cipher: Callable[..., Cipher]


def shared_scheme(parameters: BFVParameters | CKKSParameters | None) -> SharedScheme:
    """The scheme of these parameters.

    Raises:
        EncryptionError: if the clients share no key under them, or the local TenSEAL is not the
            supported one.
    """
    if isinstance(parameters, CKKSParameters):
        return SharedScheme(
            context=shared_ckks_context(),
            shape=ckks_shape(parameters),
            cipher=partial(CKKSCipher, parameters),
        )
    if parameters is None or parameters.custody is Custody.KEY_HOLDER:
        raise EncryptionError("only a run with a shared key has a key of its own")
    return SharedScheme(
        context=shared_context(parameters),
        shape=frames.ciphertext_shape(parameters),
        cipher=partial(SharedKeyCipher, parameters),
    )
