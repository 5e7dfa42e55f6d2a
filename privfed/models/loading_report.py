"""Whether a base model holds the weights that were saved.

transformers draws what it does not find in a file at random, leaves out what has no place in the
model, and goes on. Training would spend a whole budget on a base that nobody chose.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from torch import nn

from privfed.errors import ModelError

_NEVER_READ: Final = "pooler"
"""Part of a name: what pools states for a sentence, which no task here reads."""
_CAUSAL_MASKS: Final = (".attn.bias", ".masked_bias", ".causal_mask")
"""Ends of names: constants in old files of GPT-2 and its relatives, which have no such weights."""
_NAMED: Final = 3


def require_loaded_as_saved(base: str, model: nn.Module, report: Mapping[str, Any]) -> None:
    """Refuse a base model of which a weight is missing, of another shape, or left out.

    A head of the file that this model does not have is fine: it lies beside what the two share.

    Args:
        base: name or folder, for the message.
        model: as loaded.
        report: what transformers returns for `output_loading_info`.

    Raises:
        ModelError: with the names of the first weights of each kind, and how many there are.
    """
    missing = _read(report["missing_keys"])
    reshaped = _read(name for name, *_ in report["mismatched_keys"])
    without_place = [key for key in _read(report["unexpected_keys"]) if _inside(model, key)]
    found = {
        "are not in its files and would be random": missing,
        "have another shape in its files and would be random": reshaped,
        "of its files have no place in the model that its config.json describes": without_place,
    }
    said = [f"{len(names)} {what} ({_first(names)})" for what, names in found.items() if names]
    if said:
        raise ModelError(
            f"the base model {base!r} was not loaded as it was saved. Of its weights, "
            f"{'; '.join(said)}. {_advice(missing, report['unexpected_keys'])}"
        )


def _read(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if _NEVER_READ not in name.split("."))


def _first(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _NAMED else ""
    return ", ".join(repr(name) for name in names[:_NAMED]) + more


def _inside(model: nn.Module, key: str) -> bool:
    """Whether a weight of the file belongs into a part that the model has.

    Files of a model with a head name its body by a prefix; those of the body alone do not. Old
    files hold constants, too, that the model computes by itself.
    """
    prefix = str(getattr(model, "base_model_prefix", ""))
    body = getattr(model, prefix, model)
    names = (key, key.removeprefix(f"{prefix}."))
    parts = {name for holder in (model, body) for name, _ in holder.named_children()}
    computed = {name for holder in (model, body) for name, _ in holder.named_buffers()}
    constant = key.endswith(_CAUSAL_MASKS) or not computed.isdisjoint(names)
    return any(name.partition(".")[0] in parts for name in names) and not constant


def _advice(missing: Sequence[str], unexpected: Iterable[str]) -> str:
    for name in unexpected:
        whole = next((known for known in missing if name.endswith(f".{known}")), None)
        if whole is not None:
            return (
                f"Names in its files begin with {name.removesuffix(whole)!r}, as those of a "
                "wrapped model do: save the model inside the wrapper (save_pretrained)"
            )
    return "Take files and a config.json that belong together, from the same save_pretrained"
