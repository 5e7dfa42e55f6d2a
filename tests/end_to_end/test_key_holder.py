"""Whole runs with a key holder: the same numbers, one decryption a round, nothing left over."""

import itertools
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from accountants import Budget
from privfed import BFV, Callback, LoRA, Plain
from privfed.cli import main
from privfed.cli.run_file import load_federation
from privfed.custody.round_key import RoundKeyCipher
from privfed.errors import (
    AwayError,
    ConfigError,
    EncryptionError,
    IdentityError,
    MessageError,
    TooFewClientsError,
)
from privfed.identity.enrolment import Enrolment
from privfed.identity.keys import Identity, Party, Role
from privfed.identity.roster import Roster
from privfed.parties.aggregator.collecting import Aggregator
from privfed.parties.client import node
from privfed.protocol.envelopes import Envelope
from privfed.protocol.kinds import CIPHERTEXTS
from privfed.protocol.links import AddressLink, ProcessLink
from privfed.settings.encryption import Custody
from privfed.storage.checkpoint import load_latest
from privfed.storage.run_folder import RunFolder
from privfed.storage.state_folder import results_folder

HELD = BFV(custody=Custody.KEY_HOLDER)


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


class States(Callback):
    """Collects the global adapter after every round, as the checkpoint holds it."""

    def __init__(self, folder):
        self.folder = folder
        self.states = []

    def on_round(self, record):
        self.states.append(load_latest(self.folder / "checkpoints").tensors["adapter"])


@pytest.fixture
def asked(monkeypatch):
    """What passes between aggregator and key holder: (kind asked, kind answered), in order."""
    kinds = []
    real = ProcessLink.ask

    def ask(self, message):
        reply = real(self, message)
        kinds.append(tuple(Envelope.from_bytes(m).statement.kind for m in (message, reply)))
        return reply

    monkeypatch.setattr(ProcessLink, "ask", ask)
    return kinds


@pytest.fixture
def received(monkeypatch):
    """(client, round) of every update that reached the aggregator."""
    seen = []
    real = Aggregator.receive

    def receive(self, message):
        statement = Envelope.from_bytes(message).statement
        seen.append((statement.sender, statement.round))
        real(self, message)

    monkeypatch.setattr(Aggregator, "receive", receive)
    return seen


@pytest.fixture
def holders(monkeypatch):
    """Process ids of all key holders that were started; at the end none may be there."""
    ids = []
    real = ProcessLink.__init__

    def started(self, **keywords):
        real(self, **keywords)
        ids.append(self.process_id)

    monkeypatch.setattr(ProcessLink, "__init__", started)
    yield ids
    assert ids, "no key holder was started: the test says nothing"
    for process_id in ids:
        with pytest.raises(ProcessLookupError):
            os.kill(process_id, 0)


ONE = LoRA(rank=2, target_modules=("query", "value"))
MANY = LoRA(rank=24, target_modules=("query", "key", "value"))


@pytest.mark.parametrize(
    ("adapter", "settings", "rule"),
    [
        (ONE, {"bits": 12}, "exactly for certain"),
        (MANY, {"bits": 14, "follow_released": True}, "at most 2^-128"),
    ],
)
def test_every_custody_gives_the_same_bits_in_every_round(
    make_federation, tmp_path, seeded_randomness, adapter, settings, rule
):
    """At the same randomness, both custodies decrypt exactly the plain sum of the same integers."""
    states, reports = {}, {}
    for name, encryption in {
        "plain": Plain(**settings),
        "shared": BFV(**settings),
        "held": BFV(custody=Custody.KEY_HOLDER, **settings),
    }.items():
        follow = States(tmp_path / name)
        federation = make_federation(
            encryption=encryption,
            adapter=adapter,
            randomness=seeded_randomness(3),
            rounds=2,
            state_folder=tmp_path / f"state-{name}",
        )
        reports[name] = federation.run(tmp_path / name, callbacks=[follow]).report
        states[name] = follow.states
    assert len(states["plain"]) == 2
    assert not np.array_equal(*states["plain"]), "a run that moves nothing says nothing"
    for name in ("shared", "held"):
        for found, expected in zip(states[name], states["plain"], strict=True):
            assert np.array_equal(found, expected), name
    assert rule in reports["held"].encryption.correctness
    assert "for certain" in reports["shared"].encryption.correctness


