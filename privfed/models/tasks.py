"""What the model is trained for: one loss per record, and one public metric on held-out text.

A task knows how to build the base model, how to turn records into tensors, and how to compute
**one loss per record, shape (batch,)**. It never returns a mean over a batch: clipping bounds a
record's influence only if a record's loss depends on that record alone.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from privfed.checks import require_positive
from privfed.data.records import Record
from privfed.errors import ConfigError, DataError, ModelError
from privfed.models.load import load_pretrained, load_tokenizer, require_causal, require_fits
from privfed.settings.computation import BaseWeights

Batch = Mapping[str, Tensor]

EXAMPLE_WEIGHT = "example_weight"
"""Where a record has several examples: their weights in its loss, shape (records, examples).

The other tensors then have shape (records, examples, ...). Weights of a record add up to one, and
an example that only fills up has weight zero.
"""


BASE_DIGEST: Final = "base_sha256"
"""Key of an adapter's description that names the weights it was trained on: `base_digest`."""

OF_THE_RUN: Final = ("run", "rounds_over", "adapter_sha256", "files")
"""Keys of an adapter's description that say which run wrote it, and when."""

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


def _synthetic_texts(count: int, seed: int, max_length: int) -> list[str]:
    """Texts of different lengths; the last one fills the model's window."""
    order = torch.Generator().manual_seed(seed)
    lengths = [1 + 3 * position for position in range(count - 1)] + [max(max_length, 3 * count)]
    texts = []
    for length in lengths:
        chosen = torch.randint(len(_WORDS), (length,), generator=order)
        texts.append(" ".join(_WORDS[int(index)] for index in chosen))
    return texts


