"""How much of what fine-tuning gains is left at epsilon 4: SmolLM2-135M on chat messages.

    python benchmarks/chat_gap.py            # untouched, ceilings, three runs at epsilon 4
    python benchmarks/chat_gap.py --json     # `rows` and `share_of_gap` as JSON
    python benchmarks/chat_gap.py --quick    # few messages, one round, two ceilings

The chat demo's own job throughout: clients, messages, adapter, rounds and held-out text. A ceiling
is the same clipped steps without noise, with a learning rate and a number of steps in a round of
its own; of those tried, the best by the very held-out text counts. The share of the gap is
(log untouched - log private) / (log untouched - log best ceiling), of perplexities. Batches and
noise are secret, so that runs differ. Ceilings keep what frozen layers make of messages: 1.7 GB.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from method_jobs import frozen_states_once, without_noise

from accountants import Budget
from privfed import Computation, Federation, Plain
from privfed.cli.demo import chat_messages

RATES, STEPS = (200.0, 400.0, 800.0), (4, 12, 36)
"""Learning rates of the first round, and steps in a round, of the ceilings."""
_NO_BUDGET = Budget(epsilon=50.0, delta=1e-4)
"""Stands for none: its noise is not drawn."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run; `epsilon` None is a ceiling."""

    epsilon: float | None
    learning_rate: float
    steps_per_round: int
    untouched: float
    perplexity: float
    seconds: float


def ceilings(job: Federation, *, quick: bool) -> list[Federation]:
    """The job without a budget to speak of, at every rate and number of steps that is tried."""
    return [
        replace(
            job,
            privacy=replace(job.privacy, budget=_NO_BUDGET, steps_per_round=steps),
            training=replace(job.training, learning_rate=rate, final_learning_rate=rate / 4),
            computation=Computation(cache_frozen_layers=True),
            encryption=Plain(bits=16),
        )
        for steps in (STEPS[:1] if quick else STEPS)
        for rate in (RATES[:2] if quick else RATES)
    ]


def measured(job: Federation, *, epsilon: float | None) -> Row:
    """Run it, with ledgers of its own; epsilon None says that no noise is drawn."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        job = replace(job, state_folder=place / "state", anchor_folder=place / "anchors")
        result = job.run(place / "run")
    row = Row(
        epsilon=epsilon,
        learning_rate=job.training.learning_rate,
        steps_per_round=job.privacy.steps_per_round,
        untouched=result.report.baseline["perplexity"],
        perplexity=result.rounds[-1].value,
        seconds=sum(record.seconds for record in result.rounds),
    )
    print("  ".join(f"{key} {value}" for key, value in vars(row).items()), file=sys.stderr)
    return row


def share_of_gap(rows: list[Row]) -> list[float]:
    """Of each private run, against the best ceiling."""
    best = min(row.perplexity for row in rows if row.epsilon is None)
    return [
        math.log(row.untouched / row.perplexity) / math.log(row.untouched / best)
        for row in rows
        if row.epsilon is not None
    ]


def _few_messages(job: Federation) -> Federation:
    """A trial within minutes; the text is public, so its counts are."""
    few = [replace(c, records=c.records[:40], public_size=40) for c in job.clients]
    return replace(job, clients=few, held_out=job.held_out[:32])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="few messages, one round")
    parser.add_argument("--runs", type=int, default=3, help="at epsilon 4")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        job = chat_messages(Path(folder), **({"rounds": 1} if options.quick else {}))
    job = _few_messages(job) if options.quick else job
    with without_noise(), frozen_states_once():
        rows = [measured(each, epsilon=None) for each in ceilings(job, quick=options.quick)]
    epsilon = job.privacy.budget.epsilon
    rows += [measured(job, epsilon=epsilon) for _ in range(1 if options.quick else options.runs)]
    shares = share_of_gap(rows)
    if options.json:
        print(json.dumps({"rows": [vars(row) for row in rows], "share_of_gap": shares}, indent=2))
    else:
        print(f"share of the gap: median {statistics.median(shares):.3f} of {shares}")


if __name__ == "__main__":
    main()
