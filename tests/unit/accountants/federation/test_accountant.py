"""Many clients: who may release, what each has spent, and what that means for a record."""

import contextlib
import doctest
import math
import shutil
import sqlite3
import threading
from contextlib import closing
from dataclasses import FrozenInstanceError, dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants import certified
from accountants.errors import (
    BudgetExceededError,
    InvalidValueError,
    LedgerCorruptError,
    LedgerMissingError,
    LedgerRolledBackError,
    LedgerStateError,
    UnsupportedAnalysisError,
)
from accountants.events import FixedSizeGaussian
from accountants.federation import accountant as federation
from accountants.federation.accountant import Client, FederatedAccountant, Outcome
from accountants.filters import ScheduleFilter
from accountants.guarantees import Budget, Neighbouring
from accountants.ledger.ledger import Ledger
from tests.unit.accountants.federation.federations import (
    ADD_REMOVE,
    DELTA,
    SIGMA_ONE,
    STEP,
    MemoryLedger,
    adaptive,
    each,
    in_memory,
    noise,
    poisson,
    scheduled,
)

REPLACE_ONE = Neighbouring.REPLACE_ONE


def on_disk(folder, filters, anchors=None):
    """An accountant of clients with these filters and ledgers in a folder."""
    return FederatedAccountant(
        {
            name: Client(
                ledger=Ledger.open_or_create(
                    folder / name,
                    client=name,
                    dataset="notes",
                    unit="one note",
                    neighbouring=filter.neighbouring,
                ),
                filter=filter,
                anchor=(anchors or {}).get(name),
            )
            for name, filter in filters.items()
        }
    )


def test_examples_in_the_documentation():
    result = doctest.testmod(federation)
    assert result.attempted > 0
    assert result.failed == 0


# Before a round.


def test_who_fits_is_counted_and_who_does_not_is_refused_before_anything_is_written(tmp_path):
    accountant = on_disk(tmp_path, {"a": scheduled(2.0), "b": scheduled(0.5)})
    before = accountant.clients["b"].ledger.anchor()

    decisions = accountant.before_round("run", 0, {"a": [STEP], "b": [STEP]})

    spent = certified.epsilon([STEP], DELTA, ADD_REMOVE).upper
    assert decisions["a"].admitted
    assert decisions["a"].outcome is Outcome.ADMITTED
    assert decisions["a"].epsilon_after == spent
    assert decisions["a"].reason is None
    assert decisions["a"].reservation.planned == (STEP,)
    assert accountant.clients["a"].ledger.status("run", 0) == "reserved"
    assert not decisions["b"].admitted
    assert decisions["b"].outcome is Outcome.OVER_BUDGET
    assert decisions["b"].epsilon_after == spent
    assert "client 'b'" in decisions["b"].reason
    assert "0.5" in decisions["b"].reason
    assert decisions["b"].reservation is None
    assert accountant.clients["b"].ledger.anchor() == before


def test_a_reservation_counts_in_full_until_it_is_committed(tmp_path):
    accountant = on_disk(tmp_path, {"a": scheduled(10.0)})
    decision = accountant.before_round("run", 0, {"a": [noise(4.0, 3)]})["a"]
    assert accountant.epsilons()["a"].upper == decision.epsilon_after

    accountant.commit(decision, [STEP], b"update")

    assert accountant.epsilons()["a"] == certified.epsilon([STEP], DELTA, ADD_REMOVE)
    assert accountant.clients["a"].ledger.outgoing("run", 0) == b"update"


def test_only_clients_with_a_plan_take_part():
    accountant = in_memory({"a": [], "b": []})
    assert list(accountant.before_round("run", 0, {"b": [STEP]})) == ["b"]
    assert accountant.clients["a"].ledger.events() == ()
    assert accountant.before_round("run", 1, {}) == {}


