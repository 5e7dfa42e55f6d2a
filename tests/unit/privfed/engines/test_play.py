"""Bytes carried within a process, and what its clients share."""

from dataclasses import replace

import numpy as np
import pytest

from privfed.custody.shared_key import SharedKeyCipher
from privfed.engines import stacked
from privfed.engines.play import Play, Shared
from privfed.errors import PrivfedError
from privfed.identity.keys import Identity, Role
from privfed.parties.client.node import ClientNode
from privfed.protocol.envelopes import statement_of
from privfed.protocol.kinds import ABSENT, AGREED, LISTING, OPENED, REFUSAL, SUM, TRAIN, UPDATE
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


class Watched:
    """A round of real clients: what kinds of messages were answered with which, in order."""

    def __init__(self, running, stacked_clients):
        self.told, self.kinds = [], []
        running.begin([])
        self._play = Play(
            running.clients, stacked_clients=stacked_clients, on_client=self.told.append
        )
        running.aggregator.presence.beginning = replace(
            running.aggregator.presence.beginning, exchange=self.exchange
        )

    def exchange(self, messages):
        (kind,) = {statement_of(one).kind for one in messages.values()}
        replies = self._play.exchange(messages)
        for name, reply in replies.items():
            assert statement_of(reply).sender == name
        by_name = {name: statement_of(replies[name]).kind for name in NAMES if name in replies}
        self.kinds.append((kind, list(by_name.values())))
        return replies


NAMES = [f"client-{index}" for index in range(4)]
ALL = [(TRAIN, [UPDATE] * 4), (LISTING, [AGREED] * 4), (SUM, [OPENED] * 4)]


@pytest.mark.parametrize("stacked_clients", [1, 3, 4])
class TestARound:
    def test_its_messages_are_the_same(self, prepared, stacked_clients):
        running = prepared()
        watched = Watched(running, stacked_clients)
        running.aggregator.play_round()
        assert watched.kinds == ALL
        assert sorted(watched.told) == NAMES
        assert running.record.rounds[0].clients == tuple(NAMES)
        run = running.record.run
        for ledger in running.brought.ledgers.values():
            assert (len(ledger.events(run)), ledger.status(run, 1)) == (1, "committed")

    def test_who_has_no_budget_drops_out_alone(self, prepared, stacked_clients, monkeypatch):
        running = prepared()
        watched = Watched(running, stacked_clients)
        genuine = ClientNode.reserve

        def reserve(self, plan):
            if self.id == "client-1":
                raise PrivfedError("used up")
            return genuine(self, plan)

        monkeypatch.setattr(ClientNode, "reserve", reserve)
        running.aggregator.play_round()
        assert watched.kinds[0] == (TRAIN, [UPDATE, ABSENT, UPDATE, UPDATE])
        assert sorted(watched.told) == NAMES

    def test_one_that_has_no_run_open_stops_nobody_else(self, prepared, stacked_clients):
        """It was given the adapter of another client, and no epoch has begun since."""
        running = prepared()
        watched = Watched(running, stacked_clients)
        membership = running.clients["client-2"].membership
        membership.move_to(membership.progress)
        running.aggregator.play_round()
        assert watched.kinds[0] == (TRAIN, [UPDATE, UPDATE, REFUSAL, UPDATE])
        assert sorted(watched.told) == NAMES
        assert running.record.rounds[0].clients == ("client-0", "client-1", "client-3")

    def test_a_sum_is_opened_once(self, prepared, stacked_clients, monkeypatch):
        running, opened = prepared(), []
        Watched(running, stacked_clients)
        genuine = SharedKeyCipher.open

        def counted(self, *arguments):
            opened.append(1)
            return genuine(self, *arguments)

        monkeypatch.setattr(SharedKeyCipher, "open", counted)
        running.aggregator.play_round()
        assert len(opened) == 1
        for name in NAMES:
            memory = running.clients[name].membership.run.upload.opened
            assert memory.contributors_of(1) == tuple(NAMES), "each records it for itself"


def test_each_commits_what_was_trained_on_its_own_records(prepared, monkeypatch):
    running, committed = prepared(), {}
    Watched(running, 3)
    numbers = {
        id(node.encoded): 2.0 ** -(n + 5) for n, node in enumerate(running.brought.nodes.values())
    }

    def train(model, rounds):
        return [one.start.adapter + np.float32(numbers[id(one.encoded)]) for one in rounds]

    def encoded(self, vectors, codec, genuine=ClientNode.numbers):
        committed[self.id] = vectors["delta"]
        return genuine(self, vectors, codec)

    monkeypatch.setattr(stacked, "train_stacked", train)
    monkeypatch.setattr(ClientNode, "numbers", encoded)
    running.aggregator.play_round()
    found = {name: np.median(update) for name, update in committed.items()}
    expected = {name: 2.0 ** -(n + 5) for n, name in enumerate(NAMES)}
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_pass_that_fails_costs_those_in_it(prepared, monkeypatch):
    """Two of five train in a pass that fails; the other three are enough."""
    running = prepared(num_clients=5)
    watched, genuine, sizes = Watched(running, 2), stacked.train_stacked, []

    def fails_once(model, rounds):
        sizes.append(len(rounds))
        if len(sizes) == 1:
            raise ValueError("patient Smith")
        return genuine(model, rounds)

    monkeypatch.setattr(stacked, "train_stacked", fails_once)
    running.aggregator.play_round()
    assert sizes == [2, 2, 1]
    assert watched.kinds[0] == (TRAIN, [ABSENT, ABSENT, UPDATE, UPDATE])
    assert running.record.rounds[0].clients == ("client-2", "client-3", "client-4")
    assert watched.told == ["client-0", "client-1", "client-2", "client-3", "client-4"]
    for name in ("client-0", "client-1"):
        ledger = running.brought.ledgers[name]
        assert ledger.status(running.record.run, 1) == "reserved", "it is counted and lost"
