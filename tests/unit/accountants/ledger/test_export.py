"""The export of a ledger: equal epsilon after a round trip, and no edit goes unseen."""

import copy
import json
from dataclasses import fields, replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants import (
    Event,
    Ledger,
    LedgerCorruptError,
    LedgerRolledBackError,
    Neighbouring,
    PoissonGaussian,
    UnsupportedAnalysisError,
    certified,
    epsilon,
    events_of_export,
    verify_export,
)
from accountants.ledger.chain import anchor_from_json, linked
from accountants.ledger.export import book_of_export
from tests.unit.accountants.first_version import (
    FIRST_ANCHOR,
    FIRST_EVENTS,
    FIRST_OWNER,
    first_version_entries,
)

OWNER = {
    "client": "ward",
    "dataset": "notes-7",
    "unit": "one note",
    "neighbouring": "add_remove",
}
STEP = PoissonGaussian(noise_multiplier=4.1, sample_rate=0.1, steps=8)
OTHER = PoissonGaussian(noise_multiplier=3.3, sample_rate=0.3, steps=2)


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger.create(tmp_path / "ledger", **OWNER)
    for number, ran in enumerate([[STEP], [], [STEP]]):
        reservation = ledger.reserve("a", number, [STEP], lambda *_: None)
        ledger.commit(reservation.id, ran, b"update")
    ledger.reserve("b", 0, [OTHER, STEP], lambda *_: None)
    return ledger


@pytest.fixture
def exported(ledger):
    return json.loads(json.dumps(ledger.export()))


def test_a_round_trip_gives_the_same_events_and_epsilon(ledger, exported):
    assert verify_export(exported) == ledger.anchor()
    assert events_of_export(exported) == ledger.events() == (STEP, STEP, OTHER, STEP)
    assert events_of_export(exported, "b") == (OTHER, STEP)
    assert epsilon(events_of_export(exported), 1e-5, Neighbouring.ADD_REMOVE) == epsilon(
        ledger.events(), 1e-5, Neighbouring.ADD_REMOVE
    )


RANGES = {
    "epsilon": st.floats(0.01, 1),
    "rho": st.floats(1e-3, 0.5),
    "sample_rate": st.floats(1e-3, 1),
    "batch_size": st.integers(1, 100),
    "dataset_size": st.integers(100, 10**5),
    "l1_sensitivity": st.floats(10, 1e3),
    "standard_deviation": st.floats(5, 500),
    "variance": st.floats(1e3, 1e6),
}
BY_TYPE = {
    float: st.floats(0.5, 10),
    int: st.integers(1, 64),
    Neighbouring: st.sampled_from(Neighbouring),
}
KINDS = get_args(Event)


def events_of(kind):
    return st.builds(kind, **{f.name: RANGES.get(f.name, BY_TYPE[f.type]) for f in fields(kind)})


any_event = st.one_of([events_of(kind) for kind in KINDS])


def exact_epsilon(events):
    """Both bounds, to the bit, for the first relation that has an analysis."""
    for relation in Neighbouring:
        try:
            bounds = certified.epsilon(events, 1e-5, relation, relative_gap=0.2)
        except UnsupportedAnalysisError:
            continue
        return relation, bounds.lower.hex(), bounds.upper.hex()
    raise AssertionError(f"no relation has an analysis of {events}")


