"""The gate: accepts what is exact, refuses the rest by name, and leaves the model as it was."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptEncoderConfig, VeraConfig
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM

from privfed import CausalLanguageModel, PeftAdapter
from privfed.errors import GateError, ModelError
from privfed.models.in_place import InPlace
from privfed.models.vector import read_vector
from privfed.private_step.batches import num_rows
from privfed.private_step.dpsgd import HiddenNoiseOptimizer
from privfed.private_step.gate import check_per_example_gradients
from privfed.private_step.private_model import PrivateModel
from privfed.settings.computation import Checkpointing, Computation, GradientMethod, Precision
from tests.contracts.private_steps import (
    CASES,
    CPU,
    LENGTH,
    Case,
    lora,
    peft,
    private_model,
)

QV = "bert lora q,v"


def test_what_is_exact_is_accepted_and_left_alone(accepted):
    before = read_vector(accepted.adapter)
    check_per_example_gradients(accepted)
    assert np.array_equal(before, read_vector(accepted.adapter))
    for _, parameter in accepted.parameters():
        assert parameter.grad is None
        assert parameter.grad_sample is None


COMPUTATIONS = {
    "bf16": Computation(precision=Precision.BF16),
    "fp16": Computation(precision=Precision.FP16),
    "reentrant": Computation(checkpointing=Checkpointing.REENTRANT),
    "non-reentrant bf16": Computation(
        checkpointing=Checkpointing.NON_REENTRANT, precision=Precision.BF16
    ),
    "opacus hooks": Computation(gradients=GradientMethod.OPACUS_HOOKS),
}


@pytest.mark.parametrize("how", list(COMPUTATIONS))
@pytest.mark.parametrize("name", [QV, "llama lora all", "gpt2 p-tuning"])
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
def test_other_ways_to_compute_are_accepted(name, how, folders):
    check_per_example_gradients(private_model(CASES[name], folders, COMPUTATIONS[how]))


def test_an_adapter_that_starts_at_zero_is_checked_with_numbers(folders):
    """LoRA starts with B = 0, where every gradient of A is zero, right or wrong."""
    task = CASES[QV].task(folders)
    model = CASES[QV].adapter.attach(task.build(), task.modules_to_save, 0)
    check_per_example_gradients(PrivateModel(model, task, CPU))


def test_dropout_is_off_within_the_gate_and_on_after_it(folders):
    private = private_model(Case("bert", lora("query", dropout=0.4)), folders)
    check_per_example_gradients(private)
    shares = {m.p for m in private.adapter.modules() if isinstance(m, nn.Dropout)}
    assert 0.4 in shares


# --- Adapters without exact gradients

REFUSED = {
    "embedding lora": (
        peft(LoraConfig, r=2, target_modules=["embed_tokens"]),
        "lora_embedding_A.*outside of any layer",
    ),
    "embedding dora": (
        peft(LoraConfig, r=2, target_modules=["embed_tokens"], use_dora=True),
        "lora_embedding_A.*outside of any layer",
    ),
    "trainable tokens": (
        peft(LoraConfig, r=2, target_modules=["q_proj"], trainable_token_indices=[1, 2]),
        "trainable_tokens_delta",
    ),
    "vera": (peft(VeraConfig, r=4, target_modules=["q_proj"]), "vera_lambda_b"),
    "lstm prompt encoder": (
        peft(
            PromptEncoderConfig,
            num_virtual_tokens=4,
            encoder_hidden_size=8,
            encoder_reparameterization_type="LSTM",
        ),
        "prompt_encoder.*LSTM",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
@pytest.mark.filterwarnings("ignore:for LSTM, the `encoder_num_layers`")
def test_adapters_without_exact_gradients_are_refused_by_name(name, folders):
    adapter, expected = REFUSED[name]
    with pytest.raises(GateError, match=expected):
        private_model(Case("llama", adapter), folders)


@pytest.fixture(scope="module")
def experts_folder(tokenizer_folder, tmp_path_factory):
    from tests.conftest import _save

    settings = MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=64,
    )
    folder = tmp_path_factory.mktemp("experts")
    return _save(MixtralForCausalLM, settings, tokenizer_folder, folder)


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        (
            peft(
                LoraConfig, r=2, target_modules=["q_proj"], target_parameters=["experts.down_proj"]
            ),
            "experts.*lora_",
        ),
        (InPlace(patterns=("*experts*",)), "experts"),
        (InPlace(patterns=("*mlp.gate.weight",)), "gate"),
    ],
    ids=["lora", "in place", "router"],
)
def test_experts_which_pick_tokens_are_refused_by_name(adapter, expected, experts_folder):
    task = CausalLanguageModel(base=experts_folder, max_length=LENGTH)
    with pytest.raises(GateError, match=expected):
        check_per_example_gradients(PrivateModel(adapter.attach(task.build(), (), 0), task, CPU))


def test_attention_beside_frozen_experts_is_accepted(experts_folder):
    task = CausalLanguageModel(base=experts_folder, max_length=LENGTH)
    model = lora("q_proj", "v_proj").attach(task.build(), (), 0)
    check_per_example_gradients(PrivateModel(model, task, CPU))


# --- Models and tasks that are wrong


def test_dropout_inside_a_function_is_refused(folders, monkeypatch):
    private = private_model(CASES[QV], folders)
    real = private.adapter.forward

    def dropped(*arguments, **keywords):
        return nn.functional.dropout(real(*arguments, **keywords), 0.5, training=True)

    monkeypatch.setattr(private.adapter, "forward", dropped)
    with pytest.raises(GateError, match="random numbers of its own"):
        check_per_example_gradients(private)


def test_noise_on_a_loss_is_refused(folders, monkeypatch):
    private = private_model(CASES[QV], folders)
    real = private.task.losses
    monkeypatch.setattr(
        private.task,
        "losses",
        lambda *a: (1 + 1e-6 * torch.randn(())) * real(*a),
        raising=False,
    )
    with pytest.raises(GateError, match="random numbers of its own"):
        check_per_example_gradients(private)


@pytest.mark.parametrize(
    ("mixed", "reason"),
    [
        (lambda losses: losses - losses.mean(), "another record's text"),
        (lambda losses: losses.mean().expand(len(losses)), "another record's text"),
        (lambda losses: losses * losses.softmax(dim=0).detach(), "another record's text"),
        (lambda losses: losses.roll(1) * losses, "another record's text"),
        (lambda losses: losses / len(losses), "differs from a single backward pass"),
        (lambda losses: losses.detach() + _hidden(losses), "differs from a single backward pass"),
    ],
    ids=["centred", "mean for each", "weighted", "neighbours", "averaged", "in gradients alone"],
)
def test_a_loss_that_mixes_records_is_refused(folders, mixed, reason, monkeypatch):
    private = private_model(CASES[QV], folders)
    real = private.task.losses
    monkeypatch.setattr(private.task, "losses", lambda *a: mixed(real(*a)), raising=False)
    with pytest.raises(GateError, match=reason):
        check_per_example_gradients(private)


@pytest.mark.parametrize("error", [3e-4, 3e-3])
@pytest.mark.parametrize("rounds", [False, True], ids=["it is exact", "it rounds"])
def test_a_reference_that_rounds_is_accepted_up_to_a_thousandth(
    folders, monkeypatch, error, rounds
):
    """An error is no rounding where the reference of four copies does not show it too."""
    private = private_model(CASES[QV], folders)
    real = PrivateModel.single_gradients

    def rounded(self, batch):
        off = error if num_rows(batch) == 1 or not rounds else 0.0
        return {name: (1 + off) * part for name, part in real(self, batch).items()}

    monkeypatch.setattr(PrivateModel, "single_gradients", rounded)
    if rounds and error < 1e-3:
        check_per_example_gradients(private)
        return
    with pytest.raises(GateError, match="differs from a single backward pass"):
        check_per_example_gradients(private)


def _hidden(losses):
    """Zero, with a gradient that depends on the other losses."""
    return (losses - losses.detach()) * losses.softmax(dim=0).detach()


class Remembering(nn.Module):
    """Adds the mean of what it saw."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, *arguments, **keywords):
        out = self.inner(*arguments, **keywords)
        with torch.no_grad():
            self.seen.mul_(0.99).add_(1e-7 * out.mean())
        return out + self.seen


