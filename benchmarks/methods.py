"""What federated methods come to: MiniLM on BBC news, eight clients.

    python benchmarks/methods.py            # the demo's job, five seeds at epsilon 2 and at 1
    python benchmarks/methods.py --grid     # methods x label skew x epsilon, three seeds each
    python benchmarks/methods.py --personal # clients' own models on their own articles
    python benchmarks/methods.py --json     # `rows` as JSON
    python benchmarks/methods.py --quick    # one seed, two rounds

Held-out accuracy after the last round. Epsilon "inf" is the ceiling: the same clipped steps without
noise. Seeds change the initial values; noise and batches are secret. In the grid, what the frozen
layers make of the articles is computed once for all runs, which `seconds` do not hold.
"""

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from accountants import Budget
from privfed import (
    Client,
    FedAvg,
    FedAvgM,
    FedDPA,
    Federation,
    FederationResult,
    FedProx,
    FedSALoRA,
    FFALoRA,
    LocalHead,
    Plain,
    RoLoRA,
    Scaffold,
)
from privfed.cli.demo import bbc_topics
from privfed.data.partition import dirichlet
from privfed.methods.method import Method
from privfed.models.tasks import Batch
from privfed.private_step import dpsgd
from privfed.private_step.private_model import PrivateModel

METHODS: dict[str, Method] = {
    "fedavg": FedAvg(),
    "ffa-lora": FFALoRA(),
    "rolora": RoLoRA(),
    "fedprox 0.02": FedProx(mu=0.02),
    "scaffold": Scaffold(),
    "fedavgm of ffa-lora": FedAvgM(of=FFALoRA(), momentum=0.5),
}
PERSONAL: dict[str, Method] = {
    "fedavg": FedAvg(),
    "fedsa-lora": FedSALoRA(),
    "local-head": LocalHead(),
    "fed-dpa": FedDPA(personal_rank=1),
}
SKEWS, EPSILONS = (0.1, 100.0), (None, 8.0, 2.0)
_IN_CLEAR = Plain(bits=16, follow_released=True)
_CEILING = 50.0
"""A budget that stands for none: its noise is not drawn."""


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


def last_metric(result: FederationResult) -> float:
    """Accuracy on the public held-out articles, after the last round."""
    return result.rounds[-1].value


def mean_of_own(result: FederationResult) -> float:
    """Mean over clients of the accuracy of their own models on their own held-out articles."""
    return statistics.fmean(own.metric or 0.0 for own in result.own.values())


def measured(
    name: str,
    federation: Federation,
    skew: float,
    seeds: int,
    value: Callable[[FederationResult], float] = last_metric,
) -> Row:
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
            with nullcontext() if epsilon < _CEILING else without_noise():
                result = job.run(Path(folder) / "run")
        values.append(value(result))
        seconds.append(sum(record.seconds for record in result.rounds))
        uploads.append(result.rounds[0].bytes_up / len(result.rounds[0].clients))
        print(f"{name}, seed {seed}: {values[-1]:.4f} in {seconds[-1]:.0f} s", file=sys.stderr)
    return Row(
        method=name,
        task="BBC news",
        skew=skew,
        epsilon=None if epsilon >= _CEILING else epsilon,
        metric="accuracy" if value is last_metric else "mean accuracy of own models on own text",
        median=statistics.median(values),
        spread=max(values) - min(values),
        bytes_up_per_client_round=round(statistics.median(uploads)),
        seconds=statistics.median(seconds),
        seeds=seeds,
    )


def main_job(*, quick: bool, seeds: int, epsilons: Sequence[float]) -> Iterator[Row]:
    """The demo, at its epsilon and at half of it."""
    for epsilon in epsilons:
        with tempfile.TemporaryDirectory() as folder:
            job = bbc_topics(Path(folder), **({"rounds": 2} if quick else {}))
        budget = Budget(epsilon=epsilon, delta=job.privacy.budget.delta)
        job = replace(job, privacy=replace(job.privacy, budget=budget))
        yield measured("the demo", job, 1.0, 1 if quick else seeds)


def grid(*, quick: bool, seeds: int, epsilons: Sequence[float | None]) -> Iterator[Row]:
    """Every method under every skew and epsilon, two steps in a round."""
    job = _short_job(quick=quick)
    for skew in SKEWS:
        dealt = _dealt(job, skew)
        for epsilon in epsilons:
            under = _under(job, dealt, epsilon)
            for name, method in METHODS.items():
                if not quick or name in ("ffa-lora", "rolora"):
                    tried = replace(under, method=method)
                    yield measured(name, tried, skew, 1 if quick else seeds)


