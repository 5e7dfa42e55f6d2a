"""Layers whose parameters may differ from record to record: where expanded leaves are used.

A layer is turned into one of these by its class alone, so that its parameters, its name and what
PEFT knows about it stay as they were. Without leaves it computes what it always did. With leaves
of shape (records, *parameter shape) in the place of its parameters, every record meets a copy of
its own, and the gradient of the leaf is one gradient per record.

The examples of one record stand together: with m examples each, the leading dimension of what a
layer reads is records * m. A layer that reads anything else (tokens of all records in one row,
experts that pick tokens, one row for the whole batch) cannot tell records apart and refuses.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.tuners.ia3.layer import Linear as IA3Linear
from peft.tuners.lora.dora import DoraLinearLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from privfed.errors import GateError
from privfed.models.sparse_update import SparseLinear, dense

Leaves = dict[str, Tensor]


class PerExampleLayer(nn.Module):
    """What all layers with leaves share.

    Attributes:
        leaves: by the name of the parameter in this layer; None outside of a private pass.
        records: leading dimension of the leaves.
        examples: of one record; leading dimension of the input over `records`.
        full_name: of the layer in the model, for messages.
    """

    leaves: Leaves | None = None
    records: int = 0
    examples: int = 1
    full_name: str = ""

    def by_record(self, value: Tensor) -> Tensor:
        """(records * examples, ..., features) as (records, tokens, features)."""
        if value.dim() < 2 or value.shape[0] != self.records * self.examples:
            raise GateError(
                f"the layer {self.full_name!r} must read {self.records * self.examples} examples, "
                f"one after the other, and got a tensor of shape {tuple(value.shape)}: records are "
                "mixed before it, so that nobody can say what one of them contributes"
            )
        return value.reshape(self.records, -1, value.shape[-1])


class PerExampleLinear(PerExampleLayer, nn.Linear):
    """x W^T + b with W and b of each record."""

    def forward(self, input: Tensor) -> Tensor:
        """As `torch.nn.Linear`."""
        if self.leaves is None:
            return super().forward(input)
        rows = self.by_record(input)
        if "weight" in self.leaves:
            output = torch.bmm(rows, self.leaves["weight"].transpose(1, 2))
        else:
            output = F.linear(rows, self.weight)
        output = _plus(output, self.leaves.get("bias"), self.bias)
        return output.reshape(*input.shape[:-1], output.shape[-1])


class PerExampleConv1D(PerExampleLayer, Conv1D):  # type: ignore[misc]
    """x W + b, as GPT-2 stores its linear layers, with W and b of each record."""

    weight: nn.Parameter
    bias: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """As `transformers.pytorch_utils.Conv1D`."""
        if self.leaves is None:
            plain: Tensor = super().forward(x)
            return plain
        rows = self.by_record(x)
        if "weight" in self.leaves:
            output = torch.bmm(rows, self.leaves["weight"])
        else:
            output = torch.matmul(rows, self.weight)
        output = _plus(output, self.leaves.get("bias"), self.bias)
        return output.reshape(*x.shape[:-1], output.shape[-1])


class PerExampleEmbedding(PerExampleLayer, nn.Embedding):
    """Rows of a table of each record."""

    def forward(self, input: Tensor) -> Tensor:
        """As `torch.nn.Embedding`."""
        if self.leaves is None:
            return super().forward(input)
        table = self.leaves["weight"]
        index = self.by_record(input.unsqueeze(-1))
        output = table.gather(1, index.expand(-1, -1, table.shape[-1]))
        if self.padding_idx is not None:
            output = torch.where(index == self.padding_idx, output.detach(), output)
        return output.reshape(*input.shape, table.shape[-1])


class PerExampleLayerNorm(PerExampleLayer, nn.LayerNorm):
    """Normalised over the last dimension, times a scale and plus a shift of each record."""

    def forward(self, input: Tensor) -> Tensor:
        """As `torch.nn.LayerNorm`."""
        if self.leaves is None:
            return super().forward(input)
        normal = self.by_record(F.layer_norm(input, self.normalized_shape, None, None, self.eps))
        output = _times(normal, self.leaves.get("weight"), self.weight)
        return _plus(output, self.leaves.get("bias"), self.bias).reshape(input.shape)


class PerExampleRMSNorm(PerExampleLayer):
    """Divided by the root mean square, times a scale of each record; mixed into a norm's class.

    For the normalisation of Llama and those that follow it: weight * x / sqrt(mean(x^2) + eps),
    in float32. The gate compares it with the model's own.
    """

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """As `transformers.models.llama.modeling_llama.LlamaRMSNorm`."""
        if self.leaves is None:
            plain: Tensor = super().forward(hidden_states)
            return plain
        wide = hidden_states.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        normal = self.by_record((wide * scale).to(hidden_states.dtype))
        return _times(normal, self.leaves["weight"], None).reshape(hidden_states.shape)


class PerExampleIA3(PerExampleLayer, IA3Linear):  # type: ignore[misc]
    """PEFT's IA3 around a linear layer, with the scaling vectors of each record."""

    base_layer: nn.Module

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As `peft.tuners.ia3.layer.Linear`."""
        if self.leaves is None:
            plain: Tensor = super().forward(x, *args, **kwargs)
            return plain
        (scaling,) = self.leaves.values()
        if self.is_feedforward:
            scaled = self._scaled(x, scaling)
            inner: Tensor = self.base_layer(scaled, *args, **kwargs)
            return inner
        return self._scaled(self.base_layer(x, *args, **kwargs), scaling)

    def _scaled(self, value: Tensor, scaling: Tensor) -> Tensor:
        rows = self.by_record(value).to(scaling.dtype)
        return (rows * scaling.flatten(1).unsqueeze(1)).reshape(value.shape).to(value.dtype)


class PerExampleDoRA(PerExampleLayer, DoraLinearLayer):  # type: ignore[misc]
    """PEFT's DoRA around a linear layer, with the magnitudes and the factors of each record.

    y = g (W x + s B A x) + b with g = m / ||W + s B A||, the norm of each row, of the record's own
    A and B. Like PEFT's, the norm is a constant of the gradient.

    Reference:
        Liu et al. 2024, arXiv:2402.09353, section 4.3.
    """

    weight: nn.Parameter

    def forward(
        self,
        x: Tensor,
        *,
        lora_A: nn.Module,
        lora_B: nn.Module,
        scaling: float,
        base_layer: nn.Module,
        base_result: Tensor | None = None,
        adapter_name: str = "default",
    ) -> Tensor:
        """As `peft.tuners.lora.dora.DoraLinearLayer`: what is added to W x + b.

        Without `base_result`, x went through dropout, and so does what W makes of it.
        """
        in_use = [layer for layer in (self, lora_A, lora_B) if getattr(layer, "leaves", None)]
        if not in_use:
            plain: Tensor = super().forward(
                x,
                lora_A=lora_A,
                lora_B=lora_B,
                scaling=scaling,
                base_layer=base_layer,
                base_result=base_result,
                adapter_name=adapter_name,
            )
            return plain
        by_record = cast(PerExampleLayer, in_use[0]).by_record
        weight = cast(Tensor, base_layer.weight)
        if not weight.is_floating_point():
            weight = dequantize_module_weight(base_layer)
        weight = (weight.T if self.fan_in_fan_out else weight).to(x.dtype)
        norms = _row_norms(weight, _of_records(lora_A), _of_records(lora_B), scaling)
        gain = (_of_records(self) / norms).unsqueeze(1)
        updates = by_record(lora_B(lora_A(x)))
        if base_result is None:
            products = by_record(F.linear(x, weight))
        elif getattr(base_layer, "bias", None) is None:
            products = by_record(base_result)
        else:
            products = by_record(base_result) - _of_records(base_layer, "bias").unsqueeze(1)
        added = (gain - 1) * products + gain * updates * scaling
        return added.reshape(*x.shape[:-1], added.shape[-1])


class PerExampleSparse(PerExampleLayer, SparseLinear):
    """A linear layer plus a sparse matrix with the values of each record."""

    def forward(self, input: Tensor) -> Tensor:
        """As `privfed.models.sparse_update.SparseLinear`."""
        if self.leaves is None:
            return super().forward(input)
        output: Tensor = self.base_layer(input)
        values = self.leaves["values"]
        rows = self.by_record(input).to(values.dtype)
        added: Tensor = _SparseProduct.apply(rows, values, self.positions, self.shape)  # type: ignore[no-untyped-call]
        return output + added.reshape(output.shape).to(output.dtype)


class _SparseProduct(torch.autograd.Function):
    """x D_i^T with a sparse matrix D_i of each record, and its gradients.

    The gradient of a record's values is that of its dense matrix at the positions. One dense
    matrix exists at a time, so that records cost the memory of their values alone.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, values: Tensor, positions: Tensor, shape: tuple[int, int]
    ) -> Tensor:
        """Shape (records, tokens, out) of rows (records, tokens, in) and values (records, k)."""
        ctx.save_for_backward(rows, values, positions)
        ctx.shape = shape
        products = [
            F.linear(own, dense(one, positions, shape))
            for own, one in zip(rows, values, strict=True)
        ]
        return torch.stack(products)

    @staticmethod
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Gradients of rows and values."""
        rows, values, positions = ctx.saved_tensors
        (outer,) = received
        of_rows, of_values = torch.empty_like(rows), torch.empty_like(values)
        for record, gradient in enumerate(outer.to(rows.dtype)):
            of_rows[record] = gradient @ dense(values[record], positions, ctx.shape)
            of_values[record] = (gradient.T @ rows[record]).reshape(-1)[positions]
        return of_rows, of_values, None, None


def per_example_class(layer: nn.Module) -> type[nn.Module] | None:
    """The class that gives `layer` leaves, or None if there is none that is known to be exact."""
    exact: dict[type[nn.Module], type[nn.Module]] = {
        nn.Linear: PerExampleLinear,
        Conv1D: PerExampleConv1D,
        nn.LayerNorm: PerExampleLayerNorm,
        IA3Linear: PerExampleIA3,
        DoraLinearLayer: PerExampleDoRA,
        SparseLinear: PerExampleSparse,
    }
    kind = type(layer)
    if isinstance(layer, PerExampleLayer):
        return kind
    if kind is nn.Embedding:
        table = cast(nn.Embedding, layer)
        plain = table.max_norm is None and not table.scale_grad_by_freq and not table.sparse
        return PerExampleEmbedding if plain else None
    if kind.__name__.endswith("RMSNorm") and hasattr(layer, "variance_epsilon"):
        return type(f"PerExample{kind.__name__}", (PerExampleRMSNorm, kind), {})
    return exact.get(kind)


def is_matrix_product(layer: nn.Module) -> bool:
    """Whether the weight enters a matrix product, which autocast computes in low precision."""
    return isinstance(layer, PerExampleLinear | PerExampleConv1D)


def _plus(value: Tensor, leaf: Tensor | None, fixed: Tensor | None) -> Tensor:
    if leaf is not None:
        return value + leaf.unsqueeze(1).to(value.dtype)
    return value if fixed is None else value + fixed.to(value.dtype)


def _times(value: Tensor, leaf: Tensor | None, fixed: Tensor | None) -> Tensor:
    if leaf is not None:
        return value * leaf.unsqueeze(1)
    return value if fixed is None else value * fixed


def _of_records(layer: nn.Module, key: str = "weight") -> Tensor:
    """A parameter as every record meets it, shape (records, *shape), or (1, *shape) if frozen."""
    leaf = (getattr(layer, "leaves", None) or {}).get(key)
    own: Tensor = getattr(layer, key)
    return own.unsqueeze(0) if leaf is None else leaf


@torch.no_grad()
def _row_norms(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """The norm of each row of W + s B A.

    Args:
        weight: W, shape (out, in).
        a: shape (records or 1, rank, in).
        b: shape (records or 1, out, rank).
        scaling: s.

    Returns:
        Shape (records, out), or (1, out) where all records meet one A and one B: in an expanded
        leaf. Where they do not, W + s B A is made for one record after the other.
    """
    a, b = (factor[:1] if factor.stride(0) == 0 else factor for factor in (a, b))
    records = max(len(a), len(b))
    pairs = zip(a.expand(records, -1, -1), b.expand(records, -1, -1), strict=True)
    whole = (weight + scaling * (of_b @ of_a).to(weight.dtype) for of_a, of_b in pairs)
    return torch.stack([torch.linalg.norm(one, dim=1) for one in whole])
