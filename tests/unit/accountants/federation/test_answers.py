"""Each distinct question is put once, and no answer says more than a filter can prove."""

import math
from dataclasses import dataclass

import pytest

from accountants import certified
from accountants.errors import (
    BudgetExceededError,
    UnsupportedAnalysisError,
)
from accountants.events import canonical
from accountants.federation.accountant import Client, FederatedAccountant, Outcome
from accountants.federation.answers import BUDGET_OF_FILTER, Answers
from accountants.filters import ZeroConcentratedFilter
from accountants.guarantees import Budget, EpsilonBounds, Neighbouring
from tests.unit.accountants.federation.federations import (
    ADD_REMOVE,
    DELTA,
    STEP,
    MemoryLedger,
    adaptive,
    budget,
    each,
    in_memory,
    noise,
    scheduled,
)

REPLACE_ONE = Neighbouring.REPLACE_ONE


@pytest.fixture
def asked(monkeypatch):
    """Every question put to the certified accountant."""
    calls = []

    def epsilon(*args, **kwargs):
        calls.append((args, tuple(kwargs.items())))
        return original(*args, **kwargs)

    original = certified.epsilon
    monkeypatch.setattr(certified, "epsilon", epsilon)
    return calls


@dataclass(frozen=True)
class Predicate:
    """A filter that answers yes or no, and raises nothing."""

    answer: bool
    budget: Budget
    neighbouring: Neighbouring = ADD_REMOVE

    def admit(self, history, planned):
        return self.answer


@pytest.mark.parametrize("answer", [False, True])
def test_a_filter_that_answers_with_a_bool_admits_nothing(answer):
    accountant = in_memory({"a": []}, Predicate(answer, budget(2.0)))
    for decision in (
        accountant.preview({"a": [STEP]})["a"],
        accountant.before_round("run", 0, {"a": [STEP]})["a"],
    ):
        assert decision.outcome is Outcome.NOT_COVERED
        assert f"it returned {answer}" in decision.reason
    assert accountant.clients["a"].ledger.events() == ()


@pytest.mark.parametrize("answer", [3.0, math.inf, math.nan])
def test_a_filter_that_admits_more_than_its_budget_is_not_believed(answer):
    @dataclass(frozen=True)
    class Generous:
        budget: Budget
        neighbouring: Neighbouring

        def admit(self, history, planned):
            return answer

    decision = in_memory({"a": []}, Generous(budget(2.0), ADD_REMOVE)).before_round(
        "run", 0, {"a": [STEP]}
    )["a"]
    assert decision.outcome is Outcome.OVER_BUDGET
    assert "correct the filter" in decision.reason


@pytest.mark.parametrize(
    "filter", [adaptive(), ZeroConcentratedFilter(budget=budget(3.0), neighbouring=ADD_REMOVE)]
)
def test_where_parameters_follow_results_the_claim_is_the_budget(filter):
    accountant = in_memory({"a": [], "b": [noise(4.0), noise(5.0)]}, filter)
    found = accountant.epsilons()
    assert found["a"].upper == 0
    assert (found["b"].lower, found["b"].upper) == (0.0, 3.0)
    assert "budget" in found["b"].method
    assert accountant.epsilons(1e-4)["b"].upper == 3.0
    assert accountant.federation_epsilon().bounds == found["b"]
    with pytest.raises(UnsupportedAnalysisError, match="client 'b': delta must be at least"):
        accountant.epsilons(1e-6)
    with pytest.raises(UnsupportedAnalysisError, match="client 'b'.*follow results"):
        accountant.shared_record_epsilon(["b"])
    with pytest.raises(UnsupportedAnalysisError, match="client 'b'.*follow results"):
        accountant.group_epsilon("b", 2)


def test_what_was_released_past_an_adaptive_filter_is_not_covered_by_its_budget():
    accountant = in_memory({"a": [noise(0.5)]}, adaptive())
    with pytest.raises(UnsupportedAnalysisError, match="client 'a': all releases must be within"):
        accountant.epsilons()


def many(num_clients, num_histories):
    """Histories of clients, some of them the same releases in another order or in pieces."""
    held = {}
    for number in range(num_clients):
        kind, form = number % num_histories, number // num_histories % 3
        rounds = [noise(50.0, 1 + kind), noise(70.0, 2)]
        held[f"client {number}"] = [
            rounds,
            rounds[::-1],
            [noise(70.0), *rounds[:1], noise(70.0)],
        ][form]
    return held


def test_ten_thousand_clients_with_79_histories_cost_79_computations(asked):
    accountant = in_memory(many(10_000, 79))
    found = accountant.epsilons()
    assert len(asked) == 79
    assert len(found) == 10_000
    assert len({bounds.upper for bounds in found.values()}) == 79
    assert found["client 80"] == found["client 1"] != found["client 2"]


