"""An adapter of a finished run, on a base model that it was trained on and on no other."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import nn

from privfed.errors import ModelError
from privfed.models.houlsby import SETTINGS, HoulsbyModel
from privfed.models.in_place import InPlaceModel, holds_trained_parameters
from privfed.models.loading_errors import explained
from privfed.models.saved_task import BASE_DIGEST, OTHER_BASES, description_path, load_task
from privfed.models.sparse_update import SparseUpdateModel, holds_sparse_update
from privfed.models.tasks import Task
from privfed.models.vector import base_digest

_PEFT_WEIGHTS: Final = "adapter_model.safetensors"


def load_adapter(
    folder: str | Path, base: str | os.PathLike[str] | None = None
) -> tuple[Task, nn.Module]:
    """What a run trained, ready for use: the task, and the base model with the adapter.

    Args:
        folder: the run's `adapter` folder.
        base: where the base model lies on this machine, any of them if clients held different
            ones; None: where it lay when it was trained.

    Returns:
        The task, with the tokenizer, and the model in evaluation mode, where the task built it.

    Raises:
        ModelError: if the folder was not written by a run or is damaged, or if the base model has
            other weights than those that were trained on.
    """
    task: Any = load_task(folder)
    known = _recorded_digests(folder)
    expected = " or ".join(known)
    if base is not None:
        task = replace(task, base=base)
    elif Path(task.base).is_absolute() and not Path(task.base).is_dir():
        raise ModelError(
            f"the base model of {folder} must lie in {task.base}, where it lay in training; there "
            f"is no such folder. Name its place with base= (its weights have SHA-256 {expected})"
        )
    model = task.build()
    found = base_digest(model)
    if found not in known:
        raise ModelError(
            f"the adapter in {folder} must be loaded on the base model that it was trained on, "
            f"whose weights have SHA-256 {expected}; those of {task.base!r} have {found}. Name "
            "that model with base="
        )
    return task, _attached(model, Path(folder)).eval()


def _recorded_digests(folder: str | Path) -> list[str]:
    """Of the base models that the adapter goes with, each once."""
    values = json.loads(description_path(folder).read_text(encoding="utf-8"))
    recorded, others = values.get(BASE_DIGEST), values.get(OTHER_BASES, {})
    if not isinstance(recorded, str):
        raise ModelError(
            f"{description_path(folder)} must name the weights of the base model ({BASE_DIGEST}), "
            "and does not: an earlier version wrote it. Whether a base model is the right one "
            "cannot be checked"
        )
    if not isinstance(others, dict) or not all(isinstance(one, str) for one in others.values()):
        raise ModelError(
            f"{description_path(folder)} must name the weights of further base models by client "
            f"({OTHER_BASES}), each as text, got {others!r:.200}; take the folder from where the "
            "run was"
        )
    return list(dict.fromkeys([recorded, *others.values()]))


def _attached(model: nn.Module, folder: Path) -> nn.Module:
    if holds_trained_parameters(folder):
        kind = HoulsbyModel if (folder / SETTINGS).is_file() else InPlaceModel
        return kind.from_pretrained(model, folder)
    if holds_sparse_update(folder):
        return SparseUpdateModel.from_pretrained(model, folder)
    try:
        adapted = PeftModel.from_pretrained(model, folder)
        with safe_open(folder / _PEFT_WEIGHTS, "pt") as file:
            saved = set(file.keys())
    except Exception as error:
        raise ModelError(
            f"the adapter in {folder} cannot be loaded: {explained(folder, error)}"
        ) from error
    differing = sorted(saved.symmetric_difference(get_peft_model_state_dict(adapted)))
    if differing:
        raise ModelError(
            f"the adapter in {folder} must hold the weights that its adapter_config.json describes;"
            f" {len(differing)} are missing or have no place ({differing[0]!r}, ...)"
        )
    loaded: nn.Module = adapted
    return loaded
