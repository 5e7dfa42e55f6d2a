"""Classification of texts: an encoder, one vector for each text, a linear head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel

from privfed.checks import require_positive
from privfed.data.records import Record
from privfed.errors import ConfigError, DataError, ModelError
from privfed.models.load import load_pretrained, load_tokenizer, require_fits
from privfed.models.tasks import (
    Batch,
    check_length,
    check_weights,
    place_of,
    synthetic_texts,
    tokenize,
)
from privfed.settings.computation import BaseWeights

_LEAST_SPREAD: Final = 1e-3
"""Of cosines with an anchor, where an encoder tells no anchors apart."""


class SentenceClassifier(nn.Module):
    """An encoder, its mean-pooled unit-length embedding, and a linear head.

    Args:
        encoder: a transformers encoder with `last_hidden_state`.
        num_labels: size of the public label set.
        logit_scale: public constant that multiplies the unit-length embedding.
            The head starts at zero.
        width: of what the head reads; None is that of the encoder.
    """

    def __init__(
        self, encoder: nn.Module, num_labels: int, logit_scale: float, width: int | None = None
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width or int(encoder.config.hidden_size), num_labels)  # type: ignore[union-attr, arg-type]
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


class RelativeClassifier(SentenceClassifier):
    """A sentence classifier that reads how a text compares with public anchor sentences.

    With the embedding e(x) of a text and the mean m of those of K anchors a_k, the head reads the
    cosines of e(x) - m with every e(a_k) - m, each less its mean over the anchors and divided by
    its standard deviation over them, as one vector of length one. Encoders that agree on which
    texts are alike give much the same vector, whatever their width, depth or tokenizer. So what is
    trained behind it has one shape and one meaning on all of them. Only public text makes it.

    `relative` is the identity, shape (K, K), and frozen: it is where LoRA adapts that vector.

    Args:
        encoder: a transformers encoder with `last_hidden_state`.
        num_labels: size of the public label set.
        logit_scale: public constant that multiplies the vector.
        anchors: e(a_k), shape (K, width of the encoder), each of length one.

    Reference:
        Moschella et al. 2023, arXiv:2209.15430.
    """

    center: Tensor
    anchors: Tensor
    usual: Tensor
    spread: Tensor

    def __init__(
        self, encoder: nn.Module, num_labels: int, logit_scale: float, anchors: Tensor
    ) -> None:
        super().__init__(encoder, num_labels, logit_scale, len(anchors))
        center = anchors.mean(dim=0)
        around = F.normalize(anchors - center, dim=-1)
        among = around @ around.T
        public = {
            "center": center,
            "anchors": around,
            "usual": among.mean(dim=0),
            "spread": among.std(dim=0).clamp(min=_LEAST_SPREAD),
        }
        for name, values in public.items():
            # Each party computes them on its own processor: they are in no digest and checkpoint.
            self.register_buffer(name, values, persistent=False)
        self.relative = nn.Linear(len(anchors), len(anchors), bias=False)
        nn.init.eye_(self.relative.weight)

    def embedding(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scaled cosines with the anchors, of length one before `relative`, shape (batch, K)."""
        own = super().embedding(input_ids, attention_mask).to(self.anchors.dtype)
        cosines = F.normalize(own - self.center, dim=-1) @ self.anchors.T
        scaled = (cosines - self.usual) / self.spread
        adapted: Tensor = self.relative(F.normalize(scaled, dim=-1))
        return adapted


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
        anchor_texts: public sentences, two or more. The head then reads how a text compares with
            each of them, see `RelativeClassifier`, so that clients may hold different encoders;
            `LoRA(target_modules=("relative",))` adapts what it reads. Empty: it reads the text's
            embedding.
    """

    base: str
    labels: tuple[str, ...]
    max_length: int = 128
    logit_scale: float = 1.0
    weights: BaseWeights = BaseWeights.FLOAT32
    label_texts: tuple[str, ...] = ()
    label_scale: float = 1.0
    anchor_texts: tuple[str, ...] = ()

    metric: ClassVar[str] = "accuracy"
    modules_to_save: ClassVar[tuple[str, ...]] = ("head",)

    def __post_init__(self) -> None:
        """Check every field."""
        texts = all(isinstance(label, str) and label.strip() for label in self.labels)
        if not texts or len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise ConfigError(f"labels must be two or more different names, got {self.labels!r}")
        object.__setattr__(self, "base", place_of(self.base))
        check_length(self.max_length)
        check_weights(self.weights)
        require_positive(logit_scale=self.logit_scale, label_scale=self.label_scale)
        if not _are_sentences(self.label_texts) or len(self.label_texts) not in (
            0,
            len(self.labels),
        ):
            raise ConfigError(
                f"label_texts must be one sentence for each of the {len(self.labels)} labels, or "
                f"none, got {self.label_texts!r}"
            )
        if not self.label_texts and self.label_scale != 1:
            raise ConfigError("label_scale is a factor on the embeddings of label_texts; set these")
        anchors = self.anchor_texts
        if not _are_sentences(anchors) or len(anchors) == 1 or len(set(anchors)) != len(anchors):
            raise ConfigError(
                f"anchor_texts must be two or more different sentences, or none, got {anchors!r}"
            )

    def build(self) -> nn.Module:
        """The classifier on its pretrained encoder."""
        encoder = load_pretrained(AutoModel.from_pretrained, self.base, self.weights)
        if not hasattr(encoder.config, "hidden_size"):
            raise ModelError(f"{self.base!r} is no encoder with a hidden_size")
        require_fits(encoder, self.tokenizer(), self.max_length)
        if not self.anchor_texts:
            return SentenceClassifier(encoder, len(self.labels), self.logit_scale)
        read = SentenceClassifier(encoder, len(self.labels), self.logit_scale)
        anchors = self._embedded(read, self.anchor_texts)
        return RelativeClassifier(encoder, len(self.labels), self.logit_scale, anchors)

    def initialise(self, model: nn.Module) -> None:
        """Let the head begin with the embeddings of `label_texts`.

        Raises:
            ModelError: if the head is not trained.
        """
        if not self.label_texts:
            return
        classifier = next(m for m in model.modules() if isinstance(m, SentenceClassifier))
        found = self._embedded(classifier, self.label_texts)
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
        batch = tokenize(tokenizer, [record.text for record in records], self.max_length)
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
        texts = synthetic_texts(count, seed, self.max_length)
        return [Record(text, index % len(self.labels)) for index, text in enumerate(texts)]

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values; of label and anchor texts where there are any."""
        begins = {"label_texts": list(self.label_texts), "label_scale": self.label_scale}
        return {
            "task": "classification",
            "base": self.base,
            "labels": list(self.labels),
            "max_length": self.max_length,
            "logit_scale": self.logit_scale,
            "weights": self.weights.value,
            **(begins if self.label_texts else {}),
            **({"anchor_texts": list(self.anchor_texts)} if self.anchor_texts else {}),
        }

    def _embedded(self, classifier: SentenceClassifier, texts: Sequence[str]) -> Tensor:
        """What the head reads of public texts, shape (texts, width of the head), float32."""
        place = next(classifier.encoder.parameters()).device
        batch = tokenize(self.tokenizer(), texts, self.max_length)
        with torch.no_grad():
            return classifier.embedding(**{k: t.to(place) for k, t in batch.items()}).float()


def _are_sentences(texts: object) -> bool:
    return isinstance(texts, tuple) and all(isinstance(t, str) and t.strip() for t in texts)
