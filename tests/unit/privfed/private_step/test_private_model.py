"""What a private model refuses, and that nothing of one pass flows into another."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from privfed.errors import ModelError
from privfed.methods.method import Start
from privfed.models.vector import read_vector, write_vector
from privfed.private_step.clipping import AdaptiveBound
from privfed.private_step.dpsgd import private_optimizer, train_round
from privfed.private_step.layers import PerExampleLayer
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.randomness import SecureNoise
from privfed.private_step.stacked import LocalRound, train_stacked
from privfed.settings.privacy import PerLayerClipping, QuantileClipping
from privfed.settings.training import SGD, AdamW
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
from tests.unit.privfed.private_step.toy import Toy, toy

QV = "bert lora q,v"


@pytest.fixture
def private(built):
    return built(QV)


@pytest.fixture
def fresh(folders):
    """One that a test may spoil."""
    return private_model(CASES[QV], folders)


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


def test_two_models_of_one_process_do_not_meet(folders, built):
    """A second model of the same kind, in the middle of the first one's step."""
    first, second = built(QV), private_model(CASES[QV], folders)
    encoded = made_up(first)
    references = reference_gradients(CASES[QV], folders, encoded)
    second.per_example_gradients({name: tensor.flip(0) for name, tensor in encoded.items()})
    check_exact(first, encoded, references)


def in_part(model):
    """Every third entry but for those of one parameter, and the masks of the others by name."""
    moving = (np.arange(model.layout.length) % 3 == 0) & ~model.layout.mask(["0.bias"])
    parts = {}
    for name, shape in model.layout.parameters:
        part = moving[model.layout.mask([name])].reshape(shape)
        parts[name] = torch.from_numpy(part)
    return moving, parts


def local(batch, client, start, noise=None):
    settings = config(steps=3, optimizer=SGD(momentum=0.5), expected_batch_size=2)
    return LocalRound(
        encoded=batch,
        config=settings,
        sampling=stream(10 + client),
        noise=noise or SecureNoise(stream(20 + client)),
        bound=AdaptiveBound.starting(settings.clipping_norm),
        start=start,
    )


