"""A node's side of the network: messages reach the worker's socket, and its replies the hub."""

import contextlib
import io
import json
import socket
import threading
from types import SimpleNamespace

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

pytest.importorskip("flwr", reason="what carries bytes needs the extra privfed[flower]")

from privfed.engines.flower import link as link_module
from privfed.engines.flower import pump as pump_module
from privfed.engines.flower.pump import Pump, PumpSettings
from privfed.engines.machines import sockets
from privfed.errors import MessageError
from privfed.protocol import streams
from tests.unit.privfed.engines.flower.over_http import (
    KEYS,
    FakeNode,
    InProcess,
    made_link,
    meanwhile,
)

HUB = "hub.example:7443"


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    return made_link(tmp_path_factory.mktemp("link"))


@pytest.fixture(scope="module")
def transport(link):
    made = InProcess(link.app())
    yield made
    made.end()


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(link_module, "_POLL_S", 0.01)
    monkeypatch.setattr(pump_module, "_SOONEST_S", 0.01)
    monkeypatch.setattr(pump_module, "_LATEST_S", 0.05)


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "b.transport").write_bytes(KEYS["b"][0])
    return PumpSettings(
        hub=HUB,
        certificate=str(tmp_path / "hub.crt"),
        key=str(tmp_path / "b.transport"),
        socket=str(tmp_path / "node.sock"),
    )


@pytest.fixture
def made(settings, transport, monkeypatch):
    """A function that makes a pump whose requests reach the link in this process."""

    def client(address, insecure, certificate, interceptors):
        assert (address, insecure, certificate) == (HUB, False, settings.certificate)
        found = pump_module.FleetHttpClient(f"https://{address}", interceptors=interceptors)
        found._client.close()
        found._client = httpx.Client(transport=transport)
        return found

    def make(**changes):
        fleet = pump_module.FleetHttpClient
        monkeypatch.setattr(fleet, "from_server_address", staticmethod(client))
        stopped = threading.Event()
        values = {name: getattr(settings, name) for name in PumpSettings.__slots__}
        return Pump(PumpSettings(**{**values, **changes}), stopped), stopped

    return make


@contextlib.contextmanager
def worker(path, answers):
    """A worker that gives these answers, one a connection, and keeps what it was asked."""
    asked = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(1)
        server.settimeout(20)

        def serve():
            for answered in answers:
                connection, _ = server.accept()
                with connection, connection.makefile("rwb") as stream:
                    asked.append(streams.receive(stream))
                    if answered is not None:
                        streams.send(stream, answered)

        with meanwhile(serve):
            yield asked


def exchanged(link, messages, timeout_s=20.0):
    sent = {link.push(name, content, timeout_s): name for name, content in messages.items()}
    return {name: b"".join(pieces) for name, pieces in link.replies(sent, timeout_s)}


def until(condition):
    while not condition():
        threading.Event().wait(0.01)


class TestCarrying:
    def test_a_message_and_its_reply_and_the_next(self, made, link, settings, monkeypatch):
        monkeypatch.setattr("privfed.engines.flower.pieces.PIECE_BYTES", 5)
        pump, stopped = made()
        connected = threading.Event()
        with (
            worker(settings.socket, [b"the first reply", b""]) as asked,
            meanwhile(lambda: pump.run(connected.set)),
        ):
            assert connected.wait(20)
            assert link.present() == ["b"]
            assert exchanged(link, {"b": b"a first message"}) == {"b": b"the first reply"}
            assert exchanged(link, {"b": b"second"}) == {"b": b""}
            stopped.set()
        assert asked == [b"a first message", b"second"]
        assert link.present() == [], "it said that it goes"

    def test_what_has_come_whole_the_hub_need_not_keep(self, made, link, settings, monkeypatch):
        """It is told so before the worker thinks, which may take hours."""
        pump, stopped = made()
        told, genuine = [], pump_module.FleetHttpClient.ConfirmMessageReceived

        def counted(self, request):
            told.append((request.message_object_id, len(asked)))
            return genuine(self, request)

        monkeypatch.setattr(pump_module.FleetHttpClient, "ConfirmMessageReceived", counted)
        with worker(settings.socket, [b"a"]) as asked, meanwhile(lambda: pump.run(lambda: None)):
            until(link.present)
            number = link.push("b", b"x", 20.0)
            assert [name for name, _ in link.replies({number: "b"}, 20.0)] == ["b"]
            stopped.set()
        assert told == [(number, 0)]

    def test_it_is_there_while_the_worker_thinks(self, made, link, settings, monkeypatch):
        """Flower takes a node for lost that is silent; a round of training may take hours."""
        monkeypatch.setattr(pump_module, "_BEAT_S", 0.02)
        pump, stopped = made()
        beats, genuine = [], pump_module.FleetHttpClient.SendNodeHeartbeat

        def counted(self, request):
            beats.append(1)
            if len(beats) >= 3:
                thought.set()
            if len(beats) == 2:
                raise httpx.ReadTimeout("one may fail")
            return genuine(self, request)

        thought = threading.Event()
        monkeypatch.setattr(pump_module.FleetHttpClient, "SendNodeHeartbeat", counted)

        class Thinking:
            def __iter__(self):
                assert thought.wait(20)
                yield b"at last"

        with worker(settings.socket, Thinking()), meanwhile(lambda: pump.run(lambda: None)):
            until(link.present)
            assert exchanged(link, {"b": b"x"}) == {"b": b"at last"}
            stopped.set()
        assert len(beats) >= 3

    def test_a_worker_that_gives_no_answer_is_said(self, made, link, settings):
        pump, _ = made()
        with worker(settings.socket, [None]):

            def run():
                with pytest.raises(MessageError, match="no answer"):
                    pump.run(lambda: None)

            with meanwhile(run):
                until(link.present)
                number = link.push("b", b"x", 20.0)
        link._state.deactivate_node(link._ids["b"])
        link._state.delete_messages(message_ins_ids={number})

    def test_a_worker_that_is_not_there(self, made, link, transport):
        pump, _ = made()

        def run():
            with pytest.raises(OSError, match="No such file"):
                pump.run(lambda: None)

        before = FakeNode(transport, "b").activate()
        number = link.push("b", b"x", 20.0)
        before.leave()
        before.client._client.close()
        run()
        link._state.delete_messages(message_ins_ids={number})

    def test_a_stranger_is_told_so(self, made, tmp_path):
        (tmp_path / "s.transport").write_bytes(KEYS["stranger"][0])
        pump, _ = made(key=str(tmp_path / "s.transport"))
        connected = []
        with pytest.raises(httpx.HTTPStatusError) as refused:
            pump.run(lambda: connected.append(1))
        assert refused.value.response.status_code == 401
        assert connected == []

    @pytest.mark.parametrize(
        ("found", "available"), [(False, False), (False, True)], ids=["gone", "and empty"]
    )
    def test_an_object_that_is_gone(self, made, monkeypatch, found, available):
        pump, _ = made()
        monkeypatch.setattr(
            pump_module.FleetHttpClient,
            "PullObject",
            lambda self, request: SimpleNamespace(
                object_found=found, object_available=available, object_content=b""
            ),
        )
        with pytest.raises(MessageError, match="missing"):
            pump._pull(3, "ab" * 32)
        pump._client._client.close()

    def test_one_that_the_hub_still_stores_is_waited_for(self, made, monkeypatch):
        pump, _ = made()
        answers = [
            SimpleNamespace(object_found=True, object_available=False, object_content=b""),
            SimpleNamespace(object_found=True, object_available=True, object_content=b"here"),
        ]
        monkeypatch.setattr(
            pump_module.FleetHttpClient, "PullObject", lambda self, request: answers.pop(0)
        )
        assert pump._pull(3, "ab" * 32) == b"here"
        pump._client._client.close()

    def test_it_asks_less_often_where_nothing_is_and_often_after_a_message(self, made):
        """Soonest after 0.01 s here, latest after 0.05 s."""
        pump, _ = made()
        found, pauses = [False] * 6 + [True, False], []
        pump._carried = lambda: found.pop(0)
        pump._stopped = SimpleNamespace(is_set=lambda: not found, wait=pauses.append)
        pump._carry()
        assert pauses == pytest.approx([0.01, 0.015, 0.0225, 0.03375, 0.05, 0.05, 0.01])
        pump._client._client.close()


