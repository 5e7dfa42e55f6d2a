"""What an adapter folder says of the task that it was trained for."""

import json
from pathlib import Path
from typing import Final

from privfed.errors import ModelError
from privfed.models.classification import Classification
from privfed.models.tasks import CausalLanguageModel, Task
from privfed.settings.computation import BaseWeights

BASE_DIGEST: Final = "base_sha256"
"""Key of an adapter's description that names the weights it was trained on: `base_digest`."""

OTHER_BASES: Final = "other_bases"
"""Key under which it names, by client, the weights of further base models that it goes with."""

OF_THE_RUN: Final = ("run", "rounds_over", "adapter_sha256", "files")
"""Keys of an adapter's description that say which run wrote it, and when."""


def description_path(adapter: str | Path) -> Path:
    """The file in an adapter folder that says what was trained."""
    return Path(adapter) / "privfed.json"


def load_task(adapter: str | Path) -> Task:
    """The task that an adapter folder of a finished run was trained for.

    Its base model is not compared with the one that was trained on; `load_adapter` does that.

    Raises:
        ModelError: if the folder was not written by a run.
    """
    path = description_path(adapter)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values.pop("loss", None)  # of training; the model and its numbers do not need it
        for name in (BASE_DIGEST, OTHER_BASES, *OF_THE_RUN):
            values.pop(name, None)
        kind = {"classification": Classification, "causal-lm": CausalLanguageModel}[
            values.pop("task")
        ]
        for name in ("labels", "label_texts", "anchor_texts"):
            if name in values:
                values[name] = tuple(values[name])
        values["weights"] = BaseWeights(values.get("weights", BaseWeights.FLOAT32))
        task: Task = kind(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} names no task that can be loaded: {error}") from error
    return task
