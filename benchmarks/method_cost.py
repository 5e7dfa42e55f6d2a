"""What a method costs beside training: choosing, packing and moving a million parameters.

    python benchmarks/method_cost.py          # seconds of each method, medians of five
    python benchmarks/method_cost.py --json

One client's `start`, `trains` and `local`, and the `next` that every client computes once in a
round. The adapter has 64 modules of 1024 x 1024 with LoRA of rank 8: 1,048,576 parameters.
"""

import argparse
import json
import os
import statistics
import time
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np

from privfed import (
    DoubleSketch,
    FedAdam,
    FedAvg,
    FedDPA,
    FedNova,
    FedSALoRA,
    FedSVD,
    MixedRanks,
    RoLoRA,
    Scaffold,
)
from privfed.methods.method import Method, Round, Trained, started
from privfed.protocol.layout import Layout

RANK, WIDTH, MODULES = 8, 1024, 64
CLIENTS = ("a", "b", "c")
LAYOUT = Layout(
    tuple(
        parameter
        for number in range(MODULES)
        for parameter in (
            (f"layers.{number:02d}.lora_A.default.weight", (RANK, WIDTH)),
            (f"layers.{number:02d}.lora_B.default.weight", (WIDTH, RANK)),
        )
    )
)
METHODS: dict[str, Method] = {
    "fedavg": FedAvg(),
    "a quarter of fedavg": FedAvg(upload_share=0.25),
    "rolora": RoLoRA(),
    "scaffold": Scaffold(),
    "fednova": FedNova(),
    "fedadam of fedavg": FedAdam(of=FedAvg(), learning_rate=0.1),
    "fedsa-lora": FedSALoRA(),
    "fed-dpa": FedDPA(personal_rank=2),
    "mixed ranks of rolora": MixedRanks(of=RoLoRA(), ranks={"a": 2}),
    "fedsvd": FedSVD(),
    "double-sketch": DoubleSketch(width=26),
}


def round_of(number: int) -> Round:
    """A round of three clients."""
    weights = dict.fromkeys(CLIENTS, 1.0)
    steps = dict.fromkeys(CLIENTS, 2)
    return Round(number=number, steps=steps, learning_rate=0.5, weights=weights, layout=LAYOUT)


def seconds_of(method: Method) -> tuple[float, float]:
    """Of one client beside its training, and of `next`, in the second of two rounds."""
    random = np.random.default_rng(1)
    state = method.begin(random.normal(size=LAYOUT.length).astype(np.float32))
    for number in (1, 2):
        round_ = round_of(number)
        begun = time.perf_counter()
        start = started(method, state, None, "a", round_)
        before = time.perf_counter() - begun
        delta = np.where(start.moving, random.normal(0, 0.01, size=LAYOUT.length), 0.0)
        trained = Trained(received=state, delta=delta, kept=None)
        begun = time.perf_counter()
        sent = method.local(trained, "a", round_)
        method.keeps(trained, sent, "a", round_)
        client = before + time.perf_counter() - begun
        sums = {name: len(CLIENTS) * np.asarray(vector) for name, vector in sent.items()}
        begun = time.perf_counter()
        state = method.next(state, sums, CLIENTS, round_)
        after = time.perf_counter() - begun
    return client, after


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, method in METHODS.items():
        measured = [seconds_of(method) for _ in range(5)]
        client, after = (statistics.median(values) for values in zip(*measured, strict=True))
        rows.append({"method": name, "client_seconds": client, "next_seconds": after})
        if not options.json:
            print(f"{name:24} client {client:7.3f} s   next {after:7.3f} s", flush=True)
    if options.json:
        print(json.dumps({"parameters": LAYOUT.length, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
