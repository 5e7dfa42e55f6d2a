"""What a checkpoint says of a run, as typed values and as JSON."""

import json
from dataclasses import fields, replace

import pytest

from accountants import Anchor
from privfed.reports.round_record import Abandoned, Reason, RoundRecord
from privfed.reports.run_record import RunRecord

ROUND_RECORD = RoundRecord(
    round=1,
    clients=("a", "b", "c"),
    absent=("d",),
    metric="accuracy",
    value=0.75,
    signal_to_noise=1.375,
    figures={},
    bytes_up=100,
    bytes_down=200,
    bytes_holder=0,
    seconds=1.5,
    seconds_aggregator=0.25,
    seconds_opening=0.5,
    epsilon={"a": 1.0, "b": 1.25, "c": 0.5},
)
RECORD = RunRecord(
    run="7f",
    settings={"rounds": 3, "clients": [{"id": "a"}]},
    base_sha256="ba",
    start_sha256="57",
    notes=("one", "two"),
    noise_multipliers={"a": 0.5, "b": 0.75},
    first_range=64.0,
    public_range=8.0,
    anchors={"a": Anchor(length=4, head="00" * 32)},
    baseline=0.25,
    rounds=(ROUND_RECORD,),
    abandoned=(Abandoned(round=2, reason=Reason.AWAY, missing=("b",)),),
    left_out={"b": 3},
)


def test_there_and_back():
    values = json.loads(json.dumps(RECORD.to_json()))
    assert RunRecord.from_json(values) == RECORD
    assert set(values) == {field.name for field in fields(RunRecord)}


def test_what_else_a_file_holds_is_left():
    """As `run.json` does."""
    assert RunRecord.from_json({**RECORD.to_json(), "status": "running", "schema": 1}) == RECORD


@pytest.mark.parametrize("name", [field.name for field in fields(RunRecord)])
def test_nothing_of_it_may_be_missing(name):
    values = RECORD.to_json()
    del values[name]
    with pytest.raises(KeyError):
        RunRecord.from_json(values)


def test_a_note_is_taken_once():
    assert RECORD.with_notes(("two", "three")).notes == ("one", "two", "three")
    assert replace(RECORD, notes=()).with_notes(()).notes == ()


def test_any_metric_of_a_task_comes_back():
    record = replace(ROUND_RECORD, metric="exact match")
    assert RoundRecord.from_json(record.to_json()) == record
