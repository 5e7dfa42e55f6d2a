"""The private step: per-example gradients, clipping, noise. Opacus does it, held right here.

One step draws a Poisson batch, computes one gradient per record, scales each to at most C over
all trainable parameters together, adds N(0, sigma^2 C^2) to the sum and divides by the public
constant B (Abadi et al. 2016, arXiv:1607.00133, Algorithm 1). An empty draw is a step of noise.

Three silent failures of the parts are closed here: a gradient whose leading dimension is not the
batch is refused at every step; a record with a non-finite gradient contributes zero over all
parameters; noise comes from a secret stream, not from torch's global generator.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from privfed.client.randomness import RandomStream
from privfed.client.sampling import poisson_sample
from privfed.config import require_count, require_positive
from privfed.errors import ConfigError, GateError, ModelError
from privfed.models.tasks import Batch, Task
from privfed.models.vector import trainable

_CLIP_MARGIN: Final = 1e-5
"""Gradients are clipped to C (1 - margin), so that rounding of the scaled ones stays below C."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DPSGDConfig:
    """How one client trains privately within one round.

    Attributes:
        noise_multiplier: noise standard deviation over the clipping norm (sigma); > 0.
        sample_rate: chance that a record joins a step (Poisson, q), in (0, 1].
        clipping_norm: C, > 0.
        expected_batch_size: B, the public divisor of the noised sum.
        steps: steps in the round.
        learning_rate: of SGD, > 0.
        momentum: of SGD within the round, in [0, 1).
        physical_batch_size: records per forward pass.
    """

    noise_multiplier: float
    sample_rate: float
    clipping_norm: float
    expected_batch_size: int
    steps: int
    learning_rate: float
    momentum: float = 0.0
    physical_batch_size: int = 32

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

    def with_learning_rate(self, learning_rate: float) -> "DPSGDConfig":
        """The same step with another learning rate; epsilon does not depend on it."""
        return replace(self, learning_rate=learning_rate)