def test_earlier_runs_on_the_same_data_count(tmp_path):
    filters = {"a": scheduled(1.2)}
    assert on_disk(tmp_path, filters).before_round("one", 0, {"a": [STEP]})["a"].admitted
    refused = on_disk(tmp_path, filters).before_round("two", 0, {"a": [STEP]})["a"]
    assert refused.outcome is Outcome.OVER_BUDGET
    assert refused.epsilon_after == certified.epsilon([noise(4.0, 2)], DELTA, ADD_REMOVE).upper


def test_a_mechanism_outside_the_schedule_is_not_covered():
    decision = in_memory({"a": []}).before_round("run", 0, {"a": [noise(3.0)]})["a"]
    assert decision.outcome is Outcome.NOT_COVERED
    assert decision.epsilon_after is None
    assert decision.reason.startswith("client 'a': a release must be of the schedule")


def test_a_round_is_admitted_once(tmp_path):
    accountant = on_disk(tmp_path, {"a": scheduled(), "b": scheduled()})
    accountant.before_round("run", 0, {"a": [STEP]})
    decisions = accountant.before_round("run", 0, {"a": [STEP], "b": [STEP]})
    assert decisions["a"].outcome is Outcome.ALREADY_DECIDED
    assert "already reserved" in decisions["a"].reason
    assert (decisions["a"].admitted, decisions["a"].reservation) == (False, None)
    assert decisions["b"].admitted
    assert accountant.clients["a"].ledger.events() == (STEP,)
    accountant.commit(decisions["b"], [STEP], b"update")
    again = accountant.before_round("run", 0, {"b": [STEP]})["b"]
    assert again.outcome is Outcome.ALREADY_DECIDED
    assert "already committed" in again.reason


def test_an_accountant_shows_how_many_clients_it_has():
    assert repr(in_memory({"a": []})) == "FederatedAccountant(1 client)"
    assert repr(in_memory({"a": [], "b": []})) == "FederatedAccountant(2 clients)"


@pytest.mark.parametrize(
    ("run", "round", "planned", "error", "message"),
    [
        ("", 0, {"a": [STEP]}, InvalidValueError, "run"),
        ("run", -1, {"a": [STEP]}, InvalidValueError, "round"),
        ("run", 0, {"a": [STEP], "c": [STEP]}, InvalidValueError, "'c'"),
        ("run", 0, {"a": [STEP], "b": []}, InvalidValueError, "client 'b'"),
        ("run", 0, {"a": [STEP], "b": ["step"]}, UnsupportedAnalysisError, "client 'b'"),
    ],
)
def test_a_wrong_request_reserves_nothing(run, round, planned, error, message):
    accountant = in_memory({"a": [], "b": []})
    with pytest.raises(error, match=message):
        accountant.before_round(run, round, planned)
    assert accountant.clients["a"].ledger.events() == ()


# Ledgers that cannot be trusted.


def edit_an_entry(path):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE entries SET body = replace(body, '4.0', '9.0') WHERE seq = 1")


@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (edit_an_entry, LedgerCorruptError, "entry 1 was changed"),
        (lambda path: path.write_bytes(b"not a ledger"), LedgerCorruptError, "SQLite cannot read"),
        (lambda path: path.unlink(), LedgerMissingError, "there is none"),
    ],
)
def test_a_damaged_ledger_stops_its_own_client_only(tmp_path, harm, error, message):
    accountant = on_disk(tmp_path, {name: scheduled(5.0) for name in "abc"})
    for decision in accountant.before_round("run", 0, each("abc", [STEP])).values():
        accountant.commit(decision, [STEP], b"update")
    harm(tmp_path / "b")

    for decisions in (
        accountant.preview(each("abc", [STEP])),
        accountant.before_round("run", 1, each("abc", [STEP])),
    ):
        assert [name for name in "abc" if decisions[name].admitted] == ["a", "c"]
        assert decisions["b"].outcome is Outcome.NO_LEDGER
        assert decisions["b"].epsilon_after is None
        assert decisions["b"].reason.startswith("client 'b': ")
        assert decisions["b"].reason.count("client 'b'") == 1
        assert message in decisions["b"].reason
    assert accountant.clients["c"].ledger.status("run", 1) == "reserved"

    with pytest.raises(error, match="^client 'b': "):
        accountant.epsilons()
    with pytest.raises(error, match="^client 'b': "):
        accountant.federation_epsilon()
    with pytest.raises(error, match="^client 'b': "):
        accountant.shared_record_epsilon(["a", "b"])
    assert accountant.shared_record_epsilon(["a", "c"]).upper > 0


