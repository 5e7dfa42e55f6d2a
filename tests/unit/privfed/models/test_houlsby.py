"""Bottlenecks behind the linear layers of blocks: where they stand, what they compute and keep."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from privfed.errors import ConfigError, ModelError
from privfed.models.classification import Classification
from privfed.models.houlsby import Houlsby, HoulsbyLayer, HoulsbyModel
from privfed.models.in_place import InPlace
from privfed.models.vector import read_vector, trainable, write_vector

WIDTH, INNER, BOTTLENECK = 4, 6, 3


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(WIDTH, INNER)
        self.outer = Conv1D(WIDTH, INNER)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x):
        return self.norm(x + self.outer(torch.tanh(self.inner(x))))


class Small(nn.Module):
    """Three blocks, and a head and a layer with the name of one inside behind them."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.outer = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x, shift=0.0):
        for block in self.blocks:
            x = block(x)
        return self.head(self.outer(x)) + shift


ADAPTER = Houlsby(bottleneck=BOTTLENECK, target_modules=("outer",))
X = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))


def small():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Small()


def names(model):
    return {name for name, _ in trainable(model.base)}


def moved(model):
    values = np.random.default_rng(8).normal(size=read_vector(model).size).astype(np.float32)
    write_vector(model, values)
    return model


def bottlenecks(*places):
    return {f"{p}.{part}.{key}" for p in places for part in ("down", "up") for key in KEYS}


KEYS = ("weight", "bias")


def test_a_bottleneck_by_hand():
    """h = 2 x = 6; down(h) = h - 5 = 1; h + 10 GELU(1) + 0.5 with GELU(1) = Phi(1)."""
    base = nn.Linear(1, 1, bias=False)
    layer = HoulsbyLayer(base, width=1, bottleneck=1)
    values = (base.weight, 2.0), (layer.down.weight, 1.0), (layer.down.bias, -5.0)
    with torch.no_grad():
        for parameter, value in (*values, (layer.up.weight, 10.0), (layer.up.bias, 0.5)):
            parameter.fill_(value)
        found = float(layer(torch.tensor([3.0])))
    assert found == pytest.approx(6 + 10 * (0.5 + 0.5 * math.erf(1 / 2**0.5)) + 0.5, rel=1e-6)


class TestWhereTheyStand:
    def test_behind_every_target_in_a_block_and_nothing_else_is_trained(self):
        model = ADAPTER.attach(small(), (), 0)
        assert names(model) == bottlenecks(*(f"blocks.{n}.outer" for n in range(3)))
        assert model.base.blocks[1].outer.down.weight.shape == (BOTTLENECK, WIDTH)

    def test_in_the_named_blocks_alone(self):
        model = replace(ADAPTER, target_modules=("inner", "outer"), layers=(0, 2)).attach(
            small(), (), 0
        )
        places = [f"blocks.{n}.{module}" for n in (0, 2) for module in ("inner", "outer")]
        assert names(model) == bottlenecks(*places)
        assert model.base.blocks[2].inner.up.weight.shape == (INNER, BOTTLENECK)

    def test_the_head_is_trained_too(self):
        model = ADAPTER.attach(small(), ("head",), 0)
        assert names(model) - bottlenecks(*(f"blocks.{n}.outer" for n in range(3))) == {
            "head.weight",
            "head.bias",
        }

    def test_behind_both_outputs_of_a_bert_block(self, bert_folder):
        task = Classification(base=bert_folder, labels=("a", "b"), max_length=12)
        adapter = Houlsby(bottleneck=3, target_modules=("attention.output.dense", "output.dense"))
        model = adapter.attach(task.build(), task.modules_to_save, 0)
        layers = [name for name, m in model.named_modules() if isinstance(m, HoulsbyLayer)]
        assert len(layers) == 4
        assert sum(".attention.output." in name for name in layers) == 2
        assert {n for n in names(model) if ".layer." not in n} == {"head.weight", "head.bias"}


def test_it_starts_as_the_base_model():
    base = small()
    expected = base(X, shift=1.0)
    assert torch.equal(ADAPTER.attach(base, ("head",), 0)(X, shift=1.0), expected)


