"""The hub's side of the network: a process that holds no key of the federation and no adapter.

It serves Flower's Fleet API over TLS, and nothing else: of Flower's other interfaces, which know no
authentication, none is there. Each node proves with the transport key that the roster names who it
is. The hub reaches the link through a socket that only its own user can open.

    python -m privfed.engines.flower.link SETTINGS.json

ends when its standard input does, and removes the folder of that file where it is its own.
"""

import contextlib
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

from privfed.canonical import canonical_json
from privfed.engines.flower.front_door import FrontDoor, Impatient
from privfed.engines.flower.internals import Message
from privfed.engines.flower.internals_hub import (
    NOOP_ACCOUNT_NAME,
    NOOP_FEDERATION_ID,
    NOOP_FLWR_AID,
    NodeAuthMiddleware,
    NoObjectInStoreError,
    NoOpFederationManager,
    ProtobufTranslationMiddleware,
    TaskIdentity,
    TaskType,
    fleet_router,
    get_objectstore_linkstate_factories,
    http_error_translator,
    sql_mixin,
)
from privfed.engines.flower.pieces import (
    MOST_OBJECTS,
    in_pieces,
    names_in,
    pieces_of,
    sealed,
)
from privfed.engines.machines import sockets
from privfed.engines.machines.carried import LOST, PIECE, WHOLE
from privfed.errors import MessageError
from privfed.protocol import streams

_POLL_S: Final = 0.1
_TASK_BEAT_S: Final = 20.0
_KIND: Final = "query"
_SMALL_CACHES: Final = {"cache_size": "-2000", "mmap_size": "0"}
_CONNECTIONS_PER_NODE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """What the link is told by the hub.

    Attributes:
        host: to listen at.
        port: to listen at; 0 chooses one.
        certificate: file (PEM) with the certificate of the hub, and those it follows from.
        key: file (PEM) with its secret key.
        socket: of the hub, a path.
        database: file for messages on their way; made anew.
        nodes: transport keys (PEM) of the clients, by name.
    """

    host: str
    port: int
    certificate: str
    key: str
    socket: str
    database: str
    nodes: Mapping[str, str]


class Arrived(Enum):
    """How much of a reply is here: all, part of it, or nothing that ever will be whole."""

    WHOLE = auto()
    COMING = auto()
    NEVER = auto()


