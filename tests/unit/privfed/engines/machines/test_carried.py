"""The hub's end of the way to the nodes: whole replies or none, whatever the carrier does."""

import json
import socket
import threading
from pathlib import Path

import pytest

from privfed.engines.machines import carried as carried_module
from privfed.engines.machines.carried import LOST, PIECE, WHOLE, Carried, CarriedLink, Spooled
from privfed.errors import EncryptionError
from privfed.identity.keys import Identity, Role
from privfed.protocol import streams
from privfed.protocol.kinds import FINISH, HELLO, TRAIN
from privfed.protocol.signing import signed_message
from privfed.protocol.terms import Terms

# Replies are left to the garbage collector, which removes their folder.
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")

HUB = Identity.generate("hub", Role.AGGREGATOR)
HANGS_UP, CUTS_OFF = object(), object()


def message(kind=TRAIN, round_number=1):
    return signed_message(HUB, Terms(run="0a", round=round_number, manifest={}), kind)


class FakeCarrier:
    """A carrier at a socket: in each of its lives it gives the listed answers, in order.

    An answer is a list of what is sent after one question, or `HANGS_UP`; `CUTS_OFF` in it ends
    the connection within a message.
    """

    def __init__(self, path, *lives):
        self.path, self.asked, self._lives = path, [], lives
        self._server = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self._server.bind(str(self.path))
        self._server.listen(1)
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._server.close()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _serve(self):
        for life in self._lives:
            connection, _ = self._server.accept()
            with connection, connection.makefile("rwb") as stream:
                for answered in life:
                    if answered is HANGS_UP or not self._answer(stream, answered):
                        break

    def _answer(self, stream, answered):
        question = streams.receive(stream)
        if question is None:
            return False
        asked = json.loads(question)
        messages = [streams.receive(stream) for _ in asked.get("to", ())]
        self.asked.append((asked, messages))
        for part in answered:
            if part is CUTS_OFF:
                stream.write(b"\x09\x00\x00\x00\x00\x00\x00\x00abc")
                return False
            streams.send(stream, part if isinstance(part, bytes) else json.dumps(part).encode())
        return True


def framed(*pieces, end=WHOLE):
    return [*(PIECE + piece for piece in pieces), end]


def replied(name, *pieces):
    return [{"from": name}, *framed(*pieces)]


OVER = {"from": None}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "link.sock"


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(carried_module, "_PAUSE_S", 0.01)
    monkeypatch.setattr(carried_module, "_CONNECT_S", 0.2)


@pytest.fixture
def hub(path):
    """The hub's end; a client may take 77 seconds."""
    made = Carried(path, 77.0)
    yield made
    if made._stream is not None:
        made._stream.close()


class TestAnExchange:
    def test_replies_in_pieces_under_their_names(self, hub, path):
        """In whatever order they come."""
        life = [[*replied("b", b"se", b"cond"), *replied("a", b"first"), *replied("c"), OVER]]
        sent = {"a": message(), "b": message(round_number=2), "c": message()}
        with FakeCarrier(path, life) as carrier:
            found = hub.exchange(sent)
        assert dict(found) == {"a": b"first", "b": b"second", "c": b""}
        asked, messages = carrier.asked[0]
        assert asked == {"ask": "exchange", "to": ["a", "b", "c"], "timeout_s": 77.0}
        assert messages == list(sent.values())

    def test_one_that_is_lost_is_none(self, hub, path):
        life = [[{"from": "a"}, *framed(b"begun", end=LOST), *replied("b", b"whole"), OVER]]
        with FakeCarrier(path, life):
            found = hub.exchange({"a": message(), "b": message()})
        assert dict(found) == {"b": b"whole"}
        assert found.get("a") is None
        assert "a" not in found

    def test_one_exchange_after_the_other_on_one_connection(self, hub, path):
        life = [[*replied("a", b"one"), OVER], [OVER], [*replied("b", b"three"), OVER]]
        with FakeCarrier(path, life) as carrier:
            assert dict(hub.exchange({"a": message()})) == {"a": b"one"}
            assert dict(hub.exchange({"a": message()})) == {}
            assert dict(hub.exchange({"b": message()})) == {"b": b"three"}
        assert len(carrier.asked) == 3

    def test_nothing_to_carry_asks_nobody(self, hub):
        assert dict(hub.exchange({})) == {}

    @pytest.mark.parametrize(
        ("kinds", "seconds"),
        [((HELLO, HELLO), 60.0), ((HELLO, TRAIN), 77.0), ((FINISH, FINISH), 77.0)],
        ids=["greetings", "a greeting and another", "others"],
    )
    def test_a_greeting_is_waited_for_a_minute(self, hub, path, kinds, seconds):
        sent = {name: message(kind) for name, kind in zip("ab", kinds, strict=True)}
        with FakeCarrier(path, [[OVER]]) as carrier:
            hub.exchange(sent)
        assert carrier.asked[0][0]["timeout_s"] == seconds


