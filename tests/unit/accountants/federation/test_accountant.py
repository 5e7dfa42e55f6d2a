"""Many clients: who may release, what each has spent, and what that means for a record."""

import contextlib
import doctest
import math
import shutil
import sqlite3
import threading
from contextlib import closing
from dataclasses import FrozenInstanceError, dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accountants import certified
from accountants.errors import (
    BudgetExceededError,
    InvalidValueError,
    LedgerCorruptError,
    LedgerError,
    LedgerMissingError,
    LedgerRolledBackError,
    LedgerStateError,
    UnsupportedAnalysisError,
)
from accountants.events import FixedSizeGaussian, Gaussian, PoissonGaussian
from accountants.federation import accountant as federation
from accountants.federation.accountant import Client, FederatedAccountant, Outcome
from accountants.filters import AdaptiveFilter, ScheduleFilter, ZeroConcentratedFilter
from accountants.guarantees import Budget, Neighbouring
from accountants.ledger.book import Reservation
from accountants.ledger.chain import Anchor
from accountants.ledger.identity import Identity
from accountants.ledger.ledger import Ledger

ADD_REMOVE, REPLACE_ONE = Neighbouring.ADD_REMOVE, Neighbouring.REPLACE_ONE
DELTA = 1e-5
SIGMA_ONE = 4.377178
"""Epsilon of one Gaussian at sigma 1 and delta 1e-5: Balle & Wang 2018, arXiv:1805.06530."""


def noise(sigma, steps=1):
    return Gaussian(noise_multiplier=sigma, steps=steps)


def poisson(sigma, q, steps=1):
    return PoissonGaussian(noise_multiplier=sigma, sample_rate=q, steps=steps)


STEP = noise(4.0)


def budget(epsilon, delta=DELTA):
    return Budget(epsilon=epsilon, delta=delta)


def scheduled(epsilon=2.0, delta=DELTA, schedule=(STEP,), neighbouring=ADD_REMOVE):
    return ScheduleFilter(
        budget=budget(epsilon, delta), schedule=schedule, neighbouring=neighbouring
    )


def adaptive(epsilon=3.0, neighbouring=ADD_REMOVE):
    return AdaptiveFilter(budget=budget(epsilon), order=10.0, neighbouring=neighbouring)


def each(names, events):
    """The same events for every client."""
    return {name: list(events) for name in names}


class MemoryLedger:
    """A ledger without a file."""

    def __init__(self, name, events=(), neighbouring=ADD_REMOVE):
        self.identity = Identity(
            client=name, dataset="notes", unit="one note", neighbouring=neighbouring
        )
        self.released = [tuple(events)]
        self.open = {}
        self.rounds = set()

    def verify(self, anchor=None):
        return Anchor(length=len(self.released), head="0" * 64)

    def events(self):
        return tuple(event for released in self.released for event in released)

    def reserve(self, run, round, planned, admit):
        if (run, round) in self.rounds:
            raise LedgerStateError(f"round {round} is already reserved")
        admit(self.events(), tuple(planned))
        self.rounds.add((run, round))
        self.released.append(tuple(planned))
        return Reservation(id=len(self.released) - 1, run=run, round=round, planned=tuple(planned))

    def status(self, run, round):
        return "reserved" if (run, round) in self.rounds else None

    def commit(self, reservation_id, ran, outgoing):
        self.released[reservation_id] = tuple(ran)


def in_memory(histories, filter=None):
    """An accountant of clients with these histories."""
    return FederatedAccountant(
        {
            name: Client(
                ledger=MemoryLedger(name, events, (filter or scheduled()).neighbouring),
                filter=filter or scheduled(100.0),
            )
            for name, events in histories.items()
        }
    )


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


@pytest.mark.parametrize("also_to_look_at", [False, True])
def test_a_busy_ledger_has_not_decided(also_to_look_at):
    class Busy(MemoryLedger):
        def reserve(self, run, round, planned, admit):
            raise LedgerStateError("another process holds it")

        def status(self, run, round):
            if also_to_look_at:
                raise LedgerStateError("busy on a second look")
            return None

    clients = {"a": Client(ledger=Busy("a"), filter=scheduled())}
    decision = FederatedAccountant(clients).before_round("run", 0, {"a": [STEP]})["a"]
    assert decision.outcome is Outcome.NO_LEDGER
    assert decision.reason == "client 'a': another process holds it"


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


