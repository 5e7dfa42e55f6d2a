"""Layers with leaves: every record meets parameters of its own, or the layer refuses."""

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from peft.tuners.ia3.layer import Linear as IA3Linear
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from privfed.errors import GateError
from privfed.models.sparse_update import SparseLinear
from privfed.private_step.layers import (
    PerExampleLayer,
    _row_norms,
    is_matrix_product,
    per_example_class,
)
from privfed.private_step.leaves import expanded
from privfed.private_step.private_model import PrivateModel
from tests.contracts.private_steps import CPU
from tests.unit.privfed.private_step.toy import Toy, toy

RECORDS, EXAMPLES, TOKENS, IN, OUT = 3, 2, 5, 4, 6
INPUT = torch.randn(RECORDS * EXAMPLES, TOKENS, IN, generator=torch.Generator().manual_seed(0))
TOKEN_NUMBERS = torch.arange(RECORDS * EXAMPLES * TOKENS).view(-1, TOKENS) % 7


def scaled(feedforward):
    """PEFT's layer around a linear one; it stands in a model of its own."""
    model = nn.Sequential(nn.Linear(IN, OUT))
    inputs = ["0"] if feedforward else []
    settings = IA3Config(target_modules=["0"], feedforward_modules=inputs)
    (layer,) = [m for m in get_peft_model(model, settings).modules() if type(m) is IA3Linear]
    return layer


LAYERS = {
    "linear": lambda: (nn.Linear(IN, OUT), INPUT),
    "linear without bias": lambda: (nn.Linear(IN, OUT, bias=False), INPUT),
    "conv1d": lambda: (Conv1D(OUT, IN), INPUT),
    "embedding": lambda: (nn.Embedding(7, OUT), TOKEN_NUMBERS),
    "layer norm": lambda: (nn.LayerNorm(IN, eps=0.1), INPUT),
    "rms norm": lambda: (LlamaRMSNorm(IN, eps=0.1), INPUT),
    "scaled output": lambda: (scaled(False), INPUT),
    "scaled input": lambda: (scaled(True), INPUT),
    "sparse update": lambda: (SparseLinear(nn.Linear(IN, OUT), POSITIONS), INPUT),
}


POSITIONS = torch.tensor([1, 6, 9, 22, 23])


def own_parameters(layer):
    if isinstance(layer, SparseLinear):
        return {"values": layer.values}
    if isinstance(layer, IA3Linear):
        return dict(layer.ia3_l.named_parameters())
    return dict(layer.named_parameters())


def with_leaves(layer, leaves):
    """The layer under its new class, for one pass."""
    layer.__class__ = per_example_class(layer)
    layer.records, layer.examples, layer.leaves = RECORDS, EXAMPLES, leaves
    return layer


@pytest.fixture(params=LAYERS)
def case(request):
    """A layer, what it reads, and values of its parameters for every record."""
    torch.manual_seed(1)
    layer, read = LAYERS[request.param]()
    values = {
        name: torch.randn(RECORDS, *parameter.shape)
        for name, parameter in own_parameters(layer).items()
    }
    return layer, read, values


def one_by_one(layer, read, values):
    """The plain layer on each record, under that record's values."""
    outputs = []
    before = {name: p.detach().clone() for name, p in own_parameters(layer).items()}
    for record, part in enumerate(read.split(EXAMPLES)):
        with torch.no_grad():
            for name, parameter in own_parameters(layer).items():
                parameter.copy_(values[name][record] if name in values else before[name])
            outputs.append(layer(part))
    with torch.no_grad():
        for name, parameter in own_parameters(layer).items():
            parameter.copy_(before[name])
    return torch.cat(outputs)


def test_every_record_meets_its_own_parameters(case):
    layer, read, values = case
    expected = one_by_one(layer, read, values)
    found = with_leaves(layer, values)(read)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("kind", ["linear", "conv1d", "layer norm"])
def test_a_parameter_without_a_leaf_is_that_of_the_layer(kind, name):
    torch.manual_seed(1)
    layer, read = LAYERS[kind]()
    nn.init.normal_(layer.bias)
    values = {name: torch.randn(RECORDS, *own_parameters(layer)[name].shape)}
    expected = one_by_one(layer, read, values)
    found = with_leaves(layer, values)(read)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_without_leaves_it_is_the_layer_itself(case):
    layer, read, _ = case
    expected = layer(read)
    assert torch.equal(with_leaves(layer, None)(read), expected)


