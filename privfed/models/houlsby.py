"""Houlsby adapters: small networks behind the two outputs of a transformer block.

PEFT has none, and its list of kinds of adapters is closed, so that these are saved as what they
are: the trained parameters, and beside them the settings that say where they belong.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from privfed.checks import require_count
from privfed.errors import ModelError, PrivfedError
from privfed.models.adapters import require_block_numbers, require_module_names
from privfed.models.in_place import InPlaceModel, load_trained
from privfed.models.loading_errors import explained

SETTINGS: Final = "houlsby.json"


class HoulsbyLayer(nn.Module):
    """A linear layer, and behind it h + up(GELU(down(h))).

    It begins as the linear layer alone: `up` is zero.

    Args:
        base_layer: whose outputs, shape (..., width), are adapted.
        width: of these outputs.
        bottleneck: width in between.
    """

    def __init__(self, base_layer: nn.Module, width: int, bottleneck: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the linear layer, shape (..., width), in its type."""
        output: Tensor = self.base_layer(*args, **kwargs)
        wide = output.to(self.down.weight.dtype)
        update: Tensor = self.up(F.gelu(self.down(wide)))
        return (wide + update).to(output.dtype)


class HoulsbyModel(InPlaceModel):
    """A base model with Houlsby adapters in it, which are trained and saved.

    Args:
        base: what requires a gradient is trained.
        adapter: that was put into it.
    """

    def __init__(self, base: nn.Module, adapter: "Houlsby") -> None:
        super().__init__(base)
        self.adapter = adapter

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write the trained parameters and where they belong; the base model is not written."""
        super().save_pretrained(folder)
        (Path(folder) / SETTINGS).write_text(json.dumps(asdict(self.adapter)))

    @classmethod
    def from_pretrained(cls, base: nn.Module, folder: str | Path) -> "HoulsbyModel":
        """Put adapters with trained parameters into a fresh base model.

        Raises:
            ModelError: if they belong to another base model, lack a parameter, or cannot be read.
        """
        try:
            values = json.loads((Path(folder) / SETTINGS).read_text(encoding="utf-8"))
            named: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items()
            }
            adapter = Houlsby(**named)
        except (OSError, ValueError, TypeError, AttributeError, PrivfedError) as error:
            raise ModelError(
                f"{SETTINGS} in {folder} must say where the adapters belong, and does not: "
                f"{explained(folder, error)}"
            ) from error
        model = adapter.attach(base, (), 0)
        found = load_trained(base, folder)
        missing = [n for n, p in base.named_parameters() if p.requires_grad and n not in found]
        if missing:
            raise ModelError(
                f"the adapter in {folder} must hold the weights that its {SETTINGS} describes; "
                f"{len(missing)} are missing ({missing[0]!r}, ...)"
            )
        return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Houlsby:
    """Bottlenecks behind linear layers: h + up(GELU(down(h))), with up = 0 at the start.

    In the paper there are two in every block: behind the projection that ends attention and behind
    the one that ends the feed-forward part, each before the residual is added. There the
    normalisation layers are trained too; here they stay frozen.

    Attributes:
        bottleneck: width between down and up.
        target_modules: names of the linear modules that are followed by one, e.g.
            ("attention.output.dense", "output.dense") for BERT, ("o_proj", "down_proj") for Llama,
            ("c_proj",) for GPT-2, whose two have one name. Those outside of blocks are left alone.
        layers: indices of the blocks that are adapted; None adapts all.

    Reference:
        Houlsby et al. 2019, arXiv:1902.00751.
    """

    bottleneck: int
    target_modules: tuple[str, ...]
    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        require_count(bottleneck=self.bottleneck)
        require_module_names(target_modules=self.target_modules)
        require_block_numbers(self.layers)

    def attach(self, model: nn.Module, modules_to_save: tuple[str, ...], seed: int) -> HoulsbyModel:
        """Put a bottleneck behind every target; down is drawn from the public seed.

        Raises:
            ModelError: if a name or a number fits nothing, or a module that is not linear.
        """
        targets = self._targets(model)
        model.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for path, module in targets.items():
                parent, _, name = path.rpartition(".")
                layer = HoulsbyLayer(module, _width(path, module), self.bottleneck)
                for added in (layer.down, layer.up):
                    added.to(next(module.parameters()).device)
                setattr(model.get_submodule(parent), name, layer)
        for path, module in model.named_modules():
            if _is_named(path, modules_to_save):
                module.requires_grad_(True)
        return HoulsbyModel(model, self)

    def describe(self) -> dict[str, Any]:
        """Public settings as JSON values."""
        return {
            "adapter": "houlsby",
            "bottleneck": self.bottleneck,
            "target_modules": list(self.target_modules),
            "layers": "all" if self.layers is None else list(self.layers),
        }

    def _targets(self, model: nn.Module) -> dict[str, nn.Module]:
        """The modules that are adapted, by their names in the model."""
        inside = {n: m for n, m in model.named_modules() if _block(n) is not None}
        fitting = {n: m for n, m in inside.items() if _is_named(n, self.target_modules)}
        absent = [n for n in self.target_modules if not any(_is_named(f, (n,)) for f in fitting)]
        if absent:
            raise ModelError(f"target_modules {absent} name no module in a block of this model")
        if self.layers is None:
            return fitting
        missing = sorted(set(self.layers).difference(map(_block, fitting)))
        if missing:
            raise ModelError(f"layers {missing} are no blocks of this model with such modules")
        return {n: m for n, m in fitting.items() if _block(n) in self.layers}


def _block(path: str) -> int | None:
    """The number of the block that a module lies in."""
    return next((int(part) for part in path.split(".") if part.isdigit()), None)


def _is_named(path: str, names: tuple[str, ...]) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in names)


def _width(path: str, module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, Conv1D):
        return int(module.nf)
    raise ModelError(
        f"a bottleneck must stand behind a linear layer, and {path!r} is of type "
        f"{type(module).__name__}; name the layer inside of it"
    )
