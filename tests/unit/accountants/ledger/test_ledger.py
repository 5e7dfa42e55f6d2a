"""The ledger: what counts, what is refused, and what damage shows."""

import os
import threading

import numpy as np
import pytest

from accountants import (
    Budget,
    BudgetExceededError,
    InvalidValueError,
    Ledger,
    LedgerCorruptError,
    LedgerError,
    LedgerMissingError,
    LedgerStateError,
    Neighbouring,
    PoissonGaussian,
    Reservation,
    ScheduleFilter,
    UnsupportedAnalysisError,
    event_to_json,
    verify_export,
)
from tests.unit.accountants.ledger.ledgers import LESS, OWNER, STEP, always, edit, play


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledgers" / "notes 7?#%.ledger"


@pytest.fixture
def ledger(path):
    return Ledger.create(path, **OWNER)


# What counts


def test_a_round_is_reserved_then_committed(ledger):
    assert ledger.events() == ()
    assert ledger.runs() == []
    assert ledger.status("a", 0) is None
    assert ledger.outgoing("a", 0) is None
    reservation = ledger.reserve("a", 0, [STEP], always)
    assert reservation == Reservation(id=1, run="a", round=0, planned=(STEP,))
    assert ledger.status("a", 0) == "reserved"
    assert ledger.outgoing("a", 0) is None
    assert ledger.events() == (STEP,)
    ledger.commit(reservation.id, [LESS], b"update")
    assert ledger.status("a", 0) == "committed"
    assert ledger.outgoing("a", 0) == b"update"
    assert ledger.events() == (LESS,)


def test_it_is_all_there_when_opened_again(path, ledger):
    play(ledger)
    again = Ledger.open(path, **OWNER)
    assert again.events() == ledger.events() == (STEP, STEP, STEP)
    assert again.anchor() == ledger.anchor()
    assert again.outgoing("a", 2) == b"a2"
    assert again.identity.to_json() == OWNER
    assert again.path == path


def test_bytes_of_the_last_round_of_each_run_are_kept(ledger):
    play(ledger, "a", 3)
    play(ledger, "b", 2)
    assert ledger.outgoing("a", 2) == b"a2"
    assert ledger.outgoing("b", 1) == b"b1"
    assert ledger.outgoing("a", 1) is None
    assert ledger.outgoing("b", 0) is None


def test_the_last_commit_of_a_run_is_found_without_its_round(path, ledger):
    assert ledger.last_outgoing("a") is None
    reservation = ledger.reserve("a", 0, [STEP], always)
    assert ledger.last_outgoing("a") is None, "it is reserved only"
    ledger.commit(reservation.id, [LESS], b"first of a")
    assert ledger.last_outgoing("a") == b"first of a"
    assert ledger.last_outgoing("b") is None
    ledger.commit(ledger.reserve("b", 7, [STEP], always).id, [STEP], b"of b")
    later = ledger.reserve("a", 3, [STEP], always)
    assert ledger.last_outgoing("a") == b"first of a", "until the next is committed"
    ledger.commit(later.id, [STEP], b"second of a")
    for found in (ledger, Ledger.open(path, **OWNER)):
        assert found.last_outgoing("a") == b"second of a"
        assert found.last_outgoing("b") == b"of b"
        assert found.last_outgoing("c") is None


def test_the_last_commit_is_the_last_in_time_not_by_round_or_reservation(ledger):
    first, second = (ledger.reserve("a", number, [STEP], always) for number in (0, 1))
    ledger.commit(second.id, [STEP], b"second")
    ledger.commit(first.id, [STEP], b"first")
    assert ledger.last_outgoing("a") == b"first"
    assert ledger.outgoing("a", 1) is None, "only the last one's bytes are kept"


def test_admission_sees_all_that_counts_and_can_refuse(ledger):
    ledger.reserve("a", 0, [STEP], always)
    play(ledger, "b", 1)
    asked = []

    def refuse(history, planned):
        asked.append((history, planned))
        raise BudgetExceededError("no", epsilon=3.0, allowed=2.0)

    before = ledger.anchor()
    with pytest.raises(BudgetExceededError):
        ledger.reserve("c", 0, iter([LESS]), refuse)
    assert asked == [((STEP, STEP), (LESS,))]
    assert ledger.anchor() == before
    assert ledger.status("c", 0) is None


def test_a_budget_holds_over_runs_and_lost_rounds(ledger):
    """Two of these rounds fit, three do not; the first was reserved by a run that died."""
    step = PoissonGaussian(noise_multiplier=5.0, sample_rate=1.0, steps=4)
    admission = ScheduleFilter(
        budget=Budget(epsilon=2.1, delta=1e-4),
        schedule=[step],
        neighbouring=Neighbouring.ADD_REMOVE,
    )
    ledger.reserve("died", 0, [step], admission.admit)
    ledger.reserve("next", 0, [step], admission.admit)
    with pytest.raises(BudgetExceededError):
        ledger.reserve("next", 1, [step], admission.admit)
    assert ledger.events() == (step, step)


# What is refused


