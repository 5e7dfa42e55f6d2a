"""A base model is trained on as it was saved, or not at all."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
)

from privfed import CausalLanguageModel, Classification, LoRA
from privfed.data.packaged import minilm_folder
from privfed.errors import ModelError
from privfed.models.load import convert_gguf_llama, load_pretrained
from privfed.settings.computation import BaseWeights

FILE = "model.safetensors"


@pytest.fixture
def changed(tmp_path):
    """A copy of a model's folder with other weights or another configuration."""

    def make(folder, weights=lambda found: found, **settings):
        copy = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(folder, copy)
        save_file(weights(load_file(copy / FILE)), copy / FILE, metadata={"format": "pt"})
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, **settings}))
        return str(copy)

    return make


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


def language_model(base):
    return load_pretrained(AutoModelForCausalLM.from_pretrained, base, BaseWeights.FLOAT32)


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

    def test_an_adapter_beside_the_model(self, llama_folder, changed, tmp_path):
        """transformers would load both, and speak of the adapter alone."""
        base = changed(llama_folder)
        LoRA(rank=2, target_modules=("q_proj",)).attach(
            language_model(llama_folder), (), 0
        ).save_pretrained(base)
        with pytest.raises(ModelError, match="holds an adapter on top of another model"):
            language_model(base)


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


class TestFilesThatCannotBeRead:
    def refused(self, base, message):
        with pytest.raises(ModelError, match=message) as refused:
            language_model(base)
        assert "\n" not in str(refused.value)

    def test_a_pointer_of_git_lfs(self, llama_folder, changed):
        base = changed(llama_folder)
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
        (Path(base) / FILE).write_text(pointer)
        self.refused(base, "model.safetensors is a pointer of git-lfs.*git lfs pull")

    def test_a_tokenizer_that_is_a_pointer(self, llama_folder, changed):
        base = changed(llama_folder)
        (Path(base) / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
        with pytest.raises(ModelError, match="tokenizer.json is a pointer of git-lfs"):
            CausalLanguageModel(base=base).tokenizer()

    @pytest.mark.parametrize("kept", [0, 7, 400, -1])
    def test_a_file_that_was_cut_short(self, kept, llama_folder, changed):
        base = changed(llama_folder)
        whole = (Path(base) / FILE).read_bytes()
        (Path(base) / FILE).write_bytes(whole[:kept])
        self.refused(base, "model.safetensors is damaged or cut short; copy it again")

    def test_a_shape_that_does_not_fit_the_bytes(self, llama_folder, changed):
        base = changed(llama_folder)
        whole = (Path(base) / FILE).read_bytes()
        (Path(base) / FILE).write_bytes(whole.replace(b"[32]", b"[33]"))
        self.refused(base, "model.safetensors is damaged")

    def test_weights_of_another_kind_of_file(self, llama_folder, changed):
        base = changed(llama_folder)
        (Path(base) / FILE).unlink()
        (Path(base) / "pytorch_model.bin").write_bytes(b"no weights")
        self.refused(base, "cannot be loaded.*take an intact copy")

    @pytest.mark.parametrize(
        "config",
        [
            "no JSON",
            "{}",
            "[1]",
            '{"model_type": "none"}',
            '{"model_type": "vit"}',
            '{"model_type": "llama", "hidden_size": "32"}',
            '{"model_type": "llama", "num_attention_heads": 0}',
        ],
    )
    def test_a_configuration_of_no_model(self, config, llama_folder, changed):
        base = changed(llama_folder)
        (Path(base) / "config.json").write_text(config)
        self.refused(base, "cannot be loaded")

    def test_a_folder_without_a_configuration(self, llama_folder, changed):
        base = changed(llama_folder)
        (Path(base) / "config.json").unlink()
        self.refused(base, "no config.json; write it with save_pretrained")

    def test_an_index_that_names_a_missing_part(self, llama_folder, changed):
        base = changed(llama_folder)
        (Path(base) / FILE).unlink()
        index = {
            "metadata": {},
            "weight_map": {"model.norm.weight": "model-00001-of-2.safetensors"},
        }
        (Path(base) / f"{FILE}.index.json").write_text(json.dumps(index))
        self.refused(base, "model-00001-of-2.safetensors")

    def test_a_gguf_file_that_is_none(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(20))
        with pytest.raises(ModelError, match=r"model\.gguf' cannot be loaded"):
            convert_gguf_llama(tmp_path / "model.gguf", "none")


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


def test_a_tokenizer_without_a_token_to_fill_up_with_is_refused(llama_folder, changed):
    base = changed(llama_folder)
    tokenizer = AutoTokenizer.from_pretrained(llama_folder)
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(base)
    with pytest.raises(ModelError, match="padding or an end token"):
        CausalLanguageModel(base=base).tokenizer()


def small_bert():
    return BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    )