def personal(*, quick: bool, seeds: int, epsilons: Sequence[float | None]) -> Iterator[Row]:
    """Clients' own models under label skew; each holds out a quarter of its articles."""
    job = _short_job(quick=quick)
    dealt = [_with_own_text(client) for client in _dealt(job, SKEWS[0])]
    for epsilon in epsilons:
        under = replace(_under(job, dealt, epsilon), adapter=replace(job.adapter, rank=2))
        for name, method in PERSONAL.items():
            tried = replace(under, method=method)
            yield measured(name, tried, SKEWS[0], 1 if quick else seeds, mean_of_own)


def _under(job: Federation, dealt: Sequence[Client], epsilon: float | None) -> Federation:
    """The job of these clients at this epsilon, two steps in a round.

    The batch is that of the smallest client, and the rate falls with it: noise moves an adapter by
    rate * sigma / batch in a step.
    """
    demo, smallest = job.privacy.expected_batch_size, min(client.size for client in dealt)
    batch = min(demo, smallest)
    return replace(
        job,
        clients=dealt,
        privacy=replace(
            job.privacy,
            budget=Budget(epsilon=epsilon or _CEILING, delta=job.privacy.budget.delta),
            steps_per_round=2,
            expected_batch_size=batch,
        ),
        training=replace(job.training, learning_rate=job.training.learning_rate * batch / demo),
        encryption=_IN_CLEAR,
    )


def _with_own_text(client: Client) -> Client:
    """Every fourth article apart; the text is public, so its counts are."""
    own, rest = client.records[::4], [r for n, r in enumerate(client.records) if n % 4]
    return replace(client, records=tuple(rest), own_held_out=own, public_size=len(rest))


@contextmanager
def without_noise() -> Iterator[None]:
    """Steps without noise. What such a run's report says about privacy is false."""
    drawn = dpsgd.noise_of_sum
    dpsgd.noise_of_sum = lambda *arguments: torch.zeros(
        arguments[3], dtype=torch.float64, device=arguments[4]
    )
    try:
        yield
    finally:
        dpsgd.noise_of_sum = drawn


@contextmanager
def frozen_states_once() -> Iterator[None]:
    """Compute what the frozen layers make of records once for all runs of this process."""
    real, known = PrivateModel.with_frozen_states, {}

    def remembered(
        model: PrivateModel, encoded: Batch, rows_at_once: int, *, held_out: bool = False
    ) -> Batch:
        content = b"".join(encoded[name].numpy().tobytes() for name in sorted(encoded))
        key = (hashlib.sha256(content).digest(), held_out)
        if key not in known:
            known[key] = real(model, encoded, rows_at_once, held_out=held_out)
        return known[key]

    PrivateModel.with_frozen_states = remembered
    try:
        yield
    finally:
        PrivateModel.with_frozen_states = real


def _short_job(*, quick: bool) -> Federation:
    """The demo on the first 48 tokens of an article."""
    with tempfile.TemporaryDirectory() as folder:
        job = bbc_topics(Path(folder), encrypted=False, **({"rounds": 2} if quick else {}))
    return replace(job, model=replace(job.model, max_length=48))


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
    parser.add_argument("--personal", action="store_true", help="clients' own models")
    parser.add_argument("--quick", action="store_true", help="one seed, two rounds")
    parser.add_argument("--seeds", type=int, help="default 5 for the demo's job, else 3")
    parser.add_argument("--epsilon", type=float, help="only this one")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    what = grid if options.grid else personal if options.personal else main_job
    seeds = options.seeds or (5 if what is main_job else 3)
    epsilons = (2.0, 1.0) if what is main_job else EPSILONS
    if options.epsilon is not None:
        epsilons = (options.epsilon,)
    with nullcontext() if what is main_job else frozen_states_once():
        for row in what(quick=options.quick, seeds=seeds, epsilons=epsilons):
            rows.append(vars(row))
            if not options.json:
                print("  ".join(f"{key} {value}" for key, value in vars(row).items()), flush=True)
    if options.json:
        print(json.dumps({"rows": rows}, indent=2))


if __name__ == "__main__":
    main()
