"""Clients trained in one pass are the clients trained one after the other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from privfed import CausalLanguageModel, Classification, Houlsby, LoRA, PeftAdapter
from privfed.errors import GateError
from privfed.methods.method import Start
from privfed.models.tasks import EXAMPLE_WEIGHT
from privfed.models.vector import read_vector, write_vector
from privfed.private_step.clipping import AdaptiveBound
from privfed.private_step.dpsgd import DPSGDConfig, train_round
from privfed.private_step.private_model import PrivateModel
from privfed.private_step.randomness import RandomStream, SecureNoise
from privfed.private_step.stacked import LocalRound, record_shapes, stacked_batches, train_stacked
from privfed.settings.computation import Checkpointing, Computation, GradientMethod, Precision
from privfed.settings.privacy import (
    AutomaticClipping,
    FlatClipping,
    PerLayerClipping,
    QuantileClipping,
)
from privfed.settings.training import SGD, AdamW

CPU = torch.device("cpu")
QV = LoRA(rank=2, target_modules=("query", "value"))
CLIPPINGS = [
    FlatClipping(),
    PerLayerClipping(),
    AutomaticClipping(),
    QuantileClipping(count_noise=2.0),
]


class Silence:
    """A stream whose normal numbers are zero."""

    def normal(self, count, device):
        return torch.zeros(count, dtype=torch.float64, device=device)


def bert_model(folder, computation=None, adapter=QV):
    task = Classification(base=folder, labels=("a", "b", "c"), max_length=24)
    return prepared(task, adapter, computation)


def prepared(task, adapter, computation=None):
    model = PrivateModel(
        adapter.attach(task.build(), task.modules_to_save, 0), task, CPU, computation
    )
    generator = np.random.default_rng(5)
    size = read_vector(model.adapter).size
    write_vector(model.adapter, (0.1 * generator.standard_normal(size)).astype(np.float32))
    return model


BERT = {
    "bert": QV,
    "bert-dora": LoRA(rank=2, target_modules=("query", "value"), alpha=6.0, dora=True),
    "bert-houlsby": Houlsby(bottleneck=3, target_modules=("output.dense",)),
}


@pytest.fixture(params=[*BERT, "llama", "llama-prefix", "gpt2", "gpt2-dora"])
def case(request, bert_folder, llama_folder, gpt2_folder):
    if request.param in BERT:
        return bert_model(bert_folder, adapter=BERT[request.param])
    if request.param.startswith("gpt2"):
        task = CausalLanguageModel(base=gpt2_folder, max_length=24)
        dora = request.param == "gpt2-dora"
        return prepared(task, LoRA(rank=2, target_modules=("c_attn",), dora=dora))
    task = CausalLanguageModel(base=llama_folder, max_length=24)
    if request.param == "llama-prefix":
        return prepared(task, PeftAdapter.prefix_tuning(3))
    return prepared(task, LoRA(rank=2, target_modules=("q_proj", "v_proj"), alpha=8.0))


@pytest.fixture
def bert(bert_folder):
    return bert_model(bert_folder)


def config(**changes):
    settings = {
        "noise_multiplier": 1.0,
        "sample_rate": 0.6,
        "clipping_norm": 0.5,
        "expected_batch_size": 3,
        "steps": 4,
        "learning_rate": 0.1,
        "physical_batch_size": 3,
    }
    return DPSGDConfig(**{**settings, **changes})


UNEQUAL = (
    {"sample_rate": 0.9, "clipping_norm": 0.2, "noise_multiplier": 0.7},
    {"sample_rate": 0.3, "expected_batch_size": 5, "steps": 2},
    {"sample_rate": 1.0, "clipping_norm": 1e-2, "noise_multiplier": 2.0},
    {"sample_rate": 1e-12, "learning_rate": 0.03},
)
"""Four clients with nothing in common; the last one draws nobody, ever."""

SIZES = (7, 5, 2, 4)


def encoded(model, client, size=None):
    size = SIZES[client] if size is None else size
    task = model.task
    return task.collate(task.tokenizer(), task.synthetic(size, 10 + client))


def stream(number):
    return RandomStream(bytes([number]) * 32, bytes(16))


def secret_noise(client):
    return SecureNoise(stream(100 + client))


def silent_noise(client):
    return Silence()


def joined(data, configs, noise=silent_noise):
    """Rounds of clients that draw from streams of their own; call it again to draw again."""
    return [
        LocalRound(
            encoded=own,
            config=settings,
            sampling=stream(1 + client),
            noise=noise(client),
            bound=AdaptiveBound.starting(settings.clipping_norm),
            start=None,
        )
        for client, (own, settings) in enumerate(zip(data, configs, strict=True))
    ]


def trained_from(model, rounds, state):
    """All of one state, all of which moves."""
    start = Start(adapter=state, moving=np.ones(len(state), dtype=bool))
    return train_stacked(model, [replace(one, start=start) for one in rounds])


def one_by_one(model, rounds):
    state = read_vector(model.adapter)
    trained = []
    for mine in rounds:
        write_vector(model.adapter, state)
        train_round(
            model,
            mine.encoded,
            mine.config,
            sampling=mine.sampling,
            noise=mine.noise,
            bound=mine.bound,
        )
        trained.append(read_vector(model.adapter))
    write_vector(model.adapter, state)
    return np.stack(trained)


def both(model, data, configs, noise=silent_noise):
    """Trained adapters, and the bounds where they end, of the two engines at equal streams."""
    alone, together = (joined(data, configs, noise) for _ in range(2))
    expected = one_by_one(model, alone)
    found = trained_from(model, together, read_vector(model.adapter))
    ends = [[mine.bound.current for mine in rounds] for rounds in (alone, together)]
    return expected, found, ends


def require_equal(expected, found, start, tolerance=1e-6):
    moved = np.abs(expected - start).max(axis=1)
    assert np.all(moved[: len(SIZES) - 1] > 1e-4), "a client that stands still shows nothing"
    assert np.abs(expected - found).max() <= tolerance


@pytest.mark.parametrize("noise", [silent_noise, secret_noise])
def test_every_client_moves_as_it_would_alone(case, noise):
    """Sizes, rates, bounds, divisors, steps and learning rates differ; nothing is shared."""
    data = [encoded(case, client) for client in range(4)]
    configs = [config(**changes) for changes in UNEQUAL]
    start = read_vector(case.adapter)
    expected, found, _ = both(case, data, configs, noise)
    require_equal(expected, found, start)
    assert np.array_equal(read_vector(case.adapter), start), "the model is shared and stays"


@pytest.mark.parametrize("clipping", CLIPPINGS, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize(
    "optimizer", [SGD(momentum=0.9), AdamW(weight_decay=0.1, epsilon=1e-3)], ids=["sgd", "adamw"]
)
@pytest.mark.parametrize("noise", [silent_noise, secret_noise])
def test_every_rule_and_optimiser(bert, clipping, optimizer, noise):
    data = [encoded(bert, client) for client in range(4)]
    configs = [config(**changes, clipping=clipping, optimizer=optimizer) for changes in UNEQUAL]
    start = read_vector(bert.adapter)
    expected, found, ends = both(bert, data, configs, noise)
    require_equal(expected, found, start)
    assert ends[0] == pytest.approx(ends[1], rel=1e-12)
    if isinstance(clipping, QuantileClipping):
        starts = [settings.clipping_norm for settings in configs]
        assert all(end != start for end, start in zip(ends[1][:3], starts[:3], strict=True))


def test_rules_and_optimisers_may_differ_within_a_stack(bert):
    data = [encoded(bert, client) for client in range(4)]
    optimizers = [SGD(), AdamW(epsilon=1e-3), AdamW(epsilon=1e-3), SGD(momentum=0.5)]
    configs = [
        config(clipping=clipping, optimizer=optimizer, steps=steps)
        for clipping, optimizer, steps in zip(CLIPPINGS, optimizers, (1, 3, 2, 4), strict=True)
    ]
    start = read_vector(bert.adapter)
    require_equal(*both(bert, data, configs, secret_noise)[:2], start)


def test_a_client_with_fewer_steps_stands_still_and_draws_nothing(bert):
    """Neighbours with equal settings but for the steps share no optimiser."""
    data = [encoded(bert, client) for client in range(2)]
    configs = [config(steps=1, optimizer=SGD(momentum=0.9)), config(optimizer=SGD(momentum=0.9))]
    rounds = joined(data, configs, secret_noise)
    found = trained_from(bert, rounds, read_vector(bert.adapter))
    expected = one_by_one(bert, joined(data, configs, secret_noise))
    assert np.abs(found - expected).max() <= 1e-6
    fresh = joined(data, configs)[0].sampling
    fresh.raw(len(data[0]["labels"]))  # a byte for every record in the only step
    assert rounds[0].sampling.raw(16) == fresh.raw(16)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize("kind", [Checkpointing.REENTRANT, Checkpointing.NON_REENTRANT])
def test_with_gradient_checkpointing(bert_folder, kind):
    model = bert_model(bert_folder, Computation(checkpointing=kind))
    data = [encoded(model, client) for client in range(4)]
    configs = [config(**changes) for changes in UNEQUAL]
    require_equal(*both(model, data, configs)[:2], read_vector(model.adapter))


def test_in_low_precision_up_to_its_rounding(bert_folder):
    model = bert_model(bert_folder, Computation(precision=Precision.BF16))
    data = [encoded(model, client) for client in range(4)]
    configs = [config(**changes) for changes in UNEQUAL]
    require_equal(*both(model, data, configs)[:2], read_vector(model.adapter), tolerance=2e-3)


def test_records_of_several_examples(bert):
    """Weights of examples differ from record to record; the last example only fills up."""
    data = []
    for client in range(3):
        flat = encoded(bert, client, size=3 * SIZES[client])
        grouped = {name: t.reshape(-1, 3, *t.shape[1:]) for name, t in flat.items()}
        share = torch.linspace(0.1, 0.9, SIZES[client])
        grouped[EXAMPLE_WEIGHT] = torch.stack([share, 1 - share, 0 * share], dim=1)
        data.append(grouped)
    configs = [config(**changes) for changes in UNEQUAL[:3]]
    require_equal(*both(bert, data, configs, secret_noise)[:2], read_vector(bert.adapter))


def test_one_client_alone_is_a_stack(bert):
    expected, found, _ = both(bert, [encoded(bert, 0)], [config()], secret_noise)
    assert np.abs(expected - found).max() <= 1e-6


def test_a_record_with_a_non_finite_gradient_contributes_nothing(bert, monkeypatch):
    """It is left out of its client's sum, and nobody else notices."""
    data = [encoded(bert, client) for client in range(3)]
    everybody = config(sample_rate=1.0, steps=2)
    mended = [*data]
    keep = torch.tensor([index for index in range(SIZES[1]) if index != 2])
    mended[1] = {name: tensor[keep] for name, tensor in data[1].items()}
    start = read_vector(bert.adapter)
    expected = trained_from(bert, joined(mended, [everybody] * 3), start)
    data[1]["labels"][2] = 77  # found below, before the cross-entropy refuses it
    real = Classification.losses

    def losses(self, model, batch):
        broken = batch["labels"] == 77
        batch = {**batch, "labels": batch["labels"].masked_fill(broken, 0)}
        return torch.where(broken, float("nan"), 1.0) * real(self, model, batch)

    monkeypatch.setattr(Classification, "losses", losses)
    found = trained_from(bert, joined(data, [everybody] * 3), start)
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= 1e-6


