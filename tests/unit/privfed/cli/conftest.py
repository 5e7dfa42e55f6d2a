"""A whole configuration, and a function that loads one like it."""

import json

import pytest
from typer.testing import CliRunner

from privfed.cli.main import app
from privfed.cli.run_file import load_federation
from tests.unit.privfed.cli.between import NAMES, copied, public_file, write, write_texts
from tests.unit.privfed.cli.configurations import TOPICS, as_toml


@pytest.fixture
def settings(bert_folder):
    """A whole configuration: every optional key is given, none at its default."""
    return {
        "title": "topics at wards",
        "seed": 7,
        "model": {
            "task": "classification",
            "base": bert_folder,
            "labels": list(TOPICS),
            "max_length": 16,
            "logit_scale": 3,
        },
        "data": {
            "source": "notes.jsonl",
            "text": "note",
            "label": "topic",
            "dataset": "notes-2026",
            "missing": "drop",
            "encoding": "latin-1",
            "held_out": 0.2,
            "partition": {
                "rule": "column",
                "column": "ward",
                "clients": ["west", "north", "east", "south"],
                "others": "drop",
                "minimum": 11,
            },
            "public_size": 21,
            "public_sizes": {"north": 25},
        },
        "privacy": {
            "epsilon": 4,
            "delta": 1e-3,
            "neighbouring": "add_remove",
            "record": "one made-up sentence",
            "expected_batch_size": 10,
            "clipping_norm": 0.5,
            "steps_per_round": 2,
            "clients": {"south": {"epsilon": 1.5, "delta": 1e-4}},
        },
        "adapter": {
            "kind": "lora",
            "rank": 2,
            "target_modules": ["query", "value"],
            "layers": [1],
            "alpha": 5,
        },
        "training": {
            "learning_rate": 0.5,
            "final_learning_rate": 0.25,
            "momentum": 0.5,
            "physical_batch_size": 8,
        },
        "encryption": {"kind": "plain", "bits": 10, "public_range": 2, "follow_released": True},
        "parties": {"roster": "all.roster", "authority": "ab" * 32, "identities": "secret"},
        "method": {
            "kind": "ffa-lora",
            "weighting": "public_size",
            "server_learning_rate": 0.5,
        },
        "averaging": {"first_round": 2, "decay": 0.5},
        "federation": {"rounds": 2, "min_clients": 4, "device": "cpu"},
    }


@pytest.fixture
def load(tmp_path, topic_records):
    """A function that writes settings beside 160 notes of four wards and loads them."""
    wards = ("east", "north", "south", "west")
    rows = [
        {"note": record.text, "topic": TOPICS[record.label], "ward": wards[position % 4]}
        for position, record in enumerate(topic_records(160, seed=1))
    ]
    other = [{"note": r.text, "topic": TOPICS[r.label]} for r in topic_records(12, seed=2)]
    for name, lines in {"notes.jsonl": rows, "other.jsonl": other}.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name).write_text(text, encoding="utf-8")

    def make(values):
        path = tmp_path / "run.toml"
        path.write_text(as_toml(values), encoding="utf-8")
        return load_federation(path, tmp_path / "ledgers")

    return make


@pytest.fixture(scope="session")
def enrolled(tmp_path_factory):
    """A folder with everybody's keys, the roster and the hub's certificate; and the authority."""
    folder = tmp_path_factory.mktemp("enrolled")

    def roster(*words):
        done = CliRunner().invoke(app, ["roster", *map(str, words)], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    roles = {**dict.fromkeys(NAMES, "client"), "hub": "aggregator", "board": "authority"}
    for name, role in {**roles, "keys": "key_holder"}.items():
        hosts = ["--host", "127.0.0.1"] if name == "hub" else []
        roster("identity", name, "--role", role, "--out", folder / f"{name}.identity", *hosts)
    parties = [folder / f"{name}.identity.party.json" for name in ("hub", "keys", *NAMES)]
    signed = ["--federation", "wards", "--authority", folder / "board.identity"]
    roster("sign", *parties, *signed, "--out", folder / "wards.roster")
    (folder / "hub.identity.crt").rename(folder / "hub.crt")
    board = json.loads((folder / "board.identity.party.json").read_text())
    return folder, board["signing_key"]


@pytest.fixture
def public(bert_folder, enrolled):
    """The tables of a public file."""
    return public_file(bert_folder, enrolled[1])


@pytest.fixture
def place(tmp_path, enrolled, public):
    """A folder with all files of a run between machines, but what `privfed agreement` makes."""
    folder = tmp_path / "parties"
    folder.mkdir()
    copied(enrolled[0], folder)
    write_texts(folder)
    write(folder / "run.toml", public)
    return folder
