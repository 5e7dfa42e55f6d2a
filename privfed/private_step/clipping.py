"""Clipping: how much one record may contribute to the sum of a step.

Every kind scales the gradients of a record so that their norm over all parameters together is at
most C, whatever the record is. Norms are taken in float64 from the very tensors that are summed,
and the sums are float64 too: over millions of entries a float32 norm falls short by more than any
margin, and over thousands of records a float32 sum moves by more than the record that is removed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from privfed.settings.privacy import AutomaticClipping, Clipping, PerLayerClipping, QuantileClipping

MARGIN: Final = 1e-7
"""Gradients are clipped to C (1 - margin): rounding, to float32 at the end, stays below C."""

_BLOCK: Final = 2**22
"""Gradients that are held in float64 at once, at most: 32 MiB."""

_LIMIT: Final = 10.0
"""An adaptive bound stays within this factor of the configured one, either way."""


def squared_norms(samples: Sequence[Tensor]) -> Tensor:
    """Squared L2 norms of per-example gradients, float64, shape (parameters, records)."""
    flat = [sample.reshape(len(sample), math.prod(sample.shape[1:])) for sample in samples]
    norms = [torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in flat]
    return torch.stack(norms).square()


def clip_factors(
    clipping: Clipping, squared: Tensor, layers: Sequence[int], bound: float
) -> Tensor:
    """What every record's gradients are multiplied by.

    Args:
        clipping: how norms become factors.
        squared: squared norms, float64, shape (parameters, records).
        layers: number of the layer that each parameter belongs to, from 0.
        bound: C.

    Returns:
        float64, shape (parameters, records).
    """
    norms = squared.sum(dim=0, keepdim=True).sqrt()
    limit = bound * (1 - MARGIN)
    if isinstance(clipping, AutomaticClipping):
        return (limit / (norms + clipping.stability)).expand_as(squared)
    if isinstance(clipping, PerLayerClipping):
        index = torch.tensor(layers, device=squared.device)
        totals = squared.new_zeros(max(layers) + 1, squared.shape[1])
        totals.index_add_(0, index, squared)
        return _capped(totals.sqrt(), limit / math.sqrt(len(totals)))[index]
    return _capped(norms, limit).expand_as(squared)


def scaled_sums(sample: Tensor, factors: Tensor) -> Tensor:
    """Factor times gradient, added over the records of each client.

    Args:
        sample: one parameter's gradients, shape (clients * records, *parameter shape).
        factors: float64, shape (clients, records).

    Returns:
        float64, shape (clients, entries of the parameter).
    """
    clients, records = factors.shape
    gradients = sample.reshape(clients, records, math.prod(sample.shape[1:]))
    parts = torch.split(gradients, max(1, _BLOCK // max(1, clients * records)), dim=2)
    weights = factors.unsqueeze(1)
    return torch.cat([torch.bmm(weights, part.double()) for part in parts], dim=2).squeeze(1)


@dataclass(slots=True)
class AdaptiveBound:
    """The bound C of one client, which may follow a quantile of the norms.

    Attributes:
        initial: C at the start.
        current: C of the next step; a function of what was released, and of nothing else.
    """

    initial: float
    current: float

    @classmethod
    def starting(cls, bound: float) -> "AdaptiveBound":
        """At the configured bound."""
        return cls(initial=bound, current=bound)

    def follow(self, clipping: QuantileClipping, noised_count: float, expected: int) -> None:
        """Move C towards the quantile.

        Args:
            clipping: which quantile, and how fast.
            noised_count: sum over the records of +1/2 for a norm within C and -1/2 beyond it, with
                noise of standard deviation `clipping.count_noise`.
            expected: batch size.

        Reference:
            Andrew et al. 2021, arXiv:1905.03871, Algorithm 1.
        """
        share = min(1.0, max(0.0, noised_count / expected + 0.5))
        moved = self.current * math.exp(-clipping.learning_rate * (share - clipping.quantile))
        self.current = min(self.initial * _LIMIT, max(self.initial / _LIMIT, moved))


def gradient_noise_multiplier(clipping: Clipping, noise_multiplier: float) -> float:
    """Noise multiplier of the gradients, where a noised count is released beside them.

    Both come from one draw of records and are one Gaussian release of the stated multiplier:
    1 / z^2 = 1 / z_gradient^2 + (1/2)^2 / count_noise^2.

    Raises:
        ConfigError: if the count alone would cost as much as the whole step.
    """
    if not isinstance(clipping, QuantileClipping):
        return noise_multiplier
    return clipping.gradient_noise_multiplier(noise_multiplier)


def _capped(norms: Tensor, limit: float) -> Tensor:
    return (limit / norms.clamp(min=1e-30)).clamp(max=1.0)
