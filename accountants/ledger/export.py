"""A ledger as one JSON object, for a run folder or a reader elsewhere, and how to check it."""

import json
from collections.abc import Mapping
from typing import Any

from accountants.histories import Events
from accountants.ledger.book import Book, read
from accountants.ledger.chain import Anchor, Entry, canonical_json, damaged
from accountants.ledger.identity import check_schema

_ENTRY_FIELDS = {"seq", "kind", "body", "previous", "digest"}


def export(book: Book) -> dict[str, object]:
    """The whole chain as a JSON object: schema, id, identity, entries with digests, and the head.

    What stands beside the entries is what entry 0 holds; a ledger of the first version has no id.
    """
    return {
        **_header(book),
        "entries": [entry.to_json() for entry in book.entries],
        "head": book.anchor().head,
    }


def verify_export(exported: Mapping[str, Any], anchor: Anchor | None = None) -> Anchor:
    """Recompute the chain of an export; its length and head if it holds.

    Args:
        exported: what `Ledger.export` returned, perhaps through JSON.
        anchor: if given, the export must continue the ledger it was taken from. Without one, an
            export that was cut at its end, or taken from an older copy, is whole.

    Raises:
        LedgerCorruptError: if anything was edited, removed or reordered.
        LedgerRolledBackError: if the export is older than the anchor, or of another history.
        UnsupportedAnalysisError: for a type of event that this version does not know.
    """
    book = book_of_export(exported)
    if anchor is not None:
        book.check_continues(anchor)
    return book.anchor()


def events_of_export(exported: Mapping[str, Any], run: str | None = None) -> Events:
    """All that counts as released by an export, or by one of its runs; verified first.

    Raises:
        LedgerCorruptError: as `verify_export`.
        UnsupportedAnalysisError: as `verify_export`.
    """
    return book_of_export(exported).events(run)


def book_of_export(exported: Mapping[str, Any]) -> Book:
    """What an export says: whose it is, its reservations and its commits; verified first.

    Raises:
        LedgerCorruptError: as `verify_export`.
        UnsupportedAnalysisError: as `verify_export`.
    """
    if not isinstance(exported, Mapping) or "schema" not in exported:
        raise damaged("an export must be an object with a 'schema'")
    check_schema(exported["schema"])
    if not isinstance(exported.get("entries"), list):
        raise damaged("an export must have a list of entries")
    book = read([_entry(value) for value in exported["entries"]])
    header = {name: exported[name] for name in exported if name not in ("entries", "head")}
    if header != _header(book) or exported.get("head") != book.anchor().head:
        raise damaged("the header or head of the export is not that of its entries")
    return book


def _header(book: Book) -> dict[str, object]:
    return dict(json.loads(book.entries[0].body))


def _entry(value: object) -> Entry:
    if not isinstance(value, Mapping) or set(value) != _ENTRY_FIELDS:
        raise damaged(f"an exported entry must have the fields {sorted(_ENTRY_FIELDS)}")
    try:
        body = canonical_json(value["body"])
    except (TypeError, ValueError, RecursionError) as error:
        raise damaged("the body of an exported entry is not JSON") from error
    return Entry(**{**value, "body": body})