@st.composite
def rounds_of_a_ledger(draw):
    """What each round plans, and what of it ran; None for a round that was never committed."""
    rounds = []
    for planned in draw(st.lists(st.lists(any_event, min_size=1, max_size=3), max_size=4)):
        less = [replace(event, steps=(event.steps + 1) // 2) for event in planned[:1]]
        rounds.append((planned, draw(st.sampled_from([None, planned, less, []]))))
    return rounds


def written(path, rounds):
    """A ledger of these rounds, and what must count."""
    ledger, expected = Ledger.create(path, **OWNER), []
    for number, (planned, ran) in enumerate(rounds):
        reservation = ledger.reserve("a", number, planned, lambda *_: None)
        if ran is not None:
            ledger.commit(reservation.id, ran, b"update")
        expected += planned if ran is None else ran
    return ledger, tuple(expected)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(rounds=rounds_of_a_ledger())
def test_a_ledger_of_any_events_comes_back_to_the_bit(tmp_path_factory, rounds):
    path = tmp_path_factory.mktemp("ledgers") / "ledger"
    ledger, expected = written(path, rounds)
    exported = json.loads(json.dumps(ledger.export(), allow_nan=False))
    assert verify_export(exported) == ledger.anchor()
    for found in (ledger.events(), events_of_export(exported), Ledger.inspect(path).events()):
        assert found == expected
        assert repr(found) == repr(expected)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_round_trip_gives_the_same_epsilon_for_every_type(tmp_path_factory, kind, data):
    event = data.draw(events_of(kind))
    path = tmp_path_factory.mktemp("ledgers") / "ledger"
    ledger, _ = written(path, [([event], [event]), ([event], None)])
    found = events_of_export(json.loads(json.dumps(ledger.export())))
    assert exact_epsilon(found) == exact_epsilon([event, event])


def test_it_says_whose_it_is_and_holds_no_message(exported):
    assert {name: exported[name] for name in OWNER} == OWNER
    assert exported["schema"] == "privfed-ledger/2"
    assert exported["head"] == exported["entries"][-1]["digest"]
    assert "update" not in json.dumps(exported)


def change(*path_to, to):
    def apply(value):
        for key in path_to[:-1]:
            value = value[key]
        value[path_to[-1]] = to

    return apply


@pytest.mark.parametrize(
    "edit",
    [
        change("entries", 1, "body", "planned", 0, "steps", to=1),
        change("entries", 1, "body", "planned", 0, "noise_multiplier", to=41.0),
        change("entries", 2, "body", "ran", to=[]),
        change("entries", 2, "body", to=None),
        change("entries", 1, "kind", to="commit"),
        change("entries", 1, "kind", to=None),
        change("entries", 1, "seq", to=1.0),
        change("entries", 1, "seq", to=True),
        change("entries", 1, "digest", to="0" * 64),
        change("entries", 0, "body", "client", to="other"),
        change("entries", to={}),
        change("entries", to=[]),
        change("entries", 3, to=None),
        change("client", to="other"),
        change("unit", to="one person"),
        change("neighbouring", to="replace_one"),
        change("id", to="0" * 32),
        lambda e: e.pop("id"),
        change("head", to="0" * 64),
        change("more", to=1),
        lambda e: e["entries"].pop(),
        lambda e: e["entries"].pop(3),
        lambda e: e["entries"].insert(1, e["entries"].pop(3)),
        lambda e: e["entries"][1].pop("previous"),
        lambda e: e["entries"][1].update(more=1),
        lambda e: e["entries"][1]["body"].update(more=float("nan")),
        lambda e: e.pop("head"),
    ],
)
def test_any_edit_is_refused(exported, edit):
    original = copy.deepcopy(exported)
    edit(exported)
    assert json.dumps(exported) != json.dumps(original)
    for read in (verify_export, events_of_export):
        with pytest.raises(LedgerCorruptError):
            read(exported)


@pytest.mark.parametrize("value", [None, [], {}, "text"])
def test_what_is_no_export_is_refused(value):
    with pytest.raises(LedgerCorruptError):
        verify_export(value)


def test_an_unknown_schema_is_refused_by_name(exported):
    with pytest.raises(LedgerCorruptError, match="'privfed-ledger/9'"):
        verify_export(exported | {"schema": "privfed-ledger/9", "layout": []})


def test_an_event_of_a_later_version_is_refused_by_name(ledger, exported):
    """With the right digest, so that nothing but the type is wrong."""
    body = {"run": "c", "round": 0, "planned": [{"type": "renyi", "steps": 1}]}
    entry = linked("reserve", body, ledger.anchor())
    later = {**exported, "head": entry.digest}
    later["entries"] = [*exported["entries"], entry.to_json()]
    for read in (verify_export, events_of_export):
        with pytest.raises(UnsupportedAnalysisError, match=r"^entry 8 .*'renyi'"):
            read(later)


def test_an_export_says_what_was_reserved_and_what_was_committed(exported):
    book = book_of_export(exported)
    assert book.runs() == ["a", "b"]
    assert list(book.reservations) == [1, 3, 5, 7]
    assert list(book.commits) == [1, 3, 5]


def test_an_export_cut_short_is_whole_but_shows_against_an_anchor(ledger, exported):
    anchor = ledger.anchor()
    exported["entries"].pop()
    exported["head"] = exported["entries"][-1]["digest"]
    assert verify_export(exported).length == anchor.length - 1
    with pytest.raises(LedgerRolledBackError):
        verify_export(exported, anchor)
    assert verify_export(ledger.export(), anchor) == anchor


# Ledgers of the first version.


def test_an_export_of_the_first_version_is_read_and_verified():
    exported = {
        "schema": "privfed-ledger/1",
        **FIRST_OWNER,
        "entries": [
            {"seq": seq, "kind": kind, "body": json.loads(body), "previous": before, "digest": own}
            for seq, kind, body, before, own in first_version_entries()
        ],
        "head": FIRST_ANCHOR["head"],
    }
    assert verify_export(exported) == anchor_from_json(FIRST_ANCHOR)
    assert events_of_export(exported) == FIRST_EVENTS
    assert events_of_export(exported, "b") == FIRST_EVENTS[3:]
