import json

import pytest
import torch
from torch import nn

from privfed.errors import ConfigError, ModelError
from privfed.models.in_place import InPlace, InPlaceModel


class Small(nn.Module):
    """Three blocks, an embedding in front and a head behind."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.pair = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.head = nn.Linear(4, 2)
        self.pooler = nn.Linear(4, 4)

    def forward(self, x, shift=0.0):
        for block in self.blocks:
            x = block(x)
        return self.head(x) + shift


def trained(model):
    return {name for name, parameter in model.base.named_parameters() if parameter.requires_grad}


def test_biases_by_hand():
    model = InPlace.biases().attach(Small(), (), 0)
    assert trained(model) == {
        *(f"blocks.{index}.bias" for index in range(3)),
        *(f"pair.{index}.bias" for index in range(2)),
        "head.bias",
    }


def test_last_layers_are_those_of_the_longest_list():
    model = InPlace(last_layers=2).attach(Small(), (), 0)
    assert trained(model) == {f"blocks.{i}.{n}" for i in (1, 2) for n in ("weight", "bias")}


def test_new_modules_are_trained_too():
    model = InPlace(last_layers=1).attach(Small(), ("head",), 0)
    assert {"head.weight", "head.bias"} < trained(model)


def test_what_is_excluded_stays_frozen():
    model = InPlace(patterns=("*",), excluded=("blocks.0.*",)).attach(Small(), (), 0)
    names = trained(model)
    assert not any(name.startswith("blocks.0") for name in names)
    assert "pooler.bias" in names


def test_what_was_trainable_is_frozen():
    base = Small()
    model = InPlace(patterns=("head.bias",)).attach(base, (), 0)
    assert trained(model) == {"head.bias"}


def test_it_computes_what_the_base_computes():
    base = Small()
    x = torch.ones(2, 4)
    expected = base(x, shift=1.0)
    assert torch.equal(InPlace.biases().attach(base, (), 0)(x, shift=1.0), expected)


def test_what_is_saved_is_what_is_trained_and_comes_back(tmp_path):
    model = InPlace.biases().attach(Small(), (), 0)
    model.save_pretrained(tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["trained.safetensors"]
    other = InPlaceModel.from_pretrained(Small(), tmp_path / "new")
    for name in trained(model):
        assert torch.equal(model.base.get_parameter(name), other.base.get_parameter(name))
    assert not torch.equal(model.base.head.weight, other.base.head.weight)


def test_weights_of_another_model_are_refused(tmp_path):
    InPlace.biases().attach(Small(), (), 0).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="another base model"):
        InPlaceModel.from_pretrained(nn.Linear(4, 4), tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path):
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)

    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

    InPlace(patterns=("*",)).attach(Wide(), (), 0).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"another base model.*layer\.weight"):
        InPlaceModel.from_pretrained(Narrow(), tmp_path)


def test_patterns_that_match_nothing_are_refused():
    with pytest.raises(ModelError, match="no parameter"):
        InPlace(patterns=("*.gamma",)).attach(Small(), (), 0)


def test_a_head_alone_is_no_match():
    """The patterns must match something of their own."""
    with pytest.raises(ModelError, match="no parameter"):
        InPlace(patterns=("*.gamma",)).attach(Small(), ("head",), 0)


def test_more_layers_than_there_are_are_refused():
    with pytest.raises(ConfigError, match="last_layers = 4 of a model with 3"):
        InPlace(last_layers=4).attach(Small(), (), 0)


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ModelError, match="list of blocks"):
        InPlace(last_layers=1).attach(nn.Linear(2, 2), (), 0)


@pytest.mark.parametrize("settings", [{}, {"last_layers": -1}, {"last_layers": 1.5}])
def test_settings_without_meaning_are_refused(settings):
    with pytest.raises(ConfigError):
        InPlace(**settings)


def test_it_describes_itself_as_json():
    described = InPlace(patterns=("*.bias",), last_layers=1).describe()
    assert described["adapter"] == "in-place"
    assert json.loads(json.dumps(described)) == described
