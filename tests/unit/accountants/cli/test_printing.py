"""What is printed: numbers rounded to the safe side, and the words that they rest on."""

import json
import math
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants import certified
from accountants.cli.printing import (
    ASSUMES,
    GROUPS,
    RELATIONS,
    UNIT,
    assumptions,
    basis,
    plain,
    print_rows,
    rounded_down,
    rounded_up,
    show,
)
from accountants.event_json import event_to_json
from accountants.events import Gaussian
from accountants.guarantees import Neighbouring
from tests.unit.accountants.command_line import rows, run_command


@pytest.fixture
def run(capsys):
    return partial(run_command, capsys)


finite = st.floats(0, allow_infinity=False)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(value=finite | st.floats(1e-6, 1e6))
def test_numbers_are_rounded_to_the_safe_side_and_stay_close(value):
    up, down = rounded_up(value), rounded_down(value)
    assert float(down) <= value <= float(up)
    assert float(up) <= value * (1 + 1.1e-5) + 1e-318
    assert float(down) >= value * (1 - 1.1e-5) - 1e-318


def test_short_numbers_are_printed_as_they_are():
    assert [rounded_up(v) for v in (0, 1.0, 0.9593, 100000.0)] == ["0", "1", "0.9593", "100000"]
    assert (rounded_up(1.0000001), rounded_down(0.9999999)) == ("1.00001", "0.999999")
    assert (rounded_up(1.23456789e-9), rounded_down(1e30)) == ("1.23457e-9", "1e+30")
    assert rounded_up(float("inf")) == rounded_down(float("inf")) == "infinity"


def test_every_relation_is_named_in_words(run):
    assert set(RELATIONS) == set(GROUPS) == set(Neighbouring)
    for name in ("add_remove", "replace_one", "zero_out"):
        arguments = ("epsilon", "--phase", "2,1,1", "--delta", "1e-5", "--neighbouring", name)
        words = RELATIONS[Neighbouring(name)]
        assert rows(run(*arguments))["neighbours"] == f"{words} ({name})"
        bounds = certified.epsilon([Gaussian(noise_multiplier=2.0)], 1e-5, Neighbouring(name))
        assert json.loads(run(*arguments, "--json"))["epsilon"] == bounds.upper


def test_the_fewest_digits_are_kept_that_are_safe():
    """0.00012345678 is cut after six digits; below 1e-4 and from 1e15 on with an exponent."""
    assert (rounded_up(1.2345678e-4), rounded_down(1.2345678e-4)) == ("0.000123457", "0.000123456")
    assert (rounded_up(9.8765432e-5), rounded_down(9.8765432e-5)) == ("9.87655e-5", "9.87654e-5")
    assert (rounded_up(1234567), rounded_down(1234567)) == ("1234570", "1234560")
    assert rounded_up(1e15) == "1e+15"


# Words.


@pytest.mark.parametrize("relation", list(Neighbouring))
def test_a_claim_says_what_it_rests_on(relation):
    events = [Gaussian(noise_multiplier=2.0, steps=3), Gaussian(noise_multiplier=5.0)]
    found = basis(iter(events), relation)
    assert found == {
        "events": [event_to_json(event) for event in events],
        "neighbouring": relation.value,
        "group_size": 1,
        "neighbours": RELATIONS[relation],
        "unit": UNIT + "a person with k records is protected less",
        "assumes": ASSUMES,
    }
    group = basis(events, relation, 7)
    assert group["group_size"] == 7
    assert group["neighbours"] == GROUPS[relation].format(7)
    assert "up to 7 units" in group["neighbours"]
    assert (
        group["unit"]
        == UNIT + "the number holds for a person with up to 7 of them, and not for more"
    )


@pytest.mark.parametrize("group_size", [1, 7])
def test_rows_and_json_say_the_same(group_size):
    record = basis([], Neighbouring.ZERO_OUT, group_size)
    assert assumptions(Neighbouring.ZERO_OUT, group_size) == [
        ("neighbours", record["neighbours"] + " (zero_out)"),
        ("unit", record["unit"]),
        ("assumes", record["assumes"]),
    ]


def test_rows_have_their_values_below_each_other(capsys):
    print_rows([("epsilon", "at most 2"), ("", "at least 1"), ("id", "x")])
    assert capsys.readouterr().out == "epsilon  at most 2\n         at least 1\nid       x\n"


def test_a_result_is_shown_in_one_of_two_forms(capsys):
    record, rows = {"epsilon": 2.0}, [("epsilon", "at most 2")]
    show(record, rows, as_json=False)
    assert capsys.readouterr().out == "epsilon  at most 2\n"
    show(record, rows, as_json=True)
    assert json.loads(capsys.readouterr().out) == record
    for value in (math.inf, math.nan):
        with pytest.raises(ValueError, match="not JSON compliant"):
            show({"epsilon": value}, rows, as_json=True)


def test_infinity_is_a_word_in_json():
    assert plain(math.inf) == "infinity"
    assert plain(2.5) == 2.5