def test_the_class_alone_changes(case):
    layer, _, _ = case
    names = [name for name, _ in layer.named_parameters()]
    kind, before = type(layer), vars(layer).keys()
    layer.__class__ = per_example_class(layer)
    assert isinstance(layer, kind)
    assert isinstance(layer, PerExampleLayer)
    assert [name for name, _ in layer.named_parameters()] == names
    assert vars(layer).keys() == before
    assert per_example_class(layer) is type(layer)


def test_a_sparse_update_has_the_gradients_of_the_dense_matrix_at_its_positions():
    """Of records with values of their own, against autograd through dense matrices."""
    layer = SparseLinear(nn.Linear(IN, OUT), POSITIONS)
    values = torch.randn(RECORDS, len(POSITIONS), requires_grad=True)
    read = INPUT.clone().requires_grad_()
    factor = torch.randn(RECORDS * EXAMPLES, TOKENS, OUT)
    (with_leaves(layer, {"values": values})(read) * factor).sum().backward()
    matrices = torch.zeros(RECORDS, OUT * IN).index_copy(1, POSITIONS, values.detach())
    matrices = matrices.view(RECORDS, OUT, IN).requires_grad_()
    expected_read = INPUT.clone().requires_grad_()
    rows = expected_read.reshape(RECORDS, EXAMPLES * TOKENS, IN)
    sparse = (rows @ matrices.transpose(1, 2)).reshape(factor.shape)
    plain = expected_read @ layer.base_layer.weight.detach().T
    ((plain + sparse) * factor).sum().backward()
    torch.testing.assert_close(read.grad, expected_read.grad)
    at_positions = matrices.grad.reshape(RECORDS, -1)[:, POSITIONS]
    torch.testing.assert_close(values.grad, at_positions)


def test_a_row_that_pads_has_no_gradient():
    """As in `torch.nn.Embedding`, for every record."""
    layer = nn.Embedding(7, OUT, padding_idx=3)
    table = torch.randn(RECORDS, 7, OUT, requires_grad=True)
    with_leaves(layer, {"weight": table})(TOKEN_NUMBERS).sum().backward()
    touched = table.grad.abs().sum(dim=2) > 0
    assert not touched[:, 3].any()
    assert touched[:, [0, 1, 2, 4, 5, 6]].all()


def test_a_sum_in_low_precision_stays_in_it():
    layer = nn.Linear(IN, OUT)
    leaves = {
        "weight": torch.ones(RECORDS, OUT, IN, dtype=torch.bfloat16),
        "bias": torch.ones(RECORDS, OUT),
    }
    assert with_leaves(layer, leaves)(INPUT.bfloat16()).dtype == torch.bfloat16


def test_which_weights_enter_a_matrix_product():
    layers = [make()[0] for make in LAYERS.values()]
    for layer in layers:
        layer.__class__ = per_example_class(layer)
    found = dict(zip(LAYERS, map(is_matrix_product, layers), strict=True))
    products = {"linear", "linear without bias", "conv1d"}
    assert {name for name, is_one in found.items() if is_one} == products


# --- DoRA, which reads the leaves of two other layers


class Kept(nn.Module):
    """Dropout that always takes the same mask."""

    def forward(self, x):
        return x * torch.tensor([1.0, 0.0, 2.0, 0.5])


def dora_layer(base, drops):
    """PEFT's layer around a linear one, in training mode."""
    settings = LoraConfig(
        r=2,
        lora_alpha=6,
        target_modules=["0"],
        use_dora=True,
        fan_in_fan_out=isinstance(base, Conv1D),
    )
    layer = get_peft_model(nn.Sequential(base), settings).train().base_model.model[0]
    if drops:
        layer.lora_dropout["default"] = Kept()
    return layer


def dora_parts(layer):
    return {
        kind: getattr(layer, kind)["default"]
        for kind in ("lora_A", "lora_B", "lora_magnitude_vector")
    }


