"""How a client moves on after a sum, in numbers that a hand can check."""

import numpy as np
import pytest

from privfed import BFV, CKKS, DoubleSketch, FedAvg, TailAveraging, TrainingConfig
from privfed.errors import ConfigError
from privfed.methods.method import GlobalState, vector_digest
from privfed.parties.client.round import Progress, Transition
from privfed.protocol.layout import Layout
from privfed.protocol.participation import Participation

STATE = np.array([1.0, -2.0], dtype=np.float32)
TOTAL = {"delta": np.array([3.0, 0.75])}
WEIGHTS = {"a": 1.0, "b": 0.25, "c": 0.5}


def progress(**changes):
    values = {
        "round": 4,
        "state": GlobalState(adapter=STATE),
        "base": vector_digest(STATE),
        "public_range": 100.0,
    }
    return Progress(**{**values, **changes})


def rules(**changes):
    values = {
        "method": FedAvg(server_learning_rate=0.5),
        "training": TrainingConfig(learning_rate=0.25),
        "steps": {"a": 2, "b": 2, "c": 2},
        "participation": Participation(names=("a", "b", "c"), per_round=None, rounds=9, seed="5e"),
        "summation": BFV(),
        "weights": WEIGHTS,
        "layout": Layout((("weight", STATE.shape),)),
        "step_noise": None,
        "largest_range": 64.0,
        "evaluate": lambda adapter: float(adapter[0]),
    }
    return Transition(**{**values, **changes})


def test_it_moves_by_the_weighted_mean_of_the_contributors():
    """(3, 0.75) / (1 + 0.5) = (2, 0.5), and half of that."""
    moved = rules().after(progress(), 5, TOTAL, ("a", "c"))
    assert moved.progress.state.adapter.tolist() == [2.0, -1.75]
    assert moved.progress.state.adapter.dtype == np.float32
    assert moved.progress.state.memory == {}
    assert moved.progress.base == vector_digest(moved.progress.state.adapter)
    assert moved.progress.round == 5
    assert moved.metric_value == 2.0
    assert rules().method.left(moved.progress.state) is moved.progress.state.adapter


@pytest.mark.parametrize("value", [float("nan"), -1.0, "1", np.float32(1)])
def test_what_is_no_figure_is_refused_before_anything_is_written(value):
    class Shows(FedAvg):
        def figures(self, state):
            return {"share": value}

    with pytest.raises(ConfigError, match="figures of a method must be few Python numbers"):
        rules(method=Shows()).after(progress(), 5, TOTAL, ("a", "c"))


def test_the_noise_of_an_update_is_that_of_all_its_steps():
    """A rate of 0.25, and the root of 4 or 9 steps; not known where that of a step is not."""
    steps = {"a": 4, "b": 9, "c": 1}
    known = rules(steps=steps, step_noise={"a": 3.0, "b": 8.0}).round(5)
    assert known.steps == steps
    assert known.noise == {"a": 1.5, "b": 6.0}
    assert rules().round(5).noise is None


def test_signal_to_noise_is_that_of_the_mean():
    """(2, 0.5) against a deviation of hypot(1 x 3, 0.5 x 8) / 1.5 = 10/3 in each of two entries."""
    known = rules(steps=dict.fromkeys("abc", 4), step_noise={"a": 6.0, "b": 7.0, "c": 16.0})
    found = known.after(progress(), 5, TOTAL, ("a", "c")).signal_to_noise
    assert found == pytest.approx(np.sqrt(4.25) / (10 / 3 * np.sqrt(2)))
    assert rules().after(progress(), 5, TOTAL, ("a", "c")).signal_to_noise is None


def test_nothing_that_it_was_given_is_changed():
    before = progress()
    rules().after(before, 5, TOTAL, ("a", "c"))
    assert before.state.adapter.tolist() == [1.0, -2.0]


