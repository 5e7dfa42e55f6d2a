"""What the model is trained for: one loss per record, and one public metric on held-out text.

A task knows how to build the base model, how to turn records into tensors, and how to compute
**one loss per record, shape (batch,)**. It never returns a mean over a batch: clipping bounds a
record's influence only if a record's loss depends on that record alone.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from privfed.data.records import Record
from privfed.errors import ConfigError
from privfed.models.load import load_pretrained, load_tokenizer, require_causal, require_fits
from privfed.settings.computation import BaseWeights

Batch = Mapping[str, Tensor]

EXAMPLE_WEIGHT = "example_weight"
"""Where a record has several examples: their weights in its loss, shape (records, examples).

The other tensors then have shape (records, examples, ...). Weights of a record add up to one, and
an example that only fills up has weight zero.
"""

FROZEN_STATES = "frozen_states"
"""Where frozen blocks are skipped: what enters the first trained one, (records, length, width)."""


class Task(Protocol):
    """What a federation needs to know about its model."""

    @property
    def metric(self) -> str:
        """Name of the held-out metric, "accuracy" or "perplexity"."""
        ...

    @property
    def modules_to_save(self) -> tuple[str, ...]:
        """New modules that are trained whole and saved with the adapter."""
        ...

    def build(self) -> nn.Module:
        """The base model; what is new in it starts at zero, the same everywhere."""
        ...

    def initialise(self, model: nn.Module) -> None:
        """Set public initial values of what is trained, where no file gives them.

        Args:
            model: the base model with an adapter attached.
        """
        ...

    def tokenizer(self) -> Any:
        """The tokenizer that `collate` takes."""
        ...

    def collate(self, tokenizer: Any, records: Sequence[Record]) -> dict[str, Tensor]:
        """Tensors with leading dimension (batch,), all padded to one public length.

        Were a batch padded to its longest record, that record would change the rounding, or more,
        of every other record's gradient. For the same reason no example may fill the length.
        """
        ...

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """One loss per record, shape (batch,)."""
        ...

    def metric_parts(self, model: nn.Module, batch: Batch) -> tuple[float, float]:
        """Numerator and denominator that add up over batches to the held-out metric."""
        ...

    def metric_value(self, numerator: float, denominator: float) -> float:
        """The held-out metric from summed parts."""
        ...

    def synthetic(self, count: int, seed: int) -> list[Record]:
        """Made-up records of different lengths, for checks that must not touch private text."""
        ...

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        ...


_WORDS = (
    *("river", "stone", "market", "window", "garden", "engine", "letter", "mountain", "paper"),
    *("signal", "harbour", "winter", "glass", "method", "silver", "bridge", "answer", "pocket"),
)


def synthetic_texts(count: int, seed: int, max_length: int) -> list[str]:
    """Texts of different lengths; the last one fills the model's window."""
    order = torch.Generator().manual_seed(seed)
    lengths = [1 + 3 * position for position in range(count - 1)] + [max(max_length, 3 * count)]
    texts = []
    for length in lengths:
        chosen = torch.randint(len(_WORDS), (length,), generator=order)
        texts.append(" ".join(_WORDS[int(index)] for index in chosen))
    return texts


def tokenize(
    tokenizer: Any, texts: Sequence[str], max_length: int, *, add_special_tokens: bool = True
) -> dict[str, Tensor]:
    """Token ids and mask, shape (batch, max_length); the last place is empty in every example.

    Attention takes another path where no place of a whole batch is empty. Then one short record
    would change the rounding of all others, in low precision by more than its own gradient.
    """
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length - 1,
        padding="max_length",
        add_special_tokens=add_special_tokens,
        return_tensors="pt",
    )
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    return {
        "input_ids": F.pad(ids, (0, 1), value=tokenizer.pad_token_id),
        "attention_mask": F.pad(mask, (0, 1)),
    }


def place_of(base: str | os.PathLike[str]) -> str:
    """A folder by its whole path, which means the same wherever it is read; a name as it is."""
    return str(Path(base).resolve()) if Path(base).is_dir() else os.fspath(base)


def check_weights(weights: object) -> None:
    """Refuse what is no way to hold frozen weights."""
    if not isinstance(weights, BaseWeights):
        known = [kind.value for kind in BaseWeights]
        raise ConfigError(f"weights must be one of {known}, got {weights!r}")


def check_length(max_length: int) -> None:
    """Refuse a length that has no place for a text between its marks."""
    if type(max_length) is not int or max_length < 3:
        raise ConfigError(f"max_length must be a whole number of at least 3, got {max_length!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalLanguageModel:
    """Predict the next token; a record's loss is the mean over its own tokens.

    Attributes:
        base: Hugging Face name or folder of a causal language model.
        max_length: places of each example; at most max_length - 1 tokens of a text are read, the
            marks of its beginning and end included.
        weights: how the frozen weights of the base model are held.
    """

    base: str
    max_length: int = 128
    weights: BaseWeights = BaseWeights.FLOAT32

    metric: ClassVar[str] = "perplexity"
    modules_to_save: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Check every field."""
        object.__setattr__(self, "base", place_of(self.base))
        check_length(self.max_length)
        check_weights(self.weights)

    def build(self) -> nn.Module:
        """The pretrained language model."""
        model = load_pretrained(AutoModelForCausalLM.from_pretrained, self.base, self.weights)
        require_fits(model, self.tokenizer(), self.max_length)
        require_causal(model)
        return model

    def initialise(self, model: nn.Module) -> None:
        """Nothing is new in a language model."""

    def tokenizer(self) -> Any:
        """The tokenizer of the base model."""
        return load_tokenizer(self.base)

    def collate(self, tokenizer: Any, records: Sequence[Record]) -> dict[str, Tensor]:
        """Token ids and mask, shape (batch, length); every text begins and ends with a mark."""
        end = tokenizer.eos_token or ""
        start = tokenizer.bos_token or end
        marked = [f"{start}{record.text}{end}" for record in records]
        return tokenize(tokenizer, marked, self.max_length, add_special_tokens=False)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of each record's tokens; zero for a record without any."""
        total, count = self._token_losses(model, batch)
        return total / count.clamp(min=1)

    def metric_parts(self, model: nn.Module, batch: Batch) -> tuple[float, float]:
        """Summed negative log-likelihood and number of tokens."""
        total, count = self._token_losses(model, batch)
        return float(total.sum()), float(count.sum())

    def metric_value(self, numerator: float, denominator: float) -> float:
        """Perplexity per token."""
        return math.exp(min(numerator / denominator, 700.0))

    def synthetic(self, count: int, seed: int) -> list[Record]:
        """Made-up texts."""
        return [Record(t) for t in synthetic_texts(count, seed, self.max_length)]

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        return {
            "task": "causal-lm",
            "base": self.base,
            "max_length": self.max_length,
            "weights": self.weights.value,
        }

    def _token_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed token losses and token counts, each of shape (batch,)."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        logits = model(input_ids=ids, attention_mask=mask).logits
        logits = logits[:, -ids.shape[1] : -1]  # an adapter may have put virtual tokens in front
        losses = F.cross_entropy(logits.transpose(1, 2).float(), ids[:, 1:], reduction="none")
        targets = mask[:, 1:].to(losses.dtype)
        return (losses * targets).sum(dim=1), targets.sum(dim=1)
