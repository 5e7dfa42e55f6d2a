"""The key holder's loop: refusals are signed and name the reason, and the loop goes on."""

import hashlib
import io
import logging
import socket
import struct
import threading

import pytest

from privfed.errors import EncryptionError
from privfed.identity.keys import Role
from privfed.parties.key_holder import serving
from privfed.parties.key_holder.serving import answer, serve, serve_address
from privfed.protocol import streams
from privfed.protocol.envelopes import Envelope, Statement
from privfed.protocol.kinds import REFUSAL
from privfed.protocol.signing import require_signature
from privfed.settings.encryption import Custody
from tests.unit.privfed.small_federation import SmallFederation, updates


@pytest.fixture
def federation(tmp_path):
    return SmallFederation(Custody.KEY_HOLDER, tmp_path)


def replies(federation, *messages):
    """What comes out of the loop for these messages."""
    source, sink = io.BytesIO(), io.BytesIO()
    for message in messages:
        streams.send(source, message)
    source.seek(0)
    serve(federation.holder, federation.parties.key_holder, source, sink)
    sink.seek(0)
    received = []
    while (reply := streams.receive(sink)) is not None:
        envelope = Envelope.from_bytes(reply)
        require_signature(
            envelope.statement, envelope.signature, federation.roster, role=Role.KEY_HOLDER
        )
        received.append(envelope.statement)
    return received


def open_round(federation, round=1):
    return federation.signed(federation.terms(round), "open-round")


def with_manifest(text):
    """An unsigned message whose statement holds this JSON as a value."""
    raw = Statement(run="run", round=1, sender="c1", kind="k", manifest={"x": 1}).to_bytes()
    raw = raw.replace(b'"x":1', b'"x":' + text)
    return b"PRIVFED\x05" + raw + struct.pack("<I", len(raw)) + bytes(64)


def test_the_loop_goes_on_after_a_bad_message(federation):
    bad = [
        b"",
        b"x" * 1000,
        open_round(federation)[:-1],
        federation.signed(federation.terms(), "open-round", federation.parties.clients["c1"]),
        federation.signed(federation.terms(), "sum"),
        with_manifest(b"1"),
    ]
    statements = replies(federation, *bad, open_round(federation))
    assert [statement.kind for statement in statements] == ["refusal"] * 6 + ["round-key"]
    reasons = [statement.manifest["reason"] for statement in statements[:-1]]
    for reason, part in zip(
        reasons,
        (
            "must be a privfed envelope",
            "must be a privfed envelope",
            "MessageError",
            "enrolled as aggregator",
            "not open here",
            "enrolled as aggregator",
        ),
        strict=True,
    ):
        assert reason.startswith("MessageError: ")
        assert part in reason
    for statement, message in zip(statements, bad, strict=False):
        assert statement.manifest["of"] == hashlib.sha256(message).hexdigest()


@pytest.mark.parametrize("text", [b"NaN", b"1e999", b"[" * 100_000, b'"\\ud800"', b"9" * 5000])
def test_the_loop_goes_on_whatever_an_unsigned_message_holds(federation, text):
    """Nobody needs a key to send these."""
    statements = replies(federation, with_manifest(text), open_round(federation))
    assert [statement.kind for statement in statements] == ["refusal", "round-key"]


def test_the_loop_goes_on_after_an_error_that_nobody_foresaw(federation, monkeypatch, caplog):
    """Its words could be anything's, so they stay here."""

    def broken(message):
        raise RuntimeError("the secret is 42")

    with monkeypatch.context() as patch:
        patch.setattr(federation.holder, "receive", broken)
        reply = answer(federation.holder, federation.parties.key_holder, b"x")
    reason = Envelope.from_bytes(reply).statement.manifest["reason"]
    assert reason == "RuntimeError: see the key holder's log"
    assert "the secret is 42" in caplog.text
    assert [one.kind for one in replies(federation, open_round(federation))] == ["round-key"]


@pytest.mark.parametrize("stops", [KeyboardInterrupt, SystemExit])
def test_who_runs_it_can_stop_it(federation, monkeypatch, stops):
    def stopped(message):
        raise stops

    monkeypatch.setattr(federation.holder, "receive", stopped)
    with pytest.raises(stops):
        replies(federation, b"x")


def test_a_reason_has_a_limit(federation, monkeypatch):
    """Or a refusal could be too long to be read."""

    def refused(message):
        raise EncryptionError("x" * 5_000_000)

    monkeypatch.setattr(federation.holder, "receive", refused)
    (statement,) = replies(federation, b"m")
    assert statement.manifest["reason"] == "EncryptionError: " + "x" * (2000 - 17)


