"""The mean update against its noise, by hand and by simulation; unknown where the noise is."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed import FedAdam, FedAvg, FedProx, FedSALoRA, MixedRanks, RoLoRA, Scaffold, TailAveraging
from privfed.methods.method import DELTA
from privfed.methods.signal_to_noise import signal_to_noise
from tests.unit.privfed.methods.test_rolora import LAYOUT, RANK, WIDTH
from tests.unit.privfed.methods.vectors import round_of

WEIGHTS = {"a": 1.0, "b": 0.5}
NOISE = {"a": 3.0, "b": 8.0}
SUMS = {DELTA: np.array([9.0, -18.0, 0.0, 18.0])}


def ratio(method, *, sums=SUMS, weights=WEIGHTS, noise=NOISE, contributors=("a", "b"), **changes):
    length = len(next(iter(sums.values())))
    state = method.begin(np.zeros(length, np.float32))
    round_ = replace(round_of(1, weights, length=length, noise=noise), **changes)
    return signal_to_noise(method, state, sums, contributors, round_)


def test_two_clients_of_unequal_weight_and_noise_by_hand():
    """The mean is (6, -12, 0, 12), of norm 18; noise is hypot(3, 4) / 1.5 in each of 4 entries."""
    assert ratio(FedAvg()) == pytest.approx(18 / (5 / 1.5 * 2))


def test_of_one_contributor_alone():
    """B's sum over its weight has the norm 54; its noise is 8 in each of 4 entries."""
    assert ratio(FedAvg(), contributors=("b",)) == pytest.approx(54 / (8 * 2))


def test_what_clients_keep_or_do_not_train_has_no_noise_in_the_mean():
    """Of 20 entries, A's 10 are shared; one client trains a half of A."""
    noise = {"a": 3.0, "b": 8.0}
    sums = {DELTA: np.full(10, 6.0)}
    method = MixedRanks(of=FedSALoRA(), ranks={"b": 1})
    found = ratio(method, sums=sums, noise=noise, layout=LAYOUT)
    assert found == pytest.approx(6 * math.sqrt(10) / math.sqrt(3**2 * 10 + 4**2 * 5))


@pytest.mark.parametrize(
    "method",
    [
        Scaffold(),
        FedAdam(of=FedAvg(), learning_rate=0.5),
        TailAveraging(of=FedAvg(), first_round=2),
    ],
    ids=lambda one: one.describe()["method"],
)
def test_whatever_is_made_of_the_mean_it_is_that_of_the_mean(method):
    assert ratio(method) == ratio(FedAvg())


@given(
    weights=st.lists(st.floats(0.1, 1.0), min_size=1, max_size=5),
    signal=st.floats(0, 5),
    seed=st.integers(0, 2**32),
)
def test_noise_alone_is_near_one_and_signal_adds_in_squares(weights, signal, seed):
    """4000 entries: the norm of their noise is right to some percent."""
    random, length = np.random.default_rng(seed), 4000
    names = [f"c{number}" for number in range(len(weights))]
    noise = dict(zip(names, random.uniform(0.2, 2.0, len(names)), strict=True))
    weighted = dict(zip(names, weights, strict=True))
    deviation = math.hypot(*(weighted[n] * noise[n] for n in names)) / sum(weights)
    total = sum(
        weighted[n] * (signal * deviation + noise[n] * random.normal(size=length)) for n in names
    )
    found = ratio(FedAvg(), sums={DELTA: total}, weights=weighted, noise=noise, contributors=names)
    assert found == pytest.approx(math.hypot(1, signal), rel=0.1)


def test_entries_that_stand_still_hold_no_noise():
    """RoLoRA moves the head and A in even rounds: 4 + 10 entries of an adapter of 20."""
    sums = {DELTA: np.full(14, 3.0)}
    round_ = replace(round_of(2, WEIGHTS, length=1, noise=NOISE), layout=LAYOUT)
    state = RoLoRA().begin(np.zeros(LAYOUT.length, np.float32))
    assert 4 + RANK * WIDTH == 14 < LAYOUT.length
    found = signal_to_noise(RoLoRA(), state, sums, ("a", "b"), round_)
    assert found == pytest.approx(2 / (5 / 1.5))


class TestUnknown:
    def test_where_the_noise_of_updates_is_not_known(self):
        assert ratio(FedAvg(), noise=None) is None

    def test_where_there_is_none(self):
        assert ratio(FedAvg(), noise={"a": 0.0, "b": 0.0}) is None

    def test_where_something_else_than_updates_is_summed(self):
        assert ratio(FedAvg(), sums={"gradient": SUMS[DELTA]}) is None

    @pytest.mark.parametrize(
        "method", [FedProx(mu=0.5), FedAdam(of=FedProx(mu=0.5), learning_rate=0.25)]
    )
    def test_where_a_pull_shrinks_the_noise_of_earlier_steps(self, method):
        assert ratio(method) is None
