"""Several processes take one client's private steps as one process would."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from privfed.errors import ConfigError
from privfed.private_step.ranks import Alone, require_alike
from tests.unit.privfed.private_step.rank_process import trained

ROOT = Path(__file__).parents[4]


def started(tmp_path, base, records, keys=(1, 1, 1)):
    """One process for each number of records."""
    processes = []
    for rank, count in enumerate(records):
        numbers = [str(rank), str(len(records))]
        held = [str(count), str(keys[rank])]
        paths = [str(tmp_path / "store"), base, str(tmp_path / f"{rank}.npz")]
        command = [
            sys.executable,
            "-m",
            "tests.unit.privfed.private_step.rank_process",
            *numbers,
            *paths,
            *held,
        ]
        processes.append(
            subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        )
    return [(process.communicate(timeout=120)[1], process.returncode) for process in processes]


@pytest.mark.parametrize("size", [2, 3])
def test_all_processes_end_with_the_adapter_of_one(size, llama_folder, tmp_path):
    ended = started(tmp_path, llama_folder, [9] * size)
    assert [code for _, code in ended] == [0] * size, ended
    left = [np.load(tmp_path / f"{rank}.npz") for rank in range(size)]
    for other in left[1:]:
        np.testing.assert_array_equal(left[0]["adapter"], other["adapter"])
        np.testing.assert_array_equal(left[0]["shared"], other["shared"])
    alone = trained(llama_folder)
    np.testing.assert_allclose(left[0]["adapter"], alone, rtol=1e-5, atol=1e-7)
    assert len(set(left[0]["shared"])) > 1


@pytest.mark.parametrize(("records", "keys"), [([9, 8], (1, 1)), ([9, 9], (1, 3))])
def test_processes_with_different_records_or_streams_are_refused(
    records, keys, llama_folder, tmp_path
):
    """They would draw different batches, and count some records twice."""
    for printed, code in started(tmp_path, llama_folder, records, keys):
        assert code == 1
        assert "must hold the same records, settings and secret streams" in printed


CPU = torch.device("cpu")
HELD = [torch.arange(6.0), torch.tensor([[1, 2], [3, 4]])]


class Recorder:
    """A process that only writes down what it passes to the others."""

    rank, size = 1, 2

    def __init__(self):
        self.passed = []

    def add_up(self, sums):
        self.passed.append(sums.clone())


def passed_by(data, tensors):
    """What a process that holds these passes to the others."""
    other = Recorder()
    with pytest.raises(ConfigError):  # nobody added anything to what it passed
        require_alike(other, data, tensors, CPU)
    return other.passed


class Beside:
    """The first of two processes, beside one that holds these."""

    rank, size = 0, 2

    def __init__(self, data, tensors):
        self.passed = iter(passed_by(data, tensors))

    def add_up(self, sums):
        sums += next(self.passed)


def test_processes_that_hold_the_same_are_alike():
    require_alike(Beside(b"settings", HELD), b"settings", HELD, CPU)


@pytest.mark.parametrize(
    ("data", "tensors"),
    [
        (b"Settings", HELD),
        (b"settings", HELD[:1]),
        (b"settings", HELD[::-1]),
        (b"settings", [HELD[0], HELD[1].T]),
        (b"settings", [HELD[0], HELD[1].flatten()]),
        (b"settings", [HELD[0].double(), HELD[1]]),
        (b"settings", [torch.nextafter(HELD[0], torch.tensor(9.0)), HELD[1]]),
    ],
    ids=["data", "fewer", "order", "transposed", "shape", "type", "last bit"],
)
def test_whatever_differs_is_refused(data, tensors):
    with pytest.raises(ConfigError, match="must hold the same records"):
        require_alike(Beside(b"settings", HELD), data, tensors, CPU)


def test_only_a_digest_passes_between_processes():
    """The records themselves are private."""
    assert [len(sums) for sums in passed_by(b"settings", HELD)] == [32, 32]


def test_a_process_alone_takes_every_record_and_its_own_sums():
    sums = torch.tensor([1.5, -2.0])
    Alone().add_up(sums)
    assert sums.tolist() == [1.5, -2.0]
    assert list(range(5))[Alone.rank :: Alone.size] == list(range(5))
    require_alike(Alone(), b"whatever", [torch.tensor(float("nan"))], CPU)
