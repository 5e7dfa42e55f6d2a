"""How far a run has come, on the aggregator's disk."""

import json
from dataclasses import replace

import pytest

from privfed.errors import FileError, RunFolderError
from privfed.parties.aggregator.kept_run import SCHEMA, ReachedFile
from tests.unit.privfed.parties.aggregator.speakers import BASE, RELEASED_NOW, Speakers
from tests.unit.privfed.parties.aggregator.test_ending import ROW

KEYS = ("schema", "base", "released", "record", "opened", "facts")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hub" / "reached.json"


@pytest.fixture
def reached():
    found = Speakers().reached(2)
    record = replace(found.record, rounds=(ROW,), left_out={"c3": 2})
    return replace(found, record=record, opened={"c1": b"\x00\xff\n", "c4": b""})


def test_it_is_read_as_it_was_written(path, reached):
    assert ReachedFile(path).save(reached) is reached
    assert ReachedFile(path).load() == reached


def test_what_lies_there(path, reached):
    """One line of JSON that another program can read."""
    ReachedFile(path).save(reached)
    values = json.loads(path.read_text())
    assert path.read_text().count("\n") == 1
    assert (values["schema"], values["base"], values["released"]) == (SCHEMA, BASE, RELEASED_NOW)
    assert set(values) == set(KEYS)
    assert values["opened"] == {"c1": "AP8K", "c4": ""}
    assert values["facts"]["c4"] == reached.facts["c4"].to_json()
    assert values["record"]["rounds"][0]["accuracy"] == 0.75


def test_before_a_run(path):
    assert ReachedFile(path).load() is None


def test_the_next_takes_its_place(path, reached):
    kept = ReachedFile(path)
    kept.save(reached)
    later = replace(reached, base="e9" * 32)
    kept.save(later)
    assert kept.load() == later
    assert [one.name for one in path.parent.iterdir()] == ["reached.json"]


def test_it_is_written_whole(path, reached, disk_steps):
    """Flushed beside its name, then renamed; a kill in between leaves the old one."""
    ReachedFile(path).save(reached)
    (file, size), rename, folder = disk_steps
    assert (file, rename, folder) == ("file", "rename", "folder")
    assert size == path.stat().st_size


def test_what_cannot_be_written_leaves_what_was_there(path, reached):
    kept = ReachedFile(path)
    kept.save(reached)
    broken = replace(reached, record=replace(reached.record, baseline=float("nan")))
    with pytest.raises(ValueError, match="not JSON compliant"):
        kept.save(broken)
    path.with_name("reached.json.part").mkdir()
    with pytest.raises(FileError, match=r"reached\.json"):
        kept.save(replace(reached, base="e9" * 32))
    assert kept.load() == reached


def test_a_folder_that_cannot_be_made(tmp_path, reached):
    (tmp_path / "hub").write_text("a file")
    with pytest.raises(FileError):
        ReachedFile(tmp_path / "hub" / "reached.json").save(reached)


def changed(**changes):
    def change(values):
        return {**values, **changes}

    return change


def without(key):
    return lambda values: {name: one for name, one in values.items() if name != key}


@pytest.mark.parametrize(
    "change",
    [
        changed(schema=SCHEMA + 1),
        changed(schema=str(SCHEMA)),
        *[without(key) for key in KEYS],
        changed(opened={"c1": "?"}),
        changed(opened={"c1": 7}),
        changed(opened=[]),
        changed(facts={"c1": 7}),
        changed(facts=[]),
        lambda values: {**values, "facts": {"c1": {**values["facts"]["c1"], "more": 7}}},
        lambda values: {**values, "facts": {"c1": {**values["facts"]["c1"], "num_params": "9"}}},
        changed(record={}),
        changed(record=7),
        lambda values: {**values, "record": {**values["record"], "anchors": []}},
        lambda values: {**values, "record": {**values["record"], "anchors": {"c1": 7}}},
        lambda values: {**values, "record": {**values["record"], "rounds": [{"round": 3}]}},
        lambda values: {**values, "record": {**values["record"], "abandoned": [{"round": 1}]}},
        lambda values: [values],
        lambda values: None,
    ],
)
def test_another_content_is_refused(path, reached, change):
    ReachedFile(path).save(reached)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(RunFolderError, match="how far the run has come.*put it back"):
        ReachedFile(path).load()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"null", b'{"schema": 1}'])
def test_damage_is_refused(path, reached, content):
    ReachedFile(path).save(reached)
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"reached\.json must say how far"):
        ReachedFile(path).load()


def test_half_of_it_is_refused(path, reached):
    ReachedFile(path).save(reached)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunFolderError):
        ReachedFile(path).load()


def test_a_folder_in_its_place_is_refused(path):
    path.mkdir(parents=True)
    with pytest.raises(RunFolderError, match="IsADirectoryError"):
        ReachedFile(path).load()