def test_a_key_of_another_kind_is_refused(made, tmp_path):
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / "other").write_bytes(pem)
    with pytest.raises(MessageError, match="elliptic curve"):
        made(key=str(tmp_path / "other"))


def _status(number):
    request = httpx.Request("POST", "https://hub")
    return httpx.HTTPStatusError(
        "", request=request, response=httpx.Response(number, request=request)
    )


LOST = {
    "connected before": (_status(412), "last connection"),
    "not enrolled": (_status(401), "roster"),
    "another status": (_status(503), "503"),
    "another certificate": (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]"), "certificate"),
    "not there": (httpx.ConnectError("refused"), "does not answer"),
    "broken": (httpx.ReadTimeout("slow"), "ReadTimeout"),
    "a message": (MessageError("an object of a message is missing"), "an object of a message"),
    "the worker": (FileNotFoundError("/secret/place"), "the node itself"),
}


class TestTheProgram:
    @pytest.mark.parametrize(("error", "word"), LOST.values(), ids=LOST)
    def test_says_what_to_look_at(self, settings, error, word):
        said = pump_module._why_lost(error, settings)
        assert word in said
        assert "/secret/place" not in said
        others = [one for one, _ in LOST.values() if one is not error]
        assert said not in [pump_module._why_lost(one, settings) for one in others]

    def test_connects_again_and_says_the_same_thing_once(
        self, settings, tmp_path, monkeypatch, capsys
    ):
        """Until its input ends."""
        came = [httpx.ConnectError("no")] * 2
        came += [None, httpx.ConnectError("no"), OSError("no"), MessageError("x")]
        lives = []

        class Played:
            def __init__(self, given, stopped):
                assert given == settings
                self.stopped = stopped

            def run(self, connected):
                lives.append(1)
                if len(lives) == len(came):
                    self.stopped.set()
                if (error := came[len(lives) - 1]) is not None:
                    raise error
                connected()

        path = tmp_path / f"{sockets.OWN}pump/pump.json"
        path.parent.mkdir()
        values = {name: getattr(settings, name) for name in PumpSettings.__slots__}
        path.write_text(json.dumps(values))
        monkeypatch.setattr(pump_module, "Pump", Played)
        monkeypatch.setattr(pump_module, "_AGAIN_S", 0.0)
        monkeypatch.setattr(pump_module, "_end_with_input", lambda stopped: None)
        monkeypatch.setattr("sys.argv", ["pump", str(path)])
        pump_module.main()
        away = f"{HUB} does not answer; it is asked again"
        worker = "the node itself does not answer (OSError)"
        said = capsys.readouterr().out.splitlines()
        assert said == [away, f"connected to {HUB}", away, worker, "x"]
        assert not path.parent.exists(), "its node may have been killed and removes nothing"

    def test_ends_when_its_input_does(self, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a word")))
        stopped = threading.Event()
        pump_module._end_with_input(stopped)
        assert stopped.is_set()
