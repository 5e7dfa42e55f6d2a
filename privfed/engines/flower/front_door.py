"""What is asked of a request before anything of it is read: who sends it, and how much.

Flower reads a whole request, and makes objects of it, before it checks the signature. So the
outermost layer lets nobody in whose signed timestamp is not by a transport key of the roster, and
nothing that is larger than what a node ever sends.
"""

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Callable, Collection
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
_OF_PIECES: Final = (f"{FLEET}push-object", f"{FLEET}pull-object")
_PIECES_AT_ONCE: Final = 2
"""So that memory hardly grows with the number of nodes; others are read when it is their turn."""
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
        self._pieces = asyncio.Semaphore(_PIECES_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._why_not(scope)
        if refused is None and scope["path"] in _OF_PIECES:
            async with self._pieces:
                await self._app(scope, receive, send)
            return
        if refused is None:
            await self._app(scope, receive, send)
            return
        status, text = refused
        await PlainTextResponse(text, status, {"Connection": "close"})(scope, receive, send)

    def _why_not(self, scope: Scope) -> tuple[int, str] | None:
        path, headers = scope["path"], scope["headers"]
        if not path.startswith(FLEET) or scope["method"] != "POST":
            return 404, "not found"
        if sum(len(name) + len(value) for name, value in headers) > _MOST_HEADER_BYTES:
            return 431, "headers too large"
        given = dict(headers)
        if len(given) != len(headers) or given.get(b"content-type") != _MEDIA_TYPE:
            return 415, "another media type"
        size, most = given.get(b"content-length", b""), MOST_REQUEST_BYTES
        if path == _ANNOUNCING:
            most = _MOST_ANNOUNCED_BYTES
        if not size.isdigit() or len(size) > len(str(most)) or int(size) > most:
            return 413, "too large"
        return None if self._is_signed(given) else (401, "not signed by a key of the roster")

    def _is_signed(self, given: dict[bytes, bytes]) -> bool:
        try:
            key = b64decode(given[FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode()], validate=True)
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
