"""Trainable parameters as one flat float32 vector, and back."""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from privfed.canonical import canonical_json
from privfed.errors import ModelError
from privfed.protocol.layout import Layout


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


def base_digest(base: nn.Module) -> str:
    """SHA-256 (hex) of a base model as a task builds it, before an adapter is attached.

    It covers all that a checkpoint of the base would hold, by the base's own names, whatever part
    of it an adapter goes on to train. So it can be computed again from the base alone, on another
    device and in another process. In 4 bits it is that of the quantised weights, which are the same
    wherever bitsandbytes quantises on the same kind of device.
    """
    return _digest(saved_tensors(base))


def frozen_digest(model: nn.Module) -> str:
    """SHA-256 (hex) of all that is frozen in a model: names, types, shapes and values.

    Buffers that a checkpoint would not hold are left out: each party computes them from the public
    configuration (rotary frequencies), on its own device, where the last bit may differ.
    """
    return _digest([(n, t) for n, t in saved_tensors(model) if not t.requires_grad])


def _digest(named: Iterable[tuple[str, torch.Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(_with_scales(named), key=lambda pair: pair[0]):
        digest.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]))
        values = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        digest.update(values.cpu().numpy().data)
    return digest.hexdigest()


def _with_scales(named: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in named:
        yield name, tensor
        quantised = getattr(tensor, "quant_state", None)  # of bitsandbytes: its scales
        if quantised is not None:
            for part, scales in quantised.as_dict(packed=True).items():
                yield f"{name}.{part}", scales


def saved_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, and the buffers that a checkpoint would hold, by name."""
    yield from model.named_parameters()
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}".removeprefix("."), buffer


def layout_of(model: nn.Module) -> Layout:
    """Names and shapes of the trainable parameters, in the order of the vector."""
    return Layout(tuple((name, tuple(parameter.shape)) for name, parameter in trainable(model)))
