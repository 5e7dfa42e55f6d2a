"""Checkpoints of the federation: written whole or not at all; randomness is never in them.

A checkpoint is one safetensors file with the global state and, as metadata, the round, the
public settings and the anchor (length and head digest) of every client's ledger. It is written
beside its final name, flushed to the disk and renamed, so a kill leaves the old or the new file.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from privfed.errors import RunFolderError
from privfed.storage.durable import replace_durably, writing

SCHEMA = 5
ADAPTER: Final = "adapter"
"""Name of the one array that every checkpoint has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The federation after a complete round.

    Attributes:
        round: last complete round; 0 before the first.
        tensors: of the global state, by name; `ADAPTER` has shape (params,).
        record: JSON values: settings, noise multipliers, numbers of past rounds, ledger anchors.
    """

    round: int
    tensors: Mapping[str, NDArray[Any]]
    record: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint durably, then drop all later ones, and all but the last two.

    Raises:
        FileError: if it cannot be written; those before it are still there.
    """
    final = folder / f"round-{checkpoint.round:05d}.safetensors"
    half_made = final.with_suffix(".part")
    metadata = {
        "schema": str(SCHEMA),
        "round": str(checkpoint.round),
        "record": json.dumps(checkpoint.record, allow_nan=False),
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(checkpoint.tensors), half_made, metadata=metadata)
        replace_durably(half_made, final)
        kept = sorted(folder.glob("round-*.safetensors"))
        here = kept.index(final)
        for other in [*kept[: max(0, here - 1)], *kept[here + 1 :]]:
            other.unlink()


def load_latest(folder: Path, back: int = 0) -> Checkpoint | None:
    """The newest checkpoint, or None where there is none.

    Args:
        folder: with checkpoints.
        back: how many to go back from the newest one.

    Raises:
        RunFolderError: if it cannot be read.
    """
    paths = sorted(folder.glob("round-*.safetensors"))
    if len(paths) <= back:
        return None
    path = paths[-1 - back]
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        schema, round_number = int(metadata["schema"]), int(metadata["round"])
        record = json.loads(metadata["record"])
        if schema == SCHEMA:
            _ = tensors[ADAPTER]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}); remove it to "
            "go on from the one before, or start a new run"
        ) from error
    if schema != SCHEMA:
        raise RunFolderError(
            f"checkpoint schema must be {SCHEMA}, got {schema}; resume the run with the privfed "
            "that began it"
        )
    return Checkpoint(round=round_number, tensors=tensors, record=record)
