"""What a private model refuses, and that nothing of one pass flows into another."""

import weakref

import numpy as np
import pytest
import torch
from torch import nn

from privfed.errors import ConfigError, GateError, ModelError
from privfed.models.vector import read_vector, write_vector
from privfed.private_step.dpsgd import HiddenNoiseOptimizer, private_optimizer, train_round
from privfed.private_step.layers import PerExampleLayer
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.randomness import SecureNoise
from privfed.settings.computation import Checkpointing, Computation
from tests.contracts.private_steps import (
    CASES,
    CPU,
    Silence,
    check_exact,
    claimed_gradients,
    config,
    made_up,
    private_model,
    reference_gradients,
    stream,
)

QV = "bert lora q,v"


@pytest.fixture
def private(built):
    return built(QV)


@pytest.fixture
def fresh(folders):
    """One that a test may spoil."""
    return private_model(CASES[QV], folders)


class Toy:
    """A task over vectors: the mean of squares of what the model makes of them."""

    def losses(self, model, batch):
        return model(batch["x"]).flatten(1).pow(2).mean(dim=1)


def toy(model, count=4):
    return PrivateModel(model, Toy(), CPU), {"x": torch.randn(count, 3, 4)}


# --- Losses


@pytest.mark.parametrize("reduced", [torch.mean, torch.sum])
def test_a_loss_reduced_over_the_batch_is_refused(private, reduced, monkeypatch):
    real = private.task.losses
    monkeypatch.setattr(private.task, "losses", lambda *a: reduced(real(*a)), raising=False)
    with pytest.raises(ModelError, match=r"must have shape \(5,\).*mean over the batch"):
        private.per_example_gradients(made_up(private))


@pytest.mark.parametrize("count", [1, 2, 6, 15])
def test_any_other_number_of_losses_is_refused(private, count, monkeypatch):
    monkeypatch.setattr(private.task, "losses", lambda *a: torch.zeros(count), raising=False)
    with pytest.raises(ModelError, match="one value per example"):
        private.per_example_gradients(made_up(private))


def test_losses_in_two_dimensions_are_refused(private, monkeypatch):
    monkeypatch.setattr(private.task, "losses", lambda *a: torch.zeros(5, 1), raising=False)
    with pytest.raises(ModelError, match="one value per example"):
        private.per_example_gradients(made_up(private))


# --- Models


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.SyncBatchNorm])
def test_batch_normalisation_is_refused_by_name(norm):
    model = nn.Sequential(nn.Linear(4, 4), norm(3))
    with pytest.raises(ModelError, match="'1' is a batch normalisation"):
        PrivateModel(model, Toy(), CPU)


def test_frozen_batch_normalisation_is_refused_too():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(3, affine=False))
    with pytest.raises(ModelError, match="batch normalisation"):
        PrivateModel(model, Toy(), CPU)


def test_a_model_with_everything_frozen_is_refused():
    with pytest.raises(ModelError, match="every parameter is frozen"):
        PrivateModel(nn.Linear(4, 4).requires_grad_(False), Toy(), CPU)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_trainable_parameters_of_other_types_are_refused(dtype):
    with pytest.raises(ModelError, match="must be float32"):
        PrivateModel(nn.Linear(4, 4).to(dtype), Toy(), CPU)


@pytest.mark.parametrize(
    "layer",
    [nn.LSTM(4, 4), nn.GRU(4, 4), nn.Conv1d(3, 3, 1), nn.GroupNorm(1, 3), nn.Bilinear(4, 4, 4)],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_without_a_rule_are_refused_by_name(layer):
    with pytest.raises(GateError, match=rf"'0\..*type {type(layer).__name__}"):
        PrivateModel(nn.Sequential(layer), Toy(), CPU)


def test_attention_that_uses_its_weights_as_functions_is_refused():
    with pytest.raises(GateError, match="in_proj"):
        PrivateModel(nn.MultiheadAttention(4, 2), Toy(), CPU)


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


class Functional(nn.Module):
    """Uses a layer's weight outside of the layer."""

    def __init__(self, also_inside):
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False)
        self.also_inside = also_inside

    def forward(self, x):
        outside = nn.functional.linear(x, self.layer.weight)
        return outside + self.layer(x) if self.also_inside else outside


