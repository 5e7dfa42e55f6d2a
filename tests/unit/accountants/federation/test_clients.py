"""The clients of a federation: what each must bring, and what they must have in common."""

from dataclasses import dataclass, replace

import pytest

from accountants.errors import (
    InvalidValueError,
    LedgerCorruptError,
    LedgerMissingError,
    UnsupportedAnalysisError,
)
from accountants.federation.accountant import Client, FederatedAccountant
from accountants.federation.clients import (
    checked_clients,
    common_terms,
    fixed_history,
    known,
    naming,
    planned_events,
    verified_history,
)
from accountants.guarantees import Budget, Neighbouring
from accountants.ledger.chain import Anchor
from tests.unit.accountants.federation.federations import (
    ADD_REMOVE,
    STEP,
    MemoryLedger,
    adaptive,
    budget,
    in_memory,
    noise,
    scheduled,
)

REPLACE_ONE = Neighbouring.REPLACE_ONE


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


def test_a_filter_must_not_change():
    @dataclass
    class Changing:
        budget: Budget

    with pytest.raises(InvalidValueError, match="Changing"):
        Client(ledger=MemoryLedger("a"), filter=Changing(budget(2.0)))


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


def test_a_name_in_place_of_several_is_refused():
    accountant = in_memory({"a": [STEP], "b": [STEP]})
    for names in ("a", "ab"):
        with pytest.raises(
            InvalidValueError, match=rf"a list of names, got one; use \['{names}'\]"
        ):
            accountant.shared_record_epsilon(names)


@pytest.mark.parametrize("clients", [[], ["a", "a"], ["a", "x"], "bc"])
def test_clients_that_share_a_record_are_named_each_once(clients):
    with pytest.raises(InvalidValueError, match="clients? must be"):
        in_memory({"a": [STEP], "b": [STEP]}).shared_record_epsilon(clients)


# What the accountant asks of them.


def client(name, events=(), filter=None, anchor=None):
    filter = filter or scheduled()
    return Client(
        ledger=MemoryLedger(name, events, filter.neighbouring), filter=filter, anchor=anchor
    )


def test_clients_are_copied_so_that_a_changed_mapping_changes_nothing():
    given = {"a": client("a"), "b": client("b")}
    found = checked_clients(given)
    del given["a"]
    assert list(found) == ["a", "b"]
    with pytest.raises(InvalidValueError, match="at least one client, got none"):
        checked_clients({})


def test_names_are_kept_in_the_order_asked_for():
    clients = {name: client(name) for name in ("a", "b", "c")}
    assert known(clients, iter(["c", "a"])) == ("c", "a")
    with pytest.raises(InvalidValueError, match="one of the 3 of this federation, got 'x'"):
        known(clients, ["a", "x"])


def test_plans_are_of_the_clients_that_take_part():
    clients = {name: client(name) for name in ("a", "b")}
    assert planned_events(clients, {}) == {}
    assert planned_events(clients, {"b": iter([STEP, noise(9.0)])}) == {"b": (STEP, noise(9.0))}
    with pytest.raises(InvalidValueError, match="^client 'b': at least one event must be planned"):
        planned_events(clients, {"a": [STEP], "b": []})
    with pytest.raises(InvalidValueError, match="^client 'a': events must be a list of events"):
        planned_events(clients, {"a": STEP})
    with pytest.raises(UnsupportedAnalysisError, match="^client 'b': an event must be one of"):
        planned_events(clients, {"a": [STEP], "b": [STEP, 4.0]})


class Watched(MemoryLedger):
    """Keeps what it was verified against, and fails if it is read before that."""

    def __init__(self, *args):
        super().__init__(*args)
        self.anchors = []

    def verify(self, anchor=None):
        self.anchors.append(anchor)

    def events(self):
        assert self.anchors, "read before it was verified"
        return super().events()


def test_a_history_is_read_after_it_was_verified_against_the_anchor():
    anchor = Anchor(length=3, head="ab" * 32)
    ledger = Watched("a", [STEP, noise(9.0)])
    found = verified_history(Client(ledger=ledger, filter=scheduled(), anchor=anchor))
    assert found == (STEP, noise(9.0))
    assert ledger.anchors == [anchor]


def test_a_history_is_fixed_only_under_a_schedule():
    ledger = Watched("a", [STEP])
    clients = {
        "a": Client(ledger=ledger, filter=scheduled()),
        "b": client("b", [STEP], adaptive()),
    }
    assert fixed_history(clients, "a") == (STEP,)
    assert ledger.anchors == [None]
    with pytest.raises(UnsupportedAnalysisError, match="^client 'b': releases must be of a sched"):
        fixed_history(clients, "b")


def test_a_ledger_that_cannot_be_trusted_has_no_fixed_history():
    class Damaged(MemoryLedger):
        def verify(self, anchor=None):
            raise LedgerCorruptError("entry 1 was changed")

    clients = {"a": Client(ledger=Damaged("a"), filter=scheduled())}
    with pytest.raises(LedgerCorruptError, match="^client 'a': entry 1 was changed$"):
        fixed_history(clients, "a")


def test_one_number_has_one_delta_and_one_relation():
    clients = {
        "a": client("a", filter=scheduled(delta=1e-5)),
        "b": client("b", filter=scheduled(delta=1e-6)),
        "c": client("c", filter=scheduled(delta=1e-5, neighbouring=REPLACE_ONE)),
        "d": client("d", filter=scheduled(delta=1e-5)),
    }
    assert common_terms(clients, ["a", "d"], None) == (1e-5, ADD_REMOVE)
    assert common_terms(clients, ["b"], None) == (1e-6, ADD_REMOVE)
    assert common_terms(clients, ["a", "b"], 1e-7) == (1e-7, ADD_REMOVE)
    assert common_terms(clients, ["c"], 0.25) == (0.25, REPLACE_ONE)
    with pytest.raises(
        InvalidValueError, match="same delta .*, got 1e-05 for 'a' and 1e-06 for 'b'$"
    ):
        common_terms(clients, ["a", "d", "b"], None)
    with pytest.raises(
        InvalidValueError, match="same relation .*ADD_REMOVE.* for 'd' and .*REPLACE_ONE.* for 'c'$"
    ):
        common_terms(clients, ["d", "c"], None)


@pytest.mark.parametrize("error", [LedgerMissingError, UnsupportedAnalysisError, InvalidValueError])
def test_an_error_keeps_its_type_and_names_its_client(error):
    cause = error("what happened")
    with pytest.raises(error, match="^client 'a': what happened$") as found, naming("a"):
        raise cause
    assert type(found.value) is error
    assert found.value.__cause__ is cause


def test_an_error_that_is_none_of_a_client_is_left_alone():
    cause = ZeroDivisionError("by zero")
    with pytest.raises(ZeroDivisionError) as found, naming("a"):
        raise cause
    assert found.value is cause