class PrivateModel:
    """A model whose backward pass leaves one gradient per record in `p.grad_sample`.

    Args:
        model: base model with an adapter attached; what requires a gradient is trained.
        task: computes one loss per record.
        device: where the model lives.

    Raises:
        GateError: if Opacus cannot compute per-example gradients of a trainable module.
    """

    def __init__(self, model: nn.Module, task: Task, device: torch.device) -> None:
        for name, parameter in trainable(model):
            if parameter.dtype != torch.float32:
                raise ModelError(
                    f"the trainable parameter {name!r} must be float32, got {parameter.dtype}: "
                    "norms and noise lose their meaning in lower precision"
                )
        self.task = task
        self.device = device
        self.adapter = model.to(device)
        try:
            self._hooked = GradSampleModule(self.adapter, batch_first=True, loss_reduction="sum")
        except NotImplementedError as error:
            raise GateError(
                f"a trainable module has no per-example gradients in Opacus: {error}"
            ) from error
        self._hooked.train()

    def parameters(self) -> list[tuple[str, Any]]:
        """Trainable parameters by name; Opacus hangs `grad_sample` and `summed_grad` on them."""
        return list(trainable(self.adapter))

    def per_example_gradients(self, batch: Batch) -> None:
        """Fill `p.grad_sample`, shape (batch, *p.shape), of every trainable parameter.

        Raises:
            ModelError: if the task returned something else than one loss per record.
            GateError: if a parameter got no gradient, or not one per record.
        """
        count = len(next(iter(batch.values())))
        losses = self.losses(batch)
        _backward(losses)
        for name, parameter in self.parameters():
            _require_rows(name, parameter, count)
        self._zero_non_finite()

    def single_gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Ordinary gradients of the summed losses by name, without any hook: the reference."""
        self._hooked.disable_hooks()
        try:
            for _, parameter in self.parameters():
                parameter.grad = None
            _backward(self.losses(batch))
            return {
                name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                for name, parameter in self.parameters()
            }
        finally:
            for _, parameter in self.parameters():
                parameter.grad = None
            self._hooked.enable_hooks()

    def losses(self, batch: Batch) -> Tensor:
        """One loss per record, shape (batch,)."""
        count = len(next(iter(batch.values())))
        moved = {name: tensor.to(self.device) for name, tensor in batch.items()}
        losses = self.task.losses(self._hooked, moved)
        if losses.shape != (count,):
            raise ModelError(
                f"the loss must have shape ({count},), one value per record, got "
                f"{tuple(losses.shape)}: a mean over the batch breaks the sensitivity bound"
            )
        return losses

    def forget(self) -> None:
        """Drop all that an earlier pass left, also one that failed half-way.

        Clients of one process share the model. Opacus keeps activations and counts forward
        passes until the backward pass; what a failed client left there must neither stop the
        next one nor flow into its gradients.
        """
        for module in self._hooked.modules():
            if hasattr(module, "activations"):
                module.activations = []
            if hasattr(module, "max_batch_len"):
                del module.max_batch_len
        for _, parameter in self.parameters():
            parameter._forward_counter = 0
            parameter.grad = parameter.grad_sample = parameter.summed_grad = None
            if hasattr(parameter, "_current_grad_sample"):
                del parameter._current_grad_sample

    def save_adapter(self, folder: Path) -> None:
        """Write the trained parameters in PEFT format; the base model is not written."""
        adapter: Any = self.adapter
        adapter.save_pretrained(folder, save_embedding_layers=False)

    def _zero_non_finite(self) -> None:
        samples = [parameter.grad_sample for _, parameter in self.parameters()]
        finite = torch.stack([g.flatten(1).isfinite().all(dim=1) for g in samples]).all(dim=0)
        for sample in samples:
            sample.masked_fill_(~finite.view(-1, *[1] * (sample.dim() - 1)), 0.0)


class HiddenNoiseOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimiser with noise from a secret stream instead of a torch generator.

    Args:
        optimizer: what moves the parameters.
        config: of the private step.
        noise: secret stream.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, config: DPSGDConfig, noise: RandomStream
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=config.noise_multiplier,
            max_grad_norm=config.clipping_norm * (1 - _CLIP_MARGIN),
            expected_batch_size=config.expected_batch_size,
        )
        self._noise_std = config.noise_multiplier * config.clipping_norm
        self._noise = noise

    def clip_and_accumulate(self) -> None:
        """Scale every record's gradient to at most C and add it to `p.summed_grad`.

        Norms are taken in float64: over millions of entries, a float32 norm falls short by more
        than any margin.
        """
        samples = [parameter.grad_sample for parameter in self.params]
        flat = [g.reshape(len(g), math.prod(g.shape[1:])) for g in samples]
        norms = torch.stack([torch.linalg.vector_norm(g, dim=1, dtype=torch.float64) for g in flat])
        norms = norms.square().sum(dim=0).sqrt()
        factors = (self.max_grad_norm / norms.clamp(min=1e-30)).clamp(max=1.0)
        for parameter, sample in zip(self.params, samples, strict=True):
            total = torch.einsum("i,i...->...", factors.to(sample.dtype), sample)
            summed = parameter.summed_grad
            parameter.summed_grad = total if summed is None else summed + total

    def add_noise(self) -> None:
        """Put the noised sum of clipped gradients into `p.grad`."""
        for parameter in self.params:
            total = parameter.summed_grad
            normal = torch.from_numpy(self._noise.normal(total.numel())).reshape(total.shape)
            noise = (self._noise_std * normal).to(device=total.device, dtype=total.dtype)
            parameter.grad = (total + noise).view_as(parameter)


def train_round(
    model: PrivateModel,
    encoded: Batch,
    config: DPSGDConfig,
    *,
    sampling: RandomStream,
    noise: RandomStream,
) -> None:
    """Train the model in place for one round of private steps.

    Args:
        model: its trainable parameters are moved.
        encoded: all records of the client, tensors with leading dimension (records,).
        config: of the private step.
        sampling: secret stream that draws the batches.
        noise: secret stream of the noise, another one.
    """
    model.forget()
    parameters = [parameter for _, parameter in model.parameters()]
    sgd = torch.optim.SGD(parameters, lr=config.learning_rate, momentum=config.momentum)
    optimizer = HiddenNoiseOptimizer(sgd, config, noise)
    num_records = len(next(iter(encoded.values())))
    for _ in range(config.steps):
        drawn = torch.from_numpy(poisson_sample(sampling, num_records, config.sample_rate))
        private_step(model, optimizer, encoded, drawn, config.physical_batch_size)


def private_step(
    model: PrivateModel,
    optimizer: DPOptimizer,
    encoded: Batch,
    drawn: Tensor,
    physical_batch_size: int,
) -> None:
    """One step on the drawn records, in parts that fit the memory; noise is added once.

    Args:
        model: its trainable parameters are moved.
        optimizer: clips, adds noise, divides by B, moves.
        encoded: all records, tensors with leading dimension (records,).
        drawn: indices of the batch, shape (batch,); may be empty.
        physical_batch_size: records per forward pass.
    """
    parts = _split(drawn, physical_batch_size)
    for position, part in enumerate(parts):
        optimizer.zero_grad()
        if len(part):
            model.per_example_gradients(rows(encoded, part))
        else:
            for _, parameter in model.parameters():
                parameter.grad_sample = torch.zeros((0, *parameter.shape), device=parameter.device)
        optimizer.signal_skip_step(do_skip=position < len(parts) - 1)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def rows(encoded: Batch, indices: Tensor) -> dict[str, Tensor]:
    """The chosen rows; never cut to the longest of them, which would couple records."""
    return {name: tensor[indices] for name, tensor in encoded.items()}


def physical_batches(encoded: Batch, size: int) -> Iterator[dict[str, Tensor]]:
    """All rows in order, `size` at a time."""
    num_records = len(next(iter(encoded.values())))
    for part in _split(torch.arange(num_records), size):
        yield rows(encoded, part)


def _split(indices: Tensor, size: int) -> list[Tensor]:
    """Parts of at most `size` indices; one empty part of none."""
    return list(torch.split(indices, size)) if len(indices) else [indices]


def _backward(losses: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        torch.autograd.backward(losses.sum())


def _require_rows(name: str, parameter: nn.Parameter, count: int) -> None:
    sample = getattr(parameter, "grad_sample", None)
    if not isinstance(sample, Tensor):
        raise GateError(
            f"the trainable parameter {name!r} got no per-example gradient; it cannot be trained "
            "privately with this adapter"
        )
    if sample.shape != (count, *parameter.shape):
        raise GateError(
            f"the per-example gradient of {name!r} has shape {tuple(sample.shape)} for a batch of "
            f"{count}: several records would be clipped as one"
        )
