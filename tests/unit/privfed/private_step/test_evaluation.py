"""The held-out metric is that of the whole text, and text that cannot be read is refused first."""

import pytest
import torch

from privfed.errors import DataError
from privfed.private_step.evaluation import held_out_metric, require_readable
from tests.contracts.private_steps import LENGTH, made_up


class Counting:
    """A task whose metric is the mean of all tokens, weighed by their place in the batch."""

    def __init__(self):
        self.seen = []

    def metric_parts(self, model, batch):
        assert not torch.is_grad_enabled()
        assert not model.training
        self.seen.append({name: tuple(tensor.shape) for name, tensor in batch.items()})
        ids, mask = batch["input_ids"], batch["attention_mask"]
        return float((ids * mask).sum()), float(mask.sum())

    def metric_value(self, numerator, denominator):
        return numerator / denominator


@pytest.fixture
def private(built, monkeypatch):
    private = built("bert lora q,v")
    monkeypatch.setattr(private, "task", Counting())
    return private


def text(*lengths):
    """Records of these lengths, of tokens that count from 1, with something beside them."""
    mask = torch.tensor([[position < length for position in range(8)] for length in lengths])
    ids = torch.arange(1, mask.numel() + 1).view(mask.shape)
    return {
        "input_ids": ids,
        "attention_mask": mask.long(),
        "labels": torch.arange(len(lengths)),
        "other": torch.zeros(len(lengths), 8, 2),
        "short": torch.zeros(len(lengths), 5),
    }


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_metric_does_not_depend_on_the_size_of_batches(private, size):
    """Records of 2, 3 and 6 tokens: a mean of the means of batches would differ."""
    total = (1 + 2) + (9 + 10 + 11) + (17 + 18 + 19 + 20 + 21 + 22)
    assert held_out_metric(private, text(2, 3, 6), size) == total / 11


def test_a_batch_is_cut_to_its_longest_record(private):
    held_out_metric(private, text(2, 3, 6), 2)
    assert private.task.seen == [
        {
            "input_ids": (2, 3),
            "attention_mask": (2, 3),
            "labels": (2,),
            "other": (2, 3, 2),
            "short": (2, 5),
        },
        {
            "input_ids": (1, 6),
            "attention_mask": (1, 6),
            "labels": (1,),
            "other": (1, 6, 2),
            "short": (1, 5),
        },
    ]


def test_a_batch_without_any_token_keeps_one_place(private):
    private.task.metric_value = lambda numerator, denominator: (numerator, denominator)
    assert held_out_metric(private, text(0, 0), 2) == (0.0, 0.0)
    assert private.task.seen[0]["input_ids"] == (2, 1)


def test_the_model_trains_on_afterwards(private):
    before = [module.training for module in private.adapter.modules()]
    held_out_metric(private, text(2, 3), 1)
    assert [module.training for module in private.adapter.modules()] == before
    assert any(before)


def test_unreadable_records_are_counted_and_the_first_is_named(built):
    private = built("llama lora q,v")
    batch = {name: tensor.clone() for name, tensor in made_up(private, count=6).items()}
    require_readable(private, batch)
    for record in (2, 3, 5):
        batch["input_ids"][record, LENGTH // 4] = 64 + record
        batch["attention_mask"][record] = 1
    with pytest.raises(DataError, match=r"3 are not, the first is record 2, .*embeds 64"):
        require_readable(private, batch)
