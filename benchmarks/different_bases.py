"""Clients on two base models that share one small adapter: MiniLM and its first three layers.

    python benchmarks/different_bases.py         # rows as JSON, one seed
    python benchmarks/different_bases.py --quick # two rounds

BBC news, eight clients, of which every second one holds the cut model, at epsilon 8. With FedAvg, a
row is the accuracy of the shared adapter on the held-out articles, on each of the two bases; with
LocalHead, the mean over clients of their own models' accuracy on their own articles. What the
frozen encoders make of an article is computed once for all runs.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoTokenizer

from accountants import Budget
from privfed import Client, Computation, FedAvg, Federation, LocalHead, LoRA, Plain, load_adapter
from privfed.cli.demo import bbc_topics
from privfed.data import packaged
from privfed.data.partition import dirichlet
from privfed.models.classification import SentenceClassifier
from privfed.models.start_file import load_start
from privfed.models.tasks import Task

_SENTENCES: Final = """\
The company reported higher profits for the quarter.
Shares fell on the stock market after the announcement.
The central bank raised interest rates to slow inflation.
Oil prices climbed as supplies ran short.
The airline will cut hundreds of jobs.
Two banks agreed to merge in a large deal.
Exports grew while the currency weakened.
The retailer expects weak sales this year.
The film won the award for best picture.
The singer released a new album.
A television drama drew a large audience.
The actor will play the lead role in a new movie.
The band announced a tour of Europe.
The novel became a bestseller.
The museum opened an exhibition of paintings.
The festival named its jury.
The prime minister answered questions in parliament.
The party promised lower taxes before the election.
Ministers plan to change the law on immigration.
The opposition criticised the government's budget.
Voters will go to the polls in May.
The chancellor defended public spending.
A committee of MPs published its report.
The home secretary resigned.
The striker scored twice in the second half.
The team won the championship after extra time.
The tennis player reached the final in three sets.
The coach named his squad for the rugby match.
The runner was banned after a failed drug test.
The captain was injured before the cricket series.
The club signed a defender for a record fee.
She broke the world record at the Olympic Games.
The software fixes a security hole in the browser.
More homes have a fast internet connection.
The phone takes pictures and plays music.
A virus spread through e-mail attachments.
The game console goes on sale in the autumn.
Engineers built a faster computer chip.
Users share files over the network.
The search engine added new features.
Doctors tested a new treatment for the disease.
The court sentenced the man to five years.
Heavy rain flooded several villages.
The school hired more teachers.
Police closed the road after an accident.
Scientists found water on a distant planet.
Farmers harvested less wheat than last year.
The church was built in the twelfth century.""".splitlines()
"""Written from common knowledge, not from the articles: eight for each of six subjects."""

_ROWS_AT_ONCE: Final = 32


def anchors() -> tuple[str, ...]:
    """The sentences, and short paragraphs of four neighbours each: some as long as articles."""
    joined = (" ".join(_SENTENCES[row : row + 4]) for row in range(0, len(_SENTENCES), 2))
    return (*_SENTENCES, *list(joined)[:-1])


def first_layers(folder: Path, layers: int) -> str:
    """MiniLM cut to its first layers, as a folder."""
    whole = packaged.minilm_folder()
    model: Any = AutoModel.from_pretrained(whole, num_hidden_layers=layers)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(whole).save_pretrained(folder)
    return str(folder)


def job_on(cut: str, *, quick: bool) -> Federation:
    """The demo's articles, 48 tokens of each, where every second client holds the cut model."""
    with tempfile.TemporaryDirectory() as folder:
        job = bbc_topics(Path(folder), encrypted=False, **({"rounds": 2} if quick else {}))
    return replace(
        job,
        model=replace(job.model, max_length=48, anchor_texts=anchors()),
        bases={"cut": cut},
        clients=[
            replace(client, base="cut" if place % 2 else None)
            for place, client in enumerate(job.clients)
        ],
        adapter=LoRA(rank=4, target_modules=("relative",)),
        method=FedAvg(),
        computation=Computation(),
        encryption=Plain(bits=16, follow_released=True),
    )


def under(job: Federation, clients: Sequence[Client], epsilon: float) -> Federation:
    """The job of these clients, two steps in a round of the smallest client's size."""
    demo, smallest = job.privacy.expected_batch_size, min(client.size for client in clients)
    batch = min(demo, smallest)
    return replace(
        job,
        clients=clients,
        privacy=replace(
            job.privacy,
            budget=Budget(epsilon=epsilon, delta=job.privacy.budget.delta),
            steps_per_round=2,
            expected_batch_size=batch,
        ),
        training=replace(job.training, learning_rate=job.training.learning_rate * batch / demo),
    )


