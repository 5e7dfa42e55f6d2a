"""SLoRA: LoRA starts from the sparse update of an earlier run, in place of zero.

Stage 1 is a run with `SparseUpdate`. This makes the file from which stage 2, a run with LoRA,
starts. Both runs are private steps on the same ledgers, which compose their epsilons; what lies
between them is computed from what the first one released, and costs nothing.

Singular value decompositions differ in the last bits from processor to processor. So one party
makes the file, and all agree on its digest, as with every start file.

Reference: Babakniya et al. 2023, arXiv:2308.06522, section 4.
"""

import math
import os
from pathlib import Path
from typing import Any, Final

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from privfed.errors import ModelError
from privfed.models.adapters import LoRA
from privfed.models.load_adapter import load_adapter
from privfed.models.sparse_update import SparseUpdateModel, sparse_layers
from privfed.models.start_file import names_added, start_bytes
from privfed.models.vector import saved_tensors, trainable

_LORA: Final = "default"
_WHOLE: Final = ".modules_to_save.default."
"""What PEFT puts into the names of what is trained whole."""


def start_lora_from_sparse_update(
    folder: str | Path,
    lora: LoRA,
    start: str | Path,
    *,
    base: str | os.PathLike[str] | None = None,
) -> float:
    """Write the start file of a run with LoRA that goes on where a sparse update ended.

    Of every matrix, s B A is the best approximation of the sparse update D by the rank of LoRA:
    with D / s = U S V^T, B = U sqrt(S) and A = sqrt(S) V^T. What is trained whole (the head) goes
    on as it is.

    Args:
        folder: the `adapter` folder of a run with `SparseUpdate`.
        lora: of the second run; on the very modules of the first.
        start: file that is written.
        base: where the base model lies on this machine; None: where it lay when it was trained.

    Returns:
        What the rank leaves out: norm of all D - s B A over that of all D, in [0, 1].

    Raises:
        ModelError: if the folder holds no sparse update that was trained, or LoRA adapts other
            modules.
    """
    task, sparse = load_adapter(folder, base)
    if not isinstance(sparse, SparseUpdateModel):
        raise ModelError(f"{folder} must hold a sparse update (SparseUpdate); it holds another")
    fresh = task.build()
    before = {id(tensor) for _, tensor in saved_tensors(fresh)}
    model = lora.attach(fresh, task.modules_to_save, 0)
    residual = _factorise(model, sparse.base, folder)
    _carry_over(model, sparse.base)
    Path(start).write_bytes(start_bytes(model, names_added(model, before)))
    return residual


def _factorise(model: PeftModel, sparse: nn.Module, folder: str | Path) -> float:
    """Set LoRA's factors, and say what they leave out."""
    updated = sparse_layers(sparse)
    adapted = {n: m for n, m in model.get_base_model().named_modules() if isinstance(m, LoraLayer)}
    if updated.keys() != adapted.keys():
        differing = sorted(updated.keys() ^ adapted.keys())
        raise ModelError(
            f"LoRA must adapt the very modules that the sparse update of {folder} is of; "
            f"{differing[:3]} are of one of them alone: name the same target_modules and layers"
        )
    whole = left_out = 0.0
    with torch.no_grad():
        for name, layer in adapted.items():
            delta = updated[name].delta().double().cpu()
            _set_factors(layer, delta)
            product = layer.lora_B[_LORA].weight.double() @ layer.lora_A[_LORA].weight.double()
            left_out += float((delta - layer.scaling[_LORA] * product.cpu()).square().sum())
            whole += float(delta.square().sum())
    if not whole > 0:
        raise ModelError(f"the sparse update of {folder} must be trained; all of it is zero")
    return math.sqrt(left_out / whole)


def _set_factors(layer: Any, delta: Tensor) -> None:
    """Let s B A be the best approximation of D; what D has no rank for starts as LoRA does."""
    left, singular, right = torch.linalg.svd(delta / layer.scaling[_LORA], full_matrices=False)
    a, b = layer.lora_A[_LORA].weight, layer.lora_B[_LORA].weight
    rank = int((singular[: len(a)] > 1e-6 * singular[0]).sum())
    root = singular[:rank].sqrt()
    a[:rank] = (root[:, None] * right[:rank]).to(a)
    b[:, :rank] = (left[:, :rank] * root).to(b)


def _carry_over(model: PeftModel, sparse: nn.Module) -> None:
    """What both runs train whole."""
    trained = dict(trainable(sparse))
    for name, parameter in trainable(model):
        if _WHOLE in name:
            own = name.removeprefix("base_model.model.").replace(_WHOLE, ".")
            with torch.no_grad():
                parameter.copy_(trained[own])
