"""One client on several devices: processes that clip the gradients of a part of every batch.

The process of the client draws the batch, deals it out, adds the clipped sums that come back to its
own, and goes on as alone: it alone draws noise, once, moves the parameters and knows the ledger. So
a step releases what it would release alone, and differs from it by rounding only. A replica is
given the records of its part, and keeps none of them.

Bytes pass through a pair of sockets that only these two processes hold. The collectives of
torch.distributed would open ports of the machine, on which sums without noise travel unprotected.
"""

import hashlib
import os
import pickle
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privfed.errors import ConfigError, ModelError, PrivfedError
from privfed.models.start_file import start_bytes
from privfed.models.tasks import Batch
from privfed.models.vector import read_vector
from privfed.private_step.batches import rows

if TYPE_CHECKING:
    from privfed.private_step.dpsgd import DPSGDConfig
    from privfed.private_step.private_model import PrivateModel

_REPLICA: Final = "privfed.private_step.replica"
_VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_ENDED: Final = (
    "another process of this client ended (out of memory?); the next round starts it again"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """How a replica builds its model.

    Attributes:
        model: builds it.
        threads: of the CPU that it may use.
        matmul_precision: as torch has it in the process of the client.
    """

    model: "Callable[[], PrivateModel]"
    threads: int
    matmul_precision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a replica clips and adds up in one step.

    Attributes:
        adapter: all trainable parameters, float32, shape (params,).
        moving: which of them move, same shape.
        records: tensors with leading dimension (records,); at least one.
        config: of the private step, with the present C.
    """

    adapter: NDArray[np.float32]
    moving: NDArray[np.bool_]
    records: Batch
    config: "DPSGDConfig"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedSum:
    """Clipped gradients, added up; no noise is in it, so it never leaves a client's processes.

    Attributes:
        total: float64, shape (moving params,).
        votes: sum of `half_votes` over the records; 0 where C follows no quantile.
    """

    total: Tensor
    votes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What went wrong in a replica.

    Attributes:
        reason: of the error.
        trace: with the lines of code; it may quote text.
    """

    reason: str
    trace: str


class Pipe:
    """Pickled objects between a process and a replica that it started, which trust each other.

    Tensors go by value, never through shared memory that has a name.
    """

    def __init__(self, end: socket.socket) -> None:
        self._connection = Connection(end.detach())

    def send(self, value: object) -> None:
        """Send an object."""
        self._connection.send_bytes(pickle.dumps(value))

    def receive(self) -> Any:
        """The next object.

        Raises:
            EOFError: if the other process is gone.
        """
        return pickle.loads(self._connection.recv_bytes())

    def close(self) -> None:
        """Let the other process see the end."""
        self._connection.close()


class _Process:
    """One replica, started."""

    def __init__(self, environment: Mapping[str, str], build: bytes) -> None:
        here, there = socket.socketpair()
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _REPLICA, str(there.fileno())],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        self._pipe = Pipe(here)
        self.send(build)

    def send(self, value: object) -> None:
        """Send an object.

        Raises:
            PrivfedError: if the process is gone.
        """
        try:
            self._pipe.send(value)
        except OSError as error:
            raise PrivfedError(_ENDED) from error

    def receive(self) -> Any:
        """What it answers.

        Raises:
            PrivfedError: if the process is gone.
        """
        try:
            return self._pipe.receive()
        except (EOFError, OSError) as error:
            raise PrivfedError(_ENDED) from error

    def close(self) -> None:
        """End it."""
        self._pipe.close()
        self._process.kill()
        self._process.wait()


