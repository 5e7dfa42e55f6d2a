"""One client: reserve, train, commit, encrypt, in this order, each once."""

from dataclasses import replace

import numpy as np
import pytest

from accountants import BudgetExceededError, Ledger, LedgerStateError, PoissonGaussian, epsilon
from privfed.errors import EncryptionError, PrivfedError
from privfed.methods.method import DELTA, Start, vector_digest
from privfed.models.vector import read_vector
from privfed.parties.client.node import RoundLostError
from privfed.protocol.envelopes import Envelope
from privfed.protocol.terms import RoundPlan
from tests.organisations import ORGANISATIONS


@pytest.fixture
def node(plain):
    return plain.one.node


def everything(state):
    return Start(adapter=state.adapter, moving=np.ones(len(state.adapter), dtype=bool))


@pytest.fixture
def codec(plain):
    return codec_of(plain)


def codec_of(clients):
    """How a client of FedAvg sends its update in the first round."""
    return clients.one.upload.codec(clients.range, clients.one._transition.uploads(1))


def counted(node):
    return sum(event.steps for event in node.ledger.events())


class TestReserving:
    def test_it_is_counted_before_anything_is_drawn(self, plain, node):
        assert counted(node) == 0
        assert node.reserve(plain.plan()) is not None
        assert counted(node) == node.config.steps == 2
        assert node.ledger.status(plain.plan().run, 1) == "reserved"

    def test_a_round_that_was_begun_and_lost_is_not_trained_again(self, plain, node):
        node.reserve(plain.plan())
        with pytest.raises(RoundLostError, match="round 1 was begun before a crash"):
            node.reserve(plain.plan())
        assert counted(node) == 2

    def test_one_that_was_committed_needs_no_second_budget(self, plain, node, codec):
        update = np.zeros(len(plain.one.progress.state.adapter))
        node.commit(node.reserve(plain.plan()), node.numbers({DELTA: update}, codec), None)
        assert node.reserve(plain.plan()) is None
        assert counted(node) == 2

    def test_the_last_round_that_fits_is_the_last(self, plain, node):
        for number in (1, 2, 3):
            assert not node.has_no_budget_for(plain.plan(number))
            node.reserve(plain.plan(number))
        assert not node.has_no_budget_for(plain.plan(3)), "it is counted already"
        assert node.has_no_budget_for(plain.plan(4))
        with pytest.raises(BudgetExceededError):
            node.reserve(plain.plan(4))
        assert counted(node) == 3 * 2


class TestWhatItReleases:
    def test_its_own_noise_and_rate(self, node):
        rate = 20 / ORGANISATIONS[0].public_size
        steps = PoissonGaussian(
            noise_multiplier=node.config.noise_multiplier, sample_rate=rate, steps=2
        )
        assert node.releases() == (steps,)

    def test_what_it_has_spent_is_what_its_ledger_counts(self, plain, node):
        assert node.epsilon_spent() == 0
        node.reserve(plain.plan())
        budget = ORGANISATIONS[0].budget
        wanted = epsilon(node.releases(), budget.delta, node.filter.neighbouring).upper
        assert node.epsilon_spent() == wanted > 0


class TestTraining:
    def test_from_the_adapter_of_the_plan_alone(self, plain, node):
        state = plain.one.progress.state
        more = replace(state, memory={"more": np.zeros(1)})
        other = replace(state, adapter=state.adapter + 1)
        for wrong in (other, more):
            with pytest.raises(PrivfedError, match="not the one that the round plan names"):
                node.local_round(plain.plan(), wrong, everything(state))
        plan = RoundPlan(run="r", round=2, base_digest=vector_digest(other.adapter))
        assert node.local_round(plan, other, everything(other)).config.steps == 2

    def test_the_update_is_what_moved(self, plain, node):
        state = plain.one.progress.state
        update = node.update(plain.plan(), state, everything(state))
        assert update.shape == state.adapter.shape
        moved = read_vector(node.model.adapter)
        assert np.array_equal(moved.astype(np.float64), state.adapter.astype(np.float64) + update)
        assert np.abs(update).max() > 0

    def test_each_time_with_noise_of_its_own(self, plain, node):
        state = plain.one.progress.state
        first, second = (node.update(plain.plan(), state, everything(state)) for _ in range(2))
        assert not np.array_equal(first, second)


class TestCommitting:
    def test_the_numbers_are_those_of_the_weighted_update(self, plain, node, codec):
        update = np.linspace(-plain.range, plain.range, len(plain.one.progress.state.adapter))
        node.commit(node.reserve(plain.plan()), node.numbers({DELTA: update}, codec), None)
        message = Envelope.from_bytes(
            node.encrypt(plain.summing.terms(plain.plan(), plain.range), codec)
        )
        numbers = np.frombuffer(message.blobs["values"], dtype="<i4")
        step = 2 * plain.range / (2**12 - 2)
        assert np.abs(numbers * step - codec.weight * update).max() <= step

    def test_what_is_not_finite_is_not_committed(self, plain, node, codec):
        update = np.full(len(plain.one.progress.state.adapter), np.nan)
        with pytest.raises(EncryptionError, match="must be finite"):
            node.commit(node.reserve(plain.plan()), node.numbers({DELTA: update}, codec), None)
        assert node.ledger.status(plain.plan().run, 1) == "reserved", "and it is counted"

    def test_before_it_nothing_can_leave(self, plain, node, codec):
        terms = plain.summing.terms(plain.plan(), plain.range)
        with pytest.raises(RoundLostError):
            node.encrypt(terms, codec)
        node.reserve(plain.plan())
        with pytest.raises(RoundLostError):
            node.encrypt(terms, codec)


