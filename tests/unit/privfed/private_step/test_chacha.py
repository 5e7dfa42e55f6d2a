"""The key stream of ChaCha20 in torch operations equals that of a cipher."""

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given
from hypothesis import strategies as st

from privfed.private_step.chacha import key_stream, nonce_after

CPU = torch.device("cpu")
SIGN = 1 << 31
END = 1 << 32
keys = st.binary(min_size=32, max_size=32)
nonces = st.binary(min_size=12, max_size=12)


def of_cipher(key, nonce, num_blocks):
    return Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(bytes(64 * num_blocks))


def of_torch(key, nonce, num_blocks):
    return key_stream(key, nonce, num_blocks, CPU).numpy().tobytes()


def counted(block, rest):
    return block.to_bytes(4, "little") + rest


def test_block_of_the_standard():
    """Golden: RFC 8439, section 2.3.2."""
    nonce = counted(1, bytes.fromhex("000000090000004a00000000"))
    assert of_torch(bytes(range(32)), nonce, 1).hex() == (
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )


blocks = st.integers(0, END - 80) | st.integers(SIGN - 80, SIGN + 80) | st.just(END - 80)


@given(key=keys, rest=nonces, block=blocks, num_blocks=st.integers(0, 80))
def test_blocks_equal_those_of_the_cipher(key, rest, block, num_blocks):
    nonce = counted(block, rest)
    assert of_torch(key, nonce, num_blocks) == of_cipher(key, nonce, num_blocks)


@pytest.mark.parametrize("block", [0, SIGN - 3, SIGN - 1, SIGN, END - 5])
def test_the_counter_passes_the_sign_of_its_word_and_reaches_its_end(block):
    nonce = counted(block, bytes(range(12)))
    assert of_torch(bytes([255]) * 32, nonce, 5) == of_cipher(bytes([255]) * 32, nonce, 5)


def test_words_are_64_bits_on_the_device():
    words = key_stream(bytes(32), bytes(16), 3, CPU)
    assert words.dtype == torch.int64
    assert words.device == CPU
    expected = np.frombuffer(of_cipher(bytes(32), bytes(16), 3), dtype="<u8")
    assert np.array_equal(words.numpy().view(np.uint64), expected)


@pytest.mark.parametrize(("block", "num_blocks"), [(END - 5, 6), (END - 1, 2), (0, END + 1)])
def test_a_counter_that_would_come_round_is_refused(block, num_blocks):
    with pytest.raises(ValueError, match=r"2\^32 blocks, got .*; go on under another key"):
        key_stream(bytes(32), counted(block, bytes(12)), num_blocks, CPU)


@given(rest=nonces, block=st.integers(0, END - 1), later=st.integers(0, END - 1))
def test_a_later_nonce_counts_on_or_is_refused(rest, block, later):
    if block + later < END:
        assert nonce_after(counted(block, rest), later) == counted(block + later, rest)
    else:
        with pytest.raises(OverflowError):
            nonce_after(counted(block, rest), later)


def test_a_later_nonce_gives_the_later_blocks():
    key, nonce = bytes(range(32)), counted(7, bytes(12))
    assert of_torch(key, nonce, 5)[3 * 64 :] == of_torch(key, nonce_after(nonce, 3), 2)
