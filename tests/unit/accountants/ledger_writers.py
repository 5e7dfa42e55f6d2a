"""Writes to ledgers from several processes, kills some of them, and prints what it saw as JSON.

Run as a script, so that it forks from a process with one thread and everything imported: 50 kills
take seconds. Each child tells its parent, through a pipe, after each call that returned.
"""

import json
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path

from accountants import BudgetExceededError, Ledger, LedgerError, PoissonGaussian

OWNER = {"client": "ward", "dataset": "notes", "description": "training split"}
PLANNED = PoissonGaussian(noise_multiplier=4.0, sample_rate=0.5, steps=8)
RAN = PoissonGaussian(noise_multiplier=4.0, sample_rate=0.5, steps=5)


def outgoing(run, number):
    """The message of a round: large enough that writing it takes a while."""
    return random.Random(f"{run}/{number}").randbytes(300_000)


def fork(work):
    """Run `work(write)` in a child; its process id and the end of the pipe to read from."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    os.close(reading)
    try:
        work(lambda line: os.write(writing, f"{line}\n".encode()))
    finally:
        os._exit(0)


def told(reading):
    with os.fdopen(reading) as pipe:
        return pipe.read().splitlines()


def write_rounds(path, run, write, rounds=10_000):
    ledger = Ledger.open(path, **OWNER)
    for number in range(rounds):
        reservation = ledger.reserve(run, number, [PLANNED], lambda *_: None)
        write(f"reserved {number}")
        ledger.commit(reservation.id, [RAN], outgoing(run, number))
        write(f"committed {number}")


def uncounted(ledger, run, lines):
    """What a child was told is durable and the ledger does not count."""
    lost = []
    for line in lines:
        state, number = line.split()[0], int(line.split()[1])
        found = ledger.status(run, number)
        if found is None or (state == "committed" and found != "committed"):
            lost.append(line)
    last = [int(line.split()[1]) for line in lines if line.startswith("committed")][-1:]
    for number in last:
        sent_later = ledger.status(run, number + 1) == "committed"
        if not sent_later and ledger.outgoing(run, number) != outgoing(run, number):
            lost.append(f"bytes of {number}")
    return lost


def check(path, run, lines, seen):
    """Open, which verifies, and compare with what the child said."""
    seen["unfinished"] += Path(f"{path}-journal").exists()
    try:
        ledger = Ledger.open(path, **OWNER)
        seen["lost"] += uncounted(ledger, run, lines)
        reserved = sum(line.startswith("reserved") for line in lines)
        if sum(event.steps for event in ledger.events(run)) < reserved * RAN.steps:
            seen["lost"].append(f"steps of {run}")
    except LedgerError as error:
        seen["errors"].append(repr(error))


def kill_at_random(folder, kills):
    """Kill a writer at a random moment, again and again, on ledgers that go on being used."""
    seen = {"kills": 0, "told": 0, "unfinished": 0, "lost": [], "errors": []}
    moments = random.Random(7)
    for trial in range(kills):
        path = folder / f"ledger{trial // 10}"
        if trial % 10 == 0:
            Ledger.create(path, **OWNER)
        run = f"run{trial}"
        child, reading = fork(lambda write, path=path, run=run: write_rounds(path, run, write))
        time.sleep(moments.uniform(0.005, 0.12))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        seen["kills"] += os.WIFSIGNALED(status)
        lines = told(reading)
        seen["told"] += len(lines)
        check(path, run, lines, seen)
    return seen


def kill_before_statement(path, run, number, write):
    """Write one round; die just before the `number`-th SQL statement."""
    left, connect = [number], sqlite3.connect

    def count(_):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def traced(*args, **options):
        connection = connect(*args, **options)
        connection.set_trace_callback(count)
        return connection

    sqlite3.connect = traced
    write_rounds(path, run, write, rounds=1)


def kill_everywhere(folder):
    """Die before each SQL statement of opening, reserving and committing, in turn."""
    seen = {"kills": 0, "told": 0, "unfinished": 0, "lost": [], "errors": []}
    path, number, killed = folder / "ledger", 0, True
    Ledger.create(path, **OWNER)
    while killed:
        run = f"run{number}"
        child, reading = fork(
            lambda write, run=run, number=number: kill_before_statement(path, run, number, write)
        )
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        seen["kills"] += killed
        lines = told(reading)
        seen["told"] += len(lines)
        check(path, run, lines, seen)
        number += 1
    return seen


def race(folder, rounds):
    """Two processes reserve at once where the budget is for one; who got it, per round."""

    def only_one(history, planned):
        time.sleep(0.02)
        if history:
            raise BudgetExceededError("full", epsilon=2.0, allowed=1.0)

    outcomes = []
    for number in range(rounds):
        path = folder / f"ledger{number}"
        Ledger.create(path, **OWNER)
        gate_out, gate_in = os.pipe()

        def compete(write, path=path, gate_out=gate_out):
            ledger = Ledger.open(path, **OWNER)
            os.read(gate_out, 1)
            try:
                ledger.reserve(f"run{os.getpid()}", 0, [PLANNED], only_one)
                write("admitted")
            except BudgetExceededError:
                write("refused")

        children = [fork(compete) for _ in range(2)]
        time.sleep(0.03)
        os.write(gate_in, b"go")
        lines = [line for child, reading in children for line in told(reading)]
        for child, _ in children:
            os.waitpid(child, 0)
        os.close(gate_in)
        os.close(gate_out)
        outcomes.append([sorted(lines), len(Ledger.open(path, **OWNER).events())])
    return outcomes


def share(folder, rounds):
    """Two processes write to one ledger, and two create one at the same time."""
    path = folder / "ledger"

    def work(write):
        ledger = Ledger.open_or_create(path, **OWNER)
        write("opened")
        write_rounds(ledger.path, f"run{os.getpid()}", write, rounds)

    children = [fork(work) for _ in range(2)]
    lines = [line for child, reading in children for line in told(reading)]
    for child, _ in children:
        os.waitpid(child, 0)
    ledger = Ledger.open(path, **OWNER)
    return [len(lines), len(ledger.runs()), len(ledger.events()), os.listdir(folder)]


if __name__ == "__main__":
    modes = {f.__name__: f for f in (kill_at_random, kill_everywhere, race, share)}
    print(json.dumps(modes[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:]))))
