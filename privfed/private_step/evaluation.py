"""The public metric on held-out text, which is nobody's private record."""

import torch
from torch import Tensor

from privfed.errors import DataError
from privfed.models.tasks import Batch
from privfed.private_step.batches import num_rows, rows
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.trial import unreadable_rows


def require_readable(model: PrivateModel, held_out: Batch) -> None:
    """Refuse held-out records that the model cannot read, before anything is run or reserved.

    Args:
        model: as it will be trained.
        held_out: public records, tensors with leading dimension (records,).

    Raises:
        DataError: naming the first such record by its position from 0, and how many there are.
    """
    found = list(unreadable_rows(model, held_out))
    if found:
        position, why = found[0]
        raise DataError(
            f"every held-out record must be readable for the model; {len(found)} are not, the "
            f"first is record {position}, which {why}. Leave them out, or take the base model's "
            "own tokenizer"
        )


def held_out_metric(model: PrivateModel, encoded: Batch, batch_size: int) -> float:
    """Accuracy or perplexity of the model as it stands.

    Args:
        model: evaluated without gradients, and without noise.
        encoded: held-out records, tensors with leading dimension (records,).
        batch_size: records per forward pass.
    """
    numerator = denominator = 0.0
    with model.evaluation():
        for part in torch.split(torch.arange(num_rows(encoded)), batch_size):
            batch = model.begin(_without_padding(rows(encoded, part)))
            parts = model.task.metric_parts(model.adapter, batch)
            numerator, denominator = numerator + parts[0], denominator + parts[1]
    return model.task.metric_value(numerator, denominator)


def _without_padding(batch: Batch) -> dict[str, Tensor]:
    """The batch cut to its longest record; held-out text is public, so records may couple."""
    mask = batch["attention_mask"]
    length = max(1, int(mask.sum(dim=1).max()))
    return {n: t[:, :length] if t.shape[:2] == mask.shape else t for n, t in batch.items()}