@pytest.mark.parametrize("answer", [False, True, np.False_, np.True_])
def test_a_predicate_reserves_nothing(ledger, answer):
    before = ledger.anchor()
    with pytest.raises(
        InvalidValueError, match="^admit must raise to refuse, .* it returned "
    ) as no:
        ledger.reserve("a", 0, [STEP], lambda history, planned: answer)
    assert str(no.value).endswith(repr(answer))
    assert (ledger.anchor(), ledger.status("a", 0)) == (before, None)
    assert ledger.reserve("a", 0, [STEP], lambda history, planned: 0.0).id == 1


def test_a_filter_in_place_of_its_method_reserves_nothing(ledger):
    admission = ScheduleFilter(
        budget=Budget(epsilon=100.0, delta=1e-5),
        schedule=[STEP],
        neighbouring=Neighbouring.ADD_REMOVE,
    )
    with pytest.raises(InvalidValueError, match="got ScheduleFilter; pass filter.admit$"):
        ledger.reserve("a", 0, [STEP], admission)
    with pytest.raises(InvalidValueError, match="^admit must be a function .* got NoneType$"):
        ledger.reserve("a", 0, [STEP], None)
    assert ledger.events() == ()
    assert ledger.reserve("a", 0, [STEP], admission.admit).round == 0


def test_only_an_anchor_verifies(ledger):
    for value in (False, 1, ledger.anchor().to_json()):
        with pytest.raises(InvalidValueError, match="^anchor must be an Anchor"):
            ledger.verify(value)
        with pytest.raises(InvalidValueError, match="^anchor must be an Anchor"):
            verify_export(ledger.export(), value)


def test_a_ledger_shows_whose_it_is_without_reading_the_file(path, ledger):
    path.unlink()
    assert repr(ledger) == f"Ledger(path={str(path)!r}, client='ward', dataset='notes-7')"


def test_arguments_are_checked_by_name(path, ledger):
    with pytest.raises(InvalidValueError, match=r"^run must be"):
        ledger.reserve("", 0, [STEP], always)
    for number in (-1, 1.0, float("nan"), True):
        with pytest.raises(InvalidValueError, match=r"^round must be"):
            ledger.reserve("a", number, [STEP], always)
    with pytest.raises(LedgerStateError, match="at least one event"):
        ledger.reserve("a", 0, [], always)
    with pytest.raises(UnsupportedAnalysisError, match="an event must be one of"):
        ledger.reserve("a", 0, [event_to_json(STEP)], always)
    with pytest.raises(UnsupportedAnalysisError, match="an event must be one of"):
        ledger.commit(1, ["gaussian"], b"")
    with pytest.raises(InvalidValueError, match=r"^reservation_id must be"):
        ledger.commit("1", [STEP], b"")
    with pytest.raises(InvalidValueError, match="outgoing must be bytes"):
        ledger.commit(1, [STEP], "text")
    with pytest.raises(InvalidValueError, match=r"^client must be"):
        Ledger.open(path, **OWNER | {"client": ""})
    assert ledger.events() == ()


# The file


def test_a_missing_ledger_is_refused_and_not_made(path):
    with pytest.raises(LedgerMissingError, match="unknown"):
        Ledger.open(path, **OWNER)
    assert not path.parent.exists()


def test_open_or_create_makes_the_first(path):
    assert Ledger.open_or_create(path, **OWNER).events() == ()
    assert path.exists()


def test_two_ledgers_of_equal_names_have_different_ids(path, ledger):
    other = Ledger.create(path.with_name("other"), **OWNER)
    assert other.identity == ledger.identity
    assert other.id != ledger.id
    for each in (other, ledger):
        assert set(each.id) <= set("0123456789abcdef")
        assert len(each.id) == 32
        assert each.export()["id"] == Ledger.open(each.path, **OWNER).id == each.id


def test_a_moved_ledger_goes_on(path, ledger, tmp_path):
    """Neither where it lies nor how many others take part says whose it is."""
    play(ledger)
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    os.replace(path, moved)
    assert Ledger.open_or_create(moved, **OWNER).events() == (STEP, STEP, STEP)


def test_a_round_that_another_process_works_on_is_not_taken_for_lost(path, ledger):
    """Two processes that resume one run: the second is told of the first."""
    ledger.reserve("a", 0, [STEP], always)
    with pytest.raises(LedgerStateError, match="if another process works on this run, let it"):
        Ledger.open(path, **OWNER).reserve("a", 0, [STEP], always)


def test_threads_share_a_ledger(ledger):
    failures = []

    def work(run):
        try:
            play(ledger, run, 4)
        except LedgerError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"run{i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(ledger.events()) == 12
    ledger.verify()


# Looking only


def test_a_ledger_can_be_inspected_without_knowing_whose_it_is(path, ledger):
    play(ledger)
    found = Ledger.inspect(path)
    assert found.identity.to_json() == OWNER
    assert found.events() == ledger.events()
    assert found.verify(ledger.anchor()) == ledger.anchor()
    assert found.export() == ledger.export()


def test_inspecting_refuses_what_is_no_whole_ledger(path, ledger):
    with pytest.raises(LedgerMissingError):
        Ledger.inspect(path.with_name("other"))
    play(ledger)
    edit(path, ("DELETE FROM outbox",))
    with pytest.raises(LedgerCorruptError, match="bytes of the last commit"):
        Ledger.inspect(path)
