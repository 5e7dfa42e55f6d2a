"""A base model is trained on as it was saved, or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
)

from privfed import CausalLanguageModel, Classification
from privfed.data.packaged import minilm_folder
from privfed.errors import ModelError
from privfed.models.load import load_pretrained
from privfed.settings.computation import BaseWeights
from tests.unit.privfed.models.saved_models import FILE, language_model


@pytest.fixture(params=["bert", "llama", "gpt2"])
def kind(request):
    return request.param


@pytest.fixture
def folder(kind, bert_folder, llama_folder, gpt2_folder):
    return {"bert": bert_folder, "llama": llama_folder, "gpt2": gpt2_folder}[kind]


def build(kind, base):
    if kind == "bert":
        return Classification(base=base, labels=("a", "b"), max_length=12).build()
    return CausalLanguageModel(base=base, max_length=12).build()


def encoder(base):
    return load_pretrained(AutoModel.from_pretrained, base, BaseWeights.FLOAT32)


class TestWhatIsRefused:
    @pytest.mark.parametrize("prefix", ["_module.", "_orig_mod.", "module.", "base_model.model."])
    def test_names_of_a_wrapped_model(self, prefix, kind, folder, changed):
        """All weights would be random: a budget was spent on one such model."""
        wrapped = changed(folder, lambda found: {prefix + name: t for name, t in found.items()})
        with pytest.raises(ModelError, match=rf"would be random .*begin with '{prefix}'"):
            build(kind, wrapped)

    def test_missing_weights_are_named_and_counted(self, kind, folder, changed):
        def without_second_block(found):
            return {name: t for name, t in found.items() if ".1." not in name}

        with pytest.raises(ModelError, match=r"\d+ are not in its files .*\.1\..*, \.\.\.\)"):
            build(kind, changed(folder, without_second_block))

    def test_one_missing_weight(self, llama_folder, changed):
        name = "model.layers.1.input_layernorm.weight"
        base = changed(llama_folder, lambda found: {n: t for n, t in found.items() if n != name})
        with pytest.raises(ModelError, match=rf"1 are not in its files .*\('{name}'\)"):
            build("llama", base)

    def test_a_configuration_with_more_blocks_than_weights(self, kind, folder, changed):
        key = "n_layer" if kind == "gpt2" else "num_hidden_layers"
        with pytest.raises(ModelError, match=r"would be random .*\.2\."):
            build(kind, changed(folder, **{key: 3}))

    def test_a_configuration_with_fewer_blocks_than_weights(self, kind, folder, changed):
        key = "n_layer" if kind == "gpt2" else "num_hidden_layers"
        with pytest.raises(ModelError, match=r"no place in the model .*\.1\."):
            build(kind, changed(folder, **{key: 1}))

    def test_a_vocabulary_of_another_size(self, kind, folder, changed):
        with pytest.raises(ModelError, match=r"another shape in its files .*(embed|wte)"):
            build(kind, changed(folder, vocab_size=70))

    @pytest.mark.parametrize("name", ["q_proj.bias", "q_proj.lora_A.default.weight"])
    def test_weights_that_the_model_would_leave_out(self, name, llama_folder, changed):
        extra = {f"model.layers.0.self_attn.{name}": torch.ones(32)}
        with pytest.raises(ModelError, match=rf"1 of its files have no place .*{name}"):
            build("llama", changed(llama_folder, lambda found: {**found, **extra}))

    def test_a_body_with_a_prefix_and_fewer_blocks(self, bert_folder, tmp_path, changed):
        BertForMaskedLM(small_bert()).save_pretrained(tmp_path / "masked")
        with pytest.raises(ModelError, match=r"no place in the model .*layer\.1\."):
            encoder(changed(tmp_path / "masked", num_hidden_layers=1))

    def test_a_language_model_without_its_head(self, llama_folder, tmp_path):
        LlamaModel.from_pretrained(llama_folder).save_pretrained(tmp_path)
        with pytest.raises(ModelError, match=r"random \('lm_head.weight'\)"):
            language_model(str(tmp_path))


class TestWhatIsFine:
    def test_a_model_as_it_was_saved(self, kind, folder):
        build(kind, folder)

    def test_a_pooler_that_is_not_there(self, bert_folder, changed):
        def without_pooler(found):
            return {name: t for name, t in found.items() if "pooler" not in name}

        assert len(without_pooler(load_file(Path(bert_folder) / FILE))) > 0
        encoder(changed(bert_folder, without_pooler))

    @pytest.mark.parametrize("head", [BertForMaskedLM, BertForSequenceClassification])
    def test_a_head_that_is_not_needed(self, head, tmp_path):
        saved = head(small_bert())
        saved.save_pretrained(tmp_path)
        expected = saved.bert.encoder.layer[1].output.dense.weight
        assert torch.equal(encoder(str(tmp_path)).encoder.layer[1].output.dense.weight, expected)

    def test_the_body_of_a_model_with_tied_embeddings(self, gpt2_folder, tmp_path):
        GPT2Model.from_pretrained(gpt2_folder).save_pretrained(tmp_path)
        model = language_model(str(tmp_path))
        assert model.lm_head.weight is model.transformer.wte.weight

    def test_a_tied_head_is_not_missing(self, tmp_path):
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=64,
            tie_word_embeddings=True,
        )
        LlamaForCausalLM(config).save_pretrained(tmp_path)
        assert "lm_head.weight" not in load_file(tmp_path / FILE)
        language_model(str(tmp_path))

    @pytest.mark.parametrize("constant", ["bias", "masked_bias"])
    def test_constants_of_old_files(self, constant, gpt2_folder, changed):
        old = {f"transformer.h.1.attn.{constant}": torch.ones(1)}
        language_model(changed(gpt2_folder, lambda found: {**found, **old}))

    def test_positions_that_old_files_hold(self, bert_folder, changed):
        old = {"embeddings.position_ids": torch.arange(64)[None]}
        encoder(changed(bert_folder, lambda found: {**found, **old}))

    def test_the_encoder_of_the_demonstration(self):
        encoder(minilm_folder())


def small_bert():
    return BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    )
