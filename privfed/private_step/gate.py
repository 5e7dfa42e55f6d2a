"""The gate before training: are the per-example gradients of this very model exact?

It runs on made-up texts of different lengths, up to the longest that will be read, with random
numbers added to every trainable parameter (LoRA starts with B = 0, so every gradient of A is zero
in a right and in a broken implementation alike), with dropout and noise off, and refuses by the
name of the parameter. It is what catches an adapter that runs once for a whole batch, whose batch
would be clipped as one record.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from privfed.data.records import RecordGroup
from privfed.errors import GateError, PrivfedError
from privfed.models.examples import encode_records
from privfed.models.tasks import Batch
from privfed.models.vector import read_vector, write_vector
from privfed.private_step.batches import num_rows, rows
from privfed.private_step.dpsgd import DPSGDConfig, private_optimizer, private_step
from privfed.private_step.dropout import SecretDropout
from privfed.private_step.private_model import PrivateModel

_EXAMPLES: Final = 4
_TOLERANCE: Final = 1e-4
"""Largest accepted error relative to the parameter's largest single gradient."""
_ROUNDING: Final = 4.0
_LARGEST_TOLERANCE: Final = 1e-3
"""How many times the rounding of the reference itself is accepted, and how much at most."""
_LOW_PRECISION_TOLERANCE: Final = 0.05
"""The same where products are rounded to 8 or 11 bits, in another order for another batch size."""

_ZERO: Final = 1e-6
"""Below this share of the model's largest gradient there is nothing but rounding."""