def test_the_seed_decides_and_the_state_of_the_process_neither_enters_nor_changes():
    torch.manual_seed(1)
    first = read_vector(ADAPTER.attach(small(), (), 4))
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    again = read_vector(ADAPTER.attach(small(), (), 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(first, again)
    assert not np.array_equal(first, read_vector(ADAPTER.attach(small(), (), 5)))


def test_it_is_float32_around_a_layer_of_another_type():
    layer = HoulsbyLayer(nn.Linear(WIDTH, INNER).bfloat16(), INNER, BOTTLENECK)
    assert layer(X.bfloat16()).dtype == torch.bfloat16
    assert layer.up.weight.dtype == torch.float32


class TestSaving:
    @pytest.mark.parametrize("layers", [None, (0, 2)])
    def test_what_is_saved_is_what_is_trained_and_comes_back(self, layers, tmp_path):
        model = moved(replace(ADAPTER, layers=layers).attach(small(), ("head",), 0))
        model.save_pretrained(tmp_path)
        found = HoulsbyModel.from_pretrained(small(), tmp_path)
        assert found.adapter == model.adapter
        assert torch.equal(found(X), model(X))
        assert not torch.equal(found(X), small()(X))

    def test_another_base_model_is_refused(self, tmp_path):
        model = ADAPTER.attach(small(), ("head",), 0)
        model.save_pretrained(tmp_path)
        other = small()
        other.head = nn.Linear(WIDTH, 3)
        with pytest.raises(ModelError, match=r"another base model.*head\.weight"):
            HoulsbyModel.from_pretrained(other, tmp_path)
        with pytest.raises(ModelError, match=r"\['outer'\] name no module in a block"):
            HoulsbyModel.from_pretrained(nn.Linear(2, 2), tmp_path)

    @pytest.mark.parametrize(
        "content", ["", "[]", "{}", '{"bottleneck": 3}', '{"bottleneck": 0, "target_modules": []}']
    )
    def test_settings_that_say_nothing_are_refused(self, content, tmp_path):
        ADAPTER.attach(small(), (), 0).save_pretrained(tmp_path)
        (tmp_path / "houlsby.json").write_text(content)
        with pytest.raises(ModelError, match=r"houlsby\.json .* must say where"):
            HoulsbyModel.from_pretrained(small(), tmp_path)

    def test_settings_that_name_more_than_was_saved_are_refused(self, tmp_path):
        replace(ADAPTER, layers=(1,)).attach(small(), (), 0).save_pretrained(tmp_path)
        values = json.loads((tmp_path / "houlsby.json").read_text())
        (tmp_path / "houlsby.json").write_text(json.dumps({**values, "layers": [1, 2]}))
        with pytest.raises(ModelError, match=r"4 are missing \('blocks\.2\.outer"):
            HoulsbyModel.from_pretrained(small(), tmp_path)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"bottleneck": 0}, "bottleneck must be"),
            ({"bottleneck": 1.5}, "bottleneck must be"),
            ({"target_modules": ()}, "target_modules must be a tuple"),
            ({"target_modules": "outer"}, "target_modules must be a tuple"),
            ({"layers": ()}, "layers must be a tuple"),
            ({"layers": (-1,)}, "layers must be a tuple"),
        ],
    )
    def test_settings_without_meaning(self, changes, named):
        with pytest.raises(ConfigError, match=named):
            replace(ADAPTER, **changes)

    @pytest.mark.parametrize("name", ["otuer", "uter", "head"])
    def test_names_that_no_block_has(self, name):
        """The head lies outside of the blocks."""
        adapter = replace(ADAPTER, target_modules=("outer", name))
        with pytest.raises(ModelError, match=rf"\['{name}'\] name no module in a block"):
            adapter.attach(small(), (), 0)

    def test_blocks_that_are_not_there(self):
        with pytest.raises(ModelError, match=r"layers \[3, 7\] are no blocks"):
            replace(ADAPTER, layers=(0, 3, 7)).attach(small(), (), 0)

    def test_a_module_that_is_not_linear(self):
        with pytest.raises(ModelError, match=r"'blocks\.0\.norm' is of type LayerNorm"):
            replace(ADAPTER, target_modules=("norm",)).attach(small(), (), 0)


def test_its_description_is_json_and_tells_settings_apart():
    described = replace(ADAPTER, layers=(1,)).describe()
    assert json.loads(json.dumps(described)) == {
        "adapter": "houlsby",
        "bottleneck": 3,
        "target_modules": ["outer"],
        "layers": [1],
    }
    assert ADAPTER.describe()["layers"] == "all"
    assert ADAPTER.describe() != InPlace.biases().describe()