class TestTheAverage:
    """The metric is that of the adapter which the run would leave."""

    def test_it_begins_with_its_first_round(self):
        method = TailAveraging(of=FedAvg(server_learning_rate=0.5), first_round=6)
        early = rules(method=method).after(progress(), 5, TOTAL, ("a", "c"))
        assert early.progress.state.memory == {}
        assert early.metric_value == 2.0
        first = rules(method=method).after(early.progress, 6, TOTAL, ("a", "c"))
        assert first.progress.state.memory["tail.average"].tolist() == [3.0, -1.5]
        second = rules(method=method).after(first.progress, 7, TOTAL, ("a", "c"))
        state = second.progress.state
        assert state.adapter.tolist() == [4.0, -1.25]
        assert state.memory["tail.average"].tolist() == [3.5, -1.375]
        assert state.memory["tail.counted"].tolist() == [2]
        assert second.metric_value == 3.5
        assert method.left(state) is state.memory["tail.average"]
        assert second.progress.base == state.digest() != vector_digest(state.adapter)


class TestTheRange:
    def test_it_is_that_of_the_settings(self):
        assert rules().after(progress(), 5, TOTAL, ("a", "c")).progress.public_range == 64.0

    def test_or_it_follows_what_was_released(self):
        """Six deviations of the mean (2, 0.5), times that of the loudest over it; 12 bits, upwards.

        Of weights 1 and 0.5 that is 1.5 / sqrt(1.25).
        """
        following = rules(summation=BFV(follow_released=True))
        found = following.after(progress(), 5, TOTAL, ("a", "c")).progress.public_range
        exact = 1.5 / np.sqrt(1.25) * 6 * np.sqrt((2.0**2 + 0.5**2) / 2)
        assert exact <= found <= exact * (1 + 2**-11)
        assert found == int(found * 2**8) / 2**8 > exact

    def test_but_never_beyond_the_settings(self):
        following = rules(summation=BFV(follow_released=True), largest_range=7.0)
        assert following.after(progress(), 5, TOTAL, ("a", "c")).progress.public_range == 7.0

    def test_and_leaves_room_for_the_loudest(self):
        """Weights of 1 and 0.5, and 1 and 9 steps: 1.5 for c, 1 for a, of 1.5 together."""
        following = rules(summation=BFV(follow_released=True), steps={"a": 1, "b": 2, "c": 9})
        found = following.after(progress(), 5, TOTAL, ("a", "c")).progress.public_range
        exact = 6 * np.sqrt((2.0**2 + 0.5**2) / 2) * 1.5 * 1.5 / np.hypot(1.0, 1.5)
        assert found == pytest.approx(exact, rel=2**-11)

    def test_vectors_longer_than_the_adapter_are_filled(self):
        """A range six times the deviation in an entry of the sketches, which are 2.75 times longer.

        Counted as long as the adapter, they would seem 1.6 times louder.
        """
        layout = Layout(
            (("q.lora_A.default.weight", (1, 40)), ("q.lora_B.default.weight", (40, 1)))
        )
        following = rules(
            method=DoubleSketch(width=2), summation=BFV(follow_released=True), layout=layout
        )
        sums = {
            one.name: np.random.default_rng(3).normal(size=one.length)
            for one in following.uploads(5)
        }
        length = sum(len(vector) for vector in sums.values())
        assert length == 280
        start = GlobalState(adapter=np.ones(80, np.float32))
        found = following.after(
            progress(state=start, base=start.digest()), 5, sums, ("a", "c")
        ).progress.public_range
        assert found == pytest.approx(
            6 * np.sqrt(2) / 1.5 * (1.5 / np.hypot(1, 0.5) / np.sqrt(2)), rel=0.1
        )


class TestTheNote:
    def test_a_range_that_cuts_off(self):
        note = rules().after(progress(public_range=1.5), 5, TOTAL, ("a", "c")).note
        assert "cuts off" in note

    @pytest.mark.parametrize(("summation", "noted"), [(BFV(bits=8), True), (CKKS(), False)])
    def test_steps_that_drown_the_update(self, summation, noted):
        """Floats have no steps."""
        wide = progress(public_range=1e4)
        note = rules(summation=summation).after(wide, 5, TOTAL, ("a", "c")).note
        assert ("drowns" in (note or "")) is noted

    def test_where_all_is_well_there_is_none(self):
        assert rules().after(progress(public_range=30.0), 5, TOTAL, ("a", "c")).note is None
