"""The two curves of a plan side by side, as SVG text without any outside reference."""

import io
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from privfed.planning.curves import Curves

_SPENT, _BUDGET, _NOISE = "#1f5f8b", "#b3261e", "#2e7d4f"
_SIZE: Final = (9.6, 3.4)


@dataclass(frozen=True, slots=True)
class CurvesPicture:
    """A picture that a notebook shows as it is.

    Attributes:
        svg: whole SVG text.
    """

    svg: str

    def _repr_html_(self) -> str:
        return self.svg


def curves_picture(curves: Curves) -> CurvesPicture:
    """Epsilon against rounds with the budget, and noise against batch with the plan's batch."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    _epsilon(left, curves)
    _noise(right, curves)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "privfed"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return CurvesPicture(text[text.index("<svg") :])


def _epsilon(axes: Any, curves: Curves) -> None:
    rounds = [count for count, _ in curves.epsilon]
    axes.plot(rounds, [spent for _, spent in curves.epsilon], color=_SPENT, marker="o", ms=3.5)
    axes.axhline(curves.budget, color=_BUDGET, linestyle="--", linewidth=1.2)
    axes.annotate(
        f"budget {curves.budget:g}",
        (0, curves.budget),
        xytext=(4, 3),
        textcoords="offset points",
        color=_BUDGET,
        fontsize=9,
    )
    axes.axvline(curves.rounds, color=_BUDGET, linewidth=0.8, alpha=0.5)
    axes.set(xlabel=f"rounds of {curves.client}", ylabel="epsilon", ylim=(0, None))


def _noise(axes: Any, curves: Curves) -> None:
    points = [
        (point.expected_batch_size, point.noise_of_step)
        for point in curves.noise
        if point.noise_of_step is not None
    ]
    axes.plot(*zip(*points, strict=True), color=_NOISE, marker="o", ms=3.5)
    axes.axvline(curves.expected_batch_size, color=_BUDGET, linewidth=0.8, alpha=0.5)
    axes.set(
        xlabel="expected batch", ylabel="noise of a step in an entry", xscale="log", yscale="log"
    )
