"""The global state, and its digest."""

import hashlib

import numpy as np
import pytest

from privfed import FedAvg, TailAveraging
from privfed.errors import ConfigError
from privfed.methods.method import (
    GlobalState,
    SentVector,
    released_digest,
    total_length,
    vector_digest,
)
from tests.unit.privfed.methods.vectors import round_of

ADAPTER = np.array([1.0, -2.5], dtype=np.float32)
MEMORY = {"control": np.array([0.5, 0.25], np.float32), "counted": np.array([7], np.int32)}


def test_the_digest_of_a_vector_is_that_of_its_little_endian_bytes():
    expected = hashlib.sha256(bytes.fromhex("0000803f000020c0")).hexdigest()
    assert vector_digest(ADAPTER) == expected
    assert vector_digest(ADAPTER.astype(">f4")) == expected
    assert vector_digest(np.nextafter(ADAPTER, np.float32(3))) != expected


class TestTheDigestOfAState:
    def test_without_memory_is_that_of_the_adapter(self):
        assert GlobalState(adapter=ADAPTER).digest() == vector_digest(ADAPTER)

    @pytest.mark.parametrize(
        "other",
        [
            GlobalState(adapter=ADAPTER),
            GlobalState(adapter=ADAPTER + 1, memory=MEMORY),
            GlobalState(adapter=ADAPTER, memory={"control": MEMORY["control"]}),
            GlobalState(adapter=ADAPTER, memory={**MEMORY, "counted": np.array([8], np.int32)}),
            GlobalState(adapter=ADAPTER, memory={**MEMORY, "counted": np.array([7], np.int64)}),
            GlobalState(adapter=ADAPTER, memory={**MEMORY, "counted": np.array([[7]], np.int32)}),
            GlobalState(adapter=ADAPTER, memory={**MEMORY, "control": MEMORY["control"] * 2}),
            GlobalState(
                adapter=ADAPTER, memory={"other": MEMORY["control"], "counted": MEMORY["counted"]}
            ),
        ],
    )
    def test_tells_any_two_apart(self, other):
        assert other.digest() != GlobalState(adapter=ADAPTER, memory=MEMORY).digest()

    def test_is_the_same_on_every_machine(self):
        """Of the order in which things were added, and of the order of bytes, nothing is in it."""
        turned = {name: MEMORY[name] for name in reversed(MEMORY)}
        big = {
            name: values.astype(values.dtype.newbyteorder(">")) for name, values in turned.items()
        }
        digest = GlobalState(adapter=ADAPTER, memory=MEMORY).digest()
        assert GlobalState(adapter=ADAPTER.astype(">f4"), memory=big).digest() == digest


def test_a_state_comes_back_from_its_tensors():
    state = GlobalState(adapter=ADAPTER, memory=MEMORY)
    assert set(state.tensors()) == {"adapter", "control", "counted"}
    assert GlobalState.of_tensors(state.tensors()).digest() == state.digest()
    with pytest.raises(KeyError):
        GlobalState.of_tensors(MEMORY)


def test_what_is_released_is_what_the_method_leaves():
    average = np.array([9.0, 8.0], dtype=np.float32)
    memory = {"tail.average": average, "tail.counted": np.array([2], np.int32)}
    state = GlobalState(adapter=ADAPTER, memory=memory)
    assert released_digest(TailAveraging(of=FedAvg()), state) == vector_digest(average)
    assert released_digest(FedAvg(), state) == vector_digest(ADAPTER)


def test_a_memory_must_not_hide_the_adapter():
    with pytest.raises(ConfigError, match="may be called 'adapter'"):
        GlobalState(adapter=ADAPTER, memory={"adapter": ADAPTER + 1})


class TestWhatIsSent:
    def rounds(self, number=3):
        return [round_of(n, {"a": 1.0, "b": 0.5}, length=7) for n in range(1, number + 1)]

    def method(self, *each):
        """A method that sends these vectors, one list a round."""

        class Sends(FedAvg):
            def uploads(self, round_):
                return tuple(each[min(round_.number, len(each)) - 1])

        return Sends()

    def test_its_length_is_that_of_all_vectors(self):
        two = [SentVector(name="delta", length=7), SentVector(name="more", length=4, scale=0.5)]
        assert total_length(self.method(two), self.rounds()) == 11
        assert total_length(FedAvg(), self.rounds()) == 7

    @pytest.mark.parametrize(
        "moving", [np.zeros(7, bool), np.ones(6, bool), np.ones(7), ["weight"]]
    )
    def test_what_is_trained_must_be_there(self, moving):
        class Trains(FedAvg):
            def trains(self, round_, client):
                bad = (round_.number, client) == (2, "b")
                return moving if bad else FedAvg.trains(self, round_, client)

        with pytest.raises(ConfigError, match="in round 2 it lets 'b' train"):
            total_length(Trains(), self.rounds())

    def test_a_scale_may_follow_the_round(self):
        one, other = (SentVector(name="delta", length=7, scale=scale) for scale in (1.0, 0.25))
        assert total_length(self.method([one], [other]), self.rounds()) == 7

    @pytest.mark.parametrize(
        "each",
        [
            [[]],
            [[SentVector(name="a", length=7)], [SentVector(name="b", length=7)]],
            [[SentVector(name="a", length=7)], [SentVector(name="a", length=8)]],
            [[SentVector(name="a", length=7)], []],
            [[SentVector(name="a", length=7)] * 2],
            [[SentVector(name="a", length=0)]],
            [[SentVector(name="a", length=7.0)]],
            [[SentVector(name="a", length=7, scale=0.0)]],
            [[SentVector(name="a", length=7, scale=-1.0)]],
            [[SentVector(name="a", length=7, scale=float("inf"))]],
            [[SentVector(name="a", length=7, scale=float("nan"))]],
        ],
    )
    def test_what_cannot_be_summed_is_refused_before_anything_is_spent(self, each):
        with pytest.raises(ConfigError, match="vectors"):
            total_length(self.method(*each), self.rounds())