def test_no_reason_and_no_log_holds_a_number_of_an_update(federation, caplog):
    """A wrong sum, refused after all have answered: what is said names clients and no value."""
    opening = federation.begin()
    values = updates(federation.parameters, federation.names)
    uploads = federation.uploads(opening.terms, values)
    total = federation.total(opening.terms, uploads)
    changed = bytearray(Envelope.from_bytes(total).blobs["ciphertexts"])
    changed[0] ^= 1
    wrong = federation.changed(opening.terms, total, blobs={"ciphertexts": bytes(changed)})
    (current,) = federation.holder._rounds.values()
    with caplog.at_level(logging.DEBUG), pytest.raises(EncryptionError) as caught:
        federation.close(opening.terms, wrong, uploads)
    expected = "the sum is not that of the contributions of ['c1', 'c2', 'c3']"
    assert expected in str(caught.value)
    assert expected in caplog.text
    assert current.key.key_id not in str(caught.value) + caplog.text
    for text in (str(caught.value), caplog.text):
        assert not any(str(value) in text for value in values["c1"] if abs(value) > 99)


def test_a_refusal_says_which_message_it_is_of(federation):
    """So that an old refusal cannot stand for a new one."""
    reply = federation.ask(b"first")

    def replayed(message):
        return reply

    federation.ask = replayed
    with pytest.raises(Exception, match="refused another message"):
        federation.custodian.begin(federation.terms())


def test_a_stream_that_ends(federation):
    assert replies(federation) == []


def test_over_a_socket_one_after_the_other(federation, caplog):
    """A connection that breaks off costs that connection."""
    server = serve_address(federation.holder, federation.parties.key_holder, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with socket.create_connection(server.server_address) as broken:
            broken.sendall(b"\xff" * 8)
            assert broken.recv(1) == b""
        for message, kind in ((b"x", "refusal"), (open_round(federation), "round-key")):
            with (
                socket.create_connection(server.server_address) as connection,
                connection.makefile("rwb") as stream,
            ):
                streams.send(stream, message)
                assert Envelope.from_bytes(streams.receive(stream)).statement.kind == kind
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert "ended: a message must have at most" in caplog.text
    assert REFUSAL == "refusal"


@pytest.fixture
def address(federation):
    server = serve_address(federation.holder, federation.parties.key_holder, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_silent_stranger_does_not_keep_the_aggregator_out(federation, address):
    with (
        socket.create_connection(address),
        socket.create_connection(address, timeout=20) as connection,
        connection.makefile("rwb") as stream,
    ):
        streams.send(stream, open_round(federation))
        assert Envelope.from_bytes(streams.receive(stream)).statement.kind == "round-key"


def test_a_stranger_cannot_announce_much(address):
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(((1 << 20) + 1).to_bytes(8, "little"))
        assert connection.recv(1) == b""


def test_a_refused_stranger_is_disconnected(federation, address):
    with (
        socket.create_connection(address, timeout=20) as connection,
        connection.makefile("rwb") as stream,
    ):
        streams.send(stream, b"x")
        assert Envelope.from_bytes(streams.receive(stream)).statement.kind == "refusal"
        streams.send(stream, open_round(federation))
        assert streams.receive(stream) is None


def test_once_known_a_connection_may_send_a_sum_and_be_refused(federation, address):
    with (
        socket.create_connection(address, timeout=20) as connection,
        connection.makefile("rwb") as stream,
    ):
        for message, kind in (
            (open_round(federation), "round-key"),
            (b"x" * ((1 << 20) + 1), "refusal"),
            (open_round(federation), "round-key"),
        ):
            streams.send(stream, message)
            assert Envelope.from_bytes(streams.receive(stream)).statement.kind == kind


def test_one_key_holder_at_a_time_uses_a_results_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "_LOCK_ATTEMPTS", 3)
    with (
        serving.only_holder_of(tmp_path / "results"),
        pytest.raises(EncryptionError, match="another key holder uses"),
        serving.only_holder_of(tmp_path / "results"),
    ):
        pass
    with serving.only_holder_of(tmp_path / "results"):
        pass


def test_its_log_lies_beside_its_results_and_is_shown_nowhere(federation, tmp_path, capfd, caplog):
    """The key holder's process shares its standard error with the run that started it."""

    def broken(message):
        raise RuntimeError("the secret is 42")

    federation.holder.receive = broken
    (tmp_path / "results").mkdir(exist_ok=True)
    with serving.logged_in(tmp_path / "results"):
        answer(federation.holder, federation.parties.key_holder, b"x")
    assert "RuntimeError: the secret is 42" in (tmp_path / "results/key-holder.log").read_text()
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    answer(federation.holder, federation.parties.key_holder, b"x")
    assert len(caplog.records) == 1


def test_a_connection_that_fails_is_logged_and_not_printed(federation, address, monkeypatch, capfd):
    """As when a thread of the server meets what nobody foresaw."""
    failed = threading.Event()
    logged = []

    def broken(*arguments):
        raise RuntimeError("the secret is 42")

    def log(*arguments):
        logged.append(arguments)
        failed.set()

    monkeypatch.setattr(streams, "receive", broken)
    monkeypatch.setattr(serving.LOG, "exception", log)
    with socket.create_connection(address):
        assert failed.wait(20)
    assert "secret" not in "".join(capfd.readouterr())
    assert "connection from %s failed" in logged[0]


def test_closing_destroys_the_keys_of_open_rounds(federation):
    opening = federation.begin()
    assert opening.key is not None
    (current,) = federation.holder._rounds.values()
    federation.holder.close()
    assert not federation.holder._rounds
    with pytest.raises(EncryptionError, match="destroyed"):
        current.key.native()
