"""What a method adds to a step comes after the noise, and is the same alone and in a stack."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from privfed import SGD, AdamW
from privfed.methods.method import Correction, Start
from privfed.models.vector import read_vector, write_vector
from privfed.private_step.clipping import AdaptiveBound
from privfed.private_step.correcting import Corrector
from privfed.private_step.dpsgd import DPSGDConfig, train_round
from privfed.private_step.randomness import RandomStream, SecureNoise
from privfed.private_step.stacked import LocalRound, train_stacked
from tests.contracts.private_steps import made_up

CONFIG = DPSGDConfig(
    noise_multiplier=0.75,
    sample_rate=0.5,
    clipping_norm=0.5,
    expected_batch_size=4,
    steps=3,
    learning_rate=0.25,
    physical_batch_size=6,
)


def stream(name):
    return RandomStream(hashlib.sha256(name.encode()).digest(), bytes(16))


def randomness(client):
    return {"sampling": stream(f"{client}/batch"), "noise": SecureNoise(stream(f"{client}/noise"))}


@pytest.fixture
def model(built):
    """One that other tests have too: it is left as it was."""
    shared = built("bert lora q,v")
    before = read_vector(shared.adapter)
    yield shared
    write_vector(shared.adapter, before)


def trained(model, start, config, correction, client="a"):
    write_vector(model.adapter, start)
    train_round(model, _records(model), config, **randomness(client), correction=correction)
    return read_vector(model.adapter).astype(np.float64)


def _records(model):
    return made_up(model, count=8)


class TestTheFormula:
    def test_shift_and_pull_act_on_what_was_before_the_step(self):
        """y = 3 was x + 2; the optimiser came to 10; 10 - 0.5 (0.25 + 4 * 2) = 5.875."""
        value = torch.tensor([1.0])
        corrector = Corrector(
            [value], [Correction(shift=np.array([0.25], np.float32), pull=4)], [0.5]
        )
        value.fill_(3.0)
        before = corrector.before_step()
        value.fill_(10.0)
        corrector.after_step(before)
        assert value.tolist() == [5.875]

    def test_the_shift_is_in_the_order_of_the_parameters(self):
        parts = [torch.zeros(2, 2), torch.zeros(3)]
        shift = np.arange(7, dtype=np.float32)
        corrector = Corrector(parts, [Correction(shift=shift)], [0.5])
        corrector.after_step(corrector.before_step())
        assert parts[0].tolist() == [[0.0, -0.5], [-1.0, -1.5]]
        assert parts[1].tolist() == [-2.0, -2.5, -3.0]

    def test_each_client_has_its_own(self):
        """The second is plain, and the third has no step left."""
        values = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
        shift = np.array([1.0, 2.0], np.float32)
        corrections = [Correction(shift=shift), None, Correction(shift=shift)]
        corrector = Corrector([values], corrections, [0.5, 0.25, 0.125])
        corrector.after_step(corrector.before_step(), [True, True, False])
        assert values.tolist() == [[-0.5, -1.0], [0.0, 0.0], [0.0, 0.0]]


class TestAPrivateRound:
    @pytest.mark.parametrize("optimizer", [SGD(), AdamW()], ids=repr)
    def test_it_draws_and_clips_as_without_and_moves_by_the_shift(self, model, optimizer):
        """One step: the same noised gradient, and then the shift, at the learning rate."""
        start, config = read_vector(model.adapter), replace(CONFIG, steps=1, optimizer=optimizer)
        shift = np.linspace(-1, 1, len(start)).astype(np.float32)
        plain = trained(model, start, config, None)
        moved = trained(model, start, config, Correction(shift=shift))
        np.testing.assert_allclose(moved - plain, -0.25 * shift, atol=1e-6)
        assert np.abs(plain - start).max() > 0.01

    def test_a_pull_changes_a_round_under_noise(self, model):
        """In the loss it would have been overwritten by the records' gradients."""
        start = read_vector(model.adapter)
        plain = trained(model, start, CONFIG, None)
        pulled = trained(model, start, CONFIG, Correction(pull=2.0))
        assert np.abs(pulled - plain).max() > 1e-3
        assert np.linalg.norm(pulled - start) < np.linalg.norm(plain - start)
        once = replace(CONFIG, steps=1)
        np.testing.assert_array_equal(
            trained(model, start, once, Correction(pull=2.0)), trained(model, start, once, None)
        )

    def test_in_a_stack_each_has_its_own(self, model):
        start = read_vector(model.adapter)
        shift = np.linspace(-1, 1, len(start)).astype(np.float32)
        corrections = [Correction(shift=shift, pull=0.5), None, Correction(pull=3.0)]
        configs = [replace(CONFIG, steps=steps) for steps in (2, 3, 1)]
        alone = [
            trained(model, start, *pair, client=str(client))
            for client, pair in enumerate(zip(configs, corrections, strict=True))
        ]
        rounds = [
            LocalRound(
                encoded=_records(model),
                config=config,
                **randomness(str(client)),
                bound=AdaptiveBound.starting(config.clipping_norm),
                start=Start(adapter=start, moving=np.ones(len(start), bool), correction=correction),
            )
            for client, (config, correction) in enumerate(zip(configs, corrections, strict=True))
        ]
        together = train_stacked(model, rounds)
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_allclose(other, one, atol=2e-6)
        plain = trained(model, start, configs[0], None, client="0")
        assert np.abs(plain - alone[0]).max() > 0.05