def test_a_parameter_that_is_also_used_outside_of_its_layer_is_refused():
    private, batch = toy(Functional(also_inside=True))
    with pytest.raises(GateError, match=r"'layer.weight' is also used outside of its layer"):
        private.per_example_gradients(batch)
    assert getattr(private.adapter.layer.weight, "grad_sample", None) is None
    private.forget()


def test_a_parameter_that_is_used_outside_of_its_layer_alone_is_refused():
    private, batch = toy(Functional(also_inside=False))
    with pytest.raises(GateError, match="'layer.weight' does not influence any loss"):
        private.per_example_gradients(batch)


def test_a_free_parameter_is_refused():
    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return x * self.scale

    with pytest.raises(GateError, match="'scale'.*type Free"):
        PrivateModel(Free(), Toy(), CPU)


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


def test_checkpointing_needs_layers_to_checkpoint():
    with pytest.raises(ConfigError, match="transformers model"):
        PrivateModel(
            nn.Linear(4, 4), Toy(), CPU, Computation(checkpointing=Checkpointing.REENTRANT)
        )


# --- Use


def test_a_parameter_that_is_unfrozen_later_is_refused(fresh):
    name, parameter = next(p for p in fresh.adapter.named_parameters() if not p[1].requires_grad)
    parameter.requires_grad_(True)
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        fresh.per_example_gradients(made_up(fresh))
    with pytest.raises(ModelError, match="must not change"):
        private_optimizer(fresh, config(), Silence())


def test_a_parameter_that_is_frozen_later_is_refused(fresh):
    name, parameter = fresh.parameters()[0]
    parameter.requires_grad_(False)
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        fresh.per_example_gradients(made_up(fresh))


def test_two_passes_without_a_step_are_refused(private):
    batch = made_up(private)
    private.per_example_gradients(batch)
    with pytest.raises(ModelError, match="earlier pass"):
        private.per_example_gradients(batch)
    private.forget()
    private.per_example_gradients(batch)
    private.forget()


def test_the_model_itself_is_left_as_it_was(accepted, request, folders):
    """Its class changes and nothing else: values and evaluation are those of a plain model."""
    case = CASES[request.node.callspec.params["accepted"]]
    plain = case.trainable_model(case.task(folders))
    batch = made_up(accepted)
    claimed_gradients(accepted, batch)
    assert np.array_equal(read_vector(plain), read_vector(accepted.adapter))
    with torch.no_grad():
        expected = accepted.task.losses(plain, batch)
        assert torch.allclose(accepted.task.losses(accepted.adapter, batch), expected, atol=1e-6)
    leftovers = [m for m in accepted.adapter.modules() if isinstance(m, PerExampleLayer)]
    assert leftovers
    assert all(layer.leaves is None for layer in leftovers)
    assert all(parameter.grad is None for _, parameter in accepted.parameters())


@pytest.mark.parametrize("where", ["after the forward pass", "within the backward pass"])
def test_what_a_failed_client_left_does_not_reach_the_next(accepted, where, monkeypatch):
    encoded = made_up(accepted)
    before = read_vector(accepted.adapter)
    settings = config(sample_rate=1.0)
    train_round(accepted, encoded, settings, sampling=stream(1), noise=Silence())
    alone = read_vector(accepted.adapter)

    def fail(*arguments, **keywords):
        raise RuntimeError("a client failed")

    write_vector(accepted.adapter, before)
    layer = next(m for m in accepted.adapter.modules() if isinstance(m, PerExampleLayer))
    handle = layer.register_forward_hook(lambda *values: values[-1].register_hook(fail) and None)
    with monkeypatch.context() as patch:
        if where == "after the forward pass":
            patch.setattr(torch.autograd, "backward", fail)
        noise = SecureNoise(stream(4))
        with pytest.raises(RuntimeError, match="a client failed"):
            train_round(accepted, encoded, settings, sampling=stream(3), noise=noise)
    handle.remove()
    write_vector(accepted.adapter, before)
    train_round(accepted, encoded, settings, sampling=stream(1), noise=Silence())
    again = read_vector(accepted.adapter)
    write_vector(accepted.adapter, before)
    assert np.array_equal(again, alone)


