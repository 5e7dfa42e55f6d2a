"""The export of a ledger: equal epsilon after a round trip, and no edit goes unseen."""

import copy
import json

import pytest

from accountants import (
    Ledger,
    LedgerCorruptError,
    LedgerRolledBackError,
    PoissonGaussian,
    epsilon,
    events_of_export,
    verify_export,
)

OWNER = {"client": "ward", "dataset": "notes-7", "description": "training split of notes, 2024"}
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
    assert epsilon(events_of_export(exported), 1e-5) == epsilon(ledger.events(), 1e-5) > 0


def test_it_says_whose_it_is_and_holds_no_message(exported):
    assert {name: exported[name] for name in OWNER} == OWNER
    assert exported["schema"] == "privfed-ledger/1"
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
        change("description", to=None),
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


def test_an_export_cut_short_is_whole_but_shows_against_an_anchor(ledger, exported):
    anchor = ledger.anchor()
    exported["entries"].pop()
    exported["head"] = exported["entries"][-1]["digest"]
    assert verify_export(exported).length == anchor.length - 1
    with pytest.raises(LedgerRolledBackError):
        verify_export(exported, anchor)
    assert verify_export(ledger.export(), anchor) == anchor
