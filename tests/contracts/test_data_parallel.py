"""A step shared by several processes releases what it releases in one."""

import pickle
from dataclasses import replace

import pytest
import torch

from privfed import Classification, LoRA
from privfed.errors import ConfigError, GateError, ModelError, PrivfedError
from privfed.models.start_file import start_bytes
from privfed.models.vector import base_digest, read_vector, write_vector
from privfed.private_step import building, data_parallel
from privfed.private_step.batches import rows
from privfed.private_step.building import Blueprint
from privfed.private_step.clipping import AdaptiveBound
from privfed.private_step.data_parallel import Share, model_digest
from privfed.private_step.dpsgd import private_optimizer, private_step, train_round
from privfed.private_step.randomness import SecureNoise
from privfed.private_step.replica import NoNoise, clipped_sum
from privfed.settings.computation import Computation, Precision
from privfed.settings.privacy import FlatClipping, PerLayerClipping, QuantileClipping
from tests.contracts.private_steps import LABELS, LENGTH, Silence, config, made_up, stream

RECORDS = 11


class Unlike(Classification):
    """A task that builds another model every time."""

    def build(self):
        model = super().build()
        with torch.no_grad():
            next(model.parameters()).add_(torch.rand(()))
        return model


class Dropping(Classification):
    """A task of somebody's own, whose base model drops out."""

    def build(self):
        model = super().build()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        return model


class Mixing(Classification):
    """A task in whose losses records have a part in each other's."""

    def losses(self, model, batch):
        found = super().losses(model, batch)
        return found + found.mean()


def blueprint(folder, **changes):
    task = changes.pop("task", Classification)
    plan = Blueprint(
        task=task(base=folder, labels=LABELS, max_length=LENGTH),
        adapter=LoRA(rank=2, target_modules=("query", "value")),
        freezes_a=False,
        computation=Computation(processes=3),
        examples_per_record=1,
        physical_batch_size=4,
        stacked_clients=1,
        seed=5,
        device="cpu",
    )
    return replace(plan, **changes)


@pytest.fixture(scope="module")
def shared(bert_folder):
    """A model in three processes."""
    model = blueprint(bert_folder).build()
    yield model
    model.replicas.close()


@pytest.fixture(scope="module")
def alone(bert_folder):
    """The same model in one."""
    return blueprint(bert_folder, computation=Computation()).build()


def step(model, drawn, settings, bound=None, noise=None, names=None):
    """The noised mean of one step at the initial values."""
    before, released = read_vector(model.adapter), []
    with model.training_only(model.layout.mask(names or model.layout.names)):
        optimizer = private_optimizer(model, settings, noise or Silence(), bound)
        optimizer.attach_step_hook(
            lambda taken: released.append(torch.cat([p.grad.flatten() for p in taken.params]))
        )
        encoded = made_up(model, RECORDS)
        drawn = torch.tensor(drawn, dtype=torch.long)
        private_step(model, optimizer, encoded, drawn, settings.physical_batch_size)
    write_vector(model.adapter, before)
    (only,) = released
    return only


@pytest.mark.parametrize(
    "clipping", [FlatClipping(), PerLayerClipping(), QuantileClipping(count_noise=4.0)]
)
@pytest.mark.parametrize("drawn", [range(RECORDS), [7, 2], [4], []])
def test_the_sum_is_that_of_one_process(shared, alone, clipping, drawn):
    """C is small, so that every record is clipped; some processes get no record."""
    settings = config(
        clipping_norm=0.02, clipping=clipping, noise_multiplier=3.0, physical_batch_size=3
    )
    bounds = [AdaptiveBound(initial=0.02, current=0.015) for _ in range(2)]
    one = step(alone, drawn, settings, bounds[0])
    three = step(shared, drawn, settings, bounds[1])
    assert torch.allclose(one, three, rtol=1e-4, atol=1e-8)
    assert bool(one.any()) == bool(len(drawn))
    assert bounds[0] == bounds[1]


def test_a_part_of_the_adapter_alone(shared, alone):
    """What stands still has neither a gradient nor a part in the norm to which others are cut."""
    names = [name for name in alone.layout.names if ".lora_A." not in name]
    settings = config(clipping_norm=0.02)
    one, three = (step(model, range(RECORDS), settings, names=names) for model in (alone, shared))
    assert len(one) == alone.layout.mask(names).sum() < alone.layout.length
    assert torch.allclose(one, three, rtol=1e-4, atol=1e-8)
    assert one.norm() > 0.01


def test_noise_is_drawn_once(shared):
    """On an empty draw the released mean is the noise of one stream, to the bit."""
    settings = config(noise_multiplier=2.0, clipping_norm=0.5, expected_batch_size=7)
    released = step(shared, [], settings, noise=SecureNoise(stream(3)))
    expected = 2.0 * 0.5 * SecureNoise(stream(3)).normal(len(released), released.device)
    assert torch.equal(released, expected.float() / 7)


