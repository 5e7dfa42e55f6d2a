"""The private step: per-example gradients, clipping, noise.

One step draws a Poisson batch, computes one gradient per record, scales each to at most C over
all trainable parameters together, adds N(0, sigma^2 C^2) to the sum and divides by the public
constant B (Abadi et al. 2016, arXiv:1607.00133, Algorithm 1). An empty draw is a step of noise.
"""

import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer
from torch import Tensor

from accountants import PoissonGaussian
from privfed.checks import require_count, require_positive
from privfed.errors import ConfigError, GateError
from privfed.methods.method import Correction
from privfed.models.tasks import Batch
from privfed.private_step.batches import num_rows, physical_batches
from privfed.private_step.clipping import (
    AdaptiveBound,
    clip_factors,
    gradient_noise_multiplier,
    scaled_sums,
    squared_norms,
)
from privfed.private_step.correcting import Corrector
from privfed.private_step.data_parallel import ClippedSum
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.randomness import NoiseStream, RandomStream
from privfed.private_step.sampling import poisson_sample
from privfed.settings.privacy import Clipping, FlatClipping, QuantileClipping
from privfed.settings.training import PHYSICAL_BATCH_SIZE, SGD, AdamW, Optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class DPSGDConfig:
    """How one client trains privately within one round.

    Attributes:
        noise_multiplier: noise standard deviation over the clipping norm (sigma); > 0.
        sample_rate: chance that a record joins a step (Poisson, q), in (0, 1].
        clipping_norm: C, > 0.
        clipping: how a record's gradients are scaled to at most C.
        expected_batch_size: B, the public divisor of the noised sum.
        steps: steps in the round.
        learning_rate: > 0.
        optimizer: what moves the parameters by the noised mean.
        physical_batch_size: records per forward pass.
    """

    noise_multiplier: float
    sample_rate: float
    clipping_norm: float
    expected_batch_size: int
    steps: int
    learning_rate: float
    clipping: Clipping = field(default_factory=FlatClipping)
    optimizer: Optimizer = field(default_factory=SGD)
    physical_batch_size: int = PHYSICAL_BATCH_SIZE

    def __post_init__(self) -> None:
        """Check every field."""
        require_positive(
            noise_multiplier=self.noise_multiplier,
            clipping_norm=self.clipping_norm,
            learning_rate=self.learning_rate,
        )
        require_count(
            expected_batch_size=self.expected_batch_size,
            steps=self.steps,
            physical_batch_size=self.physical_batch_size,
        )
        if not 0 < self.sample_rate <= 1:
            raise ConfigError(
                f"sample_rate must be in (0, 1], got {self.sample_rate!r}; "
                "it is a probability per step, not a batch size"
            )
        gradient_noise_multiplier(self.clipping, self.noise_multiplier)

    def release(self) -> PoissonGaussian:
        """What the steps of one round release."""
        return PoissonGaussian(
            noise_multiplier=self.noise_multiplier,
            sample_rate=self.sample_rate,
            steps=self.steps,
        )

    def with_learning_rate(self, learning_rate: float) -> "DPSGDConfig":
        """The same step with another learning rate; epsilon does not depend on it."""
        return replace(self, learning_rate=learning_rate)


class HiddenNoiseOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimiser with noise from a secret stream instead of a torch generator.

    Args:
        optimizer: what moves the parameters.
        config: of the private step.
        noise: secret stream.
        layers: number of the layer of each parameter, from 0; None: each is a layer.
        bound: C of the client, where it follows a quantile; None starts at the configured one.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        config: DPSGDConfig,
        noise: NoiseStream,
        layers: Sequence[int] | None = None,
        bound: AdaptiveBound | None = None,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=config.noise_multiplier,
            max_grad_norm=config.clipping_norm,
            expected_batch_size=config.expected_batch_size,
        )
        self._config = config
        self._noise = noise
        self._layers = range(len(self.params)) if layers is None else layers
        self._bound = bound or AdaptiveBound.starting(config.clipping_norm)
        self._present: Tensor | None = None
        self._count = 0.0
        self._used: list[weakref.ref[Tensor]] = []

    def set_present(self, present: Tensor | None) -> None:
        """Which rows of the next physical batch are records, shape (records,); None: all."""
        self._present = present

    def clip_and_accumulate(self) -> None:
        """Scale every record's gradient to at most C and add it to `p.summed_grad`, in float64.

        Raises:
            GateError: if a gradient has not one row for every record of the physical batch.
        """
        samples = [parameter.grad_sample for parameter in self.params]
        self._require_rows(samples)
        if not len(samples[0]):
            for parameter in self.params:
                if parameter.summed_grad is None:
                    parameter.summed_grad = torch.zeros_like(parameter, dtype=torch.float64)
            return
        squared = squared_norms(samples)
        factors = clip_factors(self._config.clipping, squared, self._layers, self._bound.current)
        if self._present is not None:
            factors = factors * self._present.to(factors.device)
        for parameter, sample, factor in zip(self.params, samples, factors, strict=True):
            total = scaled_sums(sample, factor.unsqueeze(0)).view(parameter.shape)
            summed = parameter.summed_grad
            parameter.summed_grad = total if summed is None else summed + total
        if isinstance(self._config.clipping, QuantileClipping):
            votes = half_votes(squared.sum(dim=0).sqrt(), self._bound.current, self._present)
            self._count += float(votes.sum())
        self._used = [weakref.ref(sample) for sample in samples]

    def add(self, sums: ClippedSum) -> None:
        """Add what other processes of the client clipped to `p.summed_grad`."""
        sizes = [parameter.numel() for parameter in self.params]
        for parameter, part in zip(self.params, torch.split(sums.total, sizes), strict=True):
            total = part.to(parameter.device).view(parameter.shape)
            summed = parameter.summed_grad
            parameter.summed_grad = total if summed is None else summed + total
        self._count += sums.votes

    def current_config(self) -> DPSGDConfig:
        """The settings, with C as it is now."""
        return replace(self._config, clipping_norm=float(self._bound.current))

    def clipped_sum(self) -> ClippedSum:
        """All that was added since the last step, on the CPU."""
        return ClippedSum(total=self._summed().cpu(), votes=self._count)

    def add_noise(self) -> None:
        """Put the noised sum of clipped gradients into `p.grad`.

        It is rounded to float32 once, after the noise: rounded apart, sum and noise would leave
        traces of each other in the last bits.
        """
        sizes = [parameter.numel() for parameter in self.params]
        total = self._summed()
        total += noise_of_sum(self._config, self._bound, self._noise, len(total), total.device)
        for parameter, part in zip(self.params, torch.split(total, sizes), strict=True):
            parameter.grad = part.to(parameter.dtype).view_as(parameter)
        follow_quantile(self._config, self._bound, self._noise, self._count)
        self._count = 0.0

    def _summed(self) -> Tensor:
        return torch.cat([parameter.summed_grad.flatten() for parameter in self.params])

    def _require_rows(self, samples: Sequence[Any]) -> None:
        """Opacus accepts one row for a whole batch, and lists that it divides by."""
        if any(new is old() for new, old in zip(samples, self._used, strict=False)):
            raise GateError(
                "these gradients were used by an earlier step: a record would count twice; run "
                "per_example_gradients before every step"
            )
        expected = None if self._present is None else len(self._present)
        for parameter, sample in zip(self.params, samples, strict=True):
            rows = len(samples[0]) if expected is None else expected
            if not isinstance(sample, Tensor) or sample.shape != (rows, *parameter.shape):
                shape = tuple(sample.shape) if isinstance(sample, Tensor) else type(sample).__name__
                raise GateError(
                    f"grad_sample must have shape {(rows, *parameter.shape)}, one row for every "
                    f"record of the physical batch, got {shape}: several records would be clipped "
                    "as one"
                )


def noise_of_sum(
    config: DPSGDConfig, bound: AdaptiveBound, noise: NoiseStream, count: int, device: torch.device
) -> Tensor:
    """What is added to one step's clipped sum, N(0, sigma^2 C^2), float64, shape (count,)."""
    multiplier = gradient_noise_multiplier(config.clipping, config.noise_multiplier)
    return multiplier * bound.current * noise.normal(count, device)


def half_votes(norms: Tensor, bound: float | Tensor, present: Tensor | None) -> Tensor:
    """For each record, +1/2 for a norm within C and -1/2 beyond it; 0 for a row that fills up."""
    votes = (norms <= bound).double() - 0.5
    return votes if present is None else votes * present.to(votes.device)


def follow_quantile(
    config: DPSGDConfig, bound: AdaptiveBound, noise: NoiseStream, votes: float
) -> None:
    """Let C follow the noised sum of the votes, where it follows a quantile; after the sum's noise.

    Args:
        config: of the private step.
        bound: moved.
        noise: secret stream.
        votes: sum of `half_votes` over all records of the step.
    """
    if isinstance(config.clipping, QuantileClipping):
        one = float(noise.normal(1, torch.device("cpu")))
        noised = votes + config.clipping.count_noise * one
        bound.follow(config.clipping, noised, config.expected_batch_size)


