"""What can be seen to fail fails before anything is reserved; one record never decides for all."""

import shutil

import pytest
import torch
from transformers import AutoTokenizer

from privfed import CausalLanguageModel, Classification, LoRA, Record, RecordGroup
from privfed.errors import DataError, ModelError
from privfed.models.examples import encode_records
from privfed.models.tasks import EXAMPLE_WEIGHT
from privfed.private_step import trial
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.trial import usable_records

MARKER = "<|marker 29|>"
TEXTS = ("river stone", "market window garden engine", "goal", "match team coach", "bank share")


@pytest.fixture(scope="module")
def marked_folder(llama_folder, tmp_path_factory):
    """A language model whose tokenizer knows markers beyond what the model embeds."""
    folder = tmp_path_factory.mktemp("marked") / "model"
    shutil.copytree(llama_folder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    markers = [f"<|marker {number}|>" for number in range(30)]
    tokenizer.add_special_tokens({"additional_special_tokens": markers})
    tokenizer.save_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids(MARKER) >= 64
    return str(folder)


@pytest.fixture
def model(marked_folder):
    task = CausalLanguageModel(base=marked_folder, max_length=12)
    adapter = LoRA(rank=2, target_modules=("q_proj",))
    return PrivateModel(adapter.attach(task.build(), (), 0), task, torch.device("cpu"))


def usable(model, texts, examples=1, size=3):
    return usable_records(model, [as_record(text) for text in texts], examples, size)


def as_record(text):
    if isinstance(text, tuple):
        return RecordGroup(tuple(Record(each) for each in text))
    return Record(text)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def expected(model, texts, examples=1):
    records = [as_record(text) for text in texts]
    return encode_records(model.task, model.task.tokenizer(), records, examples)


def test_good_records_stay_as_they_are(model):
    found = usable(model, TEXTS)
    assert same(found.encoded, expected(model, TEXTS))
    assert found.left_out == {}


@pytest.mark.parametrize("place", [0, 2, 5])
def test_a_token_that_the_model_does_not_embed_leaves_one_record_out(model, place):
    texts = [*TEXTS[:place], f"film {MARKER}", *TEXTS[place:]]
    found = usable(model, texts)
    assert same(found.encoded, expected(model, TEXTS))
    assert list(found.left_out) == [place]
    assert "the model embeds 64" in found.left_out[place]


def test_a_record_without_a_token_of_text_is_left_out(model):
    found = usable(model, ["", *TEXTS, " \n "])
    assert same(found.encoded, expected(model, TEXTS))
    assert found.left_out == {0: "holds no token of text", 6: "holds no token of text"}


def test_a_record_that_cannot_be_encoded_is_left_out(bert_folder):
    task = Classification(base=bert_folder, labels=("a", "b"), max_length=12)
    adapter = LoRA(rank=2, target_modules=("query",))
    model = PrivateModel(adapter.attach(task.build(), ("head",), 0), task, torch.device("cpu"))
    good = [Record("river", 1), Record("stone", 0)]
    found = usable_records(model, [Record("x", 7), *good, Record("y", None)], 1, 3)
    assert same(found.encoded, task.collate(task.tokenizer(), good))
    assert list(found.left_out) == [0, 3]


def test_groups_are_left_out_as_a_whole_and_only_where_nothing_is_left(model):
    groups = [("river", MARKER), ("", "stone"), ("", ""), ("goal",)]
    found = usable(model, groups, examples=2)
    assert list(found.left_out) == [0, 2]
    assert same(found.encoded, expected(model, [groups[1], groups[3]], examples=2))
    assert found.encoded[EXAMPLE_WEIGHT].tolist() == [[0.5, 0.5], [1.0, 0.0]]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_record_that_the_model_fails_on_alone_is_left_out(model, monkeypatch, size):
    """Whether or not it is among the longest, or others fail: by a rule on itself."""
    failing(model, monkeypatch, lambda ids: (ids == word(model, "goal")).any(), own=True)
    found = usable(model, TEXTS, size=size)
    assert list(found.left_out) == [2]
    assert "fails in the model: RuntimeError" in found.left_out[2]
    assert same(found.encoded, expected(model, [*TEXTS[:2], *TEXTS[3:]]))


def test_a_failure_of_the_batch_alone_is_nobodys_record(model, monkeypatch):
    failing(model, monkeypatch, lambda ids: len(ids) > 2)
    with pytest.raises(ModelError, match="no record alone is at fault"):
        usable(model, TEXTS, size=3)
    assert len(usable(model, TEXTS, size=2).encoded["input_ids"]) == 5


def test_what_fails_for_every_record_is_refused(model, monkeypatch):
    with pytest.raises(DataError, match="none of the 5 records can be used"):
        usable(model, [f"{text} {MARKER}" for text in TEXTS])
    failing(model, monkeypatch, lambda ids: True)
    with pytest.raises(ModelError, match="no record alone is at fault"):
        usable(model, TEXTS)
    failing(model, monkeypatch, lambda ids: True, own=True)
    with pytest.raises(DataError, match="none of the 5 records can be used"):
        usable(model, TEXTS)


def test_the_longest_records_are_the_ones_that_run(model, monkeypatch):
    ran = []
    failing(model, monkeypatch, lambda ids: ran.append(ids.clone()))
    usable(model, TEXTS, size=3)
    (batch,) = ran
    assert torch.equal(batch, expected(model, [TEXTS[1], TEXTS[3], TEXTS[0]])["input_ids"])


def test_a_batch_is_as_large_as_in_training_also_for_few_records(model, monkeypatch):
    ran = []
    failing(model, monkeypatch, lambda ids: ran.append(len(ids)))
    usable(model, TEXTS[:2], size=7)
    assert ran == [7]


def test_it_runs_as_at_evaluation_and_leaves_the_model_as_it_was(model, monkeypatch):
    seen = []
    modes = {name: module.training for name, module in model.adapter.named_modules()}
    failing(
        model,
        monkeypatch,
        lambda ids: seen.append((model.adapter.training, torch.is_grad_enabled())),
    )
    randomness = torch.get_rng_state()
    usable(model, TEXTS)
    assert seen == [(False, False)], "one pass, without gradients"
    assert modes == {name: module.training for name, module in model.adapter.named_modules()}
    assert torch.equal(randomness, torch.get_rng_state())


@pytest.mark.parametrize("examples", [1, 2])
def test_a_record_less_is_at_most_one_usable_record_less(model, monkeypatch, examples):
    """Each kind of record that is left out, at each place, among others of its kind."""
    failing(model, monkeypatch, lambda ids: (ids == word(model, "goal")).any(), own=True)
    texts = ["goal", "", *TEXTS, f"film {MARKER}", "goal goal", f"{MARKER} goal"]
    whole = as_rows(usable(model, texts, examples, size=20).encoded)
    for place in range(len(texts)):
        rest = [*texts[:place], *texts[place + 1 :]]
        fewer = as_rows(usable(model, rest, examples, size=20).encoded)
        without = [row for row in whole if row not in fewer]
        assert [row for row in whole if row in fewer] == fewer
        assert len(without) <= 1


def as_rows(encoded):
    return [tuple(map(tuple, row.view(-1, 12).tolist())) for row in encoded["input_ids"]]


def word(model, text):
    return model.task.tokenizer().convert_tokens_to_ids(text)


def failing(model, monkeypatch, when, *, own=False):
    """Let the task's loss fail on a batch of token ids; `own` where it is one of the user's own."""
    real = model.task.losses

    class Task:
        def __getattr__(self, name):
            return getattr(task, name)

        def losses(self, inner, batch):
            if when(batch["input_ids"]):
                raise RuntimeError("of this batch")
            return real(inner, batch)

    task = model.task
    monkeypatch.setattr(model, "task", Task())
    monkeypatch.setattr(trial, "_READ_ANY_TEXT", () if own else (Task,))
