"""What federated methods come to: MiniLM on BBC news, eight clients.

    python benchmarks/methods.py            # the demo's job, five seeds at epsilon 2 and at 1
    python benchmarks/methods.py --grid     # methods x label skew x epsilon, one seed each
    python benchmarks/methods.py --json     # `rows` as JSON
    python benchmarks/methods.py --quick    # one seed, two rounds

Held-out accuracy after the last round. Epsilon "inf" is the ceiling: the same steps without
clipping and noise, summed in clear. Seeds change the initial values; noise and batches are secret.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

from federation import without_privacy

from accountants import Budget
from privfed import (
    Client,
    FedAvg,
    FedAvgM,
    Federation,
    FedProx,
    FFALoRA,
    Plain,
    RoLoRA,
    Scaffold,
    TailAveraging,
)
from privfed.cli.demo import bbc_topics
from privfed.data.partition import dirichlet
from privfed.methods.method import Method

METHODS: dict[str, Method] = {
    "fedavg": FedAvg(),
    "ffa-lora": FFALoRA(),
    "rolora": RoLoRA(),
    "fedprox 0.02": FedProx(mu=0.02),
    "scaffold": Scaffold(),
    "fedavgm of ffa-lora": FedAvgM(of=FFALoRA(), momentum=0.5),
    "tail average of ffa-lora": TailAveraging(of=FFALoRA(), first_round=3),
}
SKEWS, EPSILONS = (0.1, 100.0), (None, 8.0, 2.0)
_CEILING = 1e3
"""A budget so large that it stands for none."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting, over seeds."""

    method: str
    task: str
    skew: float
    epsilon: float | None
    metric: str
    median: float
    spread: float
    bytes_up_per_client_round: int
    seconds: float
    seeds: int


def measured(name: str, federation: Federation, skew: float, seeds: int) -> Row:
    """Run it once for each seed."""
    values, seconds, uploads = [], [], []
    epsilon = federation.privacy.budget.epsilon
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            job = replace(
                federation,
                seed=federation.seed + seed,
                state_folder=Path(folder) / "state",
                anchor_folder=Path(folder) / "anchors",
            )
            with nullcontext() if epsilon < _CEILING else without_privacy():
                result = job.run(Path(folder) / "run")
        values.append(result.rounds[-1].value)
        seconds.append(sum(record.seconds for record in result.rounds))
        uploads.append(result.rounds[0].bytes_up / len(result.rounds[0].clients))
        print(f"{name}, seed {seed}: {values[-1]:.4f} in {seconds[-1]:.0f} s", file=sys.stderr)
    return Row(
        method=name,
        task="BBC news",
        skew=skew,
        epsilon=None if epsilon >= _CEILING else epsilon,
        metric="accuracy",
        median=statistics.median(values),
        spread=max(values) - min(values),
        bytes_up_per_client_round=round(statistics.median(uploads)),
        seconds=statistics.median(seconds),
        seeds=seeds,
    )


def main_job(*, quick: bool) -> Iterator[Row]:
    """The demo, at its epsilon and at half of it."""
    for epsilon in (2.0, 1.0):
        with tempfile.TemporaryDirectory() as folder:
            job = bbc_topics(Path(folder), **({"rounds": 2} if quick else {}))
        budget = Budget(epsilon=epsilon, delta=job.privacy.budget.delta)
        job = replace(job, privacy=replace(job.privacy, budget=budget))
        yield measured("the demo", job, 1.0, 1 if quick else 5)


def grid(*, quick: bool) -> Iterator[Row]:
    """Every method under every skew and epsilon, two steps in a round."""
    with tempfile.TemporaryDirectory() as folder:
        job = bbc_topics(Path(folder), encrypted=False, **({"rounds": 2} if quick else {}))
    for skew in SKEWS:
        dealt = _dealt(job, skew)
        batch = min(client.size for client in dealt)
        for epsilon in EPSILONS:
            budget = Budget(epsilon=epsilon or _CEILING, delta=job.privacy.budget.delta)
            privacy = replace(
                job.privacy,
                budget=budget,
                steps_per_round=2,
                expected_batch_size=min(job.privacy.expected_batch_size, batch),
            )
            for name, method in METHODS.items():
                if quick and name not in ("ffa-lora", "rolora"):
                    continue
                tried = replace(
                    job, clients=dealt, privacy=privacy, method=method, encryption=Plain()
                )
                yield measured(name, tried, skew, 1)


def _dealt(job: Federation, skew: float) -> list[Client]:
    """The demo's articles under another label skew; the text is public, so its counts are."""
    records = [record for client in job.clients for record in client.records]
    labels = [int(record.label) for record in records]  # type: ignore[union-attr, arg-type]
    parts = dirichlet(labels, len(job.clients), alpha=skew, minimum=60, seed=job.seed)
    return [
        replace(client, records=tuple(records[row] for row in rows), public_size=len(rows))
        for client, rows in zip(job.clients, parts.values(), strict=True)
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--grid", action="store_true", help="methods, skews and epsilons")
    parser.add_argument("--quick", action="store_true", help="one seed, two rounds")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for row in (grid if options.grid else main_job)(quick=options.quick):
        rows.append(vars(row))
        if not options.json:
            print("  ".join(f"{key} {value}" for key, value in vars(row).items()), flush=True)
    if options.json:
        print(json.dumps({"rows": rows}, indent=2))


if __name__ == "__main__":
    main()
