"""Nodes of a link that runs in this process: real requests and handlers, and no network."""

import asyncio
import contextlib
import threading
import time

import httpx
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from privfed.engines.flower import internals_node as node
from privfed.engines.flower.internals import Message
from privfed.engines.flower.link import Link, LinkSettings
from privfed.engines.flower.pieces import in_pieces, pieces_of, sealed
from privfed.identity.transport import as_pem, new_transport_key

NAMES = ("a", "b", "c")
KEYS = {name: new_transport_key() for name in (*NAMES, "stranger")}
"""Secret key (PEM) and public key by name."""


def made_link(folder):
    """A link for the nodes `NAMES`, with its database in a folder."""
    return Link(
        LinkSettings(
            host="unused",
            port=0,
            certificate="unused",
            key="unused",
            socket=str(folder / "link.sock"),
            database=str(folder / "link.db"),
            nodes={name: as_pem(KEYS[name][1]).decode() for name in NAMES},
        )
    )


class InProcess(httpx.BaseTransport):
    """Gives requests to an application in this process.

    Args:
        app: of a link.
    """

    def __init__(self, app):
        self._app = httpx.ASGITransport(app)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def handle_request(self, request):
        """The answer."""
        return asyncio.run_coroutine_threadsafe(self._answer(request), self._loop).result(60)

    def close(self):
        """A client that is closed leaves the application to the others."""

    def end(self):
        """End the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        while self._loop.is_running():
            time.sleep(0.01)
        self._loop.close()

    async def _answer(self, request):
        if not isinstance(request.stream, httpx.AsyncByteStream):
            request.stream = _Streamed(request.stream)
        answer = await self._app.handle_async_request(request)
        content = await answer.aread()
        return httpx.Response(answer.status_code, headers=answer.headers, content=content)


class _Streamed(httpx.AsyncByteStream):
    def __init__(self, pieces):
        self._pieces = pieces

    async def __aiter__(self):
        for piece in self._pieces:
            yield piece


def fleet_client(transport, name):
    """Flower's client of the Fleet API, which proves that it has the key of a name."""
    secret = load_pem_private_key(KEYS[name][0], None)
    client = node.FleetHttpClient(
        "http://hub",
        interceptors=[node.NodeAuthHttpInterceptor(secret, secret.public_key())],
    )
    client._client.close()
    client._client = httpx.Client(transport=transport)
    return client


class FakeNode:
    """A node that answers by hand.

    Args:
        transport: to the link.
        name: of the node.
        key: whose key it has, if not its own.
    """

    def __init__(self, transport, name, key=None):
        self.name = name
        self.client = fleet_client(transport, key or name)
        self.number = None

    def activate(self, heartbeat_s=100.0):
        """Connect."""
        public = node.public_key_to_bytes(
            load_pem_private_key(KEYS[self.name][0], None).public_key()
        )
        asked = node.ActivateNodeRequest(public_key=public, heartbeat_interval=heartbeat_s)
        self.number = self.client.ActivateNode(asked).node_id
        return self

    @property
    def node(self):
        return node.Node(node_id=self.number)

    def leave(self):
        self.client.DeactivateNode(node.DeactivateNodeRequest(node_id=self.number))

    def pull(self):
        """The message that waits for it with its content, or None."""
        found = self.client.PullMessages(node.PullMessagesRequest(node=self.node))
        if not found.messages_list:
            return None
        asked = node.message_from_proto(found.messages_list[0])
        run = asked.metadata.run_id

        def fetched(name):
            wanted = node.PullObjectRequest(node=self.node, run_id=run, object_id=name)
            while not (found := self.client.PullObject(wanted)).object_available:
                assert found.object_found
            return found.object_content

        content = b"".join(pieces_of(found.message_object_trees[0], fetched))
        self.client.ConfirmMessageReceived(
            node.ConfirmMessageReceivedRequest(
                node=self.node, run_id=run, message_object_id=asked.metadata.message_id
            )
        )
        return asked, content

    def wait(self):
        """As `pull`, once there is one."""
        while (found := self.pull()) is None:
            threading.Event().wait(0.01)
        return found

    def push(self, asked, records):
        """Begin a reply: a function that sends each object that is still wanted."""
        if isinstance(records, bytes):
            records = in_pieces(records)
        bare, tree, objects = sealed(Message(records, reply_to=asked))
        accepted = self.client.PushMessages(
            node.PushMessagesRequest(
                node=self.node,
                messages_list=[node.message_to_proto(bare)],
                message_object_trees=[tree],
                clientapp_runtime_list=[0.0],
            )
        )

        def send(name):
            self.client.PushObject(
                node.PushObjectRequest(
                    node=self.node,
                    run_id=asked.metadata.run_id,
                    object_id=name,
                    object_content=objects[name].deflate(),
                    session_id=accepted.session_id,
                )
            )

        return {name: lambda name=name: send(name) for name in accepted.objects_to_push}

    def reply(self, asked, content):
        """A whole reply."""
        for send in self.push(asked, content).values():
            send()


@contextlib.contextmanager
def meanwhile(*functions):
    """Run functions beside the block; what they raise is raised after it."""
    raised = []

    def kept(function):
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised below
            raised.append(error)

    threads = [threading.Thread(target=kept, args=(one,), daemon=True) for one in functions]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    for error in raised:
        raise error
