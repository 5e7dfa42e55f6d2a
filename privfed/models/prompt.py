"""Soft prompts whose every record reads a prompt of its own.

PEFT embeds the virtual tokens of prompt tuning and p-tuning once and repeats the result for the
batch. Per-example gradients are then those of one row, and a whole batch is clipped as if it were
one record. Here the tokens are embedded for every record; the values are the same.
"""

from typing import Any

from peft import PeftModel, PeftType
from torch import Tensor

_EMBEDDED_ONCE = (PeftType.PROMPT_TUNING, PeftType.P_TUNING)


def embed_prompt_for_every_record(model: PeftModel) -> None:
    """Change the class of a PEFT model with a soft prompt; its parameters stay as they are."""
    if model.active_peft_config.peft_type in _EMBEDDED_ONCE:
        kind = type(model)
        model.__class__ = type(f"PerRecord{kind.__name__}", (_PromptPerRecord, kind), {})


class _PromptPerRecord(PeftModel):  # type: ignore[misc]
    """Mixed into a PEFT model's class."""

    def get_prompt(self, batch_size: int, *args: Any, **kwargs: Any) -> Tensor:
        """Prompts of a batch, shape (batch, virtual tokens, width)."""
        if self.active_peft_config.inference_mode:
            inferred: Tensor = super().get_prompt(batch_size, *args, **kwargs)
            return inferred
        encoder = self.prompt_encoder[self.active_adapter]
        tokens = self.prompt_tokens[self.active_adapter].to(encoder.embedding.weight.device)
        prompts: Tensor = encoder(tokens.unsqueeze(0).expand(batch_size, -1))
        return prompts
