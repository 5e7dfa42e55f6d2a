"""Training chosen parameters of the base model itself: biases, or its last layers."""

import fnmatch
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from privfed.checks import require_count
from privfed.errors import ConfigError, ModelError
from privfed.models.loading_errors import explained

_WEIGHTS = "trained.safetensors"


class InPlaceModel(nn.Module):
    """A base model of which some parameters are trained and saved.

    Args:
        base: what requires a gradient is trained.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the base model."""
        return self.base(*args, **kwargs)

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write the trained parameters as safetensors; the base model is not written."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        trained = {n: p.detach().contiguous() for n, p in self.base.named_parameters()}
        trained = {n: t for n, t in trained.items() if self.base.get_parameter(n).requires_grad}
        save_file(trained, Path(folder) / _WEIGHTS)

    @classmethod
    def from_pretrained(cls, base: nn.Module, folder: str | Path) -> "InPlaceModel":
        """Put trained parameters into a fresh base model.

        Raises:
            ModelError: if they belong to another base model, or cannot be read.
        """
        load_trained(base, folder)
        return cls(base)


def load_trained(base: nn.Module, folder: str | Path) -> set[str]:
    """Overwrite parameters of a base model with those that an adapter folder holds.

    Returns:
        Their names.

    Raises:
        ModelError: if they belong to another base model, or cannot be read.
    """
    try:
        trained = load_file(Path(folder) / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the trained parameters in {folder} cannot be loaded: {explained(folder, error)}"
        ) from error
    known = dict(base.named_parameters())
    foreign = [n for n, t in trained.items() if n not in known or known[n].shape != t.shape]
    if foreign:
        raise ModelError(
            f"{folder} belongs to another base model: this one has no {foreign[:3]} of the "
            "same shape"
        )
    base.load_state_dict(trained, strict=False)
    return set(trained)


def holds_trained_parameters(folder: Path) -> bool:
    """Whether an adapter folder holds parameters of the base, not an adapter of PEFT."""
    return (folder / _WEIGHTS).is_file()


@dataclass(frozen=True, slots=True, kw_only=True)
class InPlace:
    """Train parameters of the base model instead of adding some.

    Attributes:
        patterns: of parameter names, as in shells, e.g. ("*.bias",).
        excluded: patterns of names that stay frozen all the same; an unused pooler, and biases of
            attention keys, which the softmax takes out again.
        last_layers: train these many blocks at the end, as a whole, in addition.
    """

    patterns: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ("*pooler*", "*.key.bias", "*.k_proj.bias")
    last_layers: int = 0

    def __post_init__(self) -> None:
        """Check every field."""
        for patterns in (self.patterns, self.excluded):
            if type(patterns) is not tuple:
                raise ConfigError(f"patterns must be a tuple, e.g. ('*.bias',), got {patterns!r}")
        if not self.patterns and not self.last_layers:
            raise ConfigError("name patterns of parameters, or a number of last layers")
        if self.last_layers:
            require_count(last_layers=self.last_layers)

    @classmethod
    def biases(cls) -> "InPlace":
        """All biases (BitFit; Ben Zaken et al. 2022, arXiv:2106.10199)."""
        return cls(patterns=("*.bias",))

    def attach(
        self,
        model: nn.Module,
        modules_to_save: tuple[str, ...],
        seed: int,  # noqa: ARG002 - nothing new is drawn
    ) -> InPlaceModel:
        """Freeze everything but the chosen parameters."""
        heads = tuple(f"*{name}.*" for name in modules_to_save)
        blocks = _last_blocks(model, self.last_layers) if self.last_layers else ()
        for name, parameter in model.named_parameters():
            chosen = _matches(name, (*self.patterns, *heads, *blocks))
            parameter.requires_grad_(chosen and not _matches(name, self.excluded))
        names = [name for name, _ in model.named_parameters()]
        absent = [p for p in self.patterns if not any(_matches(name, (p,)) for name in names)]
        if absent:
            raise ModelError(f"no parameter of this model matches {absent}")
        return InPlaceModel(model)

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        chosen = {name: value for name, value in asdict(self).items() if value}
        return {"adapter": "in-place", **json.loads(json.dumps(chosen))}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _last_blocks(model: nn.Module, count: int) -> tuple[str, ...]:
    """Patterns of the parameters in the last blocks of the longest list of modules."""
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ModelError("last_layers needs a model with a list of blocks")
    name, blocks = max(lists, key=lambda pair: len(pair[1]))
    if count > len(blocks):
        raise ConfigError(f"last_layers = {count} of a model with {len(blocks)} blocks")
    return tuple(f"{name}.{index}.*" for index in range(len(blocks) - count, len(blocks)))
