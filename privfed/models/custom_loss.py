"""A loss of the user's own in the place of a task's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from privfed.data.records import Record
from privfed.errors import ConfigError
from privfed.models.tasks import Batch, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomLoss:
    """A task that trains on another loss; its model, tokens and held-out metric stay.

    The gate before training refuses a loss that couples the records of a batch, as contrastive
    losses with in-batch negatives and batch statistics do.

    Attributes:
        task: whose loss is replaced.
        loss: takes the model and a batch, which holds what `task.collate` made, on the model's
            device; returns one loss per example, shape (batch,), each computed from its own example
            alone. A reduced loss is refused.
        name: of the loss, public, for the report.
    """

    task: Task
    loss: Callable[[nn.Module, Batch], Tensor]
    name: str

    def __post_init__(self) -> None:
        """Check every field."""
        if not callable(self.loss):
            raise ConfigError(f"loss must be a function of model and batch, got {self.loss!r}")
        if not isinstance(self.name, str) or not self.name.strip():
            raise ConfigError("name must say what the loss is, e.g. 'focal loss, gamma 2'")

    @property
    def metric(self) -> str:
        """Name of the held-out metric."""
        return self.task.metric

    @property
    def modules_to_save(self) -> tuple[str, ...]:
        """New modules that are trained whole."""
        return self.task.modules_to_save

    def build(self) -> nn.Module:
        """The base model."""
        return self.task.build()

    def initialise(self, model: nn.Module) -> None:
        """Set initial values as the task does."""
        self.task.initialise(model)

    def tokenizer(self) -> Any:
        """The tokenizer of the task."""
        return self.task.tokenizer()

    def collate(self, tokenizer: Any, records: Sequence[Record]) -> dict[str, Tensor]:
        """Tensors with leading dimension (batch,)."""
        return self.task.collate(tokenizer, records)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """The given loss, shape (batch,)."""
        return self.loss(model, batch)

    def metric_parts(self, model: nn.Module, batch: Batch) -> tuple[float, float]:
        """Numerator and denominator of the held-out metric."""
        return self.task.metric_parts(model, batch)

    def metric_value(self, numerator: float, denominator: float) -> float:
        """The held-out metric from summed parts."""
        return self.task.metric_value(numerator, denominator)

    def synthetic(self, count: int, seed: int) -> list[Record]:
        """Made-up records."""
        return self.task.synthetic(count, seed)

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        return {**self.task.describe(), "loss": self.name}
