"""Events: what is refused, one normal form for equal histories, and JSON that loses nothing."""

import dataclasses
import json
import math
from dataclasses import fields, replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants import InvalidValueError, Ledger, Neighbouring, UnsupportedAnalysisError, epsilon
from accountants.events import (
    BandedMatrixFactorization,
    DiscreteGaussian,
    Event,
    FixedSizeGaussian,
    Gaussian,
    Laplace,
    NoisedCount,
    PoissonGaussian,
    PureDP,
    Skellam,
    TreeAggregation,
    ZeroConcentrated,
    canonical,
    checked,
    event_from_json,
    event_to_json,
    is_event,
    is_within,
)

KINDS = get_args(Event)
WIRE = [
    (
        Gaussian(noise_multiplier=2.5, steps=3),
        {"type": "gaussian", "noise_multiplier": 2.5, "steps": 3},
    ),
    (
        PoissonGaussian(noise_multiplier=1.1, sample_rate=0.01, steps=1000),
        {"type": "poisson_gaussian", "noise_multiplier": 1.1, "sample_rate": 0.01, "steps": 1000},
    ),
    (
        FixedSizeGaussian(noise_multiplier=1.1, batch_size=20, dataset_size=400, steps=7),
        {
            "type": "fixed_size_gaussian",
            "noise_multiplier": 1.1,
            "batch_size": 20,
            "dataset_size": 400,
            "steps": 7,
        },
    ),
    (
        DiscreteGaussian(standard_deviation=40.0, sensitivity=10.0, steps=2),
        {
            "type": "discrete_gaussian",
            "standard_deviation": 40.0,
            "sensitivity": 10.0,
            "steps": 2,
        },
    ),
    (
        Skellam(variance=900.0, sensitivity=10.0, l1_sensitivity=30.0, steps=2),
        {
            "type": "skellam",
            "variance": 900.0,
            "sensitivity": 10.0,
            "l1_sensitivity": 30.0,
            "steps": 2,
        },
    ),
    (
        Laplace(noise_multiplier=3.0, steps=4),
        {"type": "laplace", "noise_multiplier": 3.0, "steps": 4},
    ),
    (
        PureDP(epsilon=0.5, neighbouring=Neighbouring.ADD_REMOVE, steps=5),
        {"type": "pure_dp", "epsilon": 0.5, "neighbouring": "add_remove", "steps": 5},
    ),
    (
        ZeroConcentrated(rho=0.01, neighbouring=Neighbouring.REPLACE_ONE, steps=6),
        {"type": "zero_concentrated", "rho": 0.01, "neighbouring": "replace_one", "steps": 6},
    ),
    (
        TreeAggregation(noise_multiplier=8.0, leaves=128, steps=2),
        {"type": "tree_aggregation", "noise_multiplier": 8.0, "leaves": 128, "steps": 2},
    ),
    (
        BandedMatrixFactorization(noise_multiplier=6.0, bands=16, participations=3, steps=1),
        {
            "type": "banded_matrix_factorization",
            "noise_multiplier": 6.0,
            "bands": 16,
            "participations": 3,
            "steps": 1,
        },
    ),
    (
        NoisedCount(epsilon=0.25, steps=2),
        {"type": "noised_count", "epsilon": 0.25, "steps": 2},
    ),
]
EXAMPLES = [event for event, _ in WIRE]
LARGE = {"dataset_size": st.integers(10**4, 10**9), "l1_sensitivity": st.floats(1e4, 1e9)}
RANGES = {
    "sample_rate": st.floats(0, 1, exclude_min=True),
    "epsilon": st.floats(0, exclude_min=True, allow_infinity=False),
    "sensitivity": st.floats(0, 1e4, exclude_min=True),
    **LARGE,
}
BY_TYPE = {
    float: st.floats(0, allow_infinity=False),
    int: st.integers(1, 10**4),
    Neighbouring: st.sampled_from(Neighbouring),
}


def values_of(kind):
    return {f.name: RANGES.get(f.name, BY_TYPE[f.type]) for f in fields(kind)}