def test_a_round_ends_at_the_same_adapter(shared, alone):
    ends = []
    for model in (alone, shared):
        before = read_vector(model.adapter)
        settings = config(steps=3, learning_rate=0.5, expected_batch_size=5)
        streams = {"sampling": stream(1), "noise": SecureNoise(stream(2))}
        train_round(model, made_up(model, RECORDS), settings, **streams)
        ends.append(read_vector(model.adapter))
        write_vector(model.adapter, before)
    assert abs(ends[0] - before).max() > 0.01
    assert abs(ends[0] - ends[1]).max() < 1e-5


def test_what_a_failed_step_left_is_in_no_later_one(shared, alone, monkeypatch):
    """The process of the client fails after it dealt out records: their sums are never added."""

    def fails(*_):
        raise RuntimeError("out of memory")

    settings = config(clipping_norm=0.02)
    with monkeypatch.context() as patched:
        patched.setattr(shared, "per_example_gradients", fails)
        with pytest.raises(RuntimeError):
            step(shared, range(RECORDS), settings)
    shared.forget()
    again, expected = (step(model, [1, 5, 8, 9], settings) for model in (shared, alone))
    assert torch.allclose(again, expected, rtol=1e-4, atol=1e-8)


def test_what_was_interrupted_is_in_no_later_step(shared, alone, monkeypatch):
    """As in a notebook: while it waits for sums, where no process starts, while others build."""

    def stopped(*_):
        raise KeyboardInterrupt

    def only_one(*given):
        if started:
            raise OSError("no memory for a process")
        started.append(genuine(*given))
        return started[0]

    settings, genuine, started = config(clipping_norm=0.02), data_parallel._Process, []
    last = shared.replicas._running[1]
    last.receive = stopped
    with pytest.raises(KeyboardInterrupt):
        step(shared, range(RECORDS), settings)
    del last.receive
    with monkeypatch.context() as patched:
        patched.setattr(data_parallel, "_Process", only_one)
        with pytest.raises(OSError, match="no memory"):
            step(shared, range(RECORDS), settings)
    assert shared.replicas._running == [], "half of them would be asked"
    with monkeypatch.context() as patched:
        patched.setattr(genuine, "receive", stopped)
        with pytest.raises(KeyboardInterrupt):
            step(shared, range(RECORDS), settings)
    shared.forget()
    again, expected = (step(model, [1, 5, 8, 9], settings) for model in (shared, alone))
    assert torch.allclose(again, expected, rtol=1e-4, atol=1e-8)


def test_a_process_that_dies_is_told_and_started_again(shared, alone):
    settings = config(clipping_norm=0.02)
    shared.replicas._running[1]._process.kill()
    with pytest.raises(PrivfedError, match="ended.*the next round starts it again"):
        step(shared, range(RECORDS), settings)
    shared.forget()
    again, expected = (step(model, range(RECORDS), settings) for model in (shared, alone))
    assert torch.allclose(again, expected, rtol=1e-4, atol=1e-8)


def test_what_a_replica_says_is_no_part_of_the_message(shared):
    """The trace may quote text; it stands in a note, which goes to the client's own log."""
    encoded = {**made_up(shared, RECORDS), "labels": torch.full((RECORDS,), 77)}
    settings = config()
    own = shared.replicas.deal(shared, encoded, torch.arange(RECORDS), settings)
    assert own.tolist() == [0, 3, 6, 9]
    with pytest.raises(PrivfedError) as caught:
        list(shared.replicas.sums())
    assert "77" not in str(caught.value)
    assert "Target 77" in "".join(caught.value.__notes__)


def test_another_model_is_refused_and_its_process_ended(bert_folder, monkeypatch):
    started, genuine = [], data_parallel._Process

    def noted(*given):
        started.append(genuine(*given))
        return started[-1]

    monkeypatch.setattr(data_parallel, "_Process", noted)
    plan = blueprint(bert_folder, task=Unlike, computation=Computation(processes=2))
    with pytest.raises(ModelError, match="built another model") as refused:
        plan.build()
    (only,) = started
    assert only._process.poll() is not None, refused


def test_what_two_processes_compare_is_the_base_and_all_that_was_added(alone, monkeypatch):
    before, values = model_digest(alone), read_vector(alone.adapter)
    write_vector(alone.adapter, values + 1)
    moved = model_digest(alone)
    write_vector(alone.adapter, values)
    assert model_digest(alone) == before
    monkeypatch.setattr(alone, "base_sha256", "ab" * 32)
    assert len({before, moved, model_digest(alone)}) == 3


