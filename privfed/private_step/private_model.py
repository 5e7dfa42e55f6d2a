"""A model whose backward pass leaves one gradient per record."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privfed.errors import ConfigError, ModelError
from privfed.models.base_modes import training_mode
from privfed.models.checkpointing import checkpoint_layers
from privfed.models.frozen_layers import FrozenLayers
from privfed.models.tasks import EXAMPLE_WEIGHT, FROZEN_STATES, Batch, Task
from privfed.models.vector import layout_of, trainable
from privfed.private_step.batches import num_rows, physical_batches
from privfed.private_step.data_parallel import Replicas
from privfed.private_step.dropout import forget_keys, new_keys, secret_dropouts
from privfed.private_step.gradients import HookGradients, LeafGradients, PerExampleGradients
from privfed.private_step.in_part import InPart
from privfed.settings.computation import Computation, GradientMethod, Precision

_LOW_PRECISION: Final = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
_LOSS_SCALE: Final = {Precision.FP16: 1024.0}
"""Losses are multiplied by it before the backward pass, so that float16 gradients do not vanish."""


class PrivateModel:
    """A model whose backward pass leaves one gradient per record in `p.grad_sample`.

    Args:
        model: base model with an adapter attached; what requires a gradient is trained.
        task: computes one loss per example.
        device: where the model lives.
        computation: how it is computed; nothing of it changes a guarantee.
        base_sha256: `base_digest` of the base model, taken before the adapter was attached.
        added: names of what the adapter added to the base model, trained or frozen.

    Attributes:
        adapter: the model itself.
        task: as given.
        device: as given.
        base_sha256: as given; None if it was not.
        added: as given.
        layout: of what is trained.
        moving: which entries of it move, shape (params,).
        replicas: other processes of the client that hold this model; None: there are none.

    Raises:
        GateError: if a trainable parameter has no exact per-example gradient; it is named.
        ModelError: if a layer mixes records, or a trainable parameter is not float32.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        device: torch.device,
        computation: Computation | None = None,
        *,
        base_sha256: str | None = None,
        added: Sequence[str] = (),
    ) -> None:
        computation = computation or Computation()
        _refuse_what_mixes_records(model)
        self._names = [name for name, _ in _trained(model)]
        self._still: frozenset[str] = frozenset()
        self._in_part: dict[str, InPart] = {}
        self.task = task
        self.device = device
        self.base_sha256 = base_sha256
        self.added = added
        self.layout = layout_of(model)
        self.moving = np.ones(self.layout.length, dtype=bool)
        self.replicas: Replicas | None = None
        self.adapter = model.to(device)
        self._low = _LOW_PRECISION.get(computation.precision)
        self._loss_scale = _LOSS_SCALE.get(computation.precision, 1.0)
        checkpoint_layers(model, computation.checkpointing)
        training_mode(model)
        self._frozen = FrozenLayers(model) if computation.cache_frozen_layers else None
        self._dropouts = secret_dropouts(model)
        if self._dropouts and computation.compile:
            raise ConfigError("dropout takes its masks from secret keys, which cannot be compiled")
        self._gradients: PerExampleGradients
        if computation.gradients is GradientMethod.OPACUS_HOOKS:
            self._gradients = HookGradients(model)
        else:
            self._gradients = LeafGradients(model, self._low, compiled=computation.compile)

    @contextmanager
    def training_only(self, moving: NDArray[np.bool_]) -> Iterator[None]:
        """Let the other entries of the trainable parameters stand still within the block.

        They get no gradient, and no part in a record's norm. `put_back` undoes what a step did to
        those of parameters that move in part.

        Args:
            moving: which entries move, shape (params,), at least one; the others stay at what they
                are when the block is entered.

        Raises:
            ModelError: if this is no choice of the trainable entries.
        """
        if moving.shape != (self.layout.length,) or moving.dtype != bool or not moving.any():
            raise ModelError(
                f"some of the {self.layout.length} entries must be trained, got {moving!r:.80}"
            )
        self.forget()
        self.moving, named = moving, list(trainable(self.adapter))
        ends = np.cumsum([parameter.numel() for _, parameter in named])
        parts = dict(zip(self._names, np.split(moving, ends[:-1]), strict=True))
        self._still = frozenset(name for name, part in parts.items() if not part.any())
        self._in_part = {
            name: InPart.of(parameter, parts[name])
            for name, parameter in named
            if parts[name].any() and not parts[name].all()
        }
        try:
            yield
        finally:
            self.forget()
            self._still, self._in_part = frozenset(), {}
            self.moving = np.ones_like(moving)

    def put_back(self) -> None:
        """Set the entries that stand still to what they were: noise and decay moved them."""
        for part in self._in_part.values():
            part.put_back()

    def parameters(self) -> list[tuple[str, Any]]:
        """Parameters that move, all or in part; Opacus hangs its gradients on them.

        Raises:
            ModelError: if others are trainable than when the model was built.
        """
        found = list(trainable(self.adapter))
        if [name for name, _ in found] != self._names:
            changed = sorted({name for name, _ in found}.symmetric_difference(self._names))
            raise ModelError(
                f"what is trainable must not change after the model was built; {changed[:3]} did: "
                "the gate has not seen it, and its gradient would not be clipped"
            )
        return [(name, parameter) for name, parameter in found if name not in self._still]

    def with_frozen_states(
        self, encoded: Batch, rows_at_once: int, *, held_out: bool = False
    ) -> Batch:
        """Records with what enters the first trained block, where that is kept beside them.

        Args:
            encoded: tensors with leading dimension (records,), or (records, examples).
            rows_at_once: records in one pass; all passes are filled up to it.
            held_out: whether they are for the held-out metric, not for the loss.

        Returns:
            The same with one more tensor, shape (records, [examples,] length, width), in the memory
            of the CPU.
        """
        frozen = self._frozen
        if frozen is None:
            return encoded
        run = self.task.metric_parts if held_out else self.task.losses
        states = []
        with torch.no_grad(), self.autocast():
            for part in physical_batches(encoded, torch.arange(num_rows(encoded)), rows_at_once):
                examples = self.begin(_flattened(part.tensors)[0])
                entering = frozen.states(partial(run, self.adapter, examples))
                by_record = entering.view(len(part.present), -1, *entering.shape[1:])
                states.append(by_record[part.present].cpu())
        kept = torch.cat(states)
        return {**encoded, FROZEN_STATES: kept if EXAMPLE_WEIGHT in encoded else kept.squeeze(1)}

    def begin(self, batch: Batch) -> Batch:
        """Let the next pass, forward and backward, begin with the batch's frozen states, if any.

        Args:
            batch: examples, tensors with leading dimension (examples,).

        Returns:
            The batch on the device, without these states.
        """
        moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        states = moved.pop(FROZEN_STATES, None)
        if self._frozen is not None:
            self._frozen.replace(states)
        return moved

    def per_example_gradients(self, batch: Batch, present: Tensor | None = None) -> None:
        """Fill `p.grad_sample`, shape (records, *p.shape), of every trainable parameter.

        A record with a gradient that is not finite gets zero in every parameter.

        Args:
            batch: tensors with leading dimension (records,), or (records, examples) where a record
                has several.
            present: which rows are records; the others get zero. None: all.

        Raises:
            ModelError: if the task returned something else than one loss per example, or if
                gradients of an earlier pass are still there.
            GateError: if a parameter got no gradient, or not one per record.
        """
        named = self.parameters()
        if any(getattr(parameter, "grad_sample", None) is not None for _, parameter in named):
            raise ModelError(
                "gradients of an earlier pass are still there, and would be lost or counted "
                "twice: take a step, or call forget(), before the next pass"
            )
        records = num_rows(batch)
        with self._masks(), self._held_still():
            self._gradients.fill(
                lambda model: self._loss_scale * self._total(model, batch, present),
                records,
                _examples(batch),
            )
        self._finished([parameter.grad_sample for _, parameter in named])

    def stacked_gradients(self, batch: Batch, values: Tensor, present: Tensor) -> list[Tensor]:
        """Gradients of records that each meet an adapter of their own; the model stays as it is.

        A record with a gradient that is not finite gets zero in every parameter.

        Args:
            batch: as for `per_example_gradients`.
            values: of each record, what `parameters` names in that order, shape (records, moving).
            present: which rows are records; the others get zero.

        Returns:
            For each parameter, shape (records, *parameter shape), float32.

        Raises:
            ModelError, GateError: as for `per_example_gradients`.
        """
        named = self.parameters()
        parts = torch.split(values, [parameter.numel() for _, parameter in named], dim=1)
        with self._masks(), self._held_still():
            samples = self._gradients.stacked(
                lambda model: self._loss_scale * self._total(model, batch, present),
                {
                    name: part.view(-1, *parameter.shape)
                    for (name, parameter), part in zip(named, parts, strict=True)
                },
                _examples(batch),
            )
        return self._finished(samples)

    def single_gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Ordinary gradients of the summed losses by name, from whole passes: the reference."""
        named = self.parameters()
        batch = {name: tensor for name, tensor in batch.items() if name != FROZEN_STATES}
        for _, parameter in named:
            parameter.grad = None
        try:
            self._gradients.plain(lambda model: self._loss_scale * self._total(model, batch, None))
            return {
                name: torch.zeros_like(parameter)
                if parameter.grad is None
                else self._only_moving(name, parameter.grad / self._loss_scale)
                for name, parameter in named
            }
        finally:
            for _, parameter in named:
                parameter.grad = None

    def record_losses(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """One loss per record, shape (records,); the weighted mean of its examples' losses.

        Raises:
            ModelError: if the task returned something else than one loss per example.
        """
        flat, weights = _flattened(batch)
        examples = self.begin(flat)
        with self.autocast():
            losses = self.task.losses(model, examples)  # type: ignore[arg-type]
        count = num_rows(examples)
        if not isinstance(losses, Tensor) or losses.shape != (count,):
            shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise ModelError(
                f"the loss must have shape ({count},), one value per example, got {shape}: a mean "
                "over the batch breaks the sensitivity bound"
            )
        losses = losses.float()
        if weights is None:
            return losses
        weights = weights.to(self.device)
        counted = torch.where(weights > 0, losses.view(weights.shape) * weights, 0.0)
        return counted.sum(dim=1)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Without gradients, and with all of the model as at evaluation."""
        self.adapter.eval()
        try:
            with torch.no_grad(), self.autocast():
                yield
        finally:
            training_mode(self.adapter)
            self.begin({})

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Low precision where it was chosen."""
        chosen = self._low
        with torch.autocast(self.device.type, dtype=chosen) if chosen else nullcontext():
            yield

    def forget(self) -> None:
        """Drop all that an earlier pass left, also one that failed half-way.

        Clients of one process share the model; nothing of one may flow into the next.
        """
        self._gradients.forget()
        self.begin({})
        for _, parameter in self.parameters():
            parameter.grad = parameter.grad_sample = parameter.summed_grad = None

    @property
    def low_precision(self) -> bool:
        """Whether products are rounded to less than float32."""
        frozen = any(p.dtype in _LOW_PRECISION.values() for p in self.adapter.parameters())
        return frozen or self._low is not None

    def save_adapter(self, folder: Path) -> None:
        """Write the trained parameters in PEFT format; the base model is not written."""
        adapter: Any = self.adapter
        adapter.save_pretrained(folder, save_embedding_layers=False)

    def _finished(self, samples: list[Tensor]) -> list[Tensor]:
        """Gradients of the parameters that move, scaled back, in place."""
        if self._loss_scale != 1:
            for sample in samples:
                sample.div_(self._loss_scale)
        _zero_non_finite(samples)
        if self._in_part:
            for (name, _), sample in zip(self.parameters(), samples, strict=True):
                self._only_moving(name, sample)
        return samples

    def _only_moving(self, name: str, gradient: Tensor) -> Tensor:
        """A gradient, shape (..., *parameter shape), zero in place where entries stand still."""
        part = self._in_part.get(name)
        return gradient if part is None else gradient.masked_fill_(part.still, 0.0)

    def _total(self, model: Callable[..., Any], batch: Batch, present: Tensor | None) -> Tensor:
        losses = self.record_losses(model, batch)
        if present is not None:
            losses = torch.where(present.to(self.device), losses, 0.0)
        return losses.sum()

    @contextmanager
    def _held_still(self) -> Iterator[None]:
        still = [p for name, p in trainable(self.adapter) if name in self._still]
        try:
            for parameter in still:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in still:
                parameter.requires_grad_(True)

    @contextmanager
    def _masks(self) -> Iterator[None]:
        new_keys(self._dropouts)
        try:
            yield
        finally:
            forget_keys(self._dropouts)


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    found = list(trainable(model))
    if not found:
        raise ModelError("nothing is trainable: every parameter is frozen")
    for name, parameter in found:
        if parameter.dtype != torch.float32:
            raise ModelError(
                f"the trainable parameter {name!r} must be float32, got {parameter.dtype}: "
                "norms and noise lose their meaning in lower precision"
            )
    return found


def _refuse_what_mixes_records(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ModelError(
                f"the layer {name!r} is a batch normalisation: it mixes the records of a batch and "
                "keeps statistics of them; use a model with layer or group normalisation"
            )


def _examples(batch: Batch) -> int:
    return batch[EXAMPLE_WEIGHT].shape[1] if EXAMPLE_WEIGHT in batch else 1


def _flattened(batch: Batch) -> tuple[Batch, Tensor | None]:
    """The batch example by example, and the weights of a record's examples."""
    if EXAMPLE_WEIGHT not in batch:
        return batch, None
    others = {name: tensor for name, tensor in batch.items() if name != EXAMPLE_WEIGHT}
    return {name: tensor.flatten(0, 1) for name, tensor in others.items()}, batch[EXAMPLE_WEIGHT]


def _zero_non_finite(samples: list[Tensor]) -> None:
    """Zero, over all parameters, every record with a gradient that is not finite.

    A record's entries are added: the sum is finite only if all entries are.
    """
    sums = torch.stack([sample.flatten(1).sum(dim=1) for sample in samples]).sum(dim=0)
    finite = sums.isfinite()
    if not bool(finite.all()):
        for sample in samples:
            sample.masked_fill_(~finite.view(-1, *[1] * (sample.dim() - 1)), 0.0)
