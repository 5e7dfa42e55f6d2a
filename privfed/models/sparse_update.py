"""Training a public random sparse set of entries of the dense weights: the first stage of SLoRA.

Full fine-tuning starts better than LoRA where clients differ, and moves far too many numbers. A
random share of them does nearly as well. What comes out is where `slora` lets LoRA start.

Reference: Babakniya et al. 2023, arXiv:2308.06522, section 4.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from privfed.errors import ConfigError, ModelError
from privfed.models.adapters import require_block_numbers, require_module_names
from privfed.models.in_place import InPlaceModel
from privfed.models.loading_errors import explained
from privfed.models.vector import trainable

_FILE: Final = "sparse_update.safetensors"
_POSITIONS: Final = ".positions"
_VALUES: Final = ".values"


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseUpdate:
    """Train a share of the entries of linear layers; the others stay as they are.

    Attributes:
        target_modules: names of the linear modules, e.g. ("query", "value").
        share: of the entries of each of their matrices, in (0, 1]; drawn from the public seed.
        layers: indices of the blocks that are adapted; None adapts all.
    """

    target_modules: tuple[str, ...]
    share: float
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        require_module_names(target_modules=self.target_modules)
        require_block_numbers(self.layers)
        if type(self.share) not in (int, float) or not 0 < self.share <= 1:
            raise ConfigError(f"share must be in (0, 1], got {self.share!r}; 0.01 is 1 %")

    def attach(
        self, model: nn.Module, modules_to_save: tuple[str, ...], seed: int
    ) -> "SparseUpdateModel":
        """Put a sparse matrix of zeros beside every chosen one; positions are public.

        Raises:
            ModelError: if a name or a number fits no linear module.
        """
        draw = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(f".{n}." in f".{name}" for n in modules_to_save))
        for name, layer in self._chosen(model):
            size = layer_shape(layer)[0] * layer_shape(layer)[1]
            count = max(1, round(self.share * size))
            positions, _ = torch.randperm(size, generator=draw)[:count].sort()
            _replace(model, name, SparseLinear(layer, positions))
        return SparseUpdateModel(model)

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        return {
            "adapter": "sparse-update",
            **asdict(self),
            "target_modules": list(self.target_modules),
            "layers": "all" if self.layers is None else list(self.layers),
        }

    def _chosen(self, model: nn.Module) -> list[tuple[str, nn.Module]]:
        named = [(n, m) for n, m in model.named_modules() if _is_linear(m)]
        fitting = {t: [n for n, _ in named if _ends_with(n, t)] for t in self.target_modules}
        absent = sorted(target for target, names in fitting.items() if not names)
        if absent:
            raise ModelError(f"target_modules {absent} name no linear module of this model")
        found = [(n, m) for n, m in named if any(_ends_with(n, t) for t in self.target_modules)]
        if self.layers is None:
            return found
        missing = sorted(set(self.layers).difference(_block(name) for name, _ in found))
        if missing:
            raise ModelError(f"layers {missing} are no blocks of this model with such modules")
        return [(name, module) for name, module in found if _block(name) in self.layers]


class SparseLinear(nn.Module):
    """A frozen linear layer plus a sparse matrix: W x + D x, with D = 0 at the start.

    Args:
        base_layer: W, of any kind that holds one, quantised ones included.
        positions: of the entries of D, row by row, shape (k,), int64.

    Attributes:
        values: of these entries, shape (k,).
        shape: of D, (out, in).
    """

    positions: Tensor

    def __init__(self, base_layer: nn.Module, positions: Tensor) -> None:
        super().__init__()
        place = next(base_layer.parameters()).device
        self.base_layer = base_layer
        self.shape = layer_shape(base_layer)
        self.values = nn.Parameter(torch.zeros(len(positions), device=place))
        self.register_buffer("positions", positions.to(place))

    def forward(self, input: Tensor) -> Tensor:
        """Shape (..., out), of an input of shape (..., in)."""
        output: Tensor = self.base_layer(input)
        return output + F.linear(input.to(self.values.dtype), self.delta()).to(output.dtype)

    def delta(self) -> Tensor:
        """D, shape (out, in)."""
        return dense(self.values, self.positions, self.shape)


def dense(values: Tensor, positions: Tensor, shape: tuple[int, int]) -> Tensor:
    """The matrix with these values at these positions, counted row by row, and zeros elsewhere."""
    zeros = torch.zeros(shape[0] * shape[1], dtype=values.dtype, device=values.device)
    return zeros.scatter(0, positions, values).view(shape)


def layer_shape(layer: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer."""
    held: Any = layer
    if isinstance(layer, Conv1D):
        return int(held.nf), int(held.nx)
    return int(held.out_features), int(held.in_features)


class SparseUpdateModel(InPlaceModel):
    """A base model with sparse updates beside its linear layers."""

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write positions and values, and what is trained whole; the base model is not written."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        saved = {name: p.detach().contiguous() for name, p in trainable(self.base)}
        saved |= {n: b for n, b in self.base.named_buffers() if n.endswith(_POSITIONS)}
        save_file(saved, Path(folder) / _FILE)

    @classmethod
    def from_pretrained(cls, base: nn.Module, folder: str | Path) -> "SparseUpdateModel":
        """Put a sparse update beside the layers of a fresh base model.

        Raises:
            ModelError: if it belongs to another base model, or cannot be read.
        """
        path = Path(folder) / _FILE
        try:
            saved = load_file(path)
            for name, positions in saved.items():
                if name.endswith(_POSITIONS):
                    place = name.removesuffix(_POSITIONS)
                    _replace(base, place, SparseLinear(base.get_submodule(place), positions))
            foreign = base.load_state_dict(saved, strict=False).unexpected_keys
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"the sparse update in {folder} cannot be loaded: {explained(folder, error)}"
            ) from error
        except (AttributeError, RuntimeError, StopIteration) as error:
            raise ModelError(f"{folder} belongs to another base model: {error}") from error
        if foreign:
            raise ModelError(f"{folder} belongs to another base model, which has {foreign[:3]}")
        return cls(base)


def holds_sparse_update(folder: Path) -> bool:
    """Whether an adapter folder holds a sparse update, not an adapter of PEFT."""
    return (folder / _FILE).is_file()


def sparse_layers(model: nn.Module) -> dict[str, SparseLinear]:
    """The layers of a base model that have a sparse update, by their names in it."""
    return {n: m for n, m in model.named_modules() if isinstance(m, SparseLinear)}


def _is_linear(module: nn.Module) -> bool:
    """Quantised layers are subclasses."""
    return isinstance(module, nn.Linear | Conv1D)


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _block(name: str) -> int:
    """Number of the block that a module lies in; -1 outside of all."""
    return next((int(part) for part in name.split(".") if part.isdigit()), -1)


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)
