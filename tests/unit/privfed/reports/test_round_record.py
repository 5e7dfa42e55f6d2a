"""Numbers of a round survive their JSON, and epsilon in print is never below what is bounded."""

import json
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed.reports.round_record import RoundRecord, rounded_down, rounded_up
from tests.unit.privfed.reports.made_up import ROUND_RECORD


@pytest.mark.parametrize("metric", ["accuracy", "perplexity"])
def test_numbers_survive_their_json(metric):
    record = replace(ROUND_RECORD, metric=metric)
    values = json.loads(json.dumps(record.to_json()))
    assert values[metric] == 0.25
    assert not {"metric", "value"} & set(values)
    assert RoundRecord.from_json(values) == record


def test_json_holds_lists_and_the_metric_under_its_name():
    values = ROUND_RECORD.to_json()
    assert values["accuracy"] == 0.25
    assert values["clients"] == ["client-1", "client-2"]
    assert values["absent"] == ["client-3"]
    assert values["epsilon"] == {"client-1": 0.5, "client-2": 1.0, "client-3": 1.5}


@pytest.mark.parametrize(
    ("epsilon", "digits", "shown"),
    [
        (1.00001, 4, "1.0001"),
        (1.99999, 3, "2.000"),
        (0.0, 4, "0.0000"),
        (1e-9, 4, "0.0001"),
        (2.5, 2, "2.50"),
    ],
)
def test_epsilon_is_rounded_up(epsilon, digits, shown):
    assert rounded_up(epsilon, digits) == shown


@pytest.mark.parametrize(
    ("epsilon", "digits", "shown"),
    [
        (1.00009, 4, "1.0000"),
        (1.99999, 3, "1.999"),
        (0.0, 4, "0.0000"),
        (9e-5, 4, "0.0000"),
        (2.5, 2, "2.50"),
    ],
)
def test_a_lower_bound_is_rounded_down(epsilon, digits, shown):
    assert rounded_down(epsilon, digits) == shown


@given(epsilon=st.floats(0, 1e4), digits=st.integers(0, 6))
def test_what_is_read_encloses_what_is_bounded(epsilon, digits):
    low, high = Decimal(rounded_down(epsilon, digits)), Decimal(rounded_up(epsilon, digits))
    assert low <= Decimal(epsilon) <= high
    assert high - low <= Decimal(1).scaleb(-digits)
