"""Noise and longest update of the mean, against formulas and against noise that is drawn."""

import math

import numpy as np
import pytest

from privfed import (
    SGD,
    AdamW,
    DoubleSketch,
    FedAvg,
    FedAvgM,
    FedProx,
    FFALoRA,
    MixedRanks,
    Plan,
    QuantileClipping,
    TrainingConfig,
)
from privfed.planning.signal import signal_of
from privfed.settings.privacy import OwnPrivacy

BATCH, NORM, RATE = 40, 0.5, 3.0


def answer(**changes):
    given = {
        "sizes": {"north": 200, "south": 160, "west": 90, "east": 50},
        "epsilon": 2.0,
        "delta": 1e-4,
        "expected_batch_size": BATCH,
        "rounds": 3,
        "clipping_norm": NORM,
        "training": TrainingConfig(learning_rate=RATE),
        "method": FedAvg(weighting="public_size"),
        "own": {"west": OwnPrivacy(steps_per_round=4)},
    }
    return Plan(**{**given, **changes}).answer()


def test_noise_of_an_entry_is_that_of_drawn_noise():
    """Oracle: the mean of updates that are noise alone, drawn step by step."""
    found = answer()
    random, entries = np.random.default_rng(7), 40_000
    weights = {"north": 1.0, "south": 0.8, "west": 0.45, "east": 0.25}
    total = np.zeros(entries)
    for name, sigma in found.noise_multipliers.items():
        for _ in range(4 if name == "west" else 1):
            total += weights[name] * RATE * random.normal(0, sigma * NORM, entries) / BATCH
    drawn = np.std(total / sum(weights.values()))
    assert signal_of(found).noise_per_entry == pytest.approx(drawn, rel=0.02)


def test_its_length_goes_with_the_root_of_the_parameters():
    bare, known = signal_of(answer()), signal_of(answer(parameters=900))
    assert bare.noise is bare.best_ratio is bare.best_printed is None
    assert known.noise == pytest.approx(30 * bare.noise_per_entry)


def test_the_longest_update_is_that_of_records_that_agree():
    found = signal_of(answer(parameters=900))
    steps = (1.0 + 0.8 + 4 * 0.45 + 0.25) / (1.0 + 0.8 + 0.45 + 0.25)
    assert found.longest == pytest.approx(RATE * NORM * steps)
    assert found.best_ratio == pytest.approx(found.longest / found.noise)
    assert found.best_printed == pytest.approx(math.hypot(1, found.best_ratio))


def test_fewer_clients_in_a_round_average_less_noise_away():
    alike = {"sizes": dict.fromkeys("abcd", 100), "own": {}, "method": FedAvg()}
    all_, half = answer(**alike, rounds=4), answer(**alike, rounds=8, clients_per_round=2)
    assert all_.noise_multipliers == half.noise_multipliers
    ratio = signal_of(half).noise_per_entry / signal_of(all_).noise_per_entry
    assert ratio == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    "changes",
    [
        {"training": TrainingConfig(learning_rate=1.0, optimizer=AdamW())},
        {"training": TrainingConfig(learning_rate=1.0, optimizer=SGD(momentum=0.5))},
        {"clipping": QuantileClipping(count_noise=30.0)},
        {"method": DoubleSketch(width=8)},
        {"method": MixedRanks(of=FFALoRA(), ranks={"north": 1})},
        {"method": FedProx(mu=0.1), "steps_per_round": 2},
    ],
)
def test_where_noise_is_not_known_nothing_is_said(changes):
    assert signal_of(answer(**changes)) is None


@pytest.mark.parametrize("method", [FFALoRA(), FedAvgM(of=FFALoRA(), momentum=0.5)])
def test_it_is_known_of_plain_updates(method):
    assert signal_of(answer(method=method)) is not None