class TestACarrierThatDies:
    @pytest.mark.parametrize(
        "dying",
        [
            [],
            [{"from": "a"}],
            [{"from": "a"}, PIECE + b"some"],
            [{"from": "a"}, PIECE + b"some", CUTS_OFF],
            [CUTS_OFF],
        ],
        ids=["at once", "after a name", "after a piece", "in a piece", "in a name"],
    )
    def test_what_was_whole_by_then_counts_and_the_next_is_asked_anew(self, hub, path, dying):
        lives = ([[*replied("b", b"whole"), *dying]], [[*replied("a", b"again"), OVER]])
        with FakeCarrier(path, *lives) as carrier:
            found = hub.exchange({"a": message(), "b": message()})
            assert dict(found) == {"b": b"whole"}
            assert dict(hub.exchange({"a": message()})) == {"a": b"again"}
        assert len(carrier.asked) == 2

    def test_before_it_was_asked(self, hub, path):
        with FakeCarrier(path, [HANGS_UP], [[{"present": ["a"]}]]):
            assert hub.present() == []
            assert hub.present() == ["a"]

    def test_one_that_is_not_there_yet_is_waited_for(self, hub, path, monkeypatch):
        monkeypatch.setattr(carried_module, "_CONNECT_S", 20.0)
        carrier = FakeCarrier(path, [[{"present": ["a", "b"]}]])
        starting = threading.Timer(0.1, carrier.__enter__)
        starting.start()
        assert hub.present() == ["a", "b"]
        starting.join()
        hub._stream.close()
        carrier.__exit__()

    def test_and_not_for_ever(self, hub):
        assert hub.present() == []
        assert dict(hub.exchange({"a": message()})) == {}


class TestWhoIsPresent:
    def test_as_the_carrier_says(self, hub, path):
        life = [[{"present": ["a", "c"]}], [{"present": []}]]
        with FakeCarrier(path, life) as carrier:
            assert hub.present() == ["a", "c"]
            assert hub.present() == []
        assert [asked for asked, _ in carrier.asked] == [{"ask": "present"}] * 2


class TestReplies:
    def test_lie_in_files_that_go_with_them(self, tmp_path):
        spooled = Spooled(tmp_path)
        spooled.keep("a", iter(framed(b"1", b"23")))
        spooled.keep("b", iter(framed()))
        folder = Path(spooled._folder.name)
        assert folder.parent == tmp_path, "whoever removes that removes these"
        assert (spooled["a"], spooled["b"]) == (b"123", b"")
        assert (list(spooled), len(spooled), "c" in spooled) == (["a", "b"], 2, False)
        assert folder.stat().st_mode & 0o077 == 0
        with pytest.raises(KeyError):
            spooled["c"]
        spooled._folder.cleanup()
        assert not folder.exists()

    def test_one_that_breaks_off_leaves_the_earlier_one_of_another(self, tmp_path):
        spooled = Spooled(tmp_path)
        spooled.keep("a", iter(framed(b"whole")))
        spooled.keep("b", iter([PIECE + b"beg", LOST, PIECE + b"never read"]))
        spooled.keep("c", iter(framed(b"third")))
        assert dict(spooled) == {"a": b"whole", "c": b"third"}
        spooled._folder.cleanup()

    def test_one_that_is_longer_than_any_message_is_none_and_fills_no_disk(
        self, tmp_path, monkeypatch
    ):
        """The longest has 10 bytes here, with those that say what a piece is."""
        monkeypatch.setattr(streams, "MOST_BYTES", 10)
        spooled = Spooled(tmp_path)
        spooled.keep("a", iter(framed(b"1234", b"567")))
        spooled.keep("b", iter(framed(b"1234", b"5678", b"x" * 5000)))
        spooled.keep("c", iter(framed(b"last")))
        assert dict(spooled) == {"a": b"1234567", "c": b"last"}
        sizes = [path.stat().st_size for path in Path(spooled._folder.name).iterdir()]
        assert max(sizes) <= 10
        spooled._folder.cleanup()

    def test_a_piece_says_that_it_is_one(self, hub, path):
        """Whatever a node writes into it: it can end no reply, and begin no other's."""
        forged = (b"a", WHOLE, b'{"from": "b"}', PIECE, LOST)
        life = [[*replied("a", *forged), *replied("b", b"own"), OVER]]
        with FakeCarrier(path, life):
            found = hub.exchange({"a": message(), "b": message()})
        assert dict(found) == {"a": b"".join(forged), "b": b"own"}

    def test_one_of_somebody_who_was_not_asked_is_dropped(self, hub, path):
        life = [[*replied("c", b"x"), *replied("a", b"own"), *replied("a", b"twice"), OVER]]
        with FakeCarrier(path, life):
            assert dict(hub.exchange({"a": message()})) == {"a": b"own"}

    @pytest.mark.parametrize("strange", [b"no json", [1], {"to": 1}], ids=str)
    def test_what_makes_no_sense_is_no_answer(self, hub, path, strange):
        with FakeCarrier(path, [[strange]], [[strange]]):
            assert dict(hub.exchange({"a": message()})) == {}
            assert hub.present() == []


class TestAKeyHolderThatIsANode:
    def test_is_asked_by_its_name(self, hub, path):
        life = [[*replied("keys", b"an ", b"answer"), OVER]]
        with FakeCarrier(path, life) as carrier:
            question = message()
            assert CarriedLink(carried=hub, name="keys").ask(question) == b"an answer"
        assert carrier.asked[0][1] == [question]
        assert carrier.asked[0][0]["to"] == ["keys"]

    @pytest.mark.parametrize("life", [[[OVER]], [[{"from": "keys"}, LOST, OVER]]])
    def test_one_that_does_not_answer_is_named(self, hub, path, life):
        with FakeCarrier(path, life), pytest.raises(EncryptionError, match="'keys' must be"):
            CarriedLink(carried=hub, name="keys").ask(message())
