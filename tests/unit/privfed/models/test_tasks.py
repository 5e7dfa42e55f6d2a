"""One loss per record, from that record alone, and one metric on held-out text."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

from privfed.data.records import Record
from privfed.errors import ConfigError, DataError, ModelError
from privfed.models.adapters import LoRA
from privfed.models.classification import Classification, SentenceClassifier
from privfed.models.saved_task import load_task
from privfed.models.tasks import CausalLanguageModel

TEXTS = ("river", "stone market window garden", "goal match team coach league score film actor")


@pytest.fixture(scope="module")
def classification(bert_folder):
    """Task, model with a random head, and tokenizer."""
    task = Classification(base=bert_folder, labels=("a", "b", "c"), max_length=12)
    model = task.build().eval()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.nn.init.normal_(model.head.weight)
        torch.nn.init.normal_(model.head.bias)
    return task, model, task.tokenizer()


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def language(request, llama_folder, gpt2_folder):
    """Task, model and tokenizer."""
    base = {"llama": llama_folder, "gpt2": gpt2_folder}[request.param]
    task = CausalLanguageModel(base=base, max_length=12)
    return task, task.build().eval(), task.tokenizer()


@pytest.fixture(params=["classification", "llama", "gpt2"])
def case(request, classification, bert_folder, llama_folder, gpt2_folder):
    if request.param == "classification":
        return classification
    base = {"llama": llama_folder, "gpt2": gpt2_folder}[request.param]
    task = CausalLanguageModel(base=base, max_length=12)
    return task, task.build().eval(), task.tokenizer()


def records(labels=(0, 1, 2)):
    return [Record(text, label) for text, label in zip(TEXTS, labels, strict=True)]


def losses(case, examples):
    task, model, tokenizer = case
    with torch.inference_mode():
        return task.losses(model, task.collate(tokenizer, examples))


def padded(batch, extra):
    """The batch with `extra` masked positions behind every row, holding some other token."""
    wide = dict(batch)
    rows = len(batch["input_ids"])
    tail = {"input_ids": 7, "attention_mask": 0}
    for name, value in tail.items():
        more = torch.full((rows, extra), value, dtype=batch[name].dtype)
        wide[name] = torch.cat([batch[name], more], dim=1)
    return wide


class TestEveryTask:
    def test_there_is_one_loss_per_record(self, case):
        assert losses(case, records()).shape == (3,)

    def test_a_loss_does_not_depend_on_the_other_rows(self, case):
        together = losses(case, records())
        for row, record in enumerate(records()):
            alone = losses(case, [record])
            assert torch.allclose(together[row], alone[0], rtol=1e-5, atol=1e-6)
        assert together.unique().numel() == 3, "the example must tell rows apart"

    def test_a_loss_does_not_depend_on_padding(self, case):
        task, model, tokenizer = case
        batch = task.collate(tokenizer, records())
        with torch.inference_mode():
            found = task.losses(model, padded(batch, 5))
        assert torch.allclose(found, losses(case, records()), rtol=1e-5, atol=1e-6)

    def test_metric_parts_do_not_depend_on_how_records_are_batched(self, case):
        task, model, tokenizer = case
        with torch.inference_mode():
            whole = task.metric_parts(model, task.collate(tokenizer, records()))
            parts = [task.metric_parts(model, task.collate(tokenizer, [r])) for r in records()]
        assert whole == pytest.approx([sum(column) for column in zip(*parts, strict=True)])

    def test_text_is_cut_at_the_maximum_length(self, case):
        task, _, tokenizer = case
        batch = task.collate(tokenizer, [Record("river " * 50, 0)])
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (1, 12)

    def test_padding_is_on_the_right_and_masked(self, case):
        task, _, tokenizer = case
        mask = task.collate(tokenizer, records())["attention_mask"]
        assert mask.sum(dim=1).tolist() == [3, 6, 10]
        window = torch.arange(task.max_length)
        assert torch.equal(mask, (window < mask.sum(dim=1, keepdim=True)).long())

    def test_made_up_records_differ_in_length_and_repeat_with_their_seed(self, case):
        task, _, tokenizer = case
        made_up = task.synthetic(4, seed=3)
        assert made_up == task.synthetic(4, seed=3)
        assert made_up != task.synthetic(4, seed=4)
        assert len({len(record.text.split()) for record in made_up}) == 4
        task.collate(tokenizer, made_up)

    def test_the_base_model_is_in_float32_without_dropout(self, case):
        _, model, _ = case
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} <= {0.0}

    def test_dropout_stays_off_in_training_mode(self, case):
        task, model, tokenizer = case
        batch = task.collate(tokenizer, records())
        model.train()
        try:
            with torch.inference_mode():
                first, second = task.losses(model, batch), task.losses(model, batch)
        finally:
            model.eval()
        assert torch.equal(first, second)

    def test_a_task_is_found_again_from_its_description(self, case, tmp_path):
        task, _, _ = case
        (tmp_path / "privfed.json").write_text(json.dumps(task.describe()))
        assert load_task(tmp_path) == task
        assert load_task(str(tmp_path)) == task


class TestClassification:
    def test_losses_are_the_cross_entropy_of_the_logits(self, classification):
        task, model, tokenizer = classification
        batch = task.collate(tokenizer, records())
        with torch.inference_mode():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            expected = logits.logsumexp(dim=1) - logits[torch.arange(3), [0, 1, 2]]
        assert torch.allclose(losses(classification, records()), expected, atol=1e-6)

    def test_accuracy_counts_right_answers(self, classification):
        task, model, tokenizer = classification
        batch = task.collate(tokenizer, records())
        with torch.inference_mode():
            best = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).argmax(dim=1)
            wrong = (int(best[0]) + 1) % 3
            answers = [wrong, int(best[1]), int(best[2])]
            parts = task.metric_parts(model, task.collate(tokenizer, records(answers)))
        assert parts == (2.0, 3.0)
        assert task.metric_value(*parts) == pytest.approx(2 / 3)
        assert task.metric == "accuracy"

    def test_the_embedding_is_the_unit_length_mean_over_the_tokens(self, classification):
        _, _model, _ = classification
        states = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [9.0, 9.0]]])

        class Encoder(torch.nn.Module):
            config = type("Config", (), {"hidden_size": 2})

            def forward(self, input_ids, attention_mask):
                return type("Output", (), {"last_hidden_state": states})

        small = SentenceClassifier(Encoder(), num_labels=2, logit_scale=10.0)
        assert not small.head.weight.any()
        assert not small.head.bias.any()
        with torch.no_grad():
            small.head.weight.copy_(torch.eye(2))
        logits = small(torch.zeros(1, 3, dtype=torch.long), torch.tensor([[1, 1, 0]]))
        assert logits[0].tolist() == pytest.approx([6.0, 8.0])
        empty = small(torch.zeros(1, 3, dtype=torch.long), torch.tensor([[0, 0, 0]]))
        assert empty[0].tolist() == [0.0, 0.0]

    def test_the_new_head_starts_at_zero(self, bert_folder):
        task = Classification(base=bert_folder, labels=("a", "b"), max_length=12)
        model = task.build()
        assert not model.head.weight.any()
        values = losses((task, model.eval(), task.tokenizer()), records((0, 1, 0)))
        assert values.tolist() == pytest.approx([math.log(2)] * 3)

    def test_the_head_may_begin_with_what_labels_are_like(self, bert_folder):
        """Row c is 0.5 (e_c - the mean of all e), e being the embeddings of the sentences."""
        texts = ("river stone river", "market", "window garden engine")
        task = Classification(
            base=bert_folder,
            labels=("a", "b", "c"),
            max_length=12,
            label_texts=texts,
            label_scale=0.5,
        )
        model = LoRA(rank=2, target_modules=("query",)).attach(
            task.build(), task.modules_to_save, 3
        )
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        task.initialise(model)
        plain = task.build()
        batch = task.collate(task.tokenizer(), [Record(text, 0) for text in texts])
        with torch.no_grad():
            found = plain.embedding(batch["input_ids"], batch["attention_mask"])
        after = model.state_dict()
        changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
        assert changed == {"base_model.model.head.modules_to_save.default.weight"}
        wanted = 0.5 * (found - found.mean(dim=0))
        torch.testing.assert_close(after[changed.pop()], wanted)
        assert wanted.norm() > 0.01
        assert {"label_texts", "label_scale"} <= task.describe().keys()

    def test_without_such_texts_it_begins_at_zero(self, bert_folder):
        task = Classification(base=bert_folder, labels=("a", "b"), max_length=12)
        model = task.build()
        task.initialise(model)
        assert not model.head.weight.any()

    def test_a_head_that_is_not_trained_cannot_begin_anywhere(self, bert_folder):
        task = Classification(
            base=bert_folder, labels=("a", "b"), max_length=12, label_texts=("river", "stone")
        )
        model = task.build().requires_grad_(False)
        with pytest.raises(ModelError, match="which this adapter must train"):
            task.initialise(model)

    def test_a_factor_on_nothing_is_refused(self):
        with pytest.raises(ConfigError, match="label_scale is a factor on the embeddings"):
            Classification(base="x", labels=("a", "b"), label_scale=2.0)

    @pytest.mark.parametrize("texts", [("one",), ("a", "b", "c"), "ab", ("a", 2), ("a", "")])
    def test_a_text_is_for_each_label(self, texts):
        with pytest.raises(ConfigError, match="one sentence for each of the 2 labels"):
            Classification(base="x", labels=("a", "b"), label_texts=texts)

    @pytest.mark.parametrize("label", [None, 3, -1])
    def test_a_record_without_a_label_of_the_set_is_refused_before_training(
        self, classification, label
    ):
        """A target out of range fails in the loss: after the round's budget was reserved."""
        task, _, tokenizer = classification
        with pytest.raises(DataError, match="label"):
            task.collate(tokenizer, [Record("river", 0), Record("stone", label)])

    @pytest.mark.parametrize("labels", [(), ("a",), ("a", "a"), ("a", "b", "a"), ("a", "")])
    def test_labels_must_be_two_or_more_different_names(self, labels):
        with pytest.raises(ConfigError, match="two or more different"):
            Classification(base="x", labels=labels)

    @pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_logit_scale_out_of_range_is_refused(self, scale):
        with pytest.raises(ConfigError, match="logit_scale"):
            Classification(base="x", labels=("a", "b"), logit_scale=scale)
        with pytest.raises(ConfigError, match="label_scale"):
            Classification(base="x", labels=("a", "b"), label_scale=scale)

    def test_an_unknown_base_is_refused_by_name(self):
        task = Classification(base="nobody/no-such-model", labels=("a", "b"))
        with pytest.raises(ModelError, match="no-such-model"):
            task.build()
        with pytest.raises(ModelError, match="no-such-model"):
            task.tokenizer()


