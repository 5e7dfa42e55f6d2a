"""The global state, and its digest."""

import hashlib

import numpy as np
import pytest

from privfed import FedAvg, TailAveraging
from privfed.methods.method import GlobalState, released_digest, vector_digest

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
