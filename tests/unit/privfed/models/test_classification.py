"""Texts by their likeness to public anchor sentences."""

import json

import pytest
import torch
import torch.nn.functional as F

from privfed import Classification, LoRA
from privfed.errors import ConfigError
from privfed.models.classification import RelativeClassifier, SentenceClassifier
from privfed.models.saved_task import load_task
from privfed.models.tasks import tokenize
from privfed.models.vector import base_digest, layout_of, read_vector

ANCHORS = ("goal match team", "bank share", "film", "river stone market", "winter")
TEXTS = ["team coach league", "price of stock", "music album scene", "garden"]


def task_on(base, **changes):
    values = {"labels": ("sport", "money", "culture"), "max_length": 12, "anchor_texts": ANCHORS}
    return Classification(base=base, **{**values, **changes})


def embedded(task, texts):
    """Of the encoder alone, shape (texts, width)."""
    plain = Classification(base=task.base, labels=task.labels, max_length=task.max_length)
    with torch.no_grad():
        return plain.build().embedding(**tokenize(task.tokenizer(), texts, task.max_length))


def read(task, texts):
    with torch.no_grad():
        return task.build().embedding(**tokenize(task.tokenizer(), texts, task.max_length))


class TestWhatTheHeadReads:
    def test_it_is_the_definition(self, bert_folder):
        """Numbers by hand: cosines around the mean of the anchors, standardised over these."""
        task = task_on(bert_folder)
        anchors = embedded(task, ANCHORS)
        center = sum(anchors) / len(ANCHORS)
        for row, text in enumerate(embedded(task, TEXTS)):
            scaled = []
            for one in anchors:
                among = [F.cosine_similarity(a - center, one - center, dim=0) for a in anchors]
                mean = sum(among) / len(among)
                spread = (sum((x - mean) ** 2 for x in among) / (len(among) - 1)) ** 0.5
                cosine = F.cosine_similarity(text - center, one - center, dim=0)
                scaled.append((cosine - mean) / spread)
            expected = torch.stack(scaled) / torch.stack(scaled).norm()
            assert torch.allclose(read(task, TEXTS)[row], expected, atol=1e-4)

    def test_it_has_length_one_and_tells_texts_apart(self, other_bert_folder):
        found = read(task_on(other_bert_folder), TEXTS)
        assert found.shape == (4, 5)
        assert torch.allclose(found.norm(dim=1), torch.ones(4), atol=1e-5)
        assert len({tuple(row.tolist()) for row in found}) == 4

    def test_it_does_not_change_with_a_turn_and_a_scale_of_the_encoder(self, bert_folder):
        """Two encoders that differ by these alone are one (Moschella et al. 2023, section 3)."""
        anchors, texts = torch.randn(6, 8), torch.randn(3, 8)
        turn = torch.linalg.qr(torch.randn(8, 8))[0]

        def cosines(anchors, texts):
            model = RelativeClassifier(Given(texts), 2, 1.0, F.normalize(anchors, dim=-1))
            with torch.no_grad():
                return model.embedding(torch.zeros(3, 1), torch.ones(3, 1))

        found = cosines(anchors, texts)
        assert torch.allclose(found, cosines(anchors @ turn, 7.5 * texts @ turn), atol=1e-4)
        assert not torch.allclose(found, cosines(anchors, texts @ turn), atol=0.1)

    def test_anchors_that_the_encoder_tells_not_apart_give_numbers(self):
        same = F.normalize(torch.ones(4, 8), dim=-1)
        model = RelativeClassifier(Given(torch.randn(3, 8)), 2, 1.0, same)
        with torch.no_grad():
            assert model.embedding(torch.zeros(3, 1), torch.ones(3, 1)).isfinite().all()


class Given(torch.nn.Module):
    """An encoder that knows only what it was given, shape (texts, width)."""

    def __init__(self, states):
        super().__init__()
        self.states = states
        self.config = type("Config", (), {"hidden_size": states.shape[1]})

    def forward(self, **_):
        return type("Output", (), {"last_hidden_state": self.states[:, None]})


class TestOnAnyBase:
    def test_what_is_trained_has_one_layout_and_begins_alike_without_label_texts(
        self, bert_folder, other_bert_folder
    ):
        layouts, starts = set(), []
        for base in (bert_folder, other_bert_folder):
            task = task_on(base)
            model = LoRA(rank=2, target_modules=("relative",)).attach(
                task.build(), task.modules_to_save, 3
            )
            layouts.add(layout_of(model).digest())
            starts.append(read_vector(model))
        assert len(layouts) == 1
        assert starts[0].shape == (2 * 2 * 5 + 3 * 5 + 3,)
        assert (starts[0] == starts[1]).all()

    def test_the_digest_of_a_base_holds_no_numbers_of_a_processor(self, bert_folder):
        """The anchors' embeddings are computed anew by each party: public text, own rounding."""
        model = task_on(bert_folder).build()
        before = base_digest(model)
        model.anchors.add_(1e-6)
        assert base_digest(model) == before
        with torch.no_grad():
            model.relative.weight[0, 1] = 1e-6
        assert base_digest(model) != before

    def test_the_head_may_begin_from_label_texts(self, bert_folder):
        labels = ("goal team", "bank price", "film scene")
        task = task_on(bert_folder, label_texts=labels, label_scale=1.5)
        model = task.build()
        task.initialise(model)
        likes = read(task, labels)
        assert torch.allclose(model.head.weight, 1.5 * (likes - likes.mean(dim=0)), atol=1e-5)


class TestSettings:
    @pytest.mark.parametrize(
        "texts", [("one",), ("a", "a"), ("a", " "), ["a", "b"], ("a", 7), "ab"]
    )
    def test_anchors_are_different_sentences(self, bert_folder, texts):
        with pytest.raises(ConfigError, match="anchor_texts must be two or more different"):
            task_on(bert_folder, anchor_texts=texts)

    def test_without_anchors_nothing_is_said_of_them(self, bert_folder):
        plain = task_on(bert_folder, anchor_texts=())
        assert "anchor_texts" not in plain.describe()
        assert type(plain.build()) is SentenceClassifier

    def test_an_adapter_folder_gives_the_task_back(self, bert_folder, tmp_path):
        task = task_on(bert_folder)
        (tmp_path / "privfed.json").write_text(json.dumps(task.describe()))
        assert load_task(tmp_path) == task
