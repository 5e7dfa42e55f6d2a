"""A client's records, tried before anything is reserved: encoded, checked, and run once.

What fails for every record would otherwise fail in the middle of a round, whose budget is spent by
then, and again in the next one.

A record that cannot be used is left out, by a rule on that record alone: one record more or less
in the source changes at most one record that is trained on, and a single record never decides
whether its client takes part. (A client with no record that can be used stays away; whether it has
one is then seen.) How many were left out is for the client itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from privfed.data.records import Record, RecordGroup
from privfed.errors import DataError, ModelError
from privfed.models.classification import Classification
from privfed.models.examples import encode_records
from privfed.models.tasks import EXAMPLE_WEIGHT, Batch, CausalLanguageModel
from privfed.private_step.batches import num_rows, physical_batches, rows
from privfed.private_step.private_model import PrivateModel

_IDS = "input_ids"

_READ_ANY_TEXT: Final = (Classification, CausalLanguageModel)
"""Tasks whose loss fails on no record that could be encoded; a class derived from one is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usable:
    """Records that can be trained on.

    Attributes:
        encoded: tensors with leading dimension (records,).
        left_out: why the others cannot, by their position from 0; for the client's own log.
    """

    encoded: Batch
    left_out: Mapping[int, str]


def usable_records(
    model: PrivateModel,
    records: Sequence[Record | RecordGroup],
    examples_per_record: int,
    physical_batch_size: int,
) -> Usable:
    """Encode records and run the model once on a batch of the longest of them, without gradients.

    Memory and length are tried by the gate, on made-up texts that fill the model's window. What is
    left for a pass to fail on is a task or loss of the user's own that refuses some content: there
    all records are run, batch by batch and where one fails one by one, so that whether a record is
    left out depends on nothing but itself. It costs one pass over the data, without gradients.

    Args:
        model: as it will be trained.
        records: private.
        examples_per_record: public; of a group.
        physical_batch_size: records in one pass.

    Raises:
        DataError: if no record can be used.
        ModelError: if the batch of the longest records fails all the same.
    """
    left_out: dict[int, str] = {}
    positions, encoded = _encoded(model, records, examples_per_record, left_out)
    _leave_out(left_out, positions, unreadable_rows(model, encoded))
    _leave_out(left_out, positions, _blank(model, encoded, examples_per_record))
    positions, encoded = _rest(left_out, positions, encoded)
    if type(model.task) not in _READ_ANY_TEXT:
        _leave_out(left_out, positions, _failing_alone(model, encoded, physical_batch_size))
        positions, encoded = _rest(left_out, positions, encoded)
    failure = _failure_of_longest(model, encoded, physical_batch_size)
    if failure is not None:
        raise ModelError(
            "a batch of the longest records fails, and no record alone is at fault; the cause lies "
            "in the model, the task or the physical batch size"
        ) from failure
    return Usable(encoded=encoded, left_out=left_out)


def _encoded(
    model: PrivateModel,
    records: Sequence[Record | RecordGroup],
    examples_per_record: int,
    left_out: dict[int, str],
) -> tuple[list[int], Batch]:
    """Positions and tensors of the records that can be encoded; all at once where that works."""
    tokenizer = model.task.tokenizer()
    try:
        together = encode_records(model.task, tokenizer, records, examples_per_record)
        return list(range(len(records))), together
    except Exception:  # noqa: BLE001 - looked at below, record by record
        pass
    alone: dict[int, Batch] = {}
    for position, record in enumerate(records):
        try:
            alone[position] = encode_records(model.task, tokenizer, [record], examples_per_record)
        except Exception as error:  # noqa: BLE001 - whatever a tokenizer or a task says of it
            left_out[position] = f"cannot be encoded: {type(error).__name__}: {error}"
    _require_some(alone, left_out)
    names = next(iter(alone.values()))
    return list(alone), {name: torch.cat([one[name] for one in alone.values()]) for name in names}


def unreadable_rows(model: PrivateModel, encoded: Batch) -> Iterator[tuple[int, str]]:
    """Rows with a token that the base model does not embed, each with what is wrong.

    Args:
        model: base model with an adapter.
        encoded: tensors with leading dimension (records,).
    """
    base = next((m for m in model.adapter.modules() if isinstance(m, PreTrainedModel)), None)
    if base is None:
        return
    embeddings: Any = base.get_input_embeddings()
    known = int(embeddings.weight.shape[0])
    for name, tensor in encoded.items():
        if name.endswith(_IDS):
            largest = tensor.flatten(1).max(dim=1).values
            for row in torch.nonzero(largest >= known).flatten().tolist():
                yield row, f"holds token {int(largest[row])}, and the model embeds {known}"


def _blank(
    model: PrivateModel, encoded: Batch, examples_per_record: int
) -> Iterator[tuple[int, str]]:
    """Rows that read as an empty text does; a made-up record shows how that is."""
    empty = RecordGroup((replace(model.task.synthetic(1, 0)[0], text=""),))
    nothing = encode_records(model.task, model.task.tokenizer(), [empty], examples_per_record)
    if _IDS in encoded:
        same = (encoded[_IDS] == nothing[_IDS]).all(dim=-1)
        if EXAMPLE_WEIGHT in encoded:
            same = (same | (encoded[EXAMPLE_WEIGHT] == 0)).all(dim=1)
        for row in torch.nonzero(same).flatten().tolist():
            yield row, "holds no token of text"


def _failing_alone(model: PrivateModel, encoded: Batch, size: int) -> Iterator[tuple[int, str]]:
    """Rows that fail by themselves, each with what the task says of it."""
    for batch in torch.split(torch.arange(num_rows(encoded)), size):
        if _failure(model, rows(encoded, batch)) is None:
            continue
        for row in batch:
            failure = _failure(model, rows(encoded, row.reshape(1)))
            if failure is not None:
                yield int(row), f"fails in the model: {type(failure).__name__}: {failure}"


def _failure_of_longest(model: PrivateModel, encoded: Batch, size: int) -> Exception | None:
    mask = encoded.get("attention_mask")
    lengths = torch.zeros(num_rows(encoded)) if mask is None else mask.flatten(1).sum(dim=1)
    longest = torch.argsort(lengths, descending=True, stable=True)[:size]
    (batch,) = physical_batches(encoded, longest, size)
    return _failure(model, batch.tensors)


def _failure(model: PrivateModel, batch: Mapping[str, Tensor]) -> Exception | None:
    try:
        with model.evaluation():
            model.record_losses(model.adapter, batch)
    except Exception as error:  # noqa: BLE001 - judged by the caller
        return error.with_traceback(None)  # which would keep the memory of the pass
    return None


def _leave_out(
    left_out: dict[int, str], positions: Sequence[int], found: Iterator[tuple[int, str]]
) -> None:
    for row, why in found:
        left_out.setdefault(positions[row], why)


def _rest(
    left_out: Mapping[int, str], positions: Sequence[int], encoded: Batch
) -> tuple[list[int], Batch]:
    kept = [row for row, position in enumerate(positions) if position not in left_out]
    _require_some(kept, left_out)
    return [positions[row] for row in kept], rows(encoded, torch.tensor(kept))


def _require_some(kept: Sequence[int] | Mapping[int, Batch], left_out: Mapping[int, str]) -> None:
    if not kept:
        position, why = next(iter(left_out.items()))
        raise DataError(f"none of the {len(left_out)} records can be used; record {position} {why}")
