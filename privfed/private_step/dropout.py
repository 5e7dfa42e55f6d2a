"""Dropout whose masks nobody can know.

The bound on one record's influence takes the masks of the other records as independent of it. From
a generator with a known seed, the masks are a fixed sequence, handed out by position: one record
less shifts those of all that follow, and every gradient in the batch changes. So masks come from
keys of the operating system, one for each layer and pass. A layer that runs again within its pass
(gradient checkpointing) finds the same mask.
"""

import math
import os

import numpy as np
import torch
from torch import Tensor, nn

from privfed.private_step.randomness import RandomStream


class SecretDropout(nn.Dropout):
    """As `torch.nn.Dropout`, with a mask from a secret key.

    Attributes:
        key: 32 secret bytes of this pass; None outside of a private pass.
    """

    key: bytes | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Zero entries with probability p and scale the others by 1 / (1 - p)."""
        if self.key is None or not self.training or self.p == 0:
            return super().forward(input)
        kept = _kept(self.key, input.shape, self.p, input.device)
        return input * kept.to(input.dtype) / (1 - self.p)


def secret_dropouts(model: nn.Module) -> list[SecretDropout]:
    """Give every active dropout layer of the model secret masks; returns those layers."""
    for module in model.modules():
        if type(module) is nn.Dropout and module.p > 0:
            module.__class__ = SecretDropout
    return [module for module in model.modules() if isinstance(module, SecretDropout)]


def new_keys(layers: list[SecretDropout]) -> None:
    """Fresh masks for the next pass."""
    for layer in layers:
        layer.key = os.urandom(32)


def forget_keys(layers: list[SecretDropout]) -> None:
    """Leave nothing of the last pass."""
    for layer in layers:
        layer.key = None


def _kept(key: bytes, shape: torch.Size, p: float, device: torch.device) -> Tensor:
    """Which entries stay; bool, of the given shape."""
    if device.type != "cpu":
        generator = torch.Generator(device).manual_seed(int.from_bytes(key[:8], "little") >> 1)
        return torch.rand(shape, generator=generator, device=device) >= p
    count = math.prod(shape)
    words = RandomStream(key, bytes(16)).words((count + 1) // 2)
    halves = words.view(np.uint32)[:count]
    kept = halves >= np.uint32(min(math.ceil(p * 2**32), 2**32 - 1))
    return torch.from_numpy(kept).reshape(shape)
