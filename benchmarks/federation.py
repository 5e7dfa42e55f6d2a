"""What privacy and encryption cost in the main job: MiniLM on BBC news, eight clients.

    python benchmarks/federation.py            # a table
    python benchmarks/federation.py --json     # one JSON object
    python benchmarks/federation.py --quick    # one repetition

Three runs in turn, in this process: neither privacy nor encryption (plain SGD on the same Poisson
batches, unclipped, without noise, filled rows or gate, summed in clear), privacy alone, and both.
Compared are the seconds of a round, evaluation on held-out text included in all three; ratios are
medians over repetitions.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from privfed.cli.demo import bbc_topics
from privfed.models.tasks import Batch
from privfed.parties.client import node
from privfed.private_step.batches import num_rows, rows
from privfed.private_step.dpsgd import DPSGDConfig, plain_optimizer
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.randomness import RandomStream
from privfed.private_step.sampling import poisson_sample

RUNS = ("neither", "privacy", "both")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one repetition")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {run: [] for run in RUNS}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PRIVFED_STATE"] = f"{folder}/state"
        os.environ["PRIVFED_ANCHORS"] = f"{folder}/anchors"
        for repetition in range(1 if options.quick else options.repetitions):
            for run in RUNS:
                seconds[run].append(round_seconds(run, Path(folder) / f"{run}-{repetition}"))
    result = {
        "round_seconds": {run: statistics.median(values) for run, values in seconds.items()},
        "privacy_ratio": ratio(seconds["privacy"], seconds["neither"]),
        "both_ratio": ratio(seconds["both"], seconds["neither"]),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, "
        f"torch {version('torch')}",
    }
    print(json.dumps(result, indent=None if options.json else 2))


def ratio(times: list[float], base: list[float]) -> float:
    """Median over repetitions."""
    return round(statistics.median(a / b for a, b in zip(times, base, strict=True)), 3)


def round_seconds(run: str, folder: Path) -> float:
    """Mean seconds of two rounds."""
    with without_privacy() if run == "neither" else nullcontext():
        result = bbc_topics(folder, encrypted=run == "both", rounds=2).run(folder)
    return statistics.mean(record.seconds for record in result.rounds)


@contextmanager
def without_privacy() -> Iterator[None]:
    """Clients train with plain SGD. What such a run's report says about privacy is false."""
    private = node.train_round
    node.train_round = plain_round
    try:
        yield
    finally:
        node.train_round = private


def plain_round(
    model: PrivateModel, encoded: Batch, config: DPSGDConfig, *, sampling: RandomStream, **_: Any
) -> None:
    """The same batches, learning rate and optimiser; no clipping, noise or filled rows."""
    parameters = [parameter for _, parameter in model.parameters()]
    optimizer = plain_optimizer(parameters, config)
    for _ in range(config.steps):
        optimizer.zero_grad()
        drawn = torch.from_numpy(poisson_sample(sampling, num_rows(encoded), config.sample_rate))
        for part in torch.split(drawn, config.physical_batch_size):
            losses = model.record_losses(model.adapter, rows(encoded, part))
            torch.autograd.backward(losses.sum() / config.expected_batch_size)
        optimizer.step()


if __name__ == "__main__":
    main()
