"""Records of several examples: tensors, weights, and the guarantee for the whole group."""

import numpy as np
import pytest
import torch

from privfed import CausalLanguageModel, Classification, LoRA, Record, RecordGroup
from privfed.data.records import group_by_person
from privfed.errors import DataError, ModelError
from privfed.models.examples import chunks, encode_records
from privfed.models.tasks import EXAMPLE_WEIGHT
from privfed.models.vector import read_vector, write_vector
from privfed.private_step.gate import check_per_example_gradients
from privfed.private_step.private_model import PrivateModel


@pytest.fixture
def task(bert_folder):
    return Classification(base=bert_folder, labels=("a", "b"), max_length=12)


A, B, C = Record("river stone", 0), Record("market", 1), Record("garden engine letter", 1)


def test_rows_of_a_person_are_one_group_in_order():
    assert group_by_person([A, B, C], ["x", "y", "x"]) == (RecordGroup((A, C)), RecordGroup((B,)))


def test_a_group_holds_something():
    with pytest.raises(DataError, match="at least one example"):
        RecordGroup(())


def test_groups_are_cut_and_filled_to_one_shape(task):
    records = [RecordGroup((A, B, C)), RecordGroup((B,)), C]
    batch = encode_records(task, task.tokenizer(), records, 2)
    assert batch["input_ids"].shape == (3, 2, 12)
    assert batch[EXAMPLE_WEIGHT].tolist() == [[0.5, 0.5], [1.0, 0.0], [1.0, 0.0]]
    assert batch["labels"][0].tolist() == [0, 1]


def test_one_example_per_record_is_what_the_task_collates(task):
    plain = task.collate(task.tokenizer(), [A, B])
    batch = encode_records(task, task.tokenizer(), [A, RecordGroup((B,))], 1)
    assert batch.keys() == plain.keys()
    assert all(torch.equal(batch[name], plain[name]) for name in plain)


def test_chunks_hold_the_whole_document(llama_folder):
    tokenizer = CausalLanguageModel(base=llama_folder, max_length=8).tokenizer()
    text = "river stone market window garden engine letter"
    group = chunks(tokenizer, text, 3)
    assert [len(example.text.split()) for example in group.examples] == [3, 3, 1]
    assert " ".join(example.text for example in group.examples) == text


def test_the_gradient_of_a_group_is_the_mean_of_its_examples(task):
    adapter = LoRA(rank=2, target_modules=("query", "value"))
    model = PrivateModel(
        adapter.attach(task.build(), task.modules_to_save, 0), task, torch.device("cpu")
    )
    size = read_vector(model.adapter).size
    random = np.random.default_rng(0)
    write_vector(model.adapter, (0.1 * random.standard_normal(size)).astype(np.float32))
    tokenizer = task.tokenizer()
    check_per_example_gradients(model, examples_per_record=2)
    model.per_example_gradients(encode_records(task, tokenizer, [RecordGroup((A, C)), B], 2))
    grouped = {name: parameter.grad_sample for name, parameter in model.parameters()}
    model.forget()
    model.per_example_gradients(task.collate(tokenizer, [A, C, B]))
    for name, parameter in model.parameters():
        single = parameter.grad_sample
        expected = torch.stack([(single[0] + single[1]) / 2, single[2]])
        scale = float(expected.abs().max())
        assert float((grouped[name] - expected).abs().max()) <= 1e-5 * scale, name


def test_a_second_pass_without_a_step_is_refused(task):
    adapter = LoRA(rank=2, target_modules=("query",))
    model = PrivateModel(
        adapter.attach(task.build(), task.modules_to_save, 0), task, torch.device("cpu")
    )
    batch = task.collate(task.tokenizer(), [A, B])
    model.per_example_gradients(batch)
    with pytest.raises(ModelError, match="earlier pass"):
        model.per_example_gradients(batch)
