"""A checkpoint is there whole or not at all."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from privfed.errors import RunFolderError
from privfed.storage import checkpoint
from privfed.storage.checkpoint import Checkpoint, load_latest, save_checkpoint


def after(number, **record):
    state = np.arange(5, dtype=np.float32) + number
    return Checkpoint(
        round=number, tensors={"adapter": state}, record={"rounds": [number], **record}
    )


def assert_same(found, expected):
    assert (found.round, found.record) == (expected.round, expected.record)
    assert found.tensors["adapter"].dtype == np.float32
    assert np.array_equal(found.tensors["adapter"], expected.tensors["adapter"])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Killed(BaseException):
    """Stands for kill -9."""


def test_what_is_saved_is_loaded(tmp_path):
    saved = after(3, settings={"a": [1, 2.5, None, "x"]}, anchors={})
    save_checkpoint(tmp_path / "new" / "folder", saved)
    assert_same(load_latest(tmp_path / "new" / "folder"), saved)


def test_the_state_before_the_first_round_is_one_too(tmp_path):
    save_checkpoint(tmp_path, after(0))
    assert load_latest(tmp_path).round == 0


def test_without_any_there_is_none(tmp_path):
    assert load_latest(tmp_path) is None
    assert load_latest(tmp_path / "absent") is None


def test_the_newest_is_loaded_also_beyond_nine_rounds(tmp_path):
    for number in (8, 9, 10, 11):
        save_checkpoint(tmp_path, after(number))
        assert load_latest(tmp_path).round == number


def test_only_the_last_two_are_kept(tmp_path):
    for number in range(5):
        save_checkpoint(tmp_path, after(number))
    assert names(tmp_path) == ["round-00003.safetensors", "round-00004.safetensors"]


def test_who_goes_back_drops_what_was_later(tmp_path):
    for number in range(1, 6):
        save_checkpoint(tmp_path, after(number))
    save_checkpoint(tmp_path, after(2, again=True))
    assert names(tmp_path) == ["round-00002.safetensors"]
    assert_same(load_latest(tmp_path), after(2, again=True))


def test_or_keeps_the_one_before_where_it_is_still_there(tmp_path):
    for number in (3, 4):
        save_checkpoint(tmp_path, after(number))
    (tmp_path / "round-00005.safetensors").write_bytes(b"of a later round, and damaged")
    save_checkpoint(tmp_path, after(4, again=True))
    assert names(tmp_path) == ["round-00003.safetensors", "round-00004.safetensors"]
    assert_same(load_latest(tmp_path), after(4, again=True))


def test_later_ones_go_only_after_the_new_one_is_durable(tmp_path, monkeypatch):
    for number in (3, 4):
        save_checkpoint(tmp_path, after(number))

    def killed(source, target):
        raise Killed

    monkeypatch.setattr(checkpoint, "replace_durably", killed)
    with pytest.raises(Killed):
        save_checkpoint(tmp_path, after(2))
    assert names(tmp_path)[-2:] == ["round-00003.safetensors", "round-00004.safetensors"]


@pytest.mark.parametrize(("back", "number"), [(0, 4), (1, 3), (2, None), (9, None)])
def test_one_can_go_back_as_far_as_there_are_some(tmp_path, back, number):
    for saved in (2, 3, 4):
        save_checkpoint(tmp_path, after(saved))
    found = load_latest(tmp_path, back=back)
    assert (found and found.round) == number


@given(numbers=st.lists(st.integers(0, 12), min_size=1, max_size=8))
def test_the_last_that_was_saved_is_the_newest_with_at_most_one_before(tmp_path_factory, numbers):
    folder = tmp_path_factory.mktemp("run")
    for number in numbers:
        save_checkpoint(folder, after(number))
    assert_same(load_latest(folder), after(numbers[-1]))
    before = load_latest(folder, back=1)
    assert before is None or before.round < numbers[-1]
    assert load_latest(folder, back=2) is None


def test_all_arrays_come_back_as_they_were(tmp_path):
    arrays = {
        "adapter": np.arange(5, dtype=np.float32),
        "average": np.arange(3, dtype=np.float32) / 2,
        "counted": np.array([7], dtype=np.int32),
    }
    save_checkpoint(tmp_path, replace(after(1), tensors=arrays))
    found = load_latest(tmp_path).tensors
    assert {name: (a.dtype, a.tolist()) for name, a in found.items()} == {
        name: (a.dtype, a.tolist()) for name, a in arrays.items()
    }


def test_saving_again_replaces(tmp_path):
    save_checkpoint(tmp_path, after(1))
    save_checkpoint(tmp_path, after(1, abandoned=[1]))
    assert names(tmp_path) == ["round-00001.safetensors"]
    assert load_latest(tmp_path).record["abandoned"] == [1]


def test_a_half_made_file_is_ignored_and_overwritten(tmp_path):
    save_checkpoint(tmp_path, after(1))
    (tmp_path / "round-00002.part").write_bytes(b"half")
    assert_same(load_latest(tmp_path), after(1))
    save_checkpoint(tmp_path, after(2))
    assert_same(load_latest(tmp_path), after(2))
    assert names(tmp_path) == ["round-00001.safetensors", "round-00002.safetensors"]


def test_a_kill_before_the_rename_leaves_the_old_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, after(1))

    def killed(source, target):
        raise Killed

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Killed):
        save_checkpoint(tmp_path, after(2))
    monkeypatch.undo()
    assert_same(load_latest(tmp_path), after(1))


def test_a_kill_while_the_file_is_written_leaves_the_old_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, after(1))

    def killed(tensors, path, metadata):
        path.write_bytes(b"half")
        raise Killed

    monkeypatch.setattr(checkpoint, "save_file", killed)
    with pytest.raises(Killed):
        save_checkpoint(tmp_path, after(2))
    monkeypatch.undo()
    assert_same(load_latest(tmp_path), after(1))


def test_older_ones_go_only_after_the_new_one_is_durable(tmp_path, monkeypatch):
    for number in (1, 2):
        save_checkpoint(tmp_path, after(number))
    seen = []
    real = checkpoint.replace_durably

    def watched(source, target):
        seen.append(names(tmp_path))
        real(source, target)

    monkeypatch.setattr(checkpoint, "replace_durably", watched)
    save_checkpoint(tmp_path, after(3))
    assert seen == [["round-00001.safetensors", "round-00002.safetensors", "round-00003.part"]]


def test_content_and_name_are_flushed_to_the_disk(tmp_path, disk_steps):
    save_checkpoint(tmp_path, after(1))
    size = (tmp_path / "round-00001.safetensors").stat().st_size
    assert disk_steps == [("file", size), "rename", "folder"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_is_refused_before_anything_is_written(tmp_path, value):
    save_checkpoint(tmp_path, after(1))
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path, after(2, baseline=value))
    assert names(tmp_path) == ["round-00001.safetensors"]


class TestADamagedFileIsRefused:
    @pytest.fixture
    def path(self, tmp_path):
        for number in (1, 2):
            save_checkpoint(tmp_path, after(number))
        return tmp_path / "round-00002.safetensors"

    def refused(self, path, match="cannot be read"):
        with pytest.raises(RunFolderError, match=match) as caught:
            load_latest(path.parent)
        return str(caught.value)

    @pytest.mark.parametrize("keep", [0, 4, 60, -1])
    def test_cut(self, path, keep):
        path.write_bytes(path.read_bytes()[:keep])
        assert str(path) in self.refused(path)

    def test_another_file(self, path):
        path.write_bytes(b"not a checkpoint at all" * 10)
        self.refused(path)

    def test_extended(self, path):
        path.write_bytes(path.read_bytes() + b"more")
        self.refused(path)

    @pytest.mark.parametrize(
        "metadata",
        [
            None,
            {"schema": "5", "round": "2"},
            {"schema": "5", "round": "two", "record": "{}"},
            {"round": "2", "record": "{}"},
            {"schema": "5", "round": "2", "record": "{"},
        ],
    )
    def test_without_its_metadata(self, path, metadata):
        save_file(load_file(path), path, metadata=metadata)
        self.refused(path)

    def test_without_its_state(self, path):
        metadata = {"schema": "5", "round": "2", "record": "{}"}
        save_file({"other": np.zeros(1, np.float32)}, path, metadata=metadata)
        self.refused(path)

    def test_of_another_schema(self, path):
        metadata = {"schema": "1", "round": "2", "record": json.dumps({})}
        save_file(load_file(path), path, metadata=metadata)
        self.refused(path, match="schema must be 5, got 1; resume the run with the privfed that")

    def test_removing_it_goes_back_to_the_one_before(self, path):
        path.write_bytes(b"")
        assert "remove it to go on from the one before" in self.refused(path)
        path.unlink()
        assert_same(load_latest(path.parent), after(1))