any_event = st.one_of([st.builds(kind, **values_of(kind)) for kind in KINDS])
# Few distinct mechanisms, so that histories repeat them.
common_event = st.builds(
    lambda e, steps: replace(e, steps=steps), st.sampled_from(EXAMPLES), st.integers(1, 50)
)
histories = st.lists(st.one_of(common_event, any_event), max_size=8)
examples = settings(max_examples=150, deadline=None, derandomize=True)


# What is refused


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


class Renamed(Gaussian):
    """A subclass could mean anything."""


@pytest.mark.parametrize(
    "value", [None, "gaussian", {"type": "gaussian"}, Gaussian, Renamed(noise_multiplier=1.0)]
)
def test_what_is_no_event_is_refused_by_everything(value):
    assert not is_event(value)
    for use in (checked, canonical, lambda v: is_within(v, []), lambda v: is_within([], v)):
        with pytest.raises(UnsupportedAnalysisError, match="an event must be one of Gaussian, "):
            use([EXAMPLES[0], value])


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_one_event_in_place_of_several_is_refused_by_everything(event, tmp_path):
    whose = {"client": "a", "dataset": "b", "unit": "c", "neighbouring": Neighbouring.ADD_REMOVE}
    ledger = Ledger.create(tmp_path / "ledger", **whose)
    for use in (
        checked,
        canonical,
        lambda v: epsilon(v, 1e-5, Neighbouring.ADD_REMOVE),
        lambda v: is_within(v, []),
        lambda v: ledger.reserve("run", 0, v, lambda *_: None),
    ):
        with pytest.raises(InvalidValueError) as refusal:
            use(event)
        assert str(refusal.value).startswith("events must be a list of events, got one event")
        assert repr(event) in str(refusal.value)
    assert ledger.events() == ()


def test_checked_keeps_order_and_repetition():
    events = (*EXAMPLES, EXAMPLES[0])
    assert checked(iter(events)) == events
    assert all(map(is_event, events))


# JSON


def test_every_type_has_an_example_here():
    assert [type(event) for event in EXAMPLES] == list(KINDS)


@pytest.mark.parametrize(("event", "written"), WIRE, ids=lambda value: type(value).__name__)
def test_the_written_form_is_fixed(event, written):
    """Ledgers hold it for years."""
    assert event_to_json(event) == written
    assert event_from_json(written) == event


@examples
@given(event=any_event)
def test_json_gives_back_every_bit(event):
    again = event_from_json(json.loads(json.dumps(event_to_json(event), allow_nan=False)))
    assert type(again) is type(event)
    assert repr(again) == repr(event)
    assert again == event


@pytest.mark.parametrize("name", ["tree", "Gaussian", "gaussian ", "", None, 1, ["gaussian"], {}])
def test_an_unknown_type_is_refused_by_name(name):
    value = {"type": name, "noise_multiplier": 1.0, "steps": 1}
    with pytest.raises(UnsupportedAnalysisError) as refusal:
        event_from_json(value)
    assert f"got {name!r}; use the version of the package that wrote it" in str(refusal.value)


@pytest.mark.parametrize("value", [None, [], "gaussian", 1, {}, {"steps": 1}])
def test_what_is_no_event_object_is_refused(value):
    with pytest.raises(InvalidValueError, match="a JSON object with a 'type'"):
        event_from_json(value)


@pytest.mark.parametrize(("event", "written"), WIRE, ids=lambda value: type(value).__name__)
def test_a_missing_or_extra_field_is_refused(event, written):
    """Also one that construction would fill in: a default is no record."""
    for name in written.keys() - {"type"}:
        with pytest.raises(InvalidValueError, match="must have the fields"):
            event_from_json({k: v for k, v in written.items() if k != name})
    with pytest.raises(InvalidValueError, match="must have the fields.*'more'"):
        event_from_json(written | {"more": 1})


@pytest.mark.parametrize("key", [1, None, ("a",), 10**5000], ids=lambda key: type(key).__name__)
def test_a_key_that_is_no_text_is_refused(key):
    value = event_to_json(EXAMPLES[0])
    with pytest.raises(InvalidValueError, match="a 'gaussian' event must have the fields"):
        event_from_json(value | {key: 1, "more": 2})
    del value["steps"]
    with pytest.raises(InvalidValueError, match="a 'gaussian' event must have the fields"):
        event_from_json(value | {key: 1})


