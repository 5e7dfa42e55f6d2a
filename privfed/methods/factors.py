"""The factors of LoRA in the vector of an adapter: where they lie, their ranks, their product."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privfed.errors import ConfigError
from privfed.methods.fixed_order import Matrix, product, qr, svd, transposed
from privfed.protocol.layout import Layout

A_FACTOR: Final = ".lora_A."
B_FACTOR: Final = ".lora_B."
_MAGNITUDE: Final = ".lora_magnitude_vector."
"""In the name of a parameter, as PEFT has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorPair:
    """Both factors of one adapted module, as PEFT stores them for `Linear` and `Conv1D` alike.

    Attributes:
        name: of A in the layout.
        first_of_a: where A begins in the vector.
        first_of_b: where B begins.
        rank: r.
        inputs: of the module; A has shape (rank, inputs).
        outputs: of the module; B has shape (outputs, rank).
    """

    name: str
    first_of_a: int
    first_of_b: int
    rank: int
    inputs: int
    outputs: int

    def read(self, vector: NDArray[np.floating]) -> tuple[Matrix, Matrix]:
        """B and A from a vector of shape (params,)."""
        a, b = (vector[place].astype(np.float64) for place in self._places())
        return b.reshape(self.outputs, self.rank), a.reshape(self.rank, self.inputs)

    def write(self, vector: Matrix, b: Matrix, a: Matrix) -> None:
        """Put B and A into a vector of shape (params,)."""
        of_a, of_b = self._places()
        vector[of_a], vector[of_b] = a.reshape(-1), b.reshape(-1)

    def _places(self) -> tuple[slice, slice]:
        end_of_a = self.first_of_a + self.rank * self.inputs
        end_of_b = self.first_of_b + self.outputs * self.rank
        return slice(self.first_of_a, end_of_a), slice(self.first_of_b, end_of_b)


def pairs_of(layout: Layout, method: str) -> tuple[FactorPair, ...]:
    """The pairs of factors, in the order of the vector.

    Args:
        layout: of the adapter.
        method: that needs them, for the error.

    Raises:
        ConfigError: if there are none, one lacks its other half, or DoRA is around them.
    """
    if any(_MAGNITUDE in name for name in layout.names):
        raise ConfigError(
            f"{method} counts on the product of the factors; DoRA divides by a norm that depends "
            "on both: take fedavg, or leave out dora"
        )
    first, found = 0, {}
    for name, shape in layout.parameters:
        found[name] = (first, shape)
        first += math.prod(shape)
    halves = {name for name in found if A_FACTOR in name}
    wanted = {name.replace(A_FACTOR, B_FACTOR) for name in halves}
    if not halves or wanted != {name for name in found if B_FACTOR in name}:
        raise ConfigError(
            f"{method} needs an adapter with both factors of LoRA; for others take fedavg"
        )
    pairs = []
    for name in (name for name in found if name in halves):
        (of_a, a), (of_b, b) = found[name], found[name.replace(A_FACTOR, B_FACTOR)]
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            raise ConfigError(
                f"{method} needs factors A of shape (rank, inputs) and B of shape (outputs, rank), "
                f"but {name} has shape {a} and its B {b}; for such modules take fedavg"
            )
        pairs.append(
            FactorPair(
                name=name, first_of_a=of_a, first_of_b=of_b, rank=a[0], inputs=a[1], outputs=b[0]
            )
        )
    return tuple(pairs)


def alike(pairs: Sequence[FactorPair]) -> list[list[int]]:
    """Positions of the pairs of each shape, which can be computed together."""
    shapes: dict[tuple[int, int, int], list[int]] = {}
    for position, pair in enumerate(pairs):
        shapes.setdefault((pair.rank, pair.inputs, pair.outputs), []).append(position)
    return list(shapes.values())


def read_all(pairs: Sequence[FactorPair], vector: NDArray[np.floating]) -> tuple[Matrix, Matrix]:
    """B and A of modules of one shape, (modules, outputs, rank) and (modules, rank, inputs)."""
    factors = [pair.read(vector) for pair in pairs]
    return np.stack([b for b, _ in factors]), np.stack([a for _, a in factors])


def product_svd(b: Matrix, a: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """U S, the singular values and V^T of the product B A, from QR of both and SVD of the core.

    If the rows of A are independent, those of V^T are an orthonormal basis of the same space, also
    where B A has a smaller rank: then U S ends with zeros.

    Args:
        b: shape (..., outputs, r).
        a: shape (..., r, inputs).

    Returns:
        Shapes (..., outputs, r), (..., r) and (..., r, inputs).
    """
    left, of_left = qr(b)
    right, of_right = qr(transposed(a))
    scaled, values, turned = svd(product(of_left, transposed(of_right)))
    return product(left, scaled), values, product(transposed(turned), transposed(right))


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
