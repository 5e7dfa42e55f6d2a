"""A base model is loaded frozen, finite and without dropout, and refused where it does not fit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, BertForMaskedLM, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from privfed import CausalLanguageModel, Classification, LoRA
from privfed.errors import ConfigError, ModelError
from privfed.models.load import (
    cache_folder,
    choose_device,
    convert_gguf_llama,
    load_pretrained,
    load_tokenizer,
    require_causal,
    require_finite,
)
from privfed.settings.computation import BaseWeights
from tests.unit.privfed.models.saved_models import FILE, language_model


class TestDevices:
    def test_as_named(self):
        assert choose_device("cpu") == torch.device("cpu")

    @pytest.mark.parametrize(("there", "kind"), [(True, "cuda"), (False, "cpu")])
    def test_else_what_there_is(self, there, kind, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
        assert choose_device().type == kind

    @pytest.mark.parametrize("name", ["gpu", "cuda:first", ""])
    def test_a_name_of_no_device(self, name):
        with pytest.raises(ConfigError, match="device must be 'cpu', 'cuda' or 'cuda:N', got"):
            choose_device(name)

    def test_a_card_that_is_not_there_is_counted(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        with pytest.raises(ConfigError, match=r"'cuda:2' is not there: PyTorch sees 2 CUDA"):
            choose_device("cuda:2")

    def test_a_device_that_cannot_hold_a_number(self):
        with pytest.raises(ConfigError, match="the device 'meta' cannot be used: ") as caught:
            choose_device("meta")
        assert "\n" not in str(caught.value)


class TestLoading:
    @pytest.mark.parametrize(
        ("weights", "dtype"),
        [(BaseWeights.FLOAT32, torch.float32), (BaseWeights.BFLOAT16, torch.bfloat16)],
    )
    def test_weights_are_held_as_asked(self, weights, dtype, bert_folder):
        model = load_pretrained(AutoModel.from_pretrained, bert_folder, weights)
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}

    def test_dropout_is_off(self, bert_folder):
        plain = AutoModel.from_pretrained(bert_folder)
        model = load_pretrained(AutoModel.from_pretrained, bert_folder, BaseWeights.FLOAT32)
        assert plain.config.hidden_dropout_prob == 0.1
        assert model.config.hidden_dropout_prob == 0.0
        assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}

    @pytest.mark.parametrize("value", [float("nan"), float("-inf")])
    def test_a_weight_that_is_not_finite_is_named(self, value, llama_folder, changed):
        name = "model.layers.1.mlp.up_proj.weight"

        def spoiled(found):
            found[name][3, 2] = value
            return found

        with pytest.raises(ModelError, match=rf"'{name}' of the base model holds NaN or infinity"):
            language_model(changed(llama_folder, spoiled))

    def test_whole_numbers_are_finite(self):
        model = torch.nn.Linear(2, 2)
        model.codes = torch.nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
        require_finite(model)

    def test_transformers_is_as_loud_as_before(self, llama_folder):
        before = transformers_logging.get_verbosity()
        language_model(llama_folder)
        with pytest.raises(ModelError):
            language_model("nobody/no-such-model")
        assert transformers_logging.get_verbosity() == before != transformers_logging.ERROR

    def test_an_adapter_beside_the_model(self, llama_folder, changed, tmp_path):
        """transformers would load both, and speak of the adapter alone."""
        base = changed(llama_folder)
        LoRA(rank=2, target_modules=("q_proj",)).attach(
            language_model(llama_folder), (), 0
        ).save_pretrained(base)
        with pytest.raises(ModelError, match="holds an adapter on top of another model"):
            language_model(base)


class TestTokenizer:
    def test_the_end_token_fills_up_where_nothing_else_does(self, llama_folder, changed):
        base = changed(llama_folder)
        tokenizer = AutoTokenizer.from_pretrained(llama_folder)
        tokenizer.pad_token = None
        tokenizer.save_pretrained(base)
        loaded = load_tokenizer(base)
        assert loaded.pad_token == loaded.eos_token == "</s>"

    def test_padding_is_on_the_right_whatever_was_saved(self, llama_folder, changed):
        base = changed(llama_folder)
        path = Path(base) / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "padding_side": "left"}))
        assert AutoTokenizer.from_pretrained(base).padding_side == "left"
        assert load_tokenizer(base).padding_side == "right"

    def test_its_own_padding_stays(self, llama_folder):
        assert load_tokenizer(llama_folder).pad_token == "[PAD]"


def test_a_tokenizer_without_a_token_to_fill_up_with_is_refused(llama_folder, changed):
    base = changed(llama_folder)
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(base)
    with pytest.raises(ModelError, match="padding or an end token"):
        CausalLanguageModel(base=base).tokenizer()


class TestABaseModelThatDoesNotFit:
    def test_an_encoder_is_no_language_model(self, bert_folder, tmp_path):
        """It would see the token that it is to predict."""
        BertForMaskedLM.from_pretrained(bert_folder).save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(bert_folder).save_pretrained(tmp_path)
        with pytest.raises(ModelError, match="sees later tokens"):
            CausalLanguageModel(base=str(tmp_path), max_length=12).build()

    def test_a_length_beyond_the_positions_is_named(self, bert_folder):
        with pytest.raises(ConfigError, match=r"max_length must be at most \d+, the positions"):
            Classification(base=bert_folder, labels=("a", "b"), max_length=4096).build()

    def test_a_tokenizer_beyond_the_embeddings_is_refused(self, llama_folder, monkeypatch):
        task = CausalLanguageModel(base=llama_folder, max_length=12)
        larger = task.tokenizer()
        larger.add_tokens([f"<extra {number}>" for number in range(500)])
        monkeypatch.setattr("privfed.models.tasks.load_tokenizer", lambda _: larger)
        with pytest.raises(ModelError, match="do not belong together"):
            task.build()

    def test_a_causal_model_is_one(self, llama_folder):
        require_causal(language_model(llama_folder))


class TestConversion:
    """The GGUF of the demonstration, as it is read, without its 135 million weights."""

    @pytest.fixture
    def convert(self, llama_folder, tmp_path, monkeypatch):
        model = LlamaForCausalLM.from_pretrained(llama_folder)
        tokenizer = AutoTokenizer.from_pretrained(llama_folder)
        missing = set()

        def read(place, gguf_file, dtype, **_):
            return model, {
                "missing_keys": missing,
                "unexpected_keys": set(),
                "mismatched_keys": set(),
            }

        monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", read)
        monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

        def run(*names):
            missing.update(names)
            return convert_gguf_llama(tmp_path / "model.gguf", "small")

        return run

    def test_what_was_converted_holds_the_weights_that_were_read(self, convert, llama_folder):
        name = "model.layers.1.mlp.up_proj.weight"
        converted = load_file(Path(convert()) / FILE)[name]
        assert torch.equal(converted, load_file(Path(llama_folder) / FILE)[name].bfloat16())
        assert [path.name for path in Path(convert()).parent.iterdir()] == ["small"]

    def test_a_file_without_all_weights_is_refused(self, convert, tmp_path):
        with pytest.raises(ModelError, match=r"1 are not in its files .*\('lm_head.weight'\)"):
            convert("lm_head.weight")
        assert not (tmp_path / "cache").exists()

    def test_a_cache_that_cannot_be_written_is_named_in_one_line(self, convert, tmp_path):
        (tmp_path / "cache").write_text("a file, no folder")
        with pytest.raises(ModelError, match="cannot be written to .*XDG_CACHE_HOME") as refused:
            convert()
        assert "\n" not in str(refused.value)

    def test_what_was_converted_once_is_not_read_again(self, convert, monkeypatch):
        folder = convert()
        monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", None)
        assert convert() == folder

    def test_a_gguf_file_that_is_none(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(20))
        with pytest.raises(ModelError, match=r"model\.gguf' cannot be loaded"):
            convert_gguf_llama(tmp_path / "model.gguf", "none")


def test_where_converted_models_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "privfed"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == Path.home() / ".cache/privfed"
