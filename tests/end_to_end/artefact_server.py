"""Begins one small federation after another, each in a folder of its own, and kills every one.

Started by `test_artefacts.py` as a process of its own, as `crash_server.py` is: it imports
everything once, then forks. Each child dies by its own SIGKILL right before or right after one of
the calls between which the files of a run folder are of different moments.
"""

import os
import random
import sys
from dataclasses import replace
from pathlib import Path

from crash_server import arm, federation

from accountants import Ledger
from privfed import Custody
from privfed.private_step import dpsgd
from privfed.reports import adapter_folder, run_results
from privfed.storage import checkpoint
from privfed.storage.run_folder import RunFolder

POINTS = [
    (Ledger, "reserve", 9),
    (dpsgd, "private_step", 18),
    (Ledger, "commit", 9),
    (run_results, "save_adapter", 4),
    (adapter_folder, "file_digest", 12),
    (RunFolder, "write_json", 20),
    (RunFolder, "write_text", 8),
    (checkpoint, "replace_durably", 4),
    (RunFolder, "save", 4),
]
"""What is called when, and how often in a whole run."""


def main(folder, bert, trials, seed):
    """Begin and kill `trials` runs, in folders that are named by their number."""
    choose = random.Random(seed)
    for number in range(trials):
        own = folder / str(number)
        own.mkdir()
        owner, name, most = POINTS[number % len(POINTS)]
        point, count = (owner, name), choose.randint(2, most)
        before = choose.random() < 0.5
        child = os.fork()
        if child == 0:
            play(own, bert, point, count, before)
        os.waitpid(child, 0)


def play(folder, bert, point, count, before):
    """The child; never returns."""
    try:
        arm(point, count, before=before)
        small_run(folder, bert).run(folder / "run")
    finally:
        os._exit(1)


def small_run(folder, bert):
    """Three clients, three rounds of two steps."""
    whole = federation(folder, bert, Custody.SHARED_KEY, 1)
    return replace(whole, clients=whole.clients[:3], rounds=3, anchor_folder=folder / "anchors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