class TestAReplica:
    @pytest.fixture
    def share(self, alone):
        records = rows(made_up(alone, RECORDS), torch.tensor([3, 8]))
        return Share(
            adapter=read_vector(alone.adapter),
            moving=alone.moving,
            records=records,
            config=config(),
        )

    def test_draws_no_noise(self):
        with pytest.raises(PrivfedError, match="must not draw noise"):
            NoNoise().normal(3, torch.device("cpu"))

    def test_keeps_nothing_of_a_step(self, alone, share):
        """No gradient of a record lies there until the next one."""
        assert clipped_sum(alone, share).total.any()
        for name, parameter in alone.parameters():
            left = (parameter.grad, parameter.grad_sample, parameter.summed_grad)
            assert left == (None, None, None), name

    def test_nor_of_one_that_failed(self, alone, share, monkeypatch):
        genuine = alone.per_example_gradients

        def fails(*given):
            genuine(*given)
            raise RuntimeError("out of memory")

        monkeypatch.setattr(alone, "per_example_gradients", fails)
        with pytest.raises(RuntimeError):
            clipped_sum(alone, share)
        assert all(parameter.grad_sample is None for _, parameter in alone.parameters())

    def test_computes_at_the_parameters_that_it_is_given(self, alone, share):
        before = read_vector(alone.adapter)
        one = clipped_sum(alone, share).total
        other = clipped_sum(alone, replace(share, adapter=share.adapter + 0.5)).total
        write_vector(alone.adapter, before)
        assert not torch.allclose(one, other)


def test_threads_are_left_to_replicas_while_a_round_lasts(shared):
    """Also where it fails."""

    def fails():
        with shared.replicas.threads():
            within.append(torch.get_num_threads())
            raise RuntimeError("out of memory")

    before, within = torch.get_num_threads(), []
    try:
        torch.set_num_threads(5)
        with pytest.raises(RuntimeError):
            fails()
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)
    assert within == [shared.replicas._threads] != [5]


class TestOneProcess:
    """What is built, in however many."""

    def built(self, folder, **changes):
        return blueprint(folder, computation=Computation(), **changes).build()

    @pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
    def test_passes_the_gate(self, bert_folder, precision):
        plan = blueprint(bert_folder, task=Mixing, computation=Computation(precision=precision))
        with pytest.raises(GateError, match="record"):
            plan.build()

    def test_starts_at_the_values_of_a_file(self, bert_folder, alone, tmp_path):
        other = self.built(bert_folder, seed=6)
        path = tmp_path / "start.safetensors"
        path.write_bytes(start_bytes(other.adapter, other.added))
        found = self.built(bert_folder, start=path)
        assert model_digest(found) == model_digest(other) != model_digest(alone)

    def test_names_the_base_model_without_its_adapter(self, bert_folder, alone):
        assert alone.base_sha256 == base_digest(alone.task.build())

    def test_trains_b_alone_where_the_method_says_so(self, bert_folder):
        found = self.built(bert_folder, freezes_a=True)
        names = [name for name, _ in found.parameters()]
        assert any("lora_B" in name for name in names)
        assert not any("lora_A" in name for name in names)

    def test_drops_nothing_out(self, bert_folder):
        found = self.built(bert_folder, task=Dropping)
        rates = [one.p for one in found.adapter.modules() if isinstance(one, torch.nn.Dropout)]
        assert rates
        assert not any(rates)


def test_a_replica_sees_one_device_and_builds_alone(bert_folder, monkeypatch):
    """To it the second device of the machine is the first."""
    given = []

    def replicas(*arguments):
        given.extend(arguments)
        raise ModelError("none here")

    monkeypatch.setattr(building, "choose_device", torch.device)
    monkeypatch.setattr(building, "Replicas", replicas)
    plan = blueprint(bert_folder, device="cuda:1", freezes_a=True, seed=8)
    with pytest.raises(ModelError, match="none here"):
        plan.build()
    build, processes, device = given
    assert (processes, device) == (3, torch.device("cuda:1"))
    assert build.__self__ == replace(plan, device="cuda", computation=Computation())


def test_a_model_that_cannot_be_built_elsewhere_is_refused(bert_folder):
    class Local(Classification):
        pass

    with pytest.raises(ConfigError, match="another process can import"):
        blueprint(bert_folder, task=Local).build()


def test_of_a_message_nothing_is_shared_memory():
    """A pickled tensor holds its numbers; torch's own pickler for processes would name a file."""
    assert b"\x00\x00\x28\x42" in pickle.dumps(torch.full((3,), 42.0))


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_without_cuda_devices(bert_folder, monkeypatch):
    """Each replica takes the device after that of the client."""
    from privfed.private_step.data_parallel import _environments

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,2,GPU-7f,3")
    found = [one["CUDA_VISIBLE_DEVICES"] for one in _environments(3, torch.device("cuda:1"))]
    assert found == ["GPU-7f", "3"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    found = [one["CUDA_VISIBLE_DEVICES"] for one in _environments(3, torch.device("cuda"))]
    assert found == ["1", "2"]
    with pytest.raises(ConfigError, match="needs as many CUDA devices, from cuda:2 on.*sees 4"):
        _environments(3, torch.device("cuda:2"))
