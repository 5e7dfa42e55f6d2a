"""A user's own loss: trained exactly, or refused with the reason."""

import pytest
import torch
import torch.nn.functional as F

from privfed import Classification, CustomLoss, LoRA, load_task
from privfed.errors import ConfigError, GateError, ModelError
from privfed.private_step.gate import check_per_example_gradients
from privfed.private_step.private_model import PrivateModel
from tests.contracts.private_steps import CPU, LABELS, LENGTH


def focal(model, batch):
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    log_chance = -F.cross_entropy(logits, batch["labels"], reduction="none")
    return -((1 - log_chance.exp()) ** 2) * log_chance


def batch_mean(model, batch):
    return focal(model, batch).mean()


def batch_mean_for_each(model, batch):
    """Of the right shape and with the right gradients, while no row fills up the batch."""
    losses = focal(model, batch)
    return losses.mean().expand(len(losses))


def contrastive(model, batch):
    """Every other record of the batch is a negative."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    likeness = logits @ logits.T
    return F.cross_entropy(likeness, torch.arange(len(logits)), reduction="none")


@pytest.fixture
def private(bert_folder):
    def make(loss):
        task = CustomLoss(
            task=Classification(base=bert_folder, labels=LABELS, max_length=LENGTH),
            loss=loss,
            name="of a test",
        )
        adapter = LoRA(rank=2, target_modules=("query", "value"))
        return PrivateModel(adapter.attach(task.build(), task.modules_to_save, 0), task, CPU)

    return make


def test_a_loss_of_one_example_each_is_accepted(private):
    check_per_example_gradients(private(focal))


@pytest.mark.parametrize("coupled", [batch_mean_for_each, contrastive])
def test_a_loss_that_couples_records_is_refused(private, coupled):
    with pytest.raises(GateError, match="another record.s text|how many records the batch holds"):
        check_per_example_gradients(private(coupled))


def test_a_reduced_loss_is_refused(private):
    with pytest.raises(ModelError, match="one value per example"):
        check_per_example_gradients(private(batch_mean))


def test_a_federation_trains_on_it_and_leaves_a_task_that_loads(make_federation, tmp_path):
    plain = make_federation()
    task = CustomLoss(task=plain.model, loss=focal, name="focal loss, gamma 2")
    result = make_federation(model=task, rounds=1).run(tmp_path / "run")
    assert result.report.training.model["loss"] == "focal loss, gamma 2"
    assert load_task(result.adapter) == plain.model


@pytest.mark.parametrize("values", [{"loss": 3}, {"name": " "}])
def test_values_that_cannot_be_are_named(bert_folder, values):
    task = Classification(base=bert_folder, labels=LABELS)
    with pytest.raises(ConfigError, match=next(iter(values))):
        CustomLoss(**{"task": task, "loss": focal, "name": "focal", **values})
