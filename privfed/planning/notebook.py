"""A notebook that shows why: the question, the plan, its curves, how each number follows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from privfed.planning.answer import Answer
from privfed.planning.plan import Plan

_NAMES: Final = (
    *("epsilon", "delta", "expected_batch_size", "rounds", "noise_multiplier", "steps_per_round"),
    *("clipping_norm", "clients_per_round", "minimum", "parameters", "seconds_per_example"),
)
"""Fields of a plan that are plain numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The run configuration that a plan is of.

    Attributes:
        config: its path, relative to the notebook.
        state: where ledgers are read; None is the user's folder.
        guesses: sizes of clients whose sizes are yet to be released.
    """

    config: str
    state: str | None
    guesses: Mapping[str, int]


def notebook(plan: Plan, answer: Answer, source: Source | None) -> str:
    """The notebook as JSON text (nbformat 4.5); it needs privfed and nothing private.

    Args:
        plan: the question.
        answer: of that plan.
        source: the run configuration that the plan is of; None for a plan of numbers alone.
    """
    cells = [
        _words(_QUESTION),
        _code(_given(plan) if source is None else _read(plan, source)),
        _words(_ANSWER),
        _code("answer = plan.answer()\nprint(plan.table())"),
        _words(_CURVES),
        _code("curves = plan.curves()\nprint(curves_table(curves))\ncurves_picture(curves)"),
        _words(_NOISE),
        _code(_RECOMPUTED),
        _words(_SIGNAL),
        _code(_SIGNAL_CODE),
        _words(_chosen(answer)),
    ]
    numbered = [{**cell, "id": f"plan-{place}"} for place, cell in enumerate(cells)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {
        "cells": numbered,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(whole, indent=1) + "\n"


def _given(plan: Plan) -> str:
    """Python that makes the plan again from its numbers."""
    defaults = Plan(sizes={"one": 1}, epsilon=1.0, delta=0.1)
    named = [f"    sizes={dict(plan.sizes)!r},"]
    for name in _NAMES:
        value = getattr(plan, name)
        if name in ("epsilon", "delta") or value != getattr(defaults, name):
            named.append(f"    {name}={value!r},")
    return "\n".join([_IMPORTS, "", "plan = Plan(", *named, ")"])


def _read(plan: Plan, source: Source) -> str:
    """Python that reads the plan from its file, with what was decided beside it."""
    state = "None" if source.state is None else f"Path({source.state!r})"
    call = f"Path({source.config!r}), {state}, {dict(source.guesses)!r}"
    lines = [
        _IMPORTS,
        "from dataclasses import replace",
        "from pathlib import Path",
        "",
        "from privfed.cli.plan_file import plan_of_file",
        "",
        f"read = plan_of_file({call})",
        "plan = replace(",
        "    read.plan,",
        *(f"    {name}={getattr(plan, name)!r}," for name in _NAMES),
        ")",
    ]
    return "\n".join(lines)


def _chosen(answer: Answer) -> str:
    if not answer.why:
        return "Rounds and batch were given, or follow from the noise that was given."
    rules = [f"- `{name}`: {why}." for name, why in answer.why.items()]
    return "\n".join(["What the plan chose by a rule, and you may choose otherwise:", "", *rules])


def _words(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": _lines(text)}


def _code(text: str) -> dict[str, Any]:
    cell = {"cell_type": "code", "metadata": {}, "source": _lines(text)}
    return {**cell, "execution_count": None, "outputs": []}


def _lines(text: str) -> Sequence[str]:
    return text.splitlines(keepends=True)


_IMPORTS: Final = """from privfed import Plan
from privfed.planning.picture import curves_picture
from privfed.planning.printing import curves_table
from privfed.planning.signal import signal_of"""

_QUESTION: Final = """# A plan of a private federation

**The question.** Clients hold so many records each (public sizes). Each wants its own records
protected by (epsilon, delta), over all rounds. How many rounds, what batch, what noise?

Nothing private is read here, and nothing is spent."""

_ANSWER: Final = """**The answer.**
Every epsilon and every noise multiplier is a certified number of the
accountant; a run of these settings calibrates the very same ones."""

_CURVES: Final = """**The curves**
are of the client that needs the most noise: what its epsilon is after
so many rounds, and what noise other batches would need."""

_NOISE: Final = """**How the noise follows.**
A record joins a step with probability q = B / public size.
A run is T = rounds x steps of a round such steps, each with Gaussian noise of standard deviation
sigma C on the sum of clipped gradients. Sigma is the smallest number, to five digits, with which
everything that the client releases, earlier releases included, keeps its epsilon; with 1 % less
noise it does not."""

_RECOMPUTED: Final = """from accountants import PoissonGaussian, epsilon
from privfed.agreement import budget_of

client = answer.noisiest
sigma, q = answer.noise_multipliers[client.id], answer.sample_rates()[client.id]
steps = answer.steps()[client.id] * answer.rounds_of[client.id]
budget, relation = budget_of(client, answer.privacy), answer.privacy.neighbouring
for noise in (sigma, 0.99 * sigma):
    event = PoissonGaussian(noise_multiplier=noise, sample_rate=q, steps=steps)
    bounds = epsilon([*answer.histories[client.id], event], budget.delta, relation)
    print(f"sigma {noise:.5g}, q {q:.4g}, T {steps}: epsilon at most {bounds.upper:.5f}",
          "keeps" if bounds.upper <= budget.epsilon else "does not keep",
          f"epsilon {budget.epsilon:g} at delta {budget.delta:g}")"""

_SIGNAL: Final = """**How the signal follows.**
In one entry of its update a client has noise of deviation
sigma C eta sqrt(K) / B (K steps, learning rate eta). The mean over n clients alike has 1 / sqrt(n)
of it, and over m trained parameters its length is sqrt(m) times that. A record moves a step by at
most eta C / B, so that all records together, if they agree, move it by about eta C."""

_SIGNAL_CODE: Final = """signal_of(answer)"""
