"""The page shows every client and round, escapes all text, and never shows too little epsilon."""

import re

import pytest
from jinja2 import UndefinedError

from privfed.reports import render
from privfed.reports.render import render_html
from tests.unit.privfed.reports.made_up import guarantee, report


def test_every_client_and_round_is_on_the_page():
    html = render_html(report())
    for text in ("client-1", "client-2", "client-3", "1.5000", "other things", "sees what"):
        assert text in html
    assert html.count("<svg") == 2


def test_text_is_escaped():
    html = render_html(report(title="<script>alert(1)</script>"))
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


def test_without_rounds_there_are_no_charts():
    assert "<svg" not in render_html(report(rounds=()))


def test_epsilon_is_rounded_up_and_its_lower_bound_down():
    clients = (
        guarantee(1, epsilon_spent=0.700001, epsilon_lower=0.600099, epsilon_if_begun=0.75),
        guarantee(2, epsilon_spent=1.200001, epsilon_lower=1.1, epsilon_if_begun=1.25),
    )
    html = render_html(
        report(clients=clients, guarantee={"unit": "one record", "epsilon": 1.200001})
    )
    for shown in ("0.7001", "0.6000", "1.2001", "<b>1.201</b>"):
        assert shown in html
    for hidden in ("0.6001", "1.2000<", "0.7000"):
        assert hidden not in html


def test_while_it_goes_on_there_is_a_column_with_the_next_round_and_no_chart():
    """A page between two rounds is written quickly."""
    going_on = report(
        status="running", rounds_over=1, guarantee={"unit": "one record", "epsilon": 0.6 * 3}
    )
    html = render_html(going_on)
    assert "with round 2</th>" in html
    assert "<b>1.8000</b>" in html
    assert "<svg" not in html
    assert "with round" not in render_html(report())


def test_the_best_attack_is_shown_in_percent_once_it_was_computed():
    assert '<td class="n">3.00 %</td>' in render_html(report())
    clients = tuple(guarantee(number, attack={}) for number in (1, 2, 3))
    assert "is computed when all rounds are over" in render_html(report(clients=clients))


def test_the_page_asks_for_nothing_outside_of_itself():
    references = re.findall(
        r"""(?:src|href)=["']?([^"'>]*)|url\(([^)]*)\)""", render_html(report())
    )
    assert references, "charts refer to parts of themselves"
    assert all((link or target).startswith("#") for link, target in references)
    assert "@import" not in render_html(report())
    assert "<script" not in render_html(report())


def test_every_anchor_can_be_copied():
    assert f"<code>3:{'ab' * 32}</code>" in render_html(report())


def test_an_absent_client_is_named_in_its_round():
    html = render_html(report())
    rounds = html[html.index("3. Rounds") : html.index("4. Assumptions")]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", rounds)
    assert cells == ["1", "2", "client-3", "1.5000", "0.25", "10", "20", "0.5"]


def test_a_missing_field_is_an_error_and_no_gap(monkeypatch):
    """The environment of the page knows no empty value for a name that is not there."""
    real = render.asdict
    monkeypatch.setattr(
        render,
        "asdict",
        lambda record: {name: v for name, v in real(record).items() if name != "headline"},
    )
    with pytest.raises(UndefinedError, match="headline"):
        render_html(report())