class TestNobodyInfluencesAnother:
    @pytest.mark.parametrize("changed", range(4))
    def test_other_data_leave_the_others_as_they_were(self, bert, changed):
        data = [encoded(bert, client) for client in range(4)]
        configs = [config(**changes) for changes in UNEQUAL[:3]] + [config()]
        start = read_vector(bert.adapter)
        before = trained_from(bert, joined(data, configs, secret_noise), start)
        data[changed] = encoded(bert, 9, size=SIZES[changed] + 6)
        after = trained_from(bert, joined(data, configs, secret_noise), start)
        moved = np.abs(after - before).max(axis=1)
        assert moved[changed] > 1e-4
        assert np.delete(moved, changed).max() <= 1e-6

    @pytest.mark.parametrize("rule", CLIPPINGS, ids=lambda rule: type(rule).__name__)
    def test_one_record_moves_its_clients_sum_by_at_most_c(self, bert, rule):
        data = [encoded(bert, client) for client in range(3)]
        bounds = (0.01, 0.3, 0.02)
        settings = [
            config(clipping=rule, clipping_norm=c, sample_rate=1.0, steps=1, learning_rate=1.0)
            for c in bounds
        ]
        start = read_vector(bert.adapter)
        everyone = trained_from(bert, joined(data, settings), start).astype(np.float64)
        for client, bound in enumerate(bounds):
            for left_out in range(SIZES[client]):
                kept = torch.tensor([i for i in range(SIZES[client]) if i != left_out])
                rest = [*data]
                rest[client] = {name: tensor[kept] for name, tensor in data[client].items()}
                found = trained_from(bert, joined(rest, settings), start)
                moved = np.linalg.norm(3 * (everyone - found), axis=1)  # B = 3, rate 1
                assert moved[client] <= bound * (1 + 1e-3)
                assert np.delete(moved, client).max() <= 3e-6

    def test_what_a_failed_stack_left_does_not_reach_the_next(self, bert, monkeypatch):
        data = [encoded(bert, client) for client in range(3)]
        start = read_vector(bert.adapter)
        expected = trained_from(bert, joined(data, [config()] * 3), start)
        with monkeypatch.context() as patch:
            patch.setattr(torch.autograd, "backward", lambda *a: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                trained_from(bert, joined(data[::-1], [config()] * 3), start)
        assert np.array_equal(trained_from(bert, joined(data, [config()] * 3), start), expected)


class TestPasses:
    def test_a_row_belongs_to_one_client_and_none_is_lost(self):
        drawn = [torch.tensor([0, 3]), torch.tensor([], dtype=torch.long), torch.arange(8, 13)]
        passes = list(stacked_batches(drawn, [0, 5, 8], 2))
        assert [part.tolist() for part, _ in passes] == [
            [[0, 3], [5, 5], [8, 9]],
            [[0, 0], [5, 5], [10, 11]],
            [[0, 0], [5, 5], [12, 8]],
        ]
        assert [part.int().tolist() for _, part in passes] == [
            [[1, 1], [0, 0], [1, 1]],
            [[0, 0], [0, 0], [1, 1]],
            [[0, 0], [0, 0], [1, 0]],
        ]

    def test_without_records_there_is_none(self):
        nobody = torch.tensor([], dtype=torch.long)
        assert list(stacked_batches([nobody, nobody], [0, 5], 4)) == []

    def test_what_fills_up_counts_for_nothing_whatever_its_gradient(self, bert, monkeypatch):
        """Its loss has weight zero; were that forgotten, its factor is zero still."""
        data = [encoded(bert, client) for client in range(4)]
        start, configs = read_vector(bert.adapter), [config(**changes) for changes in UNEQUAL]
        expected = trained_from(bert, joined(data, configs), start)
        real = PrivateModel.stacked_gradients
        monkeypatch.setattr(
            PrivateModel,
            "stacked_gradients",
            lambda self, batch, values, present: real(self, batch, values, present | True),
        )
        found = trained_from(bert, joined(data, configs), start)
        assert np.abs(found - expected).max() <= 1e-6

    def test_all_have_one_shape(self, bert, monkeypatch):
        shapes = set()
        real = PrivateModel.stacked_gradients

        def stacked_gradients(self, batch, values, present):
            shapes.add((tuple(batch["input_ids"].shape), tuple(values.shape)))
            return real(self, batch, values, present)

        monkeypatch.setattr(PrivateModel, "stacked_gradients", stacked_gradients)
        start = read_vector(bert.adapter)
        data = [encoded(bert, client) for client in range(4)]
        trained_from(bert, joined(data, [config(**changes) for changes in UNEQUAL]), start)
        assert shapes == {((12, 24), (12, start.size))}


def test_shapes_of_one_record_tell_who_can_be_stacked():
    batch = {"input_ids": torch.zeros(5, 3, 7), "labels": torch.zeros(5)}
    assert record_shapes(batch) == {"input_ids": (3, 7), "labels": ()}


def test_hooks_refuse_a_stack(bert_folder):
    model = bert_model(bert_folder, Computation(gradients=GradientMethod.OPACUS_HOOKS))
    with pytest.raises(GateError, match="stacked_clients = 1"):
        trained_from(model, joined([encoded(model, 0)], [config()]), read_vector(model.adapter))
