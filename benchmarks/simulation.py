"""How much faster clients train in one pass than one after the other.

    python benchmarks/simulation.py            # a table
    python benchmarks/simulation.py --json     # one JSON object, `rows` by model and shape
    python benchmarks/simulation.py --quick    # within a minute: few shapes and repetitions

Both ways train the same clients for the same private steps: per-example gradients, clipping, noise
from the cryptographic stream, AdamW. They take turns in this process; a speedup is the median over
repetitions of one time over the other. Before they are timed, both must give the same adapters at
the same randomness. Time is the CPU time of the process (one thread) or, with CUDA, wall time
between synchronisations. "small" models, 64 wide with 4 layers and 500 tokens, stand for steps that
wait
for Python and the launch of kernels; the others are 512 wide with 2 layers and 2000 tokens. LoRA of
rank 8 on queries and values.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privfed import SGD, AdamW, CausalLanguageModel, Classification, LoRA
from privfed.models.base_modes import switch_off_dropout
from privfed.models.classification import SentenceClassifier
from privfed.models.vector import read_vector, write_vector
from privfed.private_step.clipping import AdaptiveBound
from privfed.private_step.dpsgd import DPSGDConfig, train_round
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.randomness import RandomStream, SecureNoise
from privfed.private_step.stacked import LocalRound, train_stacked

LABELS = ("a", "b", "c", "d", "e")
STEPS = 2
LARGEST_DIFFERENCE = 1e-5
"""Between adapters trained either way by SGD, which moves them by some hundred times as much."""


@dataclass(frozen=True)
class Cell:
    """One model and shape; `batch` records of each client in a pass, `length` tokens each."""

    model: str
    width: int
    layers: int
    clients: int
    batch: int
    length: int


CELLS = (
    Cell("llama", 512, 2, 8, 4, 64),
    Cell("bert", 512, 2, 8, 4, 64),
    Cell("llama", 512, 2, 8, 1, 32),
    Cell("bert", 512, 2, 8, 1, 32),
    Cell("small llama", 64, 4, 8, 4, 64),
    Cell("small llama", 64, 4, 8, 1, 16),
    Cell("small llama", 64, 4, 32, 4, 16),
    Cell("small llama", 64, 4, 32, 1, 16),
    Cell("small bert", 64, 4, 8, 1, 16),
    Cell("small bert", 64, 4, 32, 1, 16),
)
QUICK = (CELLS[0], CELLS[1], CELLS[5], CELLS[7])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--repetitions", type=int, help="of every shape")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.set_num_threads(1)
    repetitions = options.repetitions or (5 if options.quick else 11)
    rows = []
    for cell in QUICK if options.quick else CELLS:
        rows.append(measure(cell, repetitions, device))
        if not options.json:
            print(line(rows[-1]), flush=True)
    if options.json:
        print(json.dumps({"rows": rows, "steps": STEPS, "machine": machine(device)}))


def measure(cell: Cell, repetitions: int, device: torch.device) -> dict[str, Any]:
    """Times of both ways for one model and shape."""
    model = private_model(cell, device)
    data = [made_up(cell, client) for client in range(cell.clients)]
    state = read_vector(model.adapter)
    difference = agree(model, data, cell, state)
    times: dict[str, list[float]] = {"one by one": [], "stacked": []}
    ways = {"one by one": one_by_one, "stacked": train_stacked}
    for _ in range(repetitions):
        for name, way in ways.items():
            rounds = local_rounds(data, cell, [os.urandom(32) for _ in data])
            times[name].append(seconds(partial(way, model, rounds, state), device))
    pairs = zip(times["one by one"], times["stacked"], strict=True)
    ratios = sorted(alone / together for alone, together in pairs)
    quarter = len(ratios) // 4
    return {
        **vars(cell),
        "speedup": round(statistics.median(ratios), 3),
        "interval": [round(ratios[quarter], 3), round(ratios[-1 - quarter], 3)],
        "one_by_one_ms": round(1e3 * statistics.median(times["one by one"]) / STEPS, 2),
        "stacked_ms": round(1e3 * statistics.median(times["stacked"]) / STEPS, 2),
        "largest_difference": difference,
    }


def agree(
    model: PrivateModel, data: list[dict[str, Tensor]], cell: Cell, state: NDArray[np.float32]
) -> float:
    """The largest difference between adapters trained either way at the same randomness.

    Raises:
        SystemExit: if it is not rounding.
    """
    keys = [bytes([client]) * 32 for client in range(cell.clients)]
    changes = {"optimizer": SGD(momentum=0.9), "learning_rate": 1.0, "noise_multiplier": 1e-3}
    alone = one_by_one(model, local_rounds(data, cell, keys, **changes), state)
    together = train_stacked(model, local_rounds(data, cell, keys, **changes), state)
    difference = float(np.abs(alone - together).max())
    moved = float(np.abs(alone - state).max(axis=1).min())
    if not difference <= LARGEST_DIFFERENCE <= 0.01 * moved:
        sys.exit(f"{cell}: adapters moved by {moved} and differ by {difference}")
    return difference


def one_by_one(
    model: PrivateModel, rounds: list[LocalRound], state: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Trained adapters, shape (clients, params), client after client."""
    trained = []
    for mine in rounds:
        write_vector(model.adapter, state)
        train_round(
            model,
            mine.encoded,
            mine.config,
            sampling=mine.sampling,
            noise=mine.noise,
            bound=mine.bound,
        )
        trained.append(read_vector(model.adapter))
    write_vector(model.adapter, state)
    return np.stack(trained)


