"""SLoRA as two runs on the same ledgers: the second starts where the first ended, and pays on."""

import json
from dataclasses import replace

import pytest

from accountants import Budget, BudgetExceededError
from privfed import (
    LoRA,
    Neighbouring,
    Plain,
    PrivacyConfig,
    SparseUpdate,
    TrainingConfig,
    start_lora_from_sparse_update,
)
from tests.end_to_end.test_federation import independent_epsilon

TARGETS = ("query", "value")
DELTA = 1e-4
SPARSE = SparseUpdate(target_modules=TARGETS, share=0.04)
LORA = LoRA(rank=32, target_modules=TARGETS, alpha=24.0)


@pytest.fixture
def stage(make_federation, tmp_path):
    """A function that makes one of the two runs, with the ledgers of both."""

    def make(adapter, epsilon, **changes):
        federation = make_federation(num_clients=3)
        clients = [replace(client, budget=None) for client in federation.clients]
        privacy = PrivacyConfig(
            budget=Budget(epsilon=epsilon, delta=DELTA),
            neighbouring=Neighbouring.ADD_REMOVE,
            record="one made-up sentence",
            expected_batch_size=20,
            clipping_norm=0.75,
            steps_per_round=2,
        )
        return make_federation(
            clients=clients, privacy=privacy, adapter=adapter, encryption=Plain(), **changes
        )

    return make


def test_two_runs_compose_and_the_second_starts_where_the_first_ended(stage, tmp_path):
    first = stage(SPARSE, epsilon=2.0, rounds=2).run(tmp_path / "first")
    count = round(0.04 * 32 * 32)
    assert first.report.mechanism.num_params == 2 * 2 * count + 3 * 32 + 3
    start = tmp_path / "start.safetensors"
    assert start_lora_from_sparse_update(first.adapter, LORA, start) < 1e-5

    still = TrainingConfig(learning_rate=1e-9, physical_batch_size=12)
    made = stage(LORA, epsilon=5.0, rounds=3, start=start, training=still)
    second = made.run(tmp_path / "second")
    assert second.rounds[-1].value == first.rounds[-1].value
    for client, spent in second.rounds[-1].epsilon.items():
        assert 1.8 < first.rounds[-1].epsilon[client] <= 2.0
        assert first.rounds[-1].epsilon[client] < second.rounds[0].epsilon[client]
        assert 4.5 < spent <= 5.0
        own = second.ledgers[client]
        assert len([entry for entry in own["entries"] if entry["kind"] == "commit"]) == 2 + 3
        assert spent == pytest.approx(independent_epsilon(own, DELTA), rel=2e-3)
    report = json.loads((tmp_path / "second/report.json").read_text())
    assert all(entry["epsilon_spent"] > 4.5 for entry in report["clients"])


def test_a_second_run_without_a_larger_budget_is_refused(stage, tmp_path):
    """The first has used it up; that the adapter is another one changes nothing."""
    first = stage(SPARSE, epsilon=2.0, rounds=2).run(tmp_path / "first")
    start = tmp_path / "start.safetensors"
    start_lora_from_sparse_update(first.adapter, LORA, start)
    with pytest.raises(BudgetExceededError, match="is used up"):
        stage(LORA, epsilon=2.0, rounds=3, start=start).run(tmp_path / "second")
