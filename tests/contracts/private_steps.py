"""Every accepted adapter on every architecture, and what must hold of its private step.

The checks are functions that fail by assertion, so that a planted bug can be shown to trip them.
"""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from peft import (
    LNTuningConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
)
from scipy import stats

from privfed import (
    CausalLanguageModel,
    Classification,
    Houlsby,
    LoRA,
    PeftAdapter,
    PromptGenerator,
    SparseUpdate,
)
from privfed.models.adapters import freeze_orthonormal_a, lora_a_factors
from privfed.models.in_place import InPlace
from privfed.models.vector import read_vector, trainable, write_vector
from privfed.private_step.batches import num_rows, rows
from privfed.private_step.dpsgd import DPSGDConfig, private_optimizer, private_step
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.randomness import RandomStream

CPU = torch.device("cpu")
LENGTH = 12
LABELS = ("a", "b", "c")
SCALE = "scale"
BFLOAT16 = torch.bfloat16


class ScaledTask:
    """A task whose losses are multiplied by the batch's `scale`, where there is one."""

    def __init__(self, task):
        self._task = task

    def __getattr__(self, name):
        return getattr(self._task, name)

    def losses(self, model, batch):
        scale = batch.get(SCALE)
        kept = {name: tensor for name, tensor in batch.items() if name != SCALE}
        losses = self._task.losses(model, kept)
        return losses if scale is None else losses * scale


@dataclass(frozen=True)
class Case:
    """One adapter on one architecture."""

    architecture: str
    adapter: object
    freeze: Callable = lambda model: None
    anchors: tuple = ()

    def task(self, folders):
        folder = folders[self.architecture]
        if self.architecture in ("bert", "roberta", "distilbert"):
            return Classification(
                base=folder, labels=LABELS, max_length=LENGTH, anchor_texts=self.anchors
            )
        return CausalLanguageModel(base=folder, max_length=LENGTH)

    def trainable_model(self, task):
        """The model, with numbers in every trainable parameter that are not zero."""
        with warnings.catch_warnings():
            # PEFT says of its own norm tuning that norms are layers it does not know.
            warnings.filterwarnings("ignore", message="Unsupported layer type")
            model = self.adapter.attach(task.build(), task.modules_to_save, 0)
        self.freeze(model)
        randomise(model)
        return model


def randomise(model, seed=5, scale=0.1):
    generator = np.random.default_rng(seed)
    before = read_vector(model)
    shift = (scale * generator.standard_normal(before.size)).astype(np.float32)
    write_vector(model, before + shift)


def _freeze_a(model):
    freeze_orthonormal_a(model, 0)


def _freeze_factor_a(model):
    """Without what FFA-LoRA promises, which it does not for DoRA."""
    for _, factor in lora_a_factors(model):
        factor.requires_grad_(False)


def _freeze_b(model):
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            with torch.no_grad():
                parameter.copy_(torch.linspace(-0.3, 0.4, parameter.numel()).view_as(parameter))
            parameter.requires_grad_(False)


def _freeze_magnitudes(model):
    for name, parameter in model.named_parameters():
        if ".lora_magnitude_vector." in name:
            with torch.no_grad():
                parameter.mul_(torch.linspace(0.8, 1.3, parameter.numel()))
            parameter.requires_grad_(False)


def peft(kind, **settings):
    return PeftAdapter(config=kind(task_type="CAUSAL_LM", **settings))


def _classifier_lora(**settings):
    return PeftAdapter(config=LoraConfig(r=2, **settings))


_LLAMA_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_GPT2_LINEARS = ("c_attn", "c_proj", "c_fc")
_NO_POOLER = ("*pooler*", "*.key.bias", "*.k_lin.bias")


def lora(*modules, **settings):
    return LoRA(rank=settings.pop("rank", 2), target_modules=modules, **settings)


def dora(*modules, **settings):
    return lora(*modules, dora=True, **settings)


def houlsby(*modules, **settings):
    return Houlsby(bottleneck=settings.pop("bottleneck", 3), target_modules=modules, **settings)


def _prefix(projection):
    return peft(
        PrefixTuningConfig,
        num_virtual_tokens=3,
        prefix_projection=projection,
        encoder_hidden_size=8,
    )


_ANCHORS = ("goal match team", "bank price", "film actor stage", "river stone", "winter market")
_GENERATOR = PromptGenerator(
    task_text=("goal match team", "bank price"), num_virtual_tokens=3, width=8, heads=2
)

