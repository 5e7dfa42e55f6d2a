"""Two ways to per-example gradients: expanded leaves, and Opacus' hooks, which are their oracle.

Either fills `grad_sample` of every trainable parameter, shape (records, *parameter shape),
float32, a fresh tensor for every pass: what Opacus' optimiser takes.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from opacus import GradSampleModule
from peft.tuners.lora.dora import DoraLinearLayer
from torch import Tensor, nn

from privfed.errors import GateError
from privfed.models.vector import trainable
from privfed.private_step.leaves import ExpandedLeaves, expanded

Loss = Callable[[nn.Module], Tensor]
"""Runs a model and returns the sum of its losses, a scalar."""


class PerExampleGradients(Protocol):
    """How one backward pass leaves one gradient per record."""

    def fill(self, loss: Loss, records: int, examples: int) -> None:
        """Fill `grad_sample` of every trainable parameter.

        Args:
            loss: of `records * examples` examples, those of one record together.
            records: leading dimension of what is filled in.
            examples: per record.

        Raises:
            GateError: if a parameter got no gradient, or not one per record.
        """
        ...

    def stacked(self, loss: Loss, values: Mapping[str, Tensor], examples: int) -> list[Tensor]:
        """Gradients where every record meets parameter values of its own.

        Args:
            loss: as for `fill`.
            values: by name of the parameter, shape (records, *parameter shape).
            examples: per record.

        Returns:
            For each parameter, in the order of names, shape (records, *parameter shape), float32.

        Raises:
            GateError: as for `fill`, and if records cannot meet values of their own.
        """
        ...

    def plain(self, loss: Loss) -> None:
        """Fill the ordinary `grad`, as without privacy: the reference."""
        ...

    def forget(self) -> None:
        """Drop what an earlier pass left, also one that failed half-way."""
        ...


class LeafGradients:
    """Per-example gradients by expanded leaves.

    Args:
        model: with its adapter; layers that hold trainable parameters change their class.
        low_precision: type in which autocast multiplies matrices; None without autocast.
        compiled: whether the model is compiled.

    Raises:
        GateError: if a trainable parameter lies in a layer without a rule.
    """

    def __init__(
        self, model: nn.Module, low_precision: torch.dtype | None = None, *, compiled: bool = False
    ) -> None:
        self._model = model
        self._leaves = ExpandedLeaves(model)
        self._low_precision = low_precision
        self._runs: Any = torch.compile(model, dynamic=False) if compiled else model

    def fill(self, loss: Loss, records: int, examples: int) -> None:
        """Fill `grad_sample` in one forward and one backward pass."""
        named = list(trainable(self._model))
        leaves = {n: expanded(p, records, self._dtype(n, p)) for n, p in named}
        for (_, parameter), sample in zip(named, self._run(loss, leaves, examples), strict=True):
            parameter.grad_sample = sample  # type: ignore[attr-defined]

    def stacked(self, loss: Loss, values: Mapping[str, Tensor], examples: int) -> list[Tensor]:
        """One forward and one backward pass in which every record has parameters of its own."""
        leaves = {
            name: value.detach().to(self._dtype(name, value)).requires_grad_()
            for name, value in values.items()
        }
        return self._run(loss, leaves, examples)

    def plain(self, loss: Loss) -> None:
        """Fill the ordinary `grad`."""
        torch.autograd.backward(loss(self._model))

    def forget(self) -> None:
        """Nothing outlives a pass but the gradients, which the model drops."""

    def _run(self, loss: Loss, leaves: Mapping[str, Tensor], examples: int) -> list[Tensor]:
        with self._leaves.replaced(leaves, examples):
            torch.autograd.backward(loss(self._runs))
        named = list(trainable(self._model))
        return [_gradient(name, leaves[name], parameter) for name, parameter in named]

    def _dtype(self, name: str, value: Tensor) -> torch.dtype:
        """The type that a leaf's products are computed in, so that no copy is ever cast."""
        low = self._low_precision if name in self._leaves.matrices else None
        return low or value.dtype


class HookGradients:
    """Per-example gradients by the hooks of Opacus' GradSampleModule.

    Raises:
        GateError: if Opacus knows no rule for a trainable module, or a factor is read twice (DoRA).
    """

    def __init__(self, model: nn.Module) -> None:
        dora = next((n for n, m in model.named_modules() if isinstance(m, DoraLinearLayer)), None)
        if dora is not None:
            raise GateError(
                f"{dora!r} (DoRA) reads the factors of LoRA a second time, for a norm, which the "
                "hooks of Opacus take for records; take expanded leaves"
            )
        self._model = model
        try:
            self._hooked = GradSampleModule(model, batch_first=True, loss_reduction="sum")
        except NotImplementedError as error:
            raise GateError(
                f"a trainable module has no per-example gradients in Opacus: {error}"
            ) from error

    def fill(self, loss: Loss, records: int, examples: int) -> None:
        """Fill `grad_sample` through the hooks; examples of one record are added."""
        _backward(loss(self._hooked))
        for name, parameter in trainable(self._model):
            sample = getattr(parameter, "grad_sample", None)
            if not isinstance(sample, Tensor):
                raise GateError(
                    f"the trainable parameter {name!r} got no per-example gradient; it cannot be "
                    "trained privately with this adapter"
                )
            if sample.shape != (records * examples, *parameter.shape):
                raise GateError(
                    f"the per-example gradient of {name!r} has shape {tuple(sample.shape)} for a "
                    f"batch of {records * examples}: several records would be clipped as one"
                )
            grouped = sample.view(records, examples, *parameter.shape).sum(dim=1)
            parameter.grad_sample = grouped.float()  # type: ignore[attr-defined]

    def stacked(self, loss: Loss, values: Mapping[str, Tensor], examples: int) -> list[Tensor]:  # noqa: ARG002
        """Refused: hooks see one value of a parameter in a pass."""
        raise GateError(
            "Opacus' hooks cannot tell stacked clients apart; take expanded leaves, or "
            "stacked_clients = 1"
        )

    def plain(self, loss: Loss) -> None:
        """Fill the ordinary `grad`, hooks switched off."""
        with self._without_hooks():
            _backward(loss(self._hooked))

    def forget(self) -> None:
        """Drop Opacus' activations and counters of passes.

        What a failed client left there must neither stop the next one nor flow into its gradients.
        """
        for module in self._hooked.modules():
            if hasattr(module, "activations"):
                module.activations = []
            if hasattr(module, "max_batch_len"):
                del module.max_batch_len
        for _, parameter in trainable(self._model):
            kept: Any = parameter
            kept._forward_counter = 0
            if hasattr(kept, "_current_grad_sample"):
                del kept._current_grad_sample

    @contextmanager
    def _without_hooks(self) -> Iterator[None]:
        self._hooked.disable_hooks()
        try:
            yield
        finally:
            self._hooked.enable_hooks()


def _gradient(name: str, leaf: Tensor, parameter: nn.Parameter) -> Tensor:
    if leaf.grad is None:
        raise GateError(
            f"the trainable parameter {name!r} does not influence any loss through a layer that "
            "knows its records; freeze it or leave it out of the adapter"
        )
    if parameter.grad is not None:
        raise GateError(
            f"the trainable parameter {name!r} is also used outside of its layer, where records "
            "cannot be told apart; it cannot be trained privately"
        )
    return leaf.grad.float()


def _backward(total: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        torch.autograd.backward(total)
