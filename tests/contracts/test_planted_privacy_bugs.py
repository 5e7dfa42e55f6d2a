"""Bugs that would break the guarantee, planted one at a time: the suite's checks notice each."""

import pytest
import torch

from privfed.errors import GateError
from privfed.private_step import batches, dpsgd, private_model
from privfed.private_step.batches import PhysicalBatch
from privfed.private_step.dpsgd import HiddenNoiseOptimizer
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.randomness import SecureNoise
from tests.contracts.private_steps import (
    CASES,
    SCALE,
    adversarial,
    check_exact,
    check_noise,
    check_non_finite_record_contributes_nothing,
    check_sensitivity,
    check_split,
    check_unrelated,
    made_up,
    opposed,
    reference_gradients,
    stream,
    without_own_prompt,
)
from tests.contracts.test_noise_law import moves_of_noise

QV = "bert lora q,v"


@pytest.fixture
def private(built):
    return built(QV)


@pytest.fixture
def encoded(private):
    return made_up(private)


def noticed(check, *arguments, **keywords):
    with pytest.raises(AssertionError):
        check(*arguments, **keywords)


def test_without_a_plant_every_check_passes(private, encoded, folders):
    check_exact(private, encoded, reference_gradients(CASES[QV], folders, encoded))
    check_sensitivity(private, adversarial(private), clipping_norm=1e-3)
    check_split(private, encoded)
    check_noise(private, encoded, lambda: SecureNoise(stream(2)), range(5))
    check_non_finite_record_contributes_nothing(private, encoded)


def test_a_batch_that_is_clipped_as_one(private, monkeypatch):
    real = PrivateModel.per_example_gradients

    def as_one(self, batch, present=None):
        real(self, batch, present)
        for _, parameter in self.parameters():
            sample = parameter.grad_sample
            whole = sample.sum(dim=0, keepdim=True)
            parameter.grad_sample = torch.cat([whole, torch.zeros_like(sample[1:])])

    monkeypatch.setattr(PrivateModel, "per_example_gradients", as_one)
    noticed(check_sensitivity, private, opposed(private), clipping_norm=1e-3)


def test_a_prompt_that_is_embedded_once(built):
    """PEFT's own prompt tuning under the same leaves does not even run."""
    private = built("gpt2 prompt")
    kind = type(private.adapter)
    without_own_prompt(private.adapter)
    try:
        with pytest.raises(GateError, match="'prompt_encoder.default.embedding' must read 5"):
            private.per_example_gradients(made_up(private))
    finally:
        private.adapter.__class__ = kind
        private.forget()


def test_noise_on_one_factor_only(private, encoded, monkeypatch):
    real = HiddenNoiseOptimizer.add_noise

    def on_b_only(self):
        real(self)
        for parameter in self.params:
            if parameter.dim() == 2 and parameter.shape[0] == 2:
                parameter.grad = parameter.summed_grad.float()

    monkeypatch.setattr(HiddenNoiseOptimizer, "add_noise", on_b_only)
    noticed(check_noise, private, encoded, lambda: SecureNoise(stream(2)))


def test_noise_of_the_wrong_size_on_one_parameter(private, encoded, monkeypatch):
    real = HiddenNoiseOptimizer.add_noise

    def smaller(self):
        real(self)
        first = self.params[0]
        total = first.summed_grad.float()
        first.grad = total + 0.5 * (first.grad - total)

    monkeypatch.setattr(HiddenNoiseOptimizer, "add_noise", smaller)
    noticed(check_noise, private, encoded, lambda: SecureNoise(stream(2)))


def test_noise_scaled_by_the_realised_batch(private, encoded, monkeypatch):
    real = dpsgd.private_step

    def scaled(model, optimizer, records, drawn, size):
        noise = optimizer._noise

        class Scaled:
            def normal(self, count, device):
                return noise.normal(count, device) * max(1, len(drawn)) ** 0.5

        optimizer._noise = Scaled()
        real(model, optimizer, records, drawn, size)

    monkeypatch.setattr("tests.contracts.private_steps.private_step", scaled)
    check_noise(private, encoded, lambda: SecureNoise(stream(2)))
    noticed(check_noise, private, encoded, lambda: SecureNoise(stream(2)), range(5))


def test_a_sum_divided_by_the_realised_batch(private, encoded, monkeypatch):
    real = dpsgd.private_step

    def divided(model, optimizer, records, drawn, size):
        optimizer.expected_batch_size = max(1, len(drawn))
        real(model, optimizer, records, drawn, size)

    monkeypatch.setattr("tests.contracts.private_steps.private_step", divided)
    noticed(check_noise, private, encoded, lambda: SecureNoise(stream(2)), range(5))


