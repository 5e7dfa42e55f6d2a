"""The private step, for every architecture and adapter that is accepted."""

import numpy as np
import pytest
import torch

from privfed import CausalLanguageModel, Classification, LoRA, PeftAdapter, Record
from privfed.client.dpsgd import (
    DPSGDConfig,
    HiddenNoiseOptimizer,
    PrivateModel,
    private_step,
    rows,
    train_round,
)
from privfed.client.gate import check_per_example_gradients
from privfed.client.randomness import RandomStream
from privfed.errors import GateError, ModelError
from privfed.models.adapters import freeze_orthonormal_a
from privfed.models.vector import read_vector, write_vector

CPU = torch.device("cpu")
QV = LoRA(rank=2, target_modules=("query", "value"))


class Silence:
    """A stream whose normal numbers are zero: shows the clipped sum that noise would hide."""

    def normal(self, count):
        return np.zeros(count)


class SumRecorder(HiddenNoiseOptimizer):
    """Keeps the un-noised clipped sum of a step."""

    def add_noise(self):
        self.clipped_sum = torch.cat([p.summed_grad.reshape(-1) for p in self.params]).double()
        super().add_noise()


def config(**changes):
    settings = {
        "noise_multiplier": 1.0,
        "sample_rate": 0.5,
        "clipping_norm": 1.0,
        "expected_batch_size": 4,
        "steps": 1,
        "learning_rate": 0.1,
        "physical_batch_size": 3,
    }
    return DPSGDConfig(**{**settings, **changes})


def private_model(task, adapter, *, freeze_a=False):
    model = adapter.attach(task.build(), task.modules_to_save, 0)
    if freeze_a:
        freeze_orthonormal_a(model, 0)
    private = PrivateModel(model, task, CPU)
    randomise(private)
    return private


def randomise(private, seed=5, scale=0.1):
    generator = np.random.default_rng(seed)
    size = read_vector(private.adapter).size
    write_vector(private.adapter, (scale * generator.standard_normal(size)).astype(np.float32))


@pytest.fixture(params=["bert", "bert-ffa", "llama", "llama-all", "llama-prefix", "gpt2"])
def case(request, bert_folder, llama_folder, gpt2_folder):
    name = request.param
    if name.startswith("bert"):
        task = Classification(base=bert_folder, labels=("a", "b", "c"), max_length=24)
        return private_model(task, QV, freeze_a=name == "bert-ffa")
    if name == "gpt2":
        task = CausalLanguageModel(base=gpt2_folder, max_length=24)
        return private_model(task, LoRA(rank=2, target_modules=("c_attn",)))
    task = CausalLanguageModel(base=llama_folder, max_length=24)
    linears = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    adapter = {
        "llama": LoRA(rank=2, target_modules=("q_proj", "v_proj"), alpha=8.0),
        "llama-all": LoRA(rank=3, target_modules=linears, layers=(1,)),
        "llama-prefix": PeftAdapter.prefix_tuning(3),
    }[name]
    return private_model(task, adapter)


def encoded_examples(private, count=5):
    return private.task.collate(private.task.tokenizer(), private.task.synthetic(count, 3))


def clipped_sum(private, encoded, indices, **changes):
    before = read_vector(private.adapter)
    parameters = [parameter for _, parameter in private.parameters()]
    settings = config(**changes)
    optimizer = SumRecorder(torch.optim.SGD(parameters, lr=0.1), settings, Silence())
    indices = torch.tensor(indices, dtype=torch.long)
    private_step(private, optimizer, encoded, indices, settings.physical_batch_size)
    write_vector(private.adapter, before)
    return optimizer.clipped_sum


def test_per_example_gradients_equal_single_backward_passes(case):
    encoded = encoded_examples(case)
    case.per_example_gradients(encoded)
    claimed = {name: parameter.grad_sample.clone() for name, parameter in case.parameters()}
    for index in range(5):
        single = case.single_gradients(rows(encoded, torch.tensor([index])))
        for name, gradient in single.items():
            scale = max(1e-3, float(gradient.abs().max()))
            assert float((claimed[name][index] - gradient).abs().max()) <= 1e-5 * scale, name


def test_the_gate_accepts_and_leaves_the_parameters_alone(case):
    before = read_vector(case.adapter)
    check_per_example_gradients(case)
    assert np.array_equal(before, read_vector(case.adapter))


@pytest.mark.parametrize("clipping_norm", [1e-3, 1.0])
def test_removing_any_record_moves_the_clipped_sum_by_at_most_c(case, clipping_norm):
    encoded = encoded_examples(case)
    everyone = clipped_sum(case, encoded, range(5), clipping_norm=clipping_norm)
    for left_out in range(5):
        rest = [index for index in range(5) if index != left_out]
        moved = everyone - clipped_sum(case, encoded, rest, clipping_norm=clipping_norm)
        assert float(moved.norm()) <= clipping_norm * (1 + 1e-6)