def _tokenize(
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


class SentenceClassifier(nn.Module):
    """An encoder, its mean-pooled unit-length embedding, and a linear head.

    Args:
        encoder: a transformers encoder with `last_hidden_state`.
        num_labels: size of the public label set.
        logit_scale: public constant that multiplies the unit-length embedding.
            The head starts at zero.
    """

    def __init__(self, encoder: nn.Module, num_labels: int, logit_scale: float) -> None:
        super().__init__()
        self.encoder = encoder
        width = int(encoder.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.head = nn.Linear(width, num_labels)
        self.logit_scale = logit_scale
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits, shape (batch, labels), of token ids and mask, shape (batch, length)."""
        unit = self.logit_scale * self.embedding(input_ids, attention_mask)
        logits: Tensor = self.head(unit.to(self.head.weight.dtype))
        return logits

    def embedding(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Mean-pooled, of length one, shape (batch, width)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return F.normalize(mean, dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """Classify a text: sentence encoder, mean pooling, linear head; cross-entropy per record.

    Attributes:
        base: Hugging Face name or folder of an encoder.
        labels: the public label set, the same at every client, in a fixed order.
        max_length: places of each example; at most max_length - 1 tokens of a text are read.
        logit_scale: constant factor on the unit-length embedding before the head.
        weights: how the frozen weights of the encoder are held.
        label_texts: a public sentence for each label. The head then begins with their embeddings
            less their mean, so that a text is nearest to the label whose sentence it is most like.
            It costs no epsilon, as nobody's text is read. Empty: the head begins at zero.
        label_scale: factor on these embeddings.
    """

    base: str
    labels: tuple[str, ...]
    max_length: int = 128
    logit_scale: float = 1.0
    weights: BaseWeights = BaseWeights.FLOAT32
    label_texts: tuple[str, ...] = ()
    label_scale: float = 1.0

    metric: ClassVar[str] = "accuracy"
    modules_to_save: ClassVar[tuple[str, ...]] = ("head",)

    def __post_init__(self) -> None:
        """Check every field."""
        texts = all(isinstance(label, str) and label.strip() for label in self.labels)
        if not texts or len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise ConfigError(f"labels must be two or more different names, got {self.labels!r}")
        object.__setattr__(self, "base", _place(self.base))
        _check_length(self.max_length)
        _check_weights(self.weights)
        require_positive(logit_scale=self.logit_scale, label_scale=self.label_scale)
        sentences = isinstance(self.label_texts, tuple) and all(
            isinstance(text, str) and text.strip() for text in self.label_texts
        )
        if not sentences or len(self.label_texts) not in (0, len(self.labels)):
            raise ConfigError(
                f"label_texts must be one sentence for each of the {len(self.labels)} labels, or "
                f"none, got {self.label_texts!r}"
            )
        if not self.label_texts and self.label_scale != 1:
            raise ConfigError("label_scale is a factor on the embeddings of label_texts; set these")

    def build(self) -> nn.Module:
        """The classifier on its pretrained encoder."""
        encoder = load_pretrained(AutoModel.from_pretrained, self.base, self.weights)
        if not hasattr(encoder.config, "hidden_size"):
            raise ModelError(f"{self.base!r} is no encoder with a hidden_size")
        require_fits(encoder, self.tokenizer(), self.max_length)
        return SentenceClassifier(encoder, len(self.labels), self.logit_scale)

    def initialise(self, model: nn.Module) -> None:
        """Let the head begin with the embeddings of `label_texts`.

        Raises:
            ModelError: if the head is not trained.
        """
        if not self.label_texts:
            return
        classifier = next(m for m in model.modules() if isinstance(m, SentenceClassifier))
        place = next(classifier.encoder.parameters()).device
        batch = _tokenize(self.tokenizer(), self.label_texts, self.max_length)
        with torch.no_grad():
            found = classifier.embedding(**{k: t.to(place) for k, t in batch.items()}).float()
        weights = [
            parameter
            for name, parameter in classifier.head.named_parameters()
            if parameter.requires_grad and name.endswith("weight")
        ]
        if len(weights) != 1:
            raise ModelError("label_texts are where the head begins, which this adapter must train")
        with torch.no_grad():
            weights[0].copy_(self.label_scale * (found - found.mean(dim=0)))

    def tokenizer(self) -> Any:
        """The tokenizer of the base model."""
        return load_tokenizer(self.base)

    def collate(self, tokenizer: Any, records: Sequence[Record]) -> dict[str, Tensor]:
        """Token ids, mask, shape (batch, length), and labels, shape (batch,).

        Raises:
            DataError: if a label is not an index into the label set.
        """
        known = range(len(self.labels))
        if not all(type(record.label) is int and record.label in known for record in records):
            raise DataError(f"every label must be an int in [0, {len(self.labels)})")
        batch = _tokenize(tokenizer, [record.text for record in records], self.max_length)
        batch["labels"] = torch.tensor([record.label for record in records])
        return batch

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy of each record, shape (batch,)."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return F.cross_entropy(logits.float(), batch["labels"], reduction="none")

    def metric_parts(self, model: nn.Module, batch: Batch) -> tuple[float, float]:
        """Right answers and records."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        right = (logits.argmax(dim=-1) == batch["labels"]).sum()
        return float(right), float(len(batch["labels"]))

    def metric_value(self, numerator: float, denominator: float) -> float:
        """Accuracy."""
        return numerator / denominator

    def synthetic(self, count: int, seed: int) -> list[Record]:
        """Made-up texts with labels in turn."""
        texts = _synthetic_texts(count, seed, self.max_length)
        return [Record(text, index % len(self.labels)) for index, text in enumerate(texts)]

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values; of label texts where there are any."""
        begins = {"label_texts": list(self.label_texts), "label_scale": self.label_scale}
        return {
            "task": "classification",
            "base": self.base,
            "labels": list(self.labels),
            "max_length": self.max_length,
            "logit_scale": self.logit_scale,
            "weights": self.weights.value,
            **(begins if self.label_texts else {}),
        }


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
        object.__setattr__(self, "base", _place(self.base))
        _check_length(self.max_length)
        _check_weights(self.weights)

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
        return _tokenize(tokenizer, marked, self.max_length, add_special_tokens=False)

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
        return [Record(t) for t in _synthetic_texts(count, seed, self.max_length)]

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


def description_path(adapter: str | Path) -> Path:
    """The file in an adapter folder that says what was trained."""
    return Path(adapter) / "privfed.json"


def load_task(adapter: str | Path) -> Task:
    """The task that an adapter folder of a finished run was trained for.

    Its base model is not compared with the one that was trained on; `load_adapter` does that.

    Raises:
        ModelError: if the folder was not written by a run.
    """
    path = description_path(adapter)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values.pop("loss", None)  # of training; the model and its numbers do not need it
        for name in (BASE_DIGEST, *OF_THE_RUN):
            values.pop(name, None)
        kind = {"classification": Classification, "causal-lm": CausalLanguageModel}[
            values.pop("task")
        ]
        for name in ("labels", "label_texts"):
            if name in values:
                values[name] = tuple(values[name])
        values["weights"] = BaseWeights(values.get("weights", BaseWeights.FLOAT32))
        task: Task = kind(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} names no task that can be loaded: {error}") from error
    return task


def _place(base: str | os.PathLike[str]) -> str:
    """A folder by its whole path, which means the same wherever it is read; a name as it is."""
    return str(Path(base).resolve()) if Path(base).is_dir() else os.fspath(base)


def _check_weights(weights: object) -> None:
    if not isinstance(weights, BaseWeights):
        known = [kind.value for kind in BaseWeights]
        raise ConfigError(f"weights must be one of {known}, got {weights!r}")


def _check_length(max_length: int) -> None:
    if type(max_length) is not int or max_length < 3:
        raise ConfigError(f"max_length must be a whole number of at least 3, got {max_length!r}")