def test_the_report_says_who_holds_the_key_and_what_it_cost(make_federation, tmp_path):
    federation = make_federation(encryption=HELD, rounds=1)
    folder = tmp_path / "run"
    federation.run(folder)
    report = json.loads((folder / "report.json").read_text())
    section, (row,) = report["encryption"], report["rounds"]
    assert section["custody"].startswith("key_holder: a separate party and process")
    assert "key holder that colludes with the aggregator opens every" in section["consequence"]
    assert "destroyed after its one decryption" in section["keys"]
    assert "simulation" in section["identities"]
    base = section["base_model"]
    assert re.fullmatch("[0-9a-f]{64}", base)
    authority = Identity.load(tmp_path / "state/identities/authority.identity").party.signing_key
    (roster_file,) = (tmp_path / "state/identities").glob("roster-*.json")
    roster = Roster.load(roster_file, authority=authority)
    assert section["roster"] == roster.digest().hex()
    measured, params = section["measured"], section["parameters"]["num_params"]
    up = measured["upload_bytes"]
    assert up == pytest.approx(row["bytes_up"] / (4 * params), abs=1e-3)
    held = measured["key_holder_bytes"]
    assert held == pytest.approx(row["bytes_holder"] / params, abs=1e-3)
    assert row["bytes_holder"] > 0
    assert "seconds_clients" not in row
    assert 0 < row["seconds_aggregator"] < row["seconds"]
    assert 0 < row["seconds_opening"] < row["seconds"]
    assert any(
        "the key holder together with the aggregator" in view["observer"]
        for view in report["views"]
    )
    html = (folder / "report.html").read_text()
    for text in ("key_holder: a separate party", base, section["roster"]):
        assert text in html

    shared = make_federation(rounds=1, state_folder=tmp_path / "other").run(tmp_path / "shared")
    section = shared.report.encryption
    assert section.custody.startswith("shared_key: every client holds the secret key")
    assert "colludes with the aggregator opens every update" in section.consequence
    assert section.base_model == base, "the same model"
    assert section.measured.key_bytes > 0
    assert shared.rounds[0].bytes_holder == 0


