"""Layers are run again in the backward pass, and only where a model and its adapter can do so."""

import pytest
import torch
from torch import nn

from privfed import CausalLanguageModel, LoRA, PeftAdapter
from privfed.errors import ConfigError
from privfed.models.base_modes import training_mode
from privfed.models.checkpointing import checkpoint_layers
from privfed.private_step.private_model import PrivateModel
from privfed.settings.computation import Checkpointing, Computation
from tests.contracts.private_steps import CPU
from tests.unit.privfed.private_step.toy import Toy

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")

TWICE = [Checkpointing.REENTRANT, Checkpointing.NON_REENTRANT]


@pytest.fixture
def attached(llama_folder):
    """A function: the base model with an adapter that has numbers, and a text."""

    def make(adapter):
        task = CausalLanguageModel(base=llama_folder, max_length=6)
        model = adapter.attach(task.build(), (), 0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.constant_(parameter, 0.05)
        text = task.collate(task.tokenizer(), task.synthetic(3, 0))
        return task, model, text

    return make


LORA = LoRA(rank=2, target_modules=("q_proj",))


def passes(task, model, text):
    """How often a layer runs in a forward and a backward pass."""
    training_mode(model)
    seen = []
    layer = model.get_submodule("base_model.model.model.layers.0.mlp")
    handle = layer.register_forward_pre_hook(lambda *_: seen.append(1))
    task.losses(model, text).sum().backward()
    handle.remove()
    return len(seen)


def gradients(model):
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    return found


def test_without_it_every_layer_runs_once(attached):
    task, model, text = attached(LORA)
    checkpoint_layers(model, Checkpointing.NONE)
    assert passes(task, model, text) == 1


@pytest.mark.parametrize("kind", TWICE)
def test_a_layer_runs_twice_and_the_gradients_are_the_same(kind, attached):
    task, model, text = attached(LORA)
    passes(task, model, text)
    plain = gradients(model)
    assert all(gradient.any() for gradient in plain.values())
    checkpoint_layers(model, kind)
    assert passes(task, model, text) == 2
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, plain[name], msg=name)


@pytest.mark.parametrize(
    ("kind", "asks"), [(Checkpointing.REENTRANT, True), (Checkpointing.NON_REENTRANT, False)]
)
def test_embeddings_ask_for_gradients_for_the_reentrant_kind_alone(kind, asks, attached):
    """A graph from the embeddings on would cost memory for nothing."""
    _, model, text = attached(LORA)
    checkpoint_layers(model, kind)
    assert model.get_input_embeddings()(text["input_ids"]).requires_grad is asks


def test_keys_and_values_are_not_kept(attached):
    _, model, _ = attached(LORA)
    model.config.use_cache = True
    checkpoint_layers(model, Checkpointing.NON_REENTRANT)
    assert model.config.use_cache is False


@pytest.mark.parametrize("kind", TWICE)
def test_prefix_tuning_is_refused(kind, attached):
    _, model, _ = attached(PeftAdapter.prefix_tuning(2))
    checkpoint_layers(model, Checkpointing.NONE)
    with pytest.raises(ConfigError, match="without gradient checkpointing, or take prompt tuning"):
        checkpoint_layers(model, kind)


def test_checkpointing_needs_layers_to_checkpoint():
    with pytest.raises(ConfigError, match="transformers model"):
        PrivateModel(
            nn.Linear(4, 4), Toy(), CPU, Computation(checkpointing=Checkpointing.REENTRANT)
        )
