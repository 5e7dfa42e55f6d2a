"""With little noise, private steps of an adapter learn what a frozen model cannot tell apart."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from privfed import Houlsby, LoRA
from privfed.private_step.dpsgd import DPSGDConfig, train_round
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.randomness import SecureNoise
from tests.contracts.private_steps import CPU, stream

WIDTH = 6
ADAPTERS = {
    "lora": LoRA(rank=2, target_modules=("outer",)),
    "dora": LoRA(rank=2, target_modules=("outer",), dora=True),
    "houlsby": Houlsby(bottleneck=4, target_modules=("outer",)),
}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.outer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + self.outer(torch.tanh(x))


class Frozen(nn.Module):
    """Two blocks, and a head that reads their last entry alone."""

    config = None

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(1, 1)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x[..., -1:]).mean(dim=(1, 2))


class Sides:
    """Which side of a plane a record lies on: logistic loss."""

    def losses(self, model, batch):
        return F.softplus(-batch["side"] * model(batch["x"]))


def records(count, seed):
    """The side is the sign of the first entry, which is never near zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, WIDTH, generator=generator)
    side = torch.sign(torch.randn(count, generator=generator))
    x[..., 0] = side.unsqueeze(1) * (0.5 + x[..., 0].abs())
    return {"x": x, "side": side}


def accuracy(private, batch):
    with torch.no_grad():
        return float((private.adapter(batch["x"]) * batch["side"] > 0).float().mean())


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_separable_task_is_learnt(name):
    torch.manual_seed(0)
    private = PrivateModel(ADAPTERS[name].attach(Frozen(), ("head",), 0), Sides(), CPU)
    fresh = records(300, seed=2)
    before = accuracy(private, fresh)
    settings = DPSGDConfig(
        noise_multiplier=0.1,
        sample_rate=0.5,
        clipping_norm=0.5,
        expected_batch_size=60,
        steps=40,
        learning_rate=4.0,
        physical_batch_size=32,
    )
    train_round(
        private,
        records(120, seed=1),
        settings,
        sampling=stream(1),
        noise=SecureNoise(stream(2)),
    )
    assert before < 0.75
    assert accuracy(private, fresh) > 0.95
