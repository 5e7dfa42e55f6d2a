"""The tests notice what would make epsilon wrong: each fault is planted in a copy of the package.

Each case changes one place, runs the tests named beside it on the copy, and requires them to fail;
one run on an unchanged copy must pass, so that a failure has its cause in the fault.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import accountants

HERE = Path(__file__).parent
PACKAGE = Path(accountants.__file__).parent
GOLDEN = "test_golden_values.py"

FAULTS = {
    "dropped round": (
        "histories.py",
        "total[one] = total.get(one, 0) + event.steps",
        "total[one] = max(total.get(one, 0), event.steps)",
        "test_histories.py",
    ),
    "one step too few": (
        "analyses/composition.py",
        "return cls(tuple(steps), tuple(counts), tail, sketches)",
        "return cls(tuple(steps), tuple(max(n - 1, 1) for n in counts), tail, sketches)",
        GOLDEN,
    ),
    "count not added": (
        "analyses/noised_counts.py",
        "return (counts_epsilon + rest) * (1 + _ROUNDING) if counts_epsilon else rest",
        "return max(counts_epsilon, rest)",
        "analyses/test_noised_counts.py",
    ),
    "halved sensitivity": (
        "analyses/sensitivity.py",
        "2.0 if neighbouring is Neighbouring.REPLACE_ONE else 1.0",
        "1.0",
        GOLDEN,
    ),
    "swapped q and sigma": (
        "analyses/reduction.py",
        "noise, q = event.noise_multiplier, event.sample_rate",
        "q, noise = min(event.noise_multiplier, 1.0), event.sample_rate",
        GOLDEN,
    ),
    "wrong direction": (
        "analyses/composition.py",
        "forward = [each.forward for each in found]",
        "forward = [each.backward for each in found]",
        GOLDEN,
    ),
    "cells lifted without the mass for it": (
        "analyses/lattices.py",
        "masses[:-1] += short",
        "masses[1:] += short",
        "analyses/test_lattices.py",
    ),
    "bounds exchanged": (
        "analyses/lattices.py",
        "masses[1:] += inflated[1:-1] * np.minimum(share + doubt, 1.0)",
        "masses[1:] += inflated[1:-1] * np.minimum(1 - share + doubt, 1.0)",
        GOLDEN,
    ),
    "law above merged instead of spread": (
        "analyses/sums.py",
        "masses = np.append(down / widths, 0.0) + np.append(0.0, up / widths)",
        "masses = np.append((up + down) / widths, 0.0)",
        "analyses/test_sums.py",
    ),
    "likelihood ratio of an epoch too small": (
        "analyses/allocation.py",
        "ratios = law.values[used] / law.count\n    return",
        "ratios = law.values[used] / law.count * 0.99\n    return",
        "analyses/test_allocation.py",
    ),
    "corners of the trade-off curve rounded up": (
        "gaussian_dp.py",
        "return min(lines) - 16 * ULP",
        "return max(lines) + 1e-3 * rate",
        "test_gaussian_dp.py",
    ),
    "uncommitted reservation ignored": (
        "ledger/book.py",
        "counted.extend(reservation.planned if",
        "reservation.id in self.commits and counted.extend(reservation.planned if",
        "ledger/test_book.py",
    ),
    "kept anchor not looked at": (
        "ledger/transactions.py",
        "                self._anchors.check(book)\n",
        "                pass\n",
        "ledger/test_anchors.py",
    ),
    "copies of one ledger not told apart": (
        "ledger/anchors.py",
        "            self.check(book)\n",
        "",
        "ledger/test_anchors.py",
    ),
    "anchor written too late": (
        "ledger/transactions.py",
        "                        second_place.enter_context(keeping)",
        "                        keeping.__enter__()",
        "ledger/test_anchors.py",
    ),
    "deleted ledger starts at zero": (
        "ledger/anchors.py",
        "if id_ is None or path.exists():",
        "if True:",
        "ledger/test_anchors.py",
    ),
}


def outcome(folder, tests):
    """Exit code of pytest on some tests, with the package in `folder` in front of all others."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-p",
        "which_package",
    ]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [*command, "--import-mode=importlib", *(str(HERE / name) for name in tests)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert str(folder / "accountants") in done.stdout, done.stdout
    return done.returncode


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "accountants")
    (tmp_path / "which_package.py").write_text(
        "import accountants\n\n\ndef pytest_sessionfinish():\n    print(accountants.__file__)\n"
    )
    return tmp_path


def test_the_unchanged_copy_passes(copy):
    assert outcome(copy, sorted({fault[3] for fault in FAULTS.values()})) == 0


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_noticed(copy, name):
    file, right, wrong, tests = FAULTS[name]
    path = copy / "accountants" / file
    text = path.read_text()
    assert text.count(right) == 1, f"{file} no longer holds the line that this fault changes"
    path.write_text(text.replace(right, wrong))
    assert outcome(copy, [tests]) == 1