def check_per_example_gradients(
    model: PrivateModel,
    seed: int = 0,
    *,
    examples_per_record: int = 1,
    physical_batch_size: int = _EXAMPLES,
    stacked_clients: int = 1,
) -> None:
    """Refuse a model whose per-example gradients are not those of single backward passes.

    Random numbers are added to trainable parameters during the check, and taken off again.

    Args:
        model: as it will be trained.
        seed: public; of the random numbers and the made-up text.
        examples_per_record: as in training.
        physical_batch_size: as in training: what does not fit the memory is to fail here.
        stacked_clients: as in training.

    Raises:
        GateError: naming the parameter, if a gradient is missing, zero in the reference, wrong,
            or changes with another record of the batch; or if a step does not move it. Also if a
            loss changes with another record, or the model draws random numbers of its own, or
            keeps something of what it saw.
    """
    before = [(parameter, parameter.detach().clone()) for _, parameter in model.parameters()]
    vector = read_vector(model.adapter)
    generator = torch.Generator().manual_seed(seed)
    shift = (0.05 * torch.randn(vector.size, generator=generator)).numpy()
    try:
        with _dropout_off(model.adapter):
            write_vector(model.adapter, vector + shift)
            batch, changed = _made_up(model, seed, examples_per_record)
            _require_finite_losses(model, batch)
            _require_no_randomness(model, batch)
            buffers = _buffers(model)
            _require_own_losses(model, batch, changed)
            _compare(model, batch, changed)
            _require_own_arithmetic(model, seed, examples_per_record)
            _require_real_size(model, batch, physical_batch_size, stacked_clients)
            _require_moves(model, batch)
            _require_no_memory(model, buffers)
    except PrivfedError:
        raise
    except Exception as error:
        raise GateError(
            "the model cannot be run with per-example gradients; on made-up text it failed with "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        with torch.no_grad():
            for parameter, value in before:
                parameter.copy_(value)
        model.forget()


def _made_up(model: PrivateModel, seed: int, examples: int) -> tuple[Batch, Batch]:
    """Two batches that differ in their last record alone; records grow, the first is the least."""
    made_up = model.task.synthetic(_EXAMPLES * examples, seed)
    other = model.task.synthetic(_EXAMPLES * examples, seed + 1)
    records = [
        RecordGroup(tuple(made_up[position::_EXAMPLES][: 1 + position]))
        for position in range(_EXAMPLES)
    ]
    changed = [*records[:-1], RecordGroup((other[0],))]
    return _encoded(model, records, examples), _encoded(model, changed, examples)


def _encoded(model: PrivateModel, records: Sequence[RecordGroup], examples: int) -> Batch:
    tokenizer = model.task.tokenizer()
    batch = encode_records(model.task, tokenizer, records, examples)
    return model.with_frozen_states(batch, len(records))


def _require_finite_losses(model: PrivateModel, batch: Batch) -> None:
    losses = model.record_losses(model.adapter, batch)
    if not bool(losses.isfinite().all()):
        raise GateError(
            "losses of made-up text are not finite: records like these would add nothing. Check "
            "the loss; in fp16, take bf16 or smaller scales"
        )


def _require_no_randomness(model: PrivateModel, batch: Batch) -> None:
    """Refuse a model that draws from a generator of the process, whose seed anyone may know."""
    before = _generators(model.device)
    _gradients(model, batch)
    model.single_gradients(batch)  # a whole pass, also where frozen blocks are skipped
    if _generators(model.device) != before:
        raise GateError(
            "the model draws random numbers of its own (dropout inside a function, layer drop?); "
            "switch that off: such numbers are neither secret nor independent from record to record"
        )


def _generators(device: torch.device) -> list[Any]:
    """Where the generators of the process stand."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    numbers = [bytes(state.numpy()) for state in states]
    return [*numbers, random.getstate(), str(np.random.get_state())]


def _buffers(model: PrivateModel) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.adapter.named_buffers()}


def _require_no_memory(model: PrivateModel, before: dict[str, Tensor]) -> None:
    """Refuse a model that keeps something of the texts it saw, which would leave with no noise."""
    for name, buffer in model.adapter.named_buffers():
        if name not in before or not _same(buffer, before[name]):
            raise GateError(
                f"the buffer {name!r} changes with the texts that the model sees: what it keeps of "
                "private text would be in every later result, without noise"
            )


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other) or (
        one.is_floating_point()
        and one.shape == other.shape
        and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    )


def _require_own_losses(model: PrivateModel, batch: Batch, changed: Batch) -> None:
    """Refuse a task whose losses mix records; summed, they might still give the right gradients."""
    losses, beside = (
        model.record_losses(model.adapter, each).detach() for each in (batch, changed)
    )
    error = float((losses - beside)[:-1].abs().max() / losses.abs().max().clamp(min=_ZERO))
    if not error <= _TOLERANCE:
        raise GateError(
            f"the loss of a record depends on another record's text (relative difference "
            f"{error:.1e}): a task must compute each loss from its own example alone"
        )


def _require_own_arithmetic(model: PrivateModel, seed: int, examples: int) -> None:
    """Refuse a model that computes all records otherwise as soon as one of them is short.

    Some attention does, where no place of a batch is empty. Rounding is then no record's own.
    """
    drawn = [model.task.synthetic(_EXAMPLES * examples, seed + draw) for draw in range(_EXAMPLES)]
    longest = [RecordGroup(tuple(texts[-1:] * examples)) for texts in drawn]
    shortened = [*longest[:-1], RecordGroup(tuple(drawn[-1][:1] * examples))]
    samples, beside = (
        _gradients(model, _encoded(model, records, examples)) for records in (longest, shortened)
    )
    for name, sample in samples.items():
        error = _difference(beside[name][:-1], sample[:-1], float(sample.abs().max()))
        _require_close(name, error, _TOLERANCE, "depends on the length of another record's text")


def _compare(model: PrivateModel, batch: Batch, changed: Batch) -> None:
    claimed = _gradients(model, batch)
    single = [
        model.single_gradients(rows(batch, torch.tensor([index]))) for index in range(_EXAMPLES)
    ]
    beside = _gradients(model, changed)
    present = torch.arange(_EXAMPLES) < _EXAMPLES - 1
    filled = _gradients(model, batch, present)
    references = {name: torch.stack([each[name] for each in single]) for name in claimed}
    largest = max(float(reference.abs().max()) for reference in references.values())
    for name, samples in claimed.items():
        reference = references[name]
        scale = float(reference.abs().max())
        if not scale > _ZERO * largest:
            raise GateError(
                f"the trainable parameter {name!r} does not influence any loss; "
                "freeze it or leave it out of the adapter"
            )
        error = _difference(samples, reference, scale)
        accepted = _accepted(model, batch, name, error, scale)
        _require_close(name, error, accepted, "differs from a single backward pass")
        error = _difference(beside[name][:-1], samples[:-1], scale)
        _require_close(name, error, _TOLERANCE, "depends on another record's text")
        error = _difference(filled[name], samples * _as_rows(present, samples), scale)
        _require_close(name, error, _TOLERANCE, "depends on how many records the batch holds")


def _accepted(model: PrivateModel, batch: Batch, name: str, error: float, scale: float) -> float:
    """The largest error of passes that differ in shape: the tolerance, or the reference's own."""
    tolerance = _LOW_PRECISION_TOLERANCE if model.low_precision else _TOLERANCE
    if error <= tolerance:
        return tolerance
    rounding = _ROUNDING * _rounding(model, batch, name) / scale
    return max(tolerance, min(rounding, _LARGEST_TOLERANCE))


def _rounding(model: PrivateModel, batch: Batch, name: str) -> float:
    """By how much the gradient of one record differs from a quarter of that of four copies of it.

    Neither holds anything of another record; they differ in the order of sums alone. In a deep
    model that can be more than the tolerance: a gradient is then a small difference of large
    numbers. All that mixes records stays refused from `_LARGEST_TOLERANCE` on, and from
    `_TOLERANCE` on if it changes with another record's text, in passes of one shape.
    """
    differences = []
    for index in range(_EXAMPLES):
        alone, copies = (
            model.single_gradients(rows(batch, torch.full((count,), index)))[name]
            for count in (1, _EXAMPLES)
        )
        differences.append(float((copies / _EXAMPLES - alone).abs().max()))
    return max(differences)


def _require_real_size(model: PrivateModel, batch: Batch, size: int, clients: int) -> None:
    """One pass of the size of training, against the small one."""
    small = _gradients(model, batch)
    many = rows(batch, torch.arange(max(size * clients, _EXAMPLES)) % _EXAMPLES)
    if clients == 1:
        large = _gradients(model, many)
    else:
        values = torch.from_numpy(read_vector(model.adapter)).to(model.device)
        count = num_rows(many)
        samples = model.stacked_gradients(
            many, values.repeat(count, 1), torch.ones(count, dtype=torch.bool)
        )
        large = dict(zip(small, samples, strict=True))
    for name, sample in small.items():
        scale = float(sample.abs().max())
        error = _difference(large[name][:_EXAMPLES], sample, scale)
        accepted = _accepted(model, batch, name, error, scale)
        _require_close(name, error, accepted, "depends on the size of the batch")


def _require_moves(model: PrivateModel, batch: Batch) -> None:
    """Refuse a model of which a step with noise off leaves a parameter where it was."""
    before = {name: parameter.detach().clone() for name, parameter in model.parameters()}
    config = DPSGDConfig(
        noise_multiplier=1.0,
        sample_rate=1.0,
        clipping_norm=1e3,
        expected_batch_size=1,
        steps=1,
        learning_rate=1.0,
        physical_batch_size=_EXAMPLES - 1,
    )
    model.forget()
    optimizer = private_optimizer(model, config, _Silence())
    private_step(model, optimizer, batch, torch.arange(_EXAMPLES), config.physical_batch_size)
    for name, parameter in model.parameters():
        if torch.equal(parameter, before[name]):
            raise GateError(f"a training step does not move the trainable parameter {name!r}")


class _Silence:
    """Noise that is off."""

    def normal(self, count: int, device: torch.device) -> Tensor:
        """Zeros, shape (count,)."""
        return torch.zeros(count, dtype=torch.float64, device=device)


@contextmanager
def _dropout_off(model: nn.Module) -> Iterator[None]:
    layers = [module for module in model.modules() if isinstance(module, SecretDropout)]
    shares = [layer.p for layer in layers]
    try:
        for layer in layers:
            layer.p = 0.0
        yield
    finally:
        for layer, share in zip(layers, shares, strict=True):
            layer.p = share


def _gradients(
    model: PrivateModel, batch: Batch, present: Tensor | None = None
) -> dict[str, Tensor]:
    model.forget()
    model.per_example_gradients(batch, present)
    return {name: parameter.grad_sample.clone() for name, parameter in model.parameters()}


def _as_rows(present: Tensor, samples: Tensor) -> Tensor:
    return present.to(samples).view(-1, *[1] * (samples.dim() - 1))


def _difference(one: Tensor, other: Tensor, scale: float) -> float:
    return float((one - other).abs().max()) / scale if scale else 0.0


def _require_close(name: str, error: float, tolerance: float, what: str) -> None:
    if not error <= tolerance:
        raise GateError(
            f"the per-example gradient of {name!r} {what} (relative error {error:.1e}, at most "
            f"{tolerance:.0e} is accepted); training it would not be private"
        )
