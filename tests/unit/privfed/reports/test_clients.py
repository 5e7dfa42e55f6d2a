"""A row whose numbers contradict each other is refused, naming its client."""

import pytest

from privfed.errors import ReportError
from tests.unit.privfed.reports.made_up import guarantee


def test_an_anchor_is_what_continues_takes():
    assert guarantee(2, ledger_length=17).anchor == f"17:{'ab' * 32}"


def test_numbers_that_fit_together_are_accepted():
    guarantee(2).require_consistent()
    guarantee(2, epsilon_before=1.0, epsilon_lower=1.0).require_consistent()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epsilon_lower": 1.0001}, "lower bound <= epsilon spent, got 1.0001, 1.0"),
        ({"epsilon_lower": -0.1}, "lower bound"),
        ({"epsilon_lower": float("nan")}, "lower bound"),
        ({"epsilon_before": 1.0001}, "before <= spent"),
        ({"epsilon_if_begun": 0.9999}, "with one more round"),
        ({"epsilon_if_begun": 2.0001}, "only within the budget"),
        ({"releases": ()}, "took steps that are in no ledger"),
    ],
)
def test_a_contradiction_is_named(changes, named):
    with pytest.raises(ReportError, match=rf"^client 'client-2' .*{named}"):
        guarantee(2, **changes).require_consistent()
