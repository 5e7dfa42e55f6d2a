"""What a private step costs beside the same step without privacy, and beside other libraries.

    python benchmarks/training.py            # a table
    python benchmarks/training.py --json     # one JSON object, `rows` by model and shape
    python benchmarks/training.py --quick    # within a minute: few shapes and repetitions
    python benchmarks/training.py --memory   # also peak memory, three processes per mode

Every mode takes one step per repetition, in turn, in this process; a ratio is the median over
repetitions of its time over that of the non-private step of the same repetition. Time is the CPU
time of the process (one thread) or, with CUDA, wall time between synchronisations. A private step
is whole: per-example gradients, clipping in float64, noise from the cryptographic stream, AdamW.
"""

import argparse
import gc
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping
from torch import Tensor, nn

from privfed import AdamW, CausalLanguageModel, Classification, Computation, GradientMethod, LoRA
from privfed.private_step.dpsgd import DPSGDConfig, private_optimizer, private_step
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.randomness import RandomStream, SecureNoise

SHAPES = ((16, 128), (8, 512), (32, 64))
MODES = ("privfed", "opacus_hooks", "opacus_functorch", "opacus_ghost")
TARGETS = {
    "llama": {
        "qv": ("q_proj", "v_proj"),
        "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    },
    "gpt2": {"qv": ("c_attn",), "all": ("c_attn", "c_proj", "c_fc")},
    "bert": {"qv": ("query", "value"), "all": ("query", "key", "value", "dense")},
}
LABELS = ("a", "b", "c", "d", "e")


@dataclass(frozen=True)
class Cell:
    """One model and shape."""

    model: str
    targets: str
    rank: int
    batch: int
    length: int
    layers: int = 2
    width: int = 512


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--memory", action="store_true", help="also peak memory")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--models", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--layers", type=int, default=2, help="blocks of every model")
    parser.add_argument("--width", type=int, default=512, help="of every model, 64 per head")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak", nargs=8, metavar="CELL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    if options.peak:
        mode, name, targets, *numbers = options.peak
        print(peak(mode, Cell(name, targets, *map(int, numbers)), device))
        return
    rows = []
    for small in cells(options.models, options.ranks, quick=options.quick):
        cell = replace(small, layers=options.layers, width=options.width)
        repetitions = 5 if options.quick else options.repetitions
        row = measure(cell, options.modes, repetitions, device)
        if options.memory:
            row["memory_ratio"] = memory_ratios(cell, options.modes, options.device)
        rows.append(row)
        if not options.json:
            print(line(row), flush=True)
    result = {"rows": rows, **summary(rows), "machine": machine(device)}
    print(json.dumps(result) if options.json else json.dumps(summary(rows), indent=2))


def cells(models: list[str], ranks: list[int], *, quick: bool) -> Iterator[Cell]:
    """What is measured."""
    if quick:
        yield Cell("llama", "all", 8, 8, 64)
        yield Cell("gpt2", "qv", 8, 8, 64)
        yield Cell("bert", "qv", 8, 8, 64)
        return
    for name in models:
        for targets in ("qv", "all"):
            for rank in ranks:
                for batch, length in SHAPES:
                    yield Cell(name, targets, rank, batch, length)


def measure(cell: Cell, modes: list[str], repetitions: int, device: torch.device) -> dict[str, Any]:
    """Times of every mode for one model and shape."""
    steps = {mode: step_of(mode, cell, device) for mode in ("plain", *modes)}
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {mode: [] for mode in steps}
    order = list(steps)
    for _ in range(repetitions):
        random.shuffle(order)
        for mode in order:
            times[mode].append(seconds(steps[mode], device))
    ratios = {
        mode: sorted(a / b for a, b in zip(times[mode], times["plain"], strict=True))
        for mode in modes
    }
    plain = statistics.median(times["plain"])
    return {
        **asdict(cell),
        "plain_ms": round(1e3 * plain, 1),
        "tokens_per_s": round(cell.batch * cell.length / statistics.median(times["privfed"])),
        "step_ratio": {mode: round(statistics.median(r), 4) for mode, r in ratios.items()},
        "interval": {mode: interval(r) for mode, r in ratios.items()},
    }


def interval(ratios: list[float]) -> list[float]:
    """Where the middle half lies."""
    quarter = len(ratios) // 4
    return [round(ratios[quarter], 3), round(ratios[-1 - quarter], 3)]


def seconds(step: Callable[[], object], device: torch.device) -> float:
    """Of one step."""
    if device.type == "cpu":
        begun = time.process_time()
        step()
        return time.process_time() - begun
    torch.cuda.synchronize(device)
    begun = time.perf_counter()
    step()
    torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def step_of(mode: str, cell: Cell, device: torch.device) -> Callable[[], object]:
    """One whole training step."""
    model, task = adapted(cell)
    batch = made_up(cell, device)
    if mode == "plain":
        return plain_step(model.to(device).train(), task, batch)
    config = DPSGDConfig(
        noise_multiplier=1.0,
        sample_rate=0.5,
        clipping_norm=1.0,
        expected_batch_size=cell.batch,
        steps=1,
        learning_rate=1e-3,
        optimizer=AdamW(),
        physical_batch_size=cell.batch,
    )
    if mode == "opacus_ghost":
        return ghost_step(model.to(device).train(), task, batch, config)
    if mode == "opacus_functorch":
        return functorch_step(model.to(device).train(), task, batch, config)
    method = GradientMethod.OPACUS_HOOKS if mode == "opacus_hooks" else None
    computation = Computation(gradients=method) if method else Computation()
    private = PrivateModel(model, task, device, computation)
    noise = SecureNoise(RandomStream(os.urandom(32), bytes(16)))
    optimizer = private_optimizer(private, config, noise)
    drawn = torch.arange(cell.batch)
    return lambda: private_step(private, optimizer, batch, drawn, cell.batch)


def plain_step(model: nn.Module, task: Any, batch: dict[str, Tensor]) -> Callable[[], object]:
    """The same model without privacy."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        task.losses(model, batch).mean().backward()
        optimizer.step()

    return step


def functorch_step(
    model: nn.Module, task: Any, batch: dict[str, Tensor], config: DPSGDConfig
) -> Callable[[], object]:
    """Opacus with functorch instead of its own rules."""
    from privfed.private_step.dpsgd import HiddenNoiseOptimizer, plain_optimizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hooked = GradSampleModule(model, loss_reduction="sum", force_functorch=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    noise = SecureNoise(RandomStream(os.urandom(32), bytes(16)))
    optimizer = HiddenNoiseOptimizer(plain_optimizer(parameters, config), config, noise)

    def step() -> None:
        optimizer.zero_grad()
        task.losses(hooked, batch).sum().backward()
        optimizer.step()

    return step


def ghost_step(
    model: nn.Module, task: Any, batch: dict[str, Tensor], config: DPSGDConfig
) -> Callable[[], object]:
    """Opacus' ghost clipping, which runs backward twice; its noise is torch's."""
    hooked = GradSampleModuleFastGradientClipping(
        model, loss_reduction="sum", max_grad_norm=1.0, use_ghost_clipping=True
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.AdamW(parameters, lr=1e-3),
        noise_multiplier=config.noise_multiplier,
        max_grad_norm=1.0,
        expected_batch_size=config.expected_batch_size,
    )

    def step() -> None:
        optimizer.zero_grad()
        losses = task.losses(hooked, batch)
        DPTensorFastGradientClipping(hooked, optimizer, losses, "sum").backward()
        optimizer.step()

    return step


def adapted(cell: Cell) -> tuple[nn.Module, Any]:
    """A random base model with LoRA, and its task."""
    from transformers import (
        BertConfig,
        BertModel,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
    )

    from privfed.models.base_modes import switch_off_dropout
    from privfed.models.classification import SentenceClassifier

    torch.manual_seed(0)
    base: nn.Module
    if cell.model == "llama":
        base = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=2000,
                hidden_size=cell.width,
                intermediate_size=cell.width * 11 // 4,
                num_hidden_layers=cell.layers,
                num_attention_heads=cell.width // 64,
                num_key_value_heads=cell.width // 128,
            )
        )
    elif cell.model == "gpt2":
        base = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=2000, n_embd=cell.width, n_layer=cell.layers, n_head=cell.width // 64
            )
        )
    else:
        encoder = BertModel(
            BertConfig(
                vocab_size=2000,
                hidden_size=cell.width,
                num_hidden_layers=cell.layers,
                num_attention_heads=cell.width // 64,
                intermediate_size=4 * cell.width,
            )
        )
        base = SentenceClassifier(encoder, len(LABELS), 8.0)
    switch_off_dropout(base)
    task: Any = CausalLanguageModel(base="random", max_length=cell.length)
    if cell.model == "bert":
        task = Classification(base="random", labels=LABELS, max_length=cell.length)
    adapter = LoRA(rank=cell.rank, target_modules=TARGETS[cell.model][cell.targets])
    model = adapter.attach(base, task.modules_to_save, 0)
    pooler = [p for n, p in model.named_parameters() if "pooler" in n]
    for parameter in pooler:
        parameter.requires_grad_(False)
    return model, task


def made_up(cell: Cell, device: torch.device) -> dict[str, Tensor]:
    """A batch of random tokens."""
    ids = torch.randint(0, 2000, (cell.batch, cell.length), device=device)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if cell.model == "bert":
        batch["labels"] = torch.arange(cell.batch, device=device) % len(LABELS)
    return batch


def memory_ratios(cell: Cell, modes: list[str], device: str) -> dict[str, float]:
    """Peak memory above the model, over that of the non-private step; medians of 3 processes."""
    found = {}
    for mode in ("plain", *modes):
        arguments = [sys.executable, __file__, "--device", device, "--peak", mode]
        arguments += map(str, asdict(cell).values())
        runs = [
            float(subprocess.run(arguments, check=True, capture_output=True).stdout)
            for _ in range(3)
        ]
        found[mode] = statistics.median(runs)
    return {mode: round(value / found["plain"], 3) for mode, value in found.items()}


def peak(mode: str, cell: Cell, device: torch.device) -> float:
    """Bytes that two steps take above the model."""
    step = step_of(mode, cell, device)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        step()
        return float(torch.cuda.max_memory_allocated(device) - before)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak of building the model is none of it
    before = peak_of_process()
    step()
    step()
    return float(peak_of_process() - before)


def peak_of_process() -> int:
    """Largest resident memory since it was last reset, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over all cells."""
    modes = rows[0]["step_ratio"]
    ratios = {mode: [row["step_ratio"][mode] for row in rows] for mode in modes}
    return {
        "median_step_ratio": {m: round(statistics.median(r), 4) for m, r in ratios.items()},
        "largest_step_ratio": {m: max(r) for m, r in ratios.items()},
    }


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    name = (
        f"{row['model']:6} {row['targets']:4} r={row['rank']:<3} ({row['batch']}, {row['length']})"
    )
    times = "  ".join(
        f"{mode} {ratio:.3f} {row['interval'][mode]}" for mode, ratio in row["step_ratio"].items()
    )
    memory = f"  memory {row['memory_ratio']}" if "memory_ratio" in row else ""
    return f"{name:30} plain {row['plain_ms']:7.1f} ms  {times}{memory}"


def machine(device: torch.device) -> str:
    """Where this was measured."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    packages = ("torch", "opacus", "transformers", "peft")
    return f"{name}, Python {platform.python_version()}, " + ", ".join(
        f"{package} {version(package)}" for package in packages
    )


if __name__ == "__main__":
    main()
