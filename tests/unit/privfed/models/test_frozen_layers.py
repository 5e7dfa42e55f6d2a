"""Skipping the blocks below the first trained one changes nothing but the time."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from privfed import (
    CausalLanguageModel,
    Classification,
    Computation,
    CustomLoss,
    InPlace,
    LoRA,
    PeftAdapter,
)
from privfed.data.records import RecordGroup
from privfed.errors import ConfigError, GateError
from privfed.models.examples import encode_records
from privfed.models.tasks import FROZEN_STATES
from privfed.private_step.evaluation import held_out_metric
from privfed.private_step.gate import check_per_example_gradients
from privfed.private_step.private_model import PrivateModel
from privfed.settings.computation import Checkpointing, GradientMethod, Precision
from tests.contracts.private_steps import CPU, LABELS, LENGTH

ADAPTERS = {
    "bert": LoRA(rank=2, target_modules=("query", "value"), layers=(1,)),
    "roberta": InPlace(last_layers=1),
    "distilbert": InPlace(last_layers=1),
    "llama": LoRA(rank=2, target_modules=("q_proj", "down_proj"), layers=(1,)),
    "gpt2": LoRA(rank=2, target_modules=("c_attn",), layers=(1,)),
}
COMPUTATIONS = {
    "fp32": {},
    "bf16": {"precision": Precision.BF16},
    "non-reentrant": {"checkpointing": Checkpointing.NON_REENTRANT},
    "opacus hooks": {"gradients": GradientMethod.OPACUS_HOOKS},
}


@pytest.fixture
def build(folders):
    def make(architecture, *, cached, **how):
        base = folders[architecture]
        if architecture in ("llama", "gpt2"):
            task = CausalLanguageModel(base=base, max_length=LENGTH)
        else:
            task = Classification(base=base, labels=LABELS, max_length=LENGTH)
        model = ADAPTERS[architecture].attach(task.build(), task.modules_to_save, 0)
        with torch.no_grad():  # a LoRA that starts at zero has no gradient in A
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    generator = torch.Generator().manual_seed(len(name))
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        return PrivateModel(model, task, CPU, Computation(cache_frozen_layers=cached, **how))

    return make


def gradients(private, batch):
    private.forget()
    private.per_example_gradients(batch)
    return {name: parameter.grad_sample for name, parameter in private.parameters()}


def encoded(private, examples=1):
    records = private.task.synthetic(6, 0)
    if examples > 1:
        records = [RecordGroup(tuple(records[i : i + 2])) for i in range(0, 6, 2)]
    return encode_records(private.task, private.task.tokenizer(), records, examples)


@pytest.mark.parametrize("examples", [1, 3])
@pytest.mark.parametrize("how", COMPUTATIONS)
@pytest.mark.parametrize("architecture", ADAPTERS)
def test_gradients_are_those_of_whole_passes(architecture, how, examples, build):
    plain = build(architecture, cached=False, **COMPUTATIONS[how])
    batch = encoded(plain, examples)
    cached = build(architecture, cached=True, **COMPUTATIONS[how])
    kept = cached.with_frozen_states(batch, 2)
    assert kept[FROZEN_STATES].shape[: 2 if examples == 1 else 3] == batch["input_ids"].shape
    tolerance = 2e-2 if how == "bf16" else 1e-5
    wanted, found = gradients(plain, batch), gradients(cached, kept)
    for name, gradient in wanted.items():
        scale = float(gradient.abs().max())
        assert float((found[name] - gradient).abs().max()) <= tolerance * scale, name
        assert scale > 0


@pytest.mark.parametrize("architecture", ADAPTERS)
def test_skipped_blocks_do_not_run(architecture, build):
    private = build(architecture, cached=True)
    kept = private.with_frozen_states(encoded(private), 6)
    blocks = max((m for m in private.adapter.modules() if hasattr(m, "__len__")), key=len)
    ran = []
    inner = next(
        m
        for m in blocks[0].modules()
        if isinstance(m, torch.nn.LayerNorm) or "Norm" in type(m).__name__
    )
    inner.register_forward_hook(lambda *_: ran.append(1))
    gradients(private, kept)
    assert not ran
    private.record_losses(private.adapter, encoded(private))
    assert ran


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_the_gate_and_the_held_out_metric(architecture, build):
    private = build(architecture, cached=True)
    check_per_example_gradients(private, physical_batch_size=5, stacked_clients=2)
    batch = encoded(private)
    kept = private.with_frozen_states(batch, 4)
    record = [held_out_metric(private, each, 4) for each in (batch, kept)]
    assert record[0] == pytest.approx(record[1], rel=1e-5)


def test_a_block_that_is_entered_with_wrong_states_fails_the_gate(build, monkeypatch):
    private = build("bert", cached=True)
    real = PrivateModel.with_frozen_states

    def shifted(self, batch, rows_at_once):
        kept = real(self, batch, rows_at_once)
        return {**kept, FROZEN_STATES: 1.5 * kept[FROZEN_STATES]}

    monkeypatch.setattr(PrivateModel, "with_frozen_states", shifted)
    with pytest.raises(GateError, match="differs from a single backward pass"):
        check_per_example_gradients(private)


def test_it_is_compiled_as_one_graph(build, monkeypatch):
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()
    private = build("bert", cached=True, compile=True)
    kept = private.with_frozen_states(encoded(private), 6)
    counters.clear()  # the pass that is broken off is none of training
    first = gradients(private, kept)
    wanted = gradients(build("bert", cached=False), encoded(private))
    for name, gradient in wanted.items():
        torch.testing.assert_close(first[name], gradient, rtol=1e-4, atol=1e-6)
    gradients(private, kept)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    torch._dynamo.reset()


def test_nothing_of_a_client_is_left_for_the_next(build):
    private = build("bert", cached=True)
    gradients(private, private.with_frozen_states(encoded(private), 6))
    private.forget()
    assert all(getattr(module, "states", None) is None for module in private.adapter.modules())


@pytest.mark.parametrize(
    ("architecture", "adapter", "reason"),
    [
        ("bert", LoRA(rank=2, target_modules=("query",)), "needs frozen blocks below"),
        ("llama", PeftAdapter.prompt_tuning(3), "a soft prompt changes"),
    ],
)
def test_where_nothing_can_be_kept_it_is_refused(architecture, adapter, reason, build, monkeypatch):
    monkeypatch.setitem(ADAPTERS, architecture, adapter)
    with pytest.raises(ConfigError, match=reason):
        build(architecture, cached=True)


def test_low_precision_goes_through_the_whole_preparation(make_federation, tmp_path):
    """The gate sees such a model twice, in full precision first."""
    computation = Computation(cache_frozen_layers=True, precision=Precision.BF16)
    federation = make_federation(adapter=ADAPTERS["bert"], computation=computation, rounds=1)
    assert federation.run(tmp_path / "run").rounds


def test_dropout_below_the_trained_block_is_refused(folders):
    """Its masks would be kept, and drawn from a generator whose seed is known."""
    task = Classification(base=folders["bert"], labels=LABELS, max_length=LENGTH)
    base = task.build()
    base.encoder.encoder.layer[0].output.dropout.p = 0.1
    model = ADAPTERS["bert"].attach(base, task.modules_to_save, 0)
    with pytest.raises(ConfigError, match=r"layer\.0\.output\.dropout' is dropout"):
        PrivateModel(model, task, CPU, Computation(cache_frozen_layers=True))


def test_coins_of_a_skipped_block_are_refused(build, monkeypatch):
    """Dropout in a function: the passes of the gate skip the block that draws."""
    private = build("bert", cached=True)
    block = private.adapter.get_submodule("base_model.model.encoder.encoder.layer.0.output")
    real = block.forward
    monkeypatch.setattr(
        block, "forward", lambda *a, **k: torch.nn.functional.dropout(real(*a, **k), 1e-9)
    )
    with pytest.raises(GateError, match="random numbers of its own"):
        check_per_example_gradients(private)


@pytest.mark.parametrize("architecture", ADAPTERS)
def test_states_of_a_record_do_not_depend_on_how_many_there_are(architecture, build):
    """All passes have one shape, as in training."""
    private = build(architecture, cached=True)
    batch = encoded(private)
    fewer = {name: tensor[:5] for name, tensor in batch.items()}
    task, seen = private.task, []

    def losses(model, examples):
        seen.append(len(examples["input_ids"]))
        return task.losses(model, examples)

    private.task = CustomLoss(task=task, loss=losses, name="watched")
    kept, without = (private.with_frozen_states(each, 4)[FROZEN_STATES] for each in (batch, fewer))
    assert torch.equal(kept[:5], without)
    assert seen == [4, 4, 4, 4]


def test_the_held_out_metric_is_that_of_whole_passes_under_a_loss_that_changes_its_input(build):
    private = build("llama", cached=True)
    task = private.task

    def denoising(model, batch):
        noisy = torch.where(batch["input_ids"] % 3 == 0, 1, batch["input_ids"])
        return task.losses(model, {**batch, "input_ids": noisy})

    private.task = CustomLoss(task=task, loss=denoising, name="denoising")
    batch = encoded(private)
    kept = private.with_frozen_states(batch, 4, held_out=True)
    record = [held_out_metric(private, each, 4) for each in (batch, kept)]
    assert record[0] == pytest.approx(record[1], rel=1e-5)


@pytest.mark.parametrize("stacked", [1, 3])
def test_a_run_ends_with_the_adapter_of_one_that_keeps_nothing(
    stacked, make_federation, seeded_randomness, tmp_path
):
    left = []
    for cached in (False, True):
        computation = Computation(stacked_clients=stacked, cache_frozen_layers=cached)
        folder = tmp_path / str(cached)
        result = make_federation(
            adapter=ADAPTERS["bert"],
            computation=computation,
            randomness=seeded_randomness(1),
            state_folder=tmp_path / f"state {cached}",
        ).run(folder)
        left.append(result)
    values = [[record.value for record in result.rounds] for result in left]
    assert values[0] == pytest.approx(values[1], abs=0.05)
    adapters = [load_file(result.adapter / "adapter_model.safetensors") for result in left]
    for name, tensor in adapters[0].items():
        np.testing.assert_allclose(tensor, adapters[1][name], atol=2e-3)
