"""Epsilon against values from outside: other libraries, closed forms, other neighbours."""

import json
from pathlib import Path

import pytest

from accountants import Gaussian, Neighbouring, PoissonGaussian, epsilon

ADD = Neighbouring.ADD_REMOVE
GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "accounting_values.json").read_text())


def phases(case):
    return [
        PoissonGaussian(noise_multiplier=sigma, sample_rate=q, steps=steps)
        for sigma, q, steps in case["phases"]
    ]


def relative_gap(bounds):
    return (bounds.upper - bounds.lower) / bounds.upper


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["id"])
def test_the_bounds_enclose_the_truth_and_are_as_good_as_the_best_known(case):
    bounds = epsilon(phases(case), case["delta"], ADD)
    assert bounds.lower <= case["upper"] * (1 + 1e-9)
    assert case["lower"] * (1 - 1e-9) <= bounds.upper <= case["upper"] * (1 + 1e-3)
    assert relative_gap(bounds) <= 1e-3


@pytest.mark.parametrize("case", GOLDEN["replace_one"], ids=lambda case: case["source"])
def test_replacing_a_record_costs_more_than_adding_one(case):
    bounds = epsilon(phases(case), case["delta"], Neighbouring.REPLACE_ONE)
    assert bounds.lower <= case["epsilon"] * (1 + 1e-6)
    assert bounds.upper == pytest.approx(case["epsilon"], rel=1e-3)
    assert bounds.lower > epsilon(phases(case), case["delta"], ADD).upper * 1.1


@pytest.mark.parametrize("size", ["1", "2", "4", "8"])
def test_a_person_with_several_records(size):
    """Golden: dp-accounting on a grid of 1e-3, an upper bound."""
    group = GOLDEN["group_of_records"]
    bounds = epsilon(phases(group), group["delta"], ADD, group_size=int(size))
    expected = group["upper_by_size"][size]
    assert bounds.lower <= expected <= bounds.upper * (1 + 1e-3)
    assert bounds.upper == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "case", GOLDEN["small_delta_gaussian"], ids=lambda case: f"{case['sigma']}-{case['delta']}"
)
def test_small_deltas_do_not_drown_in_rounding(case):
    event = Gaussian(noise_multiplier=case["sigma"], steps=case["T"])
    bounds = epsilon([event], case["delta"], ADD)
    assert bounds.lower <= case["exact"] * (1 + 1e-9)
    assert bounds.upper >= case["exact"] * (1 - 1e-9)
    assert relative_gap(bounds) < 1e-9


def test_one_sampled_step_at_a_delta_of_1e_20():
    """Golden: the closed form of one step gives 4.404189."""
    bounds = epsilon(
        [PoissonGaussian(noise_multiplier=1.0, sample_rate=0.01, steps=1)],
        1e-20,
        ADD,
    )
    assert bounds.lower <= 4.404189 <= bounds.upper
    assert relative_gap(bounds) <= 1e-3


def test_gaps_close_on_request():
    event = PoissonGaussian(noise_multiplier=1.0, sample_rate=0.01, steps=1000)
    wide, narrow = (epsilon([event], 1e-5, ADD, relative_gap=gap) for gap in (1e-2, 1e-5))
    assert relative_gap(narrow) <= 1e-5 < relative_gap(wide) <= 1e-2
    assert wide.lower <= narrow.lower <= narrow.upper <= wide.upper
