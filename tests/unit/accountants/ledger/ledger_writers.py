"""Writes to ledgers from several processes, kills some of them, and prints what it saw as JSON.

Run as a script, so that it forks from a process with one thread and everything imported: 200 kills
take seconds. Each child tells its parent, through a pipe, after each call that returned.
"""

import fcntl
import hashlib
import json
import os
import random
import select
import signal
import sqlite3
import sys
import time
from pathlib import Path

from accountants import (
    AnchorFolder,
    BudgetExceededError,
    Ledger,
    LedgerError,
    Neighbouring,
    PoissonGaussian,
)

OWNER = {
    "client": "ward",
    "dataset": "notes",
    "unit": "one note",
    "neighbouring": Neighbouring.ADD_REMOVE,
}
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


def write_rounds(ledger, run, write, rounds=10_000):
    """Reserve, commit, send, and say so: what is told after a commit is the digest of what left."""
    for number in range(rounds):
        reservation = ledger.reserve(run, number, [PLANNED], lambda *_: None)
        write(f"reserve {number}")
        message = outgoing(run, number)
        ledger.commit(reservation.id, [RAN], message)
        write(f"commit {number} {hashlib.sha256(message).hexdigest()}")


def steps_of(ledger, run):
    """What the ledger holds of a run, as its writer would have told it."""
    rounds, lines = {}, []
    for entry in ledger.export()["entries"][1:]:
        body = entry["body"]
        if entry["kind"] == "reserve" and body["run"] == run:
            rounds[entry["seq"]] = body["round"]
            lines.append(f"reserve {body['round']}")
        if entry["kind"] == "commit" and body["reservation"] in rounds:
            number = rounds[body["reservation"]]
            lines.append(f"commit {number} {body['outgoing_sha256']}")
    return lines


def next_step(run, lines):
    """What a writer that told these lines does next."""
    number = len(lines) // 2
    if len(lines) % 2 == 0:
        return f"reserve {number}"
    return f"commit {number} {hashlib.sha256(outgoing(run, number)).hexdigest()}"