KEPT = {
    "control": np.linspace(-1, 1, 7, dtype=np.float32),
    "exact": np.array([[0.1], [-np.pi]], dtype=np.float64),
    "rounds": np.array([3], dtype=np.int32),
}


def bits(kept):
    """All of what is kept, bit by bit."""
    return {name: (one.dtype, one.shape, one.tobytes()) for name, one in kept.items()}


class TestKeeping:
    """What a client keeps is written in the transaction of the commit, and never sent."""

    @pytest.fixture
    def commit(self, plain, node, codec):
        """A function that commits a round of the node with what it keeps."""

        def made(kept, number=1, run=None):
            update = np.linspace(-plain.range, plain.range, len(plain.one.progress.state.adapter))
            plan = plain.plan(number) if run is None else replace(plain.plan(number), run=run)
            node.commit(node.reserve(plan), node.numbers({DELTA: update}, codec), kept)
            return plan.run

        return made

    def test_it_is_there_bit_by_bit(self, node, commit):
        assert bits(node.kept(commit(KEPT))) == bits(KEPT)

    def test_also_after_a_restart(self, node, commit):
        run = commit(KEPT)
        path, identity = node.ledger.path, node.ledger.identity.to_json()
        again = replace(node, ledger=Ledger.open(path, **identity))
        assert again.ledger is not node.ledger
        assert bits(again.kept(run)) == bits(KEPT)

    def test_before_a_commit_there_is_nothing(self, plain, node):
        assert node.kept(plain.plan().run) is None
        node.reserve(plain.plan())
        assert node.kept(plain.plan().run) is None

    def test_nor_where_nothing_is_kept(self, node, commit):
        assert node.kept(commit(None)) is None

    def test_it_is_that_of_the_last_commit_of_its_run(self, plain, node, commit):
        other = {"control": np.array([7.0], dtype=np.float32)}
        run, another = commit(KEPT), commit(other, run="0a1b")
        assert run == plain.plan().run != another
        assert bits(node.kept(run)) == bits(KEPT)
        assert bits(node.kept(another)) == bits(other)
        later = {"control": -KEPT["control"]}
        commit(later, number=2)
        assert bits(node.kept(run)) == bits(later)
        assert bits(node.kept(another)) == bits(other)
        assert node.kept("2c3d") is None

    def test_a_commit_that_fails_keeps_what_was_before(self, plain, node, codec, commit):
        """Both are written or neither is."""
        run = commit(KEPT)
        numbers = node.numbers({DELTA: np.zeros(len(plain.one.progress.state.adapter))}, codec)
        reservation = replace(node.reserve(plain.plan(2)), id=77)
        with pytest.raises(LedgerStateError):
            node.commit(reservation, numbers, {"control": KEPT["control"] + 1})
        assert bits(node.kept(run)) == bits(KEPT)

    def test_it_stands_beside_the_numbers_in_one_commit(self, plain, node, commit):
        length = node.ledger.anchor().length
        run = commit(KEPT)
        assert node.ledger.anchor().length == length + 2, "a reservation and a commit"
        assert node.ledger.last_outgoing(run) == node.ledger.outgoing(run, 1)
        assert KEPT["control"].tobytes() in node.ledger.outgoing(run, 1)

    def test_it_is_not_sent(self, plain, node, codec, commit):
        commit(KEPT)
        message = node.encrypt(plain.summing.terms(plain.plan(), plain.range), codec)
        params = len(plain.one.progress.state.adapter)
        values = bytes(Envelope.from_bytes(message).blobs["values"])
        assert len(values) == params * np.dtype("<i4").itemsize
        for name, one in KEPT.items():
            assert one.tobytes() not in message, name
        for at in range(len(KEPT["control"]) - 1):
            assert KEPT["control"][at : at + 2].tobytes() not in message
        for name in ("control", "exact"):
            assert name.encode() not in message

    def test_the_message_is_as_without_it(self, plain, node, codec, commit):
        """All but the ledger's anchor and the numbers' rounding, which is drawn each time."""
        sent = []
        for number, kept in ((1, None), (2, KEPT)):
            commit(kept, number)
            terms = plain.summing.terms(plain.plan(number), plain.range)
            sent.append(Envelope.from_bytes(node.encrypt(terms, codec)))
        without, beside = sent
        assert without.statement.manifest.keys() == beside.statement.manifest.keys()
        assert without.blobs.keys() == beside.blobs.keys()
        one, other = (np.frombuffer(each.blobs["values"], "<i4") for each in sent)
        assert len(one) == len(other)
        assert np.abs(one - other).max() <= 1, "the same update on the same grid"


def test_in_clear_there_is_nothing_to_answer(plain, node, codec):
    terms = plain.summing.terms(plain.plan(), plain.range)
    with pytest.raises(EncryptionError, match="nothing to answer"):
        node.answer(terms, b"", b"", codec)
