"""Before anything of a request is read it is known who sends it, and how much."""

import asyncio
from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("flwr", reason="runs between machines need the extra privfed[flower]")

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from privfed.engines.flower import front_door
from privfed.engines.flower.front_door import FrontDoor
from privfed.engines.flower.pieces import MOST_REQUEST_BYTES
from privfed.identity.transport import as_pem, new_transport_key

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
PIECE = "/v1/fleet/push-object"
KEYS = {"a": new_transport_key(), "stranger": new_transport_key()}


def headers(name="a", *, at=NOW, signer=None, **changes):
    """Of a request that a node signs."""
    timestamp = at.isoformat()
    secret = load_pem_private_key(KEYS[signer or name][0], None)
    signature = secret.sign(timestamp.encode(), ec.ECDSA(hashes.SHA256()))
    given = {
        "content-type": "application/protobuf",
        "content-length": "7",
        "flwr-public-key": b64encode(as_pem(KEYS[name][1])).decode(),
        "flwr-signature": b64encode(signature).decode(),
        "flwr-timestamp": timestamp,
        **{key.replace("_", "-"): value for key, value in changes.items()},
    }
    return [(k.encode(), v.encode()) for k, v in given.items() if v is not None]


def asked(given, path=PIECE, method="POST"):
    """Status of the answer, or None if the request was passed on."""
    reached, answered = [], []

    async def app(scope, receive, send):
        assert (await receive())["body"] == b"content"
        reached.append(scope["path"])

    async def send(message):
        answered.append(message.get("status"))

    async def receive():
        return {"type": "http.request", "body": b"content"}

    door = FrontDoor(app, [as_pem(KEYS["a"][1])], lambda: NOW)
    scope = {"type": "http", "path": path, "method": method, "headers": given}
    asyncio.run(door(scope, receive, send))
    assert len(reached) == (not answered)
    return answered[0] if answered else None


class Door:
    """A front door with many requests at once, whose bodies come when a test says so."""

    def __init__(self):
        self.stored, self.storing, self.most = [], 0, 0
        self.door = FrontDoor(self._app, [as_pem(KEYS[name][1]) for name in KEYS], lambda: NOW)
        self.answers = {}

    async def _app(self, scope, receive, send):
        self.storing += 1
        self.most = max(self.most, self.storing)
        await asyncio.sleep(0.01)
        self.stored.append((await receive())["body"])
        self.storing -= 1

    async def request(self, name, *parts):
        """A piece in parts; a number is a pause."""
        left = list(parts)

        async def receive():
            part = left.pop(0) if left else None
            if isinstance(part, float):
                await asyncio.sleep(part)
                part = left.pop(0)
            if part is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": part, "more_body": bool(left)}

        async def send(message):
            self.answers.setdefault(parts, message.get("status"))

        scope = {"type": "http", "path": PIECE, "method": "POST", "headers": headers(name)}
        await self.door(scope, receive, send)


def test_flower_gets_one_piece_after_the_other():
    """It copies each several times."""
    door = Door()

    async def all_at_once():
        await asyncio.gather(*(door.request(name, b"x" + name.encode()) for name in KEYS))

    asyncio.run(all_at_once())
    assert sorted(door.stored) == [b"xa", b"xstranger"]
    assert door.most == 1


def test_a_slow_node_holds_up_itself_alone():
    door = Door()

    async def both():
        slow = [door.request("a", b"slow", 0.2, b"ly"), door.request("a", b"next")]
        await asyncio.gather(*slow, door.request("stranger", b"fast"))

    asyncio.run(both())
    assert door.stored == [b"fast", b"slowly", b"next"]


def test_a_node_that_asks_for_many_at_once_is_refused():
    door = Door()

    async def many():
        await asyncio.gather(*(door.request("a", b"x", 0.05, bytes([n])) for n in range(6)))

    asyncio.run(many())
    assert len(door.stored) == 4
    assert list(door.answers.values()) == [429, 429]


def test_a_piece_that_does_not_come_is_given_up(monkeypatch):
    monkeypatch.setattr(front_door, "_PIECE_S", 0.05)
    door = Door()

    async def both():
        await asyncio.gather(door.request("a", b"x", 9.0, b"y"), door.request("a", b"next"))

    asyncio.run(both())
    assert door.stored == [b"next"]
    assert list(door.answers.values()) == [408]


def test_a_connection_that_ends_within_a_piece():
    door = Door()
    asyncio.run(door.request("a", b"x", None))
    assert door.stored == []


@pytest.mark.parametrize("size", [0, 1, MOST_REQUEST_BYTES])
def test_what_a_node_sends_is_passed_on(size):
    assert asked(headers(content_length=str(size))) is None


@pytest.mark.parametrize("path", ["/docs", "/v1/control/list-runs", "/v1/fleets/x", "/"])
def test_nothing_else_is_there(path):
    assert asked(headers(), path=path) == 404


def test_nor_another_method():
    assert asked(headers(), method="GET") == 404


@pytest.mark.parametrize("size", [str(MOST_REQUEST_BYTES + 1), "-1", "0x10", "", None, "9" * 5000])
def test_a_size_that_is_large_or_not_announced(size):
    assert asked(headers(content_length=size)) == 413


def test_an_announcement_is_smaller_than_a_piece():
    given = headers(content_length=str(1 << 17))
    assert asked(given) is None
    assert asked(given, path="/v1/fleet/push-messages") == 413


def test_a_size_that_does_not_count():
    """By the standard a transfer encoding overrides the length."""
    assert asked(headers(transfer_encoding="chunked")) == 413


@pytest.mark.parametrize("kind", ["application/json", "application/protobuf; x=1", None])
def test_another_media_type(kind):
    assert asked(headers(content_type=kind)) == 415


def test_a_header_that_comes_twice():
    assert asked([*headers(), (b"content-length", b"8")]) == 415


def test_headers_that_would_fill_a_log():
    assert asked(headers(user_agent="x" * 10_000)) == 431


@pytest.mark.parametrize(
    "given",
    [
        headers("stranger"),
        headers("a", signer="stranger"),
        headers(flwr_signature="!"),
        headers(flwr_signature=None),
        headers(flwr_public_key="AAAA"),
        headers(flwr_timestamp="noon"),
        headers(flwr_timestamp=NOW.replace(tzinfo=None).isoformat()),
        headers(at=NOW - timedelta(seconds=301)),
        headers(at=NOW + timedelta(seconds=61)),
    ],
    ids=[
        "a stranger",
        "another's signature",
        "no base64",
        "no signature",
        "no key",
        "no time",
        "a time of no zone",
        "old",
        "ahead",
    ],
)
def test_who_is_not_of_the_roster_is_not_let_in(given):
    assert asked(given) == 401


@pytest.mark.parametrize("seconds", [-299, 0, 59])
def test_clocks_may_differ_a_little(seconds):
    assert asked(headers(at=NOW + timedelta(seconds=seconds))) is None
