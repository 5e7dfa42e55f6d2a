"""What of SEAL a shared key is made for, and the cipher that uses it, for every scheme."""

import pytest

from privfed.custody.ckks import CKKSCipher, shared_ckks_context
from privfed.custody.keys import shared_context
from privfed.custody.shared_key import SharedKeyCipher
from privfed.custody.shared_schemes import shared_scheme
from privfed.encryption import frames
from privfed.encryption.ckks import ckks_shape, derive_ckks
from privfed.encryption.parameters import derive
from privfed.errors import EncryptionError
from privfed.settings.encryption import Custody


def bfv(custody=Custody.SHARED_KEY):
    return derive(num_clients=5, bits=12, num_params=700, custody=custody)


def test_bfv():
    found = shared_scheme(bfv())
    assert found.context is shared_context(bfv())
    assert found.shape == frames.ciphertext_shape(bfv())
    assert found.cipher.func is SharedKeyCipher
    assert found.cipher.args == (bfv(),)


def test_ckks():
    parameters = derive_ckks(num_clients=5, num_params=700)
    found = shared_scheme(parameters)
    assert found.context is shared_ckks_context()
    assert found.shape == ckks_shape(parameters) != shared_scheme(bfv()).shape
    assert found.cipher.func is CKKSCipher
    assert found.cipher.args == (parameters,)


@pytest.mark.parametrize("parameters", [None, bfv(Custody.KEY_HOLDER)], ids=["clear", "key_holder"])
def test_where_the_clients_share_no_key_there_is_none(parameters):
    with pytest.raises(EncryptionError, match="only a run with a shared key"):
        shared_scheme(parameters)
