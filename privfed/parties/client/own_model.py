"""A client's own model at the end of a run, and what it comes to on the client's own text.

Neither leaves the client: they lie in its own folder, beside its ledger. Where a method keeps
nothing for a client alone, its own model is the shared one, and only the figures are new.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privfed.methods.method import GlobalState
from privfed.models.vector import write_vector
from privfed.parties.client.node import ClientNode
from privfed.private_step.evaluation import held_out_metric
from privfed.reports.adapter_folder import save_adapter
from privfed.reports.budget import BudgetReport
from privfed.storage.run_folder import RunFolder

_FIGURES: Final = "figures.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnModel:
    """What a client has of a run for itself.

    Attributes:
        folder: with `adapter/`, which `load_adapter` reads, and the figures.
        values: of the client's own adapter, shape (params,).
        metric: of it on the client's own held-out text; None if there is none.
        shared_metric: of the adapter that the run leaves to all, on the same text.
    """

    folder: Path
    values: NDArray[np.float32] = field(repr=False)
    metric: float | None
    shared_metric: float | None


def keep_own_model(
    node: ClientNode, run: str, state: GlobalState, report: BudgetReport, folder: Path
) -> OwnModel | None:
    """Write the client's own adapter, and what it and the shared one come to on its own text.

    Nothing is written where its own is the shared one and it has no text of its own.

    Args:
        node: the client.
        run: identifier.
        state: where the run has come to.
        report: of the run.
        folder: of the client, for its own eyes.

    Raises:
        FileError: if the folder cannot be written.
    """
    place, shared = RunFolder(folder / "own" / run), node.method.left(state)
    own = node.own_adapter(run, state)
    if node.own_text is None and np.array_equal(own, shared):
        return None
    found = OwnModel(
        folder=place.path,
        values=own,
        metric=_metric(node, own),
        shared_metric=_metric(node, shared),
    )
    place.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_vector(node.model.adapter, own)
    save_adapter(place, node.model, report)
    figures = {"on": "the client's own held-out text; for its own eyes"}
    metrics = {"metric": found.metric, "shared_metric": found.shared_metric}
    place.write_json(_FIGURES, {**figures, **metrics})
    return found


def _metric(node: ClientNode, adapter: NDArray[np.float32]) -> float | None:
    if node.own_text is None:
        return None
    write_vector(node.model.adapter, adapter)
    return held_out_metric(node.model, node.own_text, node.config.physical_batch_size)
