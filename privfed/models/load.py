"""Loading a frozen base model and its tokenizer, and refusing one that cannot be trusted."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoTokenizer, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils import is_bitsandbytes_available
from transformers.utils import logging as transformers_logging

from privfed.errors import ConfigError, ModelError
from privfed.models.base_modes import switch_off_dropout
from privfed.models.loading_errors import explained
from privfed.models.loading_report import require_loaded_as_saved
from privfed.settings.computation import BaseWeights


def choose_device(device: str | None = None) -> torch.device:
    """The device to train on: as named, else CUDA where there is one, else the CPU.

    Raises:
        ConfigError: if the named device is not there.
    """
    if device is not None:
        return _named_device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _named_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {name!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"the device {name!r} is not there: PyTorch sees {torch.cuda.device_count()} CUDA "
            "device(s); leave device out to use what there is"
        )
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"the device {name!r} cannot be used: {str(error).splitlines()[0]}"
        ) from error
    return device


def load_pretrained(loader: Callable[..., Any], base: str, weights: BaseWeights) -> nn.Module:
    """Load a model through transformers as it was saved, with dropout off and finite weights.

    Args:
        loader: a `from_pretrained` of transformers.
        base: Hugging Face model name or folder.
        weights: how they are held.

    Raises:
        ConfigError: if bitsandbytes is needed and not installed.
        ModelError: unknown model, files that cannot be read, a weight that is missing, left out or
            not finite (named), or nothing in 4 bits.
    """
    model = _loaded_as_saved(loader, base, base, **_loading_options(weights))
    if weights is BaseWeights.NF4 and not any(
        hasattr(parameter, "quant_state") for parameter in model.parameters()
    ):
        raise ModelError(
            f"no layer of {base!r} can be held in 4 bits by bitsandbytes; take 'bfloat16'"
        )
    require_finite(model)
    switch_off_dropout(model)
    return model


def _loaded_as_saved(
    loader: Callable[..., Any], place: str | Path, base: str, **options: Any
) -> nn.Module:
    """Run a `from_pretrained` and check what it says about the weights."""
    try:
        with _quiet():
            model, report = loader(
                place, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except Exception as error:
        raise ModelError(
            f"the base model {base!r} cannot be loaded; it must be a folder with a model, or a "
            f"name that the model hub (or its cache) knows: {explained(base, error)}"
        ) from error
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError(
            f"the folder {base!r} holds an adapter on top of another model (adapter_config.json); "
            "merge it (merge_and_unload) and save the result, or name the base model itself"
        )
    require_loaded_as_saved(base, model, report)
    loaded: nn.Module = model
    return loaded


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the table that transformers prints of what `require_loaded_as_saved` judges."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _loading_options(weights: BaseWeights) -> dict[str, Any]:
    if weights is not BaseWeights.NF4:
        return {"dtype": getattr(torch, weights.value)}
    if not is_bitsandbytes_available():
        raise ConfigError(
            "weights 'nf4' needs bitsandbytes: pip install 'privfed[quantized]', or take 'bfloat16'"
        )
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    place = choose_device()  # quantised where it will run; moved by the caller if elsewhere
    return {"quantization_config": quantised, "dtype": torch.bfloat16, "device_map": {"": place}}


def require_fits(model: nn.Module, tokenizer: Any, max_length: int) -> None:
    """Refuse a tokenizer or a length that reaches beyond the tables of the model.

    On private text it would fail only at the record that does, in the middle of a round.
    """
    held: Any = model
    known = held.get_input_embeddings().num_embeddings
    special = set(tokenizer.all_special_ids)  # some models never embed those of images
    beyond = [n for n in tokenizer.get_vocab().values() if n >= known and n not in special]
    if beyond:
        raise ModelError(
            f"the tokenizer knows tokens up to number {max(beyond)}, but the base model embeds "
            f"{known}; they do not belong together"
        )
    positions = getattr(held.config, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise ConfigError(
            f"max_length must be at most {positions}, the positions of the base model, got "
            f"{max_length}"
        )


def require_causal(model: nn.Module) -> None:
    """Refuse a model that sees later tokens: it would read what it is to predict."""
    device = next(model.parameters()).device
    tokens = torch.tensor([[1, 2, 3, 1], [1, 2, 3, 2]], device=device)
    with torch.no_grad():
        logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits.float()
    difference = float((logits[0, :-1] - logits[1, :-1]).abs().max())
    if not difference <= 1e-3 * float(logits.abs().max()):
        raise ModelError(
            "the base model sees later tokens, which it is to predict; take a causal language "
            "model, or train this one as a classifier"
        )


def load_tokenizer(base: str) -> Any:
    """The tokenizer of a base model; padding is added where the vocabulary has none.

    Raises:
        ModelError: if it cannot be read, or has no token to fill up with.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
    except Exception as error:
        raise ModelError(
            f"{base!r} has no tokenizer that can be loaded: {explained(base, error)}"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ModelError(
            f"the tokenizer of {base!r} must have a padding or an end token, it has neither; set "
            "pad_token and save it"
        )
    tokenizer.padding_side = "right"
    return tokenizer


def require_finite(model: nn.Module) -> None:
    """Refuse a model with NaN or infinity in a weight, naming the weight."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise ModelError(
                f"the weight {name!r} of the base model holds NaN or infinity; "
                "load an intact copy of the model"
            )


def convert_gguf_llama(gguf: Path, name: str) -> str:
    """Convert a Llama-type GGUF file to safetensors, once, and return the folder.

    transformers reads GGUF (dequantising it) but refuses to save what it read, so the weights
    move to a model built from the configuration without its quantisation entry.

    Args:
        gguf: the file.
        name: name of the folder below the user's cache folder.

    Raises:
        ModelError: if it cannot be read, does not hold all weights, or cannot be written.
    """
    target = cache_folder() / name
    if (target / "model.safetensors").is_file():
        return str(target)
    loader = partial(LlamaForCausalLM.from_pretrained, gguf_file=gguf.name, dtype=torch.float32)
    read: Any = _loaded_as_saved(loader, gguf.parent, str(gguf))
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    clean = LlamaForCausalLM(LlamaConfig(**settings))
    clean.load_state_dict(read.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as half_made:
            whole = Path(half_made) / "model"
            clean.to(torch.bfloat16).save_pretrained(whole)
            tokenizer.save_pretrained(whole)
            if target.exists():
                shutil.rmtree(target)
            os.replace(whole, target)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the converted model cannot be written to {target}: {' '.join(str(error).split())}; "
            "make room there, or name another cache folder (XDG_CACHE_HOME)"
        ) from error
    return str(target)


def cache_folder() -> Path:
    """Where converted models are kept: $XDG_CACHE_HOME/privfed or ~/.cache/privfed."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "privfed"
