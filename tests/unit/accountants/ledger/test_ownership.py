"""Whose ledger this is: other data, another unit or relation, and words that were a mistake."""

import re
from pathlib import Path

import pytest

from accountants import AnchorFolder, Ledger, LedgerForeignError, LedgerRolledBackError
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


def ledger_with(path, second):
    return Ledger.open_or_create(path, **OWNER, anchors=second)


@pytest.mark.parametrize("field", ["client", "dataset"])
def test_a_foreign_ledger_is_refused(path, ledger, field):
    with pytest.raises(LedgerForeignError, match=f"the {field} 'other'"):
        Ledger.open(path, **OWNER | {field: "other"})
    with pytest.raises(LedgerForeignError):
        Ledger.open_or_create(path, **OWNER | {field: "other"})


@pytest.mark.parametrize(
    ("field", "other"), [("unit", "one patient"), ("neighbouring", "replace_one")]
)
def test_another_unit_or_relation_on_the_same_data_is_refused(path, ledger, field, other):
    play(ledger)
    for use in (Ledger.open, Ledger.open_or_create):
        with pytest.raises(LedgerForeignError, match="says nothing about another; use the") as no:
            use(path, **OWNER | {field: other})
        assert f"the {field} it was created with, {OWNER[field]!r}, and not {other!r}" in str(
            no.value
        )
    assert len(Ledger.open(path, **OWNER).events()) == 3


# Words that were a mistake

OTHER_WORDS = pytest.mark.parametrize(
    "other", [{"unit": "one patient"}, {"neighbouring": "replace_one"}]
)


def removed_as_told(error):
    """Remove the files that an error names; what they were."""
    found = re.search(r"It counts no release: .* remove (.*), and open it again$", str(error))
    files = [Path(name) for name in found[1].split(", ")]
    for file in files:
        file.unlink()
    return files


@OTHER_WORDS
@pytest.mark.parametrize("with_second", [True, False])
def test_an_unused_ledger_gives_way_to_other_words(path, second, other, with_second):
    anchors = second if with_second else None
    mistaken = Ledger.open_or_create(path, **OWNER | other, anchors=anchors)
    with pytest.raises(LedgerForeignError, match="it was created with") as refused:
        Ledger.open_or_create(path, **OWNER, anchors=anchors)
    kept = [*(second.folder / "ledgers").glob("*.json"), *(second.folder / "paths").glob("*")]
    assert len(kept) == (2 if with_second else 0)
    assert removed_as_told(refused.value) == [path, *kept]
    right = Ledger.open_or_create(path, **OWNER, anchors=anchors)
    play(right, rounds=2)
    assert Ledger.open(path, **OWNER, anchors=anchors).events() == (STEP, STEP)
    with pytest.raises(LedgerForeignError):
        mistaken.reserve("late", 0, [STEP], always)
    if with_second:
        assert second.find(right.id).anchor == right.anchor()
        assert second.find(mistaken.id) is None


@OTHER_WORDS
def test_a_ledger_that_counts_something_gives_way_to_nothing(path, second, other):
    """Not even what was reserved and never committed."""
    ledger_with(path, second).reserve("a", 0, [STEP], always)
    with pytest.raises(LedgerForeignError, match="it was created with$"):
        Ledger.open_or_create(path, **OWNER | other, anchors=second)


@OTHER_WORDS
def test_an_empty_copy_that_was_put_back_gives_way_to_nothing(path, second, other):
    ledger = ledger_with(path, second)
    empty = path.read_bytes()
    play(ledger)
    path.write_bytes(empty)
    with pytest.raises(LedgerRolledBackError, match="at least the 7 entries"):
        Ledger.open_or_create(path, **OWNER | other, anchors=second)
    path.unlink()
    Ledger.create(path, **OWNER)
    with pytest.raises(LedgerRolledBackError, match="was replaced by another"):
        Ledger.open_or_create(path, **OWNER | other, anchors=second)
