"""Curves as data: each point is what `epsilon` says."""

from accountants import (
    epsilon,
    what_if,
)
from tests.unit.accountants.calibration.plans import ADD, event


def test_what_if_gives_every_combination():
    scenarios = what_if(
        1e-5,
        noise_multipliers=[1.0, 2.0],
        sample_rates=[0.01],
        steps=[10, 100],
        history=[],
        neighbouring=ADD,
    )
    assert [(s.noise_multiplier, s.steps) for s in scenarios] == [
        (1.0, 10),
        (1.0, 100),
        (2.0, 10),
        (2.0, 100),
    ]
    for scenario in scenarios:
        assert scenario.bounds == epsilon(
            [event(scenario.noise_multiplier, scenario.sample_rate, scenario.steps)],
            1e-5,
            ADD,
        )


def test_a_person_with_several_records_has_a_scenario_of_its_own():
    person = 1.5  # the noise multiplier
    plan = event(person, 0.1, 50)
    (scenario,) = what_if(
        1e-4,
        noise_multipliers=[person],
        sample_rates=[0.1],
        steps=[50],
        group_size=3,
        neighbouring=ADD,
    )
    assert scenario.bounds == epsilon([plan], 1e-4, ADD, group_size=3)
