"""Physical batches: of one fixed size, so that neither time nor rounding tells who was drawn.

A drawn batch is cut into parts of a public size. The last part is filled up with rows that carry
weight zero: the model sees one shape only (nothing is compiled twice), and the arithmetic of a
record does not depend on how many others were drawn.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from privfed.models.tasks import Batch


@dataclass(frozen=True, slots=True)
class PhysicalBatch:
    """Rows that pass through the model at once.

    Attributes:
        tensors: each with leading dimension (records,).
        present: which rows are records, shape (records,), bool; the others only fill up.
    """

    tensors: dict[str, Tensor]
    present: Tensor


def physical_batches(encoded: Batch, drawn: Tensor, size: int) -> Iterator[PhysicalBatch]:
    """The drawn records, `size` rows at a time.

    Args:
        encoded: all records, tensors with leading dimension (records,).
        drawn: indices of records, shape (drawn,); none if empty.
        size: rows of every physical batch.
    """
    for part in torch.split(drawn, size) if len(drawn) else ():
        filled = torch.cat([part, part[:1].expand(size - len(part))])
        yield PhysicalBatch(rows(encoded, filled), torch.arange(size) < len(part))


def rows(encoded: Batch, indices: Tensor) -> dict[str, Tensor]:
    """The chosen rows; never cut to the longest of them, which would couple records."""
    return {name: tensor[indices] for name, tensor in encoded.items()}


def num_rows(encoded: Batch) -> int:
    """The leading dimension that all tensors share."""
    return len(next(iter(encoded.values())))
