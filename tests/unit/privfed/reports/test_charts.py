"""Charts show what the report says, and are the same text every time."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from privfed.reports import charts
from privfed.reports.charts import epsilon_chart, metric_chart
from tests.unit.privfed.reports.made_up import ROUND_RECORD, guarantee, report

NAMES = ("east", "west", "north")
BEFORE = dict(zip(NAMES, (0.25, 0.0, 0.5), strict=True))
BUDGETS = dict(zip(NAMES, (4.0, 2.5, 4.0), strict=True))
FIRST = replace(
    ROUND_RECORD,
    clients=NAMES,
    absent=(),
    value=0.375,
    epsilon=dict(zip(NAMES, (0.75, 0.5, 1.0), strict=True)),
)
THIRD = replace(
    FIRST, round=3, value=0.625, epsilon=dict(zip(NAMES, (1.25, 0.5, 1.5), strict=True))
)
REPORT = report(
    clients=tuple(
        guarantee(
            id=name,
            epsilon_before=BEFORE[name],
            epsilon_spent=THIRD.epsilon[name],
            epsilon_if_begun=THIRD.epsilon[name],
            epsilon_budget=BUDGETS[name],
        )
        for name in NAMES
    ),
    rounds=(FIRST, THIRD),
    baseline={"accuracy": 0.125},
)
TEXT = "{http://www.w3.org/2000/svg}text"


@pytest.fixture
def axes(monkeypatch):
    """A function: the axes of a chart before they become text."""
    monkeypatch.setattr(charts, "_svg", lambda figure, axes, rounds: axes)
    return lambda draw, report=REPORT: draw(report)


def points(line):
    return list(zip(line.get_xdata(), line.get_ydata(), strict=True))


def test_every_client_has_a_line_from_what_was_spent_before(axes):
    lines = axes(epsilon_chart).lines
    assert [points(line) for line in lines[:3]] == [
        [(0, 0.25), (1, 0.75), (3, 1.25)],
        [(0, 0.0), (1, 0.5), (3, 0.5)],
        [(0, 0.5), (1, 1.0), (3, 1.5)],
    ]


def test_every_budget_is_one_line_within_the_picture(axes):
    drawn = axes(epsilon_chart)
    assert [set(line.get_ydata()) for line in drawn.lines[3:]] == [{2.5}, {4.0}]
    assert [text.get_text() for text in drawn.texts] == ["budget 2.5", "budget 4"]
    low, high = drawn.get_ylim()
    assert low == 0
    assert high > 4.0


def test_the_metric_starts_before_training_and_ends_with_its_number(axes):
    drawn = axes(metric_chart)
    assert points(drawn.lines[0]) == [(0, 0.125), (1, 0.375), (3, 0.625)]
    assert [text.get_text() for text in drawn.texts] == ["0.625"]
    assert drawn.get_ylabel() == "held-out accuracy"
    assert drawn.get_ylim() == (0, 1.05)


def test_perplexity_has_a_range_of_its_own(axes):
    rounds = tuple(
        replace(row, metric="perplexity", value=40.0 - row.round) for row in REPORT.rounds
    )
    drawn = axes(metric_chart, replace(REPORT, rounds=rounds, baseline={"perplexity": 50.0}))
    assert points(drawn.lines[0]) == [(0, 50.0), (1, 39.0), (3, 37.0)]
    low, high = drawn.get_ylim()
    assert 30 < low < 37
    assert 50 < high < 60


@pytest.mark.parametrize("draw", [epsilon_chart, metric_chart])
def test_a_chart_is_whole_svg_whose_words_are_text(draw):
    """So that the page can be searched, and read where its fonts are not."""
    root = ElementTree.fromstring(draw(REPORT))
    words = {"".join(part.itertext()).strip() for part in root.iter(TEXT)}
    assert {"round", "0", "1", "3"} <= words
    assert words & {"epsilon spent", "held-out accuracy"}


@pytest.mark.parametrize("draw", [epsilon_chart, metric_chart])
def test_a_chart_is_the_same_text_every_time(draw):
    assert draw(REPORT) == draw(REPORT)


def test_of_many_rounds_not_every_one_is_a_tick():
    many = tuple(replace(FIRST, round=number) for number in range(1, 41))
    root = ElementTree.fromstring(metric_chart(replace(REPORT, rounds=many)))
    words = {"".join(part.itertext()).strip() for part in root.iter(TEXT)}
    assert len([word for word in words if word.isdigit()]) < 20
