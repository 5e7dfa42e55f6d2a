"""An adapter meets the base model that it was trained on, wherever that lies, and no other."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftConfig
from safetensors.torch import load_file, save_file

from privfed import (
    CausalLanguageModel,
    Classification,
    Computation,
    FedAvg,
    FFALoRA,
    Houlsby,
    HoulsbyModel,
    InPlace,
    InPlaceModel,
    LoRA,
    PeftAdapter,
    SparseUpdate,
    load_adapter,
    load_task,
)
from privfed.data.records import Record
from privfed.errors import ModelError
from privfed.models.vector import base_digest, read_vector, write_vector
from privfed.private_step.building import Blueprint

ADAPTERS = {
    "lora": (LoRA(rank=2, target_modules=("query", "value")), FedAvg()),
    "frozen factors": (LoRA(rank=2, target_modules=("query", "value")), FFALoRA()),
    "dora": (LoRA(rank=2, target_modules=("query", "value"), dora=True), FedAvg()),
    "houlsby": (Houlsby(bottleneck=3, target_modules=("output.dense",), layers=(1,)), FedAvg()),
    "scales": (PeftAdapter.ia3(("key", "value")), FedAvg()),
    "biases": (InPlace.biases(), FedAvg()),
    "last block": (InPlace(last_layers=1), FedAvg()),
    "sparse update": (SparseUpdate(target_modules=("query", "value"), share=0.1), FedAvg()),
}


@pytest.fixture
def base(bert_folder, tmp_path):
    return shutil.copytree(bert_folder, tmp_path / "base")


@pytest.fixture
def trained(base, tmp_path):
    """A function that writes what a run leaves of an adapter, its values moved."""

    def make(name):
        task = Classification(base=base, labels=("a", "b", "c"), max_length=12, logit_scale=2.0)
        adapter, method = ADAPTERS[name]
        private = Blueprint(
            task=task,
            adapter=adapter,
            freezes_a=method.freezes_a,
            computation=Computation(),
            examples_per_record=1,
            physical_batch_size=4,
            stacked_clients=3,
            seed=5,
            device="cpu",
        ).build()
        values = read_vector(private.adapter)
        moved = np.random.default_rng(0).normal(size=values.size).astype(np.float32)
        write_vector(private.adapter, values + moved)
        folder = tmp_path / "adapter"
        private.save_adapter(folder)
        described = {**task.describe(), "base_sha256": private.base_sha256}
        (folder / "privfed.json").write_text(json.dumps(described))
        return private, folder

    return make


def logits(model, task):
    batch = task.collate(task.tokenizer(), [Record("river stone", 0), Record("goal", 1)])
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


@pytest.mark.parametrize("name", ADAPTERS)
def test_it_computes_what_the_trained_model_computes(name, trained):
    private, folder = trained(name)
    task, model = load_adapter(folder)
    assert task == private.task
    assert not model.training
    in_place = ("biases", "last block", "houlsby", "sparse update")
    assert isinstance(model, InPlaceModel) == (name in in_place)
    assert isinstance(model, HoulsbyModel) == (name == "houlsby")
    with private.evaluation():
        expected = logits(private.adapter, task)
    assert expected.unique().numel() == expected.numel()
    assert torch.allclose(logits(model, task), expected, atol=1e-6)


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_digest_is_that_of_the_base_alone_whatever_is_trained(name, trained):
    private, _ = trained(name)
    assert private.base_sha256 == base_digest(private.task.build())
    assert len(private.base_sha256) == 64


@pytest.mark.parametrize("name", ["lora", "last block"])
@pytest.mark.parametrize(
    "weight", ["encoder.layer.0.output.dense.weight", "encoder.layer.1.output.dense.bias"]
)
def test_a_base_with_one_other_value_is_refused_with_both_digests(name, weight, trained, base):
    """Weights that the adapter replaces are no exception: the base is another model."""
    private, folder = trained(name)
    found = load_file(base / "model.safetensors")
    found[weight].flatten()[0] += 1e-3
    save_file(found, base / "model.safetensors", metadata={"format": "pt"})
    other = base_digest(private.task.build())
    with pytest.raises(ModelError, match=rf"SHA-256 {private.base_sha256}; .* have {other}"):
        load_adapter(folder)


def test_a_base_elsewhere_is_named_and_checked(trained, base, tmp_path, llama_folder):
    private, folder = trained("lora")
    place = shutil.move(base, tmp_path / "moved")
    with pytest.raises(ModelError, match=rf"no such folder.* base= .*{private.base_sha256}"):
        load_adapter(folder)
    task, _ = load_adapter(folder, base=Path(place))
    assert task.base == str(place)


def test_a_base_that_was_named_by_a_relative_path_is_found_from_anywhere(
    base, tmp_path, monkeypatch
):
    monkeypatch.chdir(base.parent)
    task = Classification(base=base.name, labels=("a", "b"))
    monkeypatch.chdir("/")
    (tmp_path / "privfed.json").write_text(json.dumps(task.describe()))
    assert load_task(tmp_path).base == str(base)
    assert CausalLanguageModel(base="no/folder").base == "no/folder"


def test_an_adapter_without_a_digest_is_refused(trained):
    _, folder = trained("lora")
    values = json.loads((folder / "privfed.json").read_text())
    del values["base_sha256"]
    (folder / "privfed.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match="must name the weights of the base model"):
        load_adapter(folder)
    load_task(folder)


@pytest.mark.parametrize(
    "others", [["x"], "x", None, 7, {"client-1": None}, {"client-1": {"a": 1}}, {"client-1": ["x"]}]
)
def test_other_bases_that_are_none_are_refused(trained, others):
    _, folder = trained("lora")
    path = folder / "privfed.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "other_bases": others}))
    with pytest.raises(ModelError, match=r"further base models by client \(other_bases\), each as"):
        load_adapter(folder)


@pytest.mark.parametrize("name", ["lora", "biases", "houlsby", "sparse update"])
def test_a_damaged_adapter_is_refused_in_one_line(name, trained):
    _, folder = trained(name)
    (path,) = folder.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelError, match=f"{path.name} is damaged or cut short") as refused:
        load_adapter(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_an_adapter_that_lacks_a_weight_is_refused(trained):
    """PEFT would go on with the initial value."""
    _, folder = trained("lora")
    path = folder / "adapter_model.safetensors"
    found = load_file(path)
    name = next(n for n in found if "lora_B" in n)
    save_file({n: t for n, t in found.items() if n != name}, path)
    with pytest.raises(ModelError, match="1 are missing or have no place .*lora_B"):
        load_adapter(folder)


def test_bottlenecks_that_lack_a_weight_are_refused(trained):
    """They would go on with the initial value."""
    _, folder = trained("houlsby")
    path = folder / "trained.safetensors"
    found = load_file(path)
    name = next(n for n in found if n.endswith("up.bias"))
    save_file({n: t for n, t in found.items() if n != name}, path)
    with pytest.raises(ModelError, match=rf"houlsby\.json describes; 1 are missing \('{name}'"):
        load_adapter(folder)


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"privfed\.json"):
        load_adapter(tmp_path)


def test_peft_names_the_base_by_its_whole_path(trained, base):
    _, folder = trained("lora")
    named = PeftConfig.from_pretrained(folder).base_model_name_or_path
    assert named in (None, "", str(base)), "a relative path would mean another folder elsewhere"
