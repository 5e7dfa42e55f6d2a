"""Where training starts: a public file with all that an adapter adds to the base model.

It holds the initial values of what is trained, and the factors that stay frozen. The same seed
gives other bits on another processor (`kaiming_uniform_` and `qr` do), so the file is made once,
every party loads it, and its digest stands in the agreement.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from privfed.errors import ModelError
from privfed.models.vector import saved_tensors


def names_added(model: nn.Module, base: set[int]) -> tuple[str, ...]:
    """Names of what is trained, and of what was not in the base model, sorted.

    Args:
        model: the base model with an adapter attached.
        base: `id` of every tensor that the base model had before.
    """
    tensors = saved_tensors(model)
    return tuple(
        sorted(n for n, tensor in tensors if tensor.requires_grad or id(tensor) not in base)
    )


def start_bytes(model: nn.Module, names: Sequence[str]) -> bytes:
    """The content of the file.

    Args:
        model: as it was made.
        names: what the adapter added.
    """
    named = dict(saved_tensors(model))
    return save({name: named[name].detach().cpu().contiguous().clone() for name in names})


def load_start(path: Path, model: nn.Module, names: Sequence[str]) -> None:
    """Put the values of a file in place.

    Args:
        path: of the file.
        model: of the same kind; overwritten.
        names: what the adapter added.

    Raises:
        ModelError: if there is no such file, or it is of another adapter or base model.
    """
    try:
        values = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"the initial adapter {path} cannot be read ({type(error).__name__}); it is a public "
            "file that was made once for all parties: get it again"
        ) from error
    put_start(values, model, names, str(path))


def put_start(
    values: Mapping[str, Tensor], model: nn.Module, names: Sequence[str], source: str
) -> None:
    """Put initial values in place.

    Args:
        values: by the names that they have in the model.
        model: of the same kind; overwritten.
        names: what the adapter added.
        source: what they come from, for the error.

    Raises:
        ModelError: if they are of another adapter or base model.
    """
    named = dict(saved_tensors(model))
    found = {name: (tensor.shape, tensor.dtype) for name, tensor in values.items()}
    if found != {name: (named[name].shape, named[name].dtype) for name in names}:
        raise ModelError(
            f"the initial adapter {source} is of another adapter or base model than the settings "
            "name"
        )
    with torch.no_grad():
        for name, tensor in values.items():
            named[name].copy_(tensor)
