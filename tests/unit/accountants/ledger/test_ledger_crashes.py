"""Killed writers and writers at the same time: nothing that may have left goes uncounted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import accountants

WRITERS = Path(__file__).with_name("ledger_writers.py")


def run_writers(mode, folder, *arguments):
    """What `ledger_writers.py` saw, run in a process of its own."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(accountants.__file__).parents[1]),
    }
    finished = subprocess.run(
        [sys.executable, WRITERS, mode, folder, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_a_writer_killed_at_any_moment_loses_nothing_it_was_told(tmp_path):
    seen = run_writers("kill_at_random", tmp_path, 140, 1)
    assert seen["errors"] == []
    assert seen["lost"] == []
    assert seen["kills"] == 140
    assert seen["told"] >= 140
    assert seen["unfinished"] >= 5  # killed within a transaction, its journal left behind


def test_two_writers_killed_at_any_moment_lose_nothing_they_were_told(tmp_path):
    seen = run_writers("kill_at_random", tmp_path, 40, 2)
    assert seen["errors"] == []
    assert seen["lost"] == []
    assert seen["kills"] == 80
    assert seen["told"] >= 80


def test_a_writer_killed_before_each_statement_loses_nothing_it_was_told(tmp_path):
    seen = run_writers("kill_everywhere", tmp_path)
    assert seen["errors"] == []
    assert seen["lost"] == []
    assert seen["kills"] >= 30
    assert seen["unfinished"] >= 3


def test_after_any_kill_the_second_place_covers_all_that_was_told(tmp_path):
    seen = run_writers("kill_at_random_with_anchors", tmp_path, 60, 1)
    assert seen["errors"] == []
    assert seen["lost"] == []
    assert seen["kills"] == 60
    assert seen["told"] >= 60


def test_after_any_kill_of_two_writers_the_second_place_covers_all_that_was_told(tmp_path):
    seen = run_writers("kill_at_random_with_anchors", tmp_path, 20, 2)
    assert seen["errors"] == []
    assert seen["lost"] == []
    assert seen["kills"] == 40
    assert seen["told"] >= 40


def test_a_kill_before_each_step_in_either_place_loses_nothing_and_locks_nobody_out(tmp_path):
    seen = run_writers("kill_everywhere_with_anchors", tmp_path)
    assert seen["errors"] == []
    assert seen["lost"] == []
    assert seen["kills"] >= 80
    assert seen["behind"] == 2  # killed between ledger and anchor, of a reservation and a commit


def test_two_processes_never_both_get_a_budget_for_one(tmp_path):
    outcomes = run_writers("race", tmp_path, 8)
    assert outcomes == [[["admitted", "refused"], 1]] * 8


def test_two_processes_write_to_one_ledger_and_lose_nothing(tmp_path):
    told, runs, events, files = run_writers("share", tmp_path, 2, 8)
    assert (told, runs, events) == (2 * (1 + 2 * 8), 2, 16)
    assert files == ["ledger"]


def test_eight_processes_write_to_one_ledger_and_its_second_place(tmp_path):
    told, runs, events, last_is_kept = run_writers("share_with_anchors", tmp_path, 8, 5)
    assert (told, runs, events) == (8 * (1 + 2 * 5), 8, 40)
    assert last_is_kept
