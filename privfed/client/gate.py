"""The gate before training: are the per-example gradients of this very model exact?

It runs on made-up texts of different lengths, up to the longest that will be read, with random
values in every trainable parameter (LoRA starts with B = 0, so every gradient of A is zero in a
right and in a broken implementation alike), and refuses by the name of the parameter. It is what
catches PEFT's prompt tuning, whose prompt is embedded once for the whole batch, so that Opacus
clips the batch as one record.
"""

from typing import Final

import torch
from torch import Tensor

from privfed.client.dpsgd import PrivateModel, rows
from privfed.errors import GateError
from privfed.models.vector import read_vector, write_vector

_EXAMPLES: Final = 4
_TOLERANCE: Final = 1e-4
"""Largest accepted error relative to the parameter's largest single gradient."""


def check_per_example_gradients(model: PrivateModel, seed: int = 0) -> None:
    """Refuse a model whose per-example gradients are not those of single backward passes.

    Trainable parameters are overwritten with random values during the check and restored.

    Args:
        model: as it will be trained.
        seed: public; of the random values and the made-up text.

    Raises:
        GateError: naming the parameter, if a gradient is missing, zero in the reference, wrong,
            or changes with another record of the batch.
    """
    before = read_vector(model.adapter)
    try:
        generator = torch.Generator().manual_seed(seed)
        write_vector(model.adapter, (0.05 * torch.randn(before.size, generator=generator)).numpy())
        _compare(model, seed)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise GateError(
            "the model cannot be run with per-example gradients; on made-up text it failed with "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        write_vector(model.adapter, before)
        model.forget()


def _compare(model: PrivateModel, seed: int) -> None:
    records = model.task.synthetic(_EXAMPLES, seed)
    other = model.task.synthetic(_EXAMPLES, seed + 1)
    tokenizer = model.task.tokenizer()
    batch = model.task.collate(tokenizer, records)
    claimed = _gradients(model, batch)
    single = [
        model.single_gradients(rows(batch, torch.tensor([index]))) for index in range(_EXAMPLES)
    ]
    changed = _gradients(model, model.task.collate(tokenizer, [*records[:-1], other[0]]))
    for name, samples in claimed.items():
        reference = torch.stack([gradients[name] for gradients in single])
        scale = float(reference.abs().max())
        if not scale > 0:
            raise GateError(
                f"the trainable parameter {name!r} does not influence any loss; "
                "freeze it or leave it out of the adapter"
            )
        _require_close(name, samples, reference, scale, "differs from a single backward pass")
        _require_close(
            name, changed[name][:-1], samples[:-1], scale, "depends on another record's text"
        )


def _gradients(model: PrivateModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    model.forget()
    model.per_example_gradients(batch)
    return {name: parameter.grad_sample.clone() for name, parameter in model.parameters()}


def _require_close(name: str, found: Tensor, expected: Tensor, scale: float, what: str) -> None:
    error = float((found - expected).abs().max()) / scale
    if not error <= _TOLERANCE:
        raise GateError(
            f"the per-example gradient of {name!r} {what} (relative error {error:.1e}, at most "
            f"{_TOLERANCE:.0e} is accepted); training it would not be private"
        )
