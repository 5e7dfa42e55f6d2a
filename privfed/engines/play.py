"""All parties of a simulation in one process: it carries their bytes, across no network.

A client that fails drops out of the round; the others, and whoever reads the report, learn that it
did not take part and nothing else.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from privfed.engines.stacked import stacks, updates_of
from privfed.parties.client.program import Program
from privfed.parties.client.run import ClientRun, Waiting
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import TRAIN

T = TypeVar("T")


class Shared:
    """What equal bytes determine is computed once for all clients of a process.

    So only the first of them decrypts a sum and looks for seeds that came before; each records by
    itself whose sum it opened.
    """

    def __init__(self) -> None:
        self._message: bytes | None = None
        self._value: Any = None

    def __call__(self, message: bytes, compute: Callable[[], T]) -> T:
        """What `compute` returns, or returned for this message, if it was the last one."""
        if self._message != message:
            self._value, self._message = compute(), message
        value: T = self._value
        return value


class Play:
    """Clients that share a process, and the model of those on one base.

    Args:
        programs: of every client.
        stacked_clients: how many clients train in one pass; 1 trains one after the other.
        on_client: called with the id of a client when it is done with training, whether or not it
            takes part.
    """

    def __init__(
        self,
        programs: Mapping[str, Program],
        *,
        stacked_clients: int,
        on_client: Callable[[str], None],
    ) -> None:
        self._programs = programs
        self._stacked_clients = stacked_clients
        self._on_client = on_client

    def exchange(self, messages: Mapping[str, bytes]) -> dict[str, bytes]:
        """Hand every client its message, and return the replies."""
        training = any(statement_of(message).kind == TRAIN for message in set(messages.values()))
        if training and self._stacked_clients > 1:
            return self._train_stacked(messages)
        replies = {}
        for client, message in messages.items():
            replies[client] = self._programs[client].handle(message)
            if training:
                self._on_client(client)
        return replies

    def _train_stacked(self, messages: Mapping[str, bytes]) -> dict[str, bytes]:
        """Everybody reserves first; then several train in one pass over the model."""
        replies: dict[str, bytes] = {}
        waiting: list[tuple[ClientRun, Waiting]] = []
        for client, message in messages.items():
            program = self._programs[client]
            if program.membership.epoch:
                run = program.membership.run
                begun = run.begin(message)
                if isinstance(begun, Waiting):
                    waiting.append((run, begun))
                    continue
                replies[client] = begun
            else:  # it says that no run is open here
                replies[client] = program.handle(message)
            self._on_client(client)
        for stack in stacks(waiting, self._stacked_clients):
            updates = updates_of(stack)
            for position, (run, reserved) in enumerate(stack):
                done = run.finish(reserved, updates[position]) if updates else run.absent()
                replies[run.node.id] = done
            for run, _ in stack:
                self._on_client(run.node.id)
        return replies
