"""Records that consist of several examples, as tensors of one public shape."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from privfed.data.records import Record, RecordGroup
from privfed.models.tasks import EXAMPLE_WEIGHT, Task


def encode_records(
    task: Task, tokenizer: Any, records: Sequence[Record | RecordGroup], examples_per_record: int
) -> dict[str, Tensor]:
    """Records as tensors.

    Args:
        task: turns examples into tensors.
        tokenizer: of the task.
        records: examples, or groups of them.
        examples_per_record: public; a group with more keeps its first ones, one with fewer is
            filled up with examples of weight zero.

    Returns:
        With one example per record, what the task collates, leading dimension (records,). With
        more, leading dimensions (records, examples), and the weights of the examples in the loss
        of their record, which add up to one.
    """
    groups = [_examples(record)[:examples_per_record] for record in records]
    if examples_per_record == 1:
        return task.collate(tokenizer, [group[0] for group in groups])
    filled = [(*group, *group[:1] * (examples_per_record - len(group))) for group in groups]
    flat = task.collate(tokenizer, [example for group in filled for example in group])
    shape = (len(groups), examples_per_record)
    counts = torch.tensor([len(group) for group in groups]).unsqueeze(1)
    position = torch.arange(examples_per_record).unsqueeze(0)
    weights = torch.where(position < counts, 1.0 / counts, 0.0)
    return {
        **{name: tensor.view(*shape, *tensor.shape[1:]) for name, tensor in flat.items()},
        EXAMPLE_WEIGHT: weights,
    }


def chunks(tokenizer: Any, text: str, tokens: int) -> RecordGroup:
    """A document as one record: its text in pieces of a number of tokens.

    Args:
        tokenizer: of the model that will read them.
        text: of the document.
        tokens: per piece, without special tokens; >= 1.
    """
    ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    pieces = [ids[start : start + tokens] for start in range(0, len(ids), tokens)] or [[]]
    return RecordGroup(tuple(Record(tokenizer.decode(piece)) for piece in pieces))


def _examples(record: Record | RecordGroup) -> tuple[Record, ...]:
    return record.examples if isinstance(record, RecordGroup) else (record,)