def test_damage_that_no_reservation_would_notice_stops_a_client_too(tmp_path):
    accountant = on_disk(tmp_path, {"a": scheduled(5.0)})
    decision = accountant.before_round("run", 0, {"a": [STEP]})["a"]
    accountant.commit(decision, [STEP], b"update")
    with closing(sqlite3.connect(tmp_path / "a")) as connection, connection:
        connection.execute("UPDATE outbox SET payload = x'00'")
    refused = accountant.before_round("run", 1, {"a": [STEP]})["a"]
    assert refused.outcome is Outcome.NO_LEDGER
    assert "not those committed" in refused.reason


def test_an_older_copy_shows_against_the_anchor(tmp_path):
    filters = {"a": scheduled(5.0), "b": scheduled(5.0)}
    accountant = on_disk(tmp_path, filters)
    shutil.copy(tmp_path / "a", tmp_path / "older")
    accountant.before_round("run", 0, {"a": [STEP], "b": [STEP]})
    anchors = {name: client.ledger.anchor() for name, client in accountant.clients.items()}
    shutil.copy(tmp_path / "older", tmp_path / "a")

    unaware, aware = on_disk(tmp_path, filters), on_disk(tmp_path, filters, anchors)

    assert unaware.preview({"a": [STEP]})["a"].admitted
    decisions = aware.before_round("run", 1, {"a": [STEP], "b": [STEP]})
    assert decisions["a"].outcome is Outcome.NO_LEDGER
    assert "older copy" in decisions["a"].reason
    assert decisions["b"].admitted
    with pytest.raises(LedgerRolledBackError, match="client 'a'"):
        aware.epsilons()
    with pytest.raises(LedgerRolledBackError, match="client 'a'"):
        aware.group_epsilon("a", 2)


# Preview and commit.


def test_a_preview_reserves_nothing(tmp_path):
    accountant = on_disk(tmp_path, {"a": scheduled(2.0), "b": scheduled(0.5)})
    seen = accountant.preview({"a": [STEP], "b": [STEP]})
    assert {name: decision.reservation for name, decision in seen.items()} == {"a": None, "b": None}
    assert accountant.epsilons()["a"].upper == 0
    made = accountant.before_round("run", 0, {"a": [STEP], "b": [STEP]})
    for name in "ab":
        assert seen[name].outcome is made[name].outcome
        assert seen[name].epsilon_after == made[name].epsilon_after
        assert seen[name].reason == made[name].reason


def test_nothing_is_committed_without_a_reservation():
    accountant = in_memory({"a": []})
    previewed = accountant.preview({"a": [STEP]})["a"]
    refused = accountant.before_round("run", 0, {"a": [noise(9.0)]})["a"]
    for decision in (previewed, refused):
        with pytest.raises(InvalidValueError, match="client 'a'.*nothing may be sent"):
            accountant.commit(decision, [STEP], b"update")


def test_a_decision_is_committed_to_the_ledger_of_its_client(tmp_path):
    accountant = on_disk(tmp_path, {"a": scheduled(5.0), "b": scheduled(5.0)})
    decisions = accountant.before_round("run", 0, {"a": [STEP], "b": [STEP]})
    assert decisions["a"].reservation.id == decisions["b"].reservation.id
    accountant.commit(decisions["b"], [STEP], b"update")
    assert accountant.clients["a"].ledger.status("run", 0) == "reserved"
    assert accountant.clients["b"].ledger.status("run", 0) == "committed"