def test_what_is_no_mapping_of_clients_is_refused_with_what_to_pass():
    ledger = MemoryLedger("a")
    client = Client(ledger=ledger, filter=scheduled())
    for value in (ledger, [ledger], [client], client, "a", None):
        with pytest.raises(
            InvalidValueError, match=r"^clients must be a mapping .*pass \{.*Client\("
        ):
            FederatedAccountant(value)
    for value in (ledger, scheduled(), (ledger, scheduled()), None):
        with pytest.raises(InvalidValueError, match=r"^each client must be .*'b'; pass \{"):
            FederatedAccountant({"a": client, "b": value})


def test_an_anchor_of_a_client_must_be_one():
    ledger = MemoryLedger("a")
    anchor = ledger.verify()
    assert Client(ledger=ledger, filter=scheduled(), anchor=anchor).anchor is anchor
    for value in (anchor.to_json(), 3, False, "0" * 64):
        with pytest.raises(InvalidValueError, match="^anchor must be an Anchor"):
            Client(ledger=ledger, filter=scheduled(), anchor=value)


def test_a_name_in_place_of_several_is_refused():
    accountant = in_memory({"a": [STEP], "b": [STEP]})
    for names in ("a", "ab"):
        with pytest.raises(
            InvalidValueError, match=rf"a list of names, got one; use \['{names}'\]"
        ):
            accountant.shared_record_epsilon(names)


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


def test_errors_that_are_no_refusal_are_not_swallowed():
    @dataclass(frozen=True)
    class Broken:
        budget: Budget
        neighbouring: Neighbouring

        def admit(self, history, planned):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_memory({"a": []}, Broken(budget(2.0), ADD_REMOVE)).before_round("run", 0, {"a": [STEP]})


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


# Parameters that follow results.


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


# Requests that have no answer.


def test_a_federation_needs_clients_with_ledgers_of_their_own():
    with pytest.raises(InvalidValueError, match="at least one"):
        FederatedAccountant({})
    client = Client(ledger=MemoryLedger("a"), filter=scheduled())
    with pytest.raises(InvalidValueError, match="client must be text"):
        FederatedAccountant({" ": client})
    again = Client(ledger=MemoryLedger("a"), filter=scheduled())
    with pytest.raises(InvalidValueError, match="'a' for 'b'"):
        FederatedAccountant({"a": client, "b": again})
    persons = MemoryLedger("a")
    persons.identity = replace(persons.identity, unit="one person")
    with pytest.raises(InvalidValueError, match="'a' for 'b'"):
        FederatedAccountant({"a": client, "b": Client(ledger=persons, filter=scheduled())})


def test_a_filter_counts_in_the_relation_of_its_ledger():
    client = Client(ledger=MemoryLedger("a"), filter=scheduled(neighbouring=REPLACE_ONE))
    with pytest.raises(
        InvalidValueError, match="client 'a': the filter must count in .*ADD_REMOVE"
    ):
        FederatedAccountant({"a": client})


def test_a_filter_must_not_change():
    @dataclass
    class Changing:
        budget: Budget

    with pytest.raises(InvalidValueError, match="Changing"):
        Client(ledger=MemoryLedger("a"), filter=Changing(budget(2.0)))


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


@pytest.mark.parametrize("clients", [[], ["a", "a"], ["a", "x"], "bc"])
def test_clients_that_share_a_record_are_named_each_once(clients):
    with pytest.raises(InvalidValueError, match="clients? must be"):
        in_memory({"a": [STEP], "b": [STEP]}).shared_record_epsilon(clients)


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


# Many clients.


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


def test_every_ledger_error_is_an_outcome():
    class Busy(MemoryLedger):
        def verify(self, anchor=None):
            raise LedgerError("the disk is full")

    clients = {"a": Client(ledger=Busy("a"), filter=scheduled())}
    decision = FederatedAccountant(clients).before_round("run", 0, {"a": [STEP]})["a"]
    assert decision.outcome is Outcome.NO_LEDGER
    assert decision.reason == "client 'a': the disk is full"
