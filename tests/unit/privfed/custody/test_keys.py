"""Secret keys: they decrypt, they travel wrapped, and they show themselves to nobody."""

import copy
import logging
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from privfed.custody import bfv
from privfed.custody.keys import (
    PublicKey,
    RoundKey,
    SecretKey,
    SharedSecret,
    holder_context,
    native_context,
    shared_context,
)
from privfed.encryption import frames
from privfed.encryption.bitpacking import pack_rows
from privfed.encryption.noise import COEFF_MODULUS, SPECIAL_MODULUS
from privfed.encryption.parameters import derive
from privfed.errors import EncryptionError, MessageError
from privfed.settings.encryption import Custody

SHARED = derive(num_clients=3, bits=8, num_params=9, custody=Custody.SHARED_KEY)
HELD = derive(num_clients=3, bits=8, num_params=9, custody=Custody.KEY_HOLDER)
SHAPE = frames.ciphertext_shape(SHARED)
SLOTS = np.arange(4096, dtype=np.uint64)[None]


def shared():
    return SharedSecret.generate(shared_context(SHARED), SHAPE)


def read(content):
    return SharedSecret.from_bytes(content, shared_context(SHARED), SHAPE)


MAKERS = pytest.mark.parametrize(
    "make", [shared, lambda: RoundKey.generate(HELD)], ids=["shared", "round"]
)


def test_a_shared_secret_survives_its_bytes():
    made = shared()
    content = made.to_bytes()
    assert len(content) == 16 + 32 + 4096 * 60 // 8
    again = read(content)
    assert (again.key_id, again.tag_key) == (made.key_id, made.tag_key)
    assert again.to_bytes() == content
    c0, seeds = bfv.encrypt_seeded(made, SLOTS, SHARED)
    assert np.array_equal(bfv.decrypt_seeded(again, c0, seeds[None], SHARED), SLOTS)


def test_bytes_that_are_no_secret():
    content = shared().to_bytes()
    for wrong in (content[:-1], content + b"\0", b""):
        with pytest.raises(MessageError, match="length") as caught:
            read(wrong)
        assert wrong.hex()[:32] not in str(caught.value) or not wrong
    above = np.full((1, 4096), COEFF_MODULUS, dtype=np.uint64)
    with pytest.raises(MessageError, match="below") as caught:
        read(content[:48] + pack_rows(above, 60).tobytes())
    assert content[16:48].hex() not in str(caught.value)


def test_a_round_keys_public_part():
    key = RoundKey.generate(HELD)
    content = key.public_bytes()
    assert len(content) == 2 * 4096 * (60 + 20) // 8
    c0, c1 = bfv.encrypt_public(PublicKey.from_bytes(content, HELD), SLOTS)
    assert np.array_equal(bfv.decrypt_full(key, c0, c1, HELD), SLOTS)


def test_bytes_that_are_no_public_key():
    content = RoundKey.generate(HELD).public_bytes()
    for wrong in (content[:-1], content + b"\0", b""):
        with pytest.raises(MessageError, match="bytes"):
            PublicKey.from_bytes(wrong, HELD)
    large = 4096 * 60 // 8
    half = len(content) // 2
    above = pack_rows(np.full((1, 4096), COEFF_MODULUS, dtype=np.uint64), 60).tobytes()
    special = pack_rows(np.full((1, 4096), SPECIAL_MODULUS, dtype=np.uint64), 20).tobytes()
    for start in (0, half):
        for place, value, prime in (
            (start, above, COEFF_MODULUS),
            (start + large, special, SPECIAL_MODULUS),
        ):
            wrong = content[:place] + value + content[place + len(value) :]
            with pytest.raises(MessageError, match=f"below {prime}"):
                PublicKey.from_bytes(wrong, HELD)


def test_contexts_of_the_two_custodies():
    assert native_context(SHARED) is shared_context(SHARED)
    assert native_context(HELD) is holder_context(HELD)
    assert shared_context(HELD) is not holder_context(HELD)


# --- what keys show


