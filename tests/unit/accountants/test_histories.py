"""Histories: what is refused, one normal form for equal ones, and what was planned."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accountants import (
    Gaussian,
    InvalidValueError,
    Ledger,
    Neighbouring,
    PoissonGaussian,
    PureDP,
    UnsupportedAnalysisError,
    epsilon,
)
from accountants.events import is_event
from accountants.histories import canonical, checked, is_within
from tests.unit.accountants.any_events import EXAMPLES, any_event, examples, histories

# What is refused


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