def test_a_refused_commit_names_the_client(tmp_path):
    accountant = on_disk(tmp_path, {"a": scheduled(5.0)})
    decision = accountant.before_round("run", 0, {"a": [STEP]})["a"]
    with pytest.raises(LedgerStateError, match="client 'a': what ran must be within"):
        accountant.commit(decision, [noise(4.0, 2)], b"update")
    with pytest.raises(InvalidValueError, match="client 'a': outgoing must be bytes"):
        accountant.commit(decision, [STEP], "update")
    with pytest.raises(InvalidValueError, match="'a'"):
        in_memory({"b": []}).commit(decision, [STEP], b"update")


@pytest.mark.parametrize("rooms", [0, 1, 5])
def test_two_accountants_cannot_both_take_the_last_of_a_budget(tmp_path, rooms):
    steps = [certified.epsilon([noise(4.0, 3 + n)], DELTA, ADD_REMOVE).upper for n in (rooms, 1)]
    filters = {"a": scheduled(steps[0]), "b": scheduled(steps[1])}
    first = on_disk(tmp_path, filters)
    assert first.before_round("past", 0, each("ab", [noise(4.0, 3)]))["a"].admitted
    accountants = [first, *(on_disk(tmp_path, filters) for _ in range(3))]
    barrier, admitted = threading.Barrier(len(accountants)), []

    def take(run, accountant):
        barrier.wait()
        for round in range(3):
            decisions = accountant.before_round(run, round, each("ab", [STEP]))
            admitted.extend(name for name, decision in decisions.items() if decision.admitted)

    threads = [
        threading.Thread(target=take, args=(f"run {n}", one)) for n, one in enumerate(accountants)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admitted.count("a") == rooms
    assert admitted.count("b") == 1
    assert all(steps[i] == accountants[0].epsilons()[name].upper for i, name in enumerate("ab"))


def test_the_check_and_the_reservation_are_one_step(tmp_path):
    """Whoever checks waits for the other one to check too: in one transaction they cannot meet."""
    meeting = threading.Barrier(2)

    @dataclass(frozen=True)
    class Waiting:
        inner: ScheduleFilter
        budget: Budget
        neighbouring: Neighbouring

        def admit(self, history, planned):
            with contextlib.suppress(threading.BrokenBarrierError):
                meeting.wait(timeout=0.5)
            return self.inner.admit(history, planned)

    inner = scheduled(1.0)
    waiting = Waiting(inner, inner.budget, inner.neighbouring)
    decisions = {}

    def take(run, accountant):
        decisions[run] = accountant.before_round(run, 0, {"a": [STEP]})["a"]

    threads = [
        threading.Thread(target=take, args=(run, on_disk(tmp_path, {"a": waiting})))
        for run in ("one", "two")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(decision.admitted for decision in decisions.values()) == [False, True]
    assert Outcome.OVER_BUDGET in {decision.outcome for decision in decisions.values()}


# What was spent.


def test_the_federation_has_the_largest_epsilon_not_the_sum_or_the_mean():
    accountant = in_memory({"a": [noise(2.0)], "b": [noise(1.0)], "c": [noise(4.0)], "d": []})
    found = accountant.federation_epsilon()
    assert found.client == "b"
    assert SIGMA_ONE <= found.bounds.upper <= SIGMA_ONE + 1e-5
    assert found.bounds == accountant.epsilons()["b"]
    assert (found.num_clients, found.delta, found.neighbouring) == (4, DELTA, ADD_REMOVE)
    assert "no record is held by more than one client" in found.assumption


def test_a_record_at_two_clients_composes_both_ledgers():
    """Two Gaussians at sigma sqrt(2) are one at sigma 1."""
    accountant = in_memory({name: [noise(math.sqrt(2))] for name in "abc"})
    assert accountant.shared_record_epsilon(["a", "b"]).upper == pytest.approx(SIGMA_ONE, abs=1e-5)
    assert accountant.shared_record_epsilon(["a"]) == accountant.epsilons()["a"]


def test_a_shared_record_reaches_golden_values():
    """Apart and together, by dp-accounting 0.6.0 at discretisation 1e-3."""
    accountant = in_memory({"a": [poisson(1.0, 0.032, 1000)], "b": [poisson(2.0, 0.1, 500)]})
    found = accountant.epsilons()
    for bounds, golden in (
        (found["a"], 6.588976760625417),
        (found["b"], 5.555642100579029),
        (accountant.shared_record_epsilon(["a", "b"]), 9.010645417459246),
    ):
        assert bounds.lower <= golden
        assert bounds.upper == pytest.approx(golden, rel=1e-3)


def test_a_person_with_two_records_is_protected_by_half_the_noise():
    accountant = in_memory({"a": [noise(2.0)]})
    assert accountant.group_epsilon("a", 2).upper == pytest.approx(SIGMA_ONE, abs=1e-5)
    assert accountant.group_epsilon("a", 1) == accountant.epsilons()["a"]


@pytest.mark.parametrize(("records", "golden"), [(2, 13.458731946986822), (4, 34.106027253256144)])
def test_groups_reach_golden_values(records, golden):
    """Mixture of Gaussians by dp-accounting 0.6.0 at discretisation 1e-3."""
    accountant = in_memory({"a": [poisson(1.0, 0.032, 1000)]})
    found = accountant.group_epsilon("a", records, delta=1e-4)
    assert found.lower <= golden
    assert found.upper == pytest.approx(golden, rel=2e-3)


def test_every_client_at_the_delta_of_its_budget_unless_one_is_given():
    clients = {
        name: Client(ledger=MemoryLedger(name, [noise(1.0)]), filter=scheduled(100.0, delta))
        for name, delta in {"a": 1e-5, "b": 1e-10}.items()
    }
    accountant = FederatedAccountant(clients)
    found = accountant.epsilons()
    assert found["a"].upper == pytest.approx(SIGMA_ONE, abs=1e-5)
    assert found["b"].upper == pytest.approx(6.547924, abs=1e-5)  # closed form
    assert accountant.epsilons(1e-10)["a"] == found["b"]
    with pytest.raises(InvalidValueError, match="same delta.*'a'.*'b'"):
        accountant.federation_epsilon()
    with pytest.raises(InvalidValueError, match="same delta"):
        accountant.shared_record_epsilon(["a", "b"])
    assert accountant.federation_epsilon(1e-10).bounds == found["b"]
    assert accountant.group_epsilon("b", 1) == found["b"]


def test_clients_with_other_relations_have_no_number_together():
    clients = {
        name: Client(
            ledger=MemoryLedger(name, [noise(2.0)], relation),
            filter=scheduled(neighbouring=relation),
        )
        for name, relation in {"a": ADD_REMOVE, "b": REPLACE_ONE}.items()
    }
    accountant = FederatedAccountant(clients)
    assert accountant.epsilons()["b"].upper == pytest.approx(SIGMA_ONE, abs=1e-5)
    for ask in (
        accountant.federation_epsilon,
        lambda: accountant.shared_record_epsilon(["a", "b"]),
    ):
        with pytest.raises(InvalidValueError, match="same relation"):
            ask()


def test_a_history_without_an_analysis_names_its_client():
    event = FixedSizeGaussian(noise_multiplier=1.0, batch_size=2, dataset_size=9, steps=1)
    accountant = in_memory({"a": [], "b": [event]})
    with pytest.raises(UnsupportedAnalysisError, match="client 'b': FixedSizeGaussian"):
        accountant.epsilons()
    with pytest.raises(UnsupportedAnalysisError, match="client 'b': FixedSizeGaussian"):
        accountant.group_epsilon("b", 2)


# Requests that have no answer.


def test_records_and_the_list_of_clients_do_not_change():
    accountant = in_memory({"a": []})
    with pytest.raises(TypeError):
        accountant.clients["b"] = accountant.clients["a"]
    with pytest.raises(FrozenInstanceError):
        accountant.preview({"a": [STEP]})["a"].outcome = Outcome.ADMITTED


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan, -1e-5, True])
def test_delta_is_a_probability(delta):
    accountant = in_memory({"a": [STEP]})
    for ask in (
        lambda: accountant.epsilons(delta),
        lambda: accountant.federation_epsilon(delta),
        lambda: accountant.shared_record_epsilon(["a"], delta),
        lambda: accountant.group_epsilon("a", 1, delta),
    ):
        with pytest.raises(InvalidValueError, match="delta"):
            ask()


