"""What one epsilon says of several clients, and several clients' budgets kept by their ledgers."""

import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants import (
    Budget,
    BudgetExceededError,
    FixedSizeGaussian,
    Gaussian,
    InvalidValueError,
    Ledger,
    Neighbouring,
    PoissonGaussian,
    ScheduleFilter,
    UnsupportedAnalysisError,
    epsilon,
)
from accountants.federation import federation_epsilon, largest_epsilon, shared_record_epsilon

ADD_REMOVE = Neighbouring.ADD_REMOVE
DELTA = 1e-5
SIGMA_ONE = 4.377178
"""Epsilon of one Gaussian at sigma 1 and delta 1e-5: Balle & Wang 2018, arXiv:1805.06530."""


def noise(sigma, steps=1):
    return Gaussian(noise_multiplier=sigma, steps=steps)


def poisson(sigma, q, steps=1):
    return PoissonGaussian(noise_multiplier=sigma, sample_rate=q, steps=steps)


def of_federation(histories, **options):
    return federation_epsilon(histories, DELTA, ADD_REMOVE, **options)


def of_shared_record(histories, **options):
    return shared_record_epsilon(histories, DELTA, ADD_REMOVE, **options)


# Disjoint records


def test_the_federation_has_the_largest_epsilon_not_the_sum_or_the_mean():
    found = of_federation({"a": [noise(2.0)], "b": [noise(1.0)], "c": [noise(4.0)], "d": []})
    assert found.client == "b"
    assert SIGMA_ONE <= found.bounds.upper <= SIGMA_ONE + 1e-5
    assert found.bounds == epsilon([noise(1.0)], DELTA, ADD_REMOVE)
    assert "no record is held by more than one client" in found.assumption


def test_a_person_with_two_records_is_protected_by_half_the_noise():
    found = of_federation({"a": [noise(2.0)], "b": [noise(3.0)]}, group_size=2)
    assert found.client == "a"
    assert found.bounds.upper == pytest.approx(SIGMA_ONE, abs=1e-5)


@pytest.mark.parametrize(("records", "golden"), [(2, 13.458731946986822), (4, 34.106027253256144)])
def test_groups_reach_golden_values(records, golden):
    """Mixture of Gaussians by dp-accounting 0.6.0 at discretisation 1e-3."""
    histories = {"a": [poisson(1.0, 0.032, 1000)]}
    found = federation_epsilon(histories, 1e-4, ADD_REMOVE, group_size=records).bounds
    assert found.lower <= golden
    assert found.upper == pytest.approx(golden, rel=2e-3)


def test_another_relation_is_another_number():
    found = federation_epsilon({"a": [noise(2.0)]}, DELTA, Neighbouring.REPLACE_ONE)
    assert found.bounds.upper == pytest.approx(SIGMA_ONE, abs=1e-5)


def test_a_release_without_noise_leaves_the_federation_nothing():
    found = of_federation({"a": [noise(2.0)], "b": [noise(0.0)]})
    assert (found.client, found.bounds.upper) == ("b", math.inf)


def test_a_history_without_an_analysis_names_its_client():
    event = FixedSizeGaussian(noise_multiplier=1.0, batch_size=2, dataset_size=9, steps=1)
    with pytest.raises(UnsupportedAnalysisError, match="^client 'b': FixedSizeGaussian"):
        of_federation({"a": [], "b": [event]})
    with pytest.raises(InvalidValueError, match="^client 'b': events must be a list"):
        of_federation({"a": [], "b": noise(1.0)})


@pytest.mark.parametrize("claim", [math.nan, np.nan, -0.1, -math.inf, True, "2", None])
def test_no_claim_is_overlooked(claim):
    """The largest of numbers with a NaN among them depends on their order."""
    for claims in ({"a": 1.0, "b": claim}, {"b": claim, "a": 1.0}):
        with pytest.raises(InvalidValueError, match="epsilon of client 'b' must be"):
            largest_epsilon(claims)


def test_the_largest_claim_is_found_with_its_client():
    assert largest_epsilon({"a": 0.5, "b": np.float64(2.5), "c": 2}) == ("b", 2.5)
    assert largest_epsilon({"a": 0.5, "b": math.inf}) == ("b", math.inf)
    assert largest_epsilon({"first": 0.0, "second": 0.0}) == ("first", 0.0)


# A record that several clients hold


def test_a_record_at_two_clients_composes_both_histories():
    """Two Gaussians at sigma sqrt(2) are one at sigma 1."""
    held = {name: [noise(math.sqrt(2))] for name in "ab"}
    assert of_shared_record(held).upper == pytest.approx(SIGMA_ONE, abs=1e-5)
    assert of_shared_record({"a": held["a"]}) == of_federation(held).bounds


