"""Charts as SVG text, drawn without a display and without a global state."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from privfed.reports.budget import BudgetReport

_SPENT, _BUDGET, _METRIC = "#1f5f8b", "#b3261e", "#2e7d4f"


def epsilon_chart(report: BudgetReport) -> str:
    """Epsilon of every client after every round, against its budget."""
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes = figure.subplots()
    rounds = [row.round for row in report.rounds]
    for client in report.clients:
        spent = [row.epsilon[client.id] for row in report.rounds]
        axes.plot(
            [0, *rounds],
            [client.epsilon_before, *spent],
            color=_SPENT,
            alpha=0.6,
            linewidth=1.4,
            marker="o",
            markersize=2.5,
        )
    for budget in sorted({client.epsilon_budget for client in report.clients}):
        axes.axhline(budget, color=_BUDGET, linestyle="--", linewidth=1.2)
        axes.annotate(
            f"budget {budget:g}",
            (0, budget),
            xytext=(4, 3),
            textcoords="offset points",
            color=_BUDGET,
            fontsize=9,
        )
    highest = max(client.epsilon_budget for client in report.clients)
    axes.set(xlabel="round", ylabel="epsilon spent", ylim=(0, 1.15 * highest))
    return _svg(figure, axes, rounds)


def metric_chart(report: BudgetReport) -> str:
    """The held-out metric before training and after every round."""
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.subplots()
    metric = report.metric
    rounds = [row.round for row in report.rounds]
    values = [report.baseline[metric], *(row.value for row in report.rounds)]
    axes.plot([0, *rounds], values, color=_METRIC, marker="o", markersize=3.5)
    axes.annotate(
        f"{values[-1]:.3g}",
        ([0, *rounds][-1], values[-1]),
        xytext=(0, 7),
        textcoords="offset points",
        ha="center",
        color=_METRIC,
        fontsize=9,
    )
    axes.set(xlabel="round", ylabel=f"held-out {metric}")
    if metric == "accuracy":
        axes.set_ylim(0, 1.05)
    else:
        axes.margins(y=0.2)
    return _svg(figure, axes, rounds)


def _svg(figure: Figure, axes: Any, rounds: Sequence[int]) -> str:
    if len(rounds) <= 20:
        axes.set_xticks([0, *rounds])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "privfed"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
