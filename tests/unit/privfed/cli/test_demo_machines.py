"""The commands of a demonstration between machines: its files can be read, its text is dealt."""

import json

import pytest

from privfed.cli import demo_machines
from privfed.cli.hub_file import hub_of
from privfed.cli.node_file import load_node_file
from privfed.cli.public_file import load_public_run
from privfed.data import packaged
from privfed.errors import ConfigError, UnforeseenError
from privfed.settings.encryption import Custody

NAMES = ("north", "south", "west")
TOPICS = ("business", "sport")


@pytest.fixture
def parties(tmp_path, monkeypatch):
    """Folders of all, with 90 articles in place of the real ones."""
    texts = [f"article {n}" for n in range(90)]
    topics = [TOPICS[n % 3 == 0] for n in range(90)]
    monkeypatch.setattr(packaged, "bbc_news", lambda: (texts, topics))
    found = {name: tmp_path / name for name in ("ministry", "hub", *NAMES)}
    for folder in found.values():
        folder.mkdir()
    return found


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_article_goes_to_one_of_them_or_is_held_out(parties):
    assert demo_machines._deal(parties) == TOPICS
    dealt = [row for name in NAMES for row in rows(parties[name] / "articles.jsonl")]
    held = rows(parties["ministry"] / "held-out.jsonl")
    assert len(held) > 0
    assert sorted(row["text"] for row in [*dealt, *held]) == sorted(
        f"article {n}" for n in range(90)
    )
    for row in [*dealt, *held]:
        assert row["topic"] == TOPICS[int(row["text"].split()[1]) % 3 == 0]


def test_its_files_are_what_a_hub_and_a_node_read(parties, bert_folder):
    topics = demo_machines._deal(parties)
    sizes = demo_machines._SIZES
    assert tuple(sizes) == NAMES
    assert len(set(sizes.values())) == len(NAMES)
    north, ministry = parties["north"], parties["ministry"]
    text = demo_machines._RUN_TOML.format(
        seed=11,
        rank=5,
        base=json.dumps(bert_folder),
        labels=json.dumps(list(topics)),
        sizes="\n".join(f"{name} = {size}" for name, size in sizes.items()),
        authority="ab" * 32,
        port=4321,
    )
    (north / "run.toml").write_text(text)
    (north / "held-out.jsonl").write_bytes((ministry / "held-out.jsonl").read_bytes())
    run = load_public_run(north / "run.toml")
    assert {one.id: one.public_size for one in run.settings.clients} == sizes
    assert (run.settings.seed, run.settings.adapter.rank) == (11, 5)
    assert run.settings.encryption.custody is Custody.SHARED_KEY
    assert hub_of(north / "run.toml")["address"] == "127.0.0.1:4321"
    assert demo_machines._listen(north) == "127.0.0.1:4321"
    own = demo_machines._NODE_TOML.format(
        name="north", agreement="cd" * 32, accept=demo_machines._ACCEPTED
    )
    (north / "north.toml").write_text(own)
    found = load_node_file(north / "north.toml")
    assert (found.name, found.agreement) == ("north", "cd" * 32)
    assert len(found.client.records) == len(rows(north / "articles.jsonl"))


def test_a_folder_that_is_there_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_machines, "_deal", lambda _: pytest.fail("it began"))
    (tmp_path / "kept").mkdir()
    with pytest.raises(ConfigError, match="kept must not be there yet"):
        demo_machines.play(tmp_path / "kept", print)
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_command_is_said_and_one_that_fails_is_told(tmp_path):
    said = []
    printed = demo_machines._typed(tmp_path, ["--version"], said.append)
    assert printed.startswith("privfed ")
    assert said == [f"{tmp_path.name}$ privfed --version"]
    with pytest.raises(UnforeseenError, match="none.toml does not exist"):
        demo_machines._typed(tmp_path, ["run", "none.toml"], said.append)