def test_numbers_too_long_to_write_out_are_refused():
    """Python refuses to write them into a message, with a ValueError of its own."""
    long = 10**5000
    value = event_to_json(EXAMPLES[0])
    for name in ("noise_multiplier", "steps"):
        with pytest.raises(InvalidValueError, match=f"^{name} must be"):
            event_from_json(value | {name: long})
    with pytest.raises(InvalidValueError, match="a JSON object with a 'type'"):
        event_from_json([long])
    with pytest.raises(UnsupportedAnalysisError, match="an event must be of a type in"):
        event_from_json(value | {"type": long})
    with pytest.raises(UnsupportedAnalysisError, match="an event must be one of"):
        checked([long])


# One normal form


@st.composite
def split_histories(draw):
    """A history, and the same releases in more pieces and another order."""
    history = draw(histories)
    pieces = []
    for event in history:
        cut = draw(st.integers(0, event.steps - 1))
        sizes = [size for size in (cut, event.steps - cut) if size]
        pieces.extend(replace(event, steps=size) for size in sizes)
    return history, draw(st.permutations(pieces))


@examples
@given(both=split_histories())
def test_order_and_splitting_do_not_matter(both):
    history, pieces = both
    assert canonical(pieces) == canonical(history)
    assert repr(canonical(pieces)) == repr(canonical(history))
    assert is_within(pieces, history)
    assert is_within(history, pieces)


@examples
@given(history=histories)
def test_every_mechanism_comes_once_with_all_its_steps(history):
    normal = canonical(history)
    mechanisms = [replace(event, steps=1) for event in normal]
    assert len(set(mechanisms)) == len(mechanisms)
    assert sum(event.steps for event in normal) == sum(event.steps for event in history)
    assert canonical(normal) == normal


def test_different_mechanisms_stay_apart():
    assert len(canonical(EXAMPLES)) == len(EXAMPLES)
    other = [replace(event, **{fields(event)[0].name: 77.0}) for event in EXAMPLES]
    assert len(canonical([*EXAMPLES, *other])) == 2 * len(EXAMPLES)
    relations = [PureDP(epsilon=0.5, neighbouring=relation) for relation in Neighbouring]
    assert len(canonical(relations)) == 3


def test_a_poisson_sample_of_everything_is_the_plain_gaussian():
    sampled = PoissonGaussian(noise_multiplier=2.5, sample_rate=1, steps=4)
    plain = Gaussian(noise_multiplier=2.5, steps=3)
    assert canonical([sampled, plain]) == (Gaussian(noise_multiplier=2.5, steps=7),)
    assert is_within([Gaussian(noise_multiplier=2.5, steps=4)], [sampled])
    almost = PoissonGaussian(noise_multiplier=2.5, sample_rate=1 - 2**-53, steps=4)
    assert canonical([almost]) == (almost,)


# What was planned


@examples
@given(history=histories, event=any_event)
def test_within_means_no_mechanism_has_more_steps(history, event):
    planned = [*history, event]
    assert is_within([], planned)
    assert is_within(history, planned)
    assert not is_within([*planned, replace(event, steps=1)], planned)
    (plain,) = canonical([event])
    same = [e.steps for e in canonical(history) if replace(e, steps=plain.steps) == plain]
    assert is_within([event], history) == (plain.steps <= sum(same))


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_within_compares_every_parameter(event):
    planned = [replace(event, steps=5)]
    assert is_within([replace(event, steps=2), replace(event, steps=3)], planned)
    assert not is_within([replace(event, steps=6)], planned)
    assert not is_within([replace(event, steps=3), replace(event, steps=3)], planned)
    assert not is_within([event], [])
    for field in fields(event):
        if field.name != "steps":
            value = getattr(event, field.name)
            other = Neighbouring.ZERO_OUT if field.type is Neighbouring else value * 0.5
            changed = replace(event, steps=1, **{field.name: field.type(other)})
            assert not is_within([changed], planned)
