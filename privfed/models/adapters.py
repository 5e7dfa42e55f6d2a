"""The trainable part: LoRA factors, or any adapter that PEFT knows and the gate lets pass."""

import copy
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)
from torch import nn
from transformers import PreTrainedModel

from privfed.checks import require_count, require_positive
from privfed.errors import ConfigError, ModelError
from privfed.models.prompt import embed_prompt_for_every_record


class Adapter(Protocol):
    """What is trained on top of the frozen base model."""

    def attach(self, model: nn.Module, modules_to_save: tuple[str, ...], seed: int) -> nn.Module:
        """Wrap `model`; new weights come from the public seed. Everything else is frozen."""
        ...

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRA:
    """Low-rank adaptation: W + (alpha / r) B A, with B = 0 at the start.

    Attributes:
        rank: r.
        target_modules: names of the linear modules, e.g. ("query", "value").
        layers: indices of the blocks that are adapted; None adapts all.
        alpha: scale of the product; None means alpha = r, a scale of one.
        dropout: share of the inputs of A that is dropped in training, in [0, 1).
        rank_stabilized: scale by alpha / sqrt(r) instead (Kalajdzievski 2023, arXiv:2312.03732).

    Reference:
        Hu et al. 2021, arXiv:2106.09685.
    """

    rank: int
    target_modules: tuple[str, ...]
    layers: tuple[int, ...] | None = None
    alpha: float | None = None
    dropout: float = 0.0
    rank_stabilized: bool = False

    def __post_init__(self) -> None:
        """Check every field."""
        require_count(rank=self.rank)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout!r}")
        check_names(target_modules=self.target_modules)
        check_layers(self.layers)
        if self.alpha is not None:
            require_positive(alpha=self.alpha)

    def attach(self, model: nn.Module, modules_to_save: tuple[str, ...], seed: int) -> PeftModel:
        """Wrap `model` with LoRA factors drawn from the public seed."""
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self._alpha,
            lora_dropout=self.dropout,
            use_rslora=self.rank_stabilized,
            target_modules=list(self.target_modules),
            layers_to_transform=None if self.layers is None else list(self.layers),
            modules_to_save=list(modules_to_save) or None,
            task_type=None if modules_to_save else TaskType.CAUSAL_LM,
        )
        return _attach(model, config, seed)

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        return {
            "adapter": "lora",
            "rank": self.rank,
            "alpha": self._alpha,
            "target_modules": list(self.target_modules),
            "layers": "all" if self.layers is None else list(self.layers),
            "dropout": self.dropout,
            "rank_stabilized": self.rank_stabilized,
        }

    @property
    def _alpha(self) -> float:
        return float(self.rank if self.alpha is None else self.alpha)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftAdapter:
    """Any PEFT configuration. The gate refuses those whose per-example gradients are wrong.

    Attributes:
        config: as PEFT takes it; kept as it is. What the task trains whole joins its
            `modules_to_save`.
    """

    config: PeftConfig

    def __post_init__(self) -> None:
        """Check the field, and keep a copy: PEFT writes into configurations that it is given."""
        if not isinstance(self.config, PeftConfig):
            raise ConfigError(f"config must be a configuration of PEFT, got {self.config!r}")
        object.__setattr__(self, "config", copy.deepcopy(self.config))

    @classmethod
    def prefix_tuning(cls, num_virtual_tokens: int) -> "PeftAdapter":
        """Trained keys and values in front of every layer (Li & Liang 2021, arXiv:2101.00190)."""
        require_count(num_virtual_tokens=num_virtual_tokens)
        return cls(
            config=PrefixTuningConfig(
                task_type=TaskType.CAUSAL_LM, num_virtual_tokens=num_virtual_tokens
            )
        )

    @classmethod
    def prompt_tuning(cls, num_virtual_tokens: int) -> "PeftAdapter":
        """Trained embeddings in front of every text (Lester et al. 2021, arXiv:2104.08691)."""
        require_count(num_virtual_tokens=num_virtual_tokens)
        return cls(
            config=PromptTuningConfig(
                task_type=TaskType.CAUSAL_LM, num_virtual_tokens=num_virtual_tokens
            )
        )

    @classmethod
    def p_tuning(cls, num_virtual_tokens: int, width: int) -> "PeftAdapter":
        """A soft prompt from a trained network of the given width (Liu et al. 2021, 2103.10385)."""
        require_count(num_virtual_tokens=num_virtual_tokens, width=width)
        return cls(
            config=PromptEncoderConfig(
                task_type=TaskType.CAUSAL_LM,
                num_virtual_tokens=num_virtual_tokens,
                encoder_hidden_size=width,
            )
        )

    @classmethod
    def ia3(
        cls, target_modules: tuple[str, ...], feedforward_modules: tuple[str, ...] = ()
    ) -> "PeftAdapter":
        """Trained scales of activations (Liu et al. 2022, arXiv:2205.05638).

        Args:
            target_modules: linear modules whose outputs are scaled.
            feedforward_modules: those among them whose inputs are scaled instead.
        """
        check_names(target_modules=target_modules)
        outside = sorted(set(feedforward_modules) - set(target_modules))
        if outside:
            raise ConfigError(
                f"feedforward_modules must be among target_modules; {outside} are not"
            )
        return cls(
            config=IA3Config(
                target_modules=list(target_modules), feedforward_modules=list(feedforward_modules)
            )
        )

    def attach(self, model: nn.Module, modules_to_save: tuple[str, ...], seed: int) -> PeftModel:
        """Wrap `model` as PEFT does."""
        config = copy.deepcopy(self.config)
        if config.is_prompt_learning and not isinstance(model, PreTrainedModel):
            raise ModelError(
                f"{config.peft_type.value} puts tokens in front of a text, which this model cannot "
                "take; train a causal language model, or take another adapter"
            )
        if modules_to_save and hasattr(config, "modules_to_save"):
            own = config.modules_to_save or []
            config.modules_to_save = [*own, *(n for n in modules_to_save if n not in own)]
        return _attach(model, config, seed)

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        settings = json.loads(json.dumps(self.config.to_dict(), default=_as_text))
        chosen = {name: value for name, value in settings.items() if value not in (None, {}, [])}
        return {"adapter": str(self.config.peft_type.value).lower(), **chosen}