@pytest.mark.parametrize("records", [0, -1, 1.5, math.nan, True])
def test_records_per_person_are_counted(records):
    with pytest.raises(InvalidValueError, match="records_per_person"):
        in_memory({"a": [STEP]}).group_epsilon("a", records)


# Properties.

mechanisms = st.sampled_from([noise(4.0), noise(9.0, 2), poisson(2.0, 0.25, 4), noise(1.5)])
histories = st.lists(mechanisms, max_size=3)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), histories, min_size=1))
def test_grouping_changes_no_number_and_the_federation_has_the_largest(held):
    accountant = in_memory(held)
    found = accountant.epsilons()
    assert found == {
        name: certified.epsilon(events, DELTA, ADD_REMOVE) for name, events in held.items()
    }
    whole = accountant.federation_epsilon()
    assert whole.bounds.upper == max(bounds.upper for bounds in found.values())
    assert whole.bounds.lower == max(bounds.lower for bounds in found.values())
    assert found[whole.client].upper == whole.bounds.upper


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), histories, min_size=1))
def test_a_shared_record_is_worse_off_than_at_any_of_its_clients(held):
    accountant = in_memory(held)
    together = accountant.shared_record_epsilon(held)
    union = [event for events in held.values() for event in events]
    assert together == certified.epsilon(union, DELTA, ADD_REMOVE)
    for bounds in accountant.epsilons().values():
        assert together.upper >= bounds.lower
        assert together.upper >= bounds.upper * (1 - 2e-3)


