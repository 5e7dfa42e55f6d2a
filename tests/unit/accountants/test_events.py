"""Events: what is refused, and that what is accepted stays as it is."""

import dataclasses
import math
from dataclasses import fields, replace

import numpy as np
import pytest

from accountants import InvalidValueError, Neighbouring
from accountants.event_json import event_from_json, event_to_json
from accountants.events import (
    KINDS,
    FixedSizeGaussian,
    Gaussian,
    Laplace,
    NoisedCount,
    PoissonGaussian,
    PureDP,
    Skellam,
)
from tests.unit.accountants.any_events import EXAMPLES

NOT_NUMBERS = [float("nan"), True, False, "1", None, 1j, [1.0]]
REFUSED = {
    float: [*NOT_NUMBERS, math.inf, -math.inf, -1.0, -5e-324, 10**400, -(10**400)],
    int: [*NOT_NUMBERS, math.inf, 0, -1, 1.0, 2.5],
    Neighbouring: [*NOT_NUMBERS, "neither", "ADD_REMOVE", 0],
}
REFUSED_TOO = {
    "sample_rate": [0.0, 0, -0.0, 1.0000000000000002, 2],
    "sensitivity": [0.0, 0],
    "l1_sensitivity": [0.0, 0],
}


@pytest.mark.parametrize(
    ("event", "name", "value"),
    [
        (event, field.name, value)
        for event in EXAMPLES
        for field in fields(event)
        for value in [*REFUSED[field.type], *REFUSED_TOO.get(field.name, [])]
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_bad_value_is_refused_by_name_and_value(event, name, value):
    with pytest.raises(InvalidValueError) as refusal:
        replace(event, **{name: value})
    assert str(refusal.value).startswith(f"{name} must be ")
    assert repr(value) in str(refusal.value)
    with pytest.raises(InvalidValueError):
        event_from_json({**event_to_json(event), name: value})


def test_sizes_that_contradict_each_other_are_refused():
    with pytest.raises(InvalidValueError, match="batch_size must be at most dataset_size.*9 of 8"):
        FixedSizeGaussian(noise_multiplier=1.0, batch_size=9, dataset_size=8, steps=1)
    with pytest.raises(InvalidValueError, match=r"l1_sensitivity must be at least.*2\.0.*1\.5"):
        Skellam(variance=1.0, sensitivity=2.0, l1_sensitivity=1.5)
    FixedSizeGaussian(noise_multiplier=1.0, batch_size=8, dataset_size=8, steps=1)
    Skellam(variance=1.0, sensitivity=2.0, l1_sensitivity=2.0)


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_events_are_keyword_only_and_frozen(event):
    with pytest.raises(TypeError):
        type(event)(1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.steps = 1
    without_noise = fields(event)[0].name
    if isinstance(event, NoisedCount):  # noise of scale 1 / 0
        with pytest.raises(InvalidValueError, match="epsilon must be a finite number above 0"):
            NoisedCount(epsilon=0.0)
        return
    assert getattr(replace(event, **{without_noise: 0.0}), without_noise) == 0.0


def test_numbers_of_other_types_become_plain_ones():
    event = PoissonGaussian(
        noise_multiplier=np.float32(0.5), sample_rate=np.int64(1), steps=np.int32(7)
    )
    assert repr(event) == "PoissonGaussian(noise_multiplier=0.5, sample_rate=1.0, steps=7)"
    assert repr(Gaussian(noise_multiplier=-0.0)) == "Gaussian(noise_multiplier=0.0, steps=1)"
    assert repr(Laplace(noise_multiplier=2)) == "Laplace(noise_multiplier=2.0, steps=1)"
    assert PureDP(epsilon=1, neighbouring="zero_out").neighbouring is Neighbouring.ZERO_OUT


def test_every_type_has_an_example_here():
    assert [type(event) for event in EXAMPLES] == list(KINDS)