class Link:
    """Messages on their way, in Flower's state.

    Args:
        settings: see `LinkSettings`.
    """

    def __init__(self, settings: LinkSettings) -> None:
        for name in (settings.database, f"{settings.database}-wal", f"{settings.database}-shm"):
            Path(name).unlink(missing_ok=True)
        sql_mixin.SQLITE_PRAGMAS = _with_small_caches(sql_mixin.SQLITE_PRAGMAS)
        os.close(os.open(settings.database, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        _, self._factory = get_objectstore_linkstate_factories(
            settings.database, NoOpFederationManager()
        )
        self._state: Any = self._factory.state()
        self._ids = {
            name: self._state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key.encode(), 0)
            for name, key in settings.nodes.items()
        }
        self._keys = [key.encode() for key in settings.nodes.values()]
        self._names = {number: name for name, number in self._ids.items()}
        self._run = self._state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        (run,) = self._state.get_run_info(run_ids=[self._run])
        self._task = run.primary_task_id
        self._state.claim_task(self._task)
        self._state.activate_task(self._task)
        TaskIdentity.run_id, TaskIdentity.node_id = self._run, 1
        TaskIdentity.task_id = self._task
        self._here: set[str] = set()
        threading.Thread(target=self._beat, daemon=True).start()

    def app(self) -> FastAPI:
        """The Fleet API, and nothing beside it."""
        app = FastAPI(
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            middleware=[
                Middleware(FrontDoor, keys=self._keys),
                Middleware(BaseHTTPMiddleware, dispatch=http_error_translator),
                Middleware(ProtobufTranslationMiddleware),
                Middleware(NodeAuthMiddleware),
            ],
        )
        app.state.linkstate_factory = self._factory
        app.state.enable_supernode_auth = True
        app.include_router(fleet_router)
        return app

    def present(self) -> list[str]:
        """Clients whose nodes are connected, sorted."""
        return sorted(self._names[number] for number in self._state.get_nodes(self._run))

    def replies(
        self, waiting: dict[str, str], timeout_s: float
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        """The replies to messages, in pieces, as they come; who stays away gives none.

        Args:
            waiting: clients that were sent a message, by its name, as `push` gave it.
            timeout_s: how long a client may take.
        """
        deadline, claimed = time.monotonic() + timeout_s, dict[str, Message]()
        while waiting and time.monotonic() < deadline:
            open_ = set(waiting).difference(claimed)
            for reply in self._state.get_message_res(message_ids=open_, run_id=self._run):
                claimed[reply.metadata.reply_to_message_id] = reply
            over = []
            for asked, reply in claimed.items():
                arrived = self._arrived(reply)
                if arrived is Arrived.COMING:  # it holds nobody up
                    continue
                if arrived is Arrived.WHOLE:
                    yield waiting[asked], self._pieces(reply)
                over.append(asked)
            for asked in over:
                self._state.delete_messages(message_ins_ids={asked})
                del waiting[asked], claimed[asked]
            if not over:
                time.sleep(_POLL_S)
        self._state.delete_messages(message_ins_ids=set(waiting))
        for asked in waiting:
            self._state.object_store.delete(asked)

    def push(self, name: str, content: bytes, timeout_s: float) -> str | None:
        """Send a message to a client; its name, or None if the client is not there."""
        if name not in self.present():
            return None
        records = in_pieces(content)
        del content  # a long one is held in memory once
        bare, tree, objects = sealed(Message(records, self._ids[name], _KIND, ttl=timeout_s + 60))
        session = self._state.start_session(self._run)
        _, missing = self._state.store_message_and_object_tree(bare, tree, session)
        for one in missing:
            self._state.store_object(self._run, session, one, objects[one].deflate())
        return str(bare.metadata.message_id)

    def _arrived(self, reply: Message) -> "Arrived":
        """How much of a reply is here."""
        try:
            return self._seen(reply)
        except Exception:  # noqa: BLE001 - whatever a node sent costs its own reply, and no other
            return Arrived.NEVER

    def _seen(self, reply: Message) -> "Arrived":
        if reply.has_error():  # Flower makes it, of a node that is lost
            return Arrived.NEVER
        try:
            tree = self._state.object_store.get_object_tree(reply.metadata.message_id)
        except NoObjectInStoreError:
            return Arrived.NEVER
        names = names_in(tree)
        if len(names) > MOST_OBJECTS:
            return Arrived.NEVER
        for name in names:
            if name not in self._here:
                content = self._state.get_object(self._run, name)
                if content is None:
                    return Arrived.NEVER
                if not content:
                    return Arrived.COMING
                self._here.add(name)
        return Arrived.WHOLE

    def _pieces(self, reply: Message) -> Iterator[bytes]:
        store, number = self._state.object_store, reply.metadata.message_id
        tree = store.get_object_tree(number)
        try:
            yield from pieces_of(tree, lambda name: bytes(self._state.get_object(self._run, name)))
        finally:
            self._here.difference_update(names_in(tree))
            store.delete(number)

    def _beat(self) -> None:
        """Without this, Flower takes the run for dead."""
        while self._state.acknowledge_task_heartbeat(self._task):
            time.sleep(_TASK_BEAT_S)


def _with_small_caches(pragmas: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Flower's settings of SQLite, but for caches of 64 MB for each connection."""
    return tuple((name, _SMALL_CACHES.get(name, value)) for name, value in pragmas)


def answer(link: Link, stream: streams.Stream) -> None:
    """Answer the hub until it closes the stream."""
    while (question := streams.receive(stream)) is not None:
        asked = json.loads(question)
        if asked["ask"] == "present":
            streams.send(stream, canonical_json({"present": link.present()}))
            continue
        sent, timeout_s = {}, float(asked["timeout_s"])
        for name in asked["to"]:
            message = link.push(name, streams.receive(stream) or b"", timeout_s)
            if message is not None:
                sent[message] = name
        for name, pieces in link.replies(sent, timeout_s):
            streams.send(stream, canonical_json({"from": name}))
            for frame in _framed(pieces):
                streams.send(stream, frame)
        streams.send(stream, canonical_json({"from": None}))


def _framed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces, each behind a byte that says so; then whether they were all."""
    try:
        for piece in pieces:
            yield PIECE + piece
    except Exception:  # noqa: BLE001 - whatever a node sent costs its own reply, and no other
        yield LOST
    else:
        yield WHOLE


def listen(link: Link, path: Path) -> None:
    """Answer one hub after the other at a socket that its user alone can open."""
    with sockets.listening(path) as server:
        server.settimeout(None)
        while True:
            connection, _ = server.accept()
            lost = contextlib.suppress(OSError, MessageError)
            with lost, connection, connection.makefile("rwb") as stream:
                answer(link, stream)


def listen_or_end(link: Link, path: Path) -> None:
    """Listen; if that fails, end the whole process, which is started again."""
    try:
        listen(link, path)
    finally:
        os._exit(1)


def main() -> None:
    """Serve until standard input ends."""
    settings = LinkSettings(**json.loads(Path(sys.argv[1]).read_text()))
    link = Link(settings)
    threading.Thread(target=listen_or_end, args=(link, Path(settings.socket)), daemon=True).start()
    server = uvicorn.Server(
        uvicorn.Config(
            link.app(),
            host=settings.host,
            port=settings.port,
            ssl_certfile=settings.certificate,
            ssl_keyfile=settings.key,
            log_config=None,
            http=Impatient,
            timeout_keep_alive=60,
            limit_concurrency=16 + _CONNECTIONS_PER_NODE * len(settings.nodes),
        )
    )
    threading.Thread(target=_end_with_input, args=(server,), daemon=True).start()
    gc.freeze()  # collections are then short; the front door makes one after each piece
    server.run()
    sockets.remove_own(Path(sys.argv[1]).parent)  # the hub may have been killed


def _end_with_input(server: uvicorn.Server) -> None:
    sys.stdin.buffer.read()
    server.should_exit = True


if __name__ == "__main__":
    main()
