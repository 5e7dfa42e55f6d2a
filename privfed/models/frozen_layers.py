"""The blocks below the first trained one, run once per record instead of once per step.

Where only the last blocks of a model are adapted, what enters the first of them is the same in
every step: it depends on the record and on frozen weights alone. It can be kept beside the record,
and the blocks below be skipped.
"""

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn

from privfed.errors import ConfigError
from privfed.models.vector import trainable


class FrozenLayers:
    """The blocks of a model below its first trained one.

    Until `replace` is called with states, and after it was called with None, the model runs in
    full. `states` breaks a pass off where it enters the trained block, by an exception of its own.

    Args:
        model: its blocks change their class, and nothing else.

    Raises:
        ConfigError: if no block lies below a trained one, if a soft prompt is trained, or if there
            is dropout outside of the trained blocks, whose masks would be kept too.
    """

    def __init__(self, model: nn.Module) -> None:
        if hasattr(model, "prompt_encoder"):
            raise ConfigError(
                "cache_frozen_layers keeps what enters the first trained block, which a soft "
                "prompt changes in every step; leave it out"
            )
        blocks = _blocks(model)
        first = next((n for n, block in enumerate(blocks) if any(trainable(block))), 0)
        if first == 0:
            raise ConfigError(
                "cache_frozen_layers needs frozen blocks below the first trained one; adapt the "
                "last blocks alone (layers), or leave it out"
            )
        _require_no_dropout(model, blocks[first:])
        self._skipped = [_under(block, _Skippable) for block in blocks[:first]]
        self._entered = _under(blocks[first], _Entered)

    def states(self, run: Callable[[], Any]) -> Tensor:
        """What enters the first trained block in a pass, shape (examples, length, width).

        Args:
            run: begins a pass, which is broken off.
        """
        self.replace(None)
        self._entered.asked = True
        try:
            run()
        except _EnteredError as reached:
            return reached.states
        finally:
            self._entered.asked = False
        raise ConfigError("cache_frozen_layers: the trained block was not reached")

    def replace(self, states: Tensor | None) -> None:
        """Let the next passes, forward and backward, begin with these states; None: in full."""
        for block in self._skipped:
            block.skipped = states is not None
        self._entered.states = states


class _EnteredError(Exception):
    """Breaks off a pass; it holds what entered the block."""

    def __init__(self, states: Tensor) -> None:
        super().__init__("reached")
        self.states = states


class _Skippable(nn.Module):
    """A block that may hand on what it reads."""

    skipped: bool = False

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.skipped:
            return hidden_states
        return super().forward(hidden_states, *args, **kwargs)


class _Entered(nn.Module):
    """A block that may begin with given states instead of what it reads."""

    states: Tensor | None = None
    asked: bool = False

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.asked:
            raise _EnteredError(hidden_states.detach())
        given = hidden_states if self.states is None else self.states
        return super().forward(given, *args, **kwargs)


def _blocks(model: nn.Module) -> list[nn.Module]:
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


def _require_no_dropout(model: nn.Module, trained: list[nn.Module]) -> None:
    inside = {id(module) for block in trained for module in block.modules()}
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.modules.dropout._DropoutNd)
            and module.p
            and id(module) not in inside
        ):
            raise ConfigError(
                f"cache_frozen_layers keeps what frozen layers compute, and {name!r} is dropout, "
                "which computes something else in every step; leave one of them out"
            )


def _under(block: nn.Module, kind: type[nn.Module]) -> Any:
    if isinstance(block, kind):
        return cast(Any, block)
    block.__class__ = type(f"{kind.__name__}{type(block).__name__}", (kind, type(block)), {})
    return cast(Any, block)
