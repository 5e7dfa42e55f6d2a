"""What a method adds to a private step after its noise: y <- y - eta (shift + pull (y - x)).

y is what the parameters were before the step, x where the round began. Shift and pull come from
released vectors, y holds the noise of the steps before: this is post-processing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from privfed.methods.method import Correction


class Corrector:
    """The corrections of one or several clients.

    Args:
        parameters: tensors whose concatenation along the last axis has shape (..., params), as they
            are when the round begins; each client is a row of the leading axis, if there is one.
        corrections: of each client; None for plain steps.
        learning_rates: of each client.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        corrections: Sequence[Correction | None],
        learning_rates: Sequence[float],
    ) -> None:
        self._parameters = parameters
        rows = (len(corrections), -1)
        first = parameters[0]
        self._pull = _column([0.0 if c is None else c.pull for c in corrections], first)
        self._rates = _column(learning_rates, first)
        self._start = [p.detach().reshape(rows).clone() for p in parameters]
        sizes = [start.shape[1] for start in self._start]
        shifts = torch.zeros(len(corrections), sum(sizes), device=first.device)
        for row, correction in enumerate(corrections):
            if correction is not None and correction.shift is not None:
                shifts[row] = torch.from_numpy(correction.shift).to(first.device)
        self._shifts = torch.split(shifts, sizes, dim=1)

    def before_step(self) -> list[Tensor]:
        """The parameters, to be handed to `after_step`."""
        return [parameter.detach().clone() for parameter in self._parameters]

    def after_step(self, before: Sequence[Tensor], going_on: Sequence[bool] = (True,)) -> None:
        """Move the parameters, after the optimiser did.

        Args:
            before: as `before_step` gave them.
            going_on: which clients took the step.
        """
        rates = self._rates * _column(going_on, self._rates)
        parts = zip(self._parameters, before, self._start, self._shifts, strict=True)
        with torch.no_grad():
            for parameter, was, start, shift in parts:
                move = shift + self._pull * (was.reshape(start.shape) - start)
                parameter -= (rates * move).reshape(parameter.shape).to(parameter.dtype)


def _column(values: Sequence[float] | Sequence[bool], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device).unsqueeze(1)
