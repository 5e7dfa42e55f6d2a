"""Processes that take one client's private steps together, each with a part of every batch.

All of them draw the same batch and the same noise from streams under one key, so that nothing but
clipped sums passes between them: one sum over processes for every step, also where a process has no
record of the batch. Their adapters then move alike.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from privfed.errors import ConfigError
from privfed.private_step.randomness import RandomStream


class Ranks(Protocol):
    """The processes of one client.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
    """

    rank: int
    size: int

    def add_up(self, sums: Tensor) -> None:
        """Replace `sums` by its sum over all processes, on every one of them."""
        ...


class Alone:
    """One process."""

    rank = 0
    size = 1

    def add_up(self, sums: Tensor) -> None:
        """Nothing to add."""


def require_alike(
    ranks: Ranks, data: bytes, tensors: Sequence[Tensor], device: torch.device
) -> None:
    """Refuse processes that do not hold the same records, adapter, settings and batches.

    A record that several of them take would count twice.

    Args:
        ranks: the processes; only a digest passes between them.
        data: to compare.
        tensors: to compare.
        device: where the processes pass tensors.

    Raises:
        ConfigError: on every process.
    """
    if ranks.size == 1:
        return
    digest = hashlib.sha256(data)
    for tensor in tensors:
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.contiguous().cpu().view(torch.uint8).numpy().data)
    mine = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8).to(device).double()
    total, squares = mine.clone(), mine.square()
    ranks.add_up(total)
    ranks.add_up(squares)
    if not torch.equal(total.square(), ranks.size * squares):  # else the bytes differ somewhere
        raise ConfigError(
            "all processes of a client must hold the same records, settings and secret streams"
        )


class ProcessGroup:
    """The processes of torch.distributed, after its `init_process_group`.

    They must belong to one client: what passes between them has no noise.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def add_up(self, sums: Tensor) -> None:
        """All-reduce in place."""
        dist.all_reduce(sums)

    def stream(self, device: torch.device) -> RandomStream:
        """A secret stream that is the same on every process; its key is drawn by the first.

        Args:
            device: where the group passes tensors: "cpu" for gloo, the own device for nccl.
        """
        key = torch.frombuffer(bytearray(os.urandom(32)), dtype=torch.uint8).to(device)
        dist.broadcast(key, src=0)
        return RandomStream(bytes(key.cpu().numpy()), bytes(16))
