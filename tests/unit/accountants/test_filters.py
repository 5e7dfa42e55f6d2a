"""Which releases the filters admit, and which they refuse."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants import certified
from accountants.analyses import renyi
from accountants.analyses.divergences import rho
from accountants.errors import BudgetExceededError, InvalidValueError, UnsupportedAnalysisError
from accountants.events import (
    DiscreteGaussian,
    FixedSizeGaussian,
    Gaussian,
    PoissonGaussian,
    PureDP,
    Skellam,
    TreeAggregation,
    ZeroConcentrated,
)
from accountants.filters import AdaptiveFilter, ScheduleFilter, ZeroConcentratedFilter
from accountants.guarantees import Budget, Neighbouring

ADD_REMOVE, REPLACE_ONE = Neighbouring.ADD_REMOVE, Neighbouring.REPLACE_ONE
BUDGET = Budget(epsilon=2.0, delta=1e-5)


def noise(sigma, steps=1):
    return Gaussian(noise_multiplier=sigma, steps=steps)


def poisson(sigma, q, steps=1):
    return PoissonGaussian(noise_multiplier=sigma, sample_rate=q, steps=steps)


def certified_epsilon(events, neighbouring=ADD_REMOVE):
    return certified.epsilon(events, BUDGET.delta, neighbouring).upper


def fixed(*schedule, budget=BUDGET, neighbouring=ADD_REMOVE):
    return ScheduleFilter(budget=budget, schedule=schedule, neighbouring=neighbouring)


def adaptive(order=10.0, budget=BUDGET, neighbouring=ADD_REMOVE):
    return AdaptiveFilter(budget=budget, order=order, neighbouring=neighbouring)


def zero_concentrated(budget=BUDGET, neighbouring=ADD_REMOVE):
    return ZeroConcentratedFilter(budget=budget, neighbouring=neighbouring)


def test_schedule_filter_admits_up_to_the_budget():
    admission = fixed(noise(4.0, 3))
    history = []
    while True:
        try:
            spent = admission.admit(history, [noise(4.0)])
        except BudgetExceededError as refused:
            assert refused.allowed == BUDGET.epsilon < refused.epsilon
            assert "2.0" in str(refused) or "2 " in str(refused)
            break
        history.append(noise(4.0))
        assert spent == certified_epsilon(history)
    assert len(history) > 3
    assert certified_epsilon([*history, noise(4.0)]) > BUDGET.epsilon


def test_schedule_filter_admits_to_the_last_digit():
    spent = certified_epsilon([noise(4.0, 3)])
    at = Budget(epsilon=spent, delta=BUDGET.delta)
    below = Budget(epsilon=math.nextafter(spent, 0), delta=BUDGET.delta)
    assert fixed(noise(4.0), budget=at).admit([], [noise(4.0, 3)]) == spent
    with pytest.raises(BudgetExceededError):
        fixed(noise(4.0), budget=below).admit([], [noise(4.0, 3)])


def test_schedule_filter_uses_its_relation_and_all_of_the_history():
    admission = fixed(noise(4.0), neighbouring=REPLACE_ONE)
    assert admission.admit([], [noise(4.0)]) == certified_epsilon([noise(4.0)], REPLACE_ONE)
    with pytest.raises(BudgetExceededError):
        fixed(noise(4.0)).admit([noise(0.5)], [noise(4.0)])


def test_schedule_filter_refuses_other_mechanisms_and_names_the_right_filter():
    admission = fixed(noise(4.0, 3), poisson(2.0, 0.5, 3))
    for planned in (
        noise(4.1),
        noise(3.9),
        poisson(2.0, 0.4),
        PureDP(epsilon=1e-9, neighbouring=ADD_REMOVE),
    ):
        with pytest.raises(UnsupportedAnalysisError, match="AdaptiveFilter"):
            admission.admit([], [noise(4.0), planned])
        with pytest.raises(UnsupportedAnalysisError, match="AdaptiveFilter"):
            admission.claim([], [planned])
    earlier = [noise(30.0)]
    assert admission.admit(earlier, [noise(4.0)]) == certified_epsilon([*earlier, noise(4.0)])


def test_a_sampling_rate_of_one_is_no_other_mechanism():
    assert fixed(poisson(4.0, 1.0)).admit([], [noise(4.0)]) > 0
    assert fixed(noise(4.0)).admit([], [poisson(4.0, 1.0)]) > 0


@pytest.mark.parametrize("schedule", [None, [], ()])
def test_a_schedule_is_needed(schedule):
    with pytest.raises(InvalidValueError, match="schedule"):
        ScheduleFilter(budget=BUDGET, schedule=schedule, neighbouring=ADD_REMOVE)
    with pytest.raises(TypeError, match="schedule"):
        ScheduleFilter(budget=BUDGET, neighbouring=ADD_REMOVE)


def test_a_schedule_may_be_read_once():
    admission = ScheduleFilter(
        budget=BUDGET, schedule=iter([noise(4.0), noise(4.0)]), neighbouring=ADD_REMOVE
    )
    assert admission.schedule == (noise(4.0, 2),)
    assert admission.admit(iter([]), iter([noise(4.0)])) > 0
    assert admission.admit(iter([]), iter([noise(4.0)])) > 0
    with pytest.raises(FrozenInstanceError):
        admission.schedule = ()


def test_claim_is_the_cap_and_not_what_was_spent():
    admission = fixed(noise(6.0, 4))
    whole = certified_epsilon([noise(6.0, 4)])
    assert certified_epsilon([noise(6.0)]) < whole < BUDGET.epsilon
    assert admission.claim([], [noise(6.0)]) == whole
    assert admission.claim([], []) == whole
    earlier = [noise(6.0), noise(8.0)]
    assert admission.claim(earlier, [noise(6.0)]) == certified_epsilon([*earlier, noise(6.0, 4)])


def test_claim_is_the_budget_where_the_schedule_does_not_fit_or_was_passed():
    assert fixed(noise(6.0, 400)).claim([], [noise(6.0)]) == BUDGET.epsilon
    assert fixed(noise(6.0, 2)).claim([], [noise(6.0, 3)]) == BUDGET.epsilon
    with pytest.raises(BudgetExceededError):
        fixed(noise(6.0, 2)).claim([], [noise(6.0, 300)])


def test_adaptive_filter_by_hand():
    """At order 10 a divergence r is epsilon r + log(0.9) - log(1e-4) / 9."""
    penalty = math.log(0.9) - math.log(1e-4) / 9
    admission = adaptive(10.0)
    assert admission.limit == pytest.approx(2.0 - penalty)
    assert admission.admit([noise(5.0)], [noise(10.0, 2)]) == pytest.approx(0.3 + penalty)
    with pytest.raises(BudgetExceededError) as refused:
        admission.admit([noise(5.0)], [noise(2.0)])
    assert refused.value.epsilon == pytest.approx(0.2 + 1.25 + penalty)
    assert refused.value.allowed == 2.0


def test_adaptive_filter_uses_its_relation():
    found = adaptive(neighbouring=REPLACE_ONE).admit([], [noise(8.0)])
    assert found == pytest.approx(adaptive().admit([], [noise(4.0)]))


@pytest.mark.parametrize("order", [1.0, 0.0, -1.0, math.nan, math.inf, 1.01, 4.0])
def test_an_order_without_room_is_refused(order):
    with pytest.raises(InvalidValueError, match="order"):
        adaptive(order)


def test_the_order_comes_from_the_expected_schedule():
    """The order at which the budget holds the most copies of the expectation."""
    expected = [poisson(1.0, 0.01, 100)]
    chosen = AdaptiveFilter.for_schedule(BUDGET, expected, ADD_REMOVE)

    def copies(admission):
        step = renyi.rdp(expected, ADD_REMOVE, orders=[admission.order])[0]
        return admission.limit / step

    orders = [order for order in renyi.ORDERS if order > 7]
    assert copies(chosen) >= max(copies(adaptive(order)) for order in orders)
    rich = Budget(epsilon=50.0, delta=1e-5)
    assert AdaptiveFilter.for_schedule(rich, expected, ADD_REMOVE).order < chosen.order
    tight = Budget(epsilon=0.01, delta=1e-5)
    assert AdaptiveFilter.for_schedule(tight, [noise(1.0)], ADD_REMOVE).order > 500


@pytest.mark.parametrize(
    "expected", [[], [noise(0.0)], [PureDP(epsilon=0, neighbouring=ADD_REMOVE)]]
)
def test_an_expectation_must_say_something(expected):
    with pytest.raises(InvalidValueError, match="expected_events"):
        AdaptiveFilter.for_schedule(BUDGET, expected, ADD_REMOVE)


def test_a_budget_out_of_reach_of_every_order_is_refused():
    with pytest.raises(InvalidValueError, match="order"):
        AdaptiveFilter.for_schedule(Budget(epsilon=1e-6, delta=1e-9), [noise(1.0)], ADD_REMOVE)


def test_adaptive_filter_refuses_what_has_no_divergence_by_name():
    with pytest.raises(UnsupportedAnalysisError, match="PoissonGaussian"):
        adaptive(neighbouring=REPLACE_ONE).admit([], [poisson(1.0, 0.1)])
    with pytest.raises(UnsupportedAnalysisError, match="TreeAggregation"):
        adaptive().admit([TreeAggregation(noise_multiplier=1.0, leaves=2)], [])
    with pytest.raises(BudgetExceededError) as refused:
        adaptive().admit([], [noise(0.0)])
    assert refused.value.epsilon == math.inf


def test_zero_concentrated_filter_by_hand():
    admission = zero_concentrated()
    history = [noise(10.0), PureDP(epsilon=0.1, neighbouring=ADD_REMOVE)]
    planned = [
        ZeroConcentrated(rho=0.02, neighbouring=ADD_REMOVE, steps=2),
        DiscreteGaussian(standard_deviation=5.0, sensitivity=1.0),
    ]
    total = 0.005 + 0.005 + 0.04 + 0.02
    expected = renyi.epsilon_from_rdp(total * np.array(renyi.ORDERS), BUDGET.delta)[0]
    assert admission.admit(history, planned) == pytest.approx(float(expected))
    assert total < admission.limit < 0.12
    assert admission.admit([], [ZeroConcentrated(rho=admission.limit, neighbouring=ADD_REMOVE)])
    over = ZeroConcentrated(rho=admission.limit * 1.001, neighbouring=ADD_REMOVE)
    with pytest.raises(BudgetExceededError):
        admission.admit([], [over])


@pytest.mark.parametrize(
    "event",
    [
        poisson(1.0, 0.1),
        Skellam(variance=1.0, sensitivity=1.0, l1_sensitivity=1.0),
        FixedSizeGaussian(noise_multiplier=1.0, batch_size=1, dataset_size=2, steps=1),
        TreeAggregation(noise_multiplier=1.0, leaves=2),
        PureDP(epsilon=0.1, neighbouring=REPLACE_ONE),
    ],
    ids=lambda event: type(event).__name__,
)
def test_zero_concentrated_filter_refuses_by_name(event):
    with pytest.raises(UnsupportedAnalysisError, match=type(event).__name__):
        zero_concentrated().admit([], [event])
    with pytest.raises(UnsupportedAnalysisError, match=type(event).__name__):
        zero_concentrated().admit([event], [])


def test_each_filter_says_which_theorem_it_uses():
    assert "1605.08294" in fixed(noise(1.0)).theorem
    assert "2008.11193" in adaptive().theorem
    assert "2103.01379" in adaptive().theorem
    assert "2203.05481" in zero_concentrated().theorem


def run_adversary(admission, choices, divergence):
    """Let an adversary pick each release knowing what was refused; what was admitted."""
    history, refusals = [], 0
    for bold, careful in choices:
        for event in (bold, careful):
            try:
                admission.admit(history, [event])
            except BudgetExceededError:
                refusals += 1
                assert divergence([*history, event]) > admission.limit * (1 - 1e-9)
                continue
            history.append(event)
            assert divergence(history) <= admission.limit * (1 + 1e-9)
            break
    return history, refusals


releases = st.builds(noise, st.floats(0.5, 50), st.integers(1, 20))
sampled = st.builds(
    poisson, st.sampled_from([0.7, 1.0, 3.0]), st.sampled_from([0.01, 0.2]), st.integers(1, 500)
)


@settings(deadline=None, max_examples=60)
@given(
    choices=st.lists(st.tuples(releases | sampled, releases | sampled), max_size=12),
    order=st.sampled_from([8.0, 12.5, 40.0]),
)
def test_no_adversary_passes_the_adaptive_filter(choices, order):
    def divergence(events):
        return float(renyi.rdp(events, ADD_REMOVE, orders=[order])[0])

    history, _ = run_adversary(adaptive(order), choices, divergence)
    assert renyi.epsilon_from_rdp(np.array([divergence(history)]), 1e-5, [order])[0] <= 2.0


@settings(deadline=None, max_examples=60)
@given(choices=st.lists(st.tuples(releases, releases), max_size=12))
def test_no_adversary_passes_the_zero_concentrated_filter(choices):
    def total(events):
        return sum(event.steps * rho(event, ADD_REMOVE) for event in events)

    history, _ = run_adversary(zero_concentrated(), choices, total)
    assert certified_epsilon(history) <= 2.0


def test_the_adversary_does_meet_the_limit():
    choices = [(noise(4.0), noise(9.0))] * 100

    def divergence(events):
        return float(renyi.rdp(events, ADD_REMOVE, orders=[12.0])[0])

    history, refusals = run_adversary(adaptive(12.0), choices, divergence)
    assert refusals > 10
    assert divergence(history) > 0.9 * adaptive(12.0).limit


@settings(deadline=None, max_examples=30)
@given(events=st.lists(releases, max_size=5), seed=st.integers(0, 99))
def test_the_order_of_phases_is_irrelevant(events, seed):
    large = Budget(epsilon=1e6, delta=1e-5)
    shuffled = [events[i] for i in np.random.default_rng(seed).permutation(len(events))]
    for admission in (
        fixed(noise(1.0), *events, budget=large),
        adaptive(10.0, budget=large),
        zero_concentrated(budget=large),
    ):
        assert admission.admit(events[::-1], [noise(1.0)]) == pytest.approx(
            admission.admit([noise(1.0)], shuffled), rel=1e-12
        )


@pytest.mark.parametrize(
    "make", [lambda **terms: fixed(noise(4.0), **terms), adaptive, zero_concentrated]
)
def test_every_filter_checks_its_terms(make):
    assert make(neighbouring="replace_one").neighbouring is REPLACE_ONE
    assert make(neighbouring="replace_one") == make(neighbouring=REPLACE_ONE)
    for relation in ("replace", None):
        with pytest.raises(InvalidValueError, match="^neighbouring must be one of"):
            make(neighbouring=relation)
    for budget in (2.0, None, (2.0, 1e-5), Budget):
        with pytest.raises(InvalidValueError, match=r"^budget must be a Budget, .*use Budget\("):
            make(budget=budget)


def test_an_expected_schedule_comes_with_checked_terms():
    chosen = AdaptiveFilter.for_schedule(BUDGET, [noise(4.0)], "zero_out")
    assert chosen.neighbouring is Neighbouring.ZERO_OUT
    with pytest.raises(InvalidValueError, match="^budget must be a Budget"):
        AdaptiveFilter.for_schedule(2.0, [noise(4.0)], ADD_REMOVE)
    with pytest.raises(InvalidValueError, match="^neighbouring must be one of"):
        AdaptiveFilter.for_schedule(BUDGET, [noise(4.0)], "replace")


@pytest.mark.parametrize("order", [1, 1.0, 0.5])
def test_an_order_of_one_or_less_is_refused_by_name(order):
    with pytest.raises(InvalidValueError, match=f"^order must be above 1, got {order:g}; let for_"):
        adaptive(order)


def test_one_event_in_place_of_several_is_refused_with_what_to_write():
    one = noise(4.0)
    for ask in (
        lambda: fixed(one).admit(one, [one]),
        lambda: fixed(one).admit([], one),
        lambda: fixed(one).claim(one, [one]),
        lambda: fixed(one).claim([], one),
        lambda: ScheduleFilter(budget=BUDGET, schedule=one, neighbouring=ADD_REMOVE),
        lambda: adaptive().admit(one, [one]),
        lambda: adaptive().admit([], one),
        lambda: AdaptiveFilter.for_schedule(BUDGET, one, ADD_REMOVE),
        lambda: zero_concentrated().admit(one, [one]),
        lambda: zero_concentrated().admit([], one),
    ):
        with pytest.raises(InvalidValueError, match=r"got one event; use \[Gaussian\("):
            ask()


def test_a_claim_that_is_refused_speaks_of_the_past():
    with pytest.raises(BudgetExceededError) as refused:
        fixed(noise(6.0, 2)).claim([noise(6.0, 200)], [noise(6.0, 100)])
    assert str(refused.value).startswith("more was released than the budget admits: ")
    assert "would" not in str(refused.value)
    assert "was not made" not in str(refused.value)
    assert refused.value.epsilon == certified_epsilon([noise(6.0, 300)])
    assert refused.value.allowed == BUDGET.epsilon
