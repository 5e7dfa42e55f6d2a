"""The hub's side of the network: who may ask it what, and messages there and back.

All in one process: nodes ask the real application with real requests, which no network carries.
"""

import contextlib
import gc
import io
import json
import os
import socket
import stat
import threading
from dataclasses import asdict
from types import SimpleNamespace

import httpx
import pytest

pytest.importorskip("flwr", reason="what carries bytes needs the extra privfed[flower]")

from privfed.canonical import canonical_json
from privfed.engines.flower import internals_node as node
from privfed.engines.flower import link as link_module
from privfed.engines.flower.internals import ConfigRecord, RecordDict
from privfed.engines.flower.internals_hub import sql_mixin
from privfed.engines.flower.link import LinkSettings, answer, listen
from privfed.engines.machines import sockets
from privfed.engines.machines.carried import LOST, PIECE, WHOLE
from privfed.errors import ConfigError
from privfed.protocol import streams
from tests.unit.privfed.engines.flower.over_http import (
    NAMES,
    FakeNode,
    InProcess,
    made_link,
    meanwhile,
)

LONG_S = 4.0
"""Long enough for who answers, on a machine that is busy, and waited for to its end."""
A_WHILE_S = 20.0


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    return made_link(tmp_path_factory.mktemp("link"))


@pytest.fixture(scope="module")
def transport(link):
    made = InProcess(link.app())
    yield made
    made.end()


@pytest.fixture
def nodes(transport):
    """All of them, connected."""
    found = {name: FakeNode(transport, name).activate() for name in NAMES}
    yield found
    for one in found.values():
        with contextlib.suppress(httpx.HTTPStatusError):
            one.leave()
        one.client._client.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(link_module, "_POLL_S", 0.01)