class TestResume:
    """With randomness that repeat, a resumed run must end where one that was never killed ends."""

    @pytest.fixture
    def expected(self, make_federation, tmp_path, seeded_randomness):
        folder = tmp_path / "expected"
        plain = make_federation(
            encryption=Plain(), randomness=seeded_randomness(5), state_folder=tmp_path / "other"
        )
        plain.run(folder)
        return load_latest(folder / "checkpoints").tensors["adapter"]

    def finish(self, federation, folder, expected):
        result = federation.run(folder, resume=True)
        assert [row.round for row in result.rounds] == [1, 2, 3]
        assert all(len(row.clients) == 4 for row in result.rounds), "nothing may be lost"
        assert all((c.steps, c.unresolved) == (3 * 2, 0) for c in result.report.clients)
        assert np.array_equal(load_latest(folder / "checkpoints").tensors["adapter"], expected)
        return result

    def test_between_the_key_holders_result_and_the_checkpoint(
        self,
        make_federation,
        tmp_path,
        seeded_randomness,
        monkeypatch,
        asked,
        received,
        holders,
        expected,
    ):
        received.clear()
        federation = make_federation(encryption=HELD, randomness=seeded_randomness(5))
        real = RunFolder.save

        def save(self, checkpoint):
            if checkpoint.round == 2:
                raise Killed
            real(self, checkpoint)

        with monkeypatch.context() as patched:
            patched.setattr(RunFolder, "save", save)
            with pytest.raises(Killed):
                federation.run(tmp_path / "run")
        assert asked[-1] == ("answers", "result")
        (stored,) = results_folder(tmp_path / "state").rglob("*.result")
        kept = stored.read_bytes()
        before = len(asked), len(received)
        result = self.finish(federation, tmp_path / "run", expected)
        again = asked[before[0] :]
        assert again[0] == ("open-round", "result"), "it was decrypted; no second time"
        assert again[1:] == [
            ("open-round", "round-key"),
            ("sum", "challenge"),
            ("answers", "result"),
        ]
        assert {number for _, number in received[before[1] :]} == {3}, "round 2 is not sent again"
        assert result.rounds[1].bytes_down > 0
        assert stored.read_bytes() != kept, "the last result of the run is kept, and no other"
        assert len(list(results_folder(tmp_path / "state").rglob("*.result"))) == 1
        assert len(holders) == 2

    def test_in_the_middle_of_collecting(
        self, make_federation, tmp_path, seeded_randomness, monkeypatch, asked, holders, expected
    ):
        federation = make_federation(encryption=HELD, randomness=seeded_randomness(5))
        real, messages = Aggregator.receive, []

        def receive(self, message):
            messages.append(message)
            if len(messages) == 6:
                raise Killed
            real(self, message)

        monkeypatch.setattr(Aggregator, "receive", receive)
        with pytest.raises(Killed):
            federation.run(tmp_path / "run")
        assert asked[-1] == ("open-round", "round-key")
        before = len(asked)
        self.finish(federation, tmp_path / "run", expected)
        assert asked[before] == ("open-round", "round-key"), "the old key went with its process"
        statements = [Envelope.from_bytes(message).statement for message in messages]
        names = {(s.sender, s.round): [] for s in statements}
        for statement in statements:
            names[statement.sender, statement.round].append(statement.manifest["key_id"])
        assert len(names["client-0", 2]) == len(names["client-1", 2]) == 2
        assert all(len(set(ids)) == len(ids) for ids in names.values()), "each under a fresh key"
        assert len({digest for s in statements for _, _, digest in s.blobs}) == len(messages)


class TestTheKeyHoldersProcess:
    """The fixture `holders` checks, after each test, that none of them is left."""

    def test_it_is_another_one_and_is_gone_after_the_run(self, make_federation, tmp_path, holders):
        alive = []

        class Look(Callback):
            def on_round(self, record):
                os.kill(holders[-1], 0)
                alive.append(holders[-1])

        make_federation(encryption=HELD, rounds=2).run(tmp_path / "run", callbacks=[Look()])
        assert alive == [holders[0]] * 2
        assert holders[0] != os.getpid()

    @pytest.mark.parametrize("place", ["on_start", "on_client", "on_round"])
    def test_it_is_gone_after_a_failure(self, make_federation, tmp_path, holders, place):
        def fail(*arguments):
            raise Killed

        failing = Callback()
        setattr(failing, place, fail)
        with pytest.raises(Killed):
            make_federation(encryption=HELD, rounds=1).run(tmp_path / "run", callbacks=[failing])

    def test_it_is_gone_after_too_few_clients(
        self, make_federation, tmp_path, monkeypatch, holders, asked
    ):
        def fail(self, plan, state, start):
            raise RuntimeError

        monkeypatch.setattr(node.ClientNode, "update", fail)
        with pytest.raises(TooFewClientsError, match="0 contribution"):
            make_federation(encryption=HELD, rounds=1).run(tmp_path / "run")
        assert asked == [("open-round", "round-key")], "nothing was decrypted"

    def test_a_holder_that_dies_stops_the_run_and_a_resume_goes_on(
        self, make_federation, tmp_path, holders
    ):
        class Kill(Callback):
            def on_client(self, number, client):
                if (number, client) == (2, "client-2"):
                    os.kill(holders[-1], signal.SIGKILL)

        federation = make_federation(encryption=HELD)
        with pytest.raises(EncryptionError, match="the key holder's process"):
            federation.run(tmp_path / "run", callbacks=[Kill()])
        result = federation.run(tmp_path / "run", resume=True)
        assert [len(row.clients) for row in result.rounds] == [4, 4, 4]
        assert all((c.steps, c.unresolved) == (3 * 2, 0) for c in result.report.clients)

    def test_an_answer_that_is_missing_ends_the_round(
        self, make_federation, tmp_path, monkeypatch, holders, asked
    ):
        real = node.ClientNode.answer

        def answer(self, *arguments):
            if self.id == "client-1":
                raise RuntimeError("secret cause")
            return real(self, *arguments)

        monkeypatch.setattr(node.ClientNode, "answer", answer)
        with pytest.raises(AwayError, match="client-1 did not in round 1") as caught:
            make_federation(encryption=HELD, rounds=1).run(tmp_path / "run")
        assert "secret cause" not in str(caught.value)
        assert not list(results_folder(tmp_path / "state").rglob("*.result"))
        assert asked[-1] == ("sum", "challenge")


