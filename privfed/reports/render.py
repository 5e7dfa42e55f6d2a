"""The budget report as one self-contained, printable HTML page."""

from dataclasses import asdict
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup

from privfed.reports.budget import RUNNING, BudgetReport
from privfed.reports.charts import epsilon_chart, metric_chart
from privfed.reports.figures import rounded_down, rounded_up


def render_html(report: BudgetReport) -> str:
    """HTML text without any outside reference; a missing field raises instead of leaving a gap."""
    values = asdict(report)
    charts = {}
    if report.rounds and report.status != RUNNING:  # a page between two rounds is written quickly
        charts = {
            "epsilon": Markup(epsilon_chart(values)),
            "metric": Markup(metric_chart(values)),
        }
    ((metric, _),) = report.baseline.items()
    return _template().render(**values, charts=charts, metric=metric)


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
    return environment.get_template("budget.html.j2")