class TestTrainingOnly:
    """Some of the parameters move; the others are as if they were frozen."""

    @pytest.fixture
    def layers(self):
        torch.manual_seed(4)
        return toy(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))

    def test_the_others_have_no_gradient_and_no_part_in_a_norm(self, layers):
        model, batch = layers
        model.per_example_gradients(batch)
        whole = {name: p.grad_sample.clone() for name, p in model.parameters()}
        model.forget()
        with model.training_only(model.layout.mask(["1.weight", "0.bias"])):
            model.per_example_gradients(batch)
            part = {name: p.grad_sample.clone() for name, p in model.parameters()}
        assert list(part) == ["0.bias", "1.weight"]
        for name, gradients in part.items():
            torch.testing.assert_close(gradients, whole[name])
        assert [name for name, _ in model.parameters()] == list(whole)
        for parameter in model.adapter.parameters():
            assert parameter.requires_grad
            assert parameter.grad is None

    def test_entries_that_stand_still_have_no_part_either(self, layers):
        model, batch = layers
        model.per_example_gradients(batch)
        whole = {name: p.grad_sample.clone() for name, p in model.parameters()}
        model.forget()
        single = model.single_gradients(batch)
        moving, masks = in_part(model)
        with model.training_only(moving):
            model.per_example_gradients(batch)
            part = {name: p.grad_sample.clone() for name, p in model.parameters()}
            model.forget()
            reference = model.single_gradients(batch)
        assert list(part) == ["0.weight", "1.bias", "1.weight"]
        for name, gradients in part.items():
            torch.testing.assert_close(gradients, whole[name] * masks[name])
            torch.testing.assert_close(reference[name], single[name] * masks[name])
            assert gradients.any(), name

    def test_after_a_failure_all_move_again(self, layers):
        model, batch = layers
        batch["x"] = batch["x"].flatten(1)  # fails within the pass
        with pytest.raises(RuntimeError), model.training_only(model.layout.mask(["0.bias"])):
            model.per_example_gradients(batch)
        batch["x"] = batch["x"].view(4, 3, 4)
        assert len(model.parameters()) == 4
        model.per_example_gradients(batch)
        assert all(parameter.requires_grad for parameter in model.adapter.parameters())

    @pytest.mark.parametrize("moving", [np.zeros(23, bool), np.ones(22, bool), np.ones(23)])
    def test_what_is_not_there_is_refused(self, layers, moving):
        model, _ = layers
        with pytest.raises(ModelError, match="must be trained"), model.training_only(moving):
            raise AssertionError("not reached")

    def test_a_round_moves_what_was_named_to_the_bit(self, layers):
        model, batch = layers
        before = read_vector(model.adapter)
        settings = config(steps=2, optimizer=AdamW(weight_decay=0.5), expected_batch_size=2)
        streams = {"sampling": stream(1), "noise": SecureNoise(stream(2))}
        train_round(model, batch, settings, moving=model.layout.mask(["1.bias"]), **streams)
        moved = read_vector(model.adapter) != before
        assert moved.tolist() == model.layout.mask(["1.bias"]).tolist()

    def test_a_round_moves_entries_to_the_bit(self, layers):
        """Noise, momentum and decay would move the others."""
        model, batch = layers
        before, (moving, _) = read_vector(model.adapter), in_part(model)
        settings = config(steps=3, optimizer=AdamW(weight_decay=0.5), expected_batch_size=2)
        streams = {"sampling": stream(1), "noise": SecureNoise(stream(2))}
        train_round(model, batch, settings, moving=moving, **streams)
        assert np.array_equal(read_vector(model.adapter) != before, moving)

    def test_each_of_a_stack_has_its_own_start_and_entries(self, layers):
        """As one after the other; they differ in entries that move at none of them, too."""
        model, batch = layers
        first, (moving, _) = read_vector(model.adapter), in_part(model)
        starts = [
            Start(adapter=first, moving=moving),
            Start(adapter=first + 0.25, moving=moving & (np.arange(23) % 2 > 0)),
            Start(adapter=first, moving=model.layout.mask(["1.bias"])),
        ]
        noisy = train_stacked(model, [local(batch, *one) for one in enumerate(starts)])
        quiet = train_stacked(
            model, [local(batch, *one, noise=Silence()) for one in enumerate(starts)]
        )
        for client, start in enumerate(starts):
            assert np.array_equal(noisy[client] != start.adapter, start.moving)
            write_vector(model.adapter, start.adapter)
            mine = local(batch, client, start, noise=Silence())
            streams = {"sampling": mine.sampling, "noise": mine.noise}
            train_round(model, batch, mine.config, moving=start.moving, **streams)
            np.testing.assert_allclose(quiet[client], read_vector(model.adapter), atol=1e-6)
            assert np.abs(quiet[client] - start.adapter).max() > 1e-3

    @pytest.mark.parametrize("clipping", [PerLayerClipping(), QuantileClipping(count_noise=4.0)])
    def test_a_layer_that_stands_still_does_not_count_in_a_stack(self, layers, clipping):
        """One client moves both layers, the other one; each is clipped as it would be alone."""
        model, batch = layers
        first = read_vector(model.adapter)
        starts = [
            Start(adapter=first, moving=np.ones(23, bool)),
            Start(adapter=first + 0.5, moving=model.layout.mask(["1.weight", "1.bias"])),
        ]
        settings = config(steps=2, clipping=clipping, clipping_norm=0.05, expected_batch_size=2)

        def round_of(client):
            mine = local(batch, client, starts[client], noise=Silence())
            bound = AdaptiveBound.starting(settings.clipping_norm)
            return replace(mine, config=settings, bound=bound)

        together = [round_of(client) for client in range(2)]
        found = train_stacked(model, together)
        for client, start in enumerate(starts):
            write_vector(model.adapter, start.adapter)
            mine = round_of(client)
            streams = {"sampling": mine.sampling, "noise": mine.noise, "bound": mine.bound}
            train_round(model, batch, settings, moving=start.moving, **streams)
            alone = read_vector(model.adapter)
            assert np.abs(alone - start.adapter).max() > 1e-3
            np.testing.assert_allclose(found[client], alone, atol=1e-6)
            assert together[client].bound.current == pytest.approx(mine.bound.current)

    def test_so_does_one_of_a_stack(self, layers):
        model, batch = layers
        before = read_vector(model.adapter)
        settings = config(steps=2, optimizer=AdamW(weight_decay=0.5), expected_batch_size=2)
        trained = train_stacked(
            model,
            [
                LocalRound(
                    encoded=batch,
                    config=settings,
                    sampling=stream(10 + client),
                    noise=SecureNoise(stream(20 + client)),
                    bound=AdaptiveBound.starting(settings.clipping_norm),
                    start=Start(adapter=before, moving=model.layout.mask(["0.weight"])),
                )
                for client in range(2)
            ],
        )
        for adapter in trained:
            assert np.array_equal(adapter != before, model.layout.mask(["0.weight"]))
        assert not np.array_equal(*trained)
