"""What a node last wrote of itself."""

import os
import time

import pytest

from privfed.engines.machines.status import keep_status, status_of
from privfed.errors import FileError


def test_it_is_read_as_it_was_written(tmp_path):
    before = time.time()
    keep_status(tmp_path, {"what": "round", "round": 3, "epsilon": 1.25})
    found = status_of(tmp_path)
    assert (found["what"], found["round"], found["epsilon"]) == ("round", 3, 1.25)
    assert found["process"] == os.getpid()
    assert before <= found["at"] <= time.time()


def test_the_last_counts(tmp_path):
    keep_status(tmp_path, {"round": 1})
    keep_status(tmp_path, {"round": 2})
    assert status_of(tmp_path)["round"] == 2


def test_where_there_is_none(tmp_path):
    assert status_of(tmp_path) is None
    (tmp_path / "node.json").write_text("{")
    assert status_of(tmp_path) is None


def test_where_it_cannot_be_written(tmp_path):
    with pytest.raises(FileError, match="node.json must be writable"):
        keep_status(tmp_path / "none", {"round": 1})