def test_a_layer_that_remembers_texts_is_refused(folders):
    """What it keeps would be in the released numbers without noise."""
    private = private_model(CASES[QV], folders)
    dense = private.adapter.get_submodule("base_model.model.encoder.encoder.layer.0.output")
    dense.dense = Remembering(dense.dense)
    with pytest.raises(GateError, match=r"the buffer '.*seen' changes with the texts"):
        check_per_example_gradients(private)


def test_coins_that_seldom_matter_are_refused(folders, monkeypatch):
    """Layer drop: the draw itself is what is refused, not the layer that it happens to drop."""
    private = private_model(CASES[QV], folders)
    real = private.adapter.forward

    def dropping(*arguments, **keywords):
        torch.rand([])
        return real(*arguments, **keywords)

    monkeypatch.setattr(private.adapter, "forward", dropping)
    with pytest.raises(GateError, match="random numbers of its own"):
        check_per_example_gradients(private)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16, Precision.FP16])
def test_a_short_record_does_not_change_the_arithmetic_of_others(folders, precision):
    """With no empty place in a batch, attention takes another path: 0.6 C were measured."""
    task = CausalLanguageModel(base=folders["llama"], max_length=LENGTH)
    model = lora("q_proj", "v_proj").attach(task.build(), (), 0)
    private = PrivateModel(model, task, CPU, Computation(precision=precision))
    check_per_example_gradients(private)
    private.task = WholeWindow(task)
    if precision is not Precision.FP32:
        with pytest.raises(GateError, match="length of another record's text"):
            check_per_example_gradients(private)