def test_a_loss_averaged_over_the_batch(private, encoded, folders, monkeypatch):
    real = PrivateModel.record_losses
    references = reference_gradients(CASES[QV], folders, encoded)

    def averaged(self, model, batch):
        losses = real(self, model, batch)
        return losses / len(losses)

    monkeypatch.setattr(PrivateModel, "record_losses", averaged)
    noticed(check_exact, private, encoded, references)


def test_a_loss_that_mixes_records(private, encoded, folders, monkeypatch):
    real = PrivateModel.record_losses
    references = reference_gradients(CASES[QV], folders, encoded)

    def centred(self, model, batch):
        losses = real(self, model, batch)
        return losses - losses.mean()

    monkeypatch.setattr(PrivateModel, "record_losses", centred)
    noticed(check_exact, private, encoded, references)


def test_stale_norms(private, monkeypatch):
    real = dpsgd.clip_factors
    kept = []

    def stale(*arguments):
        kept.append(real(*arguments))
        return kept[-2] if len(kept) > 1 else kept[-1]

    monkeypatch.setattr(dpsgd, "clip_factors", stale)
    encoded = adversarial(private)
    noticed(check_sensitivity, private, encoded, clipping_norm=1e-3, physical_batch_size=1)


@pytest.mark.parametrize("kept", range(3))
def test_a_clip_factor_from_one_parameter(private, kept, monkeypatch):
    real = dpsgd.squared_norms

    def of_one(samples):
        squared = real(samples)
        return squared * (torch.arange(len(squared)) == kept).unsqueeze(1)

    monkeypatch.setattr(dpsgd, "squared_norms", of_one)
    noticed(check_sensitivity, private, adversarial(private), clipping_norm=1e-3)


def test_clipping_each_parameter_to_the_whole_bound(private, monkeypatch):
    def each(rule, squared, layers, bound):
        return (bound / squared.sqrt().clamp(min=1e-30)).clamp(max=1.0)

    monkeypatch.setattr(dpsgd, "clip_factors", each)
    noticed(check_sensitivity, private, adversarial(private), clipping_norm=1e-3)


def test_no_clipping_at_all(private, monkeypatch):
    monkeypatch.setattr(dpsgd, "clip_factors", lambda rule, squared, *_: torch.ones_like(squared))
    noticed(check_sensitivity, private, adversarial(private), clipping_norm=1e-3)


def test_rows_that_fill_up_are_counted(private, encoded, monkeypatch):
    real = batches.physical_batches

    def all_present(records, drawn, size):
        for batch in real(records, drawn, size):
            yield PhysicalBatch(batch.tensors, torch.ones_like(batch.present))

    monkeypatch.setattr(dpsgd, "physical_batches", all_present)
    noticed(check_split, private, encoded)
    one = {name: tensor[6:] for name, tensor in adversarial(private).items()}
    noticed(check_sensitivity, private, one, clipping_norm=1e-3)


def test_a_record_that_is_not_finite_is_kept(private, encoded, monkeypatch):
    monkeypatch.setattr(private_model, "_zero_non_finite", lambda samples: None)
    noticed(check_non_finite_record_contributes_nothing, private, encoded)


def test_a_record_that_is_not_finite_loses_one_parameter_only(private, encoded, monkeypatch):
    """Its gradient is NaN in the parameters before a broken layer, and fine behind it."""
    real = private_model._zero_non_finite

    def in_one(samples):
        samples[0][1] = float("nan")
        real(samples)

    def each_alone(samples):
        samples[0][1] = float("nan")
        for sample in samples:
            real([sample])

    monkeypatch.setattr(private_model, "_zero_non_finite", in_one)
    check_whole_record_is_zero(private, encoded)
    monkeypatch.setattr(private_model, "_zero_non_finite", each_alone)
    noticed(check_whole_record_is_zero, private, encoded)


def check_whole_record_is_zero(private, encoded):
    private.forget()
    private.per_example_gradients({**encoded, SCALE: torch.ones(5)})
    rows = [parameter.grad_sample[1] for _, parameter in private.parameters()]
    private.forget()
    assert not any(bool(row.any()) for row in rows)


class OneSeed:
    """Coins that give every client and every round the same stream."""

    secret = True

    def stream(self, client, purpose):
        return stream(9)


def test_a_seed_used_for_several_clients_or_rounds(private):
    noticed(check_unrelated, moves_of_noise(private, OneSeed(), 4))


def test_a_seed_used_in_every_step(private, encoded):
    class Again:
        def normal(self, count, device):
            return SecureNoise(stream(2)).normal(count, device)

    noticed(check_noise, private, encoded, Again)
