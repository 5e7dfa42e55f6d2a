"""Why files of a model cannot be read: one line, with what to do."""

import json
from pathlib import Path

import pytest

from privfed import CausalLanguageModel
from privfed.errors import ModelError
from privfed.models.loading_errors import explained
from tests.unit.privfed.models.saved_models import FILE, language_model


class TestWhatIsSaid:
    """Of an error of a library; what is wrong with the folder comes first."""

    ERROR = KeyError("no\n  such   key")

    def test_what_the_library_said_in_one_line(self, llama_folder):
        expected = "KeyError: 'no\\n such key'; take an intact copy, or another model"
        assert explained(llama_folder, self.ERROR) == expected

    def test_a_name_is_no_folder_to_look_into(self):
        error = OSError("cannot\n reach it")
        assert explained("nobody/no-such-model", error).startswith("OSError: cannot reach it; ")

    def test_much_is_cut(self):
        """Libraries list a whole configuration."""
        said = explained("nobody/no-such-model", ValueError("x" * 299 + "yz"))
        assert "x" * 299 + "y; take" in said

    def test_a_pointer_comes_before_a_missing_configuration(self, tmp_path):
        (tmp_path / "b.safetensors").write_bytes(b"cut")
        assert explained(tmp_path, self.ERROR).startswith("b.safetensors is damaged or cut short")
        (tmp_path / "vocab.txt").write_bytes(b"version https://git-lfs.github.com/spec/v1")
        assert explained(tmp_path, self.ERROR).startswith("vocab.txt is a pointer of git-lfs")

    @pytest.mark.parametrize("name", ["config.json", "adapter_config.json", "privfed.json"])
    def test_a_folder_that_describes_itself_is_not_asked_for_more(self, name, tmp_path):
        assert "has no config.json" in explained(tmp_path, self.ERROR)
        (tmp_path / name).write_text("{}")
        assert explained(tmp_path, self.ERROR).startswith("KeyError")


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
