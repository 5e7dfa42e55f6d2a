"""Which numbers of an adapter's vector belong to which parameter: public, the same everywhere."""

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from privfed.canonical import canonical_json


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and shapes of the trained parameters, in the order of the vector.

    Attributes:
        parameters: of each, name and shape.
    """

    parameters: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of all parameters."""
        return tuple(name for name, _ in self.parameters)

    @property
    def length(self) -> int:
        """Of the vector."""
        return sum(math.prod(shape) for _, shape in self.parameters)

    def mask(self, names: Collection[str]) -> NDArray[np.bool_]:
        """Which entries of the vector belong to these parameters, shape (params,)."""
        return _mask(self, frozenset(names))

    def digest(self) -> str:
        """SHA-256 (hex) of names and shapes."""
        layout = [[name, list(shape)] for name, shape in self.parameters]
        return hashlib.sha256(canonical_json(layout)).hexdigest()


@lru_cache(maxsize=16)
def _mask(layout: Layout, names: frozenset[str]) -> NDArray[np.bool_]:
    chosen = [name in names for name, _ in layout.parameters]
    mask = np.repeat(chosen, [math.prod(shape) for _, shape in layout.parameters])
    mask.setflags(write=False)  # it is handed to everybody who asks
    return mask