def test_splitting_a_batch_in_parts_changes_nothing(case):
    encoded = encoded_examples(case)
    whole = clipped_sum(case, encoded, range(5), physical_batch_size=5)
    parts = clipped_sum(case, encoded, range(5), physical_batch_size=2)
    assert float((whole - parts).norm()) <= 1e-5 * float(whole.norm())


@pytest.fixture
def opposed(bert_folder):
    """The same text with both labels, where the gradients are -3v and v (up to a factor)."""
    task = Classification(base=bert_folder, labels=("a", "b"), max_length=24)
    private = private_model(task, QV)
    for name, parameter in private.parameters():
        if name.endswith("head.modules_to_save.default.bias"):
            parameter.data = torch.tensor([1.1, 0.0])
    text = "river stone market window"
    encoded = task.collate(task.tokenizer(), [Record(text, 0), Record(text, 1)])
    return private, encoded


def largest_move(private, encoded, **changes):
    both = clipped_sum(private, encoded, [0, 1], **changes)
    moves = [both - clipped_sum(private, encoded, [kept], **changes) for kept in (0, 1)]
    return max(float(move.norm()) for move in moves)


def test_opposed_records_move_the_clipped_sum_by_at_most_c(opposed):
    assert largest_move(*opposed, clipping_norm=0.01) <= 0.01 * (1 + 1e-6)


def test_a_batch_that_is_clipped_as_one_record_shows(opposed, monkeypatch):
    """The planted bug: one gradient for the whole batch, as with PEFT's prompt tuning."""
    real = PrivateModel.per_example_gradients

    def clipped_as_one(self, batch):
        real(self, batch)
        for _, parameter in self.parameters():
            parameter.grad_sample = parameter.grad_sample.sum(dim=0, keepdim=True)

    monkeypatch.setattr(PrivateModel, "per_example_gradients", clipped_as_one)
    assert largest_move(*opposed, clipping_norm=0.01) > 1.5 * 0.01


def test_a_record_with_a_non_finite_gradient_contributes_nothing(opposed):
    private, encoded = opposed
    healthy = clipped_sum(private, encoded, [1])
    real = Classification.losses

    def losses(self, model, batch):
        broken = torch.where(batch["labels"] == 0, float("nan"), 1.0)
        return broken * real(self, model, batch)

    patched = pytest.MonkeyPatch()
    patched.setattr(Classification, "losses", losses)
    try:
        both = clipped_sum(private, encoded, [0, 1])
    finally:
        patched.undo()
    assert torch.isfinite(both).all()
    assert torch.allclose(both, healthy, atol=1e-6)


@pytest.mark.parametrize("adapter", ["prompt", "ia3", "dora"])
def test_adapters_without_exact_gradients_are_refused_by_name(llama_folder, adapter):
    from peft import IA3Config, LoraConfig

    task = CausalLanguageModel(base=llama_folder, max_length=24)
    chosen = {
        "prompt": PeftAdapter.prompt_tuning(4),
        "ia3": PeftAdapter(config=IA3Config(task_type="CAUSAL_LM")),
        "dora": PeftAdapter(
            config=LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM")
        ),
    }[adapter]
    private = PrivateModel(chosen.attach(task.build(), (), 0), task, CPU)
    expected = {
        "prompt": r"prompt_encoder\.default\.embedding\.weight",
        "ia3": "ia3_l",
        "dora": "Dora",
    }[adapter]
    with pytest.raises(GateError, match=expected):
        check_per_example_gradients(private)


