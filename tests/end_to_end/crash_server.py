"""Runs one small federation again and again and kills it at random points, until it is done.

Started by `test_crash.py` as a process of its own: it imports everything once, then forks, so that
a trial costs a second. Each child either dies by its own SIGKILL right before or right after one
of the calls that make a round durable, or is killed from outside after a random time. What it does
meanwhile is written down for the test: every message with the numbers that it hides, and every sum
that was opened.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from accountants import Budget, Ledger, Neighbouring
from privfed import (
    BFV,
    Classification,
    Client,
    Computation,
    Custody,
    FedAvg,
    Federation,
    LoRA,
    Record,
    TailAveraging,
)
from privfed import PrivacyConfig as Privacy
from privfed import TrainingConfig as Training
from privfed.custody.round_key import RoundKeyCipher
from privfed.custody.shared_key import SharedKeyCipher
from privfed.engines import stacked
from privfed.parties.aggregator.collecting import Aggregator
from privfed.parties.aggregator.openers import ClientsAgree, HolderOpens
from privfed.parties.client.node import ClientNode
from privfed.private_step import dpsgd
from privfed.storage import checkpoint
from privfed.storage.run_folder import RunFolder
from privfed.storage.state_folder import ledger_path

POINTS = [
    (Ledger, "reserve"),
    (Ledger, "reserve"),
    (dpsgd, "private_step"),
    (Ledger, "commit"),
    (Ledger, "commit"),
    (Aggregator, "receive"),
    (Aggregator, "total"),
    (checkpoint, "save_file"),
    (checkpoint, "replace_durably"),
    (RunFolder, "save"),
    (RunFolder, "write_text"),
    (Ledger, "outgoing"),
    (ClientNode, "encrypt"),
]
STACKED_POINTS = [
    (stacked, "train_stacked") if name == "private_step" else (owner, name)
    for owner, name in POINTS
]
CUSTODY_POINTS = {
    Custody.SHARED_KEY: [
        (ClientNode, "answer"),
        (ClientsAgree, "close"),
        (SharedKeyCipher, "open"),
    ],
    Custody.KEY_HOLDER: [
        (HolderOpens, "begin"),
        (RoundKeyCipher, "accept_key"),
        (ClientNode, "answer"),
        (HolderOpens, "close"),
        (RoundKeyCipher, "open"),
    ],
}


CLIENTS = {
    "client-0": (20, 23, Budget(epsilon=4.0, delta=1e-3)),
    "client-1": (25, 18, Budget(epsilon=5.0, delta=2e-3)),
    "client-2": (17, 21, Budget(epsilon=4.5, delta=5e-4)),
    "client-3": (22, 29, Budget(epsilon=6.0, delta=4e-4)),
    "client-4": (19, 16, Budget(epsilon=3.5, delta=3e-3)),
}
"""True number of records, public size and budget of each: no number is that of two clients."""


def main(folder, bert, trials, seed, custody, together):
    """Kill `trials` times, then let the run finish; writes what happened to `trials.json`."""
    choose = random.Random(seed)
    points = (POINTS if together == 1 else STACKED_POINTS) + CUSTODY_POINTS[custody]
    outcomes = []
    while len(outcomes) < trials + 3:
        last = len(outcomes) >= trials
        timed = not last and len(outcomes) % 4 == 3
        point = None if last or timed else (choose.choice(points), choose.randrange(1, 7))
        before = choose.random() < 0.5
        child = os.fork()
        if child == 0:
            play(federation(folder, bert, custody, together), folder, point, before=before)
        if timed:
            time.sleep(choose.uniform(0.1, 1.0))
            os.kill(child, signal.SIGKILL)
        outcomes.append(os.waitpid(child, 0)[1])
        if outcomes[-1] == 0:
            break
    (folder / "trials.json").write_text(json.dumps(outcomes))


def play(federation, folder, point, *, before):
    """The child: start or resume the run, and die at the chosen point; never returns."""
    code = 1
    try:
        log_sent(folder)
        log_opened(folder)
        if point is not None:
            arm(*point, before=before)
        federation.run(folder / "run", resume=(folder / "run").exists())
        code = 0
    except Exception as error:  # noqa: BLE001 - the test reads what it was
        with (folder / "errors.txt").open("a") as file:
            file.write(f"{type(error).__name__}: {error}\n")
    finally:
        os._exit(code)


def arm(place, count, *, before):
    """Replace a function by one that kills this process at its `count`-th call."""
    owner, name = place
    real = getattr(owner, name)
    calls = 0

    def deadly(*arguments, **keywords):
        nonlocal calls
        calls += 1
        if calls == count and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **keywords)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def log_sent(folder):
    """Write every message that a client hands out to `sent/`, and what its ledger committed to."""
    (folder / "sent").mkdir(exist_ok=True)
    real, outgoing = ClientNode.encrypt, Ledger.outgoing

    def encrypt(self, terms, codec):
        message = real(self, terms, codec)
        committed = hashlib.sha256(outgoing(self.ledger, terms.run, terms.round)).hexdigest()
        name = f"{hashlib.sha256(message).hexdigest()}.{committed}"
        (folder / "sent" / name).write_bytes(message)
        return message

    ClientNode.encrypt = encrypt


def log_opened(folder):
    """Write every opened sum to `opened/`, with the sum of what its contributors committed."""
    (folder / "opened").mkdir(exist_ok=True)
    outgoing = Ledger.outgoing

    def watch(cipher):
        real = cipher.open

        def opened(self, terms, message):
            found = real(self, terms, message)
            numbers = []
            for client in found.contributors:
                ledger = Ledger.inspect(ledger_path(folder / "state", client, "d"))
                kept = outgoing(ledger, terms.run, terms.round)
                numbers.append(np.frombuffer(kept, dtype="<i2", offset=40).astype(np.int64))
            row = {
                "round": terms.round,
                "contributors": found.contributors,
                "message": hashlib.sha256(message).hexdigest(),
                "exact": bool(np.array_equal(found.values, np.sum(numbers, axis=0))),
            }
            with (folder / "opened" / f"{terms.run}.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            return found

        cipher.open = opened

    watch(SharedKeyCipher)
    watch(RoundKeyCipher)


def federation(folder, bert, custody, together):
    """Five clients, `together` of which train in one pass; fourteen rounds of two steps."""
    choose = random.Random(1)
    words = ["river", "stone", "market", "window", "garden", "engine"]

    def records(count):
        return tuple(
            Record(" ".join(choose.choices(words, k=4)), choose.randrange(2)) for _ in range(count)
        )

    return Federation(
        model=Classification(base=bert, labels=("a", "b"), max_length=8),
        clients=[
            Client(
                id=name,
                records=records(count),
                public_size=public_size,
                dataset="d",
                budget=budget,
            )
            for name, (count, public_size, budget) in CLIENTS.items()
        ],
        adapter=LoRA(rank=1, target_modules=("query",)),
        privacy=Privacy(
            budget=Budget(epsilon=3.0, delta=1e-4),
            neighbouring=Neighbouring.ADD_REMOVE,
            record="one made-up sentence",
            expected_batch_size=10,
            clipping_norm=0.75,
            steps_per_round=2,
        ),
        training=Training(learning_rate=0.1, physical_batch_size=12),
        computation=Computation(stacked_clients=together),
        encryption=BFV(custody=custody, follow_released=True),
        method=TailAveraging(of=FedAvg(), first_round=3),
        rounds=14,
        held_out=records(5),
        state_folder=folder / "state",
    )


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        sys.argv[2],
        int(sys.argv[3]),
        int(sys.argv[4]),
        Custody(sys.argv[5]),
        int(sys.argv[6]),
    )