def _as_text(value: object) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def lora_a_factors(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The down-projections A of every LoRA layer, with their names."""
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            yield name, parameter


def freeze_orthonormal_a(model: nn.Module, seed: int) -> None:
    """Fix every A to orthonormal rows from the public seed.

    With A fixed, the mean of the clients' products is the product of the mean: sum p_i B_i A =
    (sum p_i B_i) A. Orthonormal rows keep a record's gradient in B below that in the full weight.

    Raises:
        ModelError: if the model has no LoRA factors.

    Reference:
        Sun et al. 2024 (FFA-LoRA), arXiv:2403.12313.
    """
    generator = torch.Generator().manual_seed(seed)
    found = False
    for _, factor in lora_a_factors(model):
        found = True
        rank, width = factor.shape
        if rank > width:
            raise ModelError(f"FFA-LoRA needs rank <= width, got rank {rank} for width {width}")
        basis, _ = torch.linalg.qr(torch.randn(width, rank, generator=generator))
        with torch.no_grad():
            factor.copy_(basis.T.to(factor))
        factor.requires_grad_(False)
    if not found:
        raise ModelError("FFA-LoRA freezes LoRA's A factors; this adapter has none")


def check_names(**fields: tuple[str, ...]) -> None:
    """Refuse what is no tuple of names of modules.

    Raises:
        ConfigError: naming the field.
    """
    for field, names in fields.items():
        valid = isinstance(names, tuple) and all(isinstance(name, str) and name for name in names)
        if not valid or not names:
            raise ConfigError(
                f"{field} must be a tuple of names of modules, e.g. ('query', 'value'), got "
                f"{names!r}"
            )


def check_layers(layers: tuple[int, ...] | None) -> None:
    """Refuse what is no tuple of block numbers; None is all blocks.

    Raises:
        ConfigError: saying what came.
    """
    if layers is not None and not (
        isinstance(layers, tuple)
        and layers
        and all(type(layer) is int and layer >= 0 for layer in layers)
    ):
        raise ConfigError(
            f"layers must be a tuple of block numbers from 0, e.g. (4, 5), got {layers!r}; leave "
            "it out to adapt all"
        )


def _require_all_found(wrapped: PeftModel, config: PeftConfig) -> None:
    """Refuse names and numbers that no adapted module has: PEFT is content with one that fits."""
    names = getattr(config, "target_modules", None)
    if not isinstance(names, list | set | tuple):
        return
    adapted = list(wrapped.targeted_module_names)
    absent = [n for n in sorted(names) if not any(a == n or a.endswith(f".{n}") for a in adapted)]
    if absent:
        raise ModelError(f"target_modules {absent} name no module that this adapter can adapt")
    layers = getattr(config, "layers_to_transform", None)
    numbers = {part for name in adapted for part in name.split(".") if part.isdigit()}
    missing = [n for n in layers or () if str(n) not in numbers] if isinstance(layers, list) else []
    if missing:
        raise ModelError(f"layers {missing} are no blocks of this model with such modules")


def _attach(model: nn.Module, config: PeftConfig, seed: int) -> PeftModel:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT 0.21 asks transformers by a name that transformers 5.23 has renamed.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        # PEFT finds out by itself how GPT-2 stores its linear weights, and says so.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        torch.manual_seed(seed)
        try:
            wrapped = get_peft_model(model, config)
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelError(
                f"the adapter (target_modules = {getattr(config, 'target_modules', None)}) does "
                f"not fit this model: {error}"
            ) from error
    embed_prompt_for_every_record(wrapped)
    _require_all_found(wrapped, config)
    if not any(parameter.requires_grad for parameter in wrapped.parameters()):
        raise ModelError("the adapter leaves nothing to train; check target_modules and layers")
    return wrapped
