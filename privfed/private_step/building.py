"""From settings to a model that can be trained privately, in one process or in several."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from privfed.models.adapters import Adapter, freeze_orthonormal_a
from privfed.models.base_modes import switch_off_dropout
from privfed.models.load import choose_device
from privfed.models.start_file import load_start, names_added
from privfed.models.tasks import Task
from privfed.models.vector import base_digest, saved_tensors
from privfed.private_step.data_parallel import Replicas
from privfed.private_step.gate import check_per_example_gradients
from privfed.private_step.private_model import PrivateModel
from privfed.settings.computation import Computation, Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """What a model is built from; the same in every process that holds it.

    Attributes:
        task: builds the base model.
        adapter: is attached to it.
        freezes_a: whether factor A of LoRA is orthonormal, public and never trained.
        computation: how it is computed.
        examples_per_record: that a record is read in.
        physical_batch_size: records per forward pass.
        stacked_clients: that are trained in one pass.
        seed: public, of initial values.
        device: named; None takes CUDA where there is one.
        start: file with the initial values; None draws them from the seed.
    """

    task: Task
    adapter: Adapter
    freezes_a: bool
    computation: Computation
    examples_per_record: int
    physical_batch_size: int
    stacked_clients: int
    seed: int
    device: str | None
    start: Path | None = None

    def build(self) -> PrivateModel:
        """The base model with its adapter, passed through the gate; initial values are public.

        Low precision hides small errors, so the gate sees such a model in full precision first.

        Raises:
            PrivfedError: if it cannot be built, or has no exact per-example gradients; with several
                processes, if one of them holds another model.
        """
        if self.computation.processes == 1:
            return self._build()
        alone = replace(self, computation=replace(self.computation, processes=1))
        device = choose_device(self.device)
        there = replace(alone, device=device.type)  # a replica sees one CUDA device, its own
        replicas = Replicas(there.build, self.computation.processes, device)
        model = alone.build()
        replicas.require_equal(model)
        model.replicas = replicas
        return model

    def _build(self) -> PrivateModel:
        task, computation, device = self.task, self.computation, choose_device(self.device)
        check = partial(
            check_per_example_gradients,
            seed=self.seed,
            examples_per_record=self.examples_per_record,
            physical_batch_size=self.physical_batch_size,
            stacked_clients=self.stacked_clients,
        )
        base = task.build()
        switch_off_dropout(base)  # also where a task of somebody's own builds it
        digest, before = base_digest(base), {id(tensor) for _, tensor in saved_tensors(base)}
        model = self.adapter.attach(base, task.modules_to_save, self.seed)
        if self.freezes_a:
            freeze_orthonormal_a(model, self.seed)
        added = names_added(model, before)
        if self.start is None:
            task.initialise(model)
        else:
            load_start(self.start, model, added)
        if computation.precision is not Precision.FP32:
            full = replace(computation, precision=Precision.FP32)
            check(PrivateModel(model, task, device, full))
        private = PrivateModel(model, task, device, computation, base_sha256=digest, added=added)
        check(private)
        return private