def test_a_saved_model_has_its_names_and_can_be_read(folders, tmp_path):
    """Layers change their class, so what is saved must not."""
    from safetensors.torch import load_file

    case = CASES["gpt2 last layers"]
    private = private_model(case, folders)
    private.save_adapter(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    names = {name.removeprefix("base.") for name, _ in private.parameters()}
    assert set(load_file(file)) == names


# --- The optimiser refuses what is not one row for each record.


def optimizer_with(*samples, clipping_norm=1.0):
    parameters = [nn.Parameter(torch.zeros(3)) for _ in samples]
    for parameter, sample in zip(parameters, samples, strict=True):
        parameter.grad_sample = sample
    settings = config(clipping_norm=clipping_norm)
    return HiddenNoiseOptimizer(torch.optim.SGD(parameters, lr=1.0), settings, Silence())


@pytest.mark.parametrize(
    "samples",
    [
        (torch.ones(4, 3), torch.ones(1, 3)),
        (torch.ones(4, 3), [torch.ones(4, 3)]),
        (torch.ones(4, 3), None),
        (torch.ones(4, 3), torch.ones(4, 1, 3)),
    ],
)
def test_samples_that_are_not_one_row_for_each_record_are_refused(samples):
    with pytest.raises(GateError, match="one row for every record"):
        optimizer_with(*samples).clip_and_accumulate()


def test_one_row_for_a_batch_of_several_is_refused():
    optimizer = optimizer_with(torch.ones(1, 3))
    optimizer.set_present(torch.tensor([True, True]))
    with pytest.raises(GateError, match="one row for every record"):
        optimizer.clip_and_accumulate()


def test_a_second_step_on_the_same_gradients_is_refused():
    """It would add every record once more, at the same noise."""
    optimizer = optimizer_with(torch.ones(2, 3))
    optimizer.step()
    with pytest.raises(GateError, match="used by an earlier step"):
        optimizer.step()


def test_gradients_of_an_earlier_step_are_not_kept_alive():
    optimizer = optimizer_with(torch.ones(2, 3))
    sample = weakref.ref(optimizer.params[0].grad_sample)
    optimizer.step()
    optimizer.zero_grad()
    assert sample() is None


def test_the_noised_sum_is_rounded_once():
    """Rounded to float32 apart, sum and noise leave traces of each other in the last bits."""
    drawn = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    class Fixed:
        def normal(self, count, device):
            return drawn[:count].to(device)

    parameter = nn.Parameter(torch.zeros(1000))
    parameter.grad_sample = torch.linspace(-1e-3, 1e-3, 1000).unsqueeze(0)
    optimizer = HiddenNoiseOptimizer(torch.optim.SGD([parameter], lr=0.1), config(), Fixed())
    optimizer.clip_and_accumulate()
    total = parameter.summed_grad
    optimizer.add_noise()
    noise = config().noise_multiplier * config().clipping_norm * drawn
    assert torch.equal(parameter.grad, (total + noise).float())
    assert not torch.equal(parameter.grad, total.float() + noise.float())


def test_norms_of_millions_of_entries_are_not_underestimated():
    """A float32 norm of 4M equal entries falls short; the clipped row must not exceed C."""
    parameter = nn.Parameter(torch.zeros(4_000_000))
    generator = torch.Generator().manual_seed(1)
    parameter.grad_sample = torch.rand((1, 4_000_000), generator=generator)
    optimizer = HiddenNoiseOptimizer(torch.optim.SGD([parameter], lr=0.1), config(), Silence())
    optimizer.clip_and_accumulate()
    assert 0.9999 < float(parameter.summed_grad.double().norm()) <= 1.0


def test_two_models_of_one_process_do_not_meet(folders, built):
    """A second model of the same kind, in the middle of the first one's step."""
    first, second = built(QV), private_model(CASES[QV], folders)
    encoded = made_up(first)
    references = reference_gradients(CASES[QV], folders, encoded)
    second.per_example_gradients({name: tensor.flip(0) for name, tensor in encoded.items()})
    check_exact(first, encoded, references)
