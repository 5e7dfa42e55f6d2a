"""Many clients trained in one pass over the base model that they share: for simulation.

Every row of a physical batch belongs to one client and meets that client's adapter, so one forward
and one backward pass give the per-example gradients of all of them. The rest is as for a single
client: each draws its own Poisson batch, its records are clipped and added among themselves, and
noise, divisor, optimiser state and bound are its own. Small models, whose steps wait for Python and
for the launch of kernels, gain almost as many times as there are clients.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, compress, groupby
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privfed.methods.method import Start
from privfed.models.tasks import Batch
from privfed.models.vector import write_vector
from privfed.private_step.batches import num_rows, rows
from privfed.private_step.clipping import AdaptiveBound, clip_factors, scaled_sums, squared_norms
from privfed.private_step.correcting import Corrector
from privfed.private_step.dpsgd import (
    DPSGDConfig,
    follow_quantile,
    half_votes,
    layer_numbers,
    noise_of_sum,
    plain_optimizer,
)
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.randomness import NoiseStream, RandomStream
from privfed.private_step.sampling import poisson_sample
from privfed.protocol.layout import Layout
from privfed.settings.privacy import Clipping

_NOBODY: Final = torch.empty(0, dtype=torch.long)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRound:
    """What one client brings to its private steps of one round.

    Attributes:
        encoded: all its records, tensors with leading dimension (records,).
        config: of the private step.
        sampling: secret stream that draws its batches.
        noise: secret stream of its noise, another one.
        bound: its C, where it follows a quantile; moved.
        start: from where it trains, what moves, and what is added to its steps.
    """

    encoded: Batch = field(repr=False)
    config: DPSGDConfig
    sampling: RandomStream
    noise: NoiseStream
    bound: AdaptiveBound
    start: Start


def train_stacked(model: PrivateModel, clients: Sequence[LocalRound]) -> NDArray[np.float32]:
    """Train every client for its private steps.

    Equal to `train_round` for one client after the other, up to rounding. What a client draws from
    its streams does not depend on the others' records. The parameters of the model do not move.

    Args:
        model: shared; computes gradients.
        clients: at least one; their records have the same shapes.

    Returns:
        Trained adapters, shape (clients, params).
    """
    starts = np.stack([client.start.adapter for client in clients])
    write_vector(model.adapter, starts[0])  # where all clients are alike and none moves
    moving = np.any([client.start.moving for client in clients], axis=0)
    with model.training_only(moving | (starts != starts[0]).any(axis=0)):
        trained = model.layout.mask([name for name, _ in model.parameters()])
        stack = _Stack(model, clients, starts, trained)
        for step in range(max(client.config.steps for client in clients)):
            stack.take_step(step)
    starts[:, trained] = stack.adapters.cpu().numpy()
    return starts


def record_shapes(encoded: Batch) -> dict[str, tuple[int, ...]]:
    """The shape of one record in each tensor; clients that share them can be stacked."""
    return {name: tuple(tensor.shape[1:]) for name, tensor in encoded.items()}


def stacked_batches(
    drawn: Sequence[Tensor], fill: Sequence[int], size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The drawn records of all clients, `size` rows of each at a time.

    Whoever has no records left fills up with rows of weight zero, so that all passes have one
    shape. Without any record there is no pass.

    Args:
        drawn: per client, indices of records, shape (drawn,); may be empty.
        fill: per client, the record that fills up.
        size: rows of each client in a pass.

    Yields:
        Indices, and which of them are records, both of shape (clients, size).
    """
    longest = max(len(indices) for indices in drawn)
    table = torch.tensor(fill).repeat(-(-longest // size) * size, 1).T.contiguous()
    present = torch.zeros(table.shape, dtype=torch.bool)
    for client, indices in enumerate(drawn):
        table[client, : len(indices)] = indices
        present[client, : len(indices)] = True
    for first in range(0, longest, size):
        part = slice(first, first + size)
        yield table[:, part], present[:, part]


@dataclass(frozen=True, slots=True)
class _Mover:
    """The optimiser of neighbouring clients with equal settings; it works entry by entry.

    Attributes:
        members: these clients.
        steps: of each of them.
        adapters: theirs, shape (clients, params): a view of those of the stack.
        optimizer: moves `adapters`.
    """

    members: slice
    steps: int
    adapters: torch.nn.Parameter
    optimizer: torch.optim.Optimizer


class _Stack:
    """Clients in training.

    Args:
        model: computes gradients.
        clients: what each brings.
        starts: of each client, shape (clients, params).
        trained: which of it lies in parameters that move at any client, or in which they differ,
            shape (params,).

    Attributes:
        adapters: of each client, shape (clients, trained).
    """

    def __init__(
        self,
        model: PrivateModel,
        clients: Sequence[LocalRound],
        starts: NDArray[np.float32],
        trained: NDArray[np.bool_],
    ) -> None:
        self._model = model
        self._clients = clients
        self._names = [name for name, _ in model.parameters()]
        self._moving = [_moving(model.layout, self._names, one.start.moving) for one in clients]
        self._pool = {
            name: torch.cat([client.encoded[name] for client in clients])
            for name in clients[0].encoded
        }
        sizes = [num_rows(client.encoded) for client in clients]
        self._first = [0, *accumulate(sizes)][:-1]
        self._rows = max(client.config.physical_batch_size for client in clients)
        self.adapters = torch.from_numpy(starts[:, trained]).to(model.device)
        still = np.stack([~client.start.moving[trained] for client in clients])
        self._still = torch.from_numpy(still).to(model.device) if still.any() else None
        self._starts = self.adapters.clone()
        self._movers = list(_movers(clients, self.adapters))
        given = [client.start.correction for client in clients]
        corrections = [one and one.only(trained) for one in given]
        self._corrector = None
        if any(correction is not None for correction in corrections):
            rates = [client.config.learning_rate for client in clients]
            self._corrector = Corrector([self.adapters], corrections, rates)

    def take_step(self, number: int) -> None:
        """One private step of every client that has steps left; `number` counts from 0."""
        going_on = [number < client.config.steps for client in self._clients]
        drawn = [
            self._draw(client) if goes_on else _NOBODY for client, goes_on in enumerate(going_on)
        ]
        sums = torch.zeros_like(self.adapters, dtype=torch.float64)
        votes = sums.new_zeros(len(sums))
        for indices, present in stacked_batches(drawn, self._first, self._rows):
            clipped, inside = self._clipped_sums(indices, present)
            sums += clipped
            votes += inside
        for client in compress(range(len(sums)), going_on):
            _make_private(self._clients[client], sums[client], float(votes[client]))
        gradients = sums.to(self.adapters.dtype)  # rounded once, after the noise
        before = [] if self._corrector is None else self._corrector.before_step()
        for mover in self._movers:
            if number < mover.steps:
                mover.adapters.grad = gradients[mover.members]
                mover.optimizer.step()
        if self._corrector is not None:
            self._corrector.after_step(before, going_on)
        if self._still is not None:
            self.adapters.copy_(torch.where(self._still, self._starts, self.adapters))

    def _draw(self, index: int) -> Tensor:
        """A Poisson batch of a client's own records, as indices into the pool."""
        client = self._clients[index]
        rate = client.config.sample_rate
        chosen = poisson_sample(client.sampling, num_rows(client.encoded), rate)
        return torch.from_numpy(chosen) + self._first[index]

    def _clipped_sums(self, indices: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """One pass: clipped sums, shape (clients, params), and votes, shape (clients,).

        Args:
            indices: of the rows in the pool, shape (clients, rows).
            present: which of them are records, same shape.
        """
        samples = self._model.stacked_gradients(
            rows(self._pool, indices.flatten()),
            self.adapters.repeat_interleave(indices.shape[1], dim=0),
            present.flatten(),
        )
        self._only_moving(samples)
        squared = squared_norms(samples).view(-1, *indices.shape)
        present = present.to(squared.device)
        factors = self._factors(squared) * present
        sums = [scaled_sums(*pair) for pair in zip(samples, factors, strict=True)]
        return torch.cat(sums, dim=1), self._votes(squared, present)

    def _only_moving(self, samples: Sequence[Tensor]) -> None:
        """Zero, in place, the gradients of what stands still at the client of a row."""
        if self._still is None:
            return
        parts = torch.split(self._still, [sample[0].numel() for sample in samples], dim=1)
        for sample, still in zip(samples, parts, strict=True):
            by_client = sample.view(len(still), -1, still.shape[1])
            by_client.masked_fill_(still.unsqueeze(1), 0.0)

    def _factors(self, squared: Tensor) -> Tensor:
        """What every gradient is multiplied by: each client's own clipping and bound.

        Args:
            squared: squared norms, shape (parameters, clients, rows).

        Returns:
            The same shape.
        """
        factors = torch.empty_like(squared)
        factors.zero_()  # of what stands still, whose gradients are zero
        for (clipping, bound, moving), members in self._by_clipping().items():
            layers = layer_numbers([self._names[parameter] for parameter in moving])
            part = squared[list(moving)][:, members]
            found = clip_factors(clipping, part.flatten(1), layers, bound).view_as(part)
            for row, parameter in enumerate(moving):
                factors[parameter, members] = found[row]
        return factors

    def _by_clipping(self) -> dict[tuple[Clipping, float, tuple[int, ...]], list[int]]:
        """Clients by clipping, bound and the parameters that move, by number.

        A factor depends on these and on its own record alone.
        """
        found: dict[tuple[Clipping, float, tuple[int, ...]], list[int]] = {}
        for index, client in enumerate(self._clients):
            key = (client.config.clipping, client.bound.current, self._moving[index])
            found.setdefault(key, []).append(index)
        return found

    def _votes(self, squared: Tensor, present: Tensor) -> Tensor:
        bounds = squared.new_tensor([[client.bound.current] for client in self._clients])
        return half_votes(squared.sum(dim=0).sqrt(), bounds, present).sum(dim=1)


def _moving(layout: Layout, names: Sequence[str], mask: NDArray[np.bool_]) -> tuple[int, ...]:
    """Which of the named parameters move, all or in part, by number; `mask` has shape (params,)."""
    sizes = [math.prod(shape) for _, shape in layout.parameters]
    any_moves = np.logical_or.reduceat(mask, np.cumsum([0, *sizes[:-1]]))
    moves = dict(zip(layout.names, any_moves, strict=True))
    return tuple(number for number, name in enumerate(names) if moves[name])


def _movers(clients: Sequence[LocalRound], adapters: Tensor) -> Iterator[_Mover]:
    """One optimiser for all neighbours with equal settings and equally many steps."""
    first = 0
    for _, equal in groupby(
        (client.config for client in clients),
        key=lambda config: (config.optimizer, config.learning_rate, config.steps),
    ):
        configs = list(equal)
        members = slice(first, first + len(configs))
        own = torch.nn.Parameter(adapters[members])
        optimizer = plain_optimizer([own], configs[0])
        yield _Mover(members, configs[0].steps, own, optimizer)
        first = members.stop


def _make_private(client: LocalRound, total: Tensor, votes: float) -> None:
    """Turn a client's clipped sum, float64, shape (params,), into its noised mean, in place."""
    config = client.config
    noise = noise_of_sum(config, client.bound, client.noise, total.numel(), total.device)
    total.add_(noise).div_(config.expected_batch_size)
    follow_quantile(config, client.bound, client.noise, votes)
