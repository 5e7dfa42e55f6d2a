"""Files of a run between machines, each as its party has it, and all in one folder."""

import json
import shutil

from tests.unit.privfed.cli.configurations import as_toml

NAMES = ("east", "north", "west")
ACCEPTED = "any client together with the hub opens every update"


def public_file(base, authority, port=7443):
    """The tables of `run.toml`: every optional key of [data] and [hub] given, none a default."""
    return {
        "title": "three wards",
        "seed": 7,
        "model": {
            "task": "classification",
            "base": str(base),
            "labels": ["a", "b"],
            "max_length": 16,
        },
        "data": {
            "dataset": "wards",
            "held_out_source": "held-out.jsonl",
            "text": "note",
            "label": "topic",
            "public_sizes": {"west": 27, "north": 29, "east": 31},
        },
        "privacy": {
            "epsilon": 4.0,
            "delta": 1e-3,
            "neighbouring": "add_remove",
            "record": "one made-up sentence",
            "expected_batch_size": 10,
            "steps_per_round": 2,
            "clients": {"north": {"epsilon": 5.5, "delta": 2e-3}},
        },
        "adapter": {"kind": "lora", "rank": 1, "target_modules": ["query"]},
        "training": {"learning_rate": 0.5, "physical_batch_size": 8},
        "encryption": {"kind": "bfv", "bits": 9, "custody": "shared_key"},
        "federation": {"rounds": 4, "min_clients": 3},
        "parties": {"roster": "wards.roster", "authority": authority},
        "hub": {
            "address": f"hub.example:{port}",
            "certificate": "hub.crt",
            "timeout_s": 1234.5,
            "patience_s": 67.0,
        },
    }


def node_file():
    """The table of `north.toml`: all optional keys but two, none a default."""
    return {
        "name": "north",
        "run": "run.toml",
        "accept": ACCEPTED,
        "dataset": "wards",
        "epsilon": 5.75,
        "delta": 3e-3,
        "identity": "secret/own.identity",
        "transport": "secret/own.key",
        "hub": "127.0.0.9:81",
        "certificate": "elsewhere.crt",
        "share_ledger": True,
        "results": "left",
        "pump": False,
        "socket": "/run/node.sock",
        "state": "own-state",
        "anchors": "own-anchors",
        "device": "cpu",
        "physical_batch_size": 5,
        "data": {
            "source": "own.jsonl",
            "text": "words",
            "label": "kind",
            "missing": "drop",
            "encoding": "latin-1",
            "person": "who",
            "continues": "3:" + "ab" * 32,
        },
        "computation": {"cache_frozen_layers": True},
    }


def write_texts(folder):
    """Six public rows, and 21 of an organisation: one is public too, and one lacks its label."""
    held_out = [{"note": f"public {n}", "topic": "ab"[n % 2]} for n in range(6)]
    own = [{"words": f"café {n}", "kind": "ba"[n % 2], "who": f"p{n}"} for n in range(19)]
    own += [{**own[0], "words": "public 3"}, {**own[1], "words": "other", "kind": None}]
    for name, rows, encoding in (("held-out", held_out, "utf-8"), ("own", own, "latin-1")):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding=encoding)


def write(path, values):
    """Write a file of nested tables."""
    path.write_text(as_toml(values), encoding="utf-8")
    return path


def copied(source, folder):
    """What everybody was enrolled with, in a folder."""
    for path in source.iterdir():
        shutil.copy(path, folder)
