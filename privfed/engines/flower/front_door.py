"""What is asked of a request before anything of it is read: who sends it, and how much.

Flower reads a whole request, and makes objects of it, before it checks the signature. So the
outermost layer lets nobody in whose signed timestamp is not by a transport key of the roster, and
nothing that is larger than what a node ever sends.
"""

import asyncio
import binascii
import gc
from base64 import b64decode
from collections.abc import Callable, Collection, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from privfed.engines.flower.internals_hub import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    bytes_to_public_key,
    verify_signature,
)
from privfed.engines.flower.pieces import MOST_REQUEST_BYTES

FLEET: Final = "/v1/fleet/"
_ANNOUNCING: Final = f"{FLEET}push-messages"
_STORING: Final = f"{FLEET}push-object"
_OF_PIECES: Final = (_STORING, f"{FLEET}pull-object")
_PIECES_AT_ONCE: Final = 8
"""On their way, one of each node: memory does not grow with the number of nodes."""
_WAITING_OF_A_NODE: Final = 4
"""Pieces on their way or waiting for their turn; a pump sends one after the other."""
_PIECE_S: Final = 120.0
"""In which a piece must be here; a line of 0.4 Mbit/s is fast enough."""
_MOST_ANNOUNCED_BYTES: Final = 1 << 16
"""Of a message without its pieces: their names."""
_MOST_HEADER_BYTES: Final = 1 << 13
_MEDIA_TYPE: Final = b"application/protobuf"
_OLDEST_S: Final = 300.0
_AHEAD_S: Final = 60.0
_FIRST_REQUEST_S: Final = 20.0


class FrontDoor:
    """Passes on what is small and signed by a key that is known.

    Args:
        app: what it is passed on to.
        keys: transport keys (PEM) of the roster.
        now: the time.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Collection[bytes],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._app = app
        self._keys = frozenset(keys)
        self._now = now
        self._waiting = dict.fromkeys(self._keys, 0)
        self._turns = {key: asyncio.Lock() for key in self._keys}
        self._pieces = asyncio.Semaphore(_PIECES_AT_ONCE)
        self._storing = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._why_not(scope)
        if refused is not None:
            await _refuse(*refused, scope, receive, send)
        elif scope["path"] in _OF_PIECES:
            await self._in_turn(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _in_turn(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One piece of a node after the other; a node that asks for many at once is refused."""
        key = _key_of(dict(scope["headers"]))
        if self._waiting[key] >= _WAITING_OF_A_NODE:
            await _refuse(429, "too many at once", scope, receive, send)
            return
        self._waiting[key] += 1
        try:
            async with self._turns[key], self._pieces:
                await self._pass_piece(scope, receive, send)
        finally:
            self._waiting[key] -= 1

    async def _pass_piece(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a request whole, which may take its time, and only then let Flower have it.

        Flower copies a piece several times; so it is given one after the other.
        """
        try:
            body = await asyncio.wait_for(_whole(receive), _PIECE_S)
        except (TimeoutError, ConnectionError):
            await _refuse(408, "too slow", scope, receive, send)
            return
        if scope["path"] == _STORING:
            async with self._storing:
                await self._app(scope, _again(body, receive), send)
        else:
            await self._app(scope, _again(body, receive), send)
        if len(body) > _MOST_ANNOUNCED_BYTES:
            gc.collect()  # starlette's requests hold their bodies in cycles

    def _why_not(self, scope: Scope) -> tuple[int, str] | None:
        path, headers = scope["path"], scope["headers"]
        if not path.startswith(FLEET) or scope["method"] != "POST":
            return 404, "not found"
        if sum(len(name) + len(value) for name, value in headers) > _MOST_HEADER_BYTES:
            return 431, "headers too large"
        given = dict(headers)
        if len(given) != len(headers) or given.get(b"content-type") != _MEDIA_TYPE:
            return 415, "another media type"
        if b"transfer-encoding" in given:  # it would count, and not the length
            return 413, "of no announced size"
        size, most = given.get(b"content-length", b""), MOST_REQUEST_BYTES
        if path == _ANNOUNCING:
            most = _MOST_ANNOUNCED_BYTES
        if not size.isdigit() or len(size) > len(str(most)) or int(size) > most:
            return 413, "too large"
        return None if self._is_signed(given) else (401, "not signed by a key of the roster")

    def _is_signed(self, given: dict[bytes, bytes]) -> bool:
        try:
            key = _key_of(given)
            signature = b64decode(
                given[FLEET_HTTP_SIGNATURE_HEADER.lower().encode()], validate=True
            )
            timestamp = given[TIMESTAMP_HEADER.lower().encode()]
            age = (self._now() - datetime.fromisoformat(timestamp.decode())).total_seconds()
        except (KeyError, TypeError, ValueError, binascii.Error):
            return False
        if key not in self._keys or not -_AHEAD_S < age < _OLDEST_S:
            return False
        return bool(verify_signature(bytes_to_public_key(key), timestamp, signature))


def _key_of(given: dict[bytes, bytes]) -> bytes:
    """The key (PEM) that a request names, whether or not it is signed by it."""
    return b64decode(given[FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode()], validate=True)


async def _refuse(status: int, text: str, scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(text, status, {"Connection": "close"})(scope, receive, send)


async def _whole(receive: Receive) -> bytes:
    """The body of a request.

    Raises:
        ConnectionError: if the connection ends before it.
    """
    parts = []
    while True:
        event = await receive()
        if event["type"] != "http.request":
            raise ConnectionError("the connection ended")
        parts.append(event.get("body", b""))
        if not event.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read, once, and then what comes after it."""
    left = [body]

    async def given() -> MutableMapping[str, Any]:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return given


class Impatient(H11Protocol):
    """Closes a connection on which no request comes."""

    def connection_made(self, transport: Any) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        asyncio.get_running_loop().call_later(_FIRST_REQUEST_S, self._too_late)

    def _too_late(self) -> None:
        asked: Any = self.cycle  # None until the first request
        if asked is None and not self.transport.is_closing():
            self.transport.close()
