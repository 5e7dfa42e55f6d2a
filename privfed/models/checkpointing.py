"""Gradient checkpointing: layers run again in the backward pass instead of keeping activations."""

from torch import nn
from transformers import PreTrainedModel

from privfed.errors import ConfigError
from privfed.settings.computation import Checkpointing


def checkpoint_layers(model: nn.Module, kind: Checkpointing) -> None:
    """Let the base model keep no activations inside its layers.

    Args:
        model: with a transformers model inside.
        kind: REENTRANT also makes the embeddings require gradients, without which that kind
            computes none.

    Raises:
        ConfigError: if the base model has no such layers, or an adapter cannot run twice.
    """
    if kind is Checkpointing.NONE:
        return
    base = next((part for part in model.modules() if isinstance(part, PreTrainedModel)), None)
    if base is None or not base.supports_gradient_checkpointing:
        raise ConfigError("gradient checkpointing needs a transformers model that supports it")
    adapter = getattr(model, "active_peft_config", None)
    if adapter is not None and adapter.peft_type == "PREFIX_TUNING":
        raise ConfigError(
            "prefix tuning puts keys and values into a cache that a layer run twice would fill "
            "twice; train it without gradient checkpointing, or take prompt tuning"
        )
    reentrant = kind is Checkpointing.REENTRANT
    base.config.use_cache = False
    current = getattr(base, "activation_checkpointing_enable", None)  # its name from 5.23 on
    (current or base.gradient_checkpointing_enable)({"use_reentrant": reentrant})
    base.disable_input_require_grads()  # transformers asked for them, whatever the kind
    if reentrant:
        base.enable_input_require_grads()
