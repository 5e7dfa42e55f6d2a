import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from privfed.private_step.batches import num_rows, physical_batches, rows

ENCODED = {"input_ids": torch.arange(24).view(8, 3), "labels": torch.arange(8)}


def test_a_batch_in_parts_by_hand():
    first, second = physical_batches(ENCODED, torch.tensor([5, 2, 7]), 2)
    assert first.tensors["labels"].tolist() == [5, 2]
    assert first.present.tolist() == [True, True]
    assert second.tensors["labels"].tolist() == [7, 7]
    assert second.present.tolist() == [True, False]
    assert second.tensors["input_ids"].tolist() == [[21, 22, 23]] * 2


def test_an_empty_batch_has_no_parts():
    assert not list(physical_batches(ENCODED, torch.tensor([], dtype=torch.long), 4))


@given(
    drawn=st.lists(st.integers(0, 7), unique=True),
    size=st.integers(1, 10),
)
def test_every_part_has_one_size_and_every_record_comes_once(drawn, size):
    parts = list(physical_batches(ENCODED, torch.tensor(drawn, dtype=torch.long), size))
    assert len(parts) == -(-len(drawn) // size)
    seen = []
    for part in parts:
        assert part.present.shape == (size,)
        assert part.present.dtype == torch.bool
        assert {len(tensor) for tensor in part.tensors.values()} == {size}
        seen += part.tensors["labels"][part.present].tolist()
    assert seen == drawn


def test_what_fills_up_is_a_record_of_the_same_part():
    """Never an empty row, whose arithmetic could fail, nor a record that was not drawn."""
    (part,) = physical_batches(ENCODED, torch.tensor([3]), 5)
    assert part.tensors["labels"].tolist() == [3] * 5


def test_rows_are_never_cut():
    encoded = {"input_ids": torch.zeros(3, 20, dtype=torch.long)}
    assert rows(encoded, torch.tensor([1]))["input_ids"].shape == (1, 20)


def test_records_of_several_examples_stay_together():
    encoded = {"input_ids": torch.arange(24).view(4, 2, 3)}
    (part,) = physical_batches(encoded, torch.tensor([3, 0]), 2)
    assert part.tensors["input_ids"].tolist() == [encoded["input_ids"][i].tolist() for i in (3, 0)]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_number_of_rows(count):
    assert num_rows({"a": torch.zeros(count, 2), "b": torch.zeros(count)}) == count
