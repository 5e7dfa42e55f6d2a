"""Small models and text made on the spot: no test needs a download."""

import os
from collections import Counter
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
# The models are so small that a second thread only waits. A process that forks, as some tests do,
# must have none: a child would wait for threads of OpenMP that it does not have.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings

from accountants import Budget
from tests.organisations import ORGANISATIONS

# The same examples every time: a failure is then of the change that is tested.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_terminal_summary(terminalreporter):
    """Where the time went: seconds of every folder that took some, all processes together."""
    seconds = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                folders = report.nodeid.partition("::")[0].split("/")[:-1]
                seconds["/".join(folders[:4])] += report.duration
    taken = [(folder, took) for folder, took in seconds.most_common() if took >= 10]
    if taken:
        terminalreporter.section("seconds per folder")
        for folder, took in taken:
            terminalreporter.line(f"{took:7.0f}  {folder}")


@pytest.fixture(autouse=True)
def _own_state_folder(tmp_path):
    """No test touches the user's ledgers, anchors or caches; no `undo` of a test changes that."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PRIVFED_STATE", str(tmp_path / "state"))
        patched.setenv("PRIVFED_ANCHORS", str(tmp_path / "anchors"))
        yield


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """A word tokenizer over the made-up vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({*WORDS, *TOPIC_WORDS[0], *TOPIC_WORDS[1], *TOPIC_WORDS[2]})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>", "</s>"]
    vocabulary = {token: index for index, token in enumerate(special + words)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        bos_token="<s>",
        eos_token="</s>",
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory, tokenizer_folder):
    """A random BERT encoder: two layers, width 32."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    return _save(BertModel, config, tokenizer_folder, tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def other_bert_folder(tmp_path_factory, tokenizer_folder):
    """Another random BERT: three layers, width 24, and a tokenizer that numbers words otherwise."""
    import json

    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=70,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=48,
    )
    folder = _save(BertModel, config, tokenizer_folder, tmp_path_factory.mktemp("other-bert"))
    path = Path(folder) / "tokenizer.json"
    values = json.loads(path.read_text())
    vocabulary, last = values["model"]["vocab"], config.vocab_size - 1
    special = {one["content"] for one in values["added_tokens"]}
    values["model"]["vocab"] = {
        word: number if word in special else last - number for word, number in vocabulary.items()
    }
    path.write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory, tokenizer_folder):
    """A random Llama language model: two layers, width 32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    return _save(LlamaForCausalLM, config, tokenizer_folder, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory, tokenizer_folder):
    """A random GPT-2 language model: two layers, width 32."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    return _save(GPT2LMHeadModel, config, tokenizer_folder, tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def folders(bert_folder, llama_folder, gpt2_folder, tokenizer_folder, tmp_path_factory):
    """Folders of tiny random models by architecture."""
    from transformers import DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

    roberta = RobertaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    distilbert = DistilBertConfig(
        vocab_size=64, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=64
    )
    made = tmp_path_factory.mktemp
    return {
        "bert": bert_folder,
        "llama": llama_folder,
        "gpt2": gpt2_folder,
        "roberta": _save(RobertaModel, roberta, tokenizer_folder, made("roberta")),
        "distilbert": _save(DistilBertModel, distilbert, tokenizer_folder, made("distilbert")),
    }


@pytest.fixture(scope="session")
def _built():
    return {}


@pytest.fixture
def built(folders, _built):
    """A function that gives the private model of a named case; nobody may leave it changed."""

    from tests.contracts.private_steps import CASES, private_model

    def build(name):
        if name not in _built:
            _built[name] = private_model(CASES[name], folders)
        _built[name].forget()
        return _built[name]

    return build


def _save(model_class, config, tokenizer_folder, folder):
    import shutil

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model_class(config).save_pretrained(folder)
    for path in tokenizer_folder.iterdir():
        shutil.copy(path, folder / path.name)
    return str(folder)


WORDS = (
    *("river", "stone", "market", "window", "garden", "engine", "letter", "mountain", "paper"),
    *("signal", "harbour", "winter", "glass", "method", "silver", "bridge", "answer", "pocket"),
)
TOPICS = ("sport", "money", "culture")
TOPIC_WORDS = (
    ["goal", "match", "team", "coach", "league", "score"],
    ["bank", "share", "profit", "trade", "price", "stock"],
    ["film", "actor", "stage", "music", "album", "scene"],
)


@pytest.fixture(scope="session")
def topic_records():
    """A function that makes `count` records of three topics from a seed."""
    import numpy as np

    from privfed import Record

    def make(count, seed=0):
        random = np.random.default_rng(seed)
        records = []
        for _ in range(count):
            label = int(random.integers(3))
            words = [*random.choice(TOPIC_WORDS[label], 4), *random.choice(WORDS, 3)]
            random.shuffle(words)
            records.append(Record(" ".join(words), label))
        return records

    return make


@pytest.fixture
def seeded_randomness():
    """Coins that repeat, for tests that compare two runs; reported as not private."""
    import hashlib

    from privfed.private_step.randomness import RandomStream

    class SeededRandomness:
        secret = False

        def __init__(self, seed=0):
            self.seed = seed
            self.drawn = 0

        def stream(self, client, purpose):
            self.drawn += 1
            text = f"{self.seed}/{client}/{purpose}/{self.drawn}"
            return RandomStream(hashlib.sha256(text.encode()).digest(), bytes(16))

    return SeededRandomness


@pytest.fixture
def make_federation(bert_folder, topic_records, tmp_path):
    """A function that makes a small federation; keyword arguments replace its settings.

    Its clients are the first of `ORGANISATIONS`. What else code could mix up differs too: steps of
    a round and rounds, expected and physical batches, the clipping norm and the learning rates,
    and the budget of the federation, which no client takes.
    """
    from privfed import (
        BFV,
        Classification,
        Client,
        FedAvg,
        Federation,
        LoRA,
        Neighbouring,
        PrivacyConfig,
        TrainingConfig,
    )

    def make(*, num_clients=4, **changes):
        clients = [
            Client(
                id=f"client-{index}",
                records=tuple(topic_records(one.count, seed=index + 1)),
                public_size=one.public_size,
                dataset="topics",
                budget=one.budget,
            )
            for index, one in enumerate(ORGANISATIONS[:num_clients])
        ]
        settings = {
            "model": Classification(
                base=bert_folder, labels=("sport", "money", "culture"), max_length=16
            ),
            "clients": clients,
            "adapter": LoRA(rank=2, target_modules=("query", "value")),
            "privacy": PrivacyConfig(
                budget=Budget(epsilon=3.0, delta=1e-4),
                neighbouring=Neighbouring.ADD_REMOVE,
                record="one made-up sentence",
                expected_batch_size=20,
                clipping_norm=0.75,
                steps_per_round=2,
            ),
            "training": TrainingConfig(learning_rate=0.5, physical_batch_size=12),
            "encryption": BFV(),
            "method": FedAvg(),
            "rounds": 3,
            "held_out": topic_records(30, seed=99),
            "state_folder": tmp_path / "state",
        }
        return Federation(**{**settings, **changes})

    return make
