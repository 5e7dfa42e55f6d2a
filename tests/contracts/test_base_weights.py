"""Frozen base weights in bfloat16 or 4 bits: what is trained stays float32, and exact."""

import importlib.util

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from privfed import (
    BaseWeights,
    CausalLanguageModel,
    Classification,
    Houlsby,
    InPlace,
    LoRA,
    PeftAdapter,
    load_task,
)
from privfed.errors import ConfigError, ModelError
from privfed.models.vector import frozen_digest, read_vector
from privfed.private_step.gate import check_per_example_gradients
from privfed.private_step.private_model import PrivateModel
from tests.contracts.private_steps import CPU, LABELS, LENGTH

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="4-bit weights need bitsandbytes, which is an extra",
)
LOW = [BaseWeights.BFLOAT16, pytest.param(BaseWeights.NF4, marks=needs_bitsandbytes)]
ADAPTERS = {
    "bert lora": LoRA(rank=2, target_modules=("query", "value")),
    "bert dora": LoRA(rank=2, target_modules=("query", "value"), dora=True),
    "bert houlsby": Houlsby(bottleneck=3, target_modules=("attention.output.dense",)),
    "bert ia3": PeftAdapter.ia3(("key", "value")),
    "llama lora": LoRA(rank=2, target_modules=("q_proj", "v_proj", "up_proj"), dropout=0.1),
    "llama dora": LoRA(rank=2, target_modules=("q_proj", "up_proj"), dropout=0.1, dora=True),
    "llama prompt": PeftAdapter.prompt_tuning(3),
    "llama prefix": PeftAdapter.prefix_tuning(3),
    "gpt2 lora": LoRA(rank=2, target_modules=("c_attn",)),
}


@pytest.fixture
def task(folders):
    def make(architecture, weights):
        base = folders[architecture]
        if architecture == "bert":
            return Classification(base=base, labels=LABELS, max_length=LENGTH, weights=weights)
        return CausalLanguageModel(base=base, max_length=LENGTH, weights=weights)

    return make


@pytest.mark.parametrize("weights", LOW)
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_pass_the_gate_in_float32(name, weights, task):
    chosen = task(name.split()[0], weights)
    if (name, weights) == ("gpt2 lora", BaseWeights.NF4):
        with pytest.raises(ModelError, match="no layer of .* can be held in 4 bits"):
            chosen.build()  # its Conv1D layers are none that bitsandbytes knows
        return
    model = ADAPTERS[name].attach(chosen.build(), chosen.modules_to_save, 0)
    private = PrivateModel(model, chosen, CPU)
    assert private.low_precision
    check_per_example_gradients(private, physical_batch_size=6, stacked_clients=1)
    assert {parameter.dtype for _, parameter in private.parameters()} == {torch.float32}
    assert read_vector(model).dtype == np.float32


@pytest.fixture(scope="module")
def wide_folder(bert_folder, tmp_path_factory):
    """A BERT as wide as one block of 4-bit weights, without which bitsandbytes fails on a CPU."""
    folder = tmp_path_factory.mktemp("wide")
    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("weights", LOW)
def test_a_federation_trains_on_them_and_leaves_a_task_that_loads(
    weights, make_federation, wide_folder, tmp_path
):
    task = Classification(
        base=wide_folder, labels=("sport", "money", "culture"), max_length=16, weights=weights
    )
    result = make_federation(model=task, rounds=1).run(tmp_path / "run")
    assert result.report.training.model["weights"] == weights.value
    assert load_task(result.adapter) == task


@needs_bitsandbytes
def test_the_digest_of_a_quantised_base_covers_its_scales(task):
    model = task("llama", BaseWeights.NF4).build()
    before = frozen_digest(model)
    state = model.model.layers[0].self_attn.q_proj.weight.quant_state
    state.absmax = state.absmax + 1
    assert frozen_digest(model) != before


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed"
)
def test_without_bitsandbytes_the_message_says_what_to_install(task):
    with pytest.raises(ConfigError, match=r"privfed\[quantized\]"):
        task("llama", BaseWeights.NF4).build()


def test_parameters_of_a_low_precision_base_are_not_trained(task):
    chosen = task("bert", BaseWeights.BFLOAT16)
    model = InPlace.biases().attach(chosen.build(), chosen.modules_to_save, 0)
    with pytest.raises(ModelError, match="must be float32"):
        PrivateModel(model, chosen, CPU)


def test_a_name_instead_of_the_choice_is_refused(folders):
    with pytest.raises(ConfigError, match="weights must be one of"):
        CausalLanguageModel(base=folders["llama"], weights="bfloat16")
