"""The frozen base runs as at evaluation, whatever is trained on top of it.

Dropout of the base would cost accuracy and, drawn from generators of the process, secrecy. Names
of layers and rates differ from architecture to architecture, so that no list of names is complete.
Instead the modules of the base stay in evaluation mode while the adapter around them, with a
dropout of its own, is in training mode. Their rates are zero as well: blocks that are run twice
(gradient checkpointing) must be in training mode to do so.
"""

from collections.abc import Iterator
from typing import Any, Final

from torch import nn
from transformers import PreTrainedConfig

_MARK: Final = "belongs_to_the_base"


def switch_off_dropout(base: nn.Module) -> None:
    """Mark the modules of a base model, before an adapter is attached, and set their rates to zero.

    Args:
        base: its modules, and the configuration that they read, are changed.
    """
    for module in base.modules():
        setattr(module, _MARK, True)
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        _zero_rates(module)
    for config in _configs(base):
        _zero_rates(config)


def training_mode(model: nn.Module) -> None:
    """Put a model into training mode, but for the modules of its base.

    Of those, only blocks that are run twice are in training mode, and layers with parameters of
    their own that are trained, which Opacus' hooks skip otherwise.

    Args:
        model: base model with an adapter.
    """
    model.train()
    for module in model.modules():
        if _MARK in vars(module):  # PEFT's wrappers hand on what they are asked for
            module.training = getattr(module, "gradient_checkpointing", False) or any(
                parameter.requires_grad for parameter in module.parameters(recurse=False)
            )


def _zero_rates(holder: Any) -> None:
    for name, value in list(vars(holder).items()):
        if "drop" in name and type(value) in (int, float) and value:
            setattr(holder, name, type(value)(0))


def _configs(base: nn.Module) -> Iterator[PreTrainedConfig]:
    """Configurations that modules of the base read, with those inside of them."""
    found = [getattr(module, "config", None) for module in base.modules()]
    waiting = [config for config in found if isinstance(config, PreTrainedConfig)]
    seen: set[int] = set()
    while waiting:
        config = waiting.pop()
        if id(config) not in seen:
            seen.add(id(config))
            yield config
            waiting += [v for v in vars(config).values() if isinstance(v, PreTrainedConfig)]
