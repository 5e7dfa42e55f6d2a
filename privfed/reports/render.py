"""The budget report as one self-contained, printable HTML page."""

from dataclasses import asdict

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from privfed.reports.budget import BudgetReport
from privfed.reports.charts import epsilon_chart, metric_chart
from privfed.reports.figures import rounded_down, rounded_up


def render_html(report: BudgetReport) -> str:
    """HTML text without any outside reference; a missing field raises instead of leaving a gap."""
    environment = Environment(
        loader=PackageLoader("privfed.reports"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["rounded_up"] = rounded_up
    environment.filters["rounded_down"] = rounded_down
    values = asdict(report)
    charts = {}
    if report.rounds:
        charts = {
            "epsilon": Markup(epsilon_chart(values)),
            "metric": Markup(metric_chart(values)),
        }
    ((metric, _),) = report.baseline.items()
    template = environment.get_template("budget.html.j2")
    return template.render(**values, charts=charts, metric=metric)
