"""Expanded leaves: one gradient per record from one ordinary backward pass.

Every trainable parameter is replaced, for one pass, by a leaf of the graph that holds a copy for
every record, shape (records, *parameter shape); expanding costs no memory. After the backward
pass of the summed losses, the leaf's gradient is the per-example gradient. There are no hooks and
no second pass, and autograd computes no gradient that is thrown away. It is exact with gradient
checkpointing of either kind, under autocast, and with layers that are used more than once, whose
uses share one leaf.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, cast

import torch
from peft.tuners.lora.dora import DoraLinearLayer
from torch import Tensor, nn

from privfed.errors import GateError
from privfed.models.vector import trainable
from privfed.private_step.layers import PerExampleLayer, is_matrix_product, per_example_class

_REASONS: Final = {
    "lora_embedding": "LoRA on an embedding multiplies outside of any layer",
    "trainable_tokens": "trainable tokens are written into the embedding outside of any layer",
}


@dataclass(frozen=True, slots=True)
class _Use:
    """One place where a trainable parameter enters the model."""

    layer: PerExampleLayer
    key: str
    name: str


class ExpandedLeaves:
    """The trainable parameters of a model, replaceable by leaves.

    Args:
        model: layers that hold trainable parameters change their class, and nothing else.

    Attributes:
        matrices: names of the parameters that enter matrix products alone.

    Raises:
        GateError: if a trainable parameter lies in a layer without a rule; it is named.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(parameter): name for name, parameter in trainable(model)}
        self._uses = list(self._claim(model))
        others = {use.name for use in self._uses if not _is_factor(use)}
        self.matrices = frozenset(self._names.values()) - others

    @contextmanager
    def replaced(self, leaves: Mapping[str, Tensor], examples: int = 1) -> Iterator[None]:
        """Let the model run on leaves, until the block is left.

        The backward pass belongs inside: gradient checkpointing runs layers again in it.

        Args:
            leaves: by name of the parameter, shape (records, *parameter shape); one without a leaf
                is the same for all records, and frozen.
            examples: per record.
        """
        records = len(next(iter(leaves.values())))
        try:
            for use in (use for use in self._uses if use.name in leaves):
                use.layer.records, use.layer.examples = records, examples
                own = use.layer.leaves or {}
                use.layer.leaves = {**own, use.key: leaves[use.name]}
            yield
        finally:
            for use in self._uses:
                use.layer.leaves = None

    def _claim(self, model: nn.Module) -> Iterator[_Use]:
        for path, module in list(model.named_modules()):
            if type(module) is DoraLinearLayer:  # it reads A and B, also where it is frozen itself
                _with_leaves(module, path, path)
            for key, parameter in _own_parameters(module):
                name = self._names.get(id(parameter))
                if name is not None:
                    yield _Use(_with_leaves(module, path, name), key, name)


def expanded(parameter: Tensor, records: int, dtype: torch.dtype) -> Tensor:
    """A leaf that holds the same parameter for every record, without copying it.

    Args:
        parameter: of any shape.
        records: how many.
        dtype: of the leaf and of its gradient.

    Returns:
        Shape (records, *parameter shape).
    """
    value = parameter.detach().to(dtype)
    return value.expand(records, *value.shape).requires_grad_()


def _is_factor(use: _Use) -> bool:
    return use.key == "weight" and is_matrix_product(use.layer)


def _own_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that a layer uses itself; what lies in a dictionary belongs to the layer above."""
    if isinstance(module, nn.ParameterDict):
        return
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    for held in module.children():
        if isinstance(held, nn.ParameterDict):
            yield from held.named_parameters(recurse=False, remove_duplicate=False)


def _with_leaves(module: nn.Module, path: str, name: str) -> PerExampleLayer:
    """The layer under its new class.

    Raises:
        GateError: if no rule is known for it.
    """
    kind = per_example_class(module)
    if kind is None:
        reason = next((why for part, why in _REASONS.items() if part in name), None)
        raise GateError(
            f"the trainable parameter {name!r} has no exact per-example gradient here: "
            + (reason or f"nothing is known about a layer of type {type(module).__name__}")
        )
    module.__class__ = kind
    layer = cast(PerExampleLayer, module)
    layer.full_name = path
    return layer