def test_equal_filters_with_equal_histories_are_asked_once(asked):
    accountant = in_memory(many(300, 7), scheduled(100.0, schedule=[noise(50.0), noise(70.0)]))
    planned = each(accountant.clients, [noise(50.0)])
    assert all(decision.admitted for decision in accountant.preview(planned).values())
    assert len(asked) == 7
    decisions = accountant.before_round("run", 0, planned)
    assert all(decision.admitted for decision in decisions.values())
    assert len(asked) == 14


def test_clients_that_differ_in_delta_or_relation_are_computed_apart(asked):
    filters = [scheduled(99.0), scheduled(99.0, 1e-6), scheduled(99.0, neighbouring=REPLACE_ONE)]
    clients = {
        f"client {number}": Client(
            ledger=MemoryLedger(f"client {number}", [noise(3.0)], filter.neighbouring),
            filter=filter,
        )
        for number, filter in enumerate(3 * filters)
    }
    found = FederatedAccountant(clients).epsilons()
    assert len(asked) == 3
    assert len({bounds.upper for bounds in found.values()}) == 3


def test_refusals_are_grouped_too_and_name_each_client(asked):
    accountant = in_memory(many(30, 2), scheduled(0.01, schedule=[noise(50.0)]))
    decisions = accountant.before_round("r", 0, each(accountant.clients, [noise(50.0)]))
    assert len(asked) == 2
    for name, decision in decisions.items():
        assert decision.outcome is Outcome.OVER_BUDGET
        assert decision.reason.startswith(f"client {name!r}: ")


# One question.


class Counting:
    """A filter that keeps what it was asked, and admits or raises the same each time."""

    def __init__(self, limit, answer):
        self.budget, self.neighbouring = budget(limit), ADD_REMOVE
        self.answer, self.asked = answer, []

    def admit(self, history, planned):
        self.asked.append((history, planned))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_one_question_in_other_words_is_put_once():
    answers, filter = Answers(), Counting(2.0, 1.5)
    for history in ((noise(3.0), STEP, STEP), (noise(4.0, 2), noise(3.0))):
        assert answers.ask(filter, history, (STEP,)) == 1.5
    assert filter.asked == [(canonical([noise(3.0), noise(4.0, 2)]), (STEP,))]
    answers.ask(filter, (noise(3.0), STEP, STEP), (noise(3.0),))
    assert len(filter.asked) == 2
    Answers().ask(filter, (noise(4.0, 2), noise(3.0)), (STEP,))
    assert len(filter.asked) == 3


def test_a_refusal_is_raised_each_time_and_put_once():
    refusal = BudgetExceededError("no", epsilon=3.0, allowed=2.0)
    answers, filter = Answers(), Counting(2.0, refusal)
    for _ in range(2):
        with pytest.raises(BudgetExceededError, match="^no$") as found:
            answers.ask(filter, (), (STEP,))
        assert (found.value.epsilon, found.value.allowed) == (3.0, 2.0)
    assert len(filter.asked) == 1


def test_an_answer_up_to_the_budget_is_believed_and_none_above_it():
    assert Answers().ask(Counting(2.0, 2.0), (), (STEP,)) == 2.0
    with pytest.raises(BudgetExceededError, match="correct the filter") as found:
        Answers().ask(Counting(2.0, 2.0 + 1e-12), (), (STEP,))
    assert found.value.allowed == 2.0 < found.value.epsilon


def test_under_a_schedule_the_claim_is_the_certified_bound():
    history = (STEP, noise(9.0), STEP)
    found = Answers().claim(scheduled(), history, 1e-6)
    assert found == certified.epsilon(history, 1e-6, ADD_REMOVE)
    replaced = Answers().claim(scheduled(neighbouring=REPLACE_ONE), history, 1e-6)
    assert replaced == certified.epsilon(history, 1e-6, REPLACE_ONE)


def test_the_claim_of_an_adaptive_filter_is_its_budget_from_its_delta_on():
    filter, history = adaptive(3.0), (STEP,)
    assert Answers().claim(filter, history, DELTA) == EpsilonBounds(0.0, 3.0, BUDGET_OF_FILTER)
    assert Answers().claim(filter, history, 2 * DELTA).upper == 3.0
    with pytest.raises(UnsupportedAnalysisError, match="at least the 1e-05 of the budget, got 9e"):
        Answers().claim(filter, history, 0.9 * DELTA)
    assert Answers().claim(filter, (), 0.9 * DELTA).upper == 0


def test_the_budget_is_claimed_only_for_what_the_filter_admits():
    past = BudgetExceededError("past it", epsilon=2.5, allowed=2.0)
    with pytest.raises(UnsupportedAnalysisError, match="and these are not: past it$") as found:
        Answers().claim(Counting(2.0, past), (STEP,), DELTA)
    assert found.value.__cause__ is past
    filter = Counting(2.0, 1.5)
    assert Answers().claim(filter, (STEP,), DELTA).upper == 2.0
    assert filter.asked == [((STEP,), ())]