CASES = {
    "bert lora q,v": Case("bert", lora("query", "value")),
    "bert lora all": Case(
        "bert", lora("query", "key", "value", "output.dense", "intermediate.dense")
    ),
    "bert lora rank-stabilised": Case("bert", lora("query", rank=3, rank_stabilized=True)),
    "bert lora A frozen": Case("bert", lora("query", "value"), _freeze_a),
    "bert lora B frozen": Case("bert", lora("query", "value"), _freeze_b),
    "bert dora": Case("bert", dora("query", "output.dense", alpha=6.0)),
    "bert dora A frozen": Case("bert", dora("query", alpha=6.0), _freeze_factor_a),
    "bert dora magnitudes frozen": Case("bert", dora("query", "value"), _freeze_magnitudes),
    "bert houlsby": Case("bert", houlsby("attention.output.dense", "output.dense")),
    "bert norms saved": Case(
        "bert",
        _classifier_lora(target_modules=["query"], modules_to_save=["head", "LayerNorm"]),
    ),
    "bert ia3": Case("bert", PeftAdapter.ia3(("key", "value", "output.dense"), ("output.dense",))),
    "bert biases": Case("bert", InPlace.biases()),
    "bert last layers": Case("bert", InPlace(last_layers=1)),
    "bert sparse": Case(
        "bert",
        SparseUpdate(target_modules=("query", "intermediate.dense", "output.dense"), share=0.05),
    ),
    "bert relative": Case("bert", lora("relative"), anchors=_ANCHORS),
    "bert relative A frozen": Case("bert", lora("relative"), _freeze_a, anchors=_ANCHORS),
    "roberta lora q,v": Case("roberta", lora("query", "value")),
    "roberta biases": Case("roberta", InPlace.biases()),
    "distilbert lora all": Case(
        "distilbert", lora("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2")
    ),
    "distilbert last layers": Case("distilbert", InPlace(last_layers=1, excluded=_NO_POOLER)),
    "llama lora q,v": Case("llama", lora("q_proj", "v_proj", alpha=8.0)),
    "llama lora all": Case("llama", lora(*_LLAMA_LINEARS, rank=3, layers=(1,))),
    "llama lora rank-stabilised": Case("llama", lora("q_proj", rank=3, rank_stabilized=True)),
    "llama lora A frozen": Case("llama", lora("q_proj", "down_proj"), _freeze_a),
    "llama lora B frozen": Case("llama", lora("q_proj", "down_proj"), _freeze_b),
    "llama dora": Case("llama", dora("q_proj", "down_proj", rank_stabilized=True)),
    "llama houlsby": Case("llama", houlsby("o_proj", "down_proj", layers=(1,))),
    "llama norms saved": Case(
        "llama",
        peft(LoraConfig, r=2, target_modules=["q_proj"], modules_to_save=["input_layernorm"]),
    ),
    "llama lm_head saved": Case(
        "llama", peft(LoraConfig, r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    ),
    "llama embedding saved": Case(
        "llama", peft(LoraConfig, r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    ),
    "llama prompt": Case("llama", PeftAdapter.prompt_tuning(3)),
    "llama p-tuning": Case("llama", PeftAdapter.p_tuning(3, 8)),
    "llama prompt generator": Case("llama", _GENERATOR),
    "llama prefix": Case("llama", _prefix(False)),
    "llama prefix projected": Case("llama", _prefix(True)),
    "llama ia3": Case("llama", PeftAdapter.ia3(("k_proj", "v_proj", "down_proj"), ("down_proj",))),
    "llama last layers": Case("llama", InPlace(last_layers=1)),
    "llama sparse": Case(
        "llama", SparseUpdate(target_modules=("v_proj", "down_proj"), share=0.1, layers=(1,))
    ),
    "llama layer norms": Case("llama", peft(LNTuningConfig)),
    "gpt2 lora c_attn": Case("gpt2", lora("c_attn")),
    "gpt2 lora all": Case("gpt2", lora(*_GPT2_LINEARS)),
    "gpt2 lora rank-stabilised": Case("gpt2", lora("c_fc", rank=3, rank_stabilized=True)),
    "gpt2 lora A frozen": Case("gpt2", lora("c_attn"), _freeze_a),
    "gpt2 lora B frozen": Case("gpt2", lora("c_attn"), _freeze_b),
    "gpt2 dora": Case("gpt2", dora(*_GPT2_LINEARS, alpha=6.0)),
    "gpt2 dora and its biases": Case(
        "gpt2",
        peft(LoraConfig, r=2, target_modules=["c_attn"], bias="lora_only", use_dora=True),
    ),
    "gpt2 houlsby": Case("gpt2", houlsby("c_proj")),
    "gpt2 lora and its biases": Case(
        "gpt2", peft(LoraConfig, r=2, target_modules=["c_attn"], bias="lora_only")
    ),
    "gpt2 norms saved": Case(
        "gpt2", peft(LoraConfig, r=2, target_modules=["c_attn"], modules_to_save=["ln_1"])
    ),
    "gpt2 tied embedding": Case("gpt2", InPlace(patterns=("*wte.weight",))),
    "gpt2 prompt": Case("gpt2", PeftAdapter.prompt_tuning(3)),
    "gpt2 p-tuning": Case("gpt2", PeftAdapter.p_tuning(3, 8)),
    "gpt2 prompt generator": Case("gpt2", _GENERATOR),
    "gpt2 prefix": Case("gpt2", _prefix(False)),
    "gpt2 prefix projected": Case("gpt2", _prefix(True)),
    "gpt2 ia3": Case("gpt2", PeftAdapter.ia3(("c_attn", "mlp.c_proj"), ("mlp.c_proj",))),
    "gpt2 biases": Case("gpt2", InPlace.biases()),
    "gpt2 last layers": Case("gpt2", InPlace(last_layers=1)),
    "gpt2 sparse": Case("gpt2", SparseUpdate(target_modules=("c_attn", "mlp.c_proj"), share=0.03)),
    "gpt2 layer norms": Case("gpt2", peft(LNTuningConfig, target_modules=["ln_1", "ln_2"])),
}


def private_model(case, folders, computation=None):
    task = case.task(folders)
    return PrivateModel(case.trainable_model(task), ScaledTask(task), CPU, computation)


def made_up(private, count=5, seed=3):
    return private.task.collate(private.task.tokenizer(), private.task.synthetic(count, seed))


def adversarial(private):
    """Records that are hard on a bound, one a row.

    0 and 1 read the same and want the opposite, 2 is the longest, 3 has no text at all, 4 and 5 are
    the same, 6 has a loss a million times as large.
    """
    batch = {name: tensor.clone() for name, tensor in made_up(private, count=7).items()}
    for row, source in ((0, 1), (5, 4)):
        for tensor in batch.values():
            tensor[row] = tensor[source]
    if "labels" in batch:
        batch["labels"][:2] = torch.tensor([0, 1])
    else:
        batch["input_ids"][0, 1] = (batch["input_ids"][0, 1] + 7) % 60
    batch["input_ids"][2] = 1 + torch.arange(LENGTH)
    batch["attention_mask"][2] = 1
    batch["attention_mask"][3] = 0
    batch[SCALE] = torch.tensor([1.0] * 6 + [1e6])
    return batch


def opposed(private):
    """A record, and another whose gradient is -3 times its own.

    Clipped one by one they cancel; a batch clipped as one turns round when the second is left out.
    """
    batch = made_up(private, count=2)
    pair = {name: torch.stack([tensor[0], tensor[0]]) for name, tensor in batch.items()}
    return {**pair, SCALE: torch.tensor([1.0, -3.0])}


# --- Reference: one example at a time, by torch alone.


def reference_gradients(case, folders, batch, dtype=None):
    """Gradients of single backward passes through a model of its own, per record, by name."""
    task = case.task(folders)
    model = without_own_prompt(case.trainable_model(task)).train()
    found = []
    for index in range(num_rows(batch)):
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=dtype) if dtype else nullcontext():
            loss = _loss_of_one(model, rows(batch, torch.tensor([index])))
        loss.backward()
        found.append({name: parameter.grad.clone() for name, parameter in trainable(model)})
    return found


def without_own_prompt(model):
    """PEFT's own class, which embeds a prompt once for a whole batch: right for one example."""
    if isinstance(model, PeftModel):
        model.__class__ = next(
            kind for kind in type(model).__mro__ if kind.__module__.startswith("peft.")
        )
    return model


def _loss_of_one(model, example):
    ids, mask = example["input_ids"], example["attention_mask"]
    if "labels" in example:
        return F.cross_entropy(model(ids, mask).float(), example["labels"])
    labels = torch.where(mask > 0, ids, -100)
    labels[:, 0] = -100  # PEFT lets a soft prompt predict the first token; the task does not
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss


def largest_error(claimed, references):
    """The largest relative error over records and parameters, in the L2 norm.

    A gradient below a thousandth of its record's whole gradient is measured against that.
    """
    worst = 0.0
    for index, reference in enumerate(references):
        whole = torch.cat([part.flatten() for part in reference.values()]).norm()
        assert set(reference) == set(claimed)
        for name, part in reference.items():
            scale = max(float(part.norm()), 1e-3 * float(whole))
            worst = max(worst, float((claimed[name][index] - part).norm()) / scale)
    return worst


def claimed_gradients(private, batch, present=None):
    private.forget()
    private.per_example_gradients(batch, present)
    claimed = {name: parameter.grad_sample.clone() for name, parameter in private.parameters()}
    private.forget()
    return claimed


def check_exact(private, batch, references, tolerance=1e-5):
    assert largest_error(claimed_gradients(private, batch), references) <= tolerance


# --- The step.


class Silence:
    """A stream whose normal numbers are zero: shows the clipped sum that noise would hide."""

    def normal(self, count, device):
        return torch.zeros(count, dtype=torch.float64, device=device)


def config(**changes):
    settings = {
        "noise_multiplier": 1.0,
        "sample_rate": 0.5,
        "clipping_norm": 1.0,
        "expected_batch_size": 1,
        "steps": 1,
        "learning_rate": 0.1,
        "physical_batch_size": 4,
    }
    return DPSGDConfig(**{**settings, **changes})


def stream(number):
    return RandomStream(bytes([number]) * 32, bytes(16))


def released_sum(private, encoded, indices, settings, noise):
    """What one private step releases: noised sum over B, float64, shape (params,)."""
    before = read_vector(private.adapter)
    private.forget()
    optimizer = private_optimizer(private, settings, noise)
    released = []
    optimizer.attach_step_hook(
        lambda step: released.append(torch.cat([p.grad.flatten() for p in step.params]).double())
    )
    drawn = torch.tensor(list(indices), dtype=torch.long)
    private_step(private, optimizer, encoded, drawn, settings.physical_batch_size)
    write_vector(private.adapter, before)
    private.forget()
    (only,) = released
    return only


def clipped_sum(private, encoded, indices, **changes):
    settings = config(**changes)
    assert settings.expected_batch_size == 1
    return released_sum(private, encoded, indices, settings, Silence())


def check_sensitivity(private, encoded, left_out=None, **changes):
    """Without any of these subsets, the sum moves by at most C for each of their records."""
    records = range(num_rows(encoded))
    everyone = clipped_sum(private, encoded, records, **changes)
    assert torch.isfinite(everyone).all()
    bound = config(**changes).clipping_norm
    for subset in left_out or [(record,) for record in records]:
        rest = [record for record in records if record not in subset]
        moved = float((everyone - clipped_sum(private, encoded, rest, **changes)).norm())
        assert moved <= len(subset) * bound * (1 + 1e-6), (subset, moved / bound)


def check_split(private, encoded):
    """Neither the physical batch size nor the rows that fill up change the sum."""
    everyone = range(num_rows(encoded))
    whole = clipped_sum(private, encoded, everyone, physical_batch_size=num_rows(encoded))
    for size in (1, 3, num_rows(encoded) + 4):
        parts = clipped_sum(private, encoded, everyone, physical_batch_size=size)
        assert float((whole - parts).norm()) <= 1e-5 * float(whole.norm()), size


def check_noise(private, encoded, make_noise, drawn=(), **changes):
    """On every parameter noise is N(0, (sigma C / B)^2), whatever was drawn."""
    settings = config(noise_multiplier=2.0, clipping_norm=0.5, expected_batch_size=4, **changes)
    clean = released_sum(private, encoded, drawn, settings, Silence())
    source = make_noise()
    draws = [released_sum(private, encoded, drawn, settings, source) - clean for _ in range(12)]
    numbers = torch.stack(draws) / (2.0 * 0.5 / 4)
    start = 0
    for name, parameter in private.parameters():
        part = numbers[:, start : start + parameter.numel()].flatten().numpy()
        start += parameter.numel()
        assert np.all(part != 0), name
        assert abs(part.mean()) <= 5 / part.size**0.5, name
        assert abs(part.std() - 1) <= 5 / (2 * part.size) ** 0.5, name
        assert stats.kstest(part, "norm").pvalue > 1e-6, name
    assert start == numbers.shape[1]
    check_unrelated([draw.numpy() for draw in draws])


def check_unrelated(draws):
    """No two of these draws have anything to do with each other."""
    for index, draw in enumerate(draws):
        for other in draws[index + 1 :]:
            assert abs(np.corrcoef(draw, other)[0, 1]) <= 5.5 / len(draw) ** 0.5


def check_non_finite_record_contributes_nothing(private, encoded):
    """Record 1 has NaN for its loss; the others' sum is what it would be without it."""
    others = [index for index in range(num_rows(encoded)) if index != 1]
    healthy = clipped_sum(private, encoded, others)
    broken = {**encoded, SCALE: torch.ones(num_rows(encoded))}
    for value in (float("nan"), float("inf")):
        broken[SCALE][1] = value
        both = clipped_sum(private, broken, range(num_rows(encoded)))
        assert torch.isfinite(both).all()
        assert float((both - healthy).norm()) <= 1e-5 * float(healthy.norm())
