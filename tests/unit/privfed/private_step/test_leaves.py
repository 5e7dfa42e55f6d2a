"""Parameters are replaced by leaves for one pass, and only where every use of them is known."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.dora import DoraLinearLayer
from torch import nn

from privfed.errors import GateError
from privfed.private_step.layers import PerExampleLayer
from privfed.private_step.leaves import ExpandedLeaves, expanded
from privfed.private_step.private_model import PrivateModel
from tests.contracts.private_steps import CPU, claimed_gradients
from tests.unit.privfed.private_step.toy import Toy, toy


def test_a_leaf_holds_one_copy_for_all_records():
    parameter = nn.Parameter(torch.arange(6.0).view(2, 3))
    leaf = expanded(parameter, 5, torch.float32)
    assert leaf.shape == (5, 2, 3)
    assert all(torch.equal(row, parameter) for row in leaf)
    assert leaf.stride(0) == 0
    assert leaf.data_ptr() == parameter.data_ptr()
    assert leaf.is_leaf
    assert leaf.requires_grad


def test_a_leaf_in_another_type_is_cast_once():
    leaf = expanded(nn.Parameter(torch.ones(2, 3)), 5, torch.bfloat16)
    assert leaf.dtype == torch.bfloat16
    assert leaf.stride(0) == 0


def leaves_of(model, records=4):
    return {
        name: expanded(parameter, records, torch.float32)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def test_leaves_are_there_within_the_block_alone():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2, bias=False))
    replaceable, leaves = ExpandedLeaves(model), leaves_of(model, records=2)
    first, _, last = model
    with replaceable.replaced(leaves, examples=3):
        assert first.leaves == {"weight": leaves["0.weight"], "bias": leaves["0.bias"]}
        assert last.leaves == {"weight": leaves["2.weight"]}
        assert (first.records, first.examples) == (2, 3)
    assert first.leaves is last.leaves is None


def test_they_are_taken_out_after_a_failure_too():
    model = nn.Sequential(nn.Linear(4, 3))
    replaceable, leaves = ExpandedLeaves(model), leaves_of(model)
    with pytest.raises(RuntimeError, match="half-way"), replaceable.replaced(leaves):
        raise RuntimeError("half-way")
    assert model[0].leaves is None


def test_layers_that_are_frozen_stay_as_they_are():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).requires_grad_(False)
    model[1].bias.requires_grad_(True)
    ExpandedLeaves(model)
    assert type(model[0]) is nn.Linear
    assert isinstance(model[1], PerExampleLayer)
    assert model[1].full_name == "1"


def test_dora_knows_its_records_also_where_its_magnitudes_are_frozen():
    """It reads the leaves of A and B for the norm."""
    settings = LoraConfig(r=2, target_modules=["0"], use_dora=True)
    model = get_peft_model(nn.Sequential(nn.Linear(4, 3)), settings)
    (layer,) = [module for module in model.modules() if type(module) is DoraLinearLayer]
    layer.requires_grad_(False)
    ExpandedLeaves(model)
    assert isinstance(layer, PerExampleLayer)
    assert layer.full_name.endswith("lora_magnitude_vector.default")


def test_which_parameters_enter_matrix_products_alone():
    """They may be held in low precision; a table that is a matrix elsewhere may not."""
    model = nn.ModuleDict(
        {
            "table": nn.Embedding(7, 4),
            "tied": nn.Linear(4, 7, bias=False),
            "inner": nn.Linear(4, 4),
            "norm": nn.LayerNorm(4),
        }
    )
    model["tied"].weight = model["table"].weight
    assert ExpandedLeaves(model).matrices == {"inner.weight"}


# --- What is used where records cannot be told apart


def test_attention_that_uses_its_weights_as_functions_is_refused():
    with pytest.raises(GateError, match="in_proj"):
        PrivateModel(nn.MultiheadAttention(4, 2), Toy(), CPU)


def test_a_free_parameter_is_refused():
    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return x * self.scale

    with pytest.raises(GateError, match="'scale'.*type Free"):
        PrivateModel(Free(), Toy(), CPU)


def test_tied_layers_share_their_gradient():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = nn.Linear(4, 4)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(torch.tanh(self.first(x)))

    torch.manual_seed(0)
    private, batch = toy(Tied())
    claimed = claimed_gradients(private, batch)
    for index in range(4):
        single = torch.autograd.grad(
            Toy().losses(private.adapter, {"x": batch["x"][index : index + 1]}).sum(),
            [parameter for _, parameter in private.parameters()],
        )
        for (name, _), expected in zip(private.parameters(), single, strict=True):
            assert torch.allclose(claimed[name][index], expected, atol=1e-6), name