class TestCausalLanguageModel:
    def test_a_loss_is_the_mean_over_the_tokens_after_the_first(self, language):
        task, model, tokenizer = language
        found = losses(language, records())
        for row, record in enumerate(records()):
            batch = task.collate(tokenizer, [record])
            ids = batch["input_ids"][:, : int(batch["attention_mask"].sum())]
            with torch.inference_mode():
                logits = model(input_ids=ids).logits[0, :-1]
            expected = F.cross_entropy(logits, ids[0, 1:])
            assert float(found[row]) == pytest.approx(float(expected), rel=1e-5)

    def test_perplexity_weighs_every_token_alike(self, language):
        task, model, tokenizer = language
        counts = torch.tensor([2.0, 5.0, 9.0])
        with torch.inference_mode():
            parts = task.metric_parts(model, task.collate(tokenizer, records()))
        total = float((losses(language, records()) * counts).sum())
        assert parts == (pytest.approx(total, rel=1e-5), 16.0)
        assert task.metric_value(*parts) == pytest.approx(math.exp(total / 16), rel=1e-5)
        assert task.metric == "perplexity"

    def test_perplexity_of_a_hopeless_model_is_finite(self, language):
        assert language[0].metric_value(1e9, 2.0) == math.exp(700)

    def test_a_record_whose_tokens_are_all_masked_has_loss_and_gradient_zero(self, language):
        task, model, tokenizer = language
        batch = task.collate(tokenizer, records())
        batch["attention_mask"] = batch["attention_mask"].clone()
        batch["attention_mask"][1] = 0
        found = task.losses(model, batch)
        assert float(found[1].detach()) == 0.0
        gradients = torch.autograd.grad(found[1], list(model.parameters()))
        assert not any(bool(gradient.any()) for gradient in gradients)
        assert torch.isfinite(found).all()

    def test_a_record_with_one_token_has_nothing_to_predict(self, language):
        task, model, tokenizer = language
        batch = task.collate(tokenizer, records())
        batch["attention_mask"] = (torch.arange(task.max_length) < 1).long().expand(3, -1)
        assert task.losses(model, batch).tolist() == [0.0, 0.0, 0.0]

    def test_every_text_begins_and_ends_with_its_mark(self, language):
        task, _, tokenizer = language
        ids = task.collate(tokenizer, records())["input_ids"]
        assert ids[:, 0].tolist() == [tokenizer.bos_token_id] * 3
        assert ids[0, 2] == ids[1, 5] == ids[2, 9] == tokenizer.eos_token_id

    def test_without_a_start_mark_the_end_mark_opens_the_text(self, language):
        task, _, tokenizer = language

        class NoStart:
            eos_token, bos_token, pad_token_id = "</s>", None, 0

            def __call__(self, *arguments, **settings):
                return tokenizer(*arguments, **settings)

        ids = task.collate(NoStart(), [Record("river")])["input_ids"]
        assert ids[0, 0] == ids[0, 2] == tokenizer.eos_token_id

    def test_virtual_tokens_in_front_do_not_shift_the_targets(self, language):
        task, model, tokenizer = language
        batch = task.collate(tokenizer, records())

        def with_virtual_tokens(input_ids, attention_mask):
            output = model(input_ids=input_ids, attention_mask=attention_mask)
            front = torch.full((len(input_ids), 4, output.logits.shape[-1]), 9.0)
            output.logits = torch.cat([front, output.logits], dim=1)
            return output

        with torch.inference_mode():
            shifted = task.losses(with_virtual_tokens, batch)
        assert torch.equal(shifted, losses(language, records()))


@pytest.mark.parametrize("length", [1, 0, -3, 2.0, True, None])
def test_a_maximum_length_out_of_range_is_refused(length):
    with pytest.raises(ConfigError, match="max_length"):
        CausalLanguageModel(base="x", max_length=length)
    with pytest.raises(ConfigError, match="max_length"):
        Classification(base="x", labels=("a", "b"), max_length=length)


class TestLoadTask:
    def test_a_folder_without_a_description_is_refused(self, tmp_path):
        with pytest.raises(ModelError, match=r"privfed\.json"):
            load_task(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [
            "no JSON",
            "[]",
            "{}",
            '{"task": "translation"}',
            '{"task": "causal-lm"}',
            '{"task": "causal-lm", "base": "x", "labels": ["a", "b"]}',
            '{"task": "classification", "base": "x", "labels": ["a"]}',
        ],
    )
    def test_a_description_of_another_form_is_refused(self, tmp_path, content):
        (tmp_path / "privfed.json").write_text(content)
        with pytest.raises(ModelError, match=r"privfed\.json"):
            load_task(tmp_path)