@settings(max_examples=30, deadline=None)
@given(
    filters=st.fixed_dictionaries(
        {
            "a": st.floats(0.3, 4.0).map(lambda e: scheduled(e, schedule=[STEP, noise(9.0)])),
            "b": st.floats(1.5, 4.0).map(adaptive),
        }
    ),
    plans=st.lists(
        st.dictionaries(st.sampled_from("ab"), st.lists(mechanisms, min_size=1, max_size=2)),
        max_size=6,
    ),
)
def test_no_plan_ever_passes_a_budget(filters, plans):
    accountant = FederatedAccountant(
        {name: Client(ledger=MemoryLedger(name), filter=filter) for name, filter in filters.items()}
    )
    for round, planned in enumerate(plans):
        before = {name: client.ledger.events() for name, client in accountant.clients.items()}
        seen = accountant.preview(planned)
        made = accountant.before_round("run", round, planned)
        for name, decision in made.items():
            client = accountant.clients[name]
            assert decision.outcome is seen[name].outcome
            kept = (*before[name], *planned[name]) if decision.admitted else before[name]
            assert client.ledger.events() == kept
            if decision.admitted:
                assert decision.epsilon_after <= client.filter.budget.epsilon
            if decision.outcome is Outcome.OVER_BUDGET:
                with pytest.raises(BudgetExceededError):
                    client.filter.admit(kept, planned[name])
    for name, bounds in accountant.epsilons().items():
        assert bounds.upper <= filters[name].budget.epsilon