DORA_BASES = {
    "linear": lambda: nn.Linear(IN, OUT),
    "linear without bias": lambda: nn.Linear(IN, OUT, bias=False),
    "conv1d": lambda: Conv1D(OUT, IN),
}
LEFT_OUT = [(), ("lora_A",), ("lora_B",), ("lora_magnitude_vector",)]


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("left_out", LEFT_OUT, ids=str)
@pytest.mark.parametrize("base", DORA_BASES)
def test_dora_of_every_record_is_that_of_its_own_adapter(base, left_out, drops):
    """Values and gradients; the norm is a constant of both."""
    torch.manual_seed(1)
    layer = dora_layer(DORA_BASES[base](), drops)
    nn.init.normal_(layer.lora_B["default"].weight)
    if base != "linear without bias":
        nn.init.normal_(layer.base_layer.bias)
    parts = dora_parts(layer)
    own = {kind: part for kind, part in parts.items() if kind not in left_out}
    values = {kind: torch.randn(RECORDS, *part.weight.shape) for kind, part in own.items()}
    weights = torch.randn(RECORDS * EXAMPLES, TOKENS, OUT)
    before = {kind: part.weight.detach().clone() for kind, part in parts.items()}
    expected, slopes = [], {kind: [] for kind in own}
    for record in range(RECORDS):
        part = slice(record * EXAMPLES, (record + 1) * EXAMPLES)
        with torch.no_grad():
            for kind in own:
                parts[kind].weight.copy_(values[kind][record])
        layer.zero_grad()
        output = layer(INPUT[part])
        (output * weights[part]).sum().backward()
        expected.append(output.detach())
        for kind in own:
            slopes[kind].append(parts[kind].weight.grad.clone())
    with torch.no_grad():
        for kind, part in parts.items():
            part.weight.copy_(before[kind])
    for kind, part in parts.items():
        leaves = {"weight": values[kind].requires_grad_()} if kind in own else None
        with_leaves(part, leaves)
    found = layer(INPUT)
    (found * weights).sum().backward()
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-5, atol=1e-5)
    for kind in own:
        torch.testing.assert_close(
            values[kind].grad, torch.stack(slopes[kind]), rtol=1e-5, atol=1e-5
        )


def test_norms_by_hand_and_once_for_all_records_with_one_adapter():
    weight = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    a = torch.tensor([[[1.0, 1.0]], [[0.0, 4.0]]])
    b = torch.tensor([[[0.0], [2.0]], [[1.0], [-0.25]]])
    own = _row_norms(weight, a, b, 3.0)  # of (3, 4), (6, 8) and of (3, 16), (0, -1)
    torch.testing.assert_close(own, torch.tensor([[5.0, 10.0], [265.0**0.5, 1.0]]))
    one = [expanded(factor[0], 7, torch.float32) for factor in (a, b)]
    shared = _row_norms(weight, *one, 3.0)
    torch.testing.assert_close(shared, torch.tensor([[5.0, 10.0]]))
    assert not shared.requires_grad


# --- What has no rule, or mixes records


@pytest.mark.parametrize(
    "layer",
    [nn.LSTM(4, 4), nn.GRU(4, 4), nn.Conv1d(3, 3, 1), nn.GroupNorm(1, 3), nn.Bilinear(4, 4, 4)],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_without_a_rule_are_refused_by_name(layer):
    with pytest.raises(GateError, match=rf"'0\..*type {type(layer).__name__}"):
        PrivateModel(nn.Sequential(layer), Toy(), CPU)


@pytest.mark.parametrize(
    "settings", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}]
)
def test_embeddings_that_look_at_the_whole_batch_are_refused(settings):
    with pytest.raises(GateError, match="Embedding"):
        PrivateModel(nn.Embedding(5, 4, **settings), Toy(), CPU)


class SubclassedLinear(nn.Linear):
    """Might compute anything."""


def test_a_subclass_of_a_known_layer_is_refused():
    with pytest.raises(GateError, match="SubclassedLinear"):
        PrivateModel(nn.Sequential(SubclassedLinear(4, 4)), Toy(), CPU)


class Reshaped(nn.Module):
    """Gives its layer something else than one row for each record."""

    def __init__(self, change):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.change = change

    def forward(self, x):
        return self.layer(self.change(x)).reshape(len(x), -1)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.reshape(-1, 4),
        lambda x: x.reshape(1, -1, 4),
        lambda x: x.transpose(0, 1).contiguous(),
    ],
    ids=["flattened", "one row", "tokens first"],
)
def test_a_layer_that_reads_mixed_records_is_refused_by_name(change):
    private, batch = toy(Reshaped(change))
    with pytest.raises(GateError, match="'layer' must read 4 examples"):
        private.per_example_gradients(batch)
