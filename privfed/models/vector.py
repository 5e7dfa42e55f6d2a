"""Trainable parameters as one flat float32 vector, and back."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from privfed.errors import ModelError
from privfed.messages import canonical_json


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Trainable parameters in the fixed order of their names."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    yield from sorted(named, key=lambda pair: pair[0])


def num_trainable(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for _, parameter in trainable(model))


def read_vector(model: nn.Module) -> NDArray[np.float32]:
    """All trainable parameters, shape (params,)."""
    parts = [p.detach().to(torch.float32).reshape(-1) for _, p in trainable(model)]
    return torch.cat(parts).cpu().numpy().copy()


def write_vector(model: nn.Module, vector: NDArray[np.float32]) -> None:
    """Set all trainable parameters from a vector of shape (params,)."""
    if vector.shape != (num_trainable(model),):
        raise ModelError(
            f"the vector must have shape ({num_trainable(model)},), got {vector.shape}: "
            "it belongs to another adapter"
        )
    offset = 0
    with torch.no_grad():
        for _, parameter in trainable(model):
            part = vector[offset : offset + parameter.numel()]
            parameter.copy_(torch.from_numpy(part.copy()).reshape(parameter.shape))
            offset += parameter.numel()


def vector_digest(vector: NDArray[np.float32]) -> str:
    """SHA-256 (hex) of a vector's little-endian bytes."""
    return hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest()


def frozen_digest(model: nn.Module) -> str:
    """SHA-256 (hex) of all frozen parameters and buffers: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_frozen_tensors(model), key=lambda pair: pair[0]):
        digest.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]))
        values = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        digest.update(values.cpu().numpy().data)
    return digest.hexdigest()


def _frozen_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_buffers()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            yield name, parameter
            quantised = getattr(parameter, "quant_state", None)  # of bitsandbytes: its scales
            if quantised is not None:
                for part, tensor in quantised.as_dict(packed=True).items():
                    yield f"{name}.{part}", tensor


def layout_digest(model: nn.Module) -> str:
    """SHA-256 (hex) of the names and shapes of the trainable parameters."""
    layout = [[name, list(parameter.shape)] for name, parameter in trainable(model)]
    return hashlib.sha256(canonical_json(layout)).hexdigest()
