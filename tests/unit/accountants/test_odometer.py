"""Epsilon after every round, one client or many."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants import certified, odometer
from accountants.analyses import renyi
from accountants.errors import InvalidValueError, UnsupportedAnalysisError
from accountants.events import FixedSizeGaussian, Gaussian, PoissonGaussian
from accountants.guarantees import Neighbouring
from accountants.odometer import OnlineOdometer, trajectories, trajectory

ADD_REMOVE, REPLACE_ONE = Neighbouring.ADD_REMOVE, Neighbouring.REPLACE_ONE
DELTA = 1e-5
KINDS = [
    Gaussian(noise_multiplier=2.0),
    Gaussian(noise_multiplier=5.0, steps=3),
    PoissonGaussian(noise_multiplier=1.0, sample_rate=0.1, steps=2),
]
UNKNOWN = FixedSizeGaussian(noise_multiplier=1.0, batch_size=1, dataset_size=2, steps=1)


def released(row):
    return [KINDS[kind] for kind in row if kind >= 0]


def test_trajectory_is_the_certified_number_of_each_prefix():
    rounds = [Gaussian(noise_multiplier=sigma) for sigma in (2.0, 1.0, 4.0)]
    prefixes = [rounds[:i] for i in range(4)]
    found = trajectory(prefixes, DELTA, ADD_REMOVE)
    assert found == [certified.epsilon(prefix, DELTA, ADD_REMOVE).upper for prefix in prefixes]
    assert found[0] == 0
    assert found[2] > 4.377178
    assert trajectory(prefixes, DELTA, REPLACE_ONE)[1] > found[1]


def test_online_odometer_by_hand():
    running = OnlineOdometer(3, DELTA, ADD_REMOVE)
    assert running.epsilons().tolist() == [0, 0, 0]
    running.add([0, 2], KINDS[0])
    running.add_round([KINDS[1], None, KINDS[0]])
    expected = [
        renyi.epsilon(events, DELTA, ADD_REMOVE).epsilon
        for events in ([KINDS[0], KINDS[1]], [], [KINDS[0], KINDS[0]])
    ]
    np.testing.assert_allclose(running.epsilons(), expected, rtol=1e-12)
    before = running.epsilons()
    running.add([], KINDS[0])
    running.add(np.array([1, 1]), KINDS[0])
    assert running.epsilons()[1] == pytest.approx(expected[2])
    assert (running.epsilons()[[0, 2]] == before[[0, 2]]).all()


def test_online_odometer_uses_its_relation():
    running = OnlineOdometer(1, DELTA, REPLACE_ONE)
    running.add([0], KINDS[0])
    assert running.epsilons()[0] == renyi.epsilon([KINDS[0]], DELTA, REPLACE_ONE).epsilon


@pytest.mark.parametrize("clients", [[3], [-1], [0.5], [True], [0, 7]])
def test_only_clients_are_counted(clients):
    running = OnlineOdometer(3, DELTA, ADD_REMOVE)
    with pytest.raises(InvalidValueError, match="client"):
        running.add(clients, KINDS[0])
    assert running.epsilons().tolist() == [0, 0, 0]


def test_a_refused_round_is_not_counted_in_part():
    running = OnlineOdometer(2, DELTA, ADD_REMOVE)
    with pytest.raises(UnsupportedAnalysisError, match="FixedSizeGaussian"):
        running.add_round([KINDS[0], UNKNOWN])
    with pytest.raises(UnsupportedAnalysisError, match="FixedSizeGaussian"):
        running.add([0], UNKNOWN)
    with pytest.raises(InvalidValueError, match="one entry per client"):
        running.add_round([KINDS[0]])
    assert running.epsilons().tolist() == [0, 0]


@pytest.mark.parametrize(
    ("num_clients", "delta", "relation"),
    [(0, DELTA, ADD_REMOVE), (1, 0.0, ADD_REMOVE), (1, math.nan, ADD_REMOVE), (1, DELTA, "both")],
)
def test_the_settings_of_an_odometer_are_checked(num_clients, delta, relation):
    with pytest.raises(InvalidValueError):
        OnlineOdometer(num_clients, delta, relation)


histories = st.integers(1, 4).flatmap(
    lambda rounds: st.lists(
        st.lists(st.integers(-1, len(KINDS) - 1), min_size=rounds, max_size=rounds),
        min_size=1,
        max_size=5,
    )
)


@settings(deadline=None, max_examples=40)
@given(rows=histories)
def test_three_odometers_agree(rows):
    table = np.array(rows)
    found = trajectories(table, KINDS, DELTA, ADD_REMOVE)
    assert found.shape == table.shape
    assert (np.diff(found, axis=1) >= 0).all()
    running = OnlineOdometer(len(rows), DELTA, ADD_REMOVE)
    for number in range(table.shape[1]):
        running.add_round([KINDS[kind] if kind >= 0 else None for kind in table[:, number]])
        np.testing.assert_allclose(running.epsilons(), found[:, number], rtol=1e-12)
    for row, values in zip(rows, found, strict=True):
        alone = renyi.epsilon(released(row), DELTA, ADD_REMOVE).epsilon
        assert values[-1] == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize("cells", [1, 3, 7, 1000])
def test_blocks_do_not_change_the_numbers(cells, monkeypatch):
    table = np.random.default_rng(0).integers(-1, len(KINDS), (5, 6))
    whole = trajectories(table, KINDS, DELTA, ADD_REMOVE)
    monkeypatch.setattr(odometer, "_BLOCK_BYTES", cells * 8 * len(renyi.ORDERS))
    np.testing.assert_array_equal(trajectories(table, KINDS, DELTA, ADD_REMOVE), whole)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_no_clients_or_no_rounds(shape):
    assert trajectories(np.zeros(shape, dtype=int), KINDS, DELTA, ADD_REMOVE).shape == shape


@pytest.mark.parametrize(
    "table", [np.array([0, 1]), np.array([[0.0]]), [[0]], np.array([[3]]), np.array([[-2]])]
)
def test_histories_must_be_a_table_of_indices(table):
    with pytest.raises(InvalidValueError, match="histories"):
        trajectories(table, KINDS, DELTA, ADD_REMOVE)


def test_trajectories_refuse_as_everything_else():
    table = np.array([[-1]])
    with pytest.raises(UnsupportedAnalysisError, match="FixedSizeGaussian"):
        trajectories(table, [UNKNOWN], DELTA, ADD_REMOVE)
    with pytest.raises(InvalidValueError, match="delta"):
        trajectories(table, KINDS, 0.0, ADD_REMOVE)
    unprotected = [Gaussian(noise_multiplier=0.0)]
    assert trajectories(np.array([[-1, 0, -1]]), unprotected, DELTA, ADD_REMOVE).tolist() == [
        [0, np.inf, np.inf]
    ]


def test_many_clients_need_little_memory():
    table = np.random.default_rng(0).integers(-1, len(KINDS), (100, 1000))
    trajectories(table[:1, :1], KINDS, DELTA, ADD_REMOVE)
    tracemalloc.start()
    trajectories(table, KINDS, DELTA, ADD_REMOVE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20


def test_rounds_do_not_pass_for_running_totals():
    one = PoissonGaussian(noise_multiplier=1.0, sample_rate=0.1, steps=1)
    two = PoissonGaussian(noise_multiplier=2.0, sample_rate=0.1, steps=1)
    with pytest.raises(InvalidValueError, match="prefix 1 must hold everything"):
        trajectory([[one], [two]], 1e-5, ADD_REMOVE)
    with pytest.raises(InvalidValueError, match="prefix 2 must hold everything"):
        trajectory([[], [one, one], [one]], 1e-5, ADD_REMOVE)
    assert trajectory([[one], [one], [one, two]], 1e-5, ADD_REMOVE)[0] > 0