def layer_numbers(names: Sequence[str]) -> list[int]:
    """The number of the layer, from 0, that each named parameter lies in."""
    layers = [name.rpartition(".")[0] for name in names]
    numbers = {layer: number for number, layer in enumerate(dict.fromkeys(layers))}
    return [numbers[layer] for layer in layers]


def private_optimizer(
    model: PrivateModel,
    config: DPSGDConfig,
    noise: NoiseStream,
    bound: AdaptiveBound | None = None,
) -> HiddenNoiseOptimizer:
    """The optimiser of a private model, fresh: its state does not outlive a round."""
    named = model.parameters()
    return HiddenNoiseOptimizer(
        plain_optimizer([parameter for _, parameter in named], config),
        config,
        noise,
        layers=layer_numbers([name for name, _ in named]),
        bound=bound,
    )


def plain_optimizer(
    parameters: Sequence[torch.nn.Parameter], config: DPSGDConfig
) -> torch.optim.Optimizer:
    """What moves parameters by their `grad`, as configured."""
    chosen = config.optimizer
    if isinstance(chosen, AdamW):
        return torch.optim.AdamW(
            parameters,
            lr=config.learning_rate,
            betas=(chosen.beta1, chosen.beta2),
            eps=chosen.epsilon,
            weight_decay=chosen.weight_decay,
        )
    return torch.optim.SGD(parameters, lr=config.learning_rate, momentum=chosen.momentum)


def train_round(
    model: PrivateModel,
    encoded: Batch,
    config: DPSGDConfig,
    *,
    sampling: RandomStream,
    noise: NoiseStream,
    bound: AdaptiveBound | None = None,
    correction: Correction | None = None,
    moving: NDArray[np.bool_] | None = None,
) -> None:
    """Train the model in place for one round of private steps.

    Args:
        model: its trainable parameters are moved.
        encoded: all records of the client, tensors with leading dimension (records,).
        config: of the private step.
        sampling: secret stream that draws the batches.
        noise: secret stream of the noise, another one.
        bound: C of the client, where it follows a quantile; moved.
        correction: of every step, after its noise.
        moving: which entries of the adapter move, shape (params,); None: all.
    """
    moving = np.ones(model.layout.length, dtype=bool) if moving is None else moving
    threads = nullcontext() if model.replicas is None else model.replicas.threads()
    with model.training_only(moving), threads:
        optimizer = private_optimizer(model, config, noise, bound)
        corrector = None
        if correction is not None:
            trained = model.layout.mask([name for name, _ in model.parameters()])
            corrections = [correction.only(trained)]
            corrector = Corrector(optimizer.params, corrections, [config.learning_rate])
        for _ in range(config.steps):
            chosen = poisson_sample(sampling, num_rows(encoded), config.sample_rate)
            drawn = torch.from_numpy(chosen)
            before = [] if corrector is None else corrector.before_step()
            private_step(model, optimizer, encoded, drawn, config.physical_batch_size)
            if corrector is not None:
                corrector.after_step(before)
            model.put_back()


def private_step(
    model: PrivateModel,
    optimizer: HiddenNoiseOptimizer,
    encoded: Batch,
    drawn: Tensor,
    physical_batch_size: int,
) -> None:
    """One step on the drawn records, in parts that fit the memory; noise is added once.

    Args:
        model: its trainable parameters are moved; its replicas take a part of the batch each.
        optimizer: clips, adds noise, divides by B, moves.
        encoded: all records, tensors with leading dimension (records,).
        drawn: indices of the batch, shape (batch,); may be empty.
        physical_batch_size: records per forward pass.
    """
    optimizer.zero_grad(set_to_none=True)
    if model.replicas is None:
        accumulate(model, optimizer, encoded, drawn, physical_batch_size)
    else:
        own = model.replicas.deal(model, encoded, drawn, optimizer.current_config())
        accumulate(model, optimizer, encoded, own, physical_batch_size)
        for sums in model.replicas.sums():
            optimizer.add(sums)
    for parameter in optimizer.params:
        parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
    optimizer.set_present(None)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def accumulate(
    model: PrivateModel,
    optimizer: HiddenNoiseOptimizer,
    encoded: Batch,
    drawn: Tensor,
    physical_batch_size: int,
) -> None:
    """Add the clipped gradients of records to `p.summed_grad`; arguments as of `private_step`."""
    for batch in physical_batches(encoded, drawn, physical_batch_size):
        model.per_example_gradients(batch.tensors, batch.present)
        optimizer.set_present(batch.present)
        optimizer.signal_skip_step(do_skip=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
