"""Checkpoints of the federation: written whole or not at all; randomness is never in them.

A checkpoint is one safetensors file with the global adapter and, as metadata, the round, the
public settings and the anchor (length and head digest) of every client's ledger. It is written
beside its final name, flushed to the disk and renamed, so a kill leaves the old or the new file.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from privfed.errors import RunFolderError
from privfed.storage.durable import replace_durably, writing

SCHEMA = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The federation after a complete round.

    Attributes:
        round: last complete round; 0 before the first.
        state: the global adapter, shape (params,).
        average: of the adapters of past rounds, shape (params,); None where none is kept.
        record: JSON values: settings, noise multipliers, figures of past rounds, ledger anchors.
    """

    round: int
    state: NDArray[np.float32]
    record: dict[str, Any]
    average: NDArray[np.float32] | None = None

    @property
    def released(self) -> NDArray[np.float32]:
        """What the run leaves if it ends here, shape (params,)."""
        return self.state if self.average is None else self.average


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
    tensors = {"state": checkpoint.state}
    if checkpoint.average is not None:
        tensors["average"] = checkpoint.average
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, half_made, metadata=metadata)
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
            state = file.get_tensor("state")
            average = file.get_tensor("average") if "average" in file.keys() else None  # noqa: SIM118
        record = json.loads(metadata["record"])
        schema, round_number = int(metadata["schema"]), int(metadata["round"])
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
    return Checkpoint(round=round_number, state=state, average=average, record=record)