def post(transport, path, *, content=b"", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    with httpx.Client(transport=transport) as client:
        return client.post(f"http://hub{path}", content=content, headers=headers)


def status_of(call):
    """With what status a call is refused."""
    with pytest.raises(httpx.HTTPStatusError) as refused:
        call()
    return refused.value.response.status_code


class TestWhatIsServed:
    @pytest.mark.parametrize(
        "path",
        [
            *("/", "/docs", "/openapi.json", "/redoc", "/v1", "/v1/fleet", "/V1/FLEET/get-run"),
            *("/v1/control/list-runs", "/v1/runtime/get-nodes", "//v1/fleet/pull-messages"),
            "/v1/fleet/../control/list-runs",
        ],
    )
    def test_nothing_but_the_fleet_api(self, transport, path):
        assert post(transport, path).status_code == 404

    def test_nor_anything_by_another_method(self, transport):
        with httpx.Client(transport=transport) as client:
            found = client.get("http://hub/v1/fleet/pull-messages", headers={"content-length": "0"})
        assert found.status_code in (404, 405)

    def test_of_what_failed_nothing_is_told(self, transport, monkeypatch, link):
        def fails():
            raise ValueError("where the database lies")

        monkeypatch.setattr(link._factory, "state", fails)
        one = FakeNode(transport, "a")
        with pytest.raises(httpx.HTTPStatusError) as refused:
            one.activate()
        assert refused.value.response.status_code == 500
        assert "database" not in refused.value.response.text
        one.client._client.close()


class TestWhoMayAsk:
    def test_one_of_the_roster_is_connected_until_it_leaves(self, transport, link):
        one = FakeNode(transport, "b").activate()
        assert link.present() == ["b"]
        one.leave()
        assert link.present() == []
        one.client._client.close()

    def test_each_is_called_by_its_name(self, nodes, link):
        assert link.present() == ["a", "b", "c"]
        nodes["b"].leave()
        assert link.present() == ["a", "c"]

    def test_a_stranger_is_not_taken(self, transport, link):
        """Its signature is fine, and its key is nobody's."""
        one = FakeNode(transport, "stranger")
        assert status_of(one.activate) == 401
        assert link.present() == []
        one.number = 5
        assert status_of(one.pull) == 401
        one.client._client.close()

    def test_a_stranger_cannot_register_itself(self, transport, link):
        one = FakeNode(transport, "stranger")
        public = node.public_key_to_bytes(one.client._interceptors[0]._private_key.public_key())
        from flwr.proto.fleet_pb2 import RegisterNodeFleetRequest

        def register():
            one.client.RegisterNode(RegisterNodeFleetRequest(public_key=public))

        assert status_of(register) >= 400
        assert status_of(one.activate) == 401
        assert link.present() == []
        one.client._client.close()

    def test_nor_can_a_node_remove_another(self, nodes, link):
        from flwr.proto.fleet_pb2 import UnregisterNodeFleetRequest

        client = nodes["a"].client
        for number in (nodes["a"].number, nodes["b"].number):
            request = UnregisterNodeFleetRequest(node_id=number)
            assert status_of(lambda request=request: client.UnregisterNode(request)) >= 400
        assert link.present() == ["a", "b", "c"]

    def test_the_key_of_another_is_not_taken_for_it(self, transport, link):
        one = FakeNode(transport, "a", key="stranger")
        assert status_of(one.activate) == 401
        one.client._client.close()

    @pytest.mark.parametrize("call", ["pull", "leave"])
    def test_a_node_asks_for_itself_alone(self, nodes, link, call):
        number, nodes["a"].number = nodes["a"].number, nodes["b"].number
        assert status_of(getattr(nodes["a"], call)) == 401
        nodes["a"].number = number
        assert link.present() == ["a", "b", "c"]

    def test_without_a_signature_nothing_is_answered(self, transport, nodes):
        body = node.PullMessagesRequest(node=nodes["a"].node).SerializeToString()
        kind = "application/protobuf"
        found = post(transport, "/v1/fleet/pull-messages", content=body, content_type=kind)
        assert found.status_code == 401


class Exchange:
    """An exchange by the link, and what the hub is given of it, in pieces."""

    def __init__(self, link, timeout_s=A_WHILE_S):
        self.link, self.timeout_s, self.replies = link, timeout_s, {}

    def play(self, messages):
        """Send them, and keep what comes."""
        sent = {}
        for name, content in messages.items():
            number = self.link.push(name, content, self.timeout_s)
            if number is not None:
                sent[number] = name
        for name, pieces in self.link.replies(sent, self.timeout_s):
            self.replies[name] = b"".join(pieces)
        return self.replies


def echo(one):
    def reply():
        asked, content = one.wait()
        one.reply(asked, f"{one.name} had ".encode() + content)

    return reply


class TestAnExchange:
    def test_each_gets_its_own_message_and_its_reply_comes_under_its_name(self, nodes, link):
        messages = {"a": b"first", "c": b"third"}
        with meanwhile(echo(nodes["a"]), echo(nodes["c"])):
            found = Exchange(link).play(messages)
        assert found == {"a": b"a had first", "c": b"c had third"}
        assert nodes["b"].pull() is None

    def test_equal_messages_and_equal_replies_all_arrive(self, nodes, link):
        """Objects are named by their content; what one has fetched is not gone for the next."""

        def same(one):
            def reply():
                asked, content = one.wait()
                assert content == b"to all"
                one.reply(asked, b"from each")

            return reply

        with meanwhile(*(same(one) for one in nodes.values())):
            found = Exchange(link).play(dict.fromkeys(nodes, b"to all"))
        assert found == dict.fromkeys(nodes, b"from each")

    @pytest.mark.parametrize("size", [0, 1, 100_000])
    def test_of_any_size(self, nodes, link, size, monkeypatch):
        monkeypatch.setattr("privfed.engines.flower.pieces.PIECE_BYTES", 30_000)
        content = bytes(index % 251 for index in range(size))

        def reply():
            asked, came = nodes["b"].wait()
            assert came == content
            nodes["b"].reply(asked, content[::-1])

        with meanwhile(reply):
            assert Exchange(link).play({"b": content}) == {"b": content[::-1]}

    def test_one_after_the_other(self, nodes, link):
        for number in range(3):
            with meanwhile(echo(nodes["a"])):
                found = Exchange(link).play({"a": str(number).encode()})
            assert found == {"a": f"a had {number}".encode()}

    def test_who_is_not_connected_is_not_waited_for(self, nodes, link):
        nodes["b"].leave()
        with meanwhile(echo(nodes["a"])):
            assert Exchange(link).play({"a": b"x", "b": b"y"}) == {"a": b"a had x"}

    def test_who_stays_away_is_waited_for_as_long_as_was_said(self, nodes, link):
        with meanwhile(echo(nodes["a"])):
            found = Exchange(link, timeout_s=LONG_S).play({"a": b"x", "c": b"y"})
        assert found == {"a": b"a had x"}
        assert nodes["c"].pull() is None, "nor is it asked later"

    def test_a_reply_that_comes_too_late_is_nobodys(self, nodes, link):
        asked = []
        with meanwhile(lambda: asked.append(nodes["a"].wait()[0])):
            assert Exchange(link, timeout_s=LONG_S).play({"a": b"early"}) == {}
        nodes["a"].reply(asked[0], b"late")
        with meanwhile(echo(nodes["a"])):
            assert Exchange(link).play({"a": b"next"}) == {"a": b"a had next"}

    def test_who_is_lost_meanwhile_is_not_waited_for(self, nodes, link):
        """Flower itself answers in its name, and that is no reply."""

        def goes():
            nodes["b"].wait()
            nodes["b"].leave()

        with meanwhile(goes):
            assert Exchange(link).play({"b": b"x"}) == {}

    def test_nothing_is_left_in_the_store(self, nodes, link):
        store = link._state.object_store
        before = len(store)
        with meanwhile(*(echo(one) for one in nodes.values())):
            Exchange(link).play({name: name.encode() * 50 for name in nodes})
        assert len(store) == before

    def test_nor_is_what_nobody_fetched(self, nodes, link):
        store = link._state.object_store
        before = len(store)
        assert Exchange(link, timeout_s=0.3).play({"a": b"a message that is not fetched"}) == {}
        assert len(store) == before


class TestAReplyThatIsNotWhole:
    """The hub is told that it is lost, and hears the others."""

    @pytest.fixture
    def asked(self, link):
        """A function that asks the link, as the hub does: replies in pieces, by name."""

        def ask(messages, timeout_s=A_WHILE_S):
            ours, theirs = socket.socketpair()
            with ours, ours.makefile("rwb") as stream, theirs:
                request = {"ask": "exchange", "to": list(messages), "timeout_s": timeout_s}
                streams.send(stream, canonical_json(request))
                for message in messages.values():
                    streams.send(stream, message)
                ours.shutdown(socket.SHUT_WR)
                with theirs.makefile("rwb") as other:
                    answer(link, other)
                theirs.shutdown(socket.SHUT_WR)
                found = {}
                while (name := json.loads(streams.receive(stream))["from"]) is not None:
                    found[name] = []
                    while (piece := streams.receive(stream)) not in (LOST, WHOLE):
                        assert piece[:1] == PIECE
                        found[name].append(piece[1:])
                    found[name].append(piece)
                assert streams.receive(stream) is None
            return found

        return ask

    def test_whole_replies_end_with_a_word(self, nodes, asked, monkeypatch):
        monkeypatch.setattr("privfed.engines.flower.pieces.PIECE_BYTES", 4)

        def silent():
            taken, _ = nodes["c"].wait()
            nodes["c"].reply(taken, b"")

        with meanwhile(echo(nodes["a"]), silent):
            found = asked({"a": b"x", "c": b"y"})
        assert found == {"a": [b"a ha", b"d x", WHOLE], "c": [WHOLE]}

    def test_who_is_asked_nothing(self, asked):
        assert asked({}) == {}

    def test_one_whose_objects_do_not_come(self, nodes, asked, monkeypatch):
        def breaks_off():
            taken, _ = nodes["b"].wait()
            nodes["b"].push(taken, b"never sent")

        with meanwhile(breaks_off, echo(nodes["a"])):
            found = asked({"b": b"x", "a": b"y"}, timeout_s=LONG_S)
        assert found == {"a": [b"a had y", WHOLE]}

    def test_one_that_is_sent_slowly_is_waited_for(self, nodes, asked, monkeypatch):
        monkeypatch.setattr("privfed.engines.flower.pieces.PIECE_BYTES", 4)

        def slow():
            taken, _ = nodes["b"].wait()
            for send in nodes["b"].push(taken, b"0123456789").values():
                threading.Event().wait(0.05)
                send()

        with meanwhile(slow):
            found = asked({"b": b"x"})
        assert found == {"b": [b"0123", b"4567", b"89", WHOLE]}

    def test_one_of_other_records(self, nodes, asked):
        def strange():
            taken, _ = nodes["b"].wait()
            nodes["b"].reply(taken, RecordDict({"other": ConfigRecord({"piece": b"x"})}))

        with meanwhile(strange, echo(nodes["c"])):
            found = asked({"b": b"x", "c": b"y"})
        assert found == {"b": [LOST], "c": [b"c had y", WHOLE]}

    def test_one_of_more_objects_than_a_message_has(self, nodes, asked, monkeypatch):
        """It is not even begun: four pieces here, their list, and itself."""
        monkeypatch.setattr("privfed.engines.flower.pieces.PIECE_BYTES", 1)
        monkeypatch.setattr(link_module, "MOST_OBJECTS", 6)

        def sends(name, content):
            def reply():
                taken, _ = nodes[name].wait()
                nodes[name].reply(taken, content)

            return reply

        with meanwhile(sends("a", b"abcd"), sends("b", b"abcde")):
            found = asked({"a": b"x", "b": b"y"})
        assert found == {"a": [b"a", b"b", b"c", b"d", WHOLE]}

    def test_one_that_would_speak_for_another(self, nodes, asked):
        """After an empty piece the hub would read the next as who answers."""
        parts = (b"x", b"", canonical_json({"from": "a"}), b"what it never said", b"")

        def strange():
            taken, _ = nodes["b"].wait()
            pieces = {f"{n:06}": ConfigRecord({"piece": one}) for n, one in enumerate(parts)}
            nodes["b"].reply(taken, RecordDict(pieces))

        with meanwhile(strange):
            assert "a" not in asked({"b": b"x"})

    def test_who_is_present(self, link, nodes):
        ours, theirs = socket.socketpair()
        nodes["b"].leave()
        with ours, ours.makefile("rwb") as stream, theirs, theirs.makefile("rwb") as other:
            for _ in range(2):
                streams.send(stream, canonical_json({"ask": "present"}))
            ours.shutdown(socket.SHUT_WR)
            answer(link, other)
            for _ in range(2):
                assert json.loads(streams.receive(stream)) == {"present": ["a", "c"]}


class TestTheSocket:
    def test_is_of_its_user_alone_and_answers_one_hub_after_the_other(self, link, nodes, tmp_path):
        path = tmp_path / "link.sock"
        path.write_bytes(b"left over")
        threading.Thread(target=listen, args=(link, path), daemon=True).start()
        for breaks_off in (False, True, False):
            with connected(path) as stream:
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                if breaks_off:
                    stream.write(b"\x05\x00\x00\x00\x00\x00\x00\x00ab")
                    continue
                streams.send(stream, canonical_json({"ask": "present"}))
                assert json.loads(streams.receive(stream)) == {"present": ["a", "b", "c"]}


@contextlib.contextmanager
def connected(path):
    """A stream to a socket, once it is there."""
    with socket.socket(socket.AF_UNIX) as client:
        for _ in range(500):
            try:
                client.connect(str(path))
                break
            except OSError:
                threading.Event().wait(0.01)
        with client.makefile("rwb") as stream:
            yield stream


def test_the_database_is_made_anew_and_private(tmp_path):
    """What an earlier link left of messages is not sent again."""
    for name in ("link.db", "link.db-wal", "link.db-shm"):
        (tmp_path / name).write_bytes(b"left over")
    made = made_link(tmp_path)
    assert stat.S_IMODE((tmp_path / "link.db").stat().st_mode) == 0o600
    assert made.present() == []


def test_the_caches_of_its_database_stay_small(link):
    """Flower's own have 64 MB for each connection."""
    assert dict(sql_mixin.SQLITE_PRAGMAS)["cache_size"] == "-2000"


def test_the_run_is_kept_alive(tmp_path, monkeypatch):
    """Flower takes one for dead that is silent."""
    monkeypatch.setattr(link_module, "_TASK_BEAT_S", 0.01)
    made, beats, enough = made_link(tmp_path), [], threading.Event()

    def counted(task):
        beats.append(task)
        if len(beats) == 3:
            enough.set()
        return len(beats) < 3

    made._state.acknowledge_task_heartbeat = counted
    assert enough.wait(10)
    assert beats == [made._task] * 3


class TestTheProgram:
    def test_ends_as_a_whole_where_no_hub_can_reach_it(self, link, tmp_path, monkeypatch):
        codes = []
        monkeypatch.setattr(os, "_exit", codes.append)
        with pytest.raises(ConfigError):
            link_module.listen_or_end(link, tmp_path / "none/link.sock")
        assert codes == [1]

    def test_serves_over_tls_and_leaves_nothing(self, tmp_path, monkeypatch):
        """Its hub may have been killed, and removes nothing then."""
        folder, served, listened = tmp_path / f"{sockets.OWN}hub", [], []
        folder.mkdir()
        settings = LinkSettings(
            host="127.0.0.5",
            port=7443,
            certificate="hub.crt",
            key="hub.key",
            socket=str(folder / "link.sock"),
            database=str(folder / "link.db"),
            nodes={},
        )
        (folder / "link.json").write_text(json.dumps(asdict(settings)))
        server = SimpleNamespace(run=lambda: None, should_exit=False)
        monkeypatch.setattr(
            link_module,
            "uvicorn",
            SimpleNamespace(
                Config=lambda app, **about: served.append(about), Server=lambda config: server
            ),
        )
        monkeypatch.setattr(link_module, "listen_or_end", lambda *given: listened.append(given[1]))
        monkeypatch.setattr(link_module, "_end_with_input", lambda given: None)
        monkeypatch.setattr(gc, "freeze", lambda: None)
        monkeypatch.setattr("sys.argv", ["link", str(folder / "link.json")])
        link_module.main()
        (about,) = served
        assert (about["host"], about["port"]) == ("127.0.0.5", 7443)
        assert (about["ssl_certfile"], about["ssl_keyfile"]) == ("hub.crt", "hub.key")
        assert [str(path) for path in listened] == [settings.socket]
        assert not folder.exists()

    def test_ends_when_its_input_does(self, monkeypatch):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a word")))
        server = SimpleNamespace(should_exit=False)
        link_module._end_with_input(server)
        assert server.should_exit
