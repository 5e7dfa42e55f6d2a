"""A node's side of the network: a process that holds neither text nor a key of the federation.

It fetches messages from the hub over TLS, hands each to the node's worker through a socket that
only the node's own user can open, and sends back the reply. What parses the network is this
process: it runs no code that the hub sends, knows the transport key only, and can be run as another
user.

    python -m privfed.engines.flower.pump SETTINGS.json

ends when its standard input does.
"""

import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from privfed.engines.flower.internals import Message
from privfed.engines.flower.internals_node import (
    ActivateNodeRequest,
    ConfirmMessageReceivedRequest,
    DeactivateNodeRequest,
    FleetHttpClient,
    Node,
    NodeAuthHttpInterceptor,
    PullMessagesRequest,
    PullObjectRequest,
    PushMessagesRequest,
    PushObjectRequest,
    SendNodeHeartbeatRequest,
    message_from_proto,
    message_to_proto,
    public_key_to_bytes,
)
from privfed.engines.flower.pieces import in_pieces, pieces_of, sealed
from privfed.engines.machines import sockets
from privfed.errors import MessageError
from privfed.protocol import streams

_SOONEST_S: Final = 0.2
_LATEST_S: Final = 3.0
_BACK_OFF: Final = 1.5
_AGAIN_S: Final = 2.0
_BEAT_S: Final = 8.0
_HEARTBEAT_S: Final = 15.0
"""A node that is silent for twice as long is away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PumpSettings:
    """What the pump is told by its node.

    Attributes:
        hub: "host:port".
        certificate: file (PEM) by which the hub's certificate is trusted.
        key: file (PEM) with the node's transport key.
        socket: of the worker, a path.
    """

    hub: str
    certificate: str
    key: str
    socket: str


class Pump:
    """One connection to the hub.

    Args:
        settings: see `PumpSettings`.
        stopped: set when it is to end.
    """

    def __init__(self, settings: PumpSettings, stopped: threading.Event) -> None:
        key = load_pem_private_key(Path(settings.key).read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise MessageError("a transport key must be one of an elliptic curve")
        self._settings = settings
        self._public = public_key_to_bytes(key.public_key())
        self._client = FleetHttpClient.from_server_address(
            settings.hub,
            False,
            settings.certificate,
            interceptors=[
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        )
        self._node: Any = None
        self._stopped = stopped

    def run(self, connected: Callable[[], None]) -> None:
        """Carry messages until it is to end.

        Args:
            connected: told once there is a connection.

        Raises:
            httpx.HTTPError, MessageError, OSError: if hub or worker do not answer any more.
        """
        with self._client:
            reply = self._client.ActivateNode(
                ActivateNodeRequest(public_key=self._public, heartbeat_interval=_HEARTBEAT_S)
            )
            self._node = Node(node_id=reply.node_id)
            connected()
            done = threading.Event()
            beating = threading.Thread(target=self._beat_until, args=(done,), daemon=True)
            beating.start()
            try:
                self._carry()
            finally:
                done.set()
                beating.join()
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))

    def _carry(self) -> None:
        pause = _SOONEST_S
        while not self._stopped.is_set():
            if self._carried():
                pause = _SOONEST_S
            else:
                self._stopped.wait(pause)
                pause = min(pause * _BACK_OFF, _LATEST_S)

    def _carried(self) -> bool:
        """Fetch a message, have it answered, send the reply; False if there was none."""
        found = self._client.PullMessages(PullMessagesRequest(node=self._node))
        if not found.messages_list:
            return False
        asked = message_from_proto(found.messages_list[0])
        run = asked.metadata.run_id
        number = asked.metadata.message_id
        tree = found.message_object_trees[0]
        content = b"".join(pieces_of(tree, lambda one: self._pull(run, one)))
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self._node, run_id=run, message_object_id=number)
        )
        self._reply(asked, self._answer_of_worker(content))
        return True

    def _answer_of_worker(self, content: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._settings.socket)
            with connection.makefile("rwb") as stream:
                streams.send(stream, content)
                reply = streams.receive(stream)
        if reply is None:
            raise MessageError("the worker gave no answer")
        return reply

    def _beat_until(self, done: threading.Event) -> None:
        """Tell the hub that this node is here, also while the worker works or a reply is sent."""
        while not done.wait(_BEAT_S):
            with contextlib.suppress(httpx.HTTPError):  # one may fail
                self._client.SendNodeHeartbeat(
                    SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=_HEARTBEAT_S)
                )

    def _pull(self, run: int, name: str) -> bytes:
        while True:
            reply = self._client.PullObject(
                PullObjectRequest(node=self._node, run_id=run, object_id=name)
            )
            if not reply.object_found:
                raise MessageError("an object of a message is missing")
            if reply.object_available:
                return bytes(reply.object_content)
            time.sleep(_SOONEST_S)

    def _reply(self, asked: Message, content: bytes) -> None:
        bare, tree, objects = sealed(Message(in_pieces(content), reply_to=asked))
        accepted = self._client.PushMessages(
            PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(bare)],
                message_object_trees=[tree],
                clientapp_runtime_list=[0.0],
            )
        )
        for name in accepted.objects_to_push:
            self._client.PushObject(
                PushObjectRequest(
                    node=self._node,
                    run_id=asked.metadata.run_id,
                    object_id=name,
                    object_content=objects[name].deflate(),
                    session_id=accepted.session_id,
                )
            )


def main() -> None:
    """Carry messages until standard input ends; a connection that is lost is made again."""
    settings = PumpSettings(**json.loads(Path(sys.argv[1]).read_text()))
    stopped, last = threading.Event(), ""
    threading.Thread(target=_end_with_input, args=(stopped,), daemon=True).start()
    while not stopped.is_set():
        try:
            Pump(settings, stopped).run(lambda: _tell(f"connected to {settings.hub}"))
            last = ""
        except (httpx.HTTPError, MessageError, OSError) as error:
            why = _why_lost(error, settings)
            if why != last:
                _tell(why)
            last = why
        stopped.wait(_AGAIN_S)
    sockets.remove_own(Path(sys.argv[1]).parent)  # the node may have been killed


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):  # the node was killed
        print(line, flush=True)


def _why_lost(error: Exception, settings: PumpSettings) -> str:
    """What to look at when the connection is gone."""
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        if status == httpx.codes.PRECONDITION_FAILED:
            return (
                f"{settings.hub} does not take this node yet: its last connection still counts, "
                "for some seconds"
            )
        if status == httpx.codes.UNAUTHORIZED:
            return (
                f"{settings.hub} does not let this node in: it was started again, its roster has "
                "another transport key, or the clock here is ahead of its own, or minutes behind"
            )
        return f"{settings.hub} answers with status {status}; it is asked again"
    if isinstance(error, httpx.ConnectError) and "CERTIFICATE" in str(error):
        return (
            f"{settings.hub} shows another certificate than {settings.certificate}, or an old one"
        )
    if isinstance(error, httpx.ConnectError):
        return f"{settings.hub} does not answer; it is asked again"
    if isinstance(error, httpx.TransportError):
        return f"the connection to {settings.hub} broke ({type(error).__name__})"
    if isinstance(error, MessageError):
        return str(error)
    return f"the node itself does not answer ({type(error).__name__})"


def _end_with_input(stopped: threading.Event) -> None:
    sys.stdin.buffer.read()
    stopped.set()


if __name__ == "__main__":
    main()
