"""Architectures with the dropout of their own default configurations: off by construction."""

import math

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
)

from privfed import CausalLanguageModel, Classification, Computation, InPlace, LoRA
from privfed.models.base_modes import switch_off_dropout, training_mode
from privfed.models.examples import encode_records
from privfed.models.vector import read_vector
from privfed.private_step.dpsgd import DPSGDConfig, train_round
from privfed.private_step.dropout import SecretDropout
from privfed.private_step.gate import check_per_example_gradients
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.randomness import FastNoise, RandomStream
from privfed.settings.computation import Checkpointing, GradientMethod
from tests.contracts.private_steps import CPU

WIDTH = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
GROUPED = {**WIDTH, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 64}
RATES = {"attention_dropout": 0.1}
LANGUAGE_MODELS = {
    "gpt_bigcode": (GPT, "c_attn"),  # its own default: 0.1
    "starcoder2": (
        {**GROUPED, "residual_dropout": 0.1, "embedding_dropout": 0.1, **RATES},
        "v_proj",
    ),
    "seed_oss": (GROUPED, "v_proj"),  # its own default: 0.1
    "opt": (
        {
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "layerdrop": 0.2,
            **RATES,
        },
        "v_proj",
    ),
    "gpt_neox": ({**WIDTH, "hidden_dropout": 0.1, **RATES}, "query_key_value"),
    "falcon": ({**WIDTH, "hidden_dropout": 0.1, **RATES}, "query_key_value"),
    "gpt2": (GPT, "c_attn"),
    "gpt_neo": (
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "embed_dropout": 0.1,
            "resid_dropout": 0.1,
            **RATES,
        },
        "v_proj",
    ),
    "bloom": ({**GPT, "hidden_size": 32, "hidden_dropout": 0.1, **RATES}, "query_key_value"),
    "codegen": (
        {**GPT, "rotary_dim": 8, "attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1},
        "out_proj",
    ),
    "llama": ({**GROUPED, **RATES}, "v_proj"),
    "mixtral": (
        {**GROUPED, "num_local_experts": 2, "router_jitter_noise": 0.1, **RATES},
        "v_proj",
    ),
    "qwen2": ({**GROUPED, **RATES}, "v_proj"),
    "gemma2": ({**GROUPED, **RATES}, "v_proj"),
    "gemma3_text": ({**GROUPED, **RATES}, "v_proj"),
    "phi": ({**WIDTH, "resid_pdrop": 0.1, "embd_pdrop": 0.1, **RATES}, "v_proj"),
}
ENCODERS = {
    "bert": (WIDTH, "query"),
    "roberta": ({**WIDTH, "pad_token_id": 0, "max_position_embeddings": 64}, "query"),
    "distilbert": ({"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}, "q_lin"),
    "modernbert": (
        {
            **WIDTH,
            "pad_token_id": 0,
            "mlp_dropout": 0.1,
            "embedding_dropout": 0.1,
            **RATES,
        },
        "Wqkv",
    ),
    "albert": (
        {**WIDTH, "embedding_size": 16, "hidden_dropout_prob": 0.1},
        "query",
    ),
}
CASES = {**LANGUAGE_MODELS, **ENCODERS}


@pytest.fixture(scope="module")
def saved(tokenizer_folder, tmp_path_factory):
    """A function that saves a small random model of an architecture, once."""
    folders = {}

    def folder(name):
        if name not in folders:
            folders[name] = str(tmp_path_factory.mktemp(name))
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
            tokenizer.save_pretrained(folders[name])
            config = AutoConfig.for_model(name, vocab_size=64, **CASES[name][0])
            kind = AutoModel if name in ENCODERS else AutoModelForCausalLM
            with torch.random.fork_rng():
                torch.manual_seed(0)
                kind.from_config(config).save_pretrained(folders[name])
        return folders[name]

    return folder


def task_of(name, saved):
    if name in ENCODERS:
        return Classification(base=saved(name), labels=("a", "b", "c"), max_length=12)
    return CausalLanguageModel(base=saved(name), max_length=12)


def private(name, saved, computation=None, adapter=None):
    task = task_of(name, saved)
    adapter = adapter or LoRA(rank=2, target_modules=(CASES[name][1],))
    return PrivateModel(
        adapter.attach(task.build(), task.modules_to_save, 0), task, CPU, computation
    )


def rates(model):
    """Rates of dropout that the files of the model ask for."""
    found = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    for module in model.modules():
        found += [v for n, v in vars(module).items() if "drop" in n and type(v) is float]
    return [rate for rate in found if rate]


@pytest.mark.parametrize("name", CASES)
def test_a_private_step_passes_and_draws_nothing(name, saved):
    """StarCoder and Seed-OSS were refused with their own default configurations."""
    kind = AutoModel if name in ENCODERS else AutoModelForCausalLM
    assert rates(kind.from_pretrained(saved(name))), "the example must have dropout"
    model = private(name, saved)
    check_per_example_gradients(model)
    encoded = encode_records(model.task, model.task.tokenizer(), model.task.synthetic(7, 3), 1)
    before, randomness = read_vector(model.adapter), torch.get_rng_state()
    config = DPSGDConfig(
        noise_multiplier=0.7,
        sample_rate=0.6,
        clipping_norm=1.0,
        expected_batch_size=4,
        steps=2,
        learning_rate=0.1,
        physical_batch_size=3,
    )
    sampling, noise = (RandomStream(bytes([n]) * 32, bytes(16)) for n in (1, 2))
    train_round(model, encoded, config, sampling=sampling, noise=FastNoise(noise))
    after = read_vector(model.adapter)
    assert (after != before).all()
    assert math.isfinite(float(after.sum()))
    assert torch.equal(randomness, torch.get_rng_state())


@pytest.mark.parametrize("kind", [Checkpointing.REENTRANT, Checkpointing.NON_REENTRANT])
@pytest.mark.parametrize("name", ["opt", "falcon", "starcoder2", "bloom", "gpt_bigcode", "bert"])
def test_blocks_are_still_run_twice_and_draw_nothing(name, kind, saved):
    """Checkpointing is one thing that transformers does in training mode alone."""
    model = private(name, saved, Computation(checkpointing=kind))
    check_per_example_gradients(model)
    encoded = encode_records(model.task, model.task.tokenizer(), model.task.synthetic(3, 3), 1)
    layer = next(m for n, m in model.adapter.named_modules() if n.endswith(CASES[name][1]))
    passes = []
    layer.register_forward_hook(lambda *_: passes.append(1))
    model.per_example_gradients(encoded)
    model.forget()
    assert len(passes) == 2


def test_dropout_of_the_adapter_stays_on(saved):
    model = private("gpt2", saved, adapter=LoRA(rank=2, target_modules=("c_attn",), dropout=0.3))
    active = [m for m in model.adapter.modules() if isinstance(m, SecretDropout)]
    assert [layer.p for layer in active] == [0.3, 0.3]
    assert all(layer.training for layer in active)
    with model.evaluation():
        assert not any(module.training for module in model.adapter.modules())
    assert all(layer.training for layer in active)


def test_the_base_is_in_evaluation_mode_before_and_after_an_evaluation(saved):
    model = private("opt", saved)
    base = next(m for m in model.adapter.modules() if isinstance(m, PreTrainedModel))
    for _ in range(2):
        assert not base.training
        assert not base.model.decoder.layers[0].training
        assert model.adapter.training
        with model.evaluation():
            pass


def test_opacus_hooks_see_parameters_of_the_base_that_are_trained(saved):
    computation = Computation(gradients=GradientMethod.OPACUS_HOOKS)
    check_per_example_gradients(private("bert", saved, computation, InPlace.biases()))


def test_a_rate_under_any_name_is_off(saved):
    """By construction, not by a list: neither name nor place of a rate is known beforehand."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.chance = 0.5
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return nn.functional.dropout(self.layer(x), self.chance, self.training)

    base = Odd()
    switch_off_dropout(base)
    model = nn.Sequential(base, nn.Dropout(0.4))
    training_mode(model)
    x = torch.ones(2, 3)
    assert torch.equal(base(x), base.layer(x))
    assert model[1].training
