"""The budget report as one self-contained, printable HTML page.

What a field is called on the page stands here, and in `templates/budget.html.j2`.
"""

from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup

from privfed.reports.budget import RUNNING, BudgetReport
from privfed.reports.charts import epsilon_chart, metric_chart
from privfed.reports.round_record import rounded_down, rounded_up
from privfed.reports.sections import (
    Accounting,
    Encryption,
    Guarantee,
    Measured,
    Mechanism,
    Randomness,
    Training,
)

_LABELS: Final[Mapping[type, Mapping[str, str]]] = {
    Guarantee: {
        "unit": "unit",
        "neighbouring": "neighbouring relation",
        "covers": "covers",
        "adversary": "against whom",
        "epsilon": "epsilon",
        "delta": "delta",
        "reading": "how to read it",
    },
    Mechanism: {
        "mechanism": "mechanism",
        "clipping": "clipping",
        "clipping_norm": "clipping norm C",
        "expected_batch_size": "expected batch B (public divisor)",
        "steps_per_round": "steps per round",
        "sampler_accounted": "sampler assumed by the accountant",
        "sampler_ran": "sampler that ran",
        "public_sizes": "public sizes",
        "noise_multipliers": "noise multipliers",
        "num_params": "trainable parameters",
    },
    Accounting: {
        "accountant": "accountant",
        "bound": "bound",
        "neighbouring": "neighbouring relation",
        "directions": "directions",
        "one_bound": "one bound for all",
        "stop_rule": "stop rule",
        "theorem": "why it holds",
        "counted": "counted",
    },
    Encryption: {
        "scheme": "scheme",
        "custody": "custody",
        "consequence": "consequence",
        "keys": "keys",
        "identities": "identities",
        "correctness": "correctness",
        "setting": "setting",
        "bits_per_value": "bits per value",
        "public_range": "public range",
        "parameters": "parameters",
        "base_model": "base model (SHA-256 of its frozen parameters)",
        "roster": "roster (SHA-256)",
        "measured": "measured",
    },
    Measured: {
        "upload_bytes": "upload bytes per parameter and client",
        "download_bytes": "download bytes per parameter and client",
        "aggregator_seconds": "seconds of the aggregator per client (check, add)",
        "opening_seconds": "seconds from the sum to what clients came to",
        "key_holder_bytes": "bytes per parameter to and from the key holder",
        "key_bytes": "bytes to hand out the key, once",
    },
    Randomness: {
        "noise": "noise",
        "rounding": "rounding",
        "batch_sampling": "batch sampling",
        "public_seed": "public seed",
    },
    Training: {
        "model": "model",
        "adapter": "adapter",
        "method": "method",
        "adapter_left": "adapter left and evaluated",
        "participants": "clients that the run began with",
        "optimizer": "local optimiser",
        "rounds": "rounds planned",
        "participation": "who trains in a round",
        "weights": "weights in the mean",
        "held_out": "held-out text",
        "other_bases": "clients on another base model (SHA-256 of its weights)",
    },
}
"""Of every field that is a row of its own."""


def render_html(report: BudgetReport) -> str:
    """HTML text without any outside reference; a missing field raises instead of leaving a gap."""
    charts = {}
    if report.rounds and report.status != RUNNING:  # a page between two rounds is written quickly
        charts = {
            "epsilon": Markup(epsilon_chart(report)),
            "metric": Markup(metric_chart(report)),
        }
    return _template().render(report=report, charts=charts)


def labelled(section: Any) -> dict[str, Any]:
    """A section as rows under their labels, without what is None.

    Args:
        section: a record of `sections.py`.
    """
    labels = _LABELS[type(section)]
    rows = {labels[f.name]: _shown(section, f.name) for f in fields(section) if f.name in labels}
    return {label: value for label, value in rows.items() if value is not None}


def _shown(section: Any, name: str) -> Any:
    value = getattr(section, name)
    if isinstance(section, Mechanism) and name == "steps_per_round":
        counts = set(value.values())
        return counts.pop() if len(counts) == 1 else value
    if isinstance(section, Encryption) and name == "public_range":
        follows = ", then from the released mean of the round before"
        return f"+-{value:.4g}{follows if section.follow_released else ''}"
    if isinstance(section, Randomness) and name == "public_seed":
        return (
            f"{value}: fixes the split of the data, initial weights and frozen factors, nothing "
            "else"
        )
    if isinstance(section, Guarantee) and name == "epsilon":
        return "none is stated" if value is None else rounded_up(value)
    return labelled(value) if isinstance(value, Measured) else value


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("privfed.reports"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["rounded_up"] = rounded_up
    environment.filters["rounded_down"] = rounded_down
    environment.filters["labelled"] = labelled
    return environment.get_template("budget.html.j2")
