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
from privfed import Custody, adapter_folder, results
from privfed.client import dpsgd
from privfed.run_folder import RunFolder
from privfed.server import checkpoint

POINTS = [
    (Ledger, "reserve"),
    (dpsgd, "private_step"),
    (Ledger, "commit"),
    (results, "save_adapter"),
    (adapter_folder, "file_digest"),
    (RunFolder, "write_json"),
    (RunFolder, "write_text"),
    (checkpoint, "replace_durably"),
    (RunFolder, "save"),
]


def main(folder, bert, trials, seed):
    """Begin and kill `trials` runs, in folders that are named by their number."""
    choose = random.Random(seed)
    for number in range(trials):
        own = folder / str(number)
        own.mkdir()
        point, count = POINTS[number % len(POINTS)], choose.randrange(2, 16)
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
    """Five clients, four rounds."""
    whole = federation(folder, bert, Custody.SHARED_KEY, 1)
    return replace(whole, rounds=4, anchor_folder=folder / "anchors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
