"""A run of what a plan wrote calibrates the plan's numbers, and a plan after it counts it."""

import json

import pytest
from typer.testing import CliRunner

from accountants import BudgetExceededError
from privfed.cli.main import app
from privfed.cli.run_file import load_federation

SIZES = {"north": 52, "south": 45, "west": 38}
TOPICS = ("sport", "money", "culture")


def invoke(*arguments):
    done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def planned(tmp_path, bert_folder, topic_records):
    """A configuration that a plan of flags wrote, with model and text filled in; and the plan."""
    rows = [
        {"text": one.text, "label": TOPICS[one.label], "client": sorted(SIZES)[place % 3]}
        for place, one in enumerate(topic_records(150, seed=4))
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "records.jsonl").write_text(lines, encoding="utf-8")
    path = tmp_path / "run.toml"
    sizes = [word for name, size in SIZES.items() for word in ("--size", f"{name}={size}")]
    asked = (*sizes, "--epsilon", "6", "--delta", "1e-3", "--batch", "11", "--rounds", "2")
    found = invoke("plan", *asked, "--record", "one made-up sentence", "--write", path, "--json")
    text = path.read_text()
    for placeholder, own in {
        '"sentence-transformers/all-MiniLM-L6-v2"': json.dumps(str(bert_folder)),
        '["first", "second"]': f"{json.dumps(TOPICS)}\nmax_length = 12",
        "learning_rate = 1.0": "learning_rate = 0.5",
        "[encryption]\nkind": "[encryption]\nbits = 8\nkind",
    }.items():
        assert text.count(placeholder) == 1, placeholder
        text = text.replace(placeholder, own)
    path.write_text(text)
    return path, json.loads(found)


def test_a_run_calibrates_what_was_planned(planned, tmp_path):
    path, found = planned
    state = ("--state", tmp_path / "own", "--anchors", tmp_path / "anchors")
    invoke("run", path, "--out", tmp_path / "out", *state)
    report = json.loads((tmp_path / "out/report.json").read_text())
    ran = {client["id"]: client for client in report["clients"]}
    assert ran.keys() == found["clients"].keys() == SIZES.keys()
    for name, client in found["clients"].items():
        assert ran[name]["noise_multiplier"] == client["noise_multiplier"]
        assert ran[name]["sample_rate"] == client["sample_rate"]
        assert ran[name]["epsilon_spent"] == client["epsilon"] <= 6
    assert len({client["noise_multiplier"] for client in ran.values()}) == 3
    with pytest.raises(BudgetExceededError, match="is used up: epsilon"):
        invoke("plan", path, *state[:2])


def test_the_federation_of_the_file_has_the_planned_settings(planned, tmp_path):
    path, found = planned
    federation = load_federation(path, tmp_path / "own")
    assert federation.rounds == found["rounds"] == 2
    assert federation.privacy.expected_batch_size == found["expected_batch_size"] == 11
    assert {client.id: client.public_size for client in federation.clients} == SIZES
