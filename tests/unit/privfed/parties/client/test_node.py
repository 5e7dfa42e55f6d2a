"""One client: reserve, train, commit, encrypt, in this order, each once."""

import numpy as np
import pytest

from accountants import BudgetExceededError, PoissonGaussian, epsilon
from privfed.errors import EncryptionError, PrivfedError
from privfed.models.vector import read_vector, vector_digest
from privfed.parties.client.node import RoundLostError
from privfed.protocol.envelopes import Envelope
from privfed.protocol.terms import RoundPlan
from tests.organisations import ORGANISATIONS


@pytest.fixture
def node(plain):
    return plain.one.node


@pytest.fixture
def codec(plain):
    return plain.one.upload.codec(plain.range)


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
        update = np.zeros(len(plain.one.progress.state))
        node.commit(node.reserve(plain.plan()), update, codec)
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
        assert node.release() == PoissonGaussian(
            noise_multiplier=node.config.noise_multiplier, sample_rate=rate, steps=2
        )

    def test_what_it_has_spent_is_what_its_ledger_counts(self, plain, node):
        assert node.epsilon_spent() == 0
        node.reserve(plain.plan())
        budget = ORGANISATIONS[0].budget
        wanted = epsilon([node.release()], budget.delta, node.filter.neighbouring).upper
        assert node.epsilon_spent() == wanted > 0


class TestTraining:
    def test_from_the_adapter_of_the_plan_alone(self, plain, node):
        state = plain.one.progress.state
        with pytest.raises(PrivfedError, match="not the one that the round plan names"):
            node.local_round(plain.plan(), state + 1)
        plan = RoundPlan(run="r", round=2, base_digest=vector_digest(state + 1))
        assert node.local_round(plan, state + 1).config.steps == 2

    def test_the_update_is_what_moved(self, plain, node):
        state = plain.one.progress.state
        update = node.update(plain.plan(), state)
        assert update.shape == state.shape
        moved = read_vector(node.model.adapter)
        assert np.array_equal(moved.astype(np.float64), state.astype(np.float64) + update)
        assert np.abs(update).max() > 0

    def test_each_time_with_noise_of_its_own(self, plain, node):
        state = plain.one.progress.state
        first, second = (node.update(plain.plan(), state) for _ in range(2))
        assert not np.array_equal(first, second)


class TestCommitting:
    def test_the_numbers_are_those_of_the_weighted_update(self, plain, node, codec):
        update = np.linspace(-plain.range, plain.range, len(plain.one.progress.state))
        node.commit(node.reserve(plain.plan()), update, codec)
        message = Envelope.from_bytes(
            node.hide(plain.summing.terms(plain.plan(), plain.range), codec)
        )
        numbers = np.frombuffer(message.blobs["values"], dtype="<i4")
        step = 2 * plain.range / (2**12 - 2)
        assert np.abs(numbers * step - codec.weight * update).max() <= step

    def test_what_is_not_finite_is_not_committed(self, plain, node, codec):
        update = np.full(len(plain.one.progress.state), np.nan)
        with pytest.raises(EncryptionError, match="must be finite"):
            node.commit(node.reserve(plain.plan()), update, codec)
        assert node.ledger.status(plain.plan().run, 1) == "reserved", "and it is counted"

    def test_before_it_nothing_can_leave(self, plain, node, codec):
        terms = plain.summing.terms(plain.plan(), plain.range)
        with pytest.raises(RoundLostError):
            node.hide(terms, codec)
        node.reserve(plain.plan())
        with pytest.raises(RoundLostError):
            node.hide(terms, codec)


def test_in_clear_there_is_nothing_to_answer(plain, node, codec):
    terms = plain.summing.terms(plain.plan(), plain.range)
    with pytest.raises(EncryptionError, match="nothing to answer"):
        node.answer(terms, b"", b"", codec)
