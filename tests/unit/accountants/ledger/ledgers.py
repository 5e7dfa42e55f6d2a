"""A ledger that is tried, what is written to it, and how it is damaged."""

import sqlite3
from contextlib import closing

from accountants import Anchor, PoissonGaussian, event_to_json
from accountants.ledger import storage
from accountants.ledger.chain import linked

OWNER = {
    "client": "ward",
    "dataset": "notes-7",
    "unit": "one note",
    "neighbouring": "add_remove",
}


def event(steps):
    return PoissonGaussian(noise_multiplier=4.0, sample_rate=0.5, steps=steps)


LESS, STEP, MORE = event(3), event(8), event(9)


def always(history, planned):
    return None


def play(ledger, run="a", rounds=3):
    """Rounds that were reserved and committed; the bytes name the round."""
    for number in range(rounds):
        reservation = ledger.reserve(run, number, [STEP], always)
        ledger.commit(reservation.id, [STEP], f"{run}{number}".encode())


def edit(path, *statements):
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement, *values in statements:
            assert connection.execute(statement, values).rowcount == 1


def forge(path, kind, body):
    """Append an entry whose digest is right, as a faulty or hostile program could."""
    with closing(sqlite3.connect(path)) as connection, connection:
        (seq, head) = connection.execute(
            "SELECT seq, digest FROM entries ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        storage.append(connection, linked(kind, body, Anchor(length=seq + 1, head=head)))


def reserve_body(**changes):
    return {"run": "z", "round": 0, "planned": [event_to_json(STEP)]} | changes


def commit_body(**changes):
    body = {
        "reservation": 1,
        "ran": [event_to_json(STEP)],
        "outgoing_sha256": "0" * 64,
        "outgoing_bytes": 0,
    }
    return body | changes