class Replicas:
    """The other processes of a client. They end when this object does, and with its process.

    Args:
        build: builds the model in a replica, as it is built here; it is pickled.
        processes: of the client, this one counted; at least 2.
        device: of the model here; replicas take the CUDA devices after it.

    Raises:
        ConfigError: if there are not enough devices, or `build` cannot be pickled.
    """

    def __init__(
        self, build: "Callable[[], PrivateModel]", processes: int, device: torch.device
    ) -> None:
        self._environments = _environments(processes, device)
        self._threads = max(1, torch.get_num_threads() // processes)
        self._on_cpu = device.type == "cpu"
        try:
            self._build = pickle.dumps(
                Build(
                    model=build,
                    threads=self._threads,
                    matmul_precision=torch.get_float32_matmul_precision(),
                )
            )
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                "with processes above 1 the task, adapter and method must be of classes that "
                f"another process can import: {error}"
            ) from error
        self._running: list[_Process] = []
        self._asked: list[_Process] = []
        self._digest: str | None = None
        self._end = weakref.finalize(self, _close, self._running)
        self._start()

    def require_equal(self, model: "PrivateModel") -> None:
        """Wait until all replicas are ready, and refuse one that holds another model.

        Raises:
            ModelError: if a replica cannot build its model, or built another one.
        """
        self._digest = model_digest(model)
        self._wait()

    def deal(
        self, model: "PrivateModel", encoded: Batch, drawn: Tensor, config: "DPSGDConfig"
    ) -> Tensor:
        """Hand out a drawn batch.

        Args:
            model: whose parameters the gradients are taken at.
            encoded: all records of the client.
            drawn: indices of the batch, shape (batch,).
            config: of the private step, with the present C.

        Returns:
            The indices of which this process takes care itself.

        Raises:
            PrivfedError: if a replica is gone.
        """
        if self._asked or not self._running:  # a step failed half-way: nothing of it may be left
            self.close()
            self._start()
            self._wait()
        adapter = read_vector(model.adapter)
        count = len(self._running) + 1
        for number, replica in enumerate(self._running, start=1):
            part = drawn[drawn % count == number]  # a record's process is its own, whoever is drawn
            if len(part):
                self._asked.append(replica)
                records = rows(encoded, part)
                share = Share(adapter=adapter, moving=model.moving, records=records, config=config)
                replica.send(share)
        return drawn[drawn % count == 0]

    def sums(self) -> Iterator[ClippedSum]:
        """What the replicas clipped, one after the other.

        Raises:
            PrivfedError: if one of them failed; what it says of it is for the client's own log.
        """
        while self._asked:
            answer = self._asked[0].receive()
            if isinstance(answer, Failure):
                error = PrivfedError("another process of this client failed in a private step")
                error.add_note(answer.trace)
                raise error
            yield answer
            del self._asked[0]

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Leave the replicas their part of the CPU."""
        before = torch.get_num_threads()
        if self._on_cpu:
            torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def close(self) -> None:
        """End the replicas; the next step starts others."""
        self._asked.clear()
        _close(self._running)

    def _start(self) -> None:
        try:
            for environment in self._environments:
                self._running.append(_Process(environment, self._build))
        except BaseException:  # also where the user stops it: half of them would be asked
            self.close()
            raise

    def _wait(self) -> None:
        try:
            for replica in self._running:
                self._require_ready(replica.receive())
        except BaseException:
            self.close()
            raise

    def _require_ready(self, answer: "Failure | str") -> None:
        if isinstance(answer, Failure):
            raise ModelError(
                f"another process of this client cannot build the model: {answer.reason}"
            )
        if answer != self._digest:
            raise ModelError(
                "another process of this client built another model, or has another kind of "
                "device: a task, its files or the initial values are not the same every time; set "
                "processes = 1"
            )


def _close(running: list[_Process]) -> None:
    while running:
        running.pop().close()


def model_digest(model: "PrivateModel") -> str:
    """SHA-256 (hex) of the base model, of all that the adapter adds to it, and of the device."""
    cuda = model.device.type == "cuda"
    device = torch.cuda.get_device_name(model.device) if cuda else model.device.type
    added = start_bytes(model.adapter, model.added)
    return hashlib.sha256(f"{model.base_sha256} {device} ".encode() + added).hexdigest()


def _environments(processes: int, device: torch.device) -> list[dict[str, str]]:
    """Of each replica: what this process has, and one CUDA device of its own.

    Raises:
        ConfigError: if there are too few.
    """
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if device.type != "cuda":
        return [found] * (processes - 1)
    first, there = device.index or 0, torch.cuda.device_count()
    if first + processes > there:
        raise ConfigError(
            f"processes = {processes} needs as many CUDA devices, from cuda:{first} on; PyTorch "
            f"sees {there}"
        )
    visible = os.environ.get(_VISIBLE)
    names = [str(n) for n in range(there)] if visible is None else visible.split(",")
    return [{**found, _VISIBLE: names[first + n]} for n in range(1, processes)]
