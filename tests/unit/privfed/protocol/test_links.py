"""A key holder in a process of its own or at an address: what is asked is answered, or told why."""

import os
import socket
import subprocess
import threading
import time
from contextlib import closing

import pytest

from privfed.encryption.parameters import derive
from privfed.errors import ConfigError, EncryptionError
from privfed.identity.keys import Role
from privfed.parties.aggregator.openers import HolderOpens
from privfed.parties.key_holder.key_holder import KeyHolder
from privfed.parties.key_holder.serving import serve_address
from privfed.protocol import streams
from privfed.protocol.envelopes import Envelope
from privfed.protocol.links import AddressLink, ProcessLink, parse_address
from privfed.protocol.signing import verified
from privfed.protocol.terms import Terms
from privfed.settings.encryption import Custody

PARAMETERS = derive(num_clients=4, bits=8, num_params=6, custody=Custody.KEY_HOLDER)


@pytest.fixture
def agreed(company):
    manifest = {"encryption": PARAMETERS.to_json(), "roster": company.roster.digest().hex()}
    return Terms(run="run-1", round=1, manifest=manifest)


@pytest.fixture
def process_link(company, tmp_path):
    """A function that starts a key holder; all are ended with the test."""
    company.identities["key_holder"].save(tmp_path / "holder.identity")
    company.roster.save(tmp_path / "roster.json")
    links = []

    def start(**changes):
        settings = {
            "identity": tmp_path / "holder.identity",
            "roster": tmp_path / "roster.json",
            "authority": company.roster.authority.hex(),
            "results": tmp_path / "results",
            "min_clients": 3,
        }
        links.append(ProcessLink(**settings | changes))
        return links[-1]

    yield start
    for link in links:
        link.close()


