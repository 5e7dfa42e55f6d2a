"""A client's own model at the end of a run, and what it comes to on the client's own text.

Neither leaves the client: they lie in its own folder, beside its ledger. Where a method keeps
nothing for a client alone, its own model is the shared one, and only the figures are new.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privfed.errors import DataError
from privfed.methods.method import GlobalState, vector_digest
from privfed.models.tasks import Batch
from privfed.models.vector import write_vector
from privfed.parties.client.client import Client
from privfed.parties.client.node import ClientNode
from privfed.private_step.evaluation import held_out_metric, require_readable
from privfed.private_step.private_model import PrivateModel
from privfed.reports.adapter_folder import save_adapter
from privfed.reports.budget import BudgetReport
from privfed.settings.training import TrainingConfig
from privfed.storage.own_log import told_in
from privfed.storage.run_folder import RunFolder
from privfed.storage.state_folder import local_logger, log_path, make_private_folder

_FIGURES: Final = "figures.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnModel:
    """What a client has of a run for itself.

    Attributes:
        folder: with `adapter/`, which `load_adapter` reads, and the figures.
        values: of the client's own adapter, shape (params,).
        metric: of it on the client's own held-out text; None if there is none, or no finite one.
        shared_metric: of the adapter that the run leaves to all, on the same text.
    """

    folder: Path
    values: NDArray[np.float32] = field(repr=False)
    metric: float | None
    shared_metric: float | None


def own_texts_of(
    clients: Sequence[Client],
    models: Mapping[str, PrivateModel],
    training: TrainingConfig,
    state: Path,
) -> dict[str, Batch]:
    """The held-out records of clients that have some of their own, as tensors, tried.

    Raises:
        DataError: naming the client and its log, and nothing that depends on a record.
    """
    found: dict[str, Batch] = {}
    for client in (client for client in clients if client.own_held_out):
        log, model = local_logger(state, client.id, client.dataset), models[client.id]
        with told_in([log], "own_held_out cannot be used"):
            encoded = model.task.collate(model.task.tokenizer(), client.own_held_out)
            require_readable(model, encoded)
            size = training.physical_batch_size
            ready = model.with_frozen_states(encoded, size, held_out=True)
            held_out_metric(model, ready, size)
            found[client.id] = ready
        if client.id not in found:
            raise DataError(
                f"own_held_out of client {client.id!r} cannot be used; the cause is in its own "
                f"log, {log_path(state, client.id, client.dataset)}"
            )
    return found


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
    make_private_folder(place.path.parent)
    make_private_folder(place.path)
    write_vector(node.model.adapter, own)
    save_adapter(place, node.model, replace(report, adapter_sha256=vector_digest(own)))
    figures = {"on": "the client's own held-out text; for its own eyes"}
    metrics = {"metric": found.metric, "shared_metric": found.shared_metric}
    place.write_json(_FIGURES, {**figures, **metrics})
    return found


def _metric(node: ClientNode, adapter: NDArray[np.float32]) -> float | None:
    if node.own_text is None:
        return None
    write_vector(node.model.adapter, adapter)
    value = held_out_metric(node.model, node.own_text, node.config.physical_batch_size)
    return value if math.isfinite(value) else None
