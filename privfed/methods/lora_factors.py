"""Where the factors of LoRA lie in an adapter's vector: A is (rank, in), B is (out, rank)."""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privfed.errors import ConfigError
from privfed.protocol.layout import Layout

A_FACTOR: Final = ".lora_A."
B_FACTOR: Final = ".lora_B."
"""In the name of a parameter, as PEFT has it."""


def require_factors(layout: Layout, kind: str) -> None:
    """Refuse an adapter that has not both factors.

    Raises:
        ConfigError: naming the method.
    """
    for factor in (A_FACTOR, B_FACTOR):
        if not any(factor in name for name in layout.names):
            raise ConfigError(
                f"{kind} needs an adapter with both factors of LoRA; for others take fedavg"
            )


def with_rank_in(layout: Layout, ranks: slice) -> NDArray[np.bool_]:
    """Which entries of the factors belong to some of the ranks: rows of A, columns of B.

    Args:
        layout: of the adapter.
        ranks: in each layer, as indices from 0; some but not all.

    Returns:
        Shape (params,); False for what is no factor.

    Raises:
        ConfigError: if a layer has not more ranks than these.
    """
    return _with_rank_in(layout, ranks.start, ranks.stop)


@lru_cache(maxsize=16)
def _with_rank_in(layout: Layout, start: int | None, stop: int | None) -> NDArray[np.bool_]:
    parts = []
    for name, shape in layout.parameters:
        part = np.zeros(shape, dtype=bool)
        axis = 0 if A_FACTOR in name else 1 if B_FACTOR in name else None
        if axis is not None:
            chosen = np.zeros(shape[axis], dtype=bool)
            chosen[start:stop] = True
            if chosen.all() or not chosen.any():
                raise ConfigError(
                    f"the rank of {name!r} is {shape[axis]}: a part of it must be some and not "
                    "all of these; raise the rank of the adapter or lower that of the part"
                )
            part |= np.expand_dims(chosen, 1 - axis)
        parts.append(part.ravel())
    mask = np.concatenate(parts)
    mask.setflags(write=False)
    return mask
