"""Parameters of which a part moves: where the other entries stay, and that they do."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class InPart:
    """A parameter of which some entries stand still.

    Attributes:
        parameter: itself.
        still: which of its entries stand still, of its shape.
        values: theirs, shape (still,).
    """

    parameter: nn.Parameter
    still: Tensor
    values: Tensor

    @classmethod
    def of(cls, parameter: nn.Parameter, moving: NDArray[np.bool_]) -> "InPart":
        """The parameter as it is now; `moving` has one entry for each of its own."""
        still = torch.from_numpy(~moving).view(parameter.shape).to(parameter.device)
        return cls(parameter, still, parameter.detach()[still].clone())

    def put_back(self) -> None:
        """Set them again."""
        with torch.no_grad():
            self.parameter[self.still] = self.values
