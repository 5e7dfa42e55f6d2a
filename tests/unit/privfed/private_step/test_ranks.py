"""Several processes take one client's private steps as one process would."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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
