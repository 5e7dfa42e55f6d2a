"""A ledger of the first version, as it wrote it, and a writer that makes others like it.

What stands here in full was written by that version, which knew one type of event; never edit it.
"""

import sqlite3
from contextlib import closing

from accountants import Anchor, PoissonGaussian, event_to_json
from accountants.ledger.chain import linked

FIRST_VERSION = [
    (
        "open",
        '{"client":"ward","dataset":"notes-7","description":"training split, \\u00fc 2024",'
        '"schema":"privfed-ledger/1"}',
        "1a77831e85022b0955038ba65f8bbdcdc3b88d98a72f5e3375a425a0a9ce7dd0",
    ),
    (
        "reserve",
        '{"planned":[{"noise_multiplier":4.1,"sample_rate":0.1,"steps":8,'
        '"type":"poisson_gaussian"},{"noise_multiplier":3.0,"sample_rate":1.0,"steps":2,'
        '"type":"poisson_gaussian"}],"round":0,"run":"a"}',
        "73d5f60c0bfe240e83f34d62100636db0b8a6f71e990db7d495cfb18f1a239f7",
    ),
    (
        "commit",
        '{"outgoing_bytes":5,'
        '"outgoing_sha256":"a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e",'
        '"ran":[{"noise_multiplier":4.1,"sample_rate":0.1,"steps":8,'
        '"type":"poisson_gaussian"},{"noise_multiplier":3.0,"sample_rate":1.0,"steps":2,'
        '"type":"poisson_gaussian"}],"reservation":1}',
        "35ba3366aeb1ad19150552f6977567d3fad7d0d150369350e799e09e2e11e2e4",
    ),
    (
        "reserve",
        '{"planned":[{"noise_multiplier":4.1,"sample_rate":0.1,"steps":8,'
        '"type":"poisson_gaussian"}],"round":1,"run":"a"}',
        "a6ea408973f76f60b64eacf3be0ddf12589eb021d4add9be36e24037bb7305fb",
    ),
    (
        "commit",
        '{"outgoing_bytes":6,'
        '"outgoing_sha256":"16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4",'
        '"ran":[{"noise_multiplier":4.1,"sample_rate":0.1,"steps":5,'
        '"type":"poisson_gaussian"}],"reservation":3}',
        "9799c5529d4d79b0cb96c891f5f6bd71f00671286f2f8823d58e71b0cb420c4b",
    ),
    (
        "reserve",
        '{"planned":[{"noise_multiplier":4.1,"sample_rate":0.1,"steps":8,'
        '"type":"poisson_gaussian"}],"round":0,"run":"b"}',
        "d43121923b236f8643226ecaea6c967884e04c1601c89815e7408a4570daf7fd",
    ),
    (
        "commit",
        '{"outgoing_bytes":0,'
        '"outgoing_sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",'
        '"ran":[],"reservation":5}',
        "0ba1709893f1cd42be504fb0e2b68c0d9e7bb30b987febd8b6e81f3180dea103",
    ),
    (
        "reserve",
        '{"planned":[{"noise_multiplier":3.0,"sample_rate":1.0,"steps":2,'
        '"type":"poisson_gaussian"}],"round":1,"run":"b"}',
        "f9be605508d158b735fe9abd0b1bc59c4d4e2a6e01f9360cb4116b171de6b509",
    ),
]
FIRST_OWNER = {"client": "ward", "dataset": "notes-7", "description": "training split, ü 2024"}
FIRST_ANCHOR = {
    "length": 8,
    "head": "f9be605508d158b735fe9abd0b1bc59c4d4e2a6e01f9360cb4116b171de6b509",
}
FIRST_EVENTS = (
    PoissonGaussian(noise_multiplier=4.1, sample_rate=0.1, steps=8),
    PoissonGaussian(noise_multiplier=3.0, sample_rate=1.0, steps=2),
    PoissonGaussian(noise_multiplier=4.1, sample_rate=0.1, steps=5),
    PoissonGaussian(noise_multiplier=3.0, sample_rate=1.0, steps=2),
)


def first_version_entries():
    previous = "0" * 64
    for seq, (kind, body, digest) in enumerate(FIRST_VERSION):
        yield seq, kind, body, previous, digest
        previous = digest


def write_file(path, entries, payloads=()):
    """A file of the first version, made by the statements that it used."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE entries (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, body TEXT NOT"
            " NULL, previous TEXT NOT NULL, digest TEXT NOT NULL)"
        )
        connection.execute(
            "CREATE TABLE outbox (reservation INTEGER PRIMARY KEY, payload BLOB NOT NULL)"
        )
        connection.execute("PRAGMA application_id = 1885760612")
        connection.execute("PRAGMA user_version = 1")
        connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", entries)
        connection.executemany("INSERT INTO outbox VALUES (?, ?)", payloads)
    return path


def write_first(path):
    """The file of the ledger above."""
    return write_file(path, first_version_entries(), [(3, b"second"), (5, b"")])


def write_like_it(path, *planned, dataset="notes-7", run="r", description="split 1 of 4, seed 0"):
    """A ledger of the same form with one open reservation for each event in `planned`."""
    body = {"client": "ward", "dataset": dataset, "description": description}
    entries = [linked("open", {"schema": "privfed-ledger/1"} | body, None)]
    for number, event in enumerate(planned):
        after = Anchor(length=len(entries), head=entries[-1].digest)
        body = {"run": run, "round": number, "planned": [event_to_json(event)]}
        entries.append(linked("reserve", body, after))
    rows = [(e.seq, e.kind, e.body, e.previous, e.digest) for e in entries]
    return write_file(path, rows)


def grow(path, event, *, run="later"):
    """What the first version does when it runs again: one more open reservation."""
    with closing(sqlite3.connect(path)) as connection, connection:
        seq, head = connection.execute(
            "SELECT seq, digest FROM entries ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        body = {"run": run, "round": seq, "planned": [event_to_json(event)]}
        entry = linked("reserve", body, Anchor(length=seq + 1, head=head))
        row = (entry.seq, entry.kind, entry.body, entry.previous, entry.digest)
        connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", row)
