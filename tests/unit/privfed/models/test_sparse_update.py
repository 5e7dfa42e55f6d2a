"""A sparse matrix at public positions beside each chosen one."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from privfed import CausalLanguageModel, Classification, SparseUpdate, SparseUpdateModel
from privfed.errors import ConfigError, ModelError
from privfed.models.sparse_update import SparseLinear, sparse_layers
from privfed.models.start_file import names_added
from privfed.models.vector import num_trainable, read_vector, saved_tensors, write_vector

WIDTH, INNER = 32, 64
"""Of the encoder: its states, and what its feed-forward layers widen them to."""
UPDATE = SparseUpdate(target_modules=("query", "intermediate.dense"), share=0.05)
COUNTS = {"query": round(0.05 * WIDTH * WIDTH), "intermediate.dense": round(0.05 * WIDTH * INNER)}


@pytest.fixture
def encoder(bert_folder):
    """A function that builds the untrained classifier anew."""
    return Classification(base=bert_folder, labels=("a", "b", "c"), max_length=12).build


def positions(model):
    return {name: layer.positions for name, layer in sparse_layers(model).items()}


def shifted(model):
    before = read_vector(model)
    moved = np.random.default_rng(0).normal(scale=0.3, size=before.size)
    write_vector(model, before + moved.astype(np.float32))
    return model


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_by_hand(kind):
    """D has 10 in row 0, column 1, and 100 in row 1, column 2."""
    base = nn.Linear(3, 2) if kind == "linear" else Conv1D(2, 3)
    with torch.no_grad():
        base.weight.zero_()
        base.bias.copy_(torch.tensor([0.5, 0.25]))
    layer = SparseLinear(base, torch.tensor([1, 5]))
    with torch.no_grad():
        assert layer(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[0.5, 0.25]]
        layer.values.copy_(torch.tensor([10.0, 100.0]))
        assert layer(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[20.5, 300.25]]
    assert layer.delta().tolist() == [[0, 10, 0], [0, 0, 100]]


def test_a_share_of_each_matrix_and_the_head_are_trained_and_nothing_else(encoder):
    model = UPDATE.attach(encoder(), ("head",), 0)
    assert num_trainable(model) == 2 * sum(COUNTS.values()) + 3 * WIDTH + 3
    found = sparse_layers(model.base)
    assert len(found) == 4
    for name, layer in found.items():
        (count,) = (count for target, count in COUNTS.items() if name.endswith(target))
        out, width = layer.delta().shape
        assert (out, width) == ((WIDTH if name.endswith("query") else INNER), WIDTH)
        assert len(layer.positions) == len(layer.values) == count
        assert len(set(layer.positions.tolist())) == count
        assert int(layer.positions.min()) >= 0
        assert int(layer.positions.max()) < out * width


def test_positions_are_everywhere_and_differ_from_layer_to_layer(encoder):
    found = list(positions(UPDATE.attach(encoder(), (), 0)).values())
    assert not torch.equal(found[0], found[2])
    for drawn, last in zip(found, (WIDTH * WIDTH, INNER * WIDTH) * 2, strict=True):
        quarters = torch.histc(drawn.float(), bins=4, min=0, max=last)
        assert float(quarters.min()) > len(drawn) / 10


def test_a_whole_share_is_the_dense_matrix():
    update = SparseUpdate(target_modules=("0",), share=1)
    (drawn,) = positions(update.attach(nn.Sequential(nn.Linear(4, 3)), (), 0)).values()
    assert drawn.tolist() == list(range(12))


def test_the_seed_alone_decides_the_positions(encoder):
    models = [encoder() for _ in range(3)]
    torch.manual_seed(1)
    first = positions(UPDATE.attach(models[0], ("head",), 4))
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    again = positions(UPDATE.attach(models[1], ("head",), 4))
    assert torch.equal(before, torch.random.get_rng_state())
    other = positions(UPDATE.attach(models[2], ("head",), 5))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_it_starts_as_the_base_model_and_moves_off_it(encoder):
    batch = {
        "input_ids": torch.tensor([[2, 8, 9, 3]]),
        "attention_mask": torch.ones(1, 4, dtype=torch.long),
    }
    base = encoder().eval()
    with torch.no_grad():
        expected = base.embedding(**batch)
        model = UPDATE.attach(base, ("head",), 0).eval()
        assert torch.equal(model.base.embedding(**batch), expected)
        moved = shifted(model).base.embedding(**batch)
    assert float((moved - expected).abs().max()) > 1e-3


def test_only_the_named_layers_are_adapted(encoder):
    update = SparseUpdate(target_modules=("query",), share=0.1, layers=(1,))
    (name,) = sparse_layers(update.attach(encoder(), ("head",), 0))
    assert ".layer.1." in name


def test_the_start_file_holds_the_positions(encoder):
    base = encoder()
    before = {id(tensor) for _, tensor in saved_tensors(base)}
    added = names_added(UPDATE.attach(base, ("head",), 0), before)
    assert sum(name.endswith(".positions") for name in added) == 4
    assert sum(name.endswith(".values") for name in added) == 4
    assert len(added) == 4 + 4 + 2


def test_what_was_saved_computes_the_same(gpt2_folder, tmp_path):
    build = CausalLanguageModel(base=gpt2_folder, max_length=8).build
    model = shifted(SparseUpdate(target_modules=("c_attn",), share=0.1).attach(build(), (), 3))
    model.save_pretrained(tmp_path)
    read = SparseUpdateModel.from_pretrained(build(), tmp_path)
    ids = torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
        assert torch.equal(read.eval()(input_ids=ids).logits, expected)
        assert float((build().eval()(input_ids=ids).logits - expected).abs().max()) > 1e-3


def test_that_of_another_base_is_refused(gpt2_folder, encoder, tmp_path):
    UPDATE.attach(encoder(), ("head",), 0).save_pretrained(tmp_path)
    other = CausalLanguageModel(base=gpt2_folder, max_length=8).build()
    with pytest.raises(ModelError, match="belongs to another base model"):
        SparseUpdateModel.from_pretrained(other, tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"share": 0}, "share"),
        ({"share": 1.01}, "share"),
        ({"share": float("nan")}, "share"),
        ({"share": True}, "share"),
        ({"target_modules": "query"}, "target_modules"),
        ({"target_modules": ()}, "target_modules"),
        ({"layers": ()}, "layers"),
    ],
)
def test_settings_out_of_range_are_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        SparseUpdate(**{"target_modules": ("query",), "share": 0.1, **changes})


@pytest.mark.parametrize("target", ["vlaue", "uery", "attention"])
def test_names_of_no_linear_module_are_refused(target, encoder):
    with pytest.raises(ModelError, match=rf"\['{target}'\] name no linear module"):
        SparseUpdate(target_modules=("query", target), share=0.1).attach(encoder(), (), 0)


def test_its_description_is_json():
    assert json.loads(json.dumps(UPDATE.describe())) == {
        "adapter": "sparse-update",
        "target_modules": ["query", "intermediate.dense"],
        "share": 0.05,
        "layers": "all",
    }
