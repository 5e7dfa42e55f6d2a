"""Bytes carried within a process, and what its clients share."""

import pytest

from privfed.engines.play import Play, Shared
from privfed.identity.keys import Identity, Role
from privfed.protocol.kinds import LISTING, SUM, TRAIN
from privfed.protocol.signing import signed_message
from privfed.protocol.terms import Terms

TERMS = Terms(run="r", round=1, manifest={})


class Echo:
    """A client that answers with its name and what it was sent."""

    def __init__(self, name):
        self.name, self.handled = name, 0

    def handle(self, message):
        self.handled += 1
        return f"{self.name}:".encode() + message[:4]


@pytest.fixture
def clients():
    return {name: Echo(name) for name in ("a", "b", "c")}


def message(kind):
    return signed_message(Identity.generate("hub", Role.AGGREGATOR), TERMS, kind)


def test_each_gets_its_own_and_nobody_else_any(clients):
    done = []
    play = Play(clients, stacked_clients=1, on_client=done.append)
    replies = play.exchange({"c": message(SUM), "a": message(SUM)})
    assert list(replies) == ["c", "a"]
    assert replies["a"].startswith(b"a:")
    assert replies["c"].startswith(b"c:")
    assert clients["b"].handled == 0


@pytest.mark.parametrize(("kind", "told"), [(TRAIN, ["b", "a"]), (LISTING, []), (SUM, [])])
def test_who_is_done_with_training_is_told(clients, kind, told):
    done = []
    play = Play(clients, stacked_clients=1, on_client=done.append)
    play.exchange({"b": message(kind), "a": message(kind)})
    assert done == told


def test_nothing_to_carry(clients):
    assert Play(clients, stacked_clients=3, on_client=None).exchange({}) == {}


class TestWhatIsShared:
    def test_equal_bytes_are_worked_on_once(self):
        shared, computed = Shared(), []

        def compute():
            computed.append(1)
            return object()

        first = shared(b"sum of round 1", compute)
        assert shared(bytes(bytearray(b"sum of round 1")), compute) is first
        assert len(computed) == 1
        assert shared(b"sum of round 2", compute) is not first
        assert len(computed) == 2

    def test_a_failure_is_nobody_elses(self):
        shared = Shared()
        with pytest.raises(ZeroDivisionError):
            shared(b"sum", lambda: 1 / 0)
        assert shared(b"sum", lambda: 7) == 7

    def test_nor_does_it_stand_for_the_next(self):
        shared = Shared()
        shared(b"one", lambda: 1)
        with pytest.raises(ZeroDivisionError):
            shared(b"two", lambda: 1 / 0)
        assert shared(b"two", lambda: 2) == 2
