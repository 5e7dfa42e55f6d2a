"""The way to SEAL and back: contexts, versions, scratch files; and no generator is ever set."""

import ast
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from privfed.custody import native
from privfed.encryption import frames
from privfed.encryption.noise import COEFF_MODULUS, SPECIAL_MODULUS
from privfed.encryption.parameters import derive
from privfed.errors import EncryptionError, MessageError
from privfed.settings.encryption import Custody

ROOT = Path(__file__).parents[4]
PARAMETERS = derive(num_clients=3, bits=8, num_params=9, custody=Custody.SHARED_KEY)


def test_the_library_is_loaded_only_when_it_is_used():
    script = (
        "import sys\n"
        "import privfed.custody.keys, privfed.custody.bfv, privfed.parties.key_holder.key_holder\n"
        "import privfed.custody.shared_key, privfed.custody.round_key\n"
        "import privfed.parties.key_holder.serving\n"
        "assert not [name for name in sys.modules if 'tenseal' in name]\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=60)


# --- contexts


def test_the_context_is_the_one_computed_here():
    """Golden: t = 68623891046401 is the smallest batching prime above 40941^3."""
    context = native.bfv_context(68623891046401, special=False)
    first = context.first_context_data().parms()
    assert [prime.value() for prime in first.coeff_modulus()] == [COEFF_MODULUS]
    assert first.plain_modulus().value() == 68623891046401
    assert first.poly_modulus_degree() == 4096


def test_the_special_prime_is_there_for_keys_only():
    context = native.bfv_context(68623891046401, special=True)
    keys = context.key_context_data().parms().coeff_modulus()
    assert [prime.value() for prime in keys] == [COEFF_MODULUS, SPECIAL_MODULUS]
    first = context.first_context_data().parms().coeff_modulus()
    assert [prime.value() for prime in first] == [COEFF_MODULUS]


def test_a_library_that_chooses_other_primes(monkeypatch):
    monkeypatch.setattr(native, "COEFF_MODULUS", COEFF_MODULUS - 8192)
    with pytest.raises(EncryptionError, match="must choose the primes"):
        native.bfv_context.__wrapped__(PARAMETERS.plain_modulus, special=False)


def test_a_library_that_refuses_the_parameters():
    """A plaintext modulus that is no smaller than q."""
    with pytest.raises(EncryptionError, match="128-bit security"):
        native.bfv_context.__wrapped__(COEFF_MODULUS, special=False)


def test_a_library_that_names_parameters_otherwise(monkeypatch):
    monkeypatch.setattr(frames, "parms_id", lambda *arguments: bytes(32))
    with pytest.raises(EncryptionError, match="BLAKE2b digest"):
        native.bfv_context.__wrapped__(PARAMETERS.plain_modulus, special=False)


# --- versions


def test_the_versions_are_the_installed_ones():
    assert native.seal_version() == frames.SEAL_VERSION == (4, 3)
    assert native.software() == {"tenseal": "0.3.18", "seal": "4.3"}


@pytest.mark.parametrize(
    "theirs",
    [
        {"tenseal": "0.3.16", "seal": "4.3"},
        {"tenseal": "0.3.18", "seal": "4.1"},
        {"tenseal": "0.3.18"},
        {"tenseal": "0.3.18", "seal": "4.3", "more": ""},
        "0.3.18",
        None,
    ],
)
def test_other_software_is_refused_by_name(theirs):
    native.require_same_software(native.software(), "c2")
    with pytest.raises(EncryptionError) as caught:
        native.require_same_software(theirs, "c2")
    text = str(caught.value)
    assert "c2 runs" in text
    assert str(theirs) in text
    assert str(native.software()) in text


# --- what SEAL saves


@pytest.fixture
def object_saved():
    """A plaintext as SEAL saves it (zstd), and its length without compression."""
    plaintext = native.sealapi().Plaintext("1x^4095 + 2")
    with native.ScratchFile() as scratch:
        plaintext.save(scratch.path)
        compressed = scratch.read()
    return compressed, 16 + 32 + 8 + 8 + 16 + 8 + 8 * 4096


def test_taking_off_the_compression(object_saved):
    compressed, size = object_saved
    whole = native.uncompressed(compressed, size)
    assert len(whole) == size > len(compressed)
    assert frames.Header.from_bytes(whole).compression == frames.UNCOMPRESSED
    assert native.uncompressed(whole, size) is whole
    again = native.sealapi().Plaintext()
    with native.ScratchFile() as scratch:
        scratch.write(whole)
        again.load(native.bfv_context(PARAMETERS.plain_modulus, special=False), scratch.path)
    assert again.to_string() == "1x^4095 + 2"


def test_objects_that_are_not_whole(object_saved):
    compressed, size = object_saved
    for wrong in (compressed[:-1], compressed + b"\0", compressed[:15], b""):
        with pytest.raises(MessageError):
            native.uncompressed(wrong, size)
    for wrong in (size - 8, size + 8):
        with pytest.raises(MessageError, match="must unpack"):
            native.uncompressed(compressed, wrong)
    zlib = bytearray(compressed)
    zlib[5] = 1
    with pytest.raises(MessageError, match="got mode 1"):
        native.uncompressed(bytes(zlib), size)


# --- scratch files


@pytest.fixture(params=["anonymous memory", "a private folder"])
def kind(request, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if request.param == "a private folder":
        monkeypatch.setattr(native, "_anonymous_memory", lambda: None)
    return request.param


def test_what_is_written_is_read(kind):
    with native.ScratchFile() as scratch:
        for content in (b"secret" * 1000, b"short", b""):
            scratch.write(content)
            assert scratch.read() == content
            assert Path(scratch.path).read_bytes() == content


def test_nothing_is_left_behind(kind, monkeypatch, tmp_path):
    """Overwritten before it goes, also after an error."""
    last = []
    close = os.close

    def seen(descriptor):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            last.append(os.pread(descriptor, 100, 0))
        close(descriptor)

    before = tmp_path.stat().st_mtime_ns

    def fail():
        with native.ScratchFile() as scratch:
            scratch.write(b"secret")
            if kind == "a private folder":
                (folder,) = tmp_path.iterdir()
                assert folder.stat().st_mode & 0o777 == 0o700
                assert os.stat(scratch.path).st_mode & 0o777 == 0o600
            monkeypatch.setattr(os, "close", seen)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    monkeypatch.undo()
    assert bytes(6) in last
    assert not [content for content in last if b"secret" in content]
    assert list(tmp_path.iterdir()) == []
    assert (tmp_path.stat().st_mtime_ns == before) == (kind == "anonymous memory")


def test_a_scratch_file_outside_its_block(kind):
    with native.ScratchFile() as scratch:
        pass
    for use in (scratch.read, lambda: scratch.write(b"secret")):
        with pytest.raises(EncryptionError, match="inside its `with` block"):
            use()
    scratch.__exit__(None, None, None)


def test_a_write_that_is_cut(kind, monkeypatch):
    with native.ScratchFile() as scratch, monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *arguments: 3)
        with pytest.raises(EncryptionError, match="only 3 were written"):
            scratch.write(b"secret")


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is Linux's")
def test_linux_keeps_scratch_in_memory_that_children_do_not_inherit():
    with native.ScratchFile() as scratch:
        assert scratch.path.startswith("/dev/fd/")
        assert "memfd" in os.readlink(scratch.path)
        assert not os.get_inheritable(int(scratch.path.rpartition("/")[2]))


def test_memory_that_cannot_be_had(monkeypatch, tmp_path):
    def refused(name):
        raise OSError("not permitted")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "memfd_create", refused, raising=False)
    with native.ScratchFile() as scratch:
        assert scratch.path.startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


# --- randomness

# In pieces, or this file would name them itself.
FORBIDDEN = ("set_random" + "_generator", "random" + "_generator_factory", "PRNG" + "Factory")


def words_of(source):
    """Every name, attribute, import and string of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_no_generator_is_ever_set():
    """With a fixed seed SEAL repeats keys and ciphertexts, and reveals differences of messages."""
    files = [
        path
        for folder in ("privfed", "accountants", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert Path(native.__file__).name in {path.name for path in files}
    found = [
        (path.name, word)
        for path in files
        for word in words_of(path.read_text())
        for name in FORBIDDEN
        if name in word
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    ["a.{}(b)", "from tenseal.sealapi import {}", "getattr(seal, '{}')", "{} = 1", "x = 'a{}b'"],
)
def test_a_generator_that_is_set_would_be_found(source):
    for name in FORBIDDEN:
        assert any(name in word for word in words_of(source.format(name)))
