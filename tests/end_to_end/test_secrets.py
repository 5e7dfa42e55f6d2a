"""No secret of a run lies on a disk, in a log or in a message; identity files hold their own only.

The test learns the secrets by watching them being made. It searches every file below the test's
folder while the run goes on and after it, whatever is printed, and whatever passes between parties.
"""

import base64
import logging
import os
import sys
import tempfile
import traceback
import warnings

import pyarrow
import pytest

from privfed import BFV, Callback, Computation, Record
from privfed.custody.keys import RoundKey, SharedSecret
from privfed.custody.native import ScratchFile
from privfed.encryption.frames import HEADER_BYTES, ZSTD, Header
from privfed.engines import stacked, wiring
from privfed.engines.play import Play
from privfed.errors import DataError
from privfed.identity.keys import Identity
from privfed.identity.roster import Roster
from privfed.parties.client import joining, node, upload
from privfed.parties.client.node import ClientNode
from privfed.parties.key_holder import key_holder
from privfed.parties.key_holder.key_holder import KeyHolder
from privfed.parties.key_holder.serving import answer
from privfed.private_step.batches import num_rows
from privfed.settings.encryption import Custody

PIECE = 24
"""Bytes of a pattern: so long that other data do not hold it by chance."""


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


def forms(secret):
    """Bytes in the forms in which a careless program would write them."""
    return {secret, secret.hex().encode(), base64.b64encode(secret), repr(secret).encode()}