class WholeWindow:
    """A task that leaves no place empty."""

    def __init__(self, task):
        self._task = task

    def __getattr__(self, name):
        return getattr(self._task, name)

    def collate(self, tokenizer, records):
        batch = self._task.collate(tokenizer, records)
        return {name: tensor[:, :-1] for name, tensor in batch.items()}


def test_what_fails_at_the_size_of_training_fails_in_the_gate(folders, monkeypatch):
    private = private_model(CASES[QV], folders)
    real = private.task.losses

    def small_only(model, batch):
        if len(batch["labels"]) > 8:
            raise KeyError("too much")
        return real(model, batch)

    monkeypatch.setattr(private.task, "losses", small_only, raising=False)
    check_per_example_gradients(private)
    for size in ({"physical_batch_size": 9}, {"physical_batch_size": 3, "stacked_clients": 3}):
        with pytest.raises(GateError, match="KeyError"):
            check_per_example_gradients(private, **size)


def test_losses_that_are_not_finite_are_named(folders, monkeypatch):
    private = private_model(CASES[QV], folders)
    real = private.task.losses
    monkeypatch.setattr(private.task, "losses", lambda *a: real(*a) / 0, raising=False)
    with pytest.raises(GateError, match="losses of made-up text are not finite"):
        check_per_example_gradients(private)


def test_a_loss_that_unfreezes_a_parameter_is_named(folders, monkeypatch):
    private = private_model(CASES[QV], folders)
    real = private.task.losses
    frozen = next(p for _, p in private.adapter.named_parameters() if not p.requires_grad)

    def unfreezing(*arguments):
        frozen.requires_grad_(True)
        return real(*arguments)

    monkeypatch.setattr(private.task, "losses", unfreezing, raising=False)
    with pytest.raises(ModelError, match="what is trainable must not change"):
        check_per_example_gradients(private)


def test_a_parameter_that_no_loss_depends_on_is_refused(folders):
    adapter = InPlace(patterns=("*pooler.dense.weight",), excluded=())
    with pytest.raises(GateError, match="pooler"):
        check_per_example_gradients(private_model(Case("bert", adapter), folders))


def test_a_gradient_that_is_zero_for_ever_is_refused(folders):
    """The softmax takes biases of attention keys out again."""
    adapter = InPlace(patterns=("*.key.bias",), excluded=())
    with pytest.raises(GateError, match=r"key\.bias.*does not influence"):
        check_per_example_gradients(private_model(Case("bert", adapter), folders))


def test_a_step_that_leaves_a_parameter_is_refused(folders, monkeypatch):
    private = private_model(CASES[QV], folders)
    name, parameter = private.parameters()[0]
    real = HiddenNoiseOptimizer.add_noise

    def but_one(self):
        real(self)
        parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(HiddenNoiseOptimizer, "add_noise", but_one)
    with pytest.raises(GateError, match=name.replace(".", r"\.")):
        check_per_example_gradients(private)


def test_a_prompt_that_reaches_beyond_the_positions_is_refused(folders):
    short = CausalLanguageModel(base=folders["gpt2"], max_length=LENGTH)
    positions = short.build().config.max_position_embeddings
    task = CausalLanguageModel(base=folders["gpt2"], max_length=positions)
    model = PeftAdapter.prompt_tuning(3).attach(task.build(), (), 0)
    with pytest.raises(GateError, match="made-up text"):
        check_per_example_gradients(PrivateModel(model, task, CPU))