def test_a_longer_record_beside_it_changes_nothing_for_a_record(llama_folder, tmp_path):
    """LongRoPE switches its frequencies by the length of the batch: 13 C were measured when
    batches were cut to their longest record. At one public length nothing couples records."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    settings = LlamaConfig.from_pretrained(llama_folder)
    settings.rope_parameters = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 24,
    }
    LlamaForCausalLM(settings).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(llama_folder).save_pretrained(tmp_path)
    task = CausalLanguageModel(base=str(tmp_path), max_length=40)
    private = private_model(task, LoRA(rank=2, target_modules=("q_proj",)))
    texts = ["river stone", "market window garden"] * 8 + ["engine letter " * 20]
    records = [Record(text) for text in texts]
    bound = 1e-3  # far below every gradient's norm, so that a coupled record moves the sum
    sums = [
        clipped_sum(
            private,
            task.collate(task.tokenizer(), chosen),
            range(len(chosen)),
            clipping_norm=bound,
            physical_batch_size=17,
        )
        for chosen in (records, records[:-1])
    ]
    assert float((sums[0] - sums[1]).norm()) <= bound * (1 + 1e-5)


def test_a_window_longer_than_the_model_reads_is_refused(bert_folder):
    task = Classification(base=bert_folder, labels=("a", "b"), max_length=100)
    with pytest.raises(GateError, match="made-up text"):
        check_per_example_gradients(private_model(task, QV))


def test_norms_of_millions_of_entries_are_not_underestimated():
    """A float32 norm of 4M equal entries falls short; the clipped row must not exceed C."""
    parameter = torch.nn.Parameter(torch.zeros(4_000_000))
    generator = torch.Generator().manual_seed(1)
    parameter.grad_sample = torch.rand((1, 4_000_000), generator=generator)
    optimizer = SumRecorder(torch.optim.SGD([parameter], lr=0.1), config(), Silence())
    optimizer.step()
    assert float(optimizer.clipped_sum.norm()) <= 1.0


def test_a_parameter_that_no_loss_depends_on_is_refused(bert_folder):
    task = Classification(base=bert_folder, labels=("a", "b"), max_length=24)
    model = QV.attach(task.build(), task.modules_to_save, 0)
    pooler = next(p for n, p in model.named_parameters() if n.endswith("pooler.dense.weight"))
    pooler.requires_grad_(True)
    with pytest.raises(GateError, match="pooler"):
        check_per_example_gradients(PrivateModel(model, task, CPU))


def test_a_mean_over_the_batch_is_refused(bert_folder, monkeypatch):
    task = Classification(base=bert_folder, labels=("a", "b"), max_length=24)
    private = private_model(task, QV)
    real = Classification.losses
    monkeypatch.setattr(Classification, "losses", lambda *a: real(*a).mean())
    with pytest.raises(ModelError, match="mean over the batch"):
        private.per_example_gradients(encoded_examples(private))


def test_a_loss_that_mixes_records_is_refused(bert_folder, monkeypatch):
    task = Classification(base=bert_folder, labels=("a", "b"), max_length=24)
    private = private_model(task, QV)
    real = Classification.losses

    def centred(self, model, batch):
        losses = real(self, model, batch)
        return losses - losses.mean()

    monkeypatch.setattr(Classification, "losses", centred)
    with pytest.raises(GateError):
        check_per_example_gradients(private)


def stream(number):
    return RandomStream(bytes([number]) * 32, bytes(16))


def test_noise_has_the_stated_size_on_every_parameter(case):
    encoded = encoded_examples(case)
    settings = config(sample_rate=1e-12, steps=40, noise_multiplier=2.0, clipping_norm=0.5)
    before = read_vector(case.adapter)
    train_round(case, encoded, settings, sampling=stream(1), noise=stream(2))
    moved = (read_vector(case.adapter) - before) / (0.1 / 4 * 2.0 * 0.5 * 40**0.5)
    assert np.all(moved != 0)
    assert abs(moved.std() - 1) < 5 / np.sqrt(2 * moved.size)
    assert abs(moved.mean()) < 5 / np.sqrt(moved.size)


def test_an_empty_draw_is_a_step_of_noise(case):
    encoded = encoded_examples(case)
    before = read_vector(case.adapter)
    train_round(case, encoded, config(sample_rate=1e-12), sampling=stream(1), noise=stream(2))
    assert np.all(read_vector(case.adapter) != before)


@pytest.mark.parametrize("where", ["after the forward pass", "within the backward pass"])
def test_what_a_failed_client_left_does_not_reach_the_next(case, where, monkeypatch):
    encoded = encoded_examples(case)
    before = read_vector(case.adapter)
    settings = config(sample_rate=1.0)
    train_round(case, encoded, settings, sampling=stream(1), noise=Silence())
    alone = read_vector(case.adapter)

    def fail(*arguments, **keywords):
        raise RuntimeError("a client failed")

    write_vector(case.adapter, before)
    handle = case.parameters()[0][1].register_hook(fail)
    with monkeypatch.context() as patch:
        if where == "after the forward pass":
            patch.setattr(torch.autograd, "backward", fail)
        with pytest.raises(RuntimeError, match="a client failed"):
            train_round(case, encoded, settings, sampling=stream(3), noise=stream(4))
    handle.remove()
    write_vector(case.adapter, before)
    train_round(case, encoded, settings, sampling=stream(1), noise=Silence())
    assert np.array_equal(read_vector(case.adapter), alone)


def test_the_sum_is_divided_by_the_public_batch_size(case):
    encoded = encoded_examples(case)
    before = read_vector(case.adapter)
    total = clipped_sum(case, encoded, range(5))
    settings = config(sample_rate=1.0, expected_batch_size=7)
    train_round(case, encoded, settings, sampling=stream(1), noise=Silence())
    moved = torch.from_numpy(read_vector(case.adapter) - before).double()
    assert torch.allclose(moved, -0.1 * total / 7, atol=1e-6)


def test_half_precision_parameters_are_refused(bert_folder):
    task = Classification(base=bert_folder, labels=("a", "b"), max_length=24)
    model = QV.attach(task.build(), task.modules_to_save, 0).to(torch.bfloat16)
    with pytest.raises(ModelError, match="float32"):
        PrivateModel(model, task, CPU)
