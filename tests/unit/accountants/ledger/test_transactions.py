"""One transaction over a ledger and its second place: what it sees, and what it leaves."""

import os
import shutil

import pytest

from accountants import AnchorFolder, Ledger, LedgerError, LedgerRolledBackError
from accountants.ledger import book as contents
from accountants.ledger.transactions import Transactions
from tests.unit.accountants.ledger.ledgers import OWNER, STEP, always, play


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledgers" / "notes"


@pytest.fixture
def ledger(path):
    return Ledger.create(path, **OWNER)


@pytest.fixture
def second(tmp_path):
    return AnchorFolder(tmp_path / "second")


@pytest.fixture
def transactions(path, ledger, second):
    """Over a ledger with an open reservation, by somebody who saw it when it was empty."""
    ledger.reserve("a", 0, [STEP], always)
    found = Transactions(path, ledger.identity, ledger.id, second, None)
    found.keep_anchor()
    return found


def reserving(book, number):
    return contents.reserving(book.anchor(), "a", number, (STEP,))


def test_an_entry_is_written_and_kept_in_both_places(ledger, second, transactions):
    with transactions.writing() as (_, book, append):
        append(reserving(book, 1))
    assert len(transactions.read().entries) == 3
    assert second.find(ledger.id).anchor == ledger.anchor()
    assert ledger.events() == (STEP, STEP)


def test_what_appends_nothing_changes_nothing(path, transactions):
    before = path.read_bytes()
    with transactions.writing():
        pass
    transactions.keep_anchor()
    assert path.read_bytes() == before


def test_an_error_undoes_the_entry_in_both_places(ledger, second, transactions):
    before = ledger.anchor()

    def fail_after_an_entry():
        with transactions.writing() as (_, book, append):
            append(reserving(book, 1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_an_entry()
    assert ledger.anchor() == before == second.find(ledger.id).anchor
    assert [file.name for file in (second.folder / "ledgers").glob("*.new")] == []


def test_a_second_place_that_cannot_be_written_refuses_the_entry(ledger, second, transactions):
    before = ledger.anchor()
    shutil.rmtree(second.folder)
    second.folder.write_text("a file")
    with (
        pytest.raises(LedgerError, match="nothing was written to the ledger|must be readable"),
        transactions.writing() as (_, book, append),
    ):
        append(reserving(book, 1))
    assert ledger.anchor() == before


def test_a_ledger_replaced_by_one_of_equal_names_under_a_running_process_shows(path, ledger):
    other = Ledger.create(path.with_name("other"), **OWNER)
    play(other)
    os.replace(other.path, path)
    with pytest.raises(LedgerRolledBackError, match=f"id {ledger.id}, and has the id {other.id}"):
        ledger.reserve("a", 0, [STEP], always)


@pytest.mark.parametrize("use", [Ledger.events, Ledger.anchor, Ledger.verify, Ledger.export])
def test_a_running_process_notices_an_older_copy_by_itself(path, ledger, tmp_path, use):
    shutil.copy(path, tmp_path / "backup")
    play(ledger, rounds=1)
    shutil.copy(tmp_path / "backup", path)
    with pytest.raises(LedgerRolledBackError):
        use(ledger)
