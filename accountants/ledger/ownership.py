"""Whether the ledger at a path is the one that was asked for: of this data, in this unit."""

from pathlib import Path

from accountants.errors import LedgerForeignError
from accountants.ledger.anchors import AnchorFolder
from accountants.ledger.book import Book
from accountants.ledger.identity import EarlierIdentity, Identity


def checked_id_of(path: Path, book: Book, wanted: Identity, way_out: str = "") -> str:
    """The id of a ledger that is of this data, in this unit.

    Args:
        path: where it lies.
        book: what it says.
        wanted: whose releases it must count.
        way_out: what else can be done about another unit or relation, for the message.

    Raises:
        LedgerForeignError: if it is of other data, or of another unit or relation.
    """
    found = book.identity
    if isinstance(found, EarlierIdentity) or book.id is None:
        raise of_first_version(path)
    for name in ("client", "dataset"):
        if getattr(found, name) != getattr(wanted, name):
            raise LedgerForeignError(
                f"the ledger {path} must be for the {name} {getattr(wanted, name)!r}, and is for "
                f"{getattr(found, name)!r}; open the ledger of this data, with the words it "
                "was created with"
            )
    for name in ("unit", "neighbouring"):
        stated, kept = wanted.to_json()[name], found.to_json()[name]
        if stated != kept:
            raise LedgerForeignError(
                f"the ledger {path} must be opened with the {name} it was created with, {kept!r}, "
                f"and not {stated!r}: a budget of one unit and relation says nothing about "
                f"another; use the words that it was created with{way_out}"
            )
    return book.id


def way_to_other_words(path: Path, book: Book, anchors: AnchorFolder | None) -> str:
    """How to begin anew in other words, where nothing was released; empty where something was.

    Raises:
        LedgerRolledBackError: if the second place knows that it held more, or that another ledger
            lay here.
    """
    if len(book.entries) > 1 or book.id is None:
        return ""
    files = [path]
    if anchors is not None:
        anchors.check_same(path, book)
        anchors.check(book)
        files += anchors.files_about(path, book.id)
    return (
        ". It counts no release: if none was ever made under these words, and they are a mistake, "
        f"end every program that uses it, remove {', '.join(map(str, files))}, and open it again"
    )


def of_first_version(path: Path) -> LedgerForeignError:
    """The error of a ledger that is only read."""
    return LedgerForeignError(
        f"the ledger {path} must be of this version, and is of the first, which is only read; "
        "open or create a new ledger, and let it join this one (EarlierLedgers)"
    )