def test_a_changed_sum_is_not_decrypted(make_federation, tmp_path, monkeypatch, holders):
    """An aggregator that adds something of its own is told so, and gets no result."""
    from privfed.encryption.adding import CiphertextAdder

    real = CiphertextAdder.total

    def total(self):
        blobs = real(self)
        changed = bytearray(blobs[CIPHERTEXTS])
        changed[0] ^= 1
        return {**blobs, CIPHERTEXTS: bytes(changed)}

    monkeypatch.setattr(CiphertextAdder, "total", total)
    with pytest.raises(EncryptionError, match="the sum is not that of the contributions"):
        make_federation(encryption=HELD, rounds=1).run(tmp_path / "run")
    assert not list(results_folder(tmp_path / "state").rglob("*.result"))


def test_no_client_can_decrypt(make_federation, tmp_path, monkeypatch):
    """What a client's side of a run holds is a public key."""
    from privfed.custody.keys import PublicKey, SecretKey

    seen = []
    real = RoundKeyCipher.open

    def opened(self, terms, message):
        seen.extend(getattr(self, name) for name in vars(self))
        return real(self, terms, message)

    monkeypatch.setattr(RoundKeyCipher, "open", opened)
    make_federation(encryption=HELD, rounds=1).run(tmp_path / "run")
    flat = [part for value in seen for part in (value if isinstance(value, tuple) else (value,))]
    assert any(isinstance(part, PublicKey) for part in flat)
    assert not any(isinstance(part, SecretKey) for part in flat)


CONFIGURATION = """
seed = 3
[model]
task = "classification"
base = "{base}"
labels = ["sport", "money", "culture"]
max_length = 12
[data]
source = "notes.jsonl"
text = "note"
label = "topic"
dataset = "ward-notes"
held_out = 0.2
[data.partition]
rule = "column"
column = "ward"
[data.public_sizes]
east = 30
north = 30
west = 30
[privacy]
epsilon = 4.0
delta = 1e-3
neighbouring = "add_remove"
record = "one made-up sentence"
expected_batch_size = 10
[adapter]
kind = "lora"
rank = 1
target_modules = ["query"]
[training]
learning_rate = 0.5
[encryption]
custody = "{custody}"
{more}
[parties]
roster = "wards.roster"
authority = "{authority}"
identities = "identities"
[federation]
rounds = 1
device = "cpu"
"""
WARDS = ("east", "north", "west")