def test_a_shared_record_reaches_golden_values():
    """Apart and together, by dp-accounting 0.6.0 at discretisation 1e-3."""
    histories = {"a": [poisson(1.0, 0.032, 1000)], "b": [poisson(2.0, 0.1, 500)]}
    for bounds, golden in (
        (of_federation(histories).bounds, 6.588976760625417),
        (of_federation({"b": histories["b"]}).bounds, 5.555642100579029),
        (of_shared_record(histories), 9.010645417459246),
    ):
        assert bounds.lower <= golden
        assert bounds.upper == pytest.approx(golden, rel=1e-3)


def test_two_records_at_each_of_two_clients():
    """Four Gaussians at sigma 4, each moved by two records: one at sigma 1."""
    held = {name: [noise(4.0, 2)] for name in "ab"}
    assert of_shared_record(held, group_size=2).upper == pytest.approx(SIGMA_ONE, abs=1e-5)


histories_of_clients = st.dictionaries(
    st.sampled_from("abcdef"),
    st.lists(st.sampled_from([noise(4.0), noise(9.0, 2), poisson(2.0, 0.25, 4)]), max_size=3),
    min_size=1,
)


@settings(max_examples=30, deadline=None)
@given(histories_of_clients)
def test_nobody_is_worse_off_than_the_federation_says_but_whoever_is_at_several(histories):
    whole = of_federation({name: iter(events) for name, events in histories.items()})
    alone = [epsilon(events, DELTA, ADD_REMOVE) for events in histories.values()]
    assert whole.bounds.upper == max(bounds.upper for bounds in alone)
    assert whole.bounds.lower == max(bounds.lower for bounds in alone)
    together = of_shared_record(histories)
    union = [event for events in histories.values() for event in events]
    assert together == epsilon(union, DELTA, ADD_REMOVE)
    assert together.upper >= whole.bounds.upper * (1 - 2e-3)


# What cannot be asked


@pytest.mark.parametrize("ask", [of_federation, of_shared_record])
def test_there_must_be_clients(ask):
    with pytest.raises(InvalidValueError, match="at least one client, got none"):
        ask({})


def test_clients_have_names():
    with pytest.raises(InvalidValueError, match="client must be text"):
        of_federation({"": []})


@pytest.mark.parametrize("ask", [federation_epsilon, shared_record_epsilon])
def test_values_are_checked(ask):
    held = {"a": [noise(1.0)]}
    for delta in (1.0, math.nan, -1e-5, True):
        with pytest.raises(InvalidValueError, match="^delta"):
            ask(held, delta, ADD_REMOVE)
    for records in (0, 1.5, math.nan, True):
        with pytest.raises(InvalidValueError, match="^group_size"):
            ask(held, DELTA, ADD_REMOVE, group_size=records)
    with pytest.raises(InvalidValueError, match="^neighbouring"):
        ask(held, DELTA, "neighbours")


# Several budgets, each kept by a ledger and a filter

STEP = noise(4.0)


def ledger_of(folder, name):
    return Ledger.open_or_create(
        folder / name, client=name, dataset="notes", unit="one note", neighbouring=ADD_REMOVE
    )


def filter_with(limit):
    return ScheduleFilter(
        budget=Budget(epsilon=limit, delta=DELTA), schedule=[STEP], neighbouring=ADD_REMOVE
    )


def test_one_client_is_refused_and_the_others_go_on(tmp_path):
    """One step costs 0.926: the second one's budget has no room, and its ledger stays as it was."""
    ledgers = {name: ledger_of(tmp_path, name) for name in ("north", "south")}
    filters = {"north": filter_with(2.0), "south": filter_with(0.5)}
    before, refused = ledgers["south"].anchor(), []
    for name, ledger in ledgers.items():
        try:
            reservation = ledger.reserve("run", 0, [STEP], filters[name].admit)
        except BudgetExceededError:
            refused.append(name)
        else:
            ledger.commit(reservation.id, [STEP], b"the update")
    assert refused == ["south"]
    assert ledgers["south"].anchor() == before
    found = of_federation({name: ledger.events() for name, ledger in ledgers.items()})
    assert (found.client, found.bounds) == ("north", epsilon([STEP], DELTA, ADD_REMOVE))


@pytest.mark.parametrize("rooms", [0, 1, 5])
def test_several_runs_at_once_cannot_pass_a_budget(tmp_path, rooms):
    limit = epsilon([noise(4.0, 3 + rooms)], DELTA, ADD_REMOVE).upper
    ledger_of(tmp_path, "a").reserve("past", 0, [noise(4.0, 3)], filter_with(limit).admit)
    barrier, admitted = threading.Barrier(4), []

    def take(run):
        ledger, admission = ledger_of(tmp_path, "a"), filter_with(limit)
        barrier.wait()
        for round in range(3):
            try:
                admitted.append(ledger.reserve(run, round, [STEP], admission.admit))
            except BudgetExceededError:
                return

    threads = [threading.Thread(target=take, args=(f"run {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == rooms
    spent = epsilon(ledger_of(tmp_path, "a").events(), DELTA, ADD_REMOVE).upper
    assert spent == limit
