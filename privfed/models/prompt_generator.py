"""FedTPG: the clients average a generator of soft prompts in place of a soft prompt.

Cross-attention maps a public text about the task to the prompt, so that what was trained can be
given another text and makes a prompt for that:

    P = h(Q + CrossAttention(Q, T W_K, T W_V))

T holds the tokens of the text as the frozen base model embeds them, one a row. The queries Q, the
projections W_K and W_V and the network h are trained. As with the soft prompts of `prompt`, the
generator runs for every record, so that each has a gradient of its own.

Reference: Qiu et al. 2024, arXiv:2310.06123, section 3. There T comes from a text encoder, one row
for each class name; a language model has none, and its own token embeddings stand for it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from privfed.checks import require_count
from privfed.errors import ConfigError, ModelError
from privfed.models.adapters import PeftAdapter
from privfed.models.load import load_tokenizer
from privfed.models.start_file import load_start, start_bytes
from privfed.models.vector import trainable

GENERATOR_FILE: Final = "generator.safetensors"
"""File in an adapter folder with the trained generator; a run can start from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptGenerator:
    """A soft prompt made from a public text about the task, by a trained generator.

    A saved adapter is the prompt for this text, as PEFT's prompt tuning; the generator lies beside
    it.

    Attributes:
        task_text: public; for example a sentence for each topic. Order does not matter.
        num_virtual_tokens: length of the prompt.
        width: of the generator.
        heads: of its attention; they divide the width.
    """

    task_text: tuple[str, ...]
    num_virtual_tokens: int
    width: int
    heads: int = 4

    def __post_init__(self) -> None:
        """Check every field."""
        texts = isinstance(self.task_text, tuple) and all(
            isinstance(text, str) and text.strip() for text in self.task_text
        )
        if not texts or not self.task_text:
            raise ConfigError(
                "task_text must be a tuple of public texts, e.g. ('sport', 'money'), got "
                f"{self.task_text!r}"
            )
        require_count(
            num_virtual_tokens=self.num_virtual_tokens, width=self.width, heads=self.heads
        )
        if self.width % self.heads:
            raise ConfigError(
                f"width must be a multiple of heads, got {self.width} for {self.heads} heads"
            )

    def attach(self, model: nn.Module, modules_to_save: tuple[str, ...], seed: int) -> PeftModel:
        """Put a generator with weights from the public seed in front of a language model.

        Raises:
            ModelError: if the model takes no prompts, or the text has fewer than two tokens.
        """
        attached = PeftAdapter.prompt_tuning(self.num_virtual_tokens).attach(
            model, modules_to_save, seed
        )
        text = _embedded(self.task_text, attached.get_base_model())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator = CrossAttentionPrompt(text, self.num_virtual_tokens, self.width, self.heads)
        attached.prompt_encoder[attached.active_adapter] = generator
        kind = type(attached)
        attached.__class__ = type(f"Generating{kind.__name__}", (_SavesGenerator, kind), {})
        return attached

    def attach_trained(self, model: nn.Module, generator: str | Path) -> PeftModel:
        """Put a trained generator in front of a language model, for this text.

        It may have been trained with another `task_text`. Post-processing: it costs no epsilon.

        Args:
            model: of the kind that the generator was trained on.
            generator: `generator.safetensors` of an adapter folder.

        Raises:
            ModelError: if the generator is of other sizes, or the model is of another width.
        """
        attached = self.attach(model, (), 0)
        load_start(Path(generator), attached, [name for name, _ in trainable(attached)])
        return attached

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        return {"adapter": "prompt-generator", **asdict(self), "task_text": list(self.task_text)}


class CrossAttentionPrompt(nn.Module):
    """The generator, in the place of PEFT's table of virtual tokens.

    Args:
        text: T, shape (text tokens, token width); it stays as it is.
        num_virtual_tokens: number of queries.
        width: of queries, keys and values.
        heads: that attend by themselves.

    Attributes:
        embedding: the queries Q, under the name by which PEFT finds the device.
    """

    text: Tensor

    def __init__(self, text: Tensor, num_virtual_tokens: int, width: int, heads: int) -> None:
        super().__init__()
        token_width = text.shape[-1]
        self.heads = heads
        self.register_buffer("text", text, persistent=False)  # known to all, in no file
        self.embedding = nn.Embedding(num_virtual_tokens, width)
        self.key = nn.Linear(token_width, width, bias=False)  # softmax would take a bias out again
        self.value = nn.Linear(token_width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, token_width)

    def forward(self, indices: Tensor) -> Tensor:
        """Prompts, shape (batch, virtual tokens, token width), of numbers of virtual tokens.

        Args:
            indices: shape (batch, virtual tokens); each row is computed by itself.
        """
        queries = self.embedding(indices)
        text = self.text.expand(len(indices), -1, -1)
        attended = F.scaled_dot_product_attention(
            self._by_head(queries), self._by_head(self.key(text)), self._by_head(self.value(text))
        )
        states = self.norm(queries + attended.transpose(1, 2).flatten(2))
        prompts: Tensor = self.output(F.gelu(self.hidden(states)))
        return prompts

    def _by_head(self, value: Tensor) -> Tensor:
        """(batch, tokens, width) as (batch, heads, tokens, width / heads)."""
        return value.view(*value.shape[:2], self.heads, -1).transpose(1, 2)


class _SavesGenerator(PeftModel):  # type: ignore[misc]
    """Mixed into a PEFT model's class: PEFT saves the prompt alone, which has no text to change."""

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write the prompt as PEFT does, and the generator beside it."""
        super().save_pretrained(save_directory, **options)
        content = start_bytes(self, [name for name, _ in trainable(self)])
        (Path(save_directory) / GENERATOR_FILE).write_bytes(content)


def _embedded(texts: tuple[str, ...], base: PreTrainedModel) -> Tensor:
    """Token embeddings of the texts, each of mean zero and variance one, shape (tokens, width)."""
    tokenizer = load_tokenizer(base.name_or_path)
    read = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    tokens = [token for text in read for token in text]
    if len(set(tokens)) < 2:
        raise ModelError(
            f"task_text must have at least two different tokens, got {tokens} for {texts}: "
            "attention to a single one is the same whatever is trained; say more about the task"
        )
    table: Any = base.get_input_embeddings()
    with torch.no_grad():
        rows = table(torch.tensor(tokens, device=table.weight.device)).float()
        return F.layer_norm(rows, rows.shape[-1:])