def privfed(*arguments):
    result = CliRunner().invoke(main.app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


class Enrolled:
    """Wards whose keys were made, and whose roster was signed, on the command line."""

    def __init__(self, folder, base, records):
        self.folder = folder
        self.base = base
        self.identities = folder / "identities"
        self.identities.mkdir()
        self.authority = self._authority("ministry")
        for name in WARDS:
            self.identity(name, "client")
        self.identity("relay", "aggregator")
        self.identity("vault", "key_holder")
        self.sign("ministry")
        topics = ("sport", "money", "culture")
        rows = [
            {"note": record.text, "topic": topics[record.label], "ward": WARDS[position % 3]}
            for position, record in enumerate(records)
        ]
        (folder / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def identity(self, name, role, folder=None):
        path = (folder or self.identities) / f"{name}.identity"
        privfed("roster", "identity", name, "--role", role, "--out", path)
        return path

    def _authority(self, name):
        path = self.identity(name, "authority", self.folder)
        return Party.from_bytes(path.with_name(f"{path.name}.party.json").read_bytes()).signing_key

    def sign(self, authority, *, without=()):
        out = self.folder / "wards.roster"
        out.unlink(missing_ok=True)
        names = sorted(self.identities.glob("*.party.json"))
        parties = [path for path in names if path.name.partition(".")[0] not in without]
        signer = self.folder / f"{authority}.identity"
        options = ["--federation", "wards", "--authority", signer, "--out", out]
        privfed("roster", "sign", *parties, *options)

    def load(self, custody="key_holder", authority=None, more=""):
        path = self.folder / "wards.toml"
        path.write_text(
            CONFIGURATION.format(
                base=self.base,
                custody=custody,
                authority=(self.authority if authority is None else authority).hex(),
                more=more,
            )
        )
        return load_federation(path, self.folder / "state")


@pytest.fixture
def enrolled(tmp_path, bert_folder, topic_records):
    return Enrolled(tmp_path, bert_folder, topic_records(120, seed=1))


class TestARealRoster:
    @pytest.mark.parametrize("custody", ["key_holder", "shared_key"])
    def test_it_works(self, enrolled, tmp_path, custody):
        result = enrolled.load(custody).run(tmp_path / "run")
        section = result.report.encryption
        assert result.rounds[0].clients == WARDS
        assert "read from identity files and a roster signed by its authority" in (
            section.identities
        )
        roster = Roster.load(tmp_path / "wards.roster", authority=enrolled.authority)
        assert section.roster == roster.digest().hex()
        assert not (tmp_path / "state/identities").exists(), "no keys are made beside those given"

    def test_who_is_enrolled_and_takes_no_part_gets_no_key(self, enrolled, tmp_path, monkeypatch):
        """The roster may list more clients than a run has; to its parties they are strangers."""
        from privfed.parties.client import upload

        enrolled.identity("south", "client")
        enrolled.sign("ministry")
        handed, stated = [], []
        share, receive = upload.share_secret, Aggregator.receive

        def shared(*arguments):
            handed.append(share(*arguments))
            return handed[-1]

        def received(self, message):
            stated.append(Envelope.from_bytes(message).statement.manifest["left_out"])
            receive(self, message)

        monkeypatch.setattr(upload, "share_secret", shared)
        monkeypatch.setattr(Aggregator, "receive", received)
        enrolled.load("shared_key").run(tmp_path / "run")
        assert sorted(Envelope.from_bytes(handed[0]).blobs) == ["north", "west"], "east made it"
        assert stated == [["south"]] * 3

    @pytest.fixture
    def refused(self, enrolled, tmp_path):
        """A function that runs and expects a refusal before anything is spent."""

        out = (tmp_path / f"run-{number}" for number in itertools.count())

        def run(error, match, **changes):
            with pytest.raises(error, match=match):
                enrolled.load(**changes).run(next(out))
            for path in (tmp_path / "state").rglob("ledger-2.sqlite3"):
                with sqlite3.connect(path) as connection:
                    kinds = connection.execute("select kind from entries").fetchall()
                connection.close()
                assert kinds == [("open",)]

        return run

    def test_another_authority_is_refused(self, enrolled, refused):
        enrolled._authority("impostor")
        enrolled.sign("impostor")
        refused(MessageError, "signed by the authority")

    def test_another_authority_in_the_configuration_is_refused(self, enrolled, refused):
        other = Identity.generate("impostor", Role.AUTHORITY).party.signing_key
        refused(MessageError, "signed by the authority", authority=other)
        refused(IdentityError, "public key must be 32 bytes", authority=bytes(32))
        refused(IdentityError, "public key must be 32 bytes", authority=b"")

    def test_a_swapped_key_is_refused(self, enrolled, refused):
        for written in enrolled.identities.glob("north.identity*"):
            written.unlink()
        enrolled.identity("north", "client")
        refused(IdentityError, "'north' must have the keys that the roster names")

    def test_two_exchanged_files_are_refused(self, enrolled, refused):
        north, west = (enrolled.identities / f"{name}.identity" for name in ("north", "west"))
        content = north.read_bytes(), west.read_bytes()
        west.write_bytes(content[0])
        north.write_bytes(content[1])
        refused(IdentityError, "must have the keys that the roster names")

    @pytest.mark.parametrize("name", ["east", "relay"])
    def test_a_missing_identity_is_refused(self, enrolled, refused, name):
        (enrolled.identities / f"{name}.identity").unlink()
        refused(IdentityError, rf"{name}\.identity")

    def test_a_missing_identity_of_the_key_holder_is_refused(self, enrolled, refused):
        (enrolled.identities / "vault.identity").unlink()
        refused((EncryptionError, IdentityError), "key holder|vault")

    @pytest.mark.parametrize(
        ("without", "named"),
        [("vault", "key holder"), ("relay", "aggregator"), ("west", "west")],
    )
    def test_a_party_that_is_not_enrolled_is_refused(self, enrolled, refused, without, named):
        enrolled.sign("ministry", without=(without,))
        refused((IdentityError, MessageError), named)

    def test_an_edited_roster_is_refused(self, enrolled, refused, tmp_path):
        path = tmp_path / "wards.roster"
        path.write_bytes(path.read_bytes().replace(b'"wards"', b'"words"'))
        refused(MessageError, "signature|changed")

    def test_an_open_identity_file_is_refused(self, enrolled, refused):
        (enrolled.identities / "east.identity").chmod(0o644)
        refused(IdentityError, "closed to everyone")


@pytest.fixture
def listening(enrolled, tmp_path):
    """Address of a key holder that was started on the command line; it outlives runs."""
    command = [sys.executable, "-m", "privfed", "key-holder", "--listen", "127.0.0.1:0"]
    command += ["--identity", str(enrolled.identities / "vault.identity")]
    command += ["--roster", str(tmp_path / "wards.roster")]
    command += ["--authority", str(tmp_path / "ministry.identity.party.json")]
    command += ["--results", str(tmp_path / "results")]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    try:
        line = process.stderr.readline().decode()
        yield re.search(r"key holder vault listens on (127\.0\.0\.1:\d+)", line)[1]
        assert process.poll() is None, "a run must not end a key holder that it did not start"
    finally:
        process.terminate()
        try:
            out, errors = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            # What is left over would fail the tests that come after.
            process.kill()
            process.communicate()
            raise
    assert process.returncode == 128 + signal.SIGTERM
    assert (out, errors) == (b"", b"privfed: stopped\n")


class TestAKeyHolderAtAnAddress:
    def test_it_serves_one_run_after_another(self, enrolled, tmp_path, listening):
        for name in ("a", "b"):
            federation = enrolled.load(more=f'key_holder = "{listening}"')
            small = replace(federation.privacy, budget=Budget(epsilon=1.0, delta=1e-3))
            federation = replace(federation, privacy=small, state_folder=tmp_path / name)
            result = federation.run(tmp_path / f"run-{name}")
            assert result.rounds[0].clients == WARDS
            assert result.rounds[0].bytes_holder > 0
        assert len(list((tmp_path / "results").glob("*.result"))) == 2
        assert not results_folder(tmp_path / "a").exists()

    def test_its_own_minimum_counts(self, enrolled, tmp_path, listening, monkeypatch):
        """A run cannot talk it into fewer clients than it was started with."""
        monkeypatch.setattr(
            "privfed.parties.aggregator.collecting.Aggregator._check_ledger", lambda *a: None
        )
        real = node.ClientNode.encrypt

        def encrypt(self, *arguments):
            if self.id == "east":
                raise RuntimeError
            return real(self, *arguments)

        monkeypatch.setattr(node.ClientNode, "encrypt", encrypt)
        monkeypatch.setattr("privfed.run_settings.check_clients", lambda *a: [])
        federation = enrolled.load(more=f'key_holder = "{listening}"')
        with pytest.raises(EncryptionError, match="3 to 3 contributors, got 2"):
            replace(federation, min_clients=2).run(tmp_path / "run")

    def test_nobody_there_is_one_clear_error(self, enrolled, tmp_path):
        federation = enrolled.load(more='key_holder = "127.0.0.1:1"')
        with pytest.raises(ConfigError, match=r"must listen at 127\.0\.0\.1:1.*start `privfed key"):
            federation.run(tmp_path / "run")

    def test_a_stranger_there_is_refused(self, enrolled, tmp_path):
        """Another key holder, with a roster of its own, answers with what the roster refuses."""
        from threading import Thread

        from privfed.parties.key_holder.key_holder import KeyHolder
        from privfed.parties.key_holder.serving import serve_address

        own = Identity.generate("vault", Role.KEY_HOLDER)
        authority = Identity.generate("impostor", Role.AUTHORITY)
        roster = Roster.load(tmp_path / "wards.roster", authority=enrolled.authority)
        others = [party for party in roster.parties if party.role is not Role.KEY_HOLDER]
        theirs = Roster.signed("wards", [*others, own.party], authority)
        holder = KeyHolder(own, theirs, tmp_path / "results")
        with serve_address(holder, own, "127.0.0.1", 0) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            port = server.server_address[1]
            with pytest.raises(MessageError, match="vault"):
                enrolled.load(more=f'key_holder = "127.0.0.1:{port}"').run(tmp_path / "run")
            server.shutdown()

    def test_the_link_is_closed_after_a_failure(self, enrolled, tmp_path, listening, monkeypatch):
        """The next run gets through, which it would not while the first holds the connection."""
        federation = enrolled.load(more=f'key_holder = "{listening}"')
        closed = []
        real = AddressLink.close
        monkeypatch.setattr(AddressLink, "close", lambda self: (closed.append(1), real(self)))

        class Fail(Callback):
            def on_client(self, number, client):
                raise Killed

        with pytest.raises(Killed):
            federation.run(tmp_path / "run", callbacks=[Fail()])
        assert closed
        began = time.perf_counter()
        result = federation.run(tmp_path / "run", resume=True)
        assert time.perf_counter() - began < 30
        assert result.rounds[0].clients == WARDS


def test_the_enrolment_of_a_federation_is_what_the_configuration_says(enrolled, tmp_path):
    assert enrolled.load().enrolment == Enrolment(
        roster=tmp_path / "wards.roster",
        authority=enrolled.authority.hex(),
        identities=tmp_path / "identities",
    )


def test_every_message_names_the_settings_that_its_sender_trains_under(
    make_federation, tmp_path, monkeypatch
):
    """A client with another learning rate or weight than the rest states other terms."""
    stated = []
    real = Aggregator.receive

    def receive(self, message):
        stated.append(Envelope.from_bytes(message).statement.manifest["agreement"])
        real(self, message)

    monkeypatch.setattr(Aggregator, "receive", receive)
    federation = make_federation(rounds=1, encryption=BFV())
    training = replace(federation.training, learning_rate=federation.training.learning_rate / 2)
    for name, other in (
        ("a", federation),
        ("b", replace(federation, state_folder=tmp_path / "again")),
        ("c", replace(federation, training=training, state_folder=tmp_path / "c")),
    ):
        other.run(tmp_path / name)
    assert len(stated) == 3 * len(federation.clients)
    per_run = [stated[start] for start in range(0, len(stated), len(federation.clients))]
    assert per_run[0] == per_run[1] != per_run[2]
