"""Small models over vectors, and the task that they have."""

import torch

from privfed.private_step.private_model import PrivateModel
from tests.contracts.private_steps import CPU


class Toy:
    """A task over vectors: the mean of squares of what the model makes of them."""

    def losses(self, model, batch):
        return model(batch["x"]).flatten(1).pow(2).mean(dim=1)


def toy(model, count=4):
    return PrivateModel(model, Toy(), CPU), {"x": torch.randn(count, 3, 4)}
