"""Several processes take one client's private steps as one process would."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.contracts.rank_process import trained

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("size", [2, 3])
def test_all_processes_end_with_the_adapter_of_one(size, llama_folder, tmp_path):
    processes = []
    for rank in range(size):
        paths = [str(tmp_path / "store"), llama_folder, str(tmp_path / f"{rank}.npz")]
        command = [sys.executable, "-m", "tests.contracts.rank_process", str(rank), str(size)]
        processes.append(
            subprocess.Popen(
                [*command, *paths],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    assert [process.wait(timeout=120) for process in processes] == [0] * size
    left = [np.load(tmp_path / f"{rank}.npz") for rank in range(size)]
    for other in left[1:]:
        np.testing.assert_array_equal(left[0]["adapter"], other["adapter"])
        np.testing.assert_array_equal(left[0]["shared"], other["shared"])
    alone = trained(llama_folder)
    np.testing.assert_allclose(left[0]["adapter"], alone, rtol=1e-5, atol=1e-7)
    assert len(set(left[0]["shared"])) > 1
