"""What a run leaves at a node: report, ledger export and adapter, as any run folder has them."""

import json
import stat
from dataclasses import replace

import numpy as np
import pytest

from privfed import FedAvg, TailAveraging
from privfed.engines.machines.own_results import OwnResults
from privfed.errors import FileError
from privfed.methods.method import vector_digest
from privfed.models.vector import read_vector, write_vector
from privfed.storage.checkpoint import load_latest
from privfed.storage.run_folder import ledger_file_name
from tests.unit.privfed.engines.machines.beside import begun

ME = "client-1"
LEDGER = ledger_file_name(ME)
FILES = {
    *("adapter", "checkpoints", "ledgers", "report.html", "report.json"),
    *("run.json", "start.safetensors"),
}


@pytest.fixture
def settings():
    """Of the run, beside those that all tests have."""
    return {}


@pytest.fixture
def kept(beside, monkeypatch, settings):
    """A run of two rounds, and what its clients had kept of it, by client."""
    made, given = beside(**settings), {}

    def write(self, report, record, export, progress):
        given[report.clients[0].id] = (self, report, record, export, progress)

    with monkeypatch.context() as patched:
        patched.setattr(OwnResults, "write", write)
        made.prepared()
        hub = begun(made.hub())
        hub.play()
        hub.finish()
    return made, given


def test_all_of_it_of_one_moment(kept):
    made, given = kept
    results, *what = given[ME]
    _, report, record, export, progress = given[ME]
    assert results.folder == made.results(ME)
    assert not results.folder.exists(), "nothing was written before"
    results.write(*what)
    assert {path.name for path in results.folder.iterdir()} == FILES
    assert stat.S_IMODE(results.folder.stat().st_mode) == 0o700
    read = {
        name: json.loads((results.folder / name).read_text())
        for name in ("report.json", "run.json", LEDGER, "adapter/privfed.json")
    }
    assert read["report.json"] == json.loads(report.to_json())
    assert read[LEDGER] == export
    assert read["adapter/privfed.json"]["adapter_sha256"] == report.adapter_sha256
    assert (results.folder / "start.safetensors").read_bytes() == results.start
    assert report.status in (results.folder / "run.json").read_text()
    checkpoint = load_latest(results.folder / "checkpoints")
    assert checkpoint.round == progress.round == 2
    assert checkpoint.record == json.loads(json.dumps(record.to_json()))
    assert checkpoint.tensors.keys() == progress.state.tensors().keys()
    assert np.array_equal(read_vector(results.model.adapter), progress.state.adapter)
    assert record.run == report.run

    (results.folder / "report.json").write_text("older")
    results.write(*what)
    assert json.loads((results.folder / "report.json").read_text()) == read["report.json"]
    assert {path.name for path in results.folder.iterdir()} == FILES


class TestOfAnAverage:
    @pytest.fixture
    def settings(self):
        return {"method": TailAveraging(of=FedAvg())}

    def test_the_adapter_is_the_one_that_the_method_leaves(self, kept):
        _, given = kept
        results, *what = given[ME]
        _, report, _, _, progress = given[ME]
        write_vector(results.model.adapter, progress.state.adapter + 1)
        results.write(*what)
        left = results.settings.method.left(progress.state)
        assert not np.array_equal(left, progress.state.adapter)
        assert np.array_equal(read_vector(results.model.adapter), left)
        described = json.loads((results.folder / "adapter/privfed.json").read_text())
        assert described["adapter_sha256"] == report.adapter_sha256 == vector_digest(left)


def test_a_run_that_was_stopped_is_not_called_complete(kept):
    _, given = kept
    results, report, *more = given[ME]
    inner = replace(results, folder=results.folder / "a folder in one that is not there")
    inner.write(replace(report, status="stopped before round 2"), *more)
    assert "stopped before round 2" in (inner.folder / "run.json").read_text()


def test_a_folder_that_cannot_be_written(kept):
    _, given = kept
    results, *what = given[ME]
    results.folder.write_text("a file in its place")
    with pytest.raises(FileError, match="results-client-1"):
        results.write(*what)