@MAKERS
def test_a_key_shows_only_its_name(make, caplog):
    key = make()
    assert repr(key) == str(key) == f"{key}" == f"{type(key).__name__}(key_id={key.key_id!r})"
    assert len(bytes.fromhex(key.key_id)) == 16
    assert key.key_id != make().key_id
    assert not hasattr(key, "__dict__")
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").warning("%s %r", key, [key])
    assert caplog.messages == [f"{key!r} [{key!r}]"]


@MAKERS
def test_a_key_is_not_copied(make):
    key = make()
    leaks = [copy.copy, copy.deepcopy, lambda key: copy.deepcopy({"key": [key]})]
    leaks += [
        lambda key, protocol=protocol: pickle.dumps(key, protocol)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ]
    for leak in leaks:
        with pytest.raises(EncryptionError, match="pickled or copied"):
            leak(key)


@pytest.mark.parametrize("kind", [SecretKey, SharedSecret, RoundKey])
def test_a_key_is_made_by_generate_only(kind):
    with pytest.raises(TypeError, match="generate"):
        kind()


def test_two_keys_share_nothing():
    first, second = shared().to_bytes(), shared().to_bytes()
    for part in (slice(0, 16), slice(16, 48), slice(48, None)):
        assert first[part] != second[part]
    assert RoundKey.generate(HELD).public_bytes() != RoundKey.generate(HELD).public_bytes()


# --- what is left of them


def test_a_destroyed_shared_secret_does_nothing():
    key = shared()
    c0, seeds = bfv.encrypt_seeded(key, SLOTS, SHARED)
    assert not key.destroyed
    key.destroy()
    key.destroy()
    assert key.destroyed
    assert key.key_id in repr(key)
    for use in (
        lambda: bfv.encrypt_seeded(key, SLOTS, SHARED),
        lambda: bfv.decrypt_seeded(key, c0, seeds[None], SHARED),
        lambda: key.tag_key,
        key.to_bytes,
        key.native,
    ):
        with pytest.raises(EncryptionError, match="destroyed"):
            use()
    assert key._secret is None
    assert key._tag_key == b""


def test_a_destroyed_round_key_does_nothing():
    key = RoundKey.generate(HELD)
    polynomials = bfv.encrypt_public(PublicKey.from_bytes(key.public_bytes(), HELD), SLOTS)
    key.destroy()
    key.destroy()
    assert key.destroyed
    for use in (
        key.public_bytes,
        key.native,
        lambda: bfv.decrypt_full(key, *polynomials, HELD),
    ):
        with pytest.raises(EncryptionError, match="destroyed"):
            use()
    assert key._secret is None
    assert key._generator is None


WATCHED = """
import os, sys, time
from pathlib import Path
import numpy as np
sys.path[:0] = {path!r}
import tenseal.sealapi
from privfed.settings.encryption import Custody
from tests.unit.privfed.small_federation import SmallFederation, updates
def state():
    return [(path, os.stat(path).st_mtime_ns) for path in sorted(Path(".").rglob("*"))]
Path("results").mkdir()
before = state()
assert len(before) == 5
for custody in Custody:
    federation = SmallFederation(custody, Path("results"))
    opening = federation.begin()
    uploads = federation.uploads(opening.terms, updates(federation.parameters, federation.names))
    total = federation.total(opening.terms, uploads)
    if custody is Custody.SHARED_KEY:
        federation.ciphers["c1"].open(opening.terms, total)
    assert state() == before, state()
(Path("tmp") / "seen").touch()
assert state() != before
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere keys pass a private folder")
def test_making_and_using_keys_writes_no_file(tmp_path):
    """Not for a moment: a folder in which a file came and went has another time."""
    folders = {name: str(tmp_path / name) for name in ("home", "state", "tmp", "cache")}
    for folder in folders.values():
        os.mkdir(folder)
    environment = os.environ | {
        "HOME": folders["home"],
        "PRIVFED_STATE": folders["state"],
        "TMPDIR": folders["tmp"],
        "XDG_CACHE_HOME": folders["cache"],
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    root = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))
    script = WATCHED.format(path=[*filter(None, sys.path), root])
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