def pieces(content):
    """Parts of a long secret: from its middle, and its end."""
    places = [len(content) // 3, len(content) // 2, len(content) - PIECE]
    return {content[start : start + PIECE] for start in places}


def native_patterns(key):
    """Of a SEAL secret key, as SEAL saves it and as it lies in memory."""
    _, secret = key.native()
    with ScratchFile() as scratch:
        secret.save(scratch.path)
        saved = scratch.read()
    found = pieces(saved)
    if Header.from_bytes(saved).compression == ZSTD:
        body = pyarrow.BufferReader(saved[HEADER_BYTES:])
        with pyarrow.CompressedInputStream(body, "zstd") as stream:
            found |= pieces(stream.read())
    return found


def shared_patterns(secret):
    """Of what the clients share: the key of the tags, and the residues as they are wrapped."""
    content = secret.to_bytes()
    assert content[16:48] == secret.tag_key
    return forms(content[16:48]) | pieces(content[48:])


class Watched:
    """The secrets that were made, and everything that was shown to somebody."""

    def __init__(self, folder):
        self.folder = folder
        self.patterns = {}
        self.searches = 0
        self.shown = []

    def learn(self, name, patterns):
        assert all(len(pattern) >= PIECE for pattern in patterns)
        self.patterns.setdefault(name, set()).update(patterns)

    def learn_identities(self):
        """Secret halves of every identity file below the folder."""
        for path in self.folder.rglob("*.identity"):
            identity = Identity.load(path)
            for half in (identity._signing, identity._wrapping):
                self.learn(path, forms(half.private_bytes_raw()))

    def search(self):
        self.learn_identities()
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        assert not [path for path in files if path.suffix == ".key"]
        contents = {path: path.read_bytes() for path in files}
        contents["what was shown"] = b"\n".join(self.shown)
        for owner, patterns in self.patterns.items():
            for place, content in contents.items():
                if place != owner:
                    found = [pattern for pattern in patterns if pattern in content]
                    assert not found, f"a secret of {owner} lies in {place}"
        self.searches += 1


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Watches the making of keys, and all messages; temporary files lie below the folder too."""
    seen = Watched(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    make_shared, make_round = SharedSecret.generate.__func__, RoundKey.generate.__func__

    def shared(cls, *arguments):
        secret = make_shared(cls, *arguments)
        seen.learn(f"key {secret.key_id}", shared_patterns(secret) | native_patterns(secret))
        return secret

    def of_round(cls, parameters):
        key = make_round(cls, parameters)
        seen.learn(f"key {key.key_id}", native_patterns(key))
        return key

    monkeypatch.setattr(SharedSecret, "generate", classmethod(shared))
    monkeypatch.setattr(key_holder.RoundKey, "generate", classmethod(of_round))
    exchange, share = Play.exchange, upload.share_secret

    def exchanged(self, messages):
        replies = exchange(self, messages)
        seen.shown.extend([*set(messages.values()), *replies.values()])
        return replies

    def handed_out(*arguments):
        message = share(*arguments)
        seen.shown.append(message)
        return message

    monkeypatch.setattr(Play, "exchange", exchanged)
    monkeypatch.setattr(upload, "share_secret", handed_out)

    class HolderHere:
        """The key holder in this process, since the secrets of another cannot be watched."""

        def __init__(self, *, identity, roster, authority, results, min_clients):
            self._own = Identity.load(identity)
            enrolled = Roster.load(roster, authority=bytes.fromhex(authority))
            self._holder = KeyHolder(self._own, enrolled, results, min_clients)

        def ask(self, message):
            reply = answer(self._holder, self._own, message)
            seen.shown.extend([message, reply])
            return reply

        def close(self):
            pass

    monkeypatch.setattr(wiring, "ProcessLink", HolderHere)
    return seen


@pytest.mark.parametrize("custody", list(Custody))
def test_a_secret_is_nowhere_at_any_time(
    make_federation, tmp_path, watched, monkeypatch, capfd, custody
):
    """Also with a client that fails, and over a kill and a resume."""

    class Search(Callback):
        def on_start(self, *arguments):
            watched.search()

        def on_client(self, number, client):
            watched.search()

        def on_round(self, record):
            watched.search()
            if record.round == 2 and killing:
                raise Killed

    real = ClientNode.encrypt

    def encrypt(self, terms, codec):
        if self.id == "client-3":
            raise RuntimeError(f"{self!r} {self.identity!r} {codec!r} {terms!r}")
        return real(self, terms, codec)

    monkeypatch.setattr(ClientNode, "encrypt", encrypt)
    federation = make_federation(encryption=BFV(custody=custody))
    killing = True
    with pytest.raises(Killed):
        federation.run(tmp_path / "run", callbacks=[Search()])
    killing = False
    federation.run(tmp_path / "run", resume=True, callbacks=[Search()])
    printed = capfd.readouterr()
    watched.shown.extend([printed.out.encode(), printed.err.encode()])
    watched.search()
    assert watched.searches == 2 + 3 * (4 + 1) + 1
    names = [name for name in watched.patterns if str(name).startswith("key ")]
    assert len(names) == (2 if custody is Custody.SHARED_KEY else 3)
    identities = 4 + 2 + (custody is Custody.KEY_HOLDER)
    assert len(watched.patterns) == len(names) + identities
    log = (tmp_path / "state/clients/client-3/topics/client.log").read_text()
    assert "RuntimeError" in log, "what goes wrong is logged, so the log could show something"
    assert len(watched.shown) > 9
    assert not list((tmp_path / "temporary").iterdir())


def test_the_search_would_find_each_of_them(make_federation, tmp_path, watched):
    """A secret that is planted in a file, in any of its forms, is found."""
    make_federation(rounds=1).run(tmp_path / "run")
    watched.search()
    planted = tmp_path / "run/planted"
    for owner, patterns in watched.patterns.items():
        for pattern in patterns:
            planted.write_bytes(b"before" + pattern + b"after")
            with pytest.raises(AssertionError, match="lies in"):
                watched.search()
        assert patterns, owner
    planted.unlink()
    watched.search()


def test_updates_lie_in_clear_on_their_clients_own_disk_only(make_federation, tmp_path, watched):
    """The committed numbers stay in the ledger's file; nobody is shown them."""
    import sqlite3

    make_federation(rounds=1).run(tmp_path / "run")
    for path in (tmp_path / "state/clients").rglob("ledger-2.sqlite3"):
        connection = sqlite3.connect(path)
        ((payload,),) = connection.execute("select payload from outbox").fetchall()
        connection.close()
        watched.learn(path, {payload[:32], *pieces(payload[40:])})
    assert len([name for name in watched.patterns if "ledger" in str(name)]) == 4
    watched.search()


MARK = "patient Smith"
PANIC = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
"""What a panic in Rust is in Python, as those of tokenizers, which quote the text."""


def quote(kind):
    """What code may do to private text: warn of it, log it, print it, and fail."""
    warnings.warn(f"warned of {MARK}", UserWarning, stacklevel=1)
    logging.getLogger("some.library").error("logged %s", MARK)
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        print("printed", MARK, file=stream)
        os.write(descriptor, f"written {MARK}".encode())
    raise kind(f"cannot train on {MARK!r}")


def full(path):
    path.symlink_to("/dev/full")


def folder(path):
    path.mkdir()


def below_a_file(path):
    path.with_name("file").touch()
    path.symlink_to("file/client.log")


class TestPrivateText:
    """Whatever fails over it, wherever the log lies: it is in its clients' own files only."""

    @pytest.fixture
    def quoting(self, make_federation, tmp_path):
        """A function that makes a federation of which two clients hold the marked text."""

        def make(**changes):
            federation = make_federation(num_clients=6, rounds=2, **changes)
            for client in federation.clients[:2]:
                object.__setattr__(client, "records", (Record(MARK, 1), *client.records))
            return federation

        return make

    @pytest.fixture
    def search(self, tmp_path, capfd, caplog, recwarn, watched):
        """A function that searches everything that is not a client's own."""

        def searched():
            own = tmp_path / "state/clients"
            files = [p for p in tmp_path.rglob("*") if p.is_file() and own not in p.parents]
            assert tmp_path / "run/.lock" in files
            places = {path: path.read_bytes() for path in files}
            printed = capfd.readouterr()
            places |= {"out": printed.out.encode(), "errors": printed.err.encode()}
            places["warnings"] = repr([str(each.message) for each in recwarn.list]).encode()
            places["logs of others"] = caplog.text.encode()
            places["messages"] = b"".join(watched.shown)
            assert not [place for place, content in places.items() if MARK.encode() in content]
            return printed.err

        return searched

    @pytest.mark.parametrize(
        ("kind", "break_log", "together"),
        [
            (ValueError, None, 2),
            (ValueError, full, 1),
            (OSError, folder, 2),
            (PANIC, below_a_file, 1),
        ],
    )
    def test_it_is_nowhere_else_when_training_fails(
        self, quoting, search, tmp_path, monkeypatch, kind, break_log, together
    ):
        train_one, train_many = node.train_round, stacked.train_stacked

        def one(model, encoded, *arguments, **keywords):
            if num_rows(encoded) in counts:
                quote(kind)
            return train_one(model, encoded, *arguments, **keywords)

        def many(model, rounds):
            if any(num_rows(each.encoded) in counts for each in rounds):
                quote(kind)
            return train_many(model, rounds)

        monkeypatch.setattr(node, "train_round", one)
        monkeypatch.setattr(stacked, "train_stacked", many)
        logs = [tmp_path / f"state/clients/client-{i}/topics/client.log" for i in range(2)]
        for log in logs if break_log else ():
            log.parent.mkdir(parents=True, mode=0o700)
            break_log(log)
        federation = quoting(computation=Computation(stacked_clients=together))
        counts = {len(client.records) for client in federation.clients[:2]}
        assert not counts & {len(client.records) for client in federation.clients[2:]}
        result = federation.run(tmp_path / "run")
        assert {row.absent for row in result.rounds} == {("client-0", "client-1")}
        told = search()
        if break_log is None:
            assert "cannot be written" not in told
            for log in logs:
                assert "cannot train on 'patient Smith'" in log.read_text()
                assert "warned of patient Smith" in log.read_text()
            assert "printed patient Smith" in logs[0].read_text()
        else:
            assert told.count("cannot be written") == 2, "once for each of them"

    @pytest.mark.parametrize("break_log", [None, full])
    def test_it_is_nowhere_else_when_it_cannot_be_encoded(
        self, quoting, search, tmp_path, monkeypatch, break_log
    ):
        real = joining.usable_records

        def prepare(model, records, *sizes):
            if records[0].text == MARK:
                quote(ValueError)
            return real(model, records, *sizes)

        monkeypatch.setattr(joining, "usable_records", prepare)
        log = tmp_path / "state/clients/client-0/topics/client.log"
        if break_log:
            log.parent.mkdir(parents=True, mode=0o700)
            break_log(log)
        with pytest.raises(DataError, match="the cause is in its own log, .*") as caught:
            quoting().run(tmp_path / "run")
        assert MARK not in "".join(traceback.format_exception(caught.value))
        assert str(caught.value).endswith(str(log))
        search()
        if break_log is None:
            assert "cannot train on 'patient Smith'" in log.read_text()