def counted(lines):
    """The events that must count after these steps: the last may be a reservation alone."""
    return (RAN,) * (len(lines) // 2) + (PLANNED,) * (len(lines) % 2)


def second_place(folder):
    """Apart from the ledgers, as in a run."""
    return AnchorFolder(folder / "second")


class Watch:
    """Compares ledgers with what their writers told before they were killed.

    With a second place, an anchor must cover all that was told, and the ledger must continue it.
    """

    def __init__(self, second=None):
        self.seen = {"kills": 0, "told": 0, "unfinished": 0, "ahead": 0, "lost": [], "errors": []}
        self.seen["behind"] = 0
        self.anchors = {}
        self.second = second

    def kill(self, child):
        os.kill(child, signal.SIGKILL)
        self.reap(child)

    def reap(self, child):
        """Wait for a child; whether it was killed."""
        _, status = os.waitpid(child, 0)
        self.seen["kills"] += os.WIFSIGNALED(status)
        return os.WIFSIGNALED(status)

    def check(self, path, told):
        """The ledger holds, of each run, what was told, and at most the step that was cut short."""
        self.seen["unfinished"] += Path(f"{path}-journal").exists()
        self.seen["told"] += sum(map(len, told.values()))
        try:
            if self.second is not None:
                self.check_second_place(path, told)
            ledger = Ledger.open_or_create(path, **OWNER, anchors=self.second)
            self.anchors[path] = ledger.verify(self.anchors.get(path))
            for run, lines in told.items():
                self.check_run(ledger, run, lines)
        except LedgerError as error:
            self.seen["errors"].append(repr(error))

    def check_second_place(self, path, told):
        """Before anybody opens the ledger, which would bring the second place up to it."""
        if not path.exists():
            return
        ledger = Ledger.inspect(path)
        kept = self.second.find(ledger.id)
        before = self.anchors.get(path)
        least = (0 if before is None else before.length) + sum(map(len, told.values()))
        if kept is None:
            self.seen["lost"] += [f"{path}: no anchor, told {told}"] if least else []
            return
        if kept.anchor.length < least:
            self.seen["lost"].append(f"{path}: {kept.anchor.length} kept, {least} told")
        self.seen["behind"] += ledger.verify(kept.anchor) != kept.anchor

    def check_run(self, ledger, run, lines):
        held = steps_of(ledger, run)
        ahead = held != lines
        self.seen["ahead"] += ahead
        if ahead and held != [*lines, next_step(run, lines)]:
            self.seen["lost"].append(f"{run}: told {lines[-2:]}, held {held[-2:]}")
        if ledger.events(run) != counted(held):
            self.seen["lost"].append(f"{run}: {ledger.events(run)[-2:]} counts for {held[-2:]}")
        last = len(held) // 2 - 1
        if last >= 0 and ledger.outgoing(run, last) != outgoing(run, last):
            self.seen["lost"].append(f"{run}: the bytes of round {last}")


def kill_at_random(folder, trials, writers, second=None):
    """Kill writers at random moments, again and again, on ledgers that go on being used."""
    watch, moments = Watch(second), random.Random(7 + writers)
    for trial in range(trials):
        path = folder / f"ledger{trial // 10}"
        if trial % 10 == 0:
            watch.anchors[path] = Ledger.create(path, **OWNER, anchors=second).anchor()

        def work(write, run, path=path):
            write_rounds(Ledger.open(path, **OWNER, anchors=second), run, write)

        runs = [f"run{trial}.{writer}" for writer in range(writers)]
        children = [fork(lambda write, run=run: work(write, run)) for run in runs]
        pipes = [reading for _, reading in children]
        for number, (child, _) in enumerate(children):
            # On a busy machine they take a while to begin; one may keep the others waiting.
            select.select(pipes[number:], [], [], 30)
            time.sleep(moments.uniform(0.004, 0.1))
            watch.kill(child)
        told_by = {run: told(pipe) for run, (_, pipe) in zip(runs, children, strict=True)}
        watch.check(path, told_by)
    return watch.seen


def kill_before_statement(path, number, write):
    """Make a ledger and write one round; die just before the `number`-th SQL statement."""
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
    ledger = Ledger.create(path, **OWNER)
    write("made")
    write_rounds(ledger, "run", write, rounds=1)


def kill_everywhere(folder):
    """Die before each SQL statement of creating, reserving and committing, in turn."""
    watch, number, killed = Watch(), 0, True
    while killed:
        path = folder / f"ledger{number}"
        child, pipe = fork(lambda write, at=(path, number): kill_before_statement(*at, write))
        killed = watch.reap(child)
        lines = told(pipe)
        if lines or path.exists():
            watch.check(path, {"run": lines[1:]})
        number += 1
    return watch.seen


def kill_at_random_with_anchors(folder, trials, writers):
    """The same, with a second place."""
    return kill_at_random(folder, trials, writers, second_place(folder))


def kill_before_call(path, second, number, write):
    """Make a ledger and write one round; die just before the `number`-th step of any kind.

    A step is an SQL statement, or a call of the system that the two places are written by.
    """
    left, connect = [number], sqlite3.connect

    def count(*_):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def traced(*args, **options):
        connection = connect(*args, **options)
        connection.set_trace_callback(count)
        return connection

    def counted(call):
        def counting(*args, **options):
            count()
            return call(*args, **options)

        return counting

    sqlite3.connect = traced
    for module, names in ((os, ("open", "fsync", "replace", "link", "mkdir")), (fcntl, ("flock",))):
        for name in names:
            setattr(module, name, counted(getattr(module, name)))
    ledger = Ledger.create(path, **OWNER, anchors=second)
    write("made")
    write_rounds(ledger, "run", write, rounds=1)


def kill_everywhere_with_anchors(folder):
    """Die before each step of creating, reserving and committing in both places, in turn."""
    number, killed, watch = 0, True, Watch()
    while killed:
        place = folder / str(number)
        path, watch.second = place / "ledgers" / "ledger", second_place(place)

        def work(write, at=(path, watch.second, number)):
            kill_before_call(*at, write)

        child, pipe = fork(work)
        killed = watch.reap(child)
        watch.check(path, {"run": told(pipe)[1:]})
        number += 1
    return watch.seen


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


def share(folder, processes, rounds, second=None):
    """Several processes create one ledger at the same time, and write to it."""
    path = folder / "ledger"

    def work(write):
        ledger = Ledger.open_or_create(path, **OWNER, anchors=second)
        write("opened")
        write_rounds(ledger, f"run{os.getpid()}", write, rounds)

    children = [fork(work) for _ in range(processes)]
    lines = [line for child, reading in children for line in told(reading)]
    for child, _ in children:
        os.waitpid(child, 0)
    ledger = Ledger.open(path, **OWNER)
    return [len(lines), len(ledger.runs()), len(ledger.events()), os.listdir(folder)]


def share_with_anchors(folder, processes, rounds):
    """The same, with a second place; and what it holds in the end."""
    second = second_place(folder)
    lines, runs, events, _ = share(folder, processes, rounds, second)
    ledger = Ledger.inspect(folder / "ledger")
    kept = second.find(ledger.id)
    return [lines, runs, events, kept is not None and kept.anchor == ledger.anchor()]


if __name__ == "__main__":
    modes = {
        f.__name__: f
        for f in (
            kill_at_random,
            kill_at_random_with_anchors,
            kill_everywhere,
            kill_everywhere_with_anchors,
            race,
            share,
            share_with_anchors,
        )
    }
    print(json.dumps(modes[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:]))))
