"""LoRA starts where a sparse update ended: exactly where its rank is enough."""

import json

import numpy as np
import pytest
import torch

from privfed import (
    CausalLanguageModel,
    Classification,
    InPlace,
    LoRA,
    SparseUpdate,
    start_lora_from_sparse_update,
)
from privfed.errors import ModelError
from privfed.models.sparse_update import sparse_layers
from privfed.models.start_file import load_start, names_added
from privfed.models.vector import base_digest, read_vector, saved_tensors, write_vector

WIDTH = 32
BATCH = {
    "input_ids": torch.tensor([[2, 8, 9, 11, 3], [2, 7, 5, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
}


@pytest.fixture(params=["classifier", "language model"])
def task(request, bert_folder, gpt2_folder):
    if request.param == "classifier":
        return Classification(base=bert_folder, labels=("a", "b", "c"), max_length=12)
    return CausalLanguageModel(base=gpt2_folder, max_length=12)


def targets(task):
    """GPT-2 holds its matrices turned round, and not square."""
    return ("query", "value") if isinstance(task, Classification) else ("c_attn",)


def trained(task, folder, share=0.1, adapter=None, scale=0.2):
    """A folder as a run leaves it, with numbers that training might have put there."""
    base = task.build()
    digest = base_digest(base)
    adapter = adapter or SparseUpdate(target_modules=targets(task), share=share)
    model = adapter.attach(base, task.modules_to_save, 3)
    before = read_vector(model)
    moved = np.random.default_rng(0).normal(scale=scale, size=before.size)
    write_vector(model, before + moved.astype(np.float32))
    model.save_pretrained(folder)
    values = {**task.describe(), "base_sha256": digest}
    (folder / "privfed.json").write_text(json.dumps(values))
    return model.eval()


def started(task, lora, path, seed=7):
    """As a party of the second run builds its model, from another seed."""
    base = task.build()
    before = {id(tensor) for _, tensor in saved_tensors(base)}
    model = lora.attach(base, task.modules_to_save, seed)
    load_start(path, model, names_added(model, before))
    return model.eval()


def outputs(model):
    with torch.no_grad():
        found = model(**BATCH)
    return found if isinstance(found, torch.Tensor) else found.logits


@pytest.mark.parametrize("settings", [{"alpha": 8.0}, {"rank_stabilized": True, "alpha": 3.0}])
def test_with_rank_enough_it_computes_what_the_sparse_update_computes(task, settings, tmp_path):
    """The head goes on too; the scale of LoRA is divided out."""
    sparse = trained(task, tmp_path)
    lora = LoRA(rank=WIDTH, target_modules=targets(task), **settings)
    residual = start_lora_from_sparse_update(tmp_path, lora, tmp_path / "start")
    assert residual < 1e-6
    expected = outputs(sparse)
    assert torch.allclose(outputs(started(task, lora, tmp_path / "start")), expected, atol=1e-4)
    fresh = lora.attach(task.build(), task.modules_to_save, 7).eval()
    assert float((outputs(fresh) - expected).abs().max()) > 0.01


def test_of_too_small_a_rank_it_is_the_best_and_the_residual_is_told(task, tmp_path):
    sparse = trained(task, tmp_path)
    lora = LoRA(rank=5, target_modules=targets(task), alpha=2.0)
    residual = start_lora_from_sparse_update(tmp_path, lora, tmp_path / "start")
    model = started(task, lora, tmp_path / "start").get_base_model()
    left_out = total = best = 0.0
    for name, layer in sparse_layers(sparse.base).items():
        delta = layer.delta().detach().double()
        factors = model.get_submodule(name)
        a = factors.lora_A["default"].weight.detach().double()
        b = factors.lora_B["default"].weight.detach().double()
        left_out += float((delta - (2 / 5) * b @ a).square().sum())
        total += float(delta.square().sum())
        best += float(torch.linalg.svdvals(delta)[5:].square().sum())
        assert torch.allclose(a @ a.T, b.T @ b, atol=1e-5), "both factors share the scale"
    assert residual == pytest.approx((left_out / total) ** 0.5, rel=1e-4)
    assert residual == pytest.approx((best / total) ** 0.5, rel=1e-4)
    assert 0.3 < residual < 0.99


def test_what_a_sparse_update_has_no_rank_for_starts_as_lora_does(bert_folder, tmp_path):
    """Factors that are both zero would never move."""
    task = Classification(base=bert_folder, labels=("a", "b", "c"), max_length=12)
    trained(task, tmp_path, share=2 / WIDTH**2)  # two entries of each matrix, a rank of two
    lora = LoRA(rank=4, target_modules=targets(task))
    assert start_lora_from_sparse_update(tmp_path, lora, tmp_path / "start") < 1e-6
    model = started(task, lora, tmp_path / "start").get_base_model()
    factors = model.get_submodule("encoder.encoder.layer.0.attention.self.query")
    a = factors.lora_A["default"].weight.detach()
    b = factors.lora_B["default"].weight.detach()
    assert float(a.norm(dim=1).min()) > 0.01
    assert bool(b[:, :2].any(dim=0).all())
    assert not bool(b[:, 2:].any())


@pytest.mark.parametrize(
    "settings",
    [{"target_modules": ("query",)}, {"target_modules": ("query", "value"), "layers": (1,)}],
)
def test_lora_on_other_modules_is_refused(settings, bert_folder, tmp_path):
    task = Classification(base=bert_folder, labels=("a", "b", "c"), max_length=12)
    trained(task, tmp_path)
    with pytest.raises(ModelError, match="the very modules"):
        start_lora_from_sparse_update(tmp_path, LoRA(rank=4, **settings), tmp_path / "start")
    assert not (tmp_path / "start").exists()


def test_an_update_that_was_not_trained_is_refused(task, tmp_path):
    trained(task, tmp_path, scale=0.0)
    lora = LoRA(rank=4, target_modules=targets(task))
    with pytest.raises(ModelError, match="all of it is zero"):
        start_lora_from_sparse_update(tmp_path, lora, tmp_path / "start")


def test_another_adapter_is_refused(bert_folder, tmp_path):
    task = Classification(base=bert_folder, labels=("a", "b", "c"), max_length=12)
    trained(task, tmp_path, adapter=InPlace.biases())
    lora = LoRA(rank=4, target_modules=targets(task))
    with pytest.raises(ModelError, match="must hold a sparse update"):
        start_lora_from_sparse_update(tmp_path, lora, tmp_path / "start")