def skewed(job: Federation, alpha: float) -> list[Client]:
    """The articles dealt by label skew; every fourth is a client's own held-out text."""
    records = [record for client in job.clients for record in client.records]
    labels = [int(record.label) for record in records]  # type: ignore[union-attr, arg-type]
    parts = dirichlet(labels, len(job.clients), alpha=alpha, minimum=60, seed=job.seed)
    dealt = []
    for client, rows in zip(job.clients, parts.values(), strict=True):
        own = tuple(records[row] for row in rows[::4])
        rest = tuple(records[row] for place, row in enumerate(rows) if place % 4)
        dealt.append(replace(client, records=rest, own_held_out=own, public_size=len(rest)))
    return dealt


def accuracy(task: Task, model: nn.Module, job: Federation) -> float:
    """Of a model on the held-out articles."""
    batch = task.collate(task.tokenizer(), job.held_out)
    right = 0.0
    with torch.no_grad():
        for rows in torch.arange(len(job.held_out)).split(_ROWS_AT_ONCE):
            part = {name: tensor[rows] for name, tensor in batch.items()}
            right += task.metric_parts(model.eval(), part)[0]
    return right / len(job.held_out)


def at_the_start(job: Federation, base: str | None, start: Path) -> float:
    """Accuracy of the initial adapter on a base model."""
    task = job.task_on(base)
    model = job.adapter.attach(task.build(), task.modules_to_save, job.seed)
    load_start(start, model, list(load_file(start)))
    return accuracy(task, model, job)


def shared(job: Federation, out: Path) -> Iterator[dict[str, Any]]:
    """FedAvg of adapter and head, with the demo's label skew."""
    result = under(job, job.clients, 8.0).run(out)
    for base in (None, "cut"):
        task, model = load_adapter(result.adapter, job.task_on(base).base)  # type: ignore[attr-defined]
        yield {
            "method": "fedavg",
            "base": base or "MiniLM",
            "epsilon": 8.0,
            "skew": 1.0,
            "at the start": at_the_start(job, base, out / "start.safetensors"),
            "accuracy": accuracy(task, model, job),
            "median of clients": result.rounds[-1].value,
            "parameters": result.report.mechanism.num_params,
            "seconds": round(sum(row.seconds for row in result.rounds)),
        }


def personal(job: Federation, out: Path) -> Iterator[dict[str, Any]]:
    """Own heads behind a shared adapter, and all shared, on clients' own articles."""
    dealt = under(job, skewed(job, 0.1), 8.0)
    for method in (FedAvg(), LocalHead()):
        name = method.kind
        result = replace(
            dealt, method=method, state_folder=out / f"{name}-state", anchor_folder=out / name
        ).run(out / f"{name}-run")
        own = result.own.values()
        yield {
            "method": name,
            "epsilon": 8.0,
            "skew": 0.1,
            "own models": statistics.fmean(one.metric or 0.0 for one in own),
            "the shared one": statistics.fmean(one.shared_metric or 0.0 for one in own),
            "seconds": round(sum(row.seconds for row in result.rounds)),
        }


@contextmanager
def embedded_once() -> Iterator[None]:
    """Compute what a frozen encoder makes of a text once for all steps, which `seconds` show."""
    real, known = SentenceClassifier.embedding, {}

    def remembered(
        model: SentenceClassifier, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        depth = model.encoder.config.num_hidden_layers  # type: ignore[union-attr]
        rows = zip(input_ids, attention_mask, strict=True)
        keys = [(depth, ids[mask > 0].numpy().tobytes()) for ids, mask in rows]
        new = [row for row, key in enumerate(keys) if key not in known]
        if new:
            with torch.no_grad():
                found = real(model, input_ids[new], attention_mask[new])
            known.update(zip((keys[row] for row in new), found, strict=True))
        return torch.stack([known[key] for key in keys])

    SentenceClassifier.embedding = remembered  # type: ignore[method-assign]
    try:
        yield
    finally:
        SentenceClassifier.embedding = real  # type: ignore[method-assign]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary, embedded_once():
        folder = Path(temporary)
        job = job_on(first_layers(folder / "cut", 3), quick=options.quick)
        job = replace(job, state_folder=folder / "state", anchor_folder=folder / "anchors")
        for measure, name in ((shared, "shared"), (personal, "personal")):
            for row in measure(job, folder / name):
                rows.append(row)
                print(row, file=sys.stderr, flush=True)
    print(json.dumps({"rows": rows}, indent=2))


if __name__ == "__main__":
    main()