def local_rounds(
    data: list[dict[str, Tensor]], cell: Cell, keys: list[bytes], **changes: Any
) -> list[LocalRound]:
    """All clients with streams from these keys; every record joins every step."""
    settings: dict[str, Any] = {
        "noise_multiplier": 1.0,
        "sample_rate": 1.0,
        "clipping_norm": 1.0,
        "expected_batch_size": cell.batch,
        "steps": STEPS,
        "learning_rate": 1e-3,
        "optimizer": AdamW(),
        "physical_batch_size": cell.batch,
    }
    config = DPSGDConfig(**{**settings, **changes})
    return [
        LocalRound(
            encoded=encoded,
            config=config,
            sampling=RandomStream(key, bytes(16)),
            noise=SecureNoise(RandomStream(key, bytes(15) + b"n")),
            bound=AdaptiveBound.starting(config.clipping_norm),
        )
        for encoded, key in zip(data, keys, strict=True)
    ]


def private_model(cell: Cell, device: torch.device) -> PrivateModel:
    """A random base model with LoRA; its zero-initialised factors hold random values."""
    torch.manual_seed(0)
    base, task, targets = bert(cell) if "bert" in cell.model else llama(cell)
    switch_off_dropout(base)
    adapter = LoRA(rank=8, target_modules=targets)
    model = PrivateModel(adapter.attach(base, task.modules_to_save, 0), task, device)
    size = read_vector(model.adapter).size
    values = 0.02 * np.random.default_rng(0).standard_normal(size)
    write_vector(model.adapter, values.astype(np.float32))
    return model


def llama(cell: Cell) -> tuple[nn.Module, Any, tuple[str, ...]]:
    """Base model, task and what LoRA adapts."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary(cell),
        hidden_size=cell.width,
        intermediate_size=11 * cell.width // 4,
        num_hidden_layers=cell.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    task = CausalLanguageModel(base="random", max_length=cell.length)
    return LlamaForCausalLM(config), task, ("q_proj", "v_proj")


def bert(cell: Cell) -> tuple[nn.Module, Any, tuple[str, ...]]:
    """Base model, task and what LoRA adapts; a linear head is trained with it."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=vocabulary(cell),
        hidden_size=cell.width,
        intermediate_size=4 * cell.width,
        num_hidden_layers=cell.layers,
        num_attention_heads=8,
    )
    encoder = BertModel(config, add_pooling_layer=False)
    task = Classification(base="random", labels=LABELS, max_length=cell.length)
    return SentenceClassifier(encoder, len(LABELS), 8.0), task, ("query", "value")


def vocabulary(cell: Cell) -> int:
    """Tokens that the model knows; many would make a small model wait for arithmetic."""
    return 500 if cell.width == 64 else 2000


def made_up(cell: Cell, client: int) -> dict[str, Tensor]:
    """Random tokens of one client."""
    generator = torch.Generator().manual_seed(client)
    ids = torch.randint(0, vocabulary(cell), (cell.batch, cell.length), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "bert" in cell.model:
        batch["labels"] = (torch.arange(cell.batch) + client) % len(LABELS)
    return batch


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one call."""
    if device.type == "cpu":
        begun = time.process_time()
        work()
        return time.process_time() - begun
    torch.cuda.synchronize(device)
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    shape = f"{row['clients']} x {row['batch']} x {row['length']}"
    return (
        f"{row['model']:12} {shape:>12}  {row['speedup']:6.2f} x  "
        f"{row['one_by_one_ms']:8.1f} ms -> {row['stacked_ms']:7.1f} ms a step of all clients"
    )


def machine(device: torch.device) -> str:
    """Where this ran."""
    name = platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    return f"{name}, Python {platform.python_version()}, {versions}, one thread"


if __name__ == "__main__":
    main()