def is_running(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def round_key(company, link, agreed):
    """The verified round key that a link's key holder makes."""
    opening = HolderOpens(link, company.identities["aggregator"], company.roster).begin(agreed)
    return verified(
        opening.key, company.roster, role=Role.KEY_HOLDER, kind="round-key", terms=agreed
    )


def test_a_process_answers_until_it_is_closed(company, agreed, process_link):
    link = process_link()
    assert is_running(link.process_id)
    assert link.process_id != os.getpid()
    keys = {bytes(round_key(company, link, agreed).blobs["public_key"]) for _ in range(2)}
    assert len(keys) == 2
    refusal = Envelope.from_bytes(link.ask(b"no envelope")).statement
    assert refusal.kind == "refusal"
    assert "MessageError" in refusal.manifest["reason"]
    assert round_key(company, link, agreed)
    link.close()
    assert not is_running(link.process_id)
    with pytest.raises(EncryptionError, match=r"closed file \(exit status 0\)"):
        link.ask(b"more")
    link.close()


@pytest.mark.parametrize("size", [10, 1 << 20])
def test_a_process_that_cannot_start_is_told_of(process_link, tmp_path, capfd, size):
    """Whether the question still goes into the pipe or not."""
    link = process_link(identity=tmp_path / "nothing.identity")
    with pytest.raises(EncryptionError) as caught:
        link.ask(bytes(size))
    assert "the key holder's process must answer" in str(caught.value)
    assert "exit status 1" in str(caught.value)
    assert "with resume" in str(caught.value)
    assert "nothing.identity" in capfd.readouterr().err.replace("\n", "")
    with pytest.raises(EncryptionError, match="Broken pipe.*exit status 1.*with resume"):
        link.ask(bytes(size))
    link.close()


def test_a_process_that_will_not_end_is_ended(process_link, monkeypatch):
    """Its input is closed, and after a while it is stopped by force."""
    monkeypatch.setattr("privfed.protocol.links._STOP_SECONDS", 0.2)
    start = subprocess.Popen
    monkeypatch.setattr(
        "privfed.protocol.links.subprocess.Popen",
        lambda command, **pipes: start(["sleep", "60"], **pipes),
    )
    link = process_link()
    link.close()
    assert not is_running(link.process_id)


def test_a_question_that_is_interrupted_ends_the_process_at_once(process_link, monkeypatch):
    """It would wait for somebody to read its answer, and its keys are in its memory alone."""
    link = process_link()
    assert link.ask(b"no envelope")

    def interrupted(source):
        raise KeyboardInterrupt

    monkeypatch.setattr(streams, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        link.ask(b"no envelope")
    began = time.perf_counter()
    link.close()
    assert time.perf_counter() - began < 2
    assert not is_running(link.process_id)


def test_ctrl_c_at_a_terminal_is_not_for_the_process(process_link):
    """A terminal asks every process of its foreground; this one is ended by who started it."""
    link = process_link()
    assert os.getsid(link.process_id) != os.getsid(0)


@pytest.fixture
def served(company, tmp_path):
    """The address of a key holder in a thread of this process."""
    identity = company.identities["key_holder"]
    holder = KeyHolder(identity, company.roster, tmp_path / "results")
    with serve_address(holder, identity, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_an_address_answers(company, agreed, served):
    for _ in range(2):
        with closing(AddressLink(served)) as link:
            assert round_key(company, link, agreed)
            assert Envelope.from_bytes(link.ask(b"")).statement.kind == "refusal"
            assert round_key(company, link, agreed)
    with pytest.raises(EncryptionError, match="must stay open.*with resume"):
        link.ask(b"after it was closed")
    link.close()


@pytest.fixture
def peer():
    """A function that plays the other side of one connection; it gives the address."""
    threads = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer(play):
            def run():
                connection, _ = listener.accept()
                with connection, connection.makefile("rwb") as stream:
                    play(stream)

            threads.append(threading.Thread(target=run))
            threads[-1].start()
            return f"127.0.0.1:{listener.getsockname()[1]}"

        yield answer
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()


def test_questions_and_answers_pass_unchanged(peer):
    asked = []

    def play(stream):
        for answer in (b"", b"x" * 3_000_000):
            asked.append(streams.receive(stream))
            streams.send(stream, answer)

    with closing(AddressLink(peer(play))) as link:
        assert [link.ask(b"1"), link.ask(b"y" * 2_000_000)] == [b"", b"x" * 3_000_000]
    assert asked == [b"1", b"y" * 2_000_000]


def test_a_connection_that_the_other_side_closes_is_told_of(peer):
    link = AddressLink(peer(lambda stream: streams.receive(stream)))
    with (
        closing(link),
        pytest.raises(EncryptionError, match=r"(closed the connection|must stay open).*resume"),
    ):
        link.ask(b"anything")


def test_an_answer_that_breaks_off_is_told_of(peer):
    def play(stream):
        streams.receive(stream)
        stream.write(b"\x09\0\0\0\0\0\0\0half")

    link = AddressLink(peer(play))
    with closing(link), pytest.raises(EncryptionError, match="in the middle of a message.*resume"):
        link.ask(b"anything")


def test_an_answer_that_is_too_long_is_told_of(peer):
    def play(stream):
        streams.receive(stream)
        stream.write(b"\xff" * 8)

    link = AddressLink(peer(play))
    with closing(link), pytest.raises(EncryptionError, match="at most .* bytes"):
        link.ask(b"anything")


def test_an_address_where_nobody_listens_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(ConfigError, match=f"must listen at {address}.*--listen {address}"):
        AddressLink(address)


@pytest.mark.parametrize("host", ["x" * 64 + ".example", "a\0b"])
def test_a_host_that_cannot_be_one_is_refused(host):
    with pytest.raises(ConfigError, match="must listen at"):
        AddressLink(f"{host}:7000")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("localhost:7000", ("localhost", 7000)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("holder.example:00443", ("holder.example", 443)),
    ],
)
def test_an_address_is_host_and_port(address, expected):
    assert parse_address(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost",
        ":7000",
        "localhost:",
        "localhost:x",
        "localhost:-1",
        "localhost:65536",
        "localhost: 70",
        "localhost:٧٠",
        "localhost:7²",
        "[]:7000",
        "localhost:" + "1" * 5000,
    ],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match="must be host:port"):
        parse_address(address)
