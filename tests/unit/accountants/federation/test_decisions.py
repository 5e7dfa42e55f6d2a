"""Whether a release may happen: every error on the way becomes one outcome, with its reason."""

from dataclasses import dataclass

import pytest

from accountants.errors import (
    BudgetExceededError,
    InvalidValueError,
    LedgerCorruptError,
    LedgerError,
    LedgerMissingError,
    LedgerStateError,
    UnsupportedAnalysisError,
)
from accountants.federation.accountant import Client, FederatedAccountant, Outcome
from accountants.federation.decisions import Decision, decision_of
from accountants.guarantees import Budget, Neighbouring
from accountants.ledger.book import Reservation
from tests.unit.accountants.federation.federations import (
    ADD_REMOVE,
    STEP,
    MemoryLedger,
    budget,
    in_memory,
    scheduled,
)

REPLACE_ONE = Neighbouring.REPLACE_ONE


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


def test_every_ledger_error_is_an_outcome():
    class Busy(MemoryLedger):
        def verify(self, anchor=None):
            raise LedgerError("the disk is full")

    clients = {"a": Client(ledger=Busy("a"), filter=scheduled())}
    decision = FederatedAccountant(clients).before_round("run", 0, {"a": [STEP]})["a"]
    assert decision.outcome is Outcome.NO_LEDGER
    assert decision.reason == "client 'a': the disk is full"


def test_errors_that_are_no_refusal_are_not_swallowed():
    @dataclass(frozen=True)
    class Broken:
        budget: Budget
        neighbouring: Neighbouring

        def admit(self, history, planned):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_memory({"a": []}, Broken(budget(2.0), ADD_REMOVE)).before_round("run", 0, {"a": [STEP]})


# One attempt.


RESERVATION = Reservation(id=3, run="run", round=7, planned=(STEP,))


def refusing(error):
    def decide():
        raise error

    return decide


def test_an_attempt_that_raises_nothing_is_admitted():
    found = decision_of("a", lambda: (1.25, RESERVATION))
    assert found == Decision(
        client="a", outcome=Outcome.ADMITTED, epsilon_after=1.25, reservation=RESERVATION
    )
    assert found.admitted
    assert found.reason is None


@pytest.mark.parametrize(
    ("error", "held", "outcome", "after"),
    [
        (BudgetExceededError("no", epsilon=2.5, allowed=2.0), False, Outcome.OVER_BUDGET, 2.5),
        (BudgetExceededError("no", epsilon=2.5, allowed=2.0), True, Outcome.OVER_BUDGET, 2.5),
        (LedgerStateError("no"), True, Outcome.ALREADY_DECIDED, None),
        (LedgerStateError("no"), False, Outcome.NO_LEDGER, None),
        (LedgerCorruptError("no"), True, Outcome.NO_LEDGER, None),
        (LedgerMissingError("no"), True, Outcome.NO_LEDGER, None),
        (UnsupportedAnalysisError("no"), True, Outcome.NOT_COVERED, None),
        (InvalidValueError("no"), False, Outcome.NOT_COVERED, None),
    ],
    ids=lambda value: getattr(type(value), "__name__", str(value)),
)
def test_every_refusal_has_its_outcome(error, held, outcome, after):
    found = decision_of("a", refusing(error), lambda: held)
    assert found == Decision(
        client="a", outcome=outcome, epsilon_after=after, reason="client 'a': no"
    )
    assert not found.admitted


def test_what_the_ledger_holds_is_asked_only_where_it_matters():
    asked = []

    def holds():
        asked.append("held?")
        return True

    decision_of("a", lambda: (1.0, None), holds)
    decision_of("a", refusing(LedgerCorruptError("damaged")), holds)
    assert asked == []
    decision_of("a", refusing(LedgerStateError("already reserved")), holds)
    assert asked == ["held?"]


def test_without_a_look_at_the_ledger_no_round_is_taken_for_decided():
    found = decision_of("a", refusing(LedgerStateError("busy")))
    assert found.outcome is Outcome.NO_LEDGER


def test_only_errors_of_accounting_are_refusals():
    with pytest.raises(ZeroDivisionError):
        decision_of("a", refusing(ZeroDivisionError()))
    with pytest.raises(KeyError):
        decision_of("a", refusing(LedgerStateError("busy")), lambda: {}["status"])
